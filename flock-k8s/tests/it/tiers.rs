//! `ClusterNetworkPolicies`: of an API server that may not know the kind, and of a manifest directory.

use std::sync::Arc;

use flock_core::policy::{Action, ClusterRule, PolicyView};
use flock_core::ports::{Demand, PodSource};
use flock_core::selector::LabelSelectorSpec;
use flock_k8s::testing::{Answer, FakeApiServer};
use serde_json::{Value, json};

use crate::bench::{Bench, cluster_policy_of, soon};
use crate::cluster::{Cluster, pod};

const PATH: &str = "/clusternetworkpolicies";
const DEMAND: Demand = Demand { namespaces: false, policies: true };

async fn until(source: &dyn PodSource, holds: impl Fn(&PolicyView) -> bool) -> Arc<PolicyView> {
    soon(async {
        loop {
            let view = source.policies();
            if holds(&view) {
                return view;
            }
            source.policies_changed(view.revision).await;
        }
    })
    .await
}

fn guard() -> Value {
    cluster_policy_of("guard", &LabelSelectorSpec::default())
}

/// With a rule that cannot be enforced.
fn naming(action: &str) -> Value {
    let mut policy = guard();
    policy["spec"]["egress"] =
        json!([{"name": "web", "action": action, "to": [{"domainNames": ["example.com"]}]}]);
    policy
}

fn problem(effect: &str) -> String {
    format!(
        "ClusterNetworkPolicy guard: spec.egress[0].to[0].domainNames [\"example.com\"] is not enforced: \
         use networks, with the prefixes of what is meant; rule spec.egress[0] \"web\" {effect}"
    )
}

