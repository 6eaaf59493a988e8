use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::pool::{Block, Target, address, embedded, number, targets};
use super::space::{Space, SplitMix64};
use super::{Addresses, Allocation, IpamError, Phase, PoolUsage, Request};
use crate::family::Family;
use crate::ids::AttachmentId;
use crate::ports::NetnsPath;
use crate::time::Timestamp;

/// The pools of a node, as [`NodeConfig`](crate::config::NodeConfig) checks them: those of a family do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pools {
    /// IPv6 pools, in the order to use them.
    pub v6: Vec<Ipv6Net>,
    /// IPv4 pools, in the order to use them.
    pub v4: Vec<Ipv4Net>,
}

/// The allocator: a value that one task owns. No address has two holders, whatever is called in whatever
/// order, and after an error every allocation is what it was.
#[derive(Debug, Clone)]
pub struct Ipam {
    pub(super) v6: Space,
    pub(super) v4: Space,
    pub(super) allocations: BTreeMap<AttachmentId, Allocation>,
    pub(super) generation: u64,
}

impl Default for Ipam {
    /// Without pools, and so without anything to hand out.
    fn default() -> Self {
        Self {
            v6: Space::new(Family::V6),
            v4: Space::new(Family::V4),
            allocations: BTreeMap::new(),
            generation: 0,
        }
    }
}

impl Ipam {
    /// Sets the pools and the node's own addresses, which no pod may get. Allocations stay as they are,
    /// those outside the new pools too.
    pub fn reconfigure(&mut self, pools: Pools, node: BTreeSet<IpAddr>) {
        let (v6, v4) = node.into_iter().partition(IpAddr::is_ipv6);
        self.v6.reconfigure(pools.v6, v6);
        self.v4.reconfigure(pools.v4, v4);
    }

    /// Decides on the addresses of an attachment and holds them, [pending](Phase::Pending). An attachment
    /// that already has an allocation gets that one, whatever its phase and whatever is asked for now.
    /// Both families or none: on an error nothing is held.
    ///
    /// `entropy` decides IPv6 interface identifiers; it should be fresh for every call.
    pub fn allocate(
        &mut self,
        request: &Request,
        now: Timestamp,
        entropy: u64,
    ) -> Result<Allocation, IpamError> {
        if let Some(existing) = self.allocations.get(&request.attachment) {
            return Ok(existing.clone());
        }
        self.expire(now);
        let (mut addresses, extra) = self.given(&request.given)?;
        let anycast = self.anycast(&request.anycast, &addresses, &extra)?;
        let mut entropy = SplitMix64::new(entropy);
        if addresses.v6.is_none()
            && let Some(mut targets) = targets(Family::V6, &request.v6, self.v6.pools())?
        {
            if let Some(embedding) = &request.embed {
                targets = embedded(embedding, &targets, &mut entropy)?;
            }
            if let IpAddr::V6(chosen) = self.choose(&self.v6, &targets, &anycast, &mut entropy)? {
                addresses.v6 = Some(chosen);
            }
        }
        if addresses.v4.is_none()
            && let Some(targets) = targets(Family::V4, &request.v4, self.v4.pools())?
            && let IpAddr::V4(chosen) = self.choose(&self.v4, &targets, &anycast, &mut entropy)?
        {
            addresses.v4 = Some(chosen);
        }
        if addresses.is_empty() {
            return Err(IpamError::NoFamily { attachment: request.attachment.clone() });
        }
        let allocation = Allocation {
            attachment: request.attachment.clone(),
            pod: request.pod.clone(),
            uid: request.uid.clone(),
            netns: request.netns.clone(),
            addresses,
            extra,
            anycast,
            phase: Phase::Pending,
        };
        self.record(allocation.clone());
        Ok(allocation)
    }

    /// Counts the changes of allocations; see [`Snapshot::generation`](super::Snapshot::generation).
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Marks an allocation as [committed](Phase::Committed); false when there is none.
    pub fn commit(&mut self, attachment: &AttachmentId) -> bool {
        let Some(allocation) = self.allocations.get_mut(attachment) else { return false };
        if allocation.phase != Phase::Committed {
            allocation.phase = Phase::Committed;
            self.generation += 1;
        }
        true
    }

