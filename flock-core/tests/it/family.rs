//! Which families a pod gets: every combination of annotation, default and pool.

use std::net::IpAddr;

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

/// One family of a case: its annotation, its default, whether there is a pool, whether the pod brings an
/// address.
type Side = (Option<bool>, Option<bool>, bool, bool);

fn sides() -> Vec<Side> {
    let sayings = [None, Some(true), Some(false)];
    let mut sides = Vec::new();
    for annotation in sayings {
        for default in sayings {
            for (pool, brings) in [(false, false), (false, true), (true, false), (true, true)] {
                sides.push((annotation, default, pool, brings));
            }
        }
    }
    sides
}

/// The rule of the contract for one family: whether the pod gets it, and what is said against it.
fn rule(
    (annotation, default, pool, brings): Side,
    name: &str,
    number: char,
    address: &str,
) -> (bool, String, Vec<String>) {
    let key = format!("ipv{number}");
    let (wanted, by) = match (annotation, default) {
        (Some(wanted), _) => (wanted, format!("annotation flock.fritzlab.net/{key}")),
        (None, Some(wanted)) => (wanted, format!("spec.defaults.{key}")),
        (None, None) => (pool || brings, format!("empty spec.cidr{number}")),
    };
    let mut words = Vec::new();
    if wanted && !pool && !brings {
        words.push(format!(
            "{by} asks for {name}, but spec.cidr{number} of this node has no pool: add one, or turn {name} off"
        ));
    }
    if brings && !wanted {
        words.push(format!(
            "flock.fritzlab.net/addresses \"{address}\" is an {name} address, and {name} is off by {by}: \
             remove the address, or turn {name} on"
        ));
    }
    (wanted, by, words)
}

#[test]
fn every_combination_of_both_families_follows_the_rule() {
    for six in sides() {
        for four in sides() {
            let mut intent = PodIntent { ipv6: six.0, ipv4: four.0, ..PodIntent::default() };
            intent.addresses.extend(six.3.then(|| "2001:db8:a::1".parse::<IpAddr>().unwrap()));
            intent.addresses.extend(four.3.then(|| "203.0.113.1".parse::<IpAddr>().unwrap()));
            let got = families(&intent, &node((six.2, four.2), six.1, four.1));
            let (v6, by6, words6) = rule(six, "IPv6", '6', "2001:db8:a::1");
            let (v4, by4, words4) = rule(four, "IPv4", '4', "203.0.113.1");
            // Missing pools come before addresses of a family that is off.
            let (mut words, off): (Vec<_>, Vec<_>) =
                words6.into_iter().chain(words4).partition(|words| words.contains(" asks for "));
            words.extend(off);
            if !v6 && !v4 {
                words.push(format!(
                    "no address family is left for the pod: IPv6 is off by {by6}, IPv4 by {by4}"
                ));
            }
            match got {
                Ok(families) => {
                    assert_eq!(words, [""; 0], "{six:?} {four:?}");
                    assert_eq!(families, Families { ipv6: v6, ipv4: v4 }, "{six:?} {four:?}");
                }
                Err(refused) => assert_eq!(refused.to_string(), words.join("; "), "{six:?} {four:?}"),
            }
        }
    }
}

#[test]
fn an_anycast_address_does_not_bring_a_family_but_needs_it() {
    let intent = |ipv6, texts: &[&str]| PodIntent {
        ipv6,
        anycast: texts.iter().map(|text| text.parse().unwrap()).collect(),
        ..PodIntent::default()
    };
    let both = node((true, true), None, None);
    assert!(families(&intent(None, &["2001:db8:a::1", "203.0.113.1"]), &both).is_ok());
    let refused = families(&intent(Some(false), &["2001:db8:a::1", "2001:db8:a::2"]), &both).unwrap_err();
    let off = |address: &str| {
        format!(
            "flock.fritzlab.net/anycast \"{address}\" is an IPv6 address, and IPv6 is off by annotation \
             flock.fritzlab.net/ipv6: remove the address, or turn IPv6 on"
        )
    };
    assert_eq!(refused.to_string(), format!("{}; {}", off("2001:db8:a::1"), off("2001:db8:a::2")));
    let refused = families(&intent(None, &["203.0.113.1"]), &node((true, false), None, None)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "flock.fritzlab.net/anycast \"203.0.113.1\" is an IPv4 address, and IPv4 is off by empty spec.cidr4: \
         remove the address, or turn IPv4 on"
    );
}
