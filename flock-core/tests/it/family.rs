//! Which families a pod gets: every combination of annotation, default and pool.

use flock_core::annotation::PodIntent;
use flock_core::config::{Bgp, Defaults, NodeConfig};
use flock_core::family::{Families, families};

fn node(pools: (bool, bool), ipv6: Option<bool>, ipv4: Option<bool>) -> NodeConfig {
    NodeConfig {
        cidr6: pools.0.then(|| "2001:db8:f001::/64".parse().unwrap()).into_iter().collect(),
        cidr4: pools.1.then(|| "192.0.2.0/24".parse().unwrap()).into_iter().collect(),
        defaults: Defaults { ipv6, ipv4 },
        bgp: Bgp { asn: 65101, router_id: None, peers: vec![] },
        claims: vec![],
    }
}

#[test]
fn annotation_then_default_then_pool_decides() {
    let sayings = [None, Some(true), Some(false)];
    for annotation in sayings {
        for default in sayings {
            for pool in [true, false] {
                // IPv4 is there throughout, so that IPv6 alone decides.
                let intent = PodIntent { ipv6: annotation, ..PodIntent::default() };
                let got = families(&intent, &node((pool, true), default, None));
                let wanted = annotation.or(default).unwrap_or(pool);
                if wanted && !pool {
                    assert!(got.is_err(), "{annotation:?} {default:?}");
                } else {
                    assert_eq!(got, Ok(Families { ipv6: wanted, ipv4: true }), "{annotation:?} {default:?}");
                }
            }
        }
    }
}

#[test]
fn errors_name_who_asks_and_what_is_missing() {
    let (on, off) = (Some(true), Some(false));
    let table = [
        (
            (on, None),
            node((false, true), None, None),
            "annotation flock.fritzlab.net/ipv6 asks for IPv6, but spec.cidr6 of this node has no pool: \
             add one, or turn IPv6 off",
        ),
        (
            (None, None),
            node((true, false), None, on),
            "spec.defaults.ipv4 asks for IPv4, but spec.cidr4 of this node has no pool: \
             add one, or turn IPv4 off",
        ),
        (
            (None, on),
            node((false, false), on, off),
            "spec.defaults.ipv6 asks for IPv6, but spec.cidr6 of this node has no pool: \
             add one, or turn IPv6 off; \
             annotation flock.fritzlab.net/ipv4 asks for IPv4, but spec.cidr4 of this node has no pool: \
             add one, or turn IPv4 off",
        ),
        (
            (off, None),
            node((true, true), None, off),
            "no address family is left for the pod: \
             IPv6 is off by annotation flock.fritzlab.net/ipv6, IPv4 by spec.defaults.ipv4",
        ),
        (
            (None, None),
            node((false, false), None, None),
            "no address family is left for the pod: IPv6 is off by empty spec.cidr6, IPv4 by empty spec.cidr4",
        ),
    ];
    for ((ipv6, ipv4), node, expected) in table {
        let refused = families(&PodIntent { ipv6, ipv4, ..PodIntent::default() }, &node).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
}
