//! Policies of the API server, and what is watched for them.

use std::sync::Arc;

use flock_core::policy::{Labels, NetworkPolicy, PolicyKey, PolicyView};
use flock_core::ports::{Demand, PodSource};
use flock_core::selector::LabelSelectorSpec;
use flock_k8s::testing::{Answer, FakeApiServer, Mood, Request};
use serde_json::{Value, json};

use crate::bench::{namespace_of, policy_of, soon};
use crate::cluster::{Cluster, TIMING, pod};

const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const DEMAND: Demand = Demand { namespaces: false, policies: true };

fn deny(name: &str) -> (PolicyKey, Value) {
    let key = PolicyKey { namespace: "default".to_owned(), name: name.to_owned() };
    let object = policy_of(&key, &LabelSelectorSpec::default());
    (key, object)
}

fn remote(name: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["nodeName"] = json!("node-b");
    pod["status"]["podIPs"] = json!([{"ip": "2001:db8::7"}]);
    pod
}

/// Requests for a kind: of pods those of other nodes only.
fn asked(api: &FakeApiServer, path: &str, verb: &str) -> Vec<Request> {
    let mut requests = api.requests();
    let elsewhere = |it: &Request| it.query.get("fieldSelector").is_some_and(|it| it.contains("!="));
    requests.retain(|it| it.path == path && it.verb() == verb && (!path.ends_with("/pods") || elsewhere(it)));
    requests
}

async fn until(cluster: &Cluster, holds: impl Fn(&PolicyView) -> bool) -> Arc<PolicyView> {
    soon(async {
        loop {
            let view = cluster.source.policies();
            if holds(&view) {
                return view;
            }
            cluster.source.policies_changed(view.revision).await;
        }
    })
    .await
}

/// A cluster with one policy, one namespace and the remote pod `one`, of which everything is known and watched.
async fn known() -> Cluster {
    let cluster = Cluster::new().await;
    cluster.api.put(namespace_of("default", &Labels::default()));
    cluster.api.put(remote("one"));
    cluster.api.put(deny("deny").1);
    cluster.source.demand(DEMAND);
    until(&cluster, |view| view.complete).await;
    cluster.api.eventually("all is watched", |api| api.watching() == 6);
    cluster
}

