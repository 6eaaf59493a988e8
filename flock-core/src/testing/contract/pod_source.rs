//! What every [`PodSource`] keeps to.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::config::{BgpSpec, NodeConfigSpec};
use crate::ids::PodKey;
use crate::policy::{Labels, NamedPort, PolicyKey, Protocol};
use crate::ports::{ClusterView, PodSource, PodView, Readiness};
use crate::selector::LabelSelectorSpec;
use crate::testing::pod_view;

/// A [`PodSource`] of `node-a` and the cluster behind it, which is empty at first. A change may take a moment to show.
pub trait PodSourceBench: Send + Sync {
    /// The port under test; ready.
    fn source(&self) -> &dyn PodSource;

    /// Adds a pod, or replaces the one of the same name, in one step.
    fn put(&self, pod: &PodView);

    /// Removes a pod.
    fn remove(&self, key: &PodKey);

    /// Sets or removes the configuration of the node.
    fn configure(&self, spec: Option<&NodeConfigSpec>);

    /// Adds or replaces a policy that lets nothing into the pods it selects, and says nothing of what goes out.
    fn put_policy(&self, key: &PolicyKey, subject: &LabelSelectorSpec);

    /// Removes a policy.
    fn remove_policy(&self, key: &PolicyKey);

    /// Adds or replaces a `ClusterNetworkPolicy` of the Admin tier and priority 7 without rules; `subject` selects
    /// namespaces.
    fn put_cluster_policy(&self, name: &str, subject: &LabelSelectorSpec);

    /// Removes a `ClusterNetworkPolicy`.
    fn remove_cluster_policy(&self, name: &str);

    /// Adds a namespace with these labels.
    fn put_namespace(&self, name: &str, labels: &Labels);
}

/// Runs every law on a bench of its own. A law that does not hold may wait for ever: give it a deadline.
pub async fn pod_source<B: PodSourceBench>(fresh: impl AsyncFn() -> B) {
    added_pod_shows_and_wakes(&fresh().await).await;
    changed_pod_shows_and_wakes(&fresh().await).await;
    removed_pod_goes_and_wakes(&fresh().await).await;
    every_field_of_a_pod_arrives(&fresh().await).await;
    node_config_shows_and_goes(&fresh().await).await;
    direct_read_sees_what_was_written_before_it(&fresh().await).await;
    direct_read_agrees_with_the_snapshot(&fresh().await).await;
    many_changes_may_show_as_one_and_none_is_missed(&fresh().await).await;
    an_unchanged_pod_is_no_news(&fresh().await).await;
    an_old_revision_does_not_wait(&fresh().await).await;
    a_snapshot_does_not_change_under_the_caller(&fresh().await).await;
}

fn named(index: usize) -> PodView {
    pod_view(&format!("default/pod-{index}"))
}

/// Waits for a view that holds; this is how the core waits too.
pub(super) async fn view_with(
    source: &dyn PodSource,
    holds: impl Fn(&ClusterView) -> bool,
) -> Arc<ClusterView> {
    loop {
        let view = source.snapshot();
        if holds(&view) {
            return view;
        }
        let next = source.changed(view.revision).await;
        assert!(next > view.revision, "revision {next:?} after {:?}", view.revision);
        assert!(source.snapshot().revision >= next, "{next:?} was told of and is not there");
    }
}

/// Makes a change, which must wake a caller that already waits, and waits for a view that holds.
async fn wakes(
    bench: &impl PodSourceBench,
    change: impl FnOnce(),
    holds: impl Fn(&ClusterView) -> bool,
) -> Arc<ClusterView> {
    let source = bench.source();
    let seen = source.snapshot().revision;
    let mut waiting = pin!(source.changed(seen));
    let poll = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Pending, "woken without a change");
    change();
    assert!(waiting.await > seen);
    view_with(source, holds).await
}

async fn added_pod_shows_and_wakes(bench: &impl PodSourceBench) {
    assert_eq!(bench.source().ready(), Readiness::Ready);
    assert!(bench.source().snapshot().pods.is_empty());
    let pod = named(1);
    let view = wakes(bench, || bench.put(&pod), |view| view.pods.contains_key(&pod.key)).await;
    assert_eq!(*view.pods[&pod.key], pod);
    assert_eq!(view.pods.len(), 1);
}

async fn changed_pod_shows_and_wakes(bench: &impl PodSourceBench) {
    let mut pod = named(1);
    bench.put(&pod);
    view_with(bench.source(), |view| view.pods.contains_key(&pod.key)).await;
    for (ready, terminating) in [(false, false), (false, true), (true, true), (true, false)] {
        (pod.ready, pod.terminating) = (ready, terminating);
        let view = wakes(bench, || bench.put(&pod), |view| *view.pods[&pod.key] == pod).await;
        assert_eq!(view.pods[&pod.key].eligible(), ready && !terminating);
    }
}

async fn removed_pod_goes_and_wakes(bench: &impl PodSourceBench) {
    let (goes, stays) = (named(1), named(2));
    bench.put(&goes);
    bench.put(&stays);
    view_with(bench.source(), |view| view.pods.len() == 2).await;
    let view = wakes(bench, || bench.remove(&goes.key), |view| view.pods.len() == 1).await;
    assert_eq!(*view.pods[&stays.key], stays);
}

