//! A manifest directory to play with.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flock_core::ids::{NodeName, PodKey};
use flock_core::policy::{Labels, PolicyKey};
use flock_core::ports::{ClusterView, PodSource, PodView};
use flock_core::selector::LabelSelectorSpec;
use flock_k8s::ManifestPodSource;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) fn node() -> NodeName {
    NodeName::parse("node-a").unwrap()
}

pub(crate) fn key(name: &str) -> PodKey {
    PodKey::new("default", name).unwrap()
}

/// A pod as short as it gets.
pub(crate) fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n")
}

/// A pod whose annotation tells one content from another.
pub(crate) fn pod_saying(name: &str, word: &str) -> String {
    format!("{}  annotations: {{say: \"{word}\"}}\n", pod(name))
}

/// A view as the manifest somebody would have written for it.
pub(crate) fn manifest_of(pod: &PodView) -> Value {
    let ports = pod.ports.iter().map(|port| {
        let protocol = format!("{:?}", port.protocol).to_uppercase();
        json!({"name": port.name, "protocol": protocol, "containerPort": port.number})
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": pod.key.namespace(),
            "name": pod.key.name(),
            "uid": pod.uid,
            "annotations": pod.annotations,
            "labels": *pod.labels,
            "deletionTimestamp": pod.terminating.then_some("2026-01-01T00:00:00Z"),
        },
        "spec": {
            "nodeName": pod.node,
            "hostNetwork": pod.host_network,
            "containers": [{"name": "main", "image": pod.image, "ports": ports.collect::<Vec<_>>()}],
        },
        "status": {
            "conditions": if pod.ready { json!([]) } else { json!([{"type": "Ready", "status": "False"}]) },
            "phase": pod.ended.then_some("Succeeded"),
            "podIPs": pod.pod_ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
        },
    })
}

/// A policy that lets nothing in.
pub(crate) fn policy_of(key: &PolicyKey, subject: &LabelSelectorSpec) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": key.namespace, "name": key.name},
        "spec": {"podSelector": subject, "policyTypes": ["Ingress"]},
    })
}

/// A `ClusterNetworkPolicy` without rules.
pub(crate) fn cluster_policy_of(name: &str, namespaces: &LabelSelectorSpec) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 7, "subject": {"namespaces": namespaces}},
    })
}

pub(crate) fn namespace_of(name: &str, labels: &Labels) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// Puts a file into place in one step.
pub(crate) fn install(path: &Path, text: impl AsRef<[u8]>) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

/// Nothing here takes long; a test that waits for ever should say where.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), what).await.expect("still waiting after a minute")
}

/// Waits for a view that holds.
pub(crate) async fn until(source: &dyn PodSource, holds: impl Fn(&ClusterView) -> bool) -> Arc<ClusterView> {
    soon(async {
        loop {
            let view = source.snapshot();
            if holds(&view) {
                return view;
            }
            source.changed(view.revision).await;
        }
    })
    .await
}

/// Whether these are the pods of a view, by name.
pub(crate) fn has_pods(view: &ClusterView, names: &[&str]) -> bool {
    view.pods.keys().map(PodKey::name).eq(names.iter().copied())
}

/// A directory and the source that follows it.
pub(crate) struct Bench {
    _home: TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) source: ManifestPodSource,
}

impl Bench {
    /// Starts with an empty directory.
    pub(crate) fn new() -> Self {
        Self::with(|dir| fs::create_dir(dir).unwrap())
    }

    /// Starts with whatever `prepare` makes of the path.
    pub(crate) fn with(prepare: impl FnOnce(&Path)) -> Self {
        let home = TempDir::new().unwrap();
        let dir = home.path().join("manifests");
        prepare(&dir);
        let source = ManifestPodSource::open(&dir, node()).unwrap();
        Self { _home: home, dir, source }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn install(&self, name: &str, text: impl AsRef<[u8]>) {
        install(&self.path(name), text);
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.source.snapshot()
    }

    /// Makes the source look at the directory, whatever it has been told by the kernel.
    pub(crate) async fn looked(&self) -> Arc<ClusterView> {
        soon(self.source.pod(&key("nobody"))).await.unwrap();
        self.view()
    }

    /// Waits for a view that holds, without ever asking the source to look.
    pub(crate) async fn until(&self, holds: impl Fn(&ClusterView) -> bool) -> Arc<ClusterView> {
        until(&self.source, holds).await
    }

    /// Waits until exactly these pods of the default namespace are there.
    pub(crate) async fn until_pods(&self, names: &[&str]) -> Arc<ClusterView> {
        self.until(|view| has_pods(view, names)).await
    }

    /// Waits until this pod says this word.
    pub(crate) async fn until_says(&self, name: &str, word: &str) -> Arc<ClusterView> {
        self.until(|view| says(view, name).as_deref() == Some(word)).await
    }
}

/// What [`pod_saying`] made a pod say.
pub(crate) fn says(view: &ClusterView, name: &str) -> Option<String> {
    view.pods.get(&key(name))?.annotations.get("say").cloned()
}
