//! The laws of the allocator, one by one, and the exact words of its refusals.

use std::collections::BTreeSet;
use std::net::IpAddr;

use flock_core::ids::{AttachmentId, PodKey};
use flock_core::ipam::{
    Addresses, Allocation, COOLDOWN, Cooling, Ipam, IpamError, Phase, PoolUsage, Pools, Request, Snapshot,
    Want,
};
use flock_core::ports::Retry;
use flock_core::time::Timestamp;
use ipnet::{Ipv4Net, Ipv6Net};

pub(crate) const START: Timestamp = Timestamp::from_millis(1_000_000);

pub(crate) fn id(name: &str) -> AttachmentId {
    AttachmentId::parse(&format!("{name}/eth0")).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn request(name: &str, v6: Want<Ipv6Net>, v4: Want<Ipv4Net>) -> Request {
    Request {
        attachment: id(name),
        pod: Some(PodKey::new("shop", name).unwrap()),
        uid: None,
        netns: None,
        v6,
        v4,
        given: vec![],
        anycast: vec![],
        embed: None,
    }
}

pub(crate) fn within<N: std::str::FromStr<Err: std::fmt::Debug>>(nets: &[&str]) -> Want<N> {
    Want::Within(nets.iter().map(|net| net.parse().unwrap()).collect())
}

pub(crate) fn ipam_with(cidr6: &[&str], cidr4: &[&str], node: &[&str]) -> Ipam {
    let mut ipam = Ipam::default();
    let pools = Pools {
        v6: cidr6.iter().map(|net| net.parse().unwrap()).collect(),
        v4: cidr4.iter().map(|net| net.parse().unwrap()).collect(),
    };
    ipam.reconfigure(pools, node.iter().map(|text| ip(text)).collect());
    ipam
}

/// The IPv4 address `name` gets from any pool.
fn v4(ipam: &mut Ipam, name: &str, now: Timestamp) -> String {
    let allocation = ipam.allocate(&request(name, Want::No, Want::Any), now, 0).unwrap();
    allocation.addresses.v4.unwrap().to_string()
}

fn allocation(name: &str, addresses: &[&str]) -> Allocation {
    let mut held = Addresses::default();
    for address in addresses {
        match ip(address) {
            IpAddr::V6(v6) => held.v6 = Some(v6),
            IpAddr::V4(v4) => held.v4 = Some(v4),
        }
    }
    Allocation {
        attachment: id(name),
        pod: None,
        uid: None,
        netns: None,
        addresses: held,
        extra: vec![],
        anycast: vec![],
        phase: Phase::Committed,
    }
}

#[test]
fn ipv4_addresses_come_lowest_first_without_the_reserved_and_the_nodes_own() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/29"], &["192.0.2.3", "2001:db8::1"]);
    let given: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| v4(&mut ipam, name, START)).collect();
    assert_eq!(given, ["192.0.2.2", "192.0.2.4", "192.0.2.5", "192.0.2.6"]);
}

#[test]
fn a_slash_30_has_one_usable_address() {
    let mut ipam = ipam_with(&[], &["192.0.2.4/30"], &[]);
    assert_eq!(v4(&mut ipam, "a", START), "192.0.2.6");
    assert!(ipam.allocate(&request("b", Want::No, Want::Any), START, 0).is_err());
}

#[test]
fn freed_address_is_not_reused_before_cooldown() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/29"], &[]);
    assert_eq!(v4(&mut ipam, "a", START), "192.0.2.2");
    assert!(ipam.release(&id("a"), START).is_some());
    let almost = Timestamp::from_millis(START.after(COOLDOWN).as_millis() - 1);
    assert_eq!(v4(&mut ipam, "b", almost), "192.0.2.3");
    assert_eq!(v4(&mut ipam, "c", START.after(COOLDOWN)), "192.0.2.2");
}

#[test]
fn the_longest_cooling_address_goes_first_when_no_other_is_free() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/29", "198.51.100.0/30"], &[]);
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        v4(&mut ipam, name, START);
    }
    // Pool order does not matter here, only age: f is alone in the second pool.
    for (seconds, name) in [(1, "f"), (2, "c"), (3, "a")] {
        ipam.release(&id(name), START.after(std::time::Duration::from_secs(seconds)));
    }
    let now = START.after(std::time::Duration::from_secs(4));
    let again: Vec<_> = ["x", "y", "z"].iter().map(|name| v4(&mut ipam, name, now)).collect();
    assert_eq!(again, ["198.51.100.2", "192.0.2.4", "192.0.2.2"]);
}

