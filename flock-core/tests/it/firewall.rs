//! The firewall beside links and addresses: when a pod is shut, when it is opened, and what survives what.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use flock_core::app::{AttachError, FirewallSynced, Node};
use flock_core::ids::IfName;
use flock_core::policy::{Action, NetworkPolicy, Peer, Place, PolicyKey, Rule, Ruleset, Shut, Stamp};
use flock_core::ports::NodeFacts;
use flock_core::selector::{LabelSelector, LabelSelectorSpec};
use flock_core::testing::{FirewallCall, pod_view};

use crate::world::*;

/// A policy of namespace `ns` that selects the pods with `app=NAME` and lets nothing in.
fn deny(name: &str) -> NetworkPolicy {
    let spec = LabelSelectorSpec {
        match_labels: [("app".to_owned(), name.to_owned())].into(),
        ..LabelSelectorSpec::default()
    };
    NetworkPolicy {
        key: PolicyKey { namespace: "ns".to_owned(), name: name.to_owned() },
        subject: LabelSelector::validate(&spec, "podSelector", &mut Vec::new()),
        ingress: Some(Vec::new()),
        egress: None,
    }
}

impl World {
    fn put_policy(&self, policy: NetworkPolicy) {
        self.pods.edit_policies(|view| {
            Arc::make_mut(&mut view.policies).insert(policy.key.clone(), Arc::new(policy));
        });
    }

    /// A pod `ns/NAME` with the label `app=NAME`.
    fn put_pod(&self, name: &str) {
        let mut pod = pod_view(&format!("ns/{name}"));
        pod.labels = Arc::new([("app".to_owned(), name.to_owned())].into());
        self.pods.set_pod(pod);
    }

    fn rules(&self) -> Ruleset {
        self.firewall.rules().expect("no table")
    }

    /// How the flows of the pod in this container are judged.
    fn place(&self, container: &str) -> Place {
        self.rules().pods.get(&link(container)).expect("no rules for the pod").place.clone()
    }

    fn guards(&self) -> Vec<bool> {
        let guard = |call| if let FirewallCall::Guard(guard) = call { Some(guard.shut) } else { None };
        self.firewall.take_calls().into_iter().filter_map(guard).collect()
    }
}

/// A rule that admits everything.
fn everything() -> Rule {
    Rule { peer: Peer::Any, ports: None, action: Action::Accept }
}

fn link(container: &str) -> IfName {
    id(container).host_ifname()
}

/// A node, and a pod `ns/web` in container `web`.
async fn with_web(world: &World) -> Node {
    world.put_pod("web");
    let node = world.start().await;
    add(&node, "web", &request(Some("ns/web"))).await.unwrap();
    node.sync_firewall().await.unwrap();
    node
}

#[tokio::test]
async fn a_node_without_a_table_gets_one_before_anything_is_known() {
    let world = World::new();
    world.pods.edit_policies(|view| view.complete = false);
    let node = world.start().await;
    assert_eq!(world.rules(), Ruleset { judging: true, ..Ruleset::default() });
    add(&node, "web", &request(Some("ns/web"))).await.unwrap();
    assert!(matches!(world.place("web"), Place::Shut(_)));
    assert_eq!(node.sync_firewall().await.unwrap(), FirewallSynced::Unchanged);
    world.firewall.flush();
    let node = world.start().await;
    assert_eq!(world.place("web"), Place::Shut(Shut::Starting), "also the pods of an earlier run");
    drop(node);
}

#[tokio::test]
async fn without_policies_nothing_is_judged_and_sources_are_checked() {
    let world = World::new();
    let node = with_web(&world).await;
    let held = node.report(NOW).await.allocations[0].addresses.clone();
    let rules = world.rules();
    assert!(!rules.judging);
    assert_eq!(rules.pods[&link("web")].sources, held.into_iter().collect::<BTreeSet<IpAddr>>());
    assert_eq!(rules.pods[&link("web")].place, Place::Open);
    assert_eq!(world.guards(), [false]);
    assert_eq!(node.sync_firewall().await.unwrap(), FirewallSynced::Unchanged);
    assert_eq!(world.firewall.take_calls(), []);
}

