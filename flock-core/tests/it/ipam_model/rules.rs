//! The rules of the contract, as slow and as plain as can be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ids::AttachmentId;
use flock_core::iid::Embedding;
use flock_core::ipam::{Addresses, Allocation, Phase, Pools, Want};
use ipnet::IpNet;

/// Every address of a prefix.
pub(super) fn all(net: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match net {
        IpNet::V6(net) => {
            let bits = net.network().to_bits()..=net.broadcast().to_bits();
            Box::new(bits.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))))
        }
        IpNet::V4(net) => {
            let bits = net.network().to_bits()..=net.broadcast().to_bits();
            Box::new(bits.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))))
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) addresses: Addresses,
    pub(super) extra: Vec<IpAddr>,
    pub(super) anycast: Vec<IpAddr>,
    pub(super) phase: Phase,
}

impl Held {
    pub(super) fn of(allocation: &Allocation) -> Self {
        let Allocation { addresses, extra, anycast, phase, .. } = allocation.clone();
        Self { addresses, extra, anycast, phase }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(self.extra.iter().copied())
    }
}

/// What an allocator should know.
#[derive(Default)]
pub(super) struct Model {
    pub(super) pools: Pools,
    pub(super) node: BTreeSet<IpAddr>,
    pub(super) held: BTreeMap<AttachmentId, Held>,
    pub(super) released: BTreeMap<IpAddr, u64>,
    pub(super) now: u64,
}

impl Model {
    pub(super) fn holder(&self, address: IpAddr) -> Option<&AttachmentId> {
        self.held
            .iter()
            .find(|(_, held)| held.all().any(|it| it == address))
            .map(|(attachment, _)| attachment)
    }

    pub(super) fn shared(&self, address: IpAddr) -> bool {
        self.held.values().any(|held| held.anycast.contains(&address))
    }

    pub(super) fn cools(&self, address: IpAddr) -> bool {
        self.released.get(&address).is_some_and(|since| since + 30_000 > self.now)
    }