#[test]
fn a_pinned_address_comes_back_at_once() {
    let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &[]);
    let pin = request("a", within(&["2001:db8::77/128"]), within(&["192.0.2.77/32"]));
    for _ in 0..3 {
        let given = ipam.allocate(&pin, START, 0).unwrap();
        assert_eq!(given.addresses, allocation("a", &["2001:db8::77", "192.0.2.77"]).addresses);
        ipam.release(&id("a"), START).unwrap();
    }
}

#[test]
fn the_reserved_addresses_are_those_of_the_pool_not_of_the_part_asked_for() {
    let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &[]);
    // The first and last of the part are ordinary addresses.
    let mut part = BTreeSet::new();
    for name in ["a", "b", "c", "d"] {
        let want = request(name, within(&["2001:db8::40/126"]), within(&["192.0.2.64/30"]));
        let given = ipam.allocate(&want, START, 7).unwrap().addresses;
        part.extend(given.iter());
    }
    let v6 = ["2001:db8::40", "2001:db8::41", "2001:db8::42", "2001:db8::43"];
    let v4 = ["192.0.2.64", "192.0.2.65", "192.0.2.66", "192.0.2.67"];
    assert_eq!(part, v6.iter().chain(&v4).map(|text| ip(text)).collect());
}

#[test]
fn the_first_prefix_that_matches_a_pool_is_the_only_one_used() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/24", "198.51.100.0/24"], &[]);
    let want = || within(&["203.0.113.0/24", "198.51.100.8/32", "192.0.2.0/24"]);
    let given = ipam.allocate(&request("a", Want::No, want()), START, 0).unwrap();
    assert_eq!(given.addresses.v4, Some("198.51.100.8".parse().unwrap()));
    let refused = ipam.allocate(&request("b", Want::No, want()), START, 0).unwrap_err();
    assert_eq!(refused.label(), "address_held");
}

#[test]
fn any_pool_means_the_next_one_when_the_first_is_full() {
    let mut ipam =
        ipam_with(&["2001:db8:1::/127", "2001:db8:2::/127"], &["192.0.2.0/30", "198.51.100.0/30"], &[]);
    let both = |name| request(name, Want::Any, Want::Any);
    let given = ["a", "b"].map(|name| ipam.allocate(&both(name), START, 1).unwrap().addresses);
    assert_eq!(given[0], allocation("a", &["2001:db8:1::1", "192.0.2.2"]).addresses);
    assert_eq!(given[1], allocation("b", &["2001:db8:2::1", "198.51.100.2"]).addresses);
}

#[test]
fn dual_stack_is_all_or_nothing() {
    let mut ipam = ipam_with(&["2001:db8::/120"], &["192.0.2.0/30"], &[]);
    ipam.allocate(&request("a", Want::Any, Want::Any), START, 0).unwrap();
    let before = ipam.snapshot("boot");
    let refused = ipam.allocate(&request("b", Want::Any, Want::Any), START, 0).unwrap_err();
    assert_eq!(refused.to_string(), "no free IPv4 address in 192.0.2.0/30: 1 in use, 0 cooling down");
    assert_eq!(ipam.snapshot("boot"), before);
    assert!(ipam.allocate(&request("b", Want::Any, Want::No), START, 0).is_ok());
}

#[test]
fn an_attachment_asking_again_gets_what_it_has() {
    let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &[]);
    let first = ipam.allocate(&request("a", Want::Any, Want::Any), START, 1).unwrap();
    assert_eq!(ipam.allocate(&request("a", Want::Any, Want::No), START, 2).unwrap(), first);
    assert!(ipam.commit(&id("a")));
    let committed = Allocation { phase: Phase::Committed, ..first };
    assert_eq!(ipam.allocate(&request("a", Want::No, Want::No), START, 3).unwrap(), committed);
    assert_eq!(ipam.allocations().collect::<Vec<_>>(), [&committed]);
}

#[test]
fn ipv6_identifiers_are_spread_over_the_whole_pool() {
    let mut ipam = ipam_with(&["2001:db8::/64"], &[], &[]);
    let mut seen = [0_u64; 2];
    for n in 0..64 {
        let given = ipam.allocate(&request(&format!("p{n}"), Want::Any, Want::No), START, n).unwrap();
        let bits = given.addresses.v6.unwrap().to_bits();
        assert_eq!(bits >> 64, 0x2001_0db8_0000_0000);
        let iid = u64::try_from(bits & u128::from(u64::MAX)).unwrap();
        seen = [seen[0] | iid, seen[1] | !iid];
    }
    // Each bit was seen set and seen clear.
    assert_eq!(seen, [u64::MAX; 2]);
}

