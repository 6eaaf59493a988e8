use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::space::SplitMix64;
use super::{IpamError, Want};
use crate::family::Family;
use crate::iid::Embedding;

/// A prefix, and the numbers of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) net: IpNet,
    pub(super) first: u128,
    pub(super) last: u128,
}

/// An address that a pool never hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved {
    /// The last number of the reserved run it is in; may lie past the end of the pool.
    pub(super) until: u128,
    /// The rest of a sentence that starts with the address.
    pub(super) why: &'static str,
}

/// Interface identifiers, the low 64 bits of an IPv6 address, that no host may have: the IANA registry
/// "Reserved IPv6 Interface Identifiers" (RFC 5453).
const RESERVED_IIDS: [(u64, u64, &str); 3] = [
    (0, 0, "is the subnet-router anycast address (RFC 4291)"),
    (0x0200_5eff_fe00_0000, 0x0200_5eff_feff_ffff, "has a reserved interface identifier (RFC 5453)"),
    (0xfdff_ffff_ffff_ff80, 0xfdff_ffff_ffff_ffff, "is a reserved subnet anycast address (RFC 2526)"),
];

impl Block {
    pub(super) fn new(net: IpNet) -> Self {
        let net = net.trunc();
        Self { net, first: number(net.network()), last: number(net.broadcast()) }
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Bits of an address that this prefix leaves open.
    pub(super) fn host_bits(&self) -> u8 {
        self.net.max_prefix_len() - self.net.prefix_len()
    }

    /// Whether this pool reserves `number`, one of its own. A rule, not a list: a /48 has 65,536 times the
    /// reserved identifiers.
    pub(super) fn reserved(&self, number: u128) -> Option<Reserved> {
        let (until, why) = match self.net {
            IpNet::V6(_) => {
                let iid = low64(number);
                match reserved_iid(iid) {
                    Some((last, why)) => (number + u128::from(last - iid), why),
                    None if number == self.first => (number, "is the all-zero address of the pool"),
                    None => return None,
                }
            }
            IpNet::V4(_) if number == self.first => (number, "is the network address of the pool"),
            IpNet::V4(_) if number == self.last => (number, "is the last address of the pool"),
            IpNet::V4(_) if number == self.first + 1 => (number, "is the gateway address of the pool"),
            IpNet::V4(_) => return None,
        };
        Some(Reserved { until, why })
    }

    /// How many addresses can be handed out; [`u64::MAX`] where there are more than that.
    pub(super) fn capacity(&self) -> u64 {
        let Some(size) = (self.last - self.first).checked_add(1) else { return u64::MAX };
        let reserved = match self.net {
            IpNet::V4(_) => 3,
            IpNet::V6(_) if self.host_bits() >= 64 => (size >> 64) * reserved_iids(0, u64::MAX),
            IpNet::V6(_) => {
                let zero = low64(self.first);
                reserved_iids(zero, low64(self.last)) + u128::from(reserved_iid(zero).is_none())
            }
        };
        u64::try_from(size.saturating_sub(reserved)).unwrap_or(u64::MAX)
    }
}

fn reserved_iid(iid: u64) -> Option<(u64, &'static str)> {
    let hit = RESERVED_IIDS.iter().find(|(first, last, _)| (*first..=*last).contains(&iid));
    hit.map(|(_, last, why)| (*last, *why))
}

/// How many identifiers from `first` to `last` are reserved.
fn reserved_iids(first: u64, last: u64) -> u128 {
    let overlap = |(from, to, _): &(u64, u64, &str)| {
        let (from, to) = (*from.max(&first), *to.min(&last));
        if from <= to { u128::from(to - from) + 1 } else { 0 }
    };
    RESERVED_IIDS.iter().map(overlap).sum()
}

/// Where to look for an address: a range that lies in a pool, or is all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) pool: &'a Block,
    pub(super) range: Block,
}

impl<'a> Target<'a> {
    fn all_of(pool: &'a Block) -> Self {
        Self { pool, range: *pool }
    }

    /// The number of this range if it has but one: a pinned address.
    pub(super) fn only(&self) -> Option<u128> {
        (self.range.first == self.range.last).then_some(self.range.first)
    }

    /// Whether the pool reserves `number`, one of this range.
    pub(super) fn reserved(&self, number: u128) -> Option<Reserved> {
        self.pool.reserved(number)
    }
}

/// Where a request may get an address from, in the order to try; `None` when it wants none.
pub(super) fn targets<'a, N: Copy + Into<IpNet>>(
    family: Family,
    want: &Want<N>,
    pools: &'a [Block],
) -> Result<Option<Vec<Target<'a>>>, IpamError> {
    let wanted: Vec<Block> = match want {
        Want::No => return Ok(None),
        _ if pools.is_empty() => return Err(IpamError::NoPool { family }),
        Want::Any => return Ok(Some(pools.iter().map(Target::all_of).collect())),
        Want::Within(nets) => nets.iter().map(|net| Block::new((*net).into())).collect(),
    };
    let matched = wanted.iter().flat_map(|range| pools.iter().map(move |pool| (range, pool))).find_map(
        |(range, pool)| {
            if range.net.contains(&pool.net) {
                Some(Target::all_of(pool))
            } else {
                pool.net.contains(&range.net).then_some(Target { pool, range: *range })
            }
        },
    );
    match matched {
        Some(target) => Ok(Some(vec![target])),
        None => Err(IpamError::NoMatch {
            family,
            wanted: wanted.iter().map(|block| block.net).collect(),
            pools: pools.iter().map(|block| block.net).collect(),
        }),
    }
}

