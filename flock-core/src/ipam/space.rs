use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::pool::{Block, Target, address, number};
use super::range::RangeSet;
use super::{COOLDOWN, PoolUsage};
use crate::family::Family;
use crate::ids::AttachmentId;
use crate::time::Timestamp;

/// Random tries before an exhaustive search, and the host bits up to which there are none.
const TRIES: usize = 16;
const SMALL: u8 = 16;

/// The addresses of one family: who holds them, which are cooling, which the node itself has.
///
/// Held, shared and cooling addresses are in `taken` as well, so that the search for a free one looks in one
/// place. Reserved addresses are in no set: they are a rule of the pool.
#[derive(Debug, Clone)]
pub(super) struct Space {
    family: Family,
    pools: Vec<Block>,
    node: BTreeSet<u128>,
    holders: BTreeMap<u128, AttachmentId>,
    /// Anycast addresses, and how many pods have each.
    shared: BTreeMap<u128, usize>,
    cooling: BTreeMap<u128, Timestamp>,
    by_age: BTreeSet<(Timestamp, u128)>,
    taken: RangeSet,
}

impl Space {
    pub(super) fn new(family: Family) -> Self {
        Self {
            family,
            pools: Vec::new(),
            node: BTreeSet::new(),
            holders: BTreeMap::new(),
            shared: BTreeMap::new(),
            cooling: BTreeMap::new(),
            by_age: BTreeSet::new(),
            taken: RangeSet::default(),
        }
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn pools(&self) -> &[Block] {
        &self.pools
    }

    /// Sets the pools and the node's own addresses, both of this family.
    pub(super) fn reconfigure<N: Into<IpNet>>(&mut self, pools: Vec<N>, node: BTreeSet<IpAddr>) {
        self.pools = pools.into_iter().map(|net| Block::new(net.into())).collect();
        self.node = node.into_iter().map(number).collect();
    }

    pub(super) fn holder(&self, number: u128) -> Option<&AttachmentId> {
        self.holders.get(&number)
    }

    pub(super) fn is_node_address(&self, number: u128) -> bool {
        self.node.contains(&number)
    }

    pub(super) fn hold(&mut self, number: u128, attachment: &AttachmentId) {
        self.wake(number);
        self.taken.insert(number);
        self.holders.insert(number, attachment.clone());
    }

    /// One more pod has this anycast address.
    pub(super) fn share(&mut self, number: u128) {
        self.wake(number);
        self.taken.insert(number);
        *self.shared.entry(number).or_default() += 1;
    }

    /// One pod less has it; without the last one nobody has. True then.
    pub(super) fn unshare(&mut self, number: u128) -> bool {
        let Some(count) = self.shared.get_mut(&number) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.shared.remove(&number);
        self.taken.remove(number);
        true
    }

    pub(super) fn is_shared(&self, number: u128) -> bool {
        self.shared.contains_key(&number)
    }

    /// Takes an address away from its holder, to cool down from `since` on.
    pub(super) fn cool(&mut self, number: u128, since: Timestamp) {
        self.clear(number);
        self.taken.insert(number);
        self.cooling.insert(number, since);
        self.by_age.insert((since, number));
    }

    /// Makes an address free at once.
    pub(super) fn clear(&mut self, number: u128) {
        self.wake(number);
        self.holders.remove(&number);
        self.taken.remove(number);
    }

    fn wake(&mut self, number: u128) {
        if let Some(since) = self.cooling.remove(&number) {
            self.by_age.remove(&(since, number));
        }
    }

    pub(super) fn is_cooling(&self, number: u128) -> bool {
        self.cooling.contains_key(&number)
    }

    /// Cooling addresses, oldest first.
    pub(super) fn cooling(&self) -> impl Iterator<Item = (Timestamp, IpAddr)> {
        self.by_age.iter().map(|(since, number)| (*since, address(self.family, *number)))
    }

    /// Frees what has cooled down by `now`.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some((since, number)) = self.by_age.first().copied()
            && since.after(COOLDOWN) <= now
        {
            self.clear(number);
        }
    }

