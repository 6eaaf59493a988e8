//! Objects of a cluster as a person writes them.

use serde_json::{Value, json};

/// What most tests configure.
pub(crate) fn node_config() -> Value {
    node_config_of("n1", "2001:db8:f001::/64", "198.51.100.0/24")
}

/// A node with one pool of each family.
pub(crate) fn node_config_of(node: &str, cidr6: &str, cidr4: &str) -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": node},
        "spec": {"cidr6": [cidr6], "cidr4": [cidr4], "bgp": {"asn": 64500}},
    })
}

/// A ready pod of this node, with these annotations of flock's.
pub(crate) fn pod(name: &str, annotations: &[(&str, &str)]) -> Value {
    let annotations = annotations.iter().map(|(key, value)| (annotation(key), json!(value)));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": format!("uid-of-{name}"),
            "annotations": annotations.collect::<serde_json::Map<_, _>>(),
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "registry.example/main:1"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The key of an annotation of flock's.
pub(crate) fn annotation(key: &str) -> String {
    format!("flock.fritzlab.net/{key}")
}

pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// What a pod's object says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    Ready,
    NotReady,
    Terminating,
}

/// The same pod later.
pub(crate) fn saying(pod: &Value, says: Says) -> Value {
    let mut pod = pod.clone();
    let ready = if says == Says::NotReady { "False" } else { "True" };
    pod["status"]["conditions"][0]["status"] = json!(ready);
    if says == Says::Terminating {
        pod["metadata"]["deletionTimestamp"] = json!("2024-06-07T08:09:10Z");
    }
    pod
}

/// The pod another one of the same name was replaced by, as a `StatefulSet` does it.
pub(crate) fn successor_of(pod: &Value, annotations: &[(&str, &str)]) -> Value {
    let mut fresh = self::pod(text(pod, "name"), annotations);
    fresh["metadata"]["uid"] = json!(format!("{}-again", text(pod, "uid")));
    fresh
}

/// A field of the metadata; empty where there is none.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}
