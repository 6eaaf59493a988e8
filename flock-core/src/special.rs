//! Addresses that are neither a pod's nor a router's, from the IANA special-purpose registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::family::Family;

pub(crate) const LINK_LOCAL: &str = "link-local";
pub(crate) const MAPPED: &str = "IPv4-mapped";

const SPECIAL6: [(&str, Ipv6Net); 5] = [
    ("unspecified", Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)),
    ("loopback", Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    (MAPPED, Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96)),
    (LINK_LOCAL, Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
    ("multicast", Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
];
const SPECIAL4: [(&str, Ipv4Net); 5] = [
    ("unspecified", Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8)),
    ("loopback", Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    (LINK_LOCAL, Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
    ("multicast", Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
    ("broadcast", Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
];

/// The special ranges of a family, each with what it is.
pub(crate) fn special_ranges(family: Family) -> impl Iterator<Item = (&'static str, IpNet)> {
    let v6 = SPECIAL6.into_iter().map(|(what, range)| (what, IpNet::from(range)));
    let v4 = SPECIAL4.into_iter().map(|(what, range)| (what, IpNet::from(range)));
    v6.chain(v4).filter(move |(_, range)| Family::of(range.addr()) == family)
}

/// The special range an address lies in, if any.
pub(crate) fn special_range_of(address: IpAddr) -> Option<(&'static str, IpNet)> {
    special_ranges(Family::of(address)).find(|(_, range)| range.contains(&address))
}

/// Whether two prefixes share an address.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