#[tokio::test]
async fn the_table_of_an_earlier_run_stays_until_policies_are_known() {
    let world = World::new();
    world.put_policy(deny("web"));
    drop(with_web(&world).await);
    let before = world.rules();
    world.pods.edit_policies(|view| view.complete = false);
    world.firewall.take_calls();
    let node = world.start().await;
    assert_eq!(node.sync_firewall().await.unwrap(), FirewallSynced::Unchanged);
    assert_eq!(world.rules(), before);
    assert_eq!(world.firewall.take_calls(), []);
    world.pods.set_pods_pending(true);
    world.pods.edit_policies(|view| view.complete = true);
    assert_eq!(
        node.sync_firewall().await.unwrap(),
        FirewallSynced::Unchanged,
        "who the pods are is not known"
    );
    world.pods.set_pods_pending(false);
    assert_eq!(node.sync_firewall().await.unwrap(), FirewallSynced::Unchanged, "it is what is wanted");
    assert_eq!(node.watch_firewall(false).await.unwrap(), None);
    assert_eq!(world.firewall.take_calls(), [], "nothing was written");
    world.put_policy(deny("other"));
    world.put_policy(NetworkPolicy { egress: Some(Vec::new()), ..deny("web") });
    assert!(matches!(node.sync_firewall().await.unwrap(), FirewallSynced::Updated(_)));
}

#[tokio::test]
async fn what_was_changed_while_no_agent_ran_is_put_right() {
    let world = World::new();
    world.put_policy(deny("web"));
    drop(with_web(&world).await);
    let before = world.rules();
    world.firewall.tamper(|rules| {
        rules.chains.values_mut().for_each(|chain| Arc::make_mut(chain).rules.push(everything()));
    });
    let node = world.start().await;
    node.sync_firewall().await.unwrap();
    assert!(node.watch_firewall(false).await.unwrap().is_some());
    assert_eq!(node.sync_firewall().await.unwrap(), FirewallSynced::Replaced);
    assert_eq!(world.rules(), before);
}

#[tokio::test]
async fn a_pod_a_policy_selects_is_shut_until_its_rules_are_there() {
    let world = World::new();
    world.put_policy(deny("web"));
    world.put_pod("web");
    world.put_pod("other");
    let node = world.start().await;
    add(&node, "other", &request(Some("ns/other"))).await.unwrap();
    add(&node, "web", &request(Some("ns/web"))).await.unwrap();
    assert_eq!(world.guards(), [false, true]);
    assert!(matches!(world.place("web"), Place::Shut(_)));
    assert_eq!(world.place("other"), Place::Open);
    node.sync_firewall().await.unwrap();
    assert!(matches!(world.place("web"), Place::Judged(_)));
    add(&node, "web", &request(Some("ns/web"))).await.unwrap();
    assert!(matches!(world.place("web"), Place::Judged(_)), "a repeated ADD changes nothing");
}

#[tokio::test]
async fn a_pod_whose_labels_are_not_known_is_shut_where_a_policy_may_select_it() {
    let world = World::new();
    world.put_policy(deny("web"));
    let node = world.start().await;
    for (container, pod) in
        [("known-to-nobody", Some("ns/x")), ("elsewhere", Some("free/x")), ("nameless", None)]
    {
        let asked = flock_core::app::AttachRequest { annotations: Some([].into()), ..request(pod) };
        add(&node, container, &asked).await.unwrap();
    }
    assert_eq!(world.guards(), [true, false, false]);
    node.sync_firewall().await.unwrap();
    assert_eq!(world.place("known-to-nobody"), Place::Shut(Shut::Unknown));
    assert_eq!(world.place("elsewhere"), Place::Open);
    assert_eq!(world.place("nameless"), Place::Open);
}

#[tokio::test]
async fn an_add_under_a_policy_that_is_not_known_wholly_yet_is_shut() {
    let world = World::new();
    let node = with_web(&world).await;
    assert!(!world.rules().judging);
    world.put_policy(deny("late"));
    world.pods.edit_policies(|view| view.complete = false);
    world.put_pod("late");
    add(&node, "late", &request(Some("ns/late"))).await.unwrap();
    assert!(world.rules().judging, "or being shut would mean nothing");
    assert!(matches!(world.place("late"), Place::Shut(_)));
    assert_eq!(world.place("web"), Place::Open, "what was in force stays so");
    world.pods.edit_policies(|view| view.complete = true);
    node.sync_firewall().await.unwrap();
    assert!(matches!(world.place("late"), Place::Judged(_)));
}

#[tokio::test]
async fn an_add_without_firewall_leaves_nothing() {
    let world = World::new();
    let node = world.start().await;
    world.firewall.fail_next("add elements");
    let error = add(&node, "web", &request(Some("ns/web"))).await.unwrap_err();
    assert!(matches!(error, AttachError::Firewall(_)), "{error}");
    node.sync_firewall().await.unwrap();
    world.assert_empty(&node).await;
    assert_eq!(world.rules().pods.len(), 0);
}

