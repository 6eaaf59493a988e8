//! Kubernetes objects in the terms of the core. Total: any object gives a view or a reason, never a panic.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use flock_core::ids::{IdError, NodeName, PodKey, PodUid};
use flock_core::policy::{NamedPort, Protocol};
use flock_core::ports::PodView;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};

mod cluster_peer;
mod cluster_policy;
mod cluster_port;
mod policy;
mod policy_net;
mod policy_port;

pub(crate) use self::cluster_policy::{ClusterPolicyView, cluster_policy};
pub(crate) use self::policy::network_policy;

/// On a mirror pod: the UID of the static pod it stands for.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Why a pod object cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The object has no name of its own (`generateName` is the API server's to resolve).
    #[error("metadata.name is missing")]
    Unnamed,
    /// A name, a UID or a node name that Kubernetes would refuse too.
    #[error("{field}: {source}")]
    Name {
        /// Where it stands.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: IdError,
    },
    /// `status.podIPs` holds something else.
    #[error("status.podIPs: {value:?} is not an IP address")]
    Ip {
        /// As written.
        value: String,
    },
}

/// What flock wants to know of a pod. A missing namespace means `default`. A pod without conditions counts
/// as ready: nobody keeps the status of a manifest. A mirror pod stands for a static one, which the runtime knows by
/// the UID the kubelet gave it.
pub fn pod_view(pod: Pod) -> Result<PodView, ConvertError> {
    let meta = pod.metadata;
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();

    let name = meta.name.ok_or(ConvertError::Unnamed)?;
    let namespace = meta.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let key = PodKey::new(namespace, &name).map_err(refused("metadata"))?;
    let mirrored = meta.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR));
    let uid = mirrored.or(meta.uid.as_ref());
    let uid = uid.map(|uid| PodUid::parse(uid)).transpose().map_err(refused("metadata.uid"))?;
    let node = spec.node_name.as_deref().filter(|name| !name.is_empty());
    let node = node.map(NodeName::parse).transpose().map_err(refused("spec.nodeName"))?;

    Ok(PodView {
        key,
        uid,
        node,
        annotations: meta.annotations.unwrap_or_default(),
        labels: Arc::new(meta.labels.unwrap_or_default()),
        ready: ready(&status),
        terminating: meta.deletion_timestamp.is_some(),
        host_network: spec.host_network.unwrap_or(false),
        ended: ended(&status),
        ports: named_ports(&spec),
        image: spec.containers.into_iter().next().and_then(|container| container.image),
        pod_ips: pod_ips(status)?,
        reported: Vec::new(),
    })
}

/// The same for a pod that the API server has. Nobody has said of one without conditions that it is ready.
pub(crate) fn api_pod_view(pod: Pod) -> Result<PodView, ConvertError> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let told = conditions.is_some_and(|conditions| !conditions.is_empty());
    let view = pod_view(pod)?;
    Ok(PodView { ready: view.ready && told, reported: view.pod_ips.clone(), ..view })
}

fn refused(field: &'static str) -> impl Fn(IdError) -> ConvertError {
    move |source| ConvertError::Name { field, source }
}

fn ended(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// The protocol of this name, as the API writes it.
fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The named ports of what runs as long as the pod does: its containers, and its sidecars. Of two with the same name
/// and protocol the first counts, as it does for a Service.
fn named_ports(spec: &PodSpec) -> Arc<[NamedPort]> {
    let is_sidecar = |policy: &Option<String>| policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(|it| is_sidecar(&it.restart_policy));
    let mut found = BTreeMap::new();
    for port in spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten())
    {
        let name = port.name.as_ref().filter(|name| !name.is_empty());
        let protocol = protocol(port.protocol.as_deref().filter(|it| !it.is_empty()).unwrap_or("TCP"));
        let number = u16::try_from(port.container_port).ok().filter(|number| *number > 0);
        if let (Some(name), Some(protocol), Some(number)) = (name, protocol, number) {
            found.entry((name.clone(), protocol)).or_insert(number);
        }
    }
    let ports = found.into_iter().map(|((name, protocol), number)| NamedPort { name, protocol, number });
    ports.collect()
}

fn ready(status: &PodStatus) -> bool {
    // Who ends a pod from outside, such as the garbage collector, may leave its conditions as they were.
    if ended(status) {
        return false;
    }
    match status.conditions.as_deref() {
        None | Some([]) => true,
        Some(conditions) => conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
    }
}

