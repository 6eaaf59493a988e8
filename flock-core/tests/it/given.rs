//! Addresses a pod brings along (annotation `addresses`): what they replace, who may hold them, and that
//! nobody waits for one that rests.

use std::net::IpAddr;
use std::time::Duration;

use flock_core::iid::{Embedding, Field, Identity};
use flock_core::ipam::{COOLDOWN, Ipam, Phase, PoolUsage, Pools, Request, Want};
use flock_core::ports::Retry;
use flock_core::time::Timestamp;

use crate::ipam::{START, id, ip, ipam_with, request, within};

fn bringing(name: &str, given: &[&str]) -> Request {
    Request { given: given.iter().map(|text| ip(text)).collect(), ..request(name, Want::Any, Want::Any) }
}

fn only(name: &str, given: &[&str]) -> Request {
    Request { v6: Want::No, v4: Want::No, ..bringing(name, given) }
}

fn held(ipam: &Ipam, name: &str) -> Vec<String> {
    ipam.get(&id(name)).unwrap().held().map(|address| address.to_string()).collect()
}

#[test]
fn the_first_of_each_family_replaces_the_chosen_one_and_the_rest_are_extra() {
    // What the request brings, the addresses of the result, the extra ones.
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let table: [Row<'_>; 9] = [
        (&["203.0.113.1"], &["2001:db8::1", "203.0.113.1"], &[]),
        (&["2001:db8:a::1"], &["2001:db8:a::1", "192.0.2.2"], &[]),
        (&["203.0.113.1", "2001:db8:a::1"], &["2001:db8:a::1", "203.0.113.1"], &[]),
        (&["203.0.113.1", "203.0.113.2"], &["2001:db8::1", "203.0.113.1"], &["203.0.113.2"]),
        (
            &["203.0.113.9", "2001:db8:a::9", "203.0.113.1", "2001:db8:a::1", "203.0.113.5"],
            &["2001:db8:a::9", "203.0.113.9"],
            &["203.0.113.1", "2001:db8:a::1", "203.0.113.5"],
        ),
        // Twice is once.
        (&["203.0.113.1", "203.0.113.1"], &["2001:db8::1", "203.0.113.1"], &[]),
        (&["203.0.113.1", "203.0.113.2", "203.0.113.2"], &["2001:db8::1", "203.0.113.1"], &["203.0.113.2"]),
        (&["203.0.113.1", "203.0.113.2", "203.0.113.1"], &["2001:db8::1", "203.0.113.1"], &["203.0.113.2"]),
        // Inside the pools.
        (&["192.0.2.99", "192.0.2.2"], &["2001:db8::1", "192.0.2.99"], &["192.0.2.2"]),
    ];
    for (given, addresses, extra) in table {
        let mut ipam = ipam_with(&["2001:db8::/127"], &["192.0.2.0/24"], &[]);
        let allocation = ipam.allocate(&bringing("a", given), START, 0).unwrap();
        let texts = |all: Vec<IpAddr>| all.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(texts(allocation.addresses.iter().collect()), addresses, "{given:?}");
        assert_eq!(texts(allocation.extra.clone()), extra, "{given:?}");
        assert_eq!(allocation.phase, Phase::Pending);
        for address in allocation.held() {
            assert_eq!(ipam.holder(address), Some(&allocation));
        }
    }
}

