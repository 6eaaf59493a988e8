use flock_core::config::NodeConfigSpec;
use flock_core::ids::PodKey;
use flock_core::policy::{Labels, PolicyKey};
use flock_core::ports::{PodSource, PodView};
use flock_core::selector::LabelSelectorSpec;
use flock_core::testing::contract::pod_policies::pod_policies;
use flock_core::testing::contract::pod_source::{PodSourceBench, pod_source};
use serde_json::json;

use crate::bench::{Bench, cluster_policy_of, manifest_of, namespace_of, node, policy_of, soon};

impl PodSourceBench for Bench {
    fn source(&self) -> &dyn PodSource {
        &self.source
    }

    fn put(&self, pod: &PodView) {
        self.install(&file_of(&pod.key), manifest_of(pod).to_string());
    }

    fn remove(&self, key: &PodKey) {
        Bench::remove(self, &file_of(key));
    }

    fn put_policy(&self, key: &PolicyKey, subject: &LabelSelectorSpec) {
        self.install(&file_of_policy(key), policy_of(key, subject).to_string());
    }

    fn remove_policy(&self, key: &PolicyKey) {
        Bench::remove(self, &file_of_policy(key));
    }

    fn put_cluster_policy(&self, name: &str, subject: &LabelSelectorSpec) {
        self.install(&format!("{name}.cluster.yaml"), cluster_policy_of(name, subject).to_string());
    }

    fn remove_cluster_policy(&self, name: &str) {
        Bench::remove(self, &format!("{name}.cluster.yaml"));
    }

    fn put_namespace(&self, name: &str, labels: &Labels) {
        self.install(&format!("{name}.yaml"), namespace_of(name, labels).to_string());
    }

    fn configure(&self, spec: Option<&NodeConfigSpec>) {
        match spec {
            None => Bench::remove(self, "node.json"),
            Some(spec) => {
                let manifest = json!({
                    "apiVersion": "flock.fritzlab.net/v1alpha1",
                    "kind": "NodeConfig",
                    "metadata": {"name": node()},
                    "spec": spec,
                });
                self.install("node.json", manifest.to_string());
            }
        }
    }
}

fn file_of(key: &PodKey) -> String {
    format!("{}.{}.yaml", key.namespace(), key.name())
}

fn file_of_policy(key: &PolicyKey) -> String {
    format!("{}.{}.policy.yaml", key.namespace, key.name)
}

#[tokio::test]
async fn manifest_pod_source_keeps_the_contract() {
    soon(pod_source(async || Bench::new())).await;
}

#[tokio::test]
async fn manifest_pod_source_keeps_the_contract_of_policies() {
    soon(pod_policies(async || Bench::new())).await;
}
