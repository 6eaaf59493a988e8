//! The agent asks for what `deploy/rbac.yaml` allows, and for all of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flock_core::policy::PolicyKey;
use flock_core::ports::{Condition, Demand, NodeStatus, PodEvent, PodSource, StatusSink};
use flock_core::selector::LabelSelectorSpec;
use flock_k8s::testing::{Access, FakeApiServer, allowed};
use flock_k8s::{KubeStatus, Pace, SILENCE};
use serde_json::json;

use crate::bench::{cluster_policy_of, key, node, policy_of, soon};
use crate::cluster::{Cluster, client, node_config, pod};

fn used(api: &FakeApiServer) -> BTreeSet<Access> {
    api.requests().iter().map(|request| request.access().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_allowed_is_used_and_nothing_else() {
    let cluster = Cluster::new().await;
    cluster.source.demand(Demand { namespaces: true, policies: true });
    let deny = PolicyKey { namespace: "default".to_owned(), name: "deny".to_owned() };
    cluster.api.put(policy_of(&deny, &LabelSelectorSpec::default()));
    cluster.api.put(cluster_policy_of("guard", &LabelSelectorSpec::default()));
    cluster.api.put(node_config("node-a", &json!({"bgp": {"asn": 65101}})));
    cluster.api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}));
    cluster.api.put(pod("web"));
    cluster.until(|view| view.node_config.is_some()).await;
    cluster.api.eventually("all is watched", |api| api.watching() == 7);
    soon(cluster.source.pod(&key("web"))).await.unwrap().unwrap();

    let pace = Pace { quiet: Duration::ZERO, ..Pace::default() };
    let client = client(&cluster.api, SILENCE).await;
    let status = Arc::new(KubeStatus::new(client, &node(), &cluster.source, pace));
    let ready = Condition {
        kind: "Ready".to_owned(),
        status: true,
        reason: "Configured".to_owned(),
        message: String::new(),
    };
    soon(status.publish(&NodeStatus { conditions: vec![ready], ..NodeStatus::default() })).await.unwrap();
    let event = PodEvent { pod: key("web"), uid: None, reason: "NetworkRefused", message: "no".to_owned() };
    soon(status.event(&event)).await.unwrap();
    cluster.api.eventually("it is told", |api| api.all("events").len() == 1);
    let again = Arc::clone(&status);
    let saying = tokio::spawn(async move { again.keep_network_available(|| true).await });
    let patched = |api: &FakeApiServer, resource: &str| {
        used(api).contains(&("patch".to_owned(), String::new(), resource.to_owned()))
    };
    cluster.api.eventually("the node is told of", |api| patched(api, "nodes/status"));
    soon(status.event(&event)).await.unwrap();
    cluster.api.eventually("it is told again", |api| !api.all("events")[0]["series"].is_null());
    saying.abort();

    assert_eq!(used(&cluster.api), allowed());
}