#[test]
fn nothing_is_looked_for_in_a_family_whose_address_is_given() {
    let both = ["2001:db8:a::1", "203.0.113.1"];
    // Without any pool.
    assert!(Ipam::default().allocate(&bringing("a", &both), START, 0).is_ok());
    assert!(Ipam::default().allocate(&only("a", &both), START, 0).is_ok());
    // Beside an exhausted one, of the family given only.
    let mut ipam = ipam_with(&["2001:db8::/127"], &["192.0.2.0/30"], &[]);
    ipam.allocate(&request("full", Want::Any, Want::Any), START, 0).unwrap();
    assert!(ipam.allocate(&bringing("b", &both), START, 0).is_ok());
    let refused = ipam.allocate(&bringing("c", &["203.0.113.2"]), START, 0).unwrap_err();
    assert_eq!(refused.to_string(), "no free IPv6 address in 2001:db8::/127: 1 in use, 0 cooling down");
    assert_eq!(ipam.holder(ip("203.0.113.2")), None);
    // Beside a range that matches no pool, or an identity that has no room: of no use to a family given.
    let identity = Identity { namespace: "shop", pod: "web-0", image: None };
    let embed = Some(Embedding::new(&[Field::Namespace, Field::Pod], &identity).unwrap());
    let odd = Request {
        v6: within(&["2001:db8:f::/128"]),
        v4: within(&["198.51.100.0/24"]),
        embed,
        ..bringing("d", &["2001:db8:a::4", "203.0.113.4"])
    };
    assert!(ipam.allocate(&odd, START, 0).is_ok());
    // A pool that a pod fills with what it brings says so.
    let mut ipam = ipam_with(&[], &["192.0.2.0/30"], &[]);
    ipam.allocate(&only("a", &["192.0.2.2"]), START, 0).unwrap();
    let refused = ipam.allocate(&request("b", Want::No, Want::Any), START, 0).unwrap_err();
    assert_eq!(refused.to_string(), "no free IPv4 address in 192.0.2.0/30: 1 in use, 0 cooling down");
}

#[test]
fn a_given_address_of_a_pool_is_in_use_there_extra_ones_too() {
    let mut ipam = ipam_with(&["2001:db8::/125"], &["192.0.2.0/29"], &[]);
    let given = ["203.0.113.1", "192.0.2.3", "192.0.2.5", "2001:db8:a::1", "2001:db8::4"];
    ipam.allocate(&bringing("a", &given), START, 0).unwrap();
    let usage = |ipam: &Ipam, now| {
        let line = |it: &PoolUsage| (it.cidr.to_string(), it.allocated, it.cooling, it.capacity);
        ipam.usage(now).iter().map(line).collect::<Vec<_>>()
    };
    let pools = |(six, cool6), (four, cool4)| {
        vec![("2001:db8::/125".to_owned(), six, cool6, 7), ("192.0.2.0/29".to_owned(), four, cool4, 5)]
    };
    assert_eq!(usage(&ipam, START), pools((1, 0), (2, 0)));
    // Everybody else gets the others, down to the last.
    let mut others = Vec::new();
    for name in ["b", "c", "d"] {
        let allocation = ipam.allocate(&request(name, Want::Any, Want::Any), START, 5).unwrap();
        others.extend(allocation.held().filter(IpAddr::is_ipv4).map(|address| address.to_string()));
        assert!(!allocation.addresses.contains(ip("2001:db8::4")));
    }
    assert_eq!(others, ["192.0.2.2", "192.0.2.4", "192.0.2.6"]);
    assert!(ipam.allocate(&request("e", Want::No, Want::Any), START, 0).is_err());
    ipam.release(&id("a"), START);
    assert_eq!(usage(&ipam, START), pools((3, 1), (3, 2)));
    assert_eq!(usage(&ipam, START.after(COOLDOWN)), pools((3, 0), (3, 0)));
}

#[test]
fn a_second_holder_is_refused_until_the_first_lets_go_and_then_waits_for_nothing() {
    let table = [
        ("first", vec!["203.0.113.1"], vec!["203.0.113.1"]),
        ("extra of the first", vec!["203.0.113.9", "203.0.113.1"], vec!["203.0.113.1"]),
        ("extra of the second", vec!["203.0.113.1"], vec!["203.0.113.9", "203.0.113.1"]),
        ("extra of both", vec!["203.0.113.8", "203.0.113.1"], vec!["203.0.113.9", "203.0.113.1"]),
    ];
    for (what, first, second) in table {
        let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &[]);
        ipam.allocate(&bringing("old", &first), START, 0).unwrap();
        ipam.commit(&id("old"));
        let before = ipam.snapshot("boot");
        for _ in 0..2 {
            let refused = ipam.allocate(&bringing("new", &second), START, 1).unwrap_err();
            assert_eq!(
                (refused.to_string().as_str(), refused.retry(), refused.label()),
                (
                    "address 203.0.113.1 is held by pod shop/old (attachment old/eth0)",
                    Retry::Later,
                    "address_held"
                ),
                "{what}"
            );
            assert_eq!(ipam.snapshot("boot"), before, "{what}");
        }
        ipam.release(&id("old"), START);
        // In the same millisecond.
        let allocation = ipam.allocate(&bringing("new", &second), START, 1).unwrap();
        assert!(allocation.held().any(|address| address == ip("203.0.113.1")), "{what}");
        assert_eq!(ipam.holder(ip("203.0.113.1")), Some(&allocation), "{what}");
    }
}

