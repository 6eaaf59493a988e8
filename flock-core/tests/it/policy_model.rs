//! Compiled rules, interpreted as the kernel does, against what the Kubernetes API says of each packet.

use std::collections::BTreeSet;

use flock_core::policy::{Endpoint, Flow, LocalPod, Peer, Place, Ruleset, Subject, compile, guard, verdict};
use flock_core::testing::{Packet, passes};
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
    for chain in rules.chains.values() {
        prop_assert!(chain.rules.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", chain);
    }
    Ok(())
}

/// What has to be true of each pod by itself.
fn pods(cluster: &Cluster, rules: &Ruleset) -> Result<(), TestCaseError> {
    let Cluster { view, pods } = cluster;
    prop_assert_eq!(rules.pods.len(), pods.len());
    prop_assert_eq!(rules.judging, !view.complete || !view.policies.is_empty());
    for pod in pods {
        let rules = &rules.pods[&pod.link];
        let guard = guard(view, pod);
        prop_assert_eq!(guard.shut, rules.place != Place::Open);
        prop_assert_eq!(&guard.sources.into_iter().collect::<BTreeSet<_>>(), &rules.sources);
        prop_assert!(pod.addresses.iter().chain(&pod.anycast).all(|address| rules.sources.contains(address)));
    }
    Ok(())
}

fn packets(cluster: &Cluster, rules: &Ruleset) -> Result<(), TestCaseError> {
    let (addresses, services) = (addresses(), services());
    let ends: Vec<_> = cluster.pods.iter().map(Some).chain([None]).collect();
    let subject = |end| match end {
        Some(pod) => Subject::Local(pod),
        None => Subject::Outside,
    };
    let mut index: usize = 0;
    for from in &ends {
        for to in &ends {
            // The ends judge by themselves, so it takes all addresses at one end only.
            for address in &addresses {
                index += 1;
                let fixed = addresses[index * 7 % addresses.len()];
                let both = [(*address, fixed), (fixed, *address)];
                for (source, destination) in
                    both.into_iter().take(if to.is_none() && from.is_none() { 1 } else { 2 })
                {
                    for service in &services {
                        let flow = Flow {
                            from: Endpoint { subject: subject(*from), address: source },
                            to: Endpoint { subject: subject(*to), address: destination },
                            service: *service,
                        };
                        let link = |end: Option<&LocalPod>| end.map(|pod| pod.link.clone());
                        let (from, to) = (link(*from), link(*to));
                        let packet = Packet { from, to, source, destination, service: *service };
                        let expected = verdict(&cluster.view, &cluster.pods, &flow);
                        prop_assert_eq!(
                            passes(rules, &packet),
                            expected.passes(),
                            "{:?}: {:?}",
                            packet,
                            expected
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn compiled_policies_admit_what_the_api_says(cluster in cluster()) {
        let rules = compile(&cluster.view, &cluster.pods);
        is_closed(&rules)?;
        pods(&cluster, &rules)?;
        packets(&cluster, &rules)?;
    }

    #[test]
    fn compiled_policies_do_not_depend_on_the_order_of_pods(cluster in cluster()) {
        let rules = compile(&cluster.view, &cluster.pods);
        let reversed: Vec<_> = cluster.pods.iter().rev().cloned().collect();
        prop_assert_eq!(compile(&cluster.view, &reversed), rules);
    }
}