    pub(super) fn reserved(pool: IpNet, address: IpAddr) -> bool {
        let network_or_last = address == pool.network() || address == pool.broadcast();
        match address {
            IpAddr::V4(v4) => {
                network_or_last || pool.network() == IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() - 1))
            }
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.segments();
                address == pool.network()
                    || [a, b, c, d] == [0; 4]
                    || (a, b, c >> 8) == (0x0200, 0x5eff, 0x00fe)
                    || (a, b, c) == (0xfdff, 0xffff, 0xffff) && d >= 0xff80
            }
        }
    }

    /// The pools and ranges a request may use, in order; `None` when nothing matches.
    pub(super) fn ranges<N: Copy + Into<IpNet>>(pools: &[N], want: &Want<N>) -> Option<Vec<(IpNet, IpNet)>> {
        let pools: Vec<IpNet> = pools.iter().map(|net| (*net).into()).collect();
        match want {
            Want::No => Some(vec![]),
            Want::Any => (!pools.is_empty()).then(|| pools.iter().map(|pool| (*pool, *pool)).collect()),
            Want::Within(nets) => {
                for net in nets {
                    let net: IpNet = (*net).into();
                    for pool in &pools {
                        if net == *pool || net.contains(pool) {
                            return Some(vec![(*pool, *pool)]);
                        }
                        if pool.contains(&net) {
                            return Some(vec![(*pool, net)]);
                        }
                    }
                }
                None
            }
        }
    }

    /// The first given address of each family, and the rest, each once; or the label of the refusal.
    pub(super) fn expect_given(&self, given: &[IpAddr]) -> Result<(Addresses, Vec<IpAddr>), &'static str> {
        let (mut addresses, mut extra) = (Addresses::default(), vec![]);
        for address in given {
            if self.never(*address) {
                return Err("address_reserved");
            }
            if self.holder(*address).is_some() {
                return Err("address_held");
            }
            if self.shared(*address) {
                return Err("address_shared");
            }
            match address {
                _ if addresses.contains(*address) || extra.contains(address) => {}
                IpAddr::V6(v6) if addresses.v6.is_none() => addresses.v6 = Some(*v6),
                IpAddr::V4(v4) if addresses.v4.is_none() => addresses.v4 = Some(*v4),
                _ => extra.push(*address),
            }
        }
        Ok((addresses, extra))
    }

    /// The addresses to share, each once and none that is given; or the label of the refusal.
    pub(super) fn expect_anycast(
        &self,
        anycast: &[IpAddr],
        given: &[IpAddr],
    ) -> Result<Vec<IpAddr>, &'static str> {
        let mut expected = vec![];
        for address in anycast {
            if self.never(*address) {
                return Err("address_reserved");
            }
            if self.holder(*address).is_some() {
                return Err("address_held");
            }
            if !given.contains(address) && !expected.contains(address) {
                expected.push(*address);
            }
        }
        Ok(expected)
    }

    /// Whether no pod may have it, shared or not.
    pub(super) fn never(&self, address: IpAddr) -> bool {
        let v6 = self.pools.v6.iter().map(|net| IpNet::V6(*net));
        let v4 = self.pools.v4.iter().map(|net| IpNet::V4(*net));
        let mut pools = v6.chain(v4).filter(|pool| pool.contains(&address));
        pools.any(|pool| Self::reserved(pool, address)) || self.node.contains(&address)
    }

    /// What the allocator may answer for one family, or the label of its refusal.
    pub(super) fn expect<N: Copy + Into<IpNet>>(
        &self,
        pools: &[N],
        want: &Want<N>,
        embed: Option<&Embedding>,
        anycast: &[IpAddr],
    ) -> Result<Option<Choice>, &'static str> {
        if matches!(want, Want::No) {
            return Ok(None);
        }
        let none = if pools.is_empty() { "no_pool" } else { "no_pool_matches" };
        let ranges = Self::ranges(pools, want).ok_or(none)?;
        let pinned = ranges.iter().all(|(_, range)| range.prefix_len() == range.max_prefix_len());
        let carries = |range: IpNet, address: IpAddr| match (embed, range, address) {
            (Some(embed), IpNet::V6(range), IpAddr::V6(address)) => embed.matches(address, range).ok(),
            _ => Some(true),
        };
        if ranges.iter().all(|(_, range)| carries(*range, range.addr()).is_none()) {
            return Err("no_room_to_embed");
        }
        let usable = |(pool, range): &(IpNet, IpNet)| -> Vec<IpAddr> {
            let fits = |it: &IpAddr| {
                !Self::reserved(*pool, *it) && !self.node.contains(it) && carries(*range, *it) == Some(true)
            };
            all(*range).filter(fits).collect()
        };
        let usable: Vec<Vec<IpAddr>> = ranges.iter().map(usable).collect();
        if usable.iter().all(Vec::is_empty) {
            return Err(if pinned { "address_reserved" } else { "pool_unusable" });
        }
        let unheld = |it: &IpAddr| self.holder(*it).is_none() && !self.shared(*it);
        let unheld = |it: &IpAddr| unheld(it) && !anycast.contains(it);
        let free = |addresses: &Vec<IpAddr>| -> BTreeSet<IpAddr> {
            addresses.iter().copied().filter(|it| unheld(it) && !self.cools(*it)).collect()
        };
        if let Some(free) = usable.iter().map(free).find(|free| !free.is_empty()) {
            return Ok(Some(match free.first() {
                Some(lowest @ IpAddr::V4(_)) => Choice::Exactly(*lowest),
                _ => Choice::OneOf(free),
            }));
        }
        let resting = usable.iter().flatten().copied().filter(unheld);
        let oldest = resting.min_by_key(|it| (self.released[it], *it));
        let pin = usable.iter().flatten().next().copied().filter(|_| pinned);
        oldest.map(|it| Some(Choice::Exactly(it))).ok_or(match pin {
            Some(pin) if self.holder(pin).is_some() => "address_held",
            Some(pin) if self.shared(pin) => "address_shared",
            Some(_) => "address_reserved", // by the pod itself
            None => "pool_exhausted",
        })
    }

    pub(super) fn usage(&self) -> Vec<(IpNet, u64, u64, u64)> {
        let v6 = self.pools.v6.iter().map(|net| IpNet::V6(*net));
        let v4 = self.pools.v4.iter().map(|net| IpNet::V4(*net));
        let count = |it: usize| u64::try_from(it).unwrap();
        v6.chain(v4)
            .map(|pool| {
                let anycast = self.held.values().flat_map(|it| it.anycast.iter().copied());
                let held = self.held.values().flat_map(Held::all).chain(anycast);
                let held = held.filter(|it| pool.contains(it)).collect::<BTreeSet<_>>().len();
                let cooling =
                    self.released.keys().filter(|it| pool.contains(*it) && self.cools(**it)).count();
                let capacity = all(pool).filter(|it| !Self::reserved(pool, *it) && !self.node.contains(it));
                let capacity = capacity.count();
                (pool, count(held), count(cooling), count(capacity))
            })
            .collect()
    }
}

#[derive(Debug)]
pub(super) enum Choice {
    Exactly(IpAddr),
    OneOf(BTreeSet<IpAddr>),
}

impl Choice {
    pub(super) fn allows(choice: Option<&Self>, given: Option<IpAddr>) -> bool {
        match (choice, given) {
            (None, None) => true,
            (Some(Self::Exactly(expected)), Some(given)) => *expected == given,
            (Some(Self::OneOf(free)), Some(given)) => free.contains(&given),
            _ => false,
        }
    }
}
