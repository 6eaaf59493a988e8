//! What comes before and after NetworkPolicy.

use std::sync::Arc;

use flock_core::ids::PodKey;
use flock_core::policy::{
    Action, ClusterPeer, ClusterPods, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, Labels,
    LocalIdentity, LocalPod, NetworkPolicy, PolicyKey, PolicyRule, PolicyView, PortRange, Priority, Protocol,
    compile,
};
use flock_core::selector::{LabelSelector, LabelSelectorSpec};

use super::bench::{Bench, Host, REFUSED, on_bench, talk};

fn labels(name: &str) -> Labels {
    Labels::from([("name".to_owned(), name.to_owned())])
}

fn named(name: &str) -> ClusterPods {
    let spec = LabelSelectorSpec { match_labels: labels(name), ..LabelSelectorSpec::default() };
    let pods = LabelSelector::validate(&spec, "podSelector", &mut vec![]);
    ClusterPods { pods, ..ClusterPods::default() }
}

/// A rule about the friend on port 53.
fn rule(action: Action) -> ClusterRule {
    let ports = vec![ClusterPort::Range(Protocol::Udp, PortRange { first: 53, last: 53 })];
    ClusterRule { name: None, action, peers: vec![ClusterPeer::Pods(named("friend"))], ports }
}

fn cluster(tier: ClusterTier, ingress: &[ClusterRule], egress: &[ClusterRule]) -> ClusterPolicy {
    ClusterPolicy {
        name: format!("{tier:?}"),
        tier,
        priority: Priority::new(0).unwrap(),
        subject: named("server"),
        ingress: ingress.to_vec(),
        egress: egress.to_vec(),
    }
}

/// Of the namespace of all pods here, and for all of them in both directions.
fn namespaced(admits: bool) -> NetworkPolicy {
    let everybody = PolicyRule { peers: vec![], ports: vec![] };
    let rules = if admits { vec![everybody] } else { vec![] };
    NetworkPolicy {
        key: PolicyKey { namespace: "a".to_owned(), name: "p".to_owned() },
        subject: named("server").pods,
        ingress: Some(rules.clone()),
        egress: Some(rules),
    }
}

fn local(name: &str, host: &Host) -> LocalPod {
    LocalPod {
        link: host.link.clone().unwrap(),
        addresses: host.addresses.into(),
        anycast: vec![],
        identity: LocalIdentity::Pod {
            key: PodKey::new("a", name).unwrap(),
            labels: Arc::new(labels(name)),
            ports: Arc::new([]),
            ended: false,
        },
    }
}

async fn enforce(bench: &mut Bench<'_>, pods: &[LocalPod], policy: Option<bool>, cluster: &[ClusterPolicy]) {
    let policies = policy.map(namespaced).map(|policy| (policy.key.clone(), Arc::new(policy)));
    let cluster = cluster.iter().map(|policy| (policy.name.clone(), Arc::new(policy.clone())));
    let view = PolicyView {
        complete: true,
        policies: Arc::new(policies.into_iter().collect()),
        cluster: Arc::new(cluster.collect()),
        ..PolicyView::default()
    };
    bench.narrow(compile(&view, pods)).await;
}

#[test]
fn tiers_are_asked_in_their_order() {
    use Action::{Accept, Deny, Pass};
    use ClusterTier::{Admin, Baseline};
    let both = |tier, action| {
        let rules = [rule(action)];
        cluster(tier, &rules, &rules)
    };
    let passes_first = [rule(Pass), rule(Deny)];
    // Whether a NetworkPolicy admits, what else there is, and whether the friend and others are admitted.
    let cases: Vec<(Option<bool>, Vec<ClusterPolicy>, [bool; 2])> = vec![
        (Some(false), vec![both(Admin, Accept)], [true, false]),
        (Some(true), vec![both(Admin, Deny)], [false, true]),
        (Some(false), vec![both(Admin, Pass), both(Baseline, Accept)], [false, false]),
        (Some(true), vec![cluster(Admin, &passes_first, &passes_first)], [true, true]),
        (None, vec![both(Baseline, Deny)], [false, true]),
        (Some(true), vec![both(Baseline, Deny)], [true, true]),
        (None, vec![both(Admin, Accept), both(Baseline, Deny)], [true, true]),
        (None, vec![both(Admin, Pass), both(Baseline, Deny)], [false, true]),
        // The tiers go again.
        (Some(false), vec![], [false, false]),
    ];
    on_bench(async move |bench| {
        let (server, friend, stranger) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        let pods = [local("server", &server), local("friend", &friend), local("stranger", &stranger)];
        for (policy, cluster, expected) in cases {
            enforce(bench, &pods, policy, &cluster).await;
            for (peer, is_admitted) in [&friend, &stranger].into_iter().zip(expected) {
                for family in [0, 1] {
                    for (client, at) in [(peer, &server), (&server, peer)] {
                        let (from, to) = (client.udp(family), at.udp_on(family, 53));
                        if is_admitted {
                            talk(&from, &to);
                        } else {
                            bench.blocks(&from, &to, REFUSED).await;
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn each_end_is_judged_by_its_own_tiers() {
    use Action::{Accept, Deny};
    on_bench(async |bench| {
        let (server, friend) = (bench.pod(1).await, bench.pod(2).await);
        let pods = [local("server", &server), local("friend", &friend)];
        // Out of the friend Accept, into the server Deny: the bit of one direction says nothing about the other.
        let about = |action, of| ClusterRule { peers: vec![ClusterPeer::Pods(named(of))], ..rule(action) };
        let mut out = cluster(ClusterTier::Admin, &[], &[about(Accept, "server")]);
        (out.name, out.subject) = ("out".to_owned(), named("friend"));
        let baseline = cluster(ClusterTier::Baseline, &[about(Deny, "friend")], &[]);
        enforce(bench, &pods, None, &[out, baseline]).await;
        for family in [0, 1] {
            bench.blocks(&friend.udp(family), &server.udp_on(family, 53), REFUSED).await;
            talk(&friend.udp(family), &server.udp_on(family, 54));
        }
    });
}
