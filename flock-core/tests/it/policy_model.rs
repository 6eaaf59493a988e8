//! Compiled rules, interpreted as the kernel does, against what the Kubernetes API says of each packet.

use std::collections::BTreeSet;
use std::sync::Arc;

use flock_core::ids::IfName;
use flock_core::policy::{
    Compiler, End, Endpoint, Flow, Peer, Place, Ruleset, Stamp, Subject, Update, compile, guard, verdict,
};
use flock_core::testing::{Packet, passes};
use proptest::collection::vec;
use proptest::prelude::*;

mod worlds;

use worlds::{Cluster, addresses, cluster, services};

/// Everything is there that something names, and nothing else.
fn is_closed(rules: &Ruleset) -> Result<(), TestCaseError> {
    let places = rules.pods.values().map(|pod| &pod.place);
    let chains: BTreeSet<_> = places
        .filter_map(|place| match place {
            Place::Judged(gates) => Some(gates.values().copied()),
            Place::Open | Place::Shut(_) => None,
        })
        .flatten()
        .collect();
    prop_assert_eq!(chains, rules.chains.keys().copied().collect());
    let named: Vec<_> = rules.chains.values().flat_map(|chain| &chain.rules).collect();
    let peers: BTreeSet<_> = named
        .iter()
        .filter_map(|rule| match rule.peer {
            Peer::Pods(id) => Some(id),
            Peer::Any | Peer::Net { .. } => None,
        })
        .collect();
    prop_assert_eq!(peers, rules.peers.keys().copied().collect());
    let ports: BTreeSet<_> = named.iter().filter_map(|rule| rule.ports?.1).collect();
    prop_assert_eq!(ports, rules.ports.keys().copied().collect());
    let contents: BTreeSet<_> = rules.chains.values().collect();
    prop_assert_eq!(contents.len(), rules.chains.len());
    for ranges in rules.ports.values() {
        prop_assert!(!ranges.is_empty() && ranges.iter().all(|range| range.first <= range.last));
        prop_assert!(ranges.windows(2).all(|pair| pair[0].last + 1 < pair[1].first), "{:?}", ranges);
    }
    for chain in rules.chains.values().filter(|chain| chain.end == End::Refuse) {
        prop_assert!(chain.rules.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", chain);
    }
    Ok(())
}

/// What has to be true of each pod by itself.
fn pods(cluster: &Cluster, rules: &Ruleset) -> Result<(), TestCaseError> {
    let Cluster { view, pods } = cluster;
    prop_assert_eq!(rules.pods.len(), pods.len());
    prop_assert_eq!(rules.judging, !view.complete || !view.has_no_policy());
    for pod in pods {
        let rules = &rules.pods[&pod.link];
        let guard = guard(view, pod);
        prop_assert_eq!(guard.shut, rules.place != Place::Open);
        prop_assert_eq!(&guard.sources.into_iter().collect::<BTreeSet<_>>(), &rules.sources);
        prop_assert!(pod.addresses.iter().chain(&pod.anycast).all(|address| rules.sources.contains(address)));
    }
    Ok(())
}

/// Packets between all pods of the node and from and to outside, with the addresses one end judges the other by.
fn all_packets(cluster: &Cluster) -> impl Iterator<Item = Packet> {
    let (addresses, services) = (addresses(), services());
    let ends: Vec<_> = cluster.pods.iter().map(|pod| Some(pod.link.clone())).chain([None]).collect();
    let mut packets = Vec::new();
    for (index, (from, to)) in ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to))).enumerate()
    {
        // The ends judge by themselves, so it takes all addresses at one end only.
        for (at, address) in addresses.iter().enumerate() {
            let fixed = addresses[(index + at) * 7 % addresses.len()];
            for (source, destination) in [(*address, fixed), (fixed, *address)] {
                packets.extend(services.iter().map(|service| Packet {
                    from: from.clone(),
                    to: to.clone(),
                    source,
                    destination,
                    service: *service,
                }));
            }
        }
    }
    packets.into_iter()
}

