//! What the lab consists of: names, numbers and addresses, all from the prefixes reserved for documentation.

use std::fmt;
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

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.v6, self.v4)
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
    pub(super) pods: &'static [Pod],
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

/// A pod, and what it asks for.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) name: &'static str,
    /// Its annotations, without the prefix.
    pub(super) annotations: &'static [(&'static str, &'static str)],
    pub(super) ipv6: Asks,
    pub(super) ipv4: Asks,
}

/// What a pod asks for in a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// No address.
    Nothing,
    /// One of its node's pool.
    OfPool,
    /// This very address.
    Exactly(IpAddr),
}

impl Asks {
    /// Whether `given` is what was asked for.
    pub(super) fn is_met_by(self, given: Option<IpAddr>, pool: IpNet) -> bool {
        match self {
            Self::Nothing => given.is_none(),
            Self::OfPool => given.is_some_and(|address| pool.contains(&address)),
            Self::Exactly(address) => given == Some(address),
        }
    }
}

impl Pod {
    const fn dual(name: &'static str) -> Self {
        Self { name, annotations: &[], ipv6: Asks::OfPool, ipv4: Asks::OfPool }
    }

    /// One of those that share an address.
    const fn dns(name: &'static str) -> Self {
        Self { annotations: &[(ANYCAST, SHARED_TEXT)], ..Self::dual(name) }
    }

    /// Whether it is one of those that share an address.
    pub(super) fn shares(&self) -> bool {
        self.annotations.iter().any(|(key, _)| *key == ANYCAST)
    }

    const fn six(name: &'static str) -> Self {
        Self { annotations: &[("ipv4", "false")], ipv4: Asks::Nothing, ..Self::dual(name) }
    }

    const fn four(name: &'static str) -> Self {
        Self { annotations: &[("ipv6", "false")], ipv6: Asks::Nothing, ..Self::dual(name) }
    }

    /// What it asks for in a family.
    pub(super) fn asks(&self, family: Family) -> Asks {
        match family {
            Family::V6 => self.ipv6,
            Family::V4 => self.ipv4,
        }
    }
}

/// A pod that asks for what it cannot have, and what it is told.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) name: &'static str,
    /// Key, without the prefix, and value.
    pub(super) annotation: (&'static str, &'static str),
    pub(super) told: &'static str,
}

/// Typing mistakes, all on the first node.
pub(super) const REFUSED: [Refused; 3] = [
    Refused {
        name: "typo-1",
        annotation: ("ipv4", "no"),
        told: r#"flock.fritzlab.net/ipv4 "no" is neither true nor false: write "false""#,
    },
    Refused {
        name: "typo-2",
        annotation: ("anycats", "2001:db8:a::53"),
        told: r#"flock.fritzlab.net/anycats "2001:db8:a::53" is not an annotation of flock: use flock.fritzlab.net/anycast"#,
    },
    Refused {
        name: "typo-3",
        annotation: ("cidr4", "198.51.100.77/27"),
        told: r#"flock.fritzlab.net/cidr4 "198.51.100.77/27" has host bits set: write 198.51.100.64/27"#,
    },
];

/// The annotation that asks for an address others have too, without the prefix.
const ANYCAST: &str = "anycast";

/// The addresses several pods share.
pub(super) const SHARED: Pair = Pair { v6: documentation(0xa, 0, 0x53), v4: Ipv4Addr::new(203, 0, 113, 53) };

/// The same as an annotation.
const SHARED_TEXT: &str = "2001:db8:a::53, 203.0.113.53";

/// The pod whose address outlives it, and that address.
pub(super) const PINNED: &str = "pinned-2";

/// The pods that serve over TCP where policies are shown, each with the number of its port `http`: the same name may be
/// another number in each pod.
const HTTP: [(&str, u16); 4] = [("web-1", 8080), ("web-2", 8081), ("given-1", 8080), ("pinned-2", 8080)];

/// The number of the port `http` of a pod that has one.
pub(super) fn http(pod: &str) -> Option<u16> {
    HTTP.iter().find(|(name, _)| *name == pod).map(|(_, port)| *port)
}

/// The label `app` of a pod: its name without the number.
pub(super) fn app(pod: &str) -> &str {
    pod.rsplit_once('-').map_or(pod, |(app, _)| app)
}

/// The two nodes.
pub(super) const NODES: [Node; 2] = [
    Node {
        name: "node1",
        asn: 65101,
        link: link(1, 0),
        pool6: Ipv6Net::new_assert(documentation(0xf001, 0, 0), 64),
        pool4: Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 26),
        pods: &[
            Pod::dual("web-1"),
            Pod::dual("api-1"),
            Pod::six("six-1"),
            Pod::four("four-1"),
            Pod {
                name: "given-1",
                annotations: &[("addresses", "2001:db8:c606::166, 203.0.113.166")],
                ipv6: Asks::Exactly(IpAddr::V6(documentation(0xc606, 0, 0x166))),
                ipv4: Asks::Exactly(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 166))),
            },
            Pod::dns("dns-1"),
            Pod::dns("dns-2"),
        ],
    },
    Node {
        name: "node2",
        asn: 65102,
        link: link(2, 16),
        pool6: Ipv6Net::new_assert(documentation(0xf002, 0, 0), 64),
        pool4: Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 64), 26),
        pods: &[
            Pod::dual("web-2"),
            Pod::dual("api-2"),
            Pod::six("six-2"),
            Pod::four("four-2"),
            Pod {
                annotations: &[("cidr4", "198.51.100.77/32")],
                ipv4: Asks::Exactly(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77))),
                ..Pod::dual(PINNED)
            },
            Pod::dns("dns-3"),
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
pub(super) fn pods() -> impl Iterator<Item = (&'static Node, &'static Pod)> + Clone {
    NODES.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
}

