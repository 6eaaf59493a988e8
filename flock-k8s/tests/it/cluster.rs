//! A cluster to play with: a fake API server and the source that watches it.

use std::sync::Arc;
use std::time::Duration;

use flock_core::config::NodeConfigSpec;
use flock_core::ids::PodKey;
use flock_core::policy::{Labels, PolicyKey};
use flock_core::ports::{ClusterView, NodeConfigView, PodSource, PodView, Readiness};
use flock_core::selector::LabelSelectorSpec;
use flock_core::testing::contract::pod_policies::pod_policies;
use flock_core::testing::contract::pod_source::{PodSourceBench, pod_source};
use flock_k8s::testing::FakeApiServer;
use flock_k8s::{KubePodSource, SILENCE, Timing, connect};
use serde_json::{Value, json};

use crate::bench::{cluster_policy_of, has_pods, manifest_of, namespace_of, node, policy_of, soon, until};

/// Short, so that what takes a while in a cluster does not here.
pub(crate) const TIMING: Timing = Timing {
    first: Duration::from_mins(5),
    watch: Duration::from_mins(5),
    page: Duration::from_secs(20),
    read: Duration::from_secs(20),
    pause: (Duration::from_millis(5), Duration::from_millis(20)),
    absent: Duration::from_millis(20),
};

pub(crate) struct Cluster {
    pub(crate) api: FakeApiServer,
    pub(crate) source: KubePodSource,
}

pub(crate) async fn client(api: &FakeApiServer, silence: Duration) -> flock_k8s::Client {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("kubeconfig");
    api.kubeconfig(&path);
    connect(Some(&path), silence).await.unwrap()
}

impl Cluster {
    /// Watches an empty cluster, and is ready.
    pub(crate) async fn new() -> Self {
        let cluster = Self::around(FakeApiServer::start(), None, TIMING).await;
        cluster.ready().await;
        cluster
    }

    /// Watches a cluster as it is; not ready yet.
    pub(crate) async fn around(
        api: FakeApiServer,
        remembered: Option<NodeConfigView>,
        timing: Timing,
    ) -> Self {
        let silence = if timing.watch < TIMING.watch { timing.watch * 2 } else { SILENCE };
        let source = KubePodSource::open(client(&api, silence).await, &node(), remembered, timing);
        Self { api, source }
    }

    pub(crate) async fn ready(&self) {
        self.until(|_| self.source.ready() == Readiness::Ready).await;
    }

    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.source.snapshot()
    }

    /// Waits for a view that holds.
    pub(crate) async fn until(&self, holds: impl Fn(&ClusterView) -> bool) -> Arc<ClusterView> {
        until(&self.source, holds).await
    }

    pub(crate) async fn until_pods(&self, names: &[&str]) -> Arc<ClusterView> {
        self.until(|view| has_pods(view, names)).await
    }
}

/// A pod of this node as the API server has it.
pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}")},
        "spec": {"nodeName": node(), "containers": [{"name": "main", "image": "img:1"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

pub(crate) fn node_config(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": name, "uid": "config-1", "generation": 1},
        "spec": spec,
    })
}

impl PodSourceBench for Cluster {
    fn source(&self) -> &dyn PodSource {
        &self.source
    }

    fn put(&self, pod: &PodView) {
        let mut object = manifest_of(pod);
        let ready = if pod.ready { "True" } else { "False" };
        object["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
        self.api.put(object);
    }

    fn remove(&self, key: &PodKey) {
        self.api.delete("pods", Some(key.namespace()), key.name());
    }

    fn put_policy(&self, key: &PolicyKey, subject: &LabelSelectorSpec) {
        self.api.put(policy_of(key, subject));
    }

    fn remove_policy(&self, key: &PolicyKey) {
        self.api.delete("networkpolicies", Some(&key.namespace), &key.name);
    }

    fn put_cluster_policy(&self, name: &str, subject: &LabelSelectorSpec) {
        self.api.put(cluster_policy_of(name, subject));
    }

    fn remove_cluster_policy(&self, name: &str) {
        self.api.delete("clusternetworkpolicies", None, name);
    }

    fn put_namespace(&self, name: &str, labels: &Labels) {
        self.api.put(namespace_of(name, labels));
    }

    fn configure(&self, spec: Option<&NodeConfigSpec>) {
        match spec {
            None => self.api.delete("nodeconfigs", None, node().as_str()),
            Some(spec) => self.api.put(node_config(node().as_str(), &json!(spec))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_pod_source_keeps_the_contract() {
    soon(pod_source(async || {
        let cluster = Cluster::new().await;
        // The contract has pods of other nodes, too.
        cluster.api.ignore_selectors();
        cluster.api.eventually("all is watched", |api| api.watching() == 3);
        cluster.api.cut();
        cluster.api.eventually("all is watched anew", |api| {
            api.watching() == 3
                && api.requests().iter().filter(|it| it.query.contains_key("watch")).count() >= 6
        });
        cluster
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_pod_source_keeps_the_contract_of_policies() {
    soon(pod_policies(async || Cluster::new().await)).await;
}

#[tokio::test]
async fn an_api_server_behind_tls_can_be_named() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("kubeconfig");
    let cluster = json!({"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true});
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let source = KubePodSource::open(connect(Some(&path), SILENCE).await.unwrap(), &node(), None, TIMING);
    let error = soon(source.pod(&"default/web".parse().unwrap())).await.unwrap_err();
    assert!(error.to_string().contains("default/web"), "{error}");
}