#[test]
fn resting_delays_neither_a_given_nor_a_pinned_address() {
    let given = ["192.0.2.77", "2001:db8::77", "192.0.2.78", "2001:db8::78"];
    let pin = |name| request(name, within(&["2001:db8::77/128"]), within(&["192.0.2.77/32"]));
    let mut ipam = ipam_with(&["2001:db8::/64"], &["192.0.2.0/24"], &[]);
    let mut now = START;
    for turn in 0..8 {
        let (name, ask) = match turn % 3 {
            0 => ("a", bringing("a", &given)),
            1 => ("b", pin("b")),
            _ => ("c", bringing("c", &["192.0.2.78", "2001:db8::77"])),
        };
        ipam.allocate(&ask, now, turn).unwrap();
        let all = held(&ipam, name);
        ipam.release(&id(name), now).unwrap();
        assert!(!all.is_empty());
        // Nobody who asks for any address gets one that rests.
        let other = ipam.allocate(&request("other", Want::Any, Want::Any), now, turn).unwrap();
        assert!(other.held().all(|address| !given.contains(&address.to_string().as_str())));
        ipam.release(&id("other"), now);
        now = now.after(Duration::from_millis(700));
    }
    // Also over a restart of the agent.
    ipam.allocate(&bringing("a", &given), now, 0).unwrap();
    ipam.release(&id("a"), now);
    let mut restarted = Ipam::restore(ipam.snapshot("boot")).unwrap();
    let pools =
        Pools { v6: vec!["2001:db8::/64".parse().unwrap()], v4: vec!["192.0.2.0/24".parse().unwrap()] };
    restarted.reconfigure(pools, [].into());
    assert!(restarted.allocate(&pin("b"), now, 0).is_ok());
}

#[test]
fn resting_starts_over_when_a_given_address_is_released_again() {
    let mut ipam = ipam_with(&[], &["192.0.2.0/29"], &[]);
    let at = |seconds| START.after(Duration::from_secs(seconds));
    let any = |ipam: &mut Ipam, now: Timestamp| {
        let allocation = ipam.allocate(&request("any", Want::No, Want::Any), now, 0).unwrap();
        ipam.release(&id("any"), now);
        allocation.addresses.v4.unwrap().to_string()
    };
    ipam.allocate(&only("a", &["192.0.2.2"]), at(0), 0).unwrap();
    ipam.release(&id("a"), at(0));
    ipam.allocate(&only("b", &["192.0.2.2"]), at(20), 0).unwrap();
    ipam.release(&id("b"), at(25));
    assert_eq!(any(&mut ipam, at(31)), "192.0.2.3");
    assert_eq!(any(&mut ipam, at(54)), "192.0.2.4");
    assert_eq!(any(&mut ipam, at(55)), "192.0.2.2");
}

