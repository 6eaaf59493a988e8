//! Says what Kubernetes promises of a connection: the objects as they are in JSON, read the plain way, straight from
//! the API documentation of NetworkPolicy. Shares no code with flock, and is as slow as that makes it.

use std::net::IpAddr;

use serde_json::Value;

use super::prober::Kind;

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Party<'a> {
    /// `None`: a node, or something outside the cluster.
    pub(super) pod: Option<&'a Value>,
    /// The name of the node it is on, or is.
    pub(super) node: Option<&'a str>,
    pub(super) address: IpAddr,
}

/// What is asked for at the destination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service {
    pub(super) kind: Kind,
    /// 0 where the protocol has no ports.
    pub(super) port: u16,
}

/// What the API server holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster<'a> {
    pub(super) namespaces: &'a [Value],
    pub(super) policies: &'a [Value],
}

impl Cluster<'_> {
    /// Whether the connection is admitted at both of its ends.
    pub(super) fn admits(&self, from: &Party<'_>, to: &Party<'_>, service: Service) -> bool {
        let is_pod_and_its_node = from.node == to.node && from.pod.is_some() != to.pod.is_some();
        is_pod_and_its_node
            || self.admits_at(from, "Egress", to, service, to)
                && self.admits_at(to, "Ingress", from, service, to)
    }

    /// Whether the policies of `subject` admit the peer in this direction.
    fn admits_at(
        &self,
        subject: &Party<'_>,
        direction: &str,
        peer: &Party<'_>,
        service: Service,
        destination: &Party<'_>,
    ) -> bool {
        let Some(pod) = subject.pod else { return true };
        let (rules, peers) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        let mut isolated = false;
        for policy in
            self.policies.iter().filter(|policy| selects(policy, pod) && has_type(policy, direction))
        {
            isolated = true;
            for rule in list(&policy["spec"][rules]) {
                let (peers, ports) = (list(&rule[peers]), list(&rule["ports"]));
                let known = peers.is_empty() || peers.iter().any(|it| self.is_peer(it, policy, peer));
                let meant = ports.is_empty() || ports.iter().any(|it| is_port(it, service, destination));
                if known && meant {
                    return true;
                }
            }
        }
        !isolated
    }

    /// Whether an entry of `from` or `to` means this party.
    fn is_peer(&self, entry: &Value, policy: &Value, party: &Party<'_>) -> bool {
        let block = &entry["ipBlock"];
        if block.is_object() {
            let excepted = list(&block["except"]).iter().any(|cidr| contains(cidr, party.address));
            return contains(&block["cidr"], party.address) && !excepted;
        }
        let Some(pod) = party.pod.filter(|pod| !has_ended(pod)) else { return false };
        let namespace = &pod["metadata"]["namespace"];
        let in_namespace = if entry["namespaceSelector"].is_object() {
            matches(&entry["namespaceSelector"], &self.labels_of_namespace(namespace))
        } else {
            *namespace == policy["metadata"]["namespace"]
        };
        let is_selected =
            !entry["podSelector"].is_object() || matches(&entry["podSelector"], &pod["metadata"]["labels"]);
        in_namespace && is_selected
    }

    fn labels_of_namespace(&self, name: &Value) -> Value {
        let namespace = self.namespaces.iter().find(|it| it["metadata"]["name"] == *name).unwrap();
        let mut labels = namespace["metadata"]["labels"].clone();
        labels["kubernetes.io/metadata.name"] = name.clone();
        labels
    }
}

/// A list; one that is absent or null is empty.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A pod that will never run again has given its address back.
fn has_ended(pod: &Value) -> bool {
    ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase)
}

fn selects(policy: &Value, pod: &Value) -> bool {
    policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        && matches(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
}

fn has_type(policy: &Value, direction: &str) -> bool {
    let spec = &policy["spec"];
    match list(&spec["policyTypes"]) {
        [] => direction == "Ingress" || !list(&spec["egress"]).is_empty(),
        types => types.iter().any(|it| *it == *direction),
    }
}

fn matches(selector: &Value, labels: &Value) -> bool {
    let named = selector["matchLabels"].as_object();
    let all_named = named.is_none_or(|named| named.iter().all(|(key, value)| labels.get(key) == Some(value)));
    all_named
        && list(&selector["matchExpressions"]).iter().all(|it| {
            let label = labels.get(it["key"].as_str().unwrap());
            let is_in = label.is_some_and(|label| list(&it["values"]).contains(label));
            match it["operator"].as_str().unwrap() {
                "In" => is_in,
                "NotIn" => !is_in,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                other => panic!("no such operator: {other}"),
            }
        })
}

fn is_port(entry: &Value, service: Service, destination: &Party<'_>) -> bool {
    let protocol = protocol_of(entry);
    let is_protocol = match service.kind {
        Kind::Tcp => protocol == "TCP",
        Kind::Udp => protocol == "UDP",
        Kind::Icmp => false,
    };
    let port = &entry["port"];
    let is_number = if port.is_null() {
        true
    } else if let Some(first) = port.as_u64() {
        let last = entry["endPort"].as_u64().unwrap_or(first);
        (first..=last).contains(&u64::from(service.port))
    } else {
        destination.pod.is_some_and(|pod| {
            list(&pod["spec"]["containers"]).iter().flat_map(|container| list(&container["ports"])).any(
                |it| {
                    it["name"] == *port && protocol_of(it) == protocol && it["containerPort"] == service.port
                },
            )
        })
    };
    is_protocol && is_number
}

fn protocol_of(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

/// Whether an address is in a prefix, whose host bits mean nothing.
fn contains(cidr: &Value, address: IpAddr) -> bool {
    let (network, length) = cidr.as_str().unwrap().split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    match (network.parse().unwrap(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differs = u32::from(network) ^ u32::from(address);
            differs.checked_shr(32 - length).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differs = u128::from(network) ^ u128::from(address);
            differs.checked_shr(128 - length).unwrap_or(0) == 0
        }
        _ => false,
    }
}