fn names(view: &PolicyView) -> Vec<&str> {
    view.pods.keys().map(flock_core::ids::PodKey::name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_watched_for_policies_before_they_are_demanded() {
    let cluster = Cluster::new().await;
    cluster.api.put(deny("deny").1);
    cluster.api.eventually("all is watched", |api| api.watching() == 3);
    assert_eq!(*cluster.source.policies(), PolicyView::default());
    assert!(asked(&cluster.api, POLICIES, "list").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_policy_makes_namespaces_and_pods_be_listed() {
    let cluster = Cluster::new().await;
    cluster.api.put(namespace_of("default", &Labels::default()));
    cluster.api.put(remote("one"));
    cluster.source.demand(DEMAND);
    let view = until(&cluster, |view| view.complete).await;
    assert!(view.policies.is_empty() && view.namespaces.is_empty() && view.pods.is_empty());
    cluster.api.eventually("policies are watched", |api| api.watching() == 4);
    assert!(asked(&cluster.api, "/api/v1/pods", "list").is_empty());
    assert!(asked(&cluster.api, "/api/v1/namespaces", "list").is_empty());

    cluster.api.plan_always("list", "/namespaces", Answer::Status(500));
    let (key, policy) = deny("deny");
    cluster.api.put(policy);
    let view = until(&cluster, |view| !view.pods.is_empty()).await;
    assert!(view.policies.contains_key(&key));
    assert!(!view.complete, "namespaces are not known");
    cluster.api.as_ever();
    let view = until(&cluster, |view| view.complete).await;
    assert_eq!(view.namespaces["default"]["kubernetes.io/metadata.name"], "default");
    assert_eq!(names(&view), ["one"]);
    let lists = asked(&cluster.api, "/api/v1/pods", "list");
    assert_eq!(lists[0].query["fieldSelector"], "spec.nodeName!=node-a");
    assert_eq!(lists[0].query["limit"], "500");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_policy_takes_namespaces_and_pods_with_it() {
    let cluster = known().await;
    cluster.api.put(deny("other").1);
    until(&cluster, |view| view.policies.len() == 2).await;
    cluster.api.delete("networkpolicies", Some("default"), "deny");
    let view = until(&cluster, |view| view.policies.len() == 1).await;
    assert_eq!((view.complete, view.pods.len()), (true, 1));
    cluster.api.delete("networkpolicies", Some("default"), "other");
    let view = until(&cluster, |view| view.pods.is_empty() && view.namespaces.is_empty()).await;
    assert!(view.complete && view.policies.is_empty());
    cluster.api.eventually("they are not watched", |api| api.watching() == 4);
    cluster.api.put(deny("deny").1);
    until(&cluster, |view| view.complete && view.pods.len() == 1 && view.namespaces.len() == 1).await;
    cluster.source.demand(Demand::default());
    let view = until(&cluster, |view| view.policies.is_empty()).await;
    assert!(!view.complete);
    cluster.api.eventually("nothing is watched for policies", |api| api.watching() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_claims_need_stay_when_the_last_policy_goes() {
    let cluster = known().await;
    assert!(cluster.view().namespaces.is_empty(), "no claim needs them");
    cluster.source.demand(Demand { namespaces: true, ..DEMAND });
    assert!(cluster.view().namespaces.contains_key("default"), "they are known already");
    cluster.api.delete("networkpolicies", Some("default"), "deny");
    until(&cluster, |view| view.pods.is_empty()).await;
    cluster.api.eventually("pods are not watched", |api| api.watching() == 5);
    assert!(cluster.view().namespaces.contains_key("default"));
    assert_eq!(asked(&cluster.api, "/api/v1/namespaces", "list").len(), 1, "one watch for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_other_nodes_and_the_rest_do_not_wake_each_other() {
    let cluster = known().await;
    let (view, policies) = (cluster.view(), cluster.source.policies());
    cluster.api.put(remote("two"));
    until(&cluster, |view| view.pods.len() == 2).await;
    cluster.api.put(namespace_of("other", &Labels::default()));
    until(&cluster, |view| view.namespaces.len() == 2).await;
    cluster.api.delete("pods", Some("default"), "one");
    let after = until(&cluster, |view| view.pods.len() == 1).await;
    assert_eq!(after.revision.0, policies.revision.0 + 3);
    assert!(Arc::ptr_eq(&cluster.view(), &view), "a pod of another node");
    cluster.api.put(pod("own"));
    cluster.until_pods(&["own"]).await;
    assert!(Arc::ptr_eq(&cluster.source.policies(), &after), "a pod of this node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_was_never_readable_is_closed() {
    let cluster = known().await;
    let (key, mut odd) = deny("odd");
    odd["spec"]["ingress"] = json!([{"from": [{"domains": ["example.com"]}]}]);
    cluster.api.put(odd.clone());
    let view = until(&cluster, |view| view.policies.contains_key(&key)).await;
    assert_eq!(*view.policies[&key], NetworkPolicy::closed(key.clone()));
    assert!(view.complete);
    let meaning = "until it can be read nothing passes to and from the pods of its namespace";
    let seen = cluster.until(|view| !view.problems.is_empty()).await;
    let [problem] = &seen.problems[..] else { panic!("{:?}", seen.problems) };
    assert!(problem.starts_with("NetworkPolicy default/odd: spec.ingress[0].from[0].domains: unknown field"));
    assert!(problem.ends_with(meaning), "{problem}");
    // It is no last good state.
    odd["spec"]["ingress"] = json!([{"from": [{}]}]);
    cluster.api.put(odd.clone());
    let seen = cluster.until(|view| view.problems[0].contains("names nobody")).await;
    assert!(seen.problems[0].ends_with(meaning), "{:?}", seen.problems);

    cluster.api.put(deny("odd").1);
    cluster.until(|view| view.problems.is_empty()).await;
    let view = until(&cluster, |view| view.policies[&key].egress.is_none()).await;
    cluster.api.put(odd);
    let seen = cluster.until(|view| !view.problems.is_empty()).await;
    assert!(seen.problems[0].ends_with("; its last good state stays"), "{:?}", seen.problems);
    assert_eq!(cluster.source.policies(), view);
    cluster.api.delete("networkpolicies", Some("default"), "odd");
    until(&cluster, |view| view.policies.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_gone_leads_to_one_new_list_of_remote_pods() {
    let cluster = known().await;
    let before = cluster.source.policies();
    cluster.api.set_mood(Mood::Away);
    cluster.api.put(remote("two"));
    cluster.api.delete("pods", Some("default"), "one");
    cluster.api.compact();
    assert_eq!(cluster.source.policies(), before, "what was said last stays, and is complete");
    cluster.api.set_mood(Mood::Well);
    let after = until(&cluster, |view| names(view) == ["two"]).await;
    assert_eq!(after.revision.0, before.revision.0 + 1, "in one step");
    assert_eq!(asked(&cluster.api, "/api/v1/pods", "list").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_for_policies_that_are_cut_go_on_where_they_were() {
    let cluster = known().await;
    cluster.api.cut();
    cluster.api.put(remote("two"));
    cluster.api.put(deny("other").1);
    cluster.api.put(namespace_of("other", &Labels::default()));
    until(&cluster, |view| {
        (view.pods.len(), view.policies.len(), view.namespaces.len()) == (2, 2, 2) && view.complete
    })
    .await;
    for path in ["/api/v1/pods", "/api/v1/namespaces", POLICIES] {
        assert_eq!(asked(&cluster.api, path, "list").len(), 1, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_moves_or_ends_goes_and_one_that_is_bound_comes() {
    let cluster = known().await;
    let mut waiting = remote("waiting");
    waiting["spec"]["nodeName"] = Value::Null;
    cluster.api.put(waiting);
    let mut ended = remote("one");
    ended["status"]["phase"] = json!("Succeeded");
    cluster.api.put(ended);
    until(&cluster, |view| view.pods.is_empty()).await;
    cluster.api.put(remote("waiting"));
    until(&cluster, |view| names(view) == ["waiting"]).await;
    cluster.api.put(pod("waiting"));
    until(&cluster, |view| view.pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_pods_come_in_pages_and_share_what_they_have_in_common() {
    let api = FakeApiServer::start();
    api.put(deny("deny").1);
    for index in 0..1200 {
        let mut pod = remote(&format!("web-{index:04}"));
        pod["metadata"]["labels"] = json!({"app": "web"});
        pod["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 80}]);
        api.put(pod);
    }
    let cluster = Cluster::around(api, None, TIMING).await;
    cluster.source.demand(DEMAND);
    let view = until(&cluster, |view| view.complete && !view.policies.is_empty()).await;
    assert_eq!(view.pods.len(), 1200);
    assert_eq!(asked(&cluster.api, "/api/v1/pods", "list").len(), 3);
    let first = view.pods.values().next().unwrap();
    let shared = |it: &Arc<flock_core::policy::PolicyPod>| {
        Arc::ptr_eq(&it.labels, &first.labels) && Arc::ptr_eq(&it.ports, &first.ports)
    };
    assert!(view.pods.values().all(shared));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_together_show_together() {
    let cluster = known().await;
    let before = cluster.source.policies().revision.0;
    let event = |index: usize| {
        let mut pod = remote(&format!("many-{index:03}"));
        pod["metadata"]["resourceVersion"] = json!("100000");
        json!({"type": "ADDED", "object": pod}).to_string() + "\n"
    };
    let many: String = (0..200).map(event).collect();
    for _ in 0..2 {
        // Both watches of pods, whichever comes first.
        cluster.api.plan("watch", "/pods", Answer::Stream(many.clone(), flock_k8s::testing::Then::Stall));
    }
    cluster.api.cut();
    let view = until(&cluster, |view| view.pods.len() == 201).await;
    assert!(view.revision.0 - before < 200, "as many revisions as events");
}