    /// An address of the first target that has a free one; else the one that has cooled longest. None to
    /// `avoid`.
    pub(super) fn find(
        &self,
        targets: &[Target<'_>],
        avoid: &[u128],
        entropy: &mut SplitMix64,
    ) -> Option<u128> {
        targets.iter().find_map(|target| self.free(target, avoid, entropy)).or_else(|| {
            let fits = |target: &Target<'_>, number| {
                target.range.contains(number)
                    && self.barred_until(target, number).is_none()
                    && !avoid.contains(&number)
            };
            let fits_any = |number: &u128| targets.iter().any(|target| fits(target, *number));
            self.by_age.iter().map(|(_, number)| *number).find(fits_any)
        })
    }

    fn free(&self, target: &Target<'_>, avoid: &[u128], entropy: &mut SplitMix64) -> Option<u128> {
        let Block { first, last, .. } = target.range;
        let blocked = |number| {
            let avoided = || avoid.contains(&number).then_some(number);
            self.taken.run_end(number).or_else(|| self.barred_until(target, number)).or_else(avoided)
        };
        if self.family == Family::V4 {
            return lowest(first, last, blocked);
        }
        // A prefix: what varies between its first and its last address is exactly the host part.
        let mut random = || first | (entropy.next_u128() & (last - first));
        if target.range.host_bits() > SMALL
            && let Some(hit) = (0..TRIES).map(|_| random()).find(|number| blocked(*number).is_none())
        {
            return Some(hit);
        }
        let middle = random();
        lowest(middle, last, blocked).or_else(|| lowest(first, middle.checked_sub(1)?, blocked))
    }

    /// The end of the run of numbers that `number` is in and that no pod may have, whoever holds them;
    /// `None` when a pod may have it.
    fn barred_until(&self, target: &Target<'_>, number: u128) -> Option<u128> {
        let node = || self.node.contains(&number).then_some(number);
        target.reserved(number).map(|reserved| reserved.until).or_else(node)
    }

    /// Whether the target has a number that a pod may have, be it in use or not.
    pub(super) fn usable(&self, target: &Target<'_>) -> bool {
        let Block { first, last, .. } = target.range;
        lowest(first, last, |number| self.barred_until(target, number)).is_some()
    }

    /// Addresses of a block that pods have, on their own or shared.
    pub(super) fn held_in(&self, block: &Block) -> u64 {
        let shared = self.shared.range(block.first..=block.last).count();
        count(self.holders.range(block.first..=block.last).count() + shared)
    }

    pub(super) fn cooling_in(&self, block: &Block) -> u64 {
        count(self.cooling.range(block.first..=block.last).count())
    }

    pub(super) fn usage(&self, now: Timestamp) -> impl Iterator<Item = PoolUsage> {
        self.pools.iter().map(move |pool| {
            let cooling = self.cooling.range(pool.first..=pool.last);
            let node = self.node.range(pool.first..=pool.last).filter(|it| pool.reserved(**it).is_none());
            PoolUsage {
                cidr: pool.net,
                allocated: self.held_in(pool),
                cooling: count(cooling.filter(|(_, since)| since.after(COOLDOWN) > now).count()),
                // A capacity that stands for "more" is not worth correcting.
                capacity: match pool.capacity() {
                    u64::MAX => u64::MAX,
                    capacity => capacity.saturating_sub(count(node.count())),
                },
            }
        })
    }
}

/// The lowest number from `first` to `last` that is not blocked. `blocked` gives the end of the blocked run
/// a number is in, so that each run costs one step.
fn lowest(first: u128, last: u128, blocked: impl Fn(u128) -> Option<u128>) -> Option<u128> {
    let mut candidate = first;
    while candidate <= last {
        match blocked(candidate) {
            None => return Some(candidate),
            Some(until) => candidate = until.checked_add(1)?,
        }
    }
    None
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// A sequence of well-mixed numbers from one seed: Vigna's `SplitMix64`, public domain.
#[derive(Debug, Clone)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn next_u128(&mut self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_sequence() {
        let mut sequence = SplitMix64::new(1_234_567);
        let first: [u64; 3] = std::array::from_fn(|_| sequence.next_u64());
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
