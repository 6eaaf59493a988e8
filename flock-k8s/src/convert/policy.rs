//! A NetworkPolicy (`networking.k8s.io/v1`) in the terms of the core.
//!
//! A field that is not known is refused: whatever it says, a rule without it could admit more than was meant.

use std::collections::BTreeMap;

use flock_core::ids::PodKey;
use flock_core::policy::{NetworkPolicy, PolicyKey, PolicyPeer, PolicyPort, PolicyRule};
use flock_core::problem::Problem;
use flock_core::selector::{LabelRequirementSpec, LabelSelector, LabelSelectorSpec};
use serde::Deserialize;
use serde_json::Value;

use super::policy_net::{self, IpBlock};
use super::policy_port::{self, Entry};
use crate::manifests::decode;

/// Most bytes of problems in one line; the rest is counted.
const SHOWN: usize = 2000;

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Option<Value>,
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    pod_selector: Option<Selector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<Ingress>>,
    egress: Option<Vec<Egress>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ingress {
    from: Option<Vec<Peer>>,
    ports: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Egress {
    to: Option<Vec<Peer>>,
    ports: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Peer {
    ip_block: Option<IpBlock>,
    namespace_selector: Option<Selector>,
    pod_selector: Option<Selector>,
}

/// As [`LabelSelectorSpec`], where `null` is the same as nothing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Selector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Requirement>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

/// Reads a NetworkPolicy, or says everything that is wrong with it. A missing namespace means `default`.
pub(crate) fn network_policy(object: Value) -> Result<NetworkPolicy, String> {
    let Object { metadata, spec } = decode("", object)?;
    let mut problems = Vec::new();
    let key = key(metadata, &mut problems)?;
    let spec = spec.ok_or_else(|| told(&problems, "spec is missing"))?;
    let spec: Spec = decode("spec", spec).map_err(|reason| told(&problems, &reason))?;

    let subject = selector(spec.pod_selector.as_ref(), "spec.podSelector", &mut problems);
    let egress_is_written = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let ingress: Vec<(_, _)> =
        spec.ingress.into_iter().flatten().map(|rule| (rule.from, rule.ports)).collect();
    let egress: Vec<(_, _)> = spec.egress.into_iter().flatten().map(|rule| (rule.to, rule.ports)).collect();
    let ingress = rules(ingress, "spec.ingress", "from", &mut problems);
    let egress = rules(egress, "spec.egress", "to", &mut problems);
    let types = spec.policy_types.unwrap_or_default();
    let (is_ingress, is_egress) =
        if types.is_empty() { (true, egress_is_written) } else { policy_types(&types, &mut problems) };
    if problems.is_empty() {
        let (ingress, egress) = (is_ingress.then_some(ingress), is_egress.then_some(egress));
        Ok(NetworkPolicy { key, subject, ingress, egress })
    } else {
        Err(line(&problems))
    }
}

fn key(metadata: Metadata, problems: &mut Vec<Problem>) -> Result<PolicyKey, String> {
    let name = metadata.name.filter(|name| !name.is_empty()).ok_or("metadata.name is missing")?;
    let namespace = metadata.namespace.filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    // The names of pods and of policies keep the same rules.
    if PodKey::new("default", &name).is_err() {
        let fix = "use at most 253 lower case letters, digits, '-' and '.'";
        problems.push(Problem::text("metadata.name", &name, "is not a DNS subdomain", fix));
    }
    if PodKey::new(&namespace, "name").is_err() {
        let fix = "use at most 63 lower case letters, digits and '-'";
        problems.push(Problem::text("metadata.namespace", &namespace, "is not a DNS label", fix));
    }
    Ok(PolicyKey { namespace, name })
}

/// What is wrong so far, and what makes it impossible to go on.
fn told(problems: &[Problem], last: &str) -> String {
    if problems.is_empty() { last.to_owned() } else { format!("{}; {last}", line(problems)) }
}

/// Problems in one line, which a hostile file cannot make long.
fn line(problems: &[Problem]) -> String {
    let mut length = 0;
    let fits = |problem: &&Problem| {
        length += problem.to_string().len();
        length <= SHOWN
    };
    let shown = problems.iter().take_while(fits).count().max(1);
    let text = Problem::join(problems.get(..shown).unwrap_or(problems));
    match problems.len().saturating_sub(shown) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

/// Whether `Ingress` and `Egress` are among the types.
fn policy_types(types: &[String], problems: &mut Vec<Problem>) -> (bool, bool) {
    let (mut ingress, mut egress) = (false, false);
    for (index, text) in types.iter().enumerate() {
        let fix = match text.as_str() {
            "Ingress" => {
                ingress = true;
                continue;
            }
            "Egress" => {
                egress = true;
                continue;
            }
            text if text.eq_ignore_ascii_case("ingress") => "write \"Ingress\"",
            text if text.eq_ignore_ascii_case("egress") => "write \"Egress\"",
            _ => "use Ingress, Egress or both",
        };
        problems.push(Problem::text(format!("spec.policyTypes[{index}]"), text, "is not a policy type", fix));
    }
    (ingress, egress)
}

type Parts = (Option<Vec<Peer>>, Option<Vec<Entry>>);

fn rules(parts: Vec<Parts>, field: &str, side: &str, problems: &mut Vec<Problem>) -> Vec<PolicyRule> {
    let rule = |(index, (peers, ports)): (usize, Parts)| {
        let entries = |name: &str, entry: usize| format!("{field}[{index}].{name}[{entry}]");
        let peers: Vec<PolicyPeer> = (peers.into_iter().flatten().enumerate())
            .filter_map(|(entry, written)| peer(&written, &entries(side, entry), problems))
            .collect();
        let ports: Vec<PolicyPort> = (ports.into_iter().flatten().enumerate())
            .filter_map(|(entry, written)| policy_port::read(&written, &entries("ports", entry), problems))
            .collect();
        PolicyRule { peers, ports }
    };
    parts.into_iter().enumerate().map(rule).collect()
}

fn peer(peer: &Peer, field: &str, problems: &mut Vec<Problem>) -> Option<PolicyPeer> {
    let mut selected = |selector: &Option<Selector>, name: &str| {
        selector.as_ref().map(|it| self::selector(Some(it), &format!("{field}.{name}"), problems))
    };
    let namespaces = selected(&peer.namespace_selector, "namespaceSelector");
    let pods = selected(&peer.pod_selector, "podSelector");
    let fault = match (&peer.ip_block, namespaces.is_some() || pods.is_some()) {
        (None, true) => return Some(PolicyPeer::Pods { namespaces, pods }),
        (Some(block), false) => return policy_net::read(block, &format!("{field}.ipBlock"), problems),
        (Some(block), true) => {
            let fix = "make two peers of it, or keep one of the two";
            Problem::text(format!("{field}.ipBlock"), block.cidr(), "stands beside a selector", fix)
        }
        (None, false) => {
            let fix = "add ipBlock, podSelector or namespaceSelector; a rule for everybody has no peers";
            Problem::new(field, &"{}", "names nobody", fix)
        }
    };
    problems.push(fault);
    None
}

/// One that is missing selects all.
pub(super) fn selector(
    selector: Option<&Selector>,
    field: &str,
    problems: &mut Vec<Problem>,
) -> LabelSelector {
    let requirement = |it: &Requirement| LabelRequirementSpec {
        key: it.key.clone(),
        operator: it.operator.clone(),
        values: it.values.clone().unwrap_or_default(),
    };
    let spec = selector.map_or_else(LabelSelectorSpec::default, |it| LabelSelectorSpec {
        match_labels: it.match_labels.clone().unwrap_or_default(),
        match_expressions: it.match_expressions.iter().flatten().map(requirement).collect(),
    });
    LabelSelector::validate(&spec, field, problems)
}

#[cfg(test)]
mod tests;