async fn every_field_of_a_pod_arrives(bench: &impl PodSourceBench) {
    let pod = PodView {
        key: PodKey::parse("shop/web-0").unwrap(),
        uid: Some("0b2f-77".parse().unwrap()),
        node: Some("node-b".parse().unwrap()),
        annotations: [("flock.fritzlab.net/ipv4".to_owned(), " False ".to_owned())].into(),
        labels: std::sync::Arc::new([("app".to_owned(), "web".to_owned())].into()),
        ready: false,
        terminating: true,
        host_network: true,
        ended: true,
        ports: [
            NamedPort { name: "dns".to_owned(), protocol: Protocol::Udp, number: 53 },
            NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, number: 8080 },
        ]
        .into(),
        image: Some("registry.example/web:1".to_owned()),
        pod_ips: vec!["2001:db8::7".parse().unwrap(), "192.0.2.7".parse().unwrap()],
        reported: Vec::new(),
    };
    bench.put(&pod);
    let view = view_with(bench.source(), |view| !view.pods.is_empty()).await;
    // Not every source has a kubelet to report anything.
    let reported = view.pods[&pod.key].reported.clone();
    assert_eq!(*view.pods[&pod.key], PodView { reported, ..pod });
}

async fn node_config_shows_and_goes(bench: &impl PodSourceBench) {
    assert_eq!(bench.source().snapshot().node_config, None);
    let spec =
        |asn| NodeConfigSpec { bgp: BgpSpec { asn, ..BgpSpec::default() }, ..NodeConfigSpec::default() };
    for asn in [65101, 65102] {
        let is = |view: &ClusterView| view.node_config.as_ref().is_some_and(|now| now.spec == Ok(spec(asn)));
        wakes(bench, || bench.configure(Some(&spec(asn))), is).await;
    }
    wakes(bench, || bench.configure(None), |view| view.node_config.is_none()).await;
}

async fn direct_read_sees_what_was_written_before_it(bench: &impl PodSourceBench) {
    let (mut pod, source) = (named(1), bench.source());
    assert_eq!(source.pod(&pod.key).await.unwrap(), None);
    bench.put(&pod);
    assert_eq!(source.pod(&pod.key).await.unwrap().as_deref(), Some(&pod));
    pod.uid = Some("another".parse().unwrap());
    bench.put(&pod);
    assert_eq!(source.pod(&pod.key).await.unwrap().as_deref(), Some(&pod));
    bench.remove(&pod.key);
    assert_eq!(source.pod(&pod.key).await.unwrap(), None);
}

async fn direct_read_agrees_with_the_snapshot(bench: &impl PodSourceBench) {
    for index in 0..5 {
        bench.put(&named(index));
    }
    let view = view_with(bench.source(), |view| view.pods.len() == 5).await;
    for (key, pod) in &view.pods {
        assert_eq!(bench.source().pod(key).await.unwrap().as_ref(), Some(pod));
    }
    assert_eq!(bench.source().pod(&named(5).key).await.unwrap(), None);
    assert_eq!(bench.source().snapshot(), view, "a read is no change");
}

async fn many_changes_may_show_as_one_and_none_is_missed(bench: &impl PodSourceBench) {
    let seen = bench.source().snapshot().revision;
    for index in 0..50 {
        bench.put(&named(index));
    }
    for index in 0..25 {
        bench.remove(&named(index).key);
    }
    assert!(bench.source().changed(seen).await > seen);
    let is_last = |view: &ClusterView| view.pods.keys().eq(pods(25..50).iter());
    let view = view_with(bench.source(), is_last).await;
    assert!(view.revision.0 - seen.0 <= 75, "more revisions than changes");
}

fn pods(indexes: std::ops::Range<usize>) -> Vec<PodKey> {
    indexes.map(|index| named(index).key).collect()
}

async fn an_unchanged_pod_is_no_news(bench: &impl PodSourceBench) {
    let (pod, marker) = (named(1), named(2));
    bench.put(&pod);
    let before = view_with(bench.source(), |view| view.pods.len() == 1).await;
    bench.put(&pod);
    bench.source().pod(&pod.key).await.unwrap();
    assert_eq!(bench.source().snapshot(), before);
    bench.put(&marker);
    let after = view_with(bench.source(), |view| view.pods.len() == 2).await;
    assert_eq!(after.revision.0, before.revision.0 + 1);
}

async fn an_old_revision_does_not_wait(bench: &impl PodSourceBench) {
    let old = bench.source().snapshot().revision;
    bench.put(&named(1));
    let view = view_with(bench.source(), |view| view.pods.len() == 1).await;
    let mut asked = pin!(bench.source().changed(old));
    let poll = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(poll, Poll::Ready(view.revision));
}

