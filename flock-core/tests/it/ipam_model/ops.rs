//! What can be done to an allocator, at random.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ids::AttachmentId;
use flock_core::iid::{Embedding, Field, Identity};
use flock_core::ipam::{Addresses, Pools, Want};
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

/// Pools of which a configuration has some: with reserved identifiers of each kind, one that is all
/// reserved, one with an odd number of host bits, the smallest there are.
pub(super) const POOLS6: [&str; 5] = [
    "2001:db8::/125",
    "2001:db8::4:0/119",
    "2001:db8:0:1:fdff:ffff:ffff:ff00/120",
    "2001:db8::200:5eff:fe00:0/125",
    "2001:db8::2:2/127",
];
pub(super) const POOLS4: [&str; 3] = ["192.0.2.0/29", "192.0.2.8/30", "198.51.100.248/29"];

/// What `cidr6` and `cidr4` ask for: pools, parts, pins, more than a pool, none.
pub(super) const WITHIN6: [&str; 9] = [
    "2001:db8::1/128",
    "2001:db8::4:11/128",
    "2001:db8::4:100/120",
    "2001:db8::/125",
    "2001:db8::4/126",
    "2001:db8::/128",
    "2001:db8::3/128",
    "2001:db8::/32",
    "2001:db8:f::/64",
];
pub(super) const WITHIN4: [&str; 8] = [
    "192.0.2.2/32",
    "192.0.2.10/32",
    "192.0.2.8/30",
    "192.0.2.4/30",
    "192.0.2.7/32",
    "192.0.2.3/32",
    "192.0.2.0/24",
    "203.0.113.0/24",
];

/// Addresses the node may have; two of them are reserved as well.
pub(super) const NODE: [&str; 5] = ["2001:db8::5", "2001:db8::", "192.0.2.3", "192.0.2.1", "203.0.113.1"];

#[derive(Debug, Clone)]
pub(super) enum Op {
    Allocate { who: u8, asked: Asked, entropy: u64 },
    Commit { who: u8 },
    Release { who: u8 },
    Adopt { who: u8, addresses: Addresses, extra: Vec<IpAddr>, anycast: Vec<IpAddr> },
    Wait { millis: u64 },
    Reconfigure(Pools, BTreeSet<IpAddr>),
    Restart,
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) v6: Want<Ipv6Net>,
    pub(super) v4: Want<Ipv4Net>,
    pub(super) given: Vec<IpAddr>,
    pub(super) anycast: Vec<IpAddr>,
    pub(super) embed: Option<Embedding>,
}

/// Addresses a pod may bring along: in the pools, reserved there, the node's own, outside.
pub(super) const GIVEN: [&str; 12] = [
    "2001:db8::1",
    "2001:db8::3",
    "2001:db8::5",
    "2001:db8::",
    "2001:db8::4:11",
    "2001:db8:c606::166",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.5",
    "192.0.2.7",
    "192.0.2.10",
    "203.0.113.166",
];

pub(super) fn given() -> impl Strategy<Value = Vec<IpAddr>> {
    let some = prop::sample::subsequence(GIVEN.to_vec(), 1..4).prop_shuffle();
    let some =
        (some, prop::option::weighted(0.1, any::<prop::sample::Index>())).prop_map(|(mut texts, again)| {
            texts.extend(again.map(|index| *index.get(&texts)));
            texts.into_iter().map(|text| text.parse().unwrap()).collect()
        });
    prop_oneof![3 => Just(vec![]), 1 => some]
}

pub(super) fn embed() -> impl Strategy<Value = Option<Embedding>> {
    let embedding = |pod: u8| {
        let pod = format!("pod-{pod}");
        let identity = Identity { namespace: "shop", pod: &pod, image: None };
        Embedding::new(&[Field::Pod], &identity).unwrap()
    };
    prop_oneof![3 => Just(None), 1 => (0_u8..3).prop_map(move |pod| Some(embedding(pod)))]
}

pub(super) fn attachment(who: u8) -> AttachmentId {
    AttachmentId::parse(&format!("c{who}/eth0")).unwrap()
}

pub(super) fn want<N: std::str::FromStr<Err: std::fmt::Debug> + Clone + std::fmt::Debug + 'static>(
    nets: &'static [&'static str],
) -> impl Strategy<Value = Want<N>> {
    let parse = |texts: Vec<&str>| Want::Within(texts.iter().map(|text| text.parse().unwrap()).collect());
    prop_oneof![
        2 => Just(Want::No),
        4 => Just(Want::Any),
        3 => prop::collection::vec(prop::sample::select(nets), 1..3).prop_map(parse),
    ]
}

pub(super) fn pools() -> impl Strategy<Value = (Pools, BTreeSet<IpAddr>)> {
    let some = |texts: &'static [&'static str]| {
        prop::sample::subsequence(texts.to_vec(), 0..=texts.len()).prop_shuffle()
    };
    (some(&POOLS6), some(&POOLS4), some(&NODE)).prop_map(|(v6, v4, node)| {
        let net6 = |text: &&str| text.parse::<Ipv6Net>().unwrap().trunc();
        let net4 = |text: &&str| text.parse::<Ipv4Net>().unwrap().trunc();
        let pools = Pools { v6: v6.iter().map(net6).collect(), v4: v4.iter().map(net4).collect() };
        (pools, node.iter().map(|text| text.parse().unwrap()).collect())
    })
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let who = || 0_u8..14;
    let v6 = prop::option::of((0_u128..8).prop_map(|n| Ipv6Addr::from_bits((0x2001_0db8 << 96) + n)));
    let v4 = prop::option::of((0_u32..12).prop_map(|n| Ipv4Addr::from_bits(0xc000_0200 + n)));
    let addresses = (v6, v4).prop_map(|(v6, v4)| Addresses { v6, v4 });
    prop_oneof![
        12 => (who(), want(&WITHIN6), want(&WITHIN4), given(), given(), embed(), any::<u64>()).prop_map(
            |(who, v6, v4, given, anycast, embed, entropy)| {
                Op::Allocate { who, asked: Asked { v6, v4, given, anycast, embed }, entropy }
            }
        ),
        1 => who().prop_map(|who| Op::Commit { who }),
        6 => who().prop_map(|who| Op::Release { who }),
        2 => (who(), addresses, given(), given())
            .prop_map(|(who, addresses, extra, anycast)| Op::Adopt { who, addresses, extra, anycast }),
        3 => (0_u64..20_000).prop_map(|millis| Op::Wait { millis }),
        1 => pools().prop_map(|(pools, node)| Op::Reconfigure(pools, node)),
        1 => Just(Op::Restart),
    ]
}