    /// Records in which network namespace the pod is, where it holds addresses.
    pub fn locate(&mut self, attachment: &AttachmentId, netns: &NetnsPath) {
        let Some(allocation) = self.allocations.get_mut(attachment) else { return };
        if allocation.netns.as_ref() != Some(netns) {
            allocation.netns = Some(netns.clone());
            self.generation += 1;
        }
    }

    /// Ends an allocation; its addresses cool down from `now` on. `None` when there is none.
    pub fn release(&mut self, attachment: &AttachmentId, now: Timestamp) -> Option<Allocation> {
        self.expire(now);
        let allocation = self.allocations.remove(attachment)?;
        for address in allocation.held() {
            self.space_mut(address).cool(number(address), now);
        }
        for address in &allocation.anycast {
            let space = self.space_mut(*address);
            if space.unshare(number(*address)) {
                space.cool(number(*address), now);
            }
        }
        self.generation += 1;
        Some(allocation)
    }

    /// Records what is already so, from the kernel or a file: no pool, reservation or cooldown stands
    /// against it, only another holder does. Takes the place of an earlier record of the same attachment;
    /// addresses of that one that are not in the new one are free at once.
    pub fn adopt(&mut self, mut allocation: Allocation) -> Result<(), IpamError> {
        // What it has to itself it does not share.
        let own: Vec<IpAddr> = allocation.held().collect();
        allocation.anycast.retain(|address| !own.contains(address));
        if allocation.addresses.is_empty() {
            return Err(IpamError::NoFamily { attachment: allocation.attachment });
        }
        for address in allocation.held() {
            if let Some(holder) = self.holder(address).filter(|it| it.attachment != allocation.attachment) {
                let (holder, claimant) = (Box::new(holder.into()), Box::new((&allocation).into()));
                return Err(IpamError::Conflict { address, holder, claimant });
            }
        }
        if let Some((address, holder)) = self.mixed_up(&allocation) {
            let (holder, claimant) = (Box::new(holder.into()), Box::new((&allocation).into()));
            return Err(IpamError::Conflict { address, holder, claimant });
        }
        let earlier = self.allocations.get(&allocation.attachment);
        if earlier == Some(&allocation) {
            return Ok(());
        }
        let earlier = earlier.cloned();
        for address in earlier.iter().flat_map(Allocation::held) {
            self.space_mut(address).clear(number(address));
        }
        for address in earlier.iter().flat_map(|earlier| &earlier.anycast) {
            self.space_mut(*address).unshare(number(*address));
        }
        self.record(allocation);
        Ok(())
    }

    /// The allocation of an attachment.
    pub fn get(&self, attachment: &AttachmentId) -> Option<&Allocation> {
        self.allocations.get(attachment)
    }