fn lists(api: &FakeApiServer) -> usize {
    api.requests().iter().filter(|it| it.path.ends_with(PATH) && it.verb() == "list").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_complete_where_the_kind_is_not_installed() {
    let cluster = Cluster::new().await;
    cluster.source.demand(DEMAND);
    let view = until(&cluster.source, |view| view.complete).await;
    assert!(view.cluster.is_empty());
    cluster.api.eventually("it is looked for again and again", |api| lists(api) > 3);
    assert_eq!(cluster.source.policies(), view, "that is no news");
    assert!(cluster.view().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_group_may_say_so_in_words() {
    let cluster = Cluster::new().await;
    cluster.api.plan_always("list", PATH, Answer::Text(404));
    cluster.source.demand(DEMAND);
    until(&cluster.source, |view| view.complete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_not_complete_before_the_kind_is_listed() {
    let cluster = Cluster::new().await;
    cluster.api.define_cluster_policies(true);
    cluster.api.plan_always("list", PATH, Answer::Status(500));
    cluster.source.demand(DEMAND);
    cluster.api.eventually("it was asked for", |api| lists(api) > 2);
    assert!(!cluster.source.policies().complete);
    cluster.api.as_ever();
    until(&cluster.source, |view| view.complete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_installed_later_is_found_and_one_that_goes_is_gone() {
    let cluster = Cluster::new().await;
    cluster.source.demand(DEMAND);
    until(&cluster.source, |view| view.complete).await;
    cluster.api.define_cluster_policies(true);
    cluster.api.eventually("it is watched", |api| api.watching() == 5);
    cluster.api.put(guard());
    until(&cluster.source, |view| view.cluster.contains_key("guard")).await;
    cluster.api.define_cluster_policies(false);
    let view = until(&cluster.source, |view| view.cluster.is_empty()).await;
    assert!(view.complete);
    cluster.api.put(guard());
    until(&cluster.source, |view| view.cluster.contains_key("guard")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn either_kind_of_policy_makes_namespaces_and_pods_be_watched() {
    let cluster = Cluster::new().await;
    let mut remote = pod("one");
    remote["spec"]["nodeName"] = json!("node-b");
    cluster.api.put(remote);
    cluster.api.put(guard());
    cluster.source.demand(DEMAND);
    let view = until(&cluster.source, |view| view.complete && !view.cluster.is_empty()).await;
    assert_eq!(view.pods.len(), 1);
    cluster.api.eventually("all is watched", |api| api.watching() == 7);
    cluster.api.delete("clusternetworkpolicies", None, "guard");
    let view = until(&cluster.source, |view| view.pods.is_empty()).await;
    assert!(view.complete && view.cluster.is_empty());
    cluster.source.demand(Demand::default());
    cluster.api.eventually("nothing is watched for policies", |api| api.watching() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_be_enforced_is_closed_and_reported() {
    let cluster = Cluster::new().await;
    cluster.source.demand(DEMAND);
    for (word, action, effect) in
        [("Accept", Action::Accept, "matches nothing"), ("Pass", Action::Pass, "denies everything")]
    {
        cluster.api.put(naming(word));
        let expected = [ClusterRule::closed(Some("web".to_owned()), action)];
        until(&cluster.source, |view| view.cluster.get("guard").is_some_and(|it| it.egress == expected))
            .await;
        let seen = cluster.until(|view| view.problems == [problem(effect)]).await;
        assert_eq!(seen.problems.len(), 1);
    }
    cluster.api.put(guard());
    cluster.until(|view| view.problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_read_keeps_its_last_good_state() {
    let cluster = Cluster::new().await;
    cluster.source.demand(DEMAND);
    let mut odd = guard();
    odd["spec"]["priority"] = json!(1001);
    cluster.api.put(odd.clone());
    let problem =
        "ClusterNetworkPolicy guard: spec.priority 1001 is not a priority: use a number from 0 to 1000";
    cluster.until(|view| view.problems == [problem]).await;
    let view = until(&cluster.source, |view| view.complete).await;
    assert!(view.cluster.is_empty(), "it never was readable");
    cluster.api.put(guard());
    let view = until(&cluster.source, |view| view.complete && view.cluster.contains_key("guard")).await;
    cluster.api.put(odd);
    cluster.until(|view| view.problems == [format!("{problem}; its last good state stays")]).await;
    assert_eq!(cluster.source.policies(), view);
}

#[tokio::test]
async fn cluster_policies_of_a_directory_arrive_with_what_is_not_enforced() {
    let bench = Bench::new();
    bench.install("guard.json", naming("Deny").to_string());
    let view = until(&bench.source, |view| view.cluster.contains_key("guard")).await;
    let expected = [ClusterRule::closed(Some("web".to_owned()), Action::Deny)];
    assert_eq!(view.cluster["guard"].egress, expected);
    bench.until(|view| view.problems == [format!("guard.json:1: {}", problem("denies everything"))]).await;
    bench.install("other.json", guard().to_string());
    let twice =
        "other.json:1: ClusterNetworkPolicy guard is already defined at guard.json:1, this one is ignored";
    bench.until(|view| view.problems.contains(&twice.to_owned())).await;
    bench.remove("other.json");
    let mut odd = guard();
    odd["spec"]["tier"] = json!("admin");
    bench.install("guard.json", odd.to_string());
    let refused = "guard.json:1: ClusterNetworkPolicy guard: spec.tier \"admin\" is not a tier: write \"Admin\"; \
                   its last good content stays";
    let seen = bench.until(|view| view.problems.first().is_some_and(|it| it == refused)).await;
    assert_eq!(seen.problems.len(), 2, "{:?}", seen.problems);
    assert_eq!(bench.source.policies().cluster, view.cluster);
}

#[tokio::test]
async fn another_version_of_the_kind_is_refused_and_not_ignored() {
    let bench = Bench::new();
    let mut old = guard();
    old["apiVersion"] = json!("policy.networking.k8s.io/v1beta1");
    bench.install("guard.json", old.to_string());
    let problem = "guard.json:1: ClusterNetworkPolicy guard: apiVersion \"policy.networking.k8s.io/v1beta1\" is \
                   unknown, write policy.networking.k8s.io/v1alpha2";
    bench.until(|view| view.problems == [problem]).await;
}
