//! What every [`PodSource`] keeps to in what it says of policies.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::pod_source::{PodSourceBench, view_with};
use crate::ids::PodKey;
use crate::policy::{
    ClusterPods, ClusterPolicy, ClusterTier, Labels, NamedPort, NetworkPolicy, PolicyKey, PolicyPod,
    PolicyView, Priority, Protocol,
};
use crate::ports::{Demand, PodSource, PodView};
use crate::selector::{LabelSelector, LabelSelectorSpec};
use crate::testing::pod_view;

/// Runs every law on a bench of its own. A law that does not hold may wait for ever: give it a deadline.
pub async fn pod_policies<B: PodSourceBench>(fresh: impl AsyncFn() -> B) {
    let fresh = &fresh;
    a_policy_shows_changes_and_goes(&demanded(fresh).await).await;
    a_cluster_policy_shows_changes_and_goes(&demanded(fresh).await).await;
    a_cluster_policy_makes_pods_and_namespaces_known(&demanded(fresh).await).await;
    namespaces_show_with_the_label_of_their_name(&demanded(fresh).await).await;
    a_pod_of_another_node_shows_and_goes(&demanded(fresh).await).await;
    pods_that_are_nobody_to_policies_do_not_show(&demanded(fresh).await).await;
    a_pod_of_this_node_is_no_news_for_policies(&demanded(fresh).await).await;
    an_unchanged_policy_is_no_news(&demanded(fresh).await).await;
    what_did_not_change_is_shared(&demanded(fresh).await).await;
    nothing_is_missed_with_an_old_revision(&demanded(fresh).await).await;
}

/// A bench of which policies are demanded; there are none.
async fn demanded<B: PodSourceBench>(fresh: &impl AsyncFn() -> B) -> B {
    let bench = fresh().await;
    bench.source().demand(Demand { policies: true, ..Demand::default() });
    let view = until(bench.source(), |view| view.complete).await;
    assert!(view.policies.is_empty() && view.pods.is_empty(), "{view:?}");
    bench
}

/// Waits for a view that holds; this is how the core waits too.
async fn until(source: &dyn PodSource, holds: impl Fn(&PolicyView) -> bool) -> Arc<PolicyView> {
    loop {
        let view = source.policies();
        if holds(&view) {
            return view;
        }
        let next = source.policies_changed(view.revision).await;
        assert!(next > view.revision, "revision {next:?} after {:?}", view.revision);
        assert!(source.policies().revision >= next, "{next:?} was told of and is not there");
    }
}

/// Waits for a view that is complete and holds.
async fn complete(bench: &impl PodSourceBench, holds: impl Fn(&PolicyView) -> bool) -> Arc<PolicyView> {
    until(bench.source(), |view| view.complete && holds(view)).await
}