async fn a_snapshot_does_not_change_under_the_caller(bench: &impl PodSourceBench) {
    bench.put(&named(1));
    let held = view_with(bench.source(), |view| view.pods.len() == 1).await;
    let copy = ClusterView::clone(&held);
    bench.remove(&named(1).key);
    view_with(bench.source(), |view| view.pods.is_empty()).await;
    assert_eq!(*held, copy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::annotation::PodIntent;
    use crate::policy::{
        ClusterPods, ClusterPolicy, ClusterTier, NetworkPolicy, PolicyPod, PolicyView, Priority,
    };
    use crate::ports::{NodeConfigView, Retry, Revision};
    use crate::selector::LabelSelector;
    use crate::testing::FakePodSource;
    use crate::testing::contract::pod_policies::pod_policies;

    /// What the fake is told of a pod by whoever puts one.
    fn tell_policies(view: &mut PolicyView, pod: &PodView) {
        let pods = Arc::make_mut(&mut view.pods);
        pods.remove(&pod.key);
        let elsewhere = pod.node.as_ref().is_some_and(|node| node.as_str() != "node-a");
        if elsewhere && !pod.host_network && !pod.ended {
            let intent = PodIntent::parse(&pod.annotations).unwrap();
            let pod = PolicyPod {
                key: pod.key.clone(),
                labels: Arc::clone(&pod.labels),
                ports: Arc::clone(&pod.ports),
                pod_ips: pod.pod_ips.clone(),
                claimed: intent.addresses.into_iter().chain(intent.anycast).collect(),
            };
            pods.insert(pod.key.clone(), Arc::new(pod));
        }
    }

    impl PodSourceBench for FakePodSource {
        fn source(&self) -> &dyn PodSource {
            self
        }
        fn put(&self, pod: &PodView) {
            self.set_pod(pod.clone());
            self.edit_policies(|view| tell_policies(view, pod));
        }
        fn remove(&self, key: &PodKey) {
            self.remove_pod(key);
            self.edit_policies(|view| {
                Arc::make_mut(&mut view.pods).remove(key);
            });
        }
        fn configure(&self, spec: Option<&NodeConfigSpec>) {
            self.set_node_config(spec.map(|spec| NodeConfigView { generation: 0, spec: Ok(spec.clone()) }));
        }
        fn put_policy(&self, key: &PolicyKey, subject: &LabelSelectorSpec) {
            let subject = LabelSelector::validate(subject, "", &mut Vec::new());
            let policy = NetworkPolicy { key: key.clone(), subject, ingress: Some(Vec::new()), egress: None };
            self.edit_policies(|view| {
                Arc::make_mut(&mut view.policies).insert(key.clone(), Arc::new(policy));
            });
        }
        fn remove_policy(&self, key: &PolicyKey) {
            self.edit_policies(|view| {
                Arc::make_mut(&mut view.policies).remove(key);
            });
        }
        fn put_cluster_policy(&self, name: &str, subject: &LabelSelectorSpec) {
            let namespaces = LabelSelector::validate(subject, "", &mut Vec::new());
            let policy = ClusterPolicy {
                name: name.to_owned(),
                tier: ClusterTier::Admin,
                priority: Priority::new(7).unwrap(),
                subject: ClusterPods::of_namespaces(namespaces),
                ingress: Vec::new(),
                egress: Vec::new(),
            };
            self.edit_policies(|view| {
                Arc::make_mut(&mut view.cluster).insert(name.to_owned(), Arc::new(policy));
            });
        }
        fn remove_cluster_policy(&self, name: &str) {
            self.edit_policies(|view| {
                Arc::make_mut(&mut view.cluster).remove(name);
            });
        }
        fn put_namespace(&self, name: &str, labels: &Labels) {
            let mut labels = labels.clone();
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
            self.edit_policies(|view| {
                Arc::make_mut(&mut view.namespaces).insert(name.to_owned(), Arc::new(labels));
            });
        }
    }

    #[tokio::test]
    async fn fake_pod_source_keeps_the_contract() {
        pod_source(async || FakePodSource::default()).await;
    }

    #[tokio::test]
    async fn fake_pod_source_keeps_the_contract_of_policies() {
        pod_policies(async || FakePodSource::default()).await;
    }

    #[tokio::test]
    async fn fake_pod_source_fails_and_lags_when_told_to() {
        let (source, pod) = (FakePodSource::default(), named(1));
        source.fail_pod(Some("away"));
        let error = source.pod(&pod.key).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Later);
        assert_eq!(error.to_string(), "cannot read pod default/pod-1: away");
        source.fail_pod(None);

        source.set_ahead_of_view(pod.key.clone(), Some(pod.clone()));
        assert_eq!(source.pod(&pod.key).await.unwrap().as_deref(), Some(&pod));
        assert!(source.snapshot().pods.is_empty());
        source.remove_pod(&pod.key);
        assert_eq!(source.pod(&pod.key).await.unwrap(), None);
    }

    #[tokio::test]
    async fn readiness_of_the_fake_is_a_change() {
        let source = FakePodSource::default();
        source.set_readiness(Readiness::Starting("pods"));
        assert_eq!(source.changed(Revision(0)).await, Revision(1));
        assert_eq!(source.ready(), Readiness::Starting("pods"));
    }
}
