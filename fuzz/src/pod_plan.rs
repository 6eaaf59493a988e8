//! What a pod asks for against what a node has: [`pod_plan`], then [`Ipam::allocate`]. No target of its own: what it
//! takes is made by the parsers of others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::annotation::PodIntent;
use flock_core::claims::{Kind, Surroundings};
use flock_core::config::NodeConfig;
use flock_core::ids::{AttachmentId, NodeName};
use flock_core::ipam::{Allocation, Ipam, Phase, Pools, Request};
use flock_core::pod_plan::{PodFacts, PodPlan, pod_plan};
use flock_core::time::Timestamp;
use ipnet::{IpNet, Ipv6Net};

/// What one refusal may come to, in bytes.
const LONGEST_REFUSAL: usize = 4096;

/// The node's own addresses: in pools that the committed inputs have.
const OWN: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf001, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];

/// Plans the pod, allocates for it and for one that asks for the same, and takes both back.
pub(crate) fn check(
    intent: &PodIntent,
    pod: PodFacts<'_>,
    config: &NodeConfig,
    foreign_pools: &BTreeMap<NodeName, Vec<IpNet>>,
) {
    let around = Surroundings { node: &OWN, peers: &config.bgp.peers, foreign_pools };
    match pod_plan(intent, pod, config, &around) {
        Ok(plan) => {
            check_plan(intent, config, &around, &plan);
            check_allocations(intent, config, &plan);
        }
        Err(error) => {
            assert!(!error.refusals().is_empty());
            error.refusals().iter().for_each(|refusal| assert_short(&refusal.to_string()));
        }
    }
}

fn check_plan(intent: &PodIntent, config: &NodeConfig, around: &Surroundings<'_>, plan: &PodPlan) {
    let brings = |is: fn(&IpAddr) -> bool| intent.addresses.iter().any(is);
    let six = !config.cidr6.is_empty() || brings(IpAddr::is_ipv6);
    let four = !config.cidr4.is_empty() || brings(IpAddr::is_ipv4);
    assert_eq!(plan.families.ipv6, intent.ipv6.or(config.defaults.ipv6).unwrap_or(six), "{intent:?}");
    assert_eq!(plan.families.ipv4, intent.ipv4.or(config.defaults.ipv4).unwrap_or(four), "{intent:?}");
    assert_eq!((&plan.given, &plan.anycast), (&intent.addresses, &intent.anycast));
    for (kind, granted) in [(Kind::Addresses, &plan.given), (Kind::Anycast, &plan.anycast)] {
        for address in granted {
            assert!(!around.node.contains(address), "{address} is the node's");
            assert!(!around.peers.iter().any(|peer| peer.address == *address), "{address} is a peer's");
            let mut foreign = around.foreign_pools.values().flatten();
            assert!(!foreign.any(|pool| pool.contains(address)), "{address} is another node's");
            let mut claims = config.claims.iter().filter(|claim| claim.kinds.contains(&kind));
            let claimed = claims.any(|claim| claim.cidrs.iter().any(|net| net.contains(address)));
            assert!(claimed || config.claims.is_empty(), "{address} is granted by no claim");
        }
    }
}

fn check_allocations(intent: &PodIntent, config: &NodeConfig, plan: &PodPlan) {
    let mut ipam = Ipam::default();
    let pools = Pools { v6: config.cidr6.clone(), v4: config.cidr4.clone() };
    ipam.reconfigure(pools, OWN.into());
    let now = Timestamp::from_millis(0);
    let (one, other) = (request(plan, "one/eth0"), request(plan, "other/eth0"));
    let first = match ipam.allocate(&one, now, 0) {
        Ok(allocation) => allocation,
        Err(error) => {
            assert_short(&error.to_string());
            assert_eq!(ipam.allocations().count(), 0, "refused, and held");
            return;
        }
    };
    check_allocation(intent, config, plan, &first);
    assert_eq!(ipam.allocate(&one, now, 1).as_ref(), Ok(&first), "asked for again");
    match ipam.allocate(&other, now, u64::MAX) {
        Ok(second) => {
            assert!(plan.given.is_empty(), "given to two: {first:?} {second:?}");
            assert!(
                !first.held().any(|address| second.held().any(|it| it == address)),
                "{first:?} {second:?}"
            );
            check_allocation(intent, config, plan, &second);
        }
        Err(error) => assert_short(&error.to_string()),
    }
    assert_eq!(ipam.release(&one.attachment, now).as_ref(), Some(&first));
    assert!(first.held().all(|address| ipam.holder(address).is_none()), "released, and held");
}

fn request(plan: &PodPlan, attachment: &str) -> Request {
    plan.request(AttachmentId::parse(attachment).unwrap())
}

fn check_allocation(intent: &PodIntent, config: &NodeConfig, plan: &PodPlan, allocation: &Allocation) {
    let addresses = allocation.addresses;
    assert_eq!(allocation.phase, Phase::Pending);
    assert_eq!(addresses.v6.is_some(), plan.families.ipv6, "{allocation:?}");
    assert_eq!(addresses.v4.is_some(), plan.families.ipv4, "{allocation:?}");
    // What the pod brings along it gets: the first of each family as the one of that family.
    let first = |is: fn(&IpAddr) -> bool| plan.given.iter().copied().find(is);
    let (given6, given4) = (first(IpAddr::is_ipv6), first(IpAddr::is_ipv4));
    let is_first = |address: &IpAddr| Some(*address) == given6 || Some(*address) == given4;
    let extra: Vec<_> = plan.given.iter().copied().filter(|address| !is_first(address)).collect();
    assert_eq!(allocation.extra, extra);
    match (given6, addresses.v6) {
        (None, Some(chosen)) => check_chosen6(intent, config, plan, chosen),
        (given, address) => assert_eq!(given, address.map(IpAddr::V6)),
    }
    match (given4, addresses.v4) {
        (None, Some(chosen)) => {
            assert!(!OWN.contains(&chosen.into()), "{chosen} is the node's");
            let within = |nets: &[ipnet::Ipv4Net]| nets.iter().any(|net| net.contains(&chosen));
            assert!(within(&config.cidr4), "{chosen} is in no pool");
            assert!(
                intent.cidr4.is_empty() || within(&intent.cidr4),
                "{chosen} is not where it was asked for"
            );
        }
        (given, address) => assert_eq!(given, address.map(IpAddr::V4)),
    }
}

fn check_chosen6(intent: &PodIntent, config: &NodeConfig, plan: &PodPlan, chosen: Ipv6Addr) {
    assert!(!OWN.contains(&chosen.into()), "{chosen} is the node's");
    let around =
        |nets: &[Ipv6Net]| nets.iter().copied().filter(|net| net.contains(&chosen)).collect::<Vec<_>>();
    let pools = around(&config.cidr6);
    assert_eq!(pools.len(), 1, "{chosen} is in no pool");
    assert!(!pools.iter().any(|pool| pool.network() == chosen), "{chosen} is all zero");
    let asked = around(&intent.cidr6);
    assert!(intent.cidr6.is_empty() || !asked.is_empty(), "{chosen} is not where it was asked for");
    if let Some(embedding) = &plan.embed {
        let mut ranges = pools.iter().chain(&asked);
        assert!(
            ranges.any(|range| embedding.matches(chosen, *range) == Ok(true)),
            "{chosen} carries no identity"
        );
    }
}

fn assert_short(text: &str) {
    assert!(text.len() <= LONGEST_REFUSAL, "{} bytes: {text}", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
}