#[tokio::test]
async fn an_add_after_the_table_was_removed_writes_it_first() {
    let world = World::new();
    world.put_policy(deny("web"));
    let node = with_web(&world).await;
    world.firewall.flush();
    world.put_pod("other");
    add(&node, "other", &request(Some("ns/other"))).await.unwrap();
    assert!(matches!(world.place("web"), Place::Judged(_)));
    assert_eq!(world.place("other"), Place::Open);
}

#[tokio::test]
async fn flows_of_released_addresses_are_forgotten_before_their_next_owner() {
    let world = World::new();
    let node = with_web(&world).await;
    let held = node.report(NOW).await.allocations[0].addresses.clone();
    world.firewall.take_calls();
    del(&node, "web").await.unwrap();
    // A pin is granted at once.
    let pinned = format!("{}/32", held[1]);
    let annotations = [("flock.fritzlab.net/cidr4".to_owned(), pinned)].into();
    let asked = flock_core::app::AttachRequest { annotations: Some(annotations), ..request(Some("ns/next")) };
    add(&node, "next", &asked).await.unwrap();
    let calls = world.firewall.take_calls();
    assert_eq!(calls[0], FirewallCall::Forget(held.into_iter().collect()));
    assert!(matches!(&calls[1], FirewallCall::Guard(guard) if guard.link == link("next")), "{calls:?}");
    node.sync_firewall().await.unwrap();
    assert!(!world.rules().pods.contains_key(&link("web")));
    let again = world.firewall.take_calls();
    assert!(!again.iter().any(|call| matches!(call, FirewallCall::Forget(_))), "once: {again:?}");
}

#[tokio::test]
async fn open_flows_are_judged_again_when_something_is_taken_away() {
    let world = World::new();
    world.put_policy(deny("other"));
    let node = with_web(&world).await;
    let first = world.firewall.stamp().unwrap();
    world.put_policy(deny("web"));
    node.sync_firewall().await.unwrap();
    let second = world.firewall.stamp().unwrap();
    assert_ne!(second, first);
    world.pods.edit_policies(|view| {
        Arc::make_mut(&mut view.policies).retain(|key, _| key.name != "web");
    });
    node.sync_firewall().await.unwrap();
    assert_eq!(world.place("web"), Place::Open);
    assert_eq!(world.firewall.stamp(), Some(second), "nothing was taken away");
}

#[tokio::test]
async fn flows_that_could_not_be_judged_again_are_by_the_next_pass() {
    let world = World::new();
    world.put_policy(deny("other"));
    world.put_pod("other");
    let node = with_web(&world).await;
    add(&node, "other", &request(Some("ns/other"))).await.unwrap();
    node.sync_firewall().await.unwrap();
    let before = world.firewall.stamp().unwrap();
    // The pod comes under a chain that is there: elements first, the stamp after them.
    let mut pod = pod_view("ns/web");
    pod.labels = Arc::new([("app".to_owned(), "other".to_owned())].into());
    world.pods.set_pod(pod);
    world.firewall.pass_next();
    world.firewall.fail_next("raise the stamp");
    node.sync_firewall().await.unwrap_err();
    assert!(matches!(world.place("web"), Place::Judged(_)));
    node.sync_firewall().await.unwrap();
    assert_ne!(world.firewall.stamp(), Some(before));
    assert_eq!(node.sync_firewall().await.unwrap(), FirewallSynced::Unchanged);
}

#[tokio::test]
async fn a_pod_that_goes_leaves_the_flows_of_those_it_shared_with() {
    let world = World::new();
    world.put_policy(deny("other"));
    let node = with_web(&world).await;
    let annotations = [("flock.fritzlab.net/anycast".to_owned(), "2001:db8:a::1".to_owned())];
    for pod in ["one", "two"] {
        let asked = flock_core::app::AttachRequest {
            annotations: Some(annotations.clone().into()),
            ..request(Some(&format!("free/{pod}")))
        };
        add(&node, pod, &asked).await.unwrap();
    }
    node.sync_firewall().await.unwrap();
    let forgets = || {
        let shared: IpAddr = "2001:db8:a::1".parse().unwrap();
        let calls = world.firewall.take_calls();
        calls
            .iter()
            .any(|call| matches!(call, FirewallCall::Forget(addresses) if addresses.contains(&shared)))
    };
    let before = world.firewall.stamp();
    del(&node, "one").await.unwrap();
    node.sync_firewall().await.unwrap();
    assert!(!forgets(), "they are the other pod's too");
    assert_ne!(world.firewall.stamp(), before, "but may reach it for the first time");
    del(&node, "two").await.unwrap();
    node.sync_firewall().await.unwrap();
    assert!(forgets(), "now they are nobody's");
}