#[test]
fn the_same_entropy_gives_the_same_decision() {
    let give = |entropy| {
        let mut ipam = ipam_with(&["2001:db8::/64"], &[], &[]);
        ipam.allocate(&request("a", Want::Any, Want::No), START, entropy).unwrap().addresses
    };
    assert_eq!(give(5), give(5));
    assert_ne!(give(5), give(6));
}

#[test]
fn ipv6_allocation_fails_only_when_nothing_is_free() {
    // 17 host bits: beyond the size that is searched right away, so random tries collide at the end.
    let mut ipam = ipam_with(&["2001:db8::/111"], &[], &["2001:db8::9"]);
    let usable = (1 << 17) - 2;
    for n in 0..usable {
        // One seed for all: every sequence of tries starts with addresses that are taken.
        assert!(ipam.allocate(&request(&format!("p{n}"), Want::Any, Want::No), START, 1).is_ok(), "{n}");
    }
    let refused = ipam.allocate(&request("late", Want::Any, Want::No), START, 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("no free IPv6 address in 2001:db8::/111: {usable} in use, 0 cooling down")
    );
    let usage = ipam.usage(START);
    assert_eq!((usage[0].allocated, usage[0].capacity), (usable, usable));
}

#[test]
fn refusals_say_what_is_wrong_and_when_to_try_again() {
    let (pools6, pools4) = (["2001:db8::/64"], ["192.0.2.0/24", "198.51.100.0/30"]);
    let mut ipam = ipam_with(&pools6, &pools4, &["192.0.2.2", "2001:db8::2"]);
    ipam.allocate(&request("db", within(&["2001:db8::77/128"]), within(&["192.0.2.77/32"])), START, 0)
        .unwrap();
    ipam.adopt(allocation("old", &["192.0.2.78"])).unwrap();
    ipam.allocate(&request("web", Want::No, within(&["198.51.100.0/30"])), START, 0).unwrap();
    let v6 = |net: &str| request("new", within(&[net]), Want::No);
    let v4 = |net: &str| request("new", Want::No, within(&[net]));
    let table = [
        (
            v4("192.0.2.0/32"),
            "address 192.0.2.0 cannot be given to a pod: it is the network address of the pool",
        ),
        (
            v4("192.0.2.1/32"),
            "address 192.0.2.1 cannot be given to a pod: it is the gateway address of the pool",
        ),
        (
            v4("192.0.2.255/32"),
            "address 192.0.2.255 cannot be given to a pod: it is the last address of the pool",
        ),
        (v4("192.0.2.2/32"), "address 192.0.2.2 cannot be given to a pod: it is an address of this node"),
        (
            v6("2001:db8::2/128"),
            "address 2001:db8::2 cannot be given to a pod: it is an address of this node",
        ),
        (
            v6("2001:db8::/128"),
            "address 2001:db8:: cannot be given to a pod: it is the subnet-router anycast address (RFC 4291)",
        ),
        (
            v6("2001:db8::200:5eff:fe00:5213/128"),
            "address 2001:db8::200:5eff:fe00:5213 cannot be given to a pod: it has a reserved interface \
             identifier (RFC 5453)",
        ),
        (
            v6("2001:db8::fdff:ffff:ffff:fffe/128"),
            "address 2001:db8::fdff:ffff:ffff:fffe cannot be given to a pod: it is a reserved subnet anycast \
             address (RFC 2526)",
        ),
        (
            v4("192.0.2.0/31"),
            "192.0.2.0/31 has no IPv4 address for a pod: all are reserved or the node's own",
        ),
        (
            v6("2001:db8::200:5eff:fe00:0/112"),
            "2001:db8::200:5eff:fe00:0/112 has no IPv6 address for a pod: all are reserved or the node's own",
        ),
        (
            v4("203.0.113.0/24"),
            "annotation flock.fritzlab.net/cidr4: none of the prefixes 203.0.113.0/24 lies in a pool of this node: 192.0.2.0/24, 198.51.100.0/30",
        ),
        (request("new", Want::No, Want::No), "attachment new/eth0 has no address family"),
    ];
    for (request, expected) in table {
        let refused = ipam.allocate(&request, START, 0).unwrap_err();
        assert_eq!((refused.to_string().as_str(), refused.retry()), (expected, Retry::Never));
    }
    let table = [
        (v4("192.0.2.77/32"), "address 192.0.2.77 is held by pod shop/db (attachment db/eth0)"),
        (v6("2001:db8::77/128"), "address 2001:db8::77 is held by pod shop/db (attachment db/eth0)"),
        (v4("192.0.2.78/32"), "address 192.0.2.78 is held by attachment old/eth0"),
        (v4("198.51.100.0/30"), "no free IPv4 address in 198.51.100.0/30: 1 in use, 0 cooling down"),
    ];
    for (request, expected) in table {
        let refused = ipam.allocate(&request, START, 0).unwrap_err();
        assert_eq!((refused.to_string().as_str(), refused.retry()), (expected, Retry::Later));
    }
    let refused = ipam_with(&[], &[], &[]).allocate(&v6("2001:db8::/64"), START, 0).unwrap_err();
    assert_eq!((refused.to_string().as_str(), refused.retry()), ("this node has no IPv6 pool", Retry::Never));
}