fn pod_ips(status: PodStatus) -> Result<Vec<IpAddr>, ConvertError> {
    let mut ips: Vec<String> = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip).collect();
    if ips.is_empty() {
        // The field of the days before dual-stack.
        ips.extend(status.pod_ip);
    }
    let written = ips.into_iter().filter(|ip| !ip.is_empty());
    written.map(|ip| ip.parse().map_err(|_| ConvertError::Ip { value: ip })).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use flock_core::policy::PolicyPod;

    use super::*;

    fn convert(pod: Value) -> Result<PodView, ConvertError> {
        pod_view(serde_json::from_value(pod).unwrap())
    }

    fn view_of(extra: Value) -> PodView {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}});
        merge(&mut pod, extra);
        convert(pod).unwrap()
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    #[test]
    fn every_field_arrives() {
        let view = view_of(json!({
            "metadata": {
                "namespace": "shop",
                "uid": "0b2f-1",
                "annotations": {"flock.fritzlab.net/ipv4": "false"},
                "labels": {"app": "web"},
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "nodeName": "node-a",
                "hostNetwork": true,
                "containers": [
                    {"name": "a", "image": "img:1", "ports": [{"name": "web", "containerPort": 80}]},
                    {"name": "b", "image": "img:2"},
                ],
            },
            "status": {"podIPs": [{"ip": "2001:db8::7"}, {"ip": "192.0.2.7"}], "podIP": "192.0.2.8"},
        }));
        let expected = PodView {
            key: PodKey::new("shop", "web").unwrap(),
            uid: Some(PodUid::parse("0b2f-1").unwrap()),
            node: Some(NodeName::parse("node-a").unwrap()),
            annotations: [("flock.fritzlab.net/ipv4".to_owned(), "false".to_owned())].into(),
            labels: Arc::new([("app".to_owned(), "web".to_owned())].into()),
            ready: true,
            terminating: true,
            host_network: true,
            ended: false,
            ports: [NamedPort { name: "web".to_owned(), protocol: Protocol::Tcp, number: 80 }].into(),
            image: Some("img:1".to_owned()),
            pod_ips: vec!["2001:db8::7".parse().unwrap(), "192.0.2.7".parse().unwrap()],
            reported: Vec::new(),
        };
        assert_eq!(view, expected);
    }

    #[test]
    fn what_is_not_written_has_its_default() {
        assert_eq!(view_of(json!({})), flock_core::testing::pod_view("default/web"));
        let empty = json!({"metadata": {"namespace": ""}, "spec": {"nodeName": ""}});
        assert_eq!(view_of(empty), view_of(json!({})));
    }

    #[test]
    fn ready_is_the_condition_or_the_lack_of_any() {
        let ready = |conditions: Value| view_of(json!({"status": {"conditions": conditions}})).ready;
        assert!(ready(json!(null)));
        assert!(ready(json!([])));
        assert!(ready(json!([{"type": "Ready", "status": "True"}])));
        assert!(!ready(json!([{"type": "Ready", "status": "False"}])));
        assert!(!ready(json!([{"type": "Ready", "status": "Unknown"}])));
        assert!(!ready(json!([{"type": "PodScheduled", "status": "True"}])));
    }

    #[test]
    fn a_pod_of_the_api_server_is_ready_when_its_condition_says_so() {
        let ready = |status: Value| {
            let pod = json!({"metadata": {"name": "web"}, "status": status});
            api_pod_view(serde_json::from_value(pod).unwrap()).unwrap().ready
        };
        assert!(!ready(json!({})));
        assert!(!ready(json!({"conditions": []})));
        assert!(!ready(json!({"conditions": [{"type": "PodScheduled", "status": "True"}]})));
        assert!(ready(json!({"conditions": [{"type": "Ready", "status": "True"}]})));
    }

    #[test]
    fn a_pod_that_has_ended_is_not_ready_whatever_its_condition_says() {
        let said = |phase: &str| {
            let conditions = json!([{"type": "Ready", "status": "True"}]);
            let view = view_of(json!({"status": {"phase": phase, "conditions": conditions}}));
            (view.ready, view.ended)
        };
        assert_eq!(said("Running"), (true, false));
        assert_eq!(said("Succeeded"), (false, true));
        assert_eq!(said("Failed"), (false, true));
    }

    #[test]
    fn named_ports_are_those_of_containers_and_sidecars_in_order() {
        let view = view_of(json!({"spec": {
            "containers": [
                {"name": "a", "ports": [
                    {"name": "web", "containerPort": 8080},
                    {"containerPort": 9090},
                    {"name": "", "containerPort": 9091},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "dns", "containerPort": 5353, "protocol": "TCP"},
                ]},
                {"name": "b", "ports": [
                    {"name": "web", "containerPort": 8081},
                    {"name": "odd", "containerPort": 70_000},
                    {"name": "nil", "containerPort": 0},
                    {"name": "ip", "containerPort": 1, "protocol": "ICMP"},
                ]},
            ],
            "initContainers": [
                {"name": "c", "restartPolicy": "Always", "ports": [
                    {"name": "mesh", "containerPort": 15001, "protocol": "SCTP"},
                ]},
                {"name": "d", "ports": [{"name": "setup", "containerPort": 1}]},
            ],
        }}));
        let ports: Vec<_> = view.ports.iter().map(|it| (it.name.as_str(), it.protocol, it.number)).collect();
        let expected = [
            ("dns", Protocol::Tcp, 5353),
            ("dns", Protocol::Udp, 53),
            ("mesh", Protocol::Sctp, 15001),
            ("web", Protocol::Tcp, 8080),
        ];
        assert_eq!(ports, expected);
    }

    #[test]
    fn a_pod_of_another_node_claims_what_its_annotations_ask_for() {
        let pod = |extra: Value| {
            let mut pod =
                json!({"spec": {"nodeName": "node-b"}, "status": {"podIPs": [{"ip": "192.0.2.7"}]}});
            merge(&mut pod, extra);
            PolicyPod::of(&view_of(pod))
        };
        let claimed = |annotations: Value| {
            let pod = pod(json!({"metadata": {"annotations": annotations}})).unwrap();
            assert_eq!(pod.pod_ips, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
            pod.claimed.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let addresses = json!({
            "flock.fritzlab.net/addresses": "2001:db8::1",
            "flock.fritzlab.net/anycast": "2001:db8::53, 192.0.2.53",
        });
        assert_eq!(claimed(addresses.clone()), ["2001:db8::1", "2001:db8::53", "192.0.2.53"]);
        let mut bad = addresses;
        bad["flock.fritzlab.net/ipv4"] = json!("perhaps");
        assert_eq!(claimed(bad), [""; 0], "its node refuses all of it");
        assert!(pod(json!({"spec": {"hostNetwork": true}})).is_none());
        assert!(pod(json!({"status": {"phase": "Succeeded"}})).is_none());
        assert!(pod(json!({"spec": {"nodeName": ""}})).is_none(), "no node runs it");
        assert!(pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})).is_some());
    }

    #[test]
    fn a_mirror_pod_has_the_uid_of_its_static_pod() {
        let view = view_of(json!({"metadata": {
            "uid": "5d1c-77",
            "annotations": {"kubernetes.io/config.mirror": "0123abcd"},
        }}));
        assert!(view.is(Some(&PodUid::parse("0123abcd").unwrap())));
        assert!(!view.is(Some(&PodUid::parse("5d1c-77").unwrap())));
    }

    #[test]
    fn the_old_pod_ip_stands_in_where_the_list_is_missing() {
        let ips = |status: Value| view_of(json!({ "status": status })).pod_ips;
        assert_eq!(ips(json!({"podIP": "192.0.2.8"})), ["192.0.2.8".parse::<IpAddr>().unwrap()]);
        assert!(ips(json!({"podIP": "", "podIPs": []})).is_empty());
    }

    #[test]
    fn only_the_api_server_knows_which_sandbox_a_status_is_about() {
        let pod = json!({"metadata": {"name": "web"}, "status": {"podIPs": [{"ip": "2001:db8::7"}]}});
        assert!(convert(pod.clone()).unwrap().reported.is_empty());
        let view = api_pod_view(serde_json::from_value(pod).unwrap()).unwrap();
        assert_eq!(view.reported, ["2001:db8::7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_bad_object_names_field_and_value() {
        let text = |pod: Value| convert(pod).unwrap_err().to_string();
        assert_eq!(text(json!({"metadata": {"generateName": "web-"}})), "metadata.name is missing");
        for (metadata, field) in [
            (json!({"name": "Web"}), "metadata: pod name \"Web\""),
            (json!({"name": "web", "namespace": "a.b"}), "metadata: namespace \"a.b\""),
            (json!({"name": "web", "uid": "a b"}), "metadata.uid: pod UID \"a b\""),
        ] {
            let text = text(json!({ "metadata": metadata }));
            assert!(text.starts_with(field), "{text}");
        }
        let named = json!({"name": "web"});
        let text = |rest: Value| {
            let mut pod = json!({ "metadata": named });
            merge(&mut pod, rest);
            convert(pod).unwrap_err().to_string()
        };
        assert!(text(json!({"spec": {"nodeName": "A"}})).starts_with("spec.nodeName: node name \"A\""));
        assert_eq!(
            text(json!({"status": {"podIPs": [{"ip": "192.0.2"}]}})),
            "status.podIPs: \"192.0.2\" is not an IP address"
        );
    }
}
