//! What the lab consists of: names, numbers and addresses, all from the prefixes reserved for documentation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The autonomous system of the upstream router.
pub(super) const ROUTER_ASN: u32 = 65000;

/// The Kubernetes namespace of every pod.
pub(super) const NAMESPACE: &str = "demo";

/// A wire from the router to a neighbour. Both ends are in the same /64 and the same /28.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// Both addresses of the router's end.
    pub(super) router: Pair,
    /// Both addresses of the neighbour's end.
    pub(super) neighbour: Pair,
}

/// One address of each family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) v6: Ipv6Addr,
    pub(super) v4: Ipv4Addr,
}

impl Pair {
    /// The address of a family.
    pub(super) fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V6 => self.v6.into(),
            Family::V4 => self.v4.into(),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V6,
    V4,
}

impl Family {
    /// Both, in the order flock shows them.
    pub(super) const ALL: [Self; 2] = [Self::V6, Self::V4];

    /// The family of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    /// The option of `ip` and `ping` that selects it.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::V6 => "-6",
            Self::V4 => "-4",
        }
    }

    /// Its number, as in "IPv6".
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V6 => 6,
            Self::V4 => 4,
        }
    }
}

/// A node of the cluster.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) asn: u32,
    pub(super) link: Link,
    pub(super) pool6: Ipv6Net,
    pub(super) pool4: Ipv4Net,
    pub(super) pods: [Pod; 4],
}

impl Node {
    /// The prefix the node announces in a family.
    pub(super) fn pool(&self, family: Family) -> IpNet {
        match family {
            Family::V6 => self.pool6.into(),
            Family::V4 => self.pool4.into(),
        }
    }

    /// An address of the pool that no pod has: IPv4 is handed out from the bottom, and a random IPv6
    /// identifier is this one once in 2^64 labs.
    pub(super) fn unassigned(&self, family: Family) -> IpAddr {
        match family {
            Family::V6 => Ipv6Addr::from_bits(self.pool6.network().to_bits() | 0xdead).into(),
            Family::V4 => Ipv4Addr::from_bits(self.pool4.broadcast().to_bits() - 1).into(),
        }
    }
}

/// A pod, and the families it asks for.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) name: &'static str,
    pub(super) ipv6: bool,
    pub(super) ipv4: bool,
}

impl Pod {
    const fn new(name: &'static str, ipv6: bool, ipv4: bool) -> Self {
        Self { name, ipv6, ipv4 }
    }

    /// Whether it asks for an address of a family.
    pub(super) fn wants(&self, family: Family) -> bool {
        match family {
            Family::V6 => self.ipv6,
            Family::V4 => self.ipv4,
        }
    }
}

/// The two nodes.
pub(super) const NODES: [Node; 2] = [
    Node {
        name: "node1",
        asn: 65101,
        link: link(1, 0),
        pool6: Ipv6Net::new_assert(documentation(0xf001, 0, 0), 64),
        pool4: Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 26),
        pods: [
            Pod::new("web-1", true, true),
            Pod::new("api-1", true, true),
            Pod::new("six-1", true, false),
            Pod::new("four-1", false, true),
        ],
    },
    Node {
        name: "node2",
        asn: 65102,
        link: link(2, 16),
        pool6: Ipv6Net::new_assert(documentation(0xf002, 0, 0), 64),
        pool4: Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 64), 26),
        pods: [
            Pod::new("web-2", true, true),
            Pod::new("api-2", true, true),
            Pod::new("six-2", true, false),
            Pod::new("four-2", false, true),
        ],
    },
];

/// Where the client hangs off the router.
pub(super) const CLIENT: Link = Link {
    router: Pair { v6: documentation(0xc, 0, 1), v4: Ipv4Addr::new(203, 0, 113, 1) },
    neighbour: Pair { v6: documentation(0xc, 0, 2), v4: Ipv4Addr::new(203, 0, 113, 2) },
};

/// Router and neighbours as `(name, link)`: the router's interface has the neighbour's name.
pub(super) fn links() -> impl Iterator<Item = (&'static str, Link)> {
    NODES.iter().map(|node| (node.name, node.link)).chain([("client", CLIENT)])
}

/// Every pod with its node.
pub(super) fn pods() -> impl Iterator<Item = (&'static Node, &'static Pod)> {
    NODES.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
}

/// The names of everything that has a namespace.
pub(super) fn elements() -> impl Iterator<Item = &'static str> {
    ["router"].into_iter().chain(links().map(|(name, _)| name)).chain(pods().map(|(_, pod)| pod.name))
}

/// `2001:db8:site:subnet::host`.
const fn documentation(site: u16, subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, site, subnet, 0, 0, 0, host)
}

/// `2001:db8:0:subnet::/64` and the /28 of 192.0.2.0/24 that starts at `offset`.
const fn link(subnet: u16, offset: u8) -> Link {
    Link {
        router: Pair { v6: documentation(0, subnet, 1), v4: Ipv4Addr::new(192, 0, 2, offset + 1) },
        neighbour: Pair { v6: documentation(0, subnet, 2), v4: Ipv4Addr::new(192, 0, 2, offset + 2) },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_address_is_reserved_for_documentation_and_used_once() {
        let reserved = ["2001:db8::/32", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]
            .map(|prefix| prefix.parse::<IpNet>().unwrap());
        let mut seen = BTreeSet::new();
        for (_, link) in links() {
            for address in Family::ALL.into_iter().flat_map(|f| [link.router.of(f), link.neighbour.of(f)]) {
                assert!(seen.insert(address), "{address} is used twice");
            }
        }
        for node in &NODES {
            for family in Family::ALL {
                assert!(node.pool(family).contains(&node.unassigned(family)));
                assert!(seen.insert(node.unassigned(family)));
            }
        }
        for address in seen {
            assert!(reserved.iter().any(|prefix| prefix.contains(&address)), "{address}");
        }
    }

    #[test]
    fn every_kind_of_pod_is_on_every_node_under_a_name_of_its_own() {
        let names: BTreeSet<_> = elements().collect();
        assert_eq!(names.len(), elements().count());
        for node in &NODES {
            let kinds: Vec<_> = node.pods.iter().map(|pod| (pod.ipv6, pod.ipv4)).collect();
            assert!(kinds.iter().filter(|kind| **kind == (true, true)).count() >= 2);
            assert!(kinds.contains(&(true, false)) && kinds.contains(&(false, true)));
        }
    }
}