#[tokio::test]
async fn stamps_of_idle_flows_are_gone_before_their_numbers_come_again() {
    let world = World::new();
    world.put_policy(deny("other"));
    world.put_pod("web");
    let node = with_web(&world).await;
    world.firewall.take_calls();
    let mut forgotten = 0;
    for round in 0..Stamp::LAST.mark() >> 16 {
        let ingress = if round % 2 == 0 { None } else { Some(Vec::new()) };
        world.put_policy(NetworkPolicy { egress: Some(Vec::new()), ingress, ..deny("web") });
        node.sync_firewall().await.unwrap();
        world.put_policy(NetworkPolicy { egress: None, ingress: Some(Vec::new()), ..deny("web") });
        node.sync_firewall().await.unwrap();
        let calls = world.firewall.take_calls();
        forgotten += calls.iter().filter(|call| matches!(call, FirewallCall::ForgetStamps(_))).count();
        if forgotten > 0 {
            break;
        }
    }
    assert_eq!(forgotten, 1);
}

#[tokio::test]
async fn a_table_that_is_removed_or_changed_is_written_anew() {
    let world = World::new();
    world.put_policy(deny("web"));
    let node = with_web(&world).await;
    let wanted = world.rules();
    assert_eq!(node.watch_firewall(false).await.unwrap(), None);
    world.firewall.flush();
    let found = node.watch_firewall(false).await.unwrap();
    assert_eq!(found.unwrap(), "the nftables table inet flock was removed");
    assert_eq!(node.sync_firewall().await.unwrap(), FirewallSynced::Replaced);
    assert_eq!(world.rules(), wanted);
    assert_eq!(node.watch_firewall(false).await.unwrap(), None);
    world.firewall.disturb();
    assert_eq!(node.watch_firewall(false).await.unwrap(), None, "somebody else's table");
    world.firewall.tamper(|rules| rules.pods.clear());
    assert!(node.watch_firewall(false).await.unwrap().is_some());
    node.sync_firewall().await.unwrap();
    assert_eq!(world.rules(), wanted);
}

#[tokio::test]
async fn a_table_that_is_removed_before_policies_are_known_comes_back_shut() {
    let world = World::new();
    world.put_policy(deny("web"));
    drop(with_web(&world).await);
    world.pods.edit_policies(|view| view.complete = false);
    let node = world.start().await;
    world.firewall.flush();
    node.watch_firewall(false).await.unwrap();
    node.sync_firewall().await.unwrap();
    assert_eq!(world.place("web"), Place::Shut(Shut::Starting));
}

#[tokio::test]
async fn ipvs_is_said() {
    let world = World::new();
    world.kernel.set_node(NodeFacts { ipvs: true, ..NodeFacts::default() });
    let node = with_web(&world).await;
    let report = node.report(NOW).await;
    let enforced = report.status.conditions.iter().find(|it| it.kind == "PolicyEnforced").unwrap();
    assert_eq!((enforced.status, enforced.reason.as_str()), (false, "IPVS"));
}

#[tokio::test]
async fn a_policy_that_cannot_be_written_shuts_its_own_pods_only() {
    let world = World::new();
    let node = with_web(&world).await;
    world.put_pod("other");
    add(&node, "other", &request(Some("ns/other"))).await.unwrap();
    node.sync_firewall().await.unwrap();
    let mut bad = deny("web");
    bad.egress = Some(Vec::new());
    world.put_policy(bad);
    world.put_policy(deny("other"));
    world.firewall.refuse_chains_of(&link("web"));
    node.sync_firewall().await.unwrap_err();
    assert_eq!(world.place("web"), Place::Shut(Shut::Failed));
    assert!(matches!(world.place("other"), Place::Judged(_)));
    node.sync_firewall().await.unwrap_err();
    assert_eq!(node.readiness(), Ok(()), "pods can be attached all the same");
    let report = node.report(NOW).await;
    let enforced = report.status.conditions.iter().find(|it| it.kind == "PolicyEnforced").unwrap();
    assert_eq!((enforced.status, enforced.reason.as_str()), (false, "Failed"));
    let told: Vec<_> =
        world.status.events().into_iter().map(|event| (event.pod.to_string(), event.reason)).collect();
    assert_eq!(told, [("ns/web".to_owned(), "PolicyNotWritten")], "once");
    world.firewall.refuse_none();
    node.retry_firewall().await;
    node.sync_firewall().await.unwrap();
    assert!(matches!(world.place("web"), Place::Judged(_)));
}