#[test]
fn reserved_and_node_addresses_cannot_be_brought_along() {
    let node = ["192.0.2.9", "2001:db8::9", "203.0.113.250"];
    let mut ipam = ipam_with(&["2001:db8::/64", "2001:db8:1::ff00/120"], &["192.0.2.0/24"], &node);
    let before = ipam.snapshot("boot");
    let own = "is an address of this node";
    let table = [
        ("192.0.2.0", "is the network address of the pool"),
        ("192.0.2.1", "is the gateway address of the pool"),
        ("192.0.2.255", "is the last address of the pool"),
        ("2001:db8::", "is the subnet-router anycast address (RFC 4291)"),
        ("2001:db8:1::ff00", "is the all-zero address of the pool"),
        ("2001:db8::200:5eff:fe00:5213", "has a reserved interface identifier (RFC 5453)"),
        ("2001:db8::fdff:ffff:ffff:ff80", "is a reserved subnet anycast address (RFC 2526)"),
        ("192.0.2.9", own),
        ("2001:db8::9", own),
        ("203.0.113.250", own), // outside the pools
    ];
    for (address, why) in table {
        // Alone, as an extra one, after good ones.
        let lists =
            [vec![address], vec![address, "203.0.113.1"], vec!["203.0.113.1", "2001:db8:a::1", address]];
        for given in lists {
            let refused = ipam.allocate(&bringing("a", &given), START, 0).unwrap_err();
            assert_eq!(
                (refused.to_string(), refused.retry()),
                (format!("address {address} cannot be given to a pod: it {why}"), Retry::Never)
            );
            assert_eq!(ipam.snapshot("boot"), before, "{given:?}");
        }
    }
    // What is reserved in a pool is an ordinary address outside of it.
    for address in ["198.51.100.0", "198.51.100.255", "2001:db8:2::", "2001:db8:2::fdff:ffff:ffff:ff80"] {
        assert!(ipam.allocate(&only("b", &[address]), START, 0).is_ok(), "{address}");
        ipam.release(&id("b"), START);
    }
}

#[test]
fn a_given_address_stays_with_its_pod_when_a_pool_comes_to_cover_it() {
    let mut ipam = Ipam::default();
    ipam.allocate(&only("a", &["192.0.2.2", "192.0.2.1"]), START, 0).unwrap();
    ipam.reconfigure(Pools { v6: vec![], v4: vec!["192.0.2.0/24".parse().unwrap()] }, [].into());
    assert_eq!(held(&ipam, "a"), ["192.0.2.2", "192.0.2.1"]);
    let other = ipam.allocate(&request("b", Want::No, Want::Any), START, 0).unwrap();
    assert_eq!(other.addresses.v4, Some("192.0.2.3".parse().unwrap()));
    // Asked again, it is what it was, although .1 is the gateway's now.
    assert!(ipam.allocate(&only("a", &["192.0.2.2", "192.0.2.1"]), START, 0).is_ok());
}

#[test]
fn what_a_pod_shares_is_not_chosen_for_it_alone() {
    let mut ipam = ipam_with(&["2001:db8::/126"], &["192.0.2.0/29"], &[]);
    let shared = ["192.0.2.2", "2001:db8::1", "192.0.2.3"];
    let sharing = |name: &str| Request {
        anycast: shared.iter().map(|text| ip(text)).collect(),
        ..request(name, Want::Any, Want::Any)
    };
    for (name, chosen) in [("a", "192.0.2.4"), ("b", "192.0.2.5")] {
        let allocation = ipam.allocate(&sharing(name), START, 0).unwrap();
        assert_eq!(allocation.addresses.v4.unwrap().to_string(), chosen);
        assert_ne!(allocation.addresses.v6.unwrap().to_string(), "2001:db8::1");
        assert_eq!(allocation.anycast, shared.map(ip));
    }
    let pin = Request { v4: within(&["192.0.2.6/32"]), anycast: vec![ip("192.0.2.6")], ..sharing("c") };
    let refused = ipam.allocate(&Request { v6: Want::No, ..pin }, START, 0).unwrap_err();
    assert_eq!(
        (refused.to_string().as_str(), refused.retry()),
        (
            "address 192.0.2.6 cannot be given to a pod: it is an anycast address of the same pod",
            Retry::Never
        )
    );
    // Nothing but what is shared is left, and it does not become free by resting.
    let last = Request { v6: Want::No, v4: Want::Any, ..request("d", Want::No, Want::No) };
    assert!(ipam.allocate(&last, START, 0).is_ok());
    let late = Request { attachment: id("e"), ..last };
    let refused = ipam.allocate(&late, START, 0).unwrap_err();
    assert_eq!(refused.to_string(), "no free IPv4 address in 192.0.2.0/29: 5 in use, 0 cooling down");
    ipam.release(&id("a"), START);
    let again = ipam.allocate(&late, START, 0).unwrap();
    assert_eq!(again.addresses.v4, Some("192.0.2.4".parse().unwrap()));
}