#[test]
fn a_released_address_that_became_the_nodes_own_is_counted_as_cooling() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/29"], &[]);
    for name in ["a", "b", "c", "d", "e"] {
        v4(&mut ipam, name, START);
    }
    ipam.release(&id("c"), START);
    let pools = Pools { v6: vec![], v4: vec!["192.0.2.0/29".parse().unwrap()] };
    ipam.reconfigure(pools, [ip("192.0.2.4")].into());
    let refused = ipam.allocate(&request("f", Want::No, Want::Any), START, 0).unwrap_err();
    assert_eq!(refused.to_string(), "no free IPv4 address in 192.0.2.0/29: 4 in use, 1 cooling down");
}

#[test]
fn allocations_stay_when_the_pools_change() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/24"], &[]);
    v4(&mut ipam, "a", START);
    ipam.reconfigure(Pools { v6: vec![], v4: vec!["198.51.100.0/24".parse().unwrap()] }, BTreeSet::new());
    assert_eq!(ipam.holder(ip("192.0.2.2")).map(|it| &it.attachment), Some(&id("a")));
    assert_eq!(v4(&mut ipam, "b", START), "198.51.100.2");
    // The address of another time is still nobody else's when the pool comes back.
    ipam.reconfigure(Pools { v6: vec![], v4: vec!["192.0.2.0/24".parse().unwrap()] }, BTreeSet::new());
    assert_eq!(v4(&mut ipam, "c", START), "192.0.2.3");
}

#[test]
fn usage_counts_what_pods_hold_what_cools_and_what_there_is() {
    let mut ipam =
        ipam_with(&["2001:db8::/120"], &["192.0.2.0/29", "198.51.100.0/24"], &["192.0.2.6", "192.0.2.1"]);
    for name in ["a", "b", "c"] {
        ipam.allocate(&request(name, Want::Any, Want::Any), START, 3).unwrap();
    }
    ipam.release(&id("b"), START);
    let usage = |cidr: &str, allocated, cooling, capacity| PoolUsage {
        cidr: cidr.parse().unwrap(),
        allocated,
        cooling,
        capacity,
    };
    let expected = |cooling| {
        [
            usage("2001:db8::/120", 2, cooling, 255),
            usage("192.0.2.0/29", 2, cooling, 4), // the node has .6 too; .1 is reserved anyhow
            usage("198.51.100.0/24", 0, 0, 253),
        ]
    };
    assert_eq!(ipam.usage(START), expected(1));
    assert_eq!(ipam.usage(START.after(COOLDOWN)), expected(0));
}

#[test]
fn adopting_believes_everything_but_a_second_holder() {
    let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &["192.0.2.9"]);
    v4(&mut ipam, "a", START);
    ipam.release(&id("a"), START);
    // Cooling, outside every pool, the node's own: it is so, whatever should be.
    ipam.adopt(allocation("b", &["2001:db8:ffff::1", "192.0.2.2"])).unwrap();
    ipam.adopt(allocation("c", &["192.0.2.9"])).unwrap();
    assert_eq!(v4(&mut ipam, "d", START.after(COOLDOWN)), "192.0.2.3");

    let before = ipam.snapshot("boot");
    let refused = ipam.adopt(allocation("e", &["2001:db8::5", "192.0.2.2"])).unwrap_err();
    assert_eq!(
        (refused.to_string().as_str(), refused.retry()),
        ("address 192.0.2.2 of attachment e/eth0 is held by attachment b/eth0", Retry::Later)
    );
    let refused = ipam.adopt(allocation("e", &[])).unwrap_err();
    assert_eq!(refused.to_string(), "attachment e/eth0 has no address family");
    assert_eq!(ipam.snapshot("boot"), before);

    // The record of an attachment is replaced as a whole.
    ipam.adopt(allocation("b", &["192.0.2.20"])).unwrap();
    assert_eq!(ipam.holder(ip("2001:db8:ffff::1")), None);
    assert_eq!(v4(&mut ipam, "f", START.after(COOLDOWN)), "192.0.2.2");
}