/// A pod and its node, by name.
pub(super) fn pod(name: &str) -> Option<(&'static Node, &'static Pod)> {
    pods().find(|(_, pod)| pod.name == name)
}

/// Every pod that shares an address, with its node.
pub(super) fn sharing() -> impl Iterator<Item = (&'static Node, &'static Pod)> + Clone {
    pods().filter(|(_, pod)| pod.shares())
}

/// A prefix the router should learn, and from whom.
#[derive(Debug, Clone)]
pub(super) struct Announced {
    pub(super) prefix: IpNet,
    pub(super) nodes: Vec<&'static Node>,
}

impl fmt::Display for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.name).collect();
        write!(f, "{} of {}", self.prefix, nodes.join(" and "))
    }
}

/// The pools, each with its node: what the router should learn while there are no pods.
pub(super) fn pools() -> impl Iterator<Item = Announced> + Clone {
    NODES
        .iter()
        .flat_map(|node| Family::ALL.map(|family| Announced { prefix: node.pool(family), nodes: vec![node] }))
}

/// What the router should learn once every pod is there: the pools, what pods bring along from outside them,
/// and what several pods share.
pub(super) fn announced() -> impl Iterator<Item = Announced> + Clone {
    let brought = pods().flat_map(|(node, pod)| {
        Family::ALL.map(|family| match pod.asks(family) {
            Asks::Exactly(address) if !node.pool(family).contains(&address) => {
                Some(Announced { prefix: address.into(), nodes: vec![node] })
            }
            _ => None,
        })
    });
    let shared = Family::ALL.map(|family| {
        let nodes = NODES.iter().filter(|node| node.pods.iter().any(Pod::shares)).collect();
        Announced { prefix: SHARED.of(family).into(), nodes }
    });
    pools().chain(brought.flatten()).chain(shared)
}

/// The names of everything that has a namespace.
pub(super) fn elements() -> impl Iterator<Item = &'static str> {
    let pods = pods().map(|(_, pod)| pod.name).chain(REFUSED.iter().map(|pod| pod.name));
    ["router"].into_iter().chain(links().map(|(name, _)| name)).chain(pods)
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
                for pod in node.pods {
                    if let Asks::Exactly(address) = pod.asks(family) {
                        assert_ne!(address, SHARED.of(family));
                        assert!(seen.insert(address), "{address} is used twice");
                    }
                }
            }
        }
        for address in seen.into_iter().chain(Family::ALL.map(|family| SHARED.of(family))) {
            assert!(reserved.iter().any(|prefix| prefix.contains(&address)), "{address}");
        }
    }

    #[test]
    fn every_kind_of_pod_is_on_every_node_under_a_name_of_its_own() {
        let names: BTreeSet<_> = elements().collect();
        assert_eq!(names.len(), elements().count());
        for node in &NODES {
            let kind = |ipv6: Asks, ipv4: Asks| {
                node.pods.iter().filter(|pod| (pod.ipv6, pod.ipv4) == (ipv6, ipv4)).count()
            };
            assert!(kind(Asks::OfPool, Asks::OfPool) >= 2);
            assert!(kind(Asks::OfPool, Asks::Nothing) > 0 && kind(Asks::Nothing, Asks::OfPool) > 0);
        }
    }

    #[test]
    fn what_is_not_of_a_pool_is_announced_one_by_one() {
        let brought: Vec<_> = announced()
            .skip(pools().count())
            .map(|it| (it.prefix.to_string(), it.nodes.iter().map(|node| node.name).collect::<Vec<_>>()))
            .collect();
        let expected = [
            ("2001:db8:c606::166/128", vec!["node1"]),
            ("203.0.113.166/32", vec!["node1"]),
            ("2001:db8:a::53/128", vec!["node1", "node2"]),
            ("203.0.113.53/32", vec!["node1", "node2"]),
        ];
        assert_eq!(brought, expected.map(|(net, nodes)| (net.to_owned(), nodes)));
    }

    #[test]
    fn annotation_of_the_pods_that_share_names_the_shared_addresses() {
        let listed: Vec<IpAddr> = SHARED_TEXT.split(", ").map(|text| text.parse().unwrap()).collect();
        assert_eq!(listed, Family::ALL.map(|family| SHARED.of(family)));
        assert!(sharing().count() >= 3);
    }
}
