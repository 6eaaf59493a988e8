//! From what the operator wrote and what the node has to what BIRD should run.

use std::cmp::Reverse;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr};

use fnv::FnvHasher;
use ipnet::IpNet;

use crate::config::NodeConfig;
use crate::family::{Family, pools_field};
use crate::ids::NodeName;
use crate::ports::{InterfaceAddress, NodeFacts, RoutingConfig, RoutingPeer};
use crate::problem::Problem;

/// What BIRD should run on this node.
///
/// The router ID is the configured one, else the node's primary IPv4 address, else
/// [derived from its name](derived_router_id). Our end of a session is an address of ours on the peer's
/// subnet, since the next hop we announce is that address; without one BIRD is left to find it.
pub fn routing_config(config: &NodeConfig, facts: &NodeFacts, node: &NodeName) -> RoutingConfig {
    let usable = |id: &Ipv4Addr| !id.is_unspecified();
    let peers = config.bgp.peers.iter().map(|peer| RoutingPeer {
        address: peer.address,
        asn: peer.asn,
        local: local_address(peer.address, facts),
    });
    RoutingConfig {
        router_id: (config.bgp.router_id.filter(usable))
            .or(facts.primary4.filter(usable))
            .unwrap_or_else(|| derived_router_id(node)),
        asn: config.bgp.asn,
        peers: peers.collect(),
        ipv6: !config.cidr6.is_empty(),
        ipv4: !config.cidr4.is_empty(),
    }
}

/// A router ID for a node without an IPv4 address: a hash of its name, the same for ever, in the form of
/// a unicast address (1 to 126 or 128 to 223 in front), which is what older implementations insist on
/// (RFC 4271 section 6.2).
pub fn derived_router_id(node: &NodeName) -> Ipv4Addr {
    let mut hasher = FnvHasher::default();
    hasher.write(node.as_str().as_bytes());
    let hash = hasher.finish();
    let [.., high, b, c, d] = (hash ^ (hash >> 32)).to_be_bytes();
    let first = 1 + high % 222;
    let first = if first < 127 { first } else { first + 1 };
    Ipv4Addr::new(first, b, c, d)
}

/// The pools nobody outside hears of: those of a family in which the node has no peer. A session carries
/// the family of its own addresses only.
pub fn unheard_pools(config: &NodeConfig) -> Vec<Problem> {
    let pools = |family| -> Vec<String> {
        match family {
            Family::V6 => config.cidr6.iter().map(ToString::to_string).collect(),
            Family::V4 => config.cidr4.iter().map(ToString::to_string).collect(),
        }
    };
    let heard = |family| config.bgp.peers.iter().any(|peer| Family::of(peer.address) == family);
    [Family::V6, Family::V4]
        .into_iter()
        .map(|family| (family, pools(family)))
        .filter(|(family, pools)| !pools.is_empty() && !heard(*family))
        .map(|(family, pools)| {
            Problem::new(
                pools_field(family),
                &pools.join(", "),
                format!("is announced to nobody: no peer has an {family} address"),
                format!("add the {family} address of a router to spec.bgp.peers"),
            )
        })
        .collect()
}