/// The parts of these ranges whose addresses carry an identity. Those of one range come in random order,
/// since the bits that tell them apart are meant to be random. A range without room is passed over while
/// another one has some.
pub(super) fn embedded<'a>(
    embedding: &Embedding,
    targets: &[Target<'a>],
    entropy: &mut SplitMix64,
) -> Result<Vec<Target<'a>>, IpamError> {
    let (mut parts, mut refused) = (Vec::new(), None);
    for Target { pool, range } in targets {
        let IpNet::V6(net) = range.net else { continue };
        match embedding.ranges(net) {
            Ok(mut ranges) => {
                // At most eight ranges.
                let turn = entropy.next_u64().to_le_bytes()[0];
                let turn = usize::from(turn) % ranges.len().max(1);
                ranges.rotate_left(turn);
                parts.extend(ranges.into_iter().map(|net| Target { pool, range: Block::new(net.into()) }));
            }
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if parts.is_empty() => Err(error.into()),
        _ => Ok(parts),
    }
}

/// An address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V6(address) => address.to_bits(),
        IpAddr::V4(address) => address.to_bits().into(),
    }
}

/// The inverse of [`number`].
pub(super) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V6 => Ipv6Addr::from_bits(number).into(),
        Family::V4 => {
            let [.., a, b, c, d] = number.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
    }
}

fn low64(number: u128) -> u64 {
    (number & 0xffff_ffff_ffff_ffff) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(net: &str) -> Block {
        Block::new(net.parse().unwrap())
    }

    #[test]
    fn capacity_counts_what_is_not_reserved() {
        // The registry reserves 1 + 2^24 + 128 identifiers of each /64.
        let slash64 = u64::MAX - (1 + (1 << 24) + 128) + 1;
        let table = [
            ("192.0.2.0/24", 253),
            ("192.0.2.0/29", 5),
            ("192.0.2.0/30", 1),
            ("192.0.2.0/31", 0),
            ("192.0.2.0/32", 0),
            ("0.0.0.0/0", (1 << 32) - 3),
            ("2001:db8::/64", slash64),
            ("2001:db8::/63", u64::MAX),
            ("::/0", u64::MAX),
            ("2001:db8::/112", 65535),
            ("2001:db8::1:0/112", 65535),
            ("2001:db8::/127", 1),
            ("2001:db8::2/127", 1),
            ("2001:db8::/128", 0),
            ("2001:db8::7/128", 0),
            ("2001:db8::200:5eff:fe00:0/104", 0),
            ("2001:db8::200:5eff:fe00:0/103", 1 << 24),
            ("2001:db8::fdff:ffff:ffff:ff80/121", 0),
            ("2001:db8::fdff:ffff:ffff:ff00/120", 127),
        ];
        for (net, expected) in table {
            assert_eq!(block(net).capacity(), expected, "{net}");
        }
    }

    #[test]
    fn small_pools_reserve_what_capacity_says() {
        for net in ["192.0.2.0/28", "192.0.2.0/30", "2001:db8::/120", "2001:db8::fdff:ffff:ffff:ff00/120"] {
            let pool = block(net);
            let free = (pool.first..=pool.last).filter(|number| pool.reserved(*number).is_none()).count();
            assert_eq!(u64::try_from(free).unwrap(), pool.capacity(), "{net}");
        }
    }

    #[test]
    fn reserved_runs_end_where_the_registry_says() {
        let table = [
            ("2001:db8::", Some("2001:db8::")),
            ("2001:db8::1", None),
            ("2001:db8:0:1::", Some("2001:db8:0:1::")),
            ("2001:db8::200:5eff:fdff:ffff", None),
            ("2001:db8::200:5eff:fe00:0", Some("2001:db8::200:5eff:feff:ffff")),
            ("2001:db8:0:9:200:5eff:fe12:3456", Some("2001:db8:0:9:200:5eff:feff:ffff")),
            ("2001:db8::200:5eff:ff00:0", None),
            ("2001:db8::fdff:ffff:ffff:ff7f", None),
            ("2001:db8::fdff:ffff:ffff:ff80", Some("2001:db8::fdff:ffff:ffff:ffff")),
            ("2001:db8::fe00:0:0:0", None),
            ("2001:db8::ffff:ffff:ffff:ffff", None),
        ];
        let pool = block("2001:db8::/48");
        for (text, expected) in table {
            let reserved = pool.reserved(number(text.parse().unwrap()));
            let until = reserved.map(|it| address(Family::V6, it.until));
            assert_eq!(until, expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn prefixes_match_pools_in_the_order_of_the_annotation() {
        let pools = ["192.0.2.0/25", "198.51.100.0/24"].map(block);
        let table: [(&[&str], Option<&str>); 9] = [
            (&["192.0.2.0/25"], Some("192.0.2.0/25")),   // equal
            (&["192.0.2.0/24"], Some("192.0.2.0/25")),   // supernet
            (&["192.0.2.64/27"], Some("192.0.2.64/27")), // subnet
            (&["192.0.2.77/27"], Some("192.0.2.64/27")), // host bits
            (&["203.0.113.0/24", "198.51.100.0/25"], Some("198.51.100.0/25")), // disjoint moves on
            (&["198.51.100.9/32", "192.0.2.0/25"], Some("198.51.100.9/32")),
            (&["0.0.0.0/0"], Some("192.0.2.0/25")), // the first of several pools
            (&["203.0.113.0/24", "192.0.2.128/25"], None),
            (&[], None),
        ];
        for (wanted, expected) in table {
            let want =
                Want::Within(wanted.iter().map(|net| net.parse::<ipnet::Ipv4Net>().unwrap()).collect());
            let found = targets(Family::V4, &want, &pools).ok().flatten();
            let ranges =
                found.map(|found| found.iter().map(|it| it.range.net.to_string()).collect::<Vec<_>>());
            assert_eq!(ranges, expected.map(|net| vec![net.to_owned()]), "{wanted:?}");
        }
    }
}
