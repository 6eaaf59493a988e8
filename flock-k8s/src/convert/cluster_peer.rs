//! `from` and `to` of a `ClusterNetworkPolicy`.

use flock_core::policy::{ClusterPeer, ClusterPods, Direction};
use flock_core::problem::Problem;
use serde::Deserialize;
use serde_json::Value;

use super::cluster_policy::{Pods, pods, selector};
use super::policy::Selector;
use super::policy_net;
use crate::manifests::decode;

/// Longest part of a value that is repeated, in characters.
const SHOWN: usize = 80;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ingress {
    namespaces: Option<Selector>,
    pods: Option<Pods>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Egress {
    namespaces: Option<Selector>,
    pods: Option<Pods>,
    nodes: Option<Value>,
    networks: Option<Vec<String>>,
    domain_names: Option<Value>,
}

impl From<Ingress> for Egress {
    fn from(Ingress { namespaces, pods }: Ingress) -> Self {
        Self { namespaces, pods, nodes: None, networks: None, domain_names: None }
    }
}

/// The peers an entry stands for; what is wrong joins `problems`.
pub(super) fn read(
    written: Value,
    field: &str,
    direction: Direction,
    problems: &mut Vec<String>,
) -> Vec<ClusterPeer> {
    let decoded = match direction {
        Direction::Ingress => decode::<Ingress>(field, written).map(Egress::from),
        Direction::Egress => decode::<Egress>(field, written),
    };
    let peer = match decoded {
        Ok(peer) => peer,
        Err(reason) => {
            problems.push(reason);
            return Vec::new();
        }
    };
    let kinds = [
        ("namespaces", peer.namespaces.is_some()),
        ("pods", peer.pods.is_some()),
        ("nodes", peer.nodes.is_some()),
        ("networks", peer.networks.is_some()),
        ("domainNames", peer.domain_names.is_some()),
    ];
    let mut set = kinds.iter().filter(|(_, is_set)| *is_set).map(|(kind, _)| *kind);
    if let (Some(first), Some(second)) = (set.next(), set.next()) {
        problems.push(format!("{field}.{second} stands beside {first}: make two peers of it"));
        return Vec::new();
    }
    let mut unenforced = |kind: &str, value: &Value| {
        let field = format!("{field}.{kind}");
        let fix = "use networks, with the prefixes of what is meant";
        problems.push(Problem::new(field, &shown(value), "is not enforced", fix).to_string());
        Vec::new()
    };
    if let Some(nodes) = &peer.nodes {
        return unenforced("nodes", nodes);
    }
    if let Some(names) = &peer.domain_names {
        return unenforced("domainNames", names);
    }
    if let Some(written) = &peer.namespaces {
        let namespaces = selector(written, &format!("{field}.namespaces"), problems);
        return vec![ClusterPeer::Pods(ClusterPods::of_namespaces(namespaces))];
    }
    if let Some(written) = &peer.pods {
        return pods(written, &format!("{field}.pods"), problems)
            .map(ClusterPeer::Pods)
            .into_iter()
            .collect();
    }
    let Some(networks) = &peer.networks else {
        problems.push(format!("{field} {{}} is no peer that is known: set namespaces, pods or networks"));
        return Vec::new();
    };
    if networks.is_empty() {
        problems.push(format!("{field}.networks is empty: add a prefix"));
    }
    let mut faults = Vec::new();
    let nets = networks.iter().enumerate().filter_map(|(index, text)| {
        policy_net::net(text, &format!("{field}.networks[{index}]"), &mut faults).map(ClusterPeer::Net)
    });
    let peers = nets.collect();
    problems.extend(faults.iter().map(Problem::to_string));
    peers
}

/// A value as JSON, cut when it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
        None => text,
    }
}
