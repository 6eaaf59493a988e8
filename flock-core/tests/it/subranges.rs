//! `cidr6` and `cidr4` against the pools of a node (interfaces.md, section 4): which range comes out, to the
//! address, and the exact words where none does.
//!
//! Rows are written in IPv4 and hold for both families: [`six`] puts the same bits under `2001:db8::/96`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use flock_core::ipam::{Ipam, Pools, Want};
use flock_core::ports::Retry;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ipam::{START, id, ip, ipam_with, request, within};

fn four(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn six(text: &str) -> Ipv6Net {
    let net = four(text);
    let bits = (0x2001_0db8 << 96) | u128::from(net.addr().to_bits());
    Ipv6Net::new(bits.into(), 96 + net.prefix_len()).unwrap()
}

fn written<N: ToString>(texts: &[&str], family: impl Fn(&str) -> N) -> String {
    texts.iter().map(|text| family(text).to_string()).collect::<Vec<_>>().join(", ")
}

fn ask(name: &str, ipv6: bool, wanted: &[&str]) -> flock_core::ipam::Request {
    if ipv6 {
        request(name, Want::Within(wanted.iter().map(|net| six(net)).collect()), Want::No)
    } else {
        request(name, Want::No, Want::Within(wanted.iter().map(|net| four(net)).collect()))
    }
}

fn node(ipv6: bool, pools: &[&str]) -> Ipam {
    let (mut v6, mut v4) = (vec![], vec![]);
    if ipv6 {
        v6 = pools.iter().map(|net| six(net)).collect();
    } else {
        v4 = pools.iter().map(|net| four(net)).collect();
    }
    let mut ipam = Ipam::default();
    ipam.reconfigure(Pools { v6, v4 }, BTreeSet::new());
    ipam
}

/// Takes addresses until there is none: what was given, and the words that end it.
fn drain(ipam: &mut Ipam, ask: impl Fn(&str) -> flock_core::ipam::Request) -> (BTreeSet<IpAddr>, String) {
    let mut given = BTreeSet::new();
    for number in 0_u64..2000 {
        match ipam.allocate(&ask(&format!("p{number}")), START, number) {
            Ok(allocation) => {
                for address in allocation.addresses.iter() {
                    assert!(given.insert(address), "{address} is given twice");
                }
            }
            Err(refused) => {
                assert_eq!(refused.retry(), Retry::Later, "{refused}");
                return (given, refused.to_string());
            }
        }
    }
    panic!("no end");
}

/// Addresses of `range` that its pool does not reserve.
fn usable(pool: IpNet, range: IpNet) -> BTreeSet<IpAddr> {
    // What `hosts` gives is without the ends of an IPv4 prefix.
    let ipv4 = pool.addr().is_ipv4();
    let gateway = pool.hosts().next().filter(|_| ipv4);
    let reserved =
        |it: &IpAddr| *it == pool.network() || Some(*it) == gateway || (ipv4 && *it == pool.broadcast());
    let all = range.subnets(range.max_prefix_len()).unwrap().map(|net| net.addr());
    all.filter(|it| !reserved(it)).collect()
}

/// A pool, and the range of it that is used.
type Outcome<'a> = Option<(&'a str, &'a str)>;

const A: &str = "192.0.2.0/26";
const B: &str = "192.0.2.64/28";
const C: &str = "198.51.100.0/28";

/// Pools, what is wanted, what comes out.
const MATRIX: [(&[&str], &[&str], Outcome<'_>); 41] = [
    // One pool, one prefix.
    (&[A], &[A], Some((A, A))),
    (&[A], &["192.0.2.0/25"], Some((A, A))),
    (&[A], &["192.0.0.0/16"], Some((A, A))),
    (&[A], &["0.0.0.0/0"], Some((A, A))),
    (&[A], &["192.0.2.0/27"], Some((A, "192.0.2.0/27"))),
    (&[A], &["192.0.2.32/27"], Some((A, "192.0.2.32/27"))),
    (&[A], &["192.0.2.4/30"], Some((A, "192.0.2.4/30"))),
    (&[A], &["192.0.2.0/30"], Some((A, "192.0.2.0/30"))),
    (&[A], &["192.0.2.60/30"], Some((A, "192.0.2.60/30"))),
    (&[A], &["192.0.2.2/31"], Some((A, "192.0.2.2/31"))),
    (&[A], &[B], None),
    (&[A], &["192.0.2.64/32"], None),
    (&[A], &["192.0.1.255/32"], None),
    // One pool, several prefixes: the first that matches, and only that.
    (&[A], &[B, A], Some((A, A))),
    (&[A], &[B, C, "192.0.2.8/29"], Some((A, "192.0.2.8/29"))),
    (&[A], &["192.0.2.8/29", A], Some((A, "192.0.2.8/29"))),
    (&[A], &[A, "192.0.2.8/29"], Some((A, A))),
    (&[A], &["192.0.2.48/29", "192.0.2.16/29"], Some((A, "192.0.2.48/29"))),
    (&[A], &["192.0.2.16/29", "192.0.2.48/29"], Some((A, "192.0.2.16/29"))),
    (&[A], &["192.0.2.0/24", "192.0.2.16/29"], Some((A, A))),
    (&[A], &[B, C], None),
    (&[A], &[C, B, "203.0.113.0/24"], None),
    // Several pools, one prefix.
    (&[A, B], &[A], Some((A, A))),
    (&[A, B], &[B], Some((B, B))),
    (&[A, B], &["192.0.2.0/24"], Some((A, A))), // the first of several pools
    (&[B, A], &["192.0.2.0/24"], Some((B, B))),
    (&[C, A, B], &["192.0.2.0/24"], Some((A, A))),
    (&[A, B], &["192.0.2.64/26"], Some((B, B))),
    (&[A, B], &["192.0.2.72/29"], Some((B, "192.0.2.72/29"))),
    (&[A, B], &[C], None),
    (&[A, B, C], &["192.0.2.80/28"], None),
    // Several of both: the order of the annotation goes before that of the pools.
    (&[A, B], &[B, A], Some((B, B))),
    (&[A, B], &[A, B], Some((A, A))),
    (&[A, C], &["198.51.100.8/30", A], Some((C, "198.51.100.8/30"))),
    (&[A, C], &["203.0.113.0/24", "198.51.0.0/16", A], Some((C, C))),
    (&[A, B, C], &["192.0.2.80/28", "192.0.2.64/27", C], Some((B, B))),
    (&[A, B, C], &["192.0.2.80/28", "203.0.113.0/24"], None),
    // The same twice, and with host bits (the annotations refuse those).
    (&[A], &["192.0.2.8/29", "192.0.2.8/29"], Some((A, "192.0.2.8/29"))),
    (&[A], &["192.0.2.11/29"], Some((A, "192.0.2.8/29"))),
    (&[A, C], &["192.0.2.80/28", "0.0.0.0/0"], Some((A, A))),
    (&[C, A], &["192.0.2.63/26"], Some((A, A))),
];

#[test]
fn a_prefix_and_a_pool_give_the_smaller_of_the_two_and_the_first_match_wins() {
    for (pools, wanted, outcome) in MATRIX {
        for ipv6 in [true, false] {
            let net = |text: &str| if ipv6 { IpNet::V6(six(text)) } else { IpNet::V4(four(text)) };
            let (family, key) = if ipv6 { ("IPv6", "cidr6") } else { ("IPv4", "cidr4") };
            let mut ipam = node(ipv6, pools);
            let Some((pool, range)) = outcome else {
                let refused = ipam.allocate(&ask("p", ipv6, wanted), START, 0).unwrap_err();
                let (wanted, pools) = (written(wanted, net), written(pools, net));
                assert_eq!(
                    (refused.to_string(), refused.retry()),
                    (
                        format!(
                            "annotation flock.fritzlab.net/{key}: none of the prefixes {wanted} lies in a pool of this node: {pools}"
                        ),
                        Retry::Never
                    )
                );
                continue;
            };
            let expected = usable(net(pool), net(range));
            let (given, end) = drain(&mut ipam, |name| ask(name, ipv6, wanted));
            assert_eq!(given, expected, "{pools:?} {wanted:?}");
            let (range, used) = (net(range), expected.len());
            let words = format!("no free {family} address in {range}: {used} in use, 0 cooling down");
            assert_eq!(end, words, "{pools:?} {wanted:?}");
        }
    }
}

#[test]
fn a_pin_gives_its_address_or_says_what_stands_against_it() {
    let held = |address: &str| format!("address {address} is held by pod shop/p0 (attachment p0/eth0)");
    for pin in ["192.0.2.2/32", "192.0.2.33/32", "192.0.2.62/32", "192.0.2.64/32"] {
        let pools = ["192.0.2.0/25", C];
        for ipv6 in [true, false] {
            let address = if ipv6 { IpAddr::V6(six(pin).addr()) } else { IpAddr::V4(four(pin).addr()) };
            for wanted in [vec![pin], vec!["203.0.113.0/24", pin], vec![pin, C]] {
                let (given, end) = drain(&mut node(ipv6, &pools), |name| ask(name, ipv6, &wanted));
                assert_eq!(given, BTreeSet::from([address]), "{wanted:?}");
                assert_eq!(end, held(&address.to_string()), "{wanted:?}");
            }
        }
    }
}

#[test]
fn an_ipv6_pin_of_a_large_pool_may_have_any_length() {
    let pool = "2001:db8:f001::/64";
    let table = [
        ("2001:db8:f001::aa00/120", 256),
        ("2001:db8:f001::/120", 255), // without the all-zero identifier
        ("2001:db8:f001:0:ffff:ffff:ffff:ff00/120", 256),
        ("2001:db8:f001:0:fdff:ffff:ffff:ff00/120", 128), // half is reserved (RFC 2526)
        ("2001:db8:f001::8/126", 4),
        ("2001:db8:f001::/127", 1),
        ("2001:db8:f001:0:8000::/127", 2),
        ("2001:db8:f001::77/128", 1),
    ];
    for (range, count) in table {
        let mut ipam = ipam_with(&[pool], &[], &[]);
        let (given, end) = drain(&mut ipam, |name| request(name, within(&[range]), Want::No));
        let net: IpNet = range.parse().unwrap();
        assert_eq!(given.len(), count, "{range}");
        assert!(given.iter().all(|it| net.contains(it)), "{range}");
        let words = match count {
            1 if net.prefix_len() == 128 => {
                format!("address {} is held by pod shop/p0 (attachment p0/eth0)", net.addr())
            }
            _ => format!("no free IPv6 address in {range}: {count} in use, 0 cooling down"),
        };
        assert_eq!(end, words);
    }
}

#[test]
fn a_range_of_the_nodes_own_addresses_has_none_for_a_pod() {
    let node = ["192.0.2.4", "192.0.2.5", "2001:db8::4", "2001:db8::5"];
    let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &node);
    let table = [
        (
            request("a", Want::No, within(&["192.0.2.4/31"])),
            "192.0.2.4/31 has no IPv4 address for a pod: all are reserved or the node's own",
        ),
        (
            request("a", within(&["2001:db8::4/127"]), Want::No),
            "2001:db8::4/127 has no IPv6 address for a pod: all are reserved or the node's own",
        ),
        (
            request("a", Want::No, within(&["192.0.2.5/32"])),
            "address 192.0.2.5 cannot be given to a pod: it is an address of this node",
        ),
        (
            request("a", within(&["2001:db8::5/128"]), Want::No),
            "address 2001:db8::5 cannot be given to a pod: it is an address of this node",
        ),
    ];
    for (request, words) in table {
        let refused = ipam.allocate(&request, START, 0).unwrap_err();
        assert_eq!((refused.to_string().as_str(), refused.retry()), (words, Retry::Never));
    }
}

#[test]
fn one_family_outside_the_pools_leaves_the_other_untouched() {
    let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &[]);
    let before = ipam.snapshot("boot");
    let table = [
        (
            within(&["2001:db8::/64"]),
            within(&["198.51.100.0/24"]),
            "annotation flock.fritzlab.net/cidr4: none of the prefixes 198.51.100.0/24 lies in a pool of this node: 192.0.2.0/24",
        ),
        (
            within(&["2001:db8:1::/64"]),
            within(&["192.0.2.77/32"]),
            "annotation flock.fritzlab.net/cidr6: none of the prefixes 2001:db8:1::/64 lies in a pool of this node: 2001:db8::/64",
        ),
    ];
    for (v6, v4, words) in table {
        let refused = ipam.allocate(&request("a", v6, v4), START, 0).unwrap_err();
        assert_eq!(refused.to_string(), words);
        assert_eq!(ipam.snapshot("boot"), before);
    }
}