fn named(name: &str) -> PolicyKey {
    PolicyKey { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn selecting(app: &str) -> LabelSelectorSpec {
    let match_labels = [("app".to_owned(), app.to_owned())].into();
    LabelSelectorSpec { match_labels, ..LabelSelectorSpec::default() }
}

/// What [`PodSourceBench::put_policy`] writes.
fn denying(key: &PolicyKey, subject: &LabelSelectorSpec) -> NetworkPolicy {
    let subject = LabelSelector::validate(subject, "", &mut Vec::new());
    NetworkPolicy { key: key.clone(), subject, ingress: Some(Vec::new()), egress: None }
}

/// A pod of another node.
fn remote(name: &str) -> PodView {
    PodView { node: Some("node-b".parse().unwrap()), ..pod_view(name) }
}

/// A bench with one policy: only then anybody needs to know of namespaces and pods.
async fn with_policy(bench: &impl PodSourceBench) -> Arc<PolicyView> {
    bench.put_policy(&named("first"), &LabelSelectorSpec::default());
    complete(bench, |view| view.policies.len() == 1).await
}

async fn a_policy_shows_changes_and_goes(bench: &impl PodSourceBench) {
    let key = named("web");
    for app in ["web", "api"] {
        let seen = bench.source().policies().revision;
        let mut waiting = pin!(bench.source().policies_changed(seen));
        let poll = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(poll, Poll::Pending, "woken without a change");
        bench.put_policy(&key, &selecting(app));
        assert!(waiting.await > seen);
        let expected = denying(&key, &selecting(app));
        complete(bench, |view| view.policies.get(&key).is_some_and(|now| **now == expected)).await;
    }
    bench.remove_policy(&key);
    complete(bench, |view| view.policies.is_empty()).await;
}

async fn a_cluster_policy_shows_changes_and_goes(bench: &impl PodSourceBench) {
    for app in ["web", "api"] {
        bench.put_cluster_policy("guard", &selecting(app));
        let namespaces = LabelSelector::validate(&selecting(app), "", &mut Vec::new());
        let expected = ClusterPolicy {
            name: "guard".to_owned(),
            tier: ClusterTier::Admin,
            priority: Priority::new(7).unwrap(),
            subject: ClusterPods::of_namespaces(namespaces),
            ingress: Vec::new(),
            egress: Vec::new(),
        };
        complete(bench, |view| view.cluster.get("guard").is_some_and(|now| **now == expected)).await;
    }
    bench.remove_cluster_policy("guard");
    complete(bench, |view| view.cluster.is_empty()).await;
}

async fn a_cluster_policy_makes_pods_and_namespaces_known(bench: &impl PodSourceBench) {
    bench.put_namespace("shop", &Labels::default());
    bench.put(&remote("shop/one"));
    bench.put_cluster_policy("guard", &LabelSelectorSpec::default());
    let known = |view: &PolicyView| view.pods.len() == 1 && view.namespaces.len() == 1;
    let before = complete(bench, |view| view.cluster.len() == 1 && known(view)).await;
    bench.put(&remote("shop/two"));
    let after = complete(bench, |view| view.pods.len() == 2).await;
    assert!(Arc::ptr_eq(&before.cluster, &after.cluster), "what did not change is shared");
}

async fn namespaces_show_with_the_label_of_their_name(bench: &impl PodSourceBench) {
    bench.put_namespace("shop", &Labels::from([("team".to_owned(), "web".to_owned())]));
    with_policy(bench).await;
    let view = complete(bench, |view| view.namespaces.contains_key("shop")).await;
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let expected = [label("team", "web"), label("kubernetes.io/metadata.name", "shop")];
    assert_eq!(*view.namespaces["shop"], Labels::from(expected));
}

async fn a_pod_of_another_node_shows_and_goes(bench: &impl PodSourceBench) {
    with_policy(bench).await;
    let mut pod = remote("shop/web-0");
    pod.labels = Arc::new([("app".to_owned(), "web".to_owned())].into());
    pod.ports = [NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, number: 8080 }].into();
    pod.pod_ips = vec!["2001:db8::7".parse().unwrap(), "192.0.2.7".parse().unwrap()];
    let claim = |key: &str, value: &str| (format!("flock.fritzlab.net/{key}"), value.to_owned());
    pod.annotations = [claim("addresses", "2001:db8::a"), claim("anycast", "192.0.2.53")].into();
    bench.put(&pod);
    let view = complete(bench, |view| !view.pods.is_empty()).await;
    let expected = PolicyPod {
        key: pod.key.clone(),
        labels: Arc::clone(&pod.labels),
        ports: Arc::clone(&pod.ports),
        pod_ips: pod.pod_ips.clone(),
        claimed: vec!["2001:db8::a".parse().unwrap(), "192.0.2.53".parse().unwrap()],
    };
    assert_eq!(*view.pods[&pod.key], expected);
    // Terminating it is somebody still; ended it is not.
    pod.terminating = true;
    bench.put(&pod);
    pod.pod_ips.pop();
    bench.put(&pod);
    complete(bench, |view| view.pods.get(&pod.key).is_some_and(|it| it.pod_ips == pod.pod_ips)).await;
    (pod.ended, pod.ready) = (true, false);
    bench.put(&pod);
    complete(bench, |view| view.pods.is_empty()).await;
    bench.put(&remote("shop/web-1"));
    complete(bench, |view| view.pods.len() == 1).await;
    bench.remove(&PodKey::parse("shop/web-1").unwrap());
    complete(bench, |view| view.pods.is_empty()).await;
}

async fn pods_that_are_nobody_to_policies_do_not_show(bench: &impl PodSourceBench) {
    let host = PodView { host_network: true, ..remote("shop/host") };
    let ended = PodView { ended: true, ready: false, ..remote("shop/ended") };
    let here = PodView { node: Some("node-a".parse().unwrap()), ..pod_view("shop/here") };
    for pod in [&host, &ended, &here, &remote("shop/marker")] {
        bench.put(pod);
    }
    with_policy(bench).await;
    let view = complete(bench, |view| !view.pods.is_empty()).await;
    assert_eq!(view.pods.keys().map(PodKey::name).collect::<Vec<_>>(), ["marker"]);
}

async fn a_pod_of_this_node_is_no_news_for_policies(bench: &impl PodSourceBench) {
    let before = with_policy(bench).await;
    let pod = PodView { node: Some("node-a".parse().unwrap()), ..pod_view("shop/here") };
    bench.put(&pod);
    view_with(bench.source(), |view| view.pods.contains_key(&pod.key)).await;
    bench.put(&remote("shop/marker"));
    let after = complete(bench, |view| !view.pods.is_empty()).await;
    assert_eq!(after.revision.0, before.revision.0 + 1);
}

async fn an_unchanged_policy_is_no_news(bench: &impl PodSourceBench) {
    let before = with_policy(bench).await;
    bench.put_policy(&named("first"), &LabelSelectorSpec::default());
    bench.put_policy(&named("second"), &LabelSelectorSpec::default());
    let after = complete(bench, |view| view.policies.len() == 2).await;
    assert_eq!(after.revision.0, before.revision.0 + 1);
}

async fn what_did_not_change_is_shared(bench: &impl PodSourceBench) {
    bench.put_namespace("shop", &Labels::default());
    bench.put(&remote("shop/one"));
    with_policy(bench).await;
    let before = complete(bench, |view| view.pods.len() == 1 && view.namespaces.len() == 1).await;
    bench.put(&remote("shop/two"));
    let after = complete(bench, |view| view.pods.len() == 2).await;
    assert!(Arc::ptr_eq(&before.policies, &after.policies));
    assert!(Arc::ptr_eq(&before.namespaces, &after.namespaces));
    assert_eq!(before.pods.len(), 1, "a view does not change under the caller");
}

async fn nothing_is_missed_with_an_old_revision(bench: &impl PodSourceBench) {
    let old = bench.source().policies().revision;
    let now = with_policy(bench).await.revision;
    let mut asked = pin!(bench.source().policies_changed(old));
    let poll = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(now));
}