    /// Every allocation, in the order of attachment IDs.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values()
    }

    /// Whose address it is.
    pub fn holder(&self, address: IpAddr) -> Option<&Allocation> {
        self.allocations.get(self.space(address).holder(number(address))?)
    }

    /// How full each pool is: IPv6 first, in the order configured.
    pub fn usage(&self, now: Timestamp) -> Vec<PoolUsage> {
        self.v6.usage(now).chain(self.v4.usage(now)).collect()
    }

    /// The addresses a pod brings along: the first of each family, and the rest. Changes nothing.
    fn given(&self, given: &[IpAddr]) -> Result<(Addresses, Vec<IpAddr>), IpamError> {
        let (mut addresses, mut extra) = (Addresses::default(), Vec::new());
        for address in given {
            let space = self.space(*address);
            let pool = space.pools().iter().find(|pool| pool.contains(number(*address)));
            if let Some(refusal) = self.refusal(*address, pool) {
                return Err(refusal);
            }
            match address {
                _ if addresses.iter().chain(extra.iter().copied()).any(|earlier| earlier == *address) => {}
                IpAddr::V6(first) if addresses.v6.is_none() => addresses.v6 = Some(*first),
                IpAddr::V4(first) if addresses.v4.is_none() => addresses.v4 = Some(*first),
                _ => extra.push(*address),
            }
        }
        Ok((addresses, extra))
    }

    /// The anycast addresses of a pod, none twice. That other pods have them too is the point of them; that
    /// one has it to itself, this one included, is not. Changes nothing.
    fn anycast(
        &self,
        asked: &[IpAddr],
        addresses: &Addresses,
        extra: &[IpAddr],
    ) -> Result<Vec<IpAddr>, IpamError> {
        let mut anycast = Vec::new();
        for address in asked {
            let pool = self.space(*address).pools().iter().find(|pool| pool.contains(number(*address)));
            match self.refusal(*address, pool) {
                None | Some(IpamError::Anycast { .. }) => {}
                Some(refusal) => return Err(refusal),
            }
            let own = addresses.contains(*address) || extra.contains(address);
            if !own && !anycast.contains(address) {
                anycast.push(*address);
            }
        }
        Ok(anycast)
    }

    /// An address that one attachment would have to itself and another one shares, and the other one.
    fn mixed_up(&self, allocation: &Allocation) -> Option<(IpAddr, &Allocation)> {
        let others = || self.allocations.values().filter(|it| it.attachment != allocation.attachment);
        let shared = allocation.held().filter(|address| self.space(*address).is_shared(number(*address)));
        let shared =
            shared.filter_map(|address| Some((address, others().find(|it| it.anycast.contains(&address))?)));
        let held = allocation.anycast.iter().filter_map(|address| Some((*address, self.holder(*address)?)));
        let held = held.filter(|(_, holder)| holder.attachment != allocation.attachment);
        shared.chain(held).next()
    }

    /// Why a pod cannot have this very address to itself.
    fn refusal(&self, address: IpAddr, pool: Option<&Block>) -> Option<IpamError> {
        if let Some(reserved) = pool.and_then(|pool| pool.reserved(number(address))) {
            return Some(IpamError::Reserved { address, why: reserved.why });
        }
        if self.space(address).is_node_address(number(address)) {
            return Some(IpamError::Reserved { address, why: "is an address of this node" });
        }
        if self.space(address).is_shared(number(address)) {
            let holder = self.allocations.values().find(|it| it.anycast.contains(&address))?;
            return Some(IpamError::Anycast { address, holder: holder.into() });
        }
        self.holder(address).map(|holder| IpamError::Held { address, holder: holder.into() })
    }

    /// An address of one family from these ranges, none that the pod is to share. Changes nothing.
    fn choose(
        &self,
        space: &Space,
        targets: &[Target<'_>],
        anycast: &[IpAddr],
        entropy: &mut SplitMix64,
    ) -> Result<IpAddr, IpamError> {
        let family = space.family();
        let of_family = anycast.iter().filter(|address| Family::of(**address) == family);
        let avoid: Vec<u128> = of_family.map(|address| number(*address)).collect();
        if let Some(found) = space.find(targets, &avoid, entropy) {
            return Ok(address(family, found));
        }
        // Nothing was found: say why as closely as possible.
        if let [target] = targets
            && let Some(pinned) = target.only()
        {
            let address = address(family, pinned);
            if let Some(refusal) = self.refusal(address, Some(target.pool)) {
                return Err(refusal);
            }
            if avoid.contains(&pinned) {
                return Err(IpamError::Reserved { address, why: "is an anycast address of the same pod" });
            }
        }
        let ranges = targets.iter().map(|target| target.range.net).collect();
        if !targets.iter().any(|target| space.usable(target)) {
            return Err(IpamError::Unusable { family, ranges });
        }
        let in_use = targets.iter().map(|target| space.held_in(&target.range)).sum();
        let cooling = targets.iter().map(|target| space.cooling_in(&target.range)).sum();
        Err(IpamError::Exhausted { family, ranges, in_use, cooling })
    }

    fn record(&mut self, allocation: Allocation) {
        for address in allocation.held() {
            self.space_mut(address).hold(number(address), &allocation.attachment);
        }
        for address in &allocation.anycast {
            self.space_mut(*address).share(number(*address));
        }
        self.allocations.insert(allocation.attachment.clone(), allocation);
        self.generation += 1;
    }

    fn expire(&mut self, now: Timestamp) {
        self.v6.expire(now);
        self.v4.expire(now);
    }

    fn space(&self, address: IpAddr) -> &Space {
        match Family::of(address) {
            Family::V6 => &self.v6,
            Family::V4 => &self.v4,
        }
    }

    pub(super) fn space_mut(&mut self, address: IpAddr) -> &mut Space {
        match Family::of(address) {
            Family::V6 => &mut self.v6,
            Family::V4 => &mut self.v4,
        }
    }
}