#[test]
fn a_restricted_family_without_a_pool_says_so() {
    let ask6 = request("a", within(&["2001:db8::/64"]), Want::No);
    let ask4 = request("a", Want::No, within(&["192.0.2.0/24"]));
    let table = [
        (ipam_with(&[], &["192.0.2.0/24"], &[]), ask6, "this node has no IPv6 pool"),
        (ipam_with(&["2001:db8::/64"], &[], &[]), ask4, "this node has no IPv4 pool"),
    ];
    for (mut ipam, ask, words) in table {
        let refused = ipam.allocate(&ask, START, 0).unwrap_err();
        assert_eq!((refused.to_string().as_str(), refused.retry()), (words, Retry::Never));
    }
}

#[test]
fn a_range_is_looked_for_in_the_pools_of_today() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/24"], &[]);
    let pin = |name| request(name, Want::No, within::<Ipv4Net>(&["198.51.100.9/32"]));
    assert_eq!(ipam.allocate(&pin("a"), START, 0).unwrap_err().label(), "no_pool_matches");
    let pools = Pools { v6: vec![], v4: vec![four("192.0.2.0/24"), four("198.51.100.0/24")] };
    ipam.reconfigure(pools, BTreeSet::new());
    assert!(ipam.allocate(&pin("a"), START, 0).is_ok());
    assert_eq!(ipam.holder(ip("198.51.100.9")).map(|it| &it.attachment), Some(&id("a")));
}