/// An address of ours on the peer's subnet: the most specific subnet wins, then the node's primary
/// address, then one that is there to stay, since a session ends with its address, then the lowest, so that the
/// choice does not depend on the order the kernel lists them in.
fn local_address(peer: IpAddr, facts: &NodeFacts) -> Option<IpAddr> {
    let primary = |net: &IpNet| facts.primary4.map(IpAddr::V4) == Some(net.addr());
    let fits = |own: &&InterfaceAddress| own.address.contains(&peer) && own.address.addr() != peer;
    let rank = |InterfaceAddress { address: net, passing, .. }: &&InterfaceAddress| {
        (Reverse(net.prefix_len()), !primary(net), *passing, net.addr())
    };
    facts.addresses.iter().filter(fits).min_by_key(rank).map(|own| own.address.addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bird::render;
    use crate::config::{Bgp, Defaults, Peer};
    use crate::ids::IfName;
    use proptest::prelude::*;

    fn config(router_id: Option<&str>, peers: &[&str]) -> NodeConfig {
        NodeConfig {
            cidr6: vec!["2001:db8:f001::/64".parse().unwrap()],
            cidr4: vec!["198.51.100.0/25".parse().unwrap(), "198.51.100.128/25".parse().unwrap()],
            defaults: Defaults::default(),
            bgp: Bgp {
                asn: 65101,
                router_id: router_id.map(|id| id.parse().unwrap()),
                peers: peers.iter().map(|peer| Peer { address: peer.parse().unwrap(), asn: 65000 }).collect(),
            },
            claims: vec![],
        }
    }

    fn facts(primary4: Option<&str>, addresses: &[&str]) -> NodeFacts {
        let own = |address: &&str| InterfaceAddress {
            ifname: IfName::parse("eth0").unwrap(),
            address: address.trim_end_matches('~').parse().unwrap(),
            passing: address.ends_with('~'),
        };
        NodeFacts {
            addresses: addresses.iter().map(own).collect(),
            primary4: primary4.map(|address| address.parse().unwrap()),
            uplink_mtu: None,
            ipvs: false,
        }
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn router_id_is_the_configured_one_then_the_primary_address_then_from_the_name() {
        let check = |configured, primary, expect: &str| {
            let routing = routing_config(&config(configured, &[]), &facts(primary, &[]), &node("node-1"));
            assert_eq!(routing.router_id.to_string(), expect);
        };
        check(Some("192.0.2.10"), Some("192.0.2.20"), "192.0.2.10");
        check(None, Some("192.0.2.20"), "192.0.2.20");
        check(None, None, "200.238.149.1");
        check(None, Some("0.0.0.0"), "200.238.149.1");
    }

    #[test]
    fn local_end_is_an_address_on_the_subnet_of_the_peer() {
        let check = |own: &[&str], peer: &str, expect: Option<&str>| {
            let mut facts = facts(Some("192.0.2.20"), own);
            for _ in 0..2 {
                let routing = routing_config(&config(None, &[peer]), &facts, &node("node-1"));
                assert_eq!(
                    routing.peers[0].local,
                    expect.map(|local| local.parse().unwrap()),
                    "{own:?} {peer}"
                );
                facts.addresses.reverse();
            }
        };
        check(&["2001:db8:0:b::9/64", "2001:db8:0:a::9/64"], "2001:db8:0:a::1", Some("2001:db8:0:a::9"));
        check(&["2001:db8:0:a::9/64"], "2001:db8:0:b::1", None);
        check(&["2001:db8:0:a::9/64"], "192.0.2.1", None);
        check(&["2001:db8:0:a::9/48", "2001:db8:0:a::8/64"], "2001:db8:0:a::1", Some("2001:db8:0:a::8"));
        check(&["2001:db8:0:a::9/64", "2001:db8:0:a::8/64"], "2001:db8:0:a::1", Some("2001:db8:0:a::8"));
        check(&["192.0.2.10/24", "192.0.2.20/24"], "192.0.2.1", Some("192.0.2.20"));
        // A `~` marks what is not there to stay.
        check(&["2001:db8:0:a::8/64~", "2001:db8:0:a::9/64"], "2001:db8:0:a::1", Some("2001:db8:0:a::9"));
        check(&["2001:db8:0:a::8/64~"], "2001:db8:0:a::1", Some("2001:db8:0:a::8"));
        check(&["192.0.2.10/24", "192.0.2.20/24~"], "192.0.2.1", Some("192.0.2.20"));
        // A peer that is this very node, or an address of ours without a subnet, is no local end.
        check(&["2001:db8:0:a::1/64", "2001:db8:0:a::1/128"], "2001:db8:0:a::1", None);
    }

    #[test]
    fn pools_of_a_family_without_a_peer_are_a_problem() {
        let check = |peers: &[&str], expect: &[&str]| {
            let problems: Vec<_> =
                unheard_pools(&config(None, peers)).iter().map(Problem::to_string).collect();
            assert_eq!(problems, expect);
        };
        let v6 = "spec.cidr6 2001:db8:f001::/64 is announced to nobody: no peer has an IPv6 address: \
                  add the IPv6 address of a router to spec.bgp.peers";
        let v4 = "spec.cidr4 198.51.100.0/25, 198.51.100.128/25 is announced to nobody: no peer has an IPv4 \
                  address: add the IPv4 address of a router to spec.bgp.peers";
        check(&["2001:db8::1", "192.0.2.1"], &[]);
        check(&["2001:db8::1"], &[v4]);
        check(&["192.0.2.1"], &[v6]);
        check(&[], &[v6, v4]);
    }

    proptest! {
        #[test]
        fn derived_router_id_is_a_unicast_address(name in "[a-z0-9]{1,40}") {
            let id = derived_router_id(&node(&name));
            prop_assert!(!id.is_unspecified() && !id.is_loopback() && !id.is_multicast());
            prop_assert!((1..=223).contains(&id.octets()[0]), "{}", id);
            prop_assert_eq!(id, derived_router_id(&node(&name)));
        }

        #[test]
        fn a_checked_configuration_can_always_be_rendered(
            own in proptest::collection::vec((any::<u64>(), 1u8..=128), 0..4),
            peers in proptest::collection::btree_set(any::<u64>(), 0..4),
        ) {
            let address = |low: u64| IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(low)).to_be_bytes());
            let mut node_config = config(None, &[]);
            node_config.bgp.peers =
                peers.into_iter().map(|low| Peer { address: address(low), asn: 65000 }).collect();
            let addresses = own.into_iter().map(|(low, len)| InterfaceAddress {
                ifname: IfName::parse("eth0").unwrap(),
                address: IpNet::new(address(low), len).unwrap(),
                passing: low % 2 == 0,
            });
            let facts = NodeFacts { addresses: addresses.collect(), ..NodeFacts::default() };
            prop_assert!(render(&routing_config(&node_config, &facts, &node("node-1"))).is_ok());
        }
    }
}