fn packets(cluster: &Cluster, rules: &Ruleset) -> Result<(), TestCaseError> {
    let subject = |link: &Option<IfName>| match link {
        Some(link) => Subject::Local(cluster.pods.iter().find(|pod| pod.link == *link).unwrap()),
        None => Subject::Outside,
    };
    for packet in all_packets(cluster) {
        let flow = Flow {
            from: Endpoint { subject: subject(&packet.from), address: packet.source },
            to: Endpoint { subject: subject(&packet.to), address: packet.destination },
            service: packet.service,
        };
        let expected = verdict(&cluster.view, &cluster.pods, &flow);
        prop_assert_eq!(passes(rules, &packet), expected.passes(), "{:?}: {:?}", packet, expected);
    }
    Ok(())
}

/// What can be different, see [`mixed`].
const PARTS: u8 = 11;

/// `one` with some part of `other`.
fn mixed(one: &Cluster, other: &Cluster, part: u8) -> Cluster {
    let mut mixed = one.clone();
    match part {
        0 => mixed.view.policies = other.view.policies.clone(),
        1 => mixed.view.pods = other.view.pods.clone(),
        2 => mixed.view.namespaces = other.view.namespaces.clone(),
        3 => mixed.pods.clone_from(&other.pods),
        // A pod that comes or changes, and one that goes.
        4 => {
            let pods = Arc::make_mut(&mut mixed.view.pods);
            pods.extend(other.view.pods.iter().last().map(|(key, pod)| (key.clone(), pod.clone())));
        }
        5 => drop(Arc::make_mut(&mut mixed.view.pods).pop_first()),
        // A policy that comes or changes, and one that goes.
        6 => {
            let policies = Arc::make_mut(&mut mixed.view.policies);
            let either = other.view.policies.iter().next();
            policies.extend(either.map(|(key, policy)| (key.clone(), policy.clone())));
        }
        7 => drop(Arc::make_mut(&mut mixed.view.policies).pop_first()),
        8 => mixed.view.cluster = other.view.cluster.clone(),
        9 => {
            let policies = Arc::make_mut(&mut mixed.view.cluster);
            let either = other.view.cluster.iter().next();
            policies.extend(either.map(|(name, policy)| (name.clone(), policy.clone())));
        }
        _ => drop(Arc::make_mut(&mut mixed.view.cluster).pop_first()),
    }
    mixed
}

/// More cases than usual, since each is small.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.saturating_mul(2), ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn compiled_policies_admit_what_the_api_says(cluster in cluster()) {
        let rules = compile(&cluster.view, &cluster.pods);
        is_closed(&rules)?;
        pods(&cluster, &rules)?;
        packets(&cluster, &rules)?;
    }

    #[test]
    fn updates_that_do_not_narrow_keep_every_open_flow(
        before in cluster(),
        other in cluster(),
        part in 0..PARTS,
    ) {
        let after = mixed(&before, &other, part);
        let (written, wanted) = (compile(&before.view, &before.pods), compile(&after.view, &after.pods));
        let update = Update::between(&written, &wanted, Stamp::FIRST);
        let mut applied = written.clone();
        update.apply(&mut applied);
        prop_assert_eq!(&applied, &wanted);
        if !update.narrows(&wanted) {
            for packet in all_packets(&before) {
                let stays = [&packet.from, &packet.to]
                    .into_iter()
                    .flatten()
                    .all(|link| wanted.pods.contains_key(link));
                if stays && passes(&written, &packet) {
                    prop_assert!(passes(&wanted, &packet), "{:?} of {:#?}", packet, update);
                }
            }
        }
    }

    #[test]
    fn changes_compile_to_the_same_as_everything_anew(
        mut now in cluster(),
        changes in vec((cluster(), 0..PARTS), 1..6),
    ) {
        let mut compiler = Compiler::default();
        prop_assert_eq!(compiler.compile(&now.view, &now.pods), compile(&now.view, &now.pods));
        for (other, part) in changes {
            now = mixed(&now, &other, part);
            prop_assert_eq!(compiler.compile(&now.view, &now.pods), compile(&now.view, &now.pods));
        }
    }

    #[test]
    fn compiled_policies_do_not_depend_on_the_order_of_pods(cluster in cluster()) {
        let rules = compile(&cluster.view, &cluster.pods);
        let reversed: Vec<_> = cluster.pods.iter().rev().cloned().collect();
        prop_assert_eq!(compile(&cluster.view, &reversed), rules);
    }
}