#[test]
fn the_generation_counts_changes_and_nothing_else() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/30"], &[]);
    let generation = |ipam: &Ipam| ipam.snapshot("boot").generation;
    let mut last = generation(&ipam);
    let mut changed = |ipam: &Ipam| std::mem::replace(&mut last, generation(ipam)) != generation(ipam);
    v4(&mut ipam, "a", START);
    assert!(changed(&ipam));
    v4(&mut ipam, "a", START);
    assert!(ipam.allocate(&request("b", Want::No, Want::Any), START, 0).is_err());
    assert!(!changed(&ipam));
    assert!(ipam.commit(&id("a")));
    assert!(changed(&ipam));
    assert!(ipam.commit(&id("a")) && !ipam.commit(&id("b")));
    let same = ipam.get(&id("a")).unwrap().clone();
    ipam.adopt(same).unwrap();
    assert_eq!(ipam.release(&id("b"), START), None);
    assert!(!changed(&ipam));
    assert!(ipam.release(&id("a"), START).is_some());
    assert!(changed(&ipam));
    ipam.adopt(allocation("c", &["192.0.2.1"])).unwrap();
    assert!(changed(&ipam));
}

#[test]
fn a_snapshot_reads_as_documented() {
    let mut ipam = ipam_with(&["2001:db8::/127"], &["192.0.2.0/24"], &[]);
    ipam.allocate(&request("b", Want::Any, Want::Any), START, 0).unwrap();
    ipam.allocate(&request("a", Want::No, Want::Any), START, 0).unwrap();
    ipam.commit(&id("b"));
    ipam.allocate(&request("c", Want::No, Want::Any), START, 0).unwrap();
    ipam.release(&id("c"), START);
    let expected = serde_json::json!({
        "version": 1,
        "bootId": "5f2c",
        "generation": 5,
        "allocations": [
            { "attachment": "a/eth0", "pod": "shop/a", "v4": "192.0.2.3", "phase": "pending" },
            {
                "attachment": "b/eth0", "pod": "shop/b",
                "v6": "2001:db8::1", "v4": "192.0.2.2", "phase": "committed",
            },
        ],
        "cooling": [{ "address": "192.0.2.4", "since": 1_000_000 }],
    });
    assert_eq!(serde_json::to_value(ipam.snapshot("5f2c")).unwrap(), expected);
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let snapshot = |allocations: &[Allocation], cooling: &[&str]| Snapshot {
        version: Snapshot::VERSION,
        boot_id: "boot".to_owned(),
        generation: 1,
        allocations: allocations.to_vec(),
        cooling: cooling.iter().map(|text| Cooling { address: ip(text), since: START }).collect(),
    };
    let (a, b) = (allocation("a", &["192.0.2.2"]), allocation("b", &["192.0.2.2"]));
    let table = [
        (Snapshot { version: 0, ..snapshot(&[], &[]) }, "version 0 is not 1"),
        (
            Snapshot { generation: u64::MAX, ..snapshot(&[], &[]) },
            "generation 18446744073709551615 cannot have been counted",
        ),
        (snapshot(&[a.clone(), a.clone()], &[]), "attachment a/eth0 is there twice"),
        (
            snapshot(&[a.clone(), b], &[]),
            "address 192.0.2.2 of attachment b/eth0 is held by attachment a/eth0",
        ),
        (snapshot(&[allocation("a", &[])], &[]), "attachment a/eth0 has no address family"),
        (snapshot(&[a], &["192.0.2.2"]), "address 192.0.2.2 is cooling down and held by a/eth0"),
        (snapshot(&[], &["2001:db8::1", "2001:db8::1"]), "address 2001:db8::1 is cooling down twice"),
    ];
    for (snapshot, reason) in table {
        let refused = Ipam::restore(snapshot).unwrap_err();
        assert_eq!(
            (refused.to_string(), refused.retry()),
            (format!("snapshot refused: {reason}"), Retry::Never)
        );
        assert!(matches!(refused, IpamError::BadSnapshot { .. }));
    }
}
