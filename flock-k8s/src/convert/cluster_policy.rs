//! A `ClusterNetworkPolicy` (`policy.networking.k8s.io/v1alpha2`) in the terms of the core.
//!
//! A rule that holds something flock does not know or cannot enforce is closed, as the API asks for, and reported; the
//! other rules of its policy are enforced. Outside of rules, where a field that is not known could change what all of
//! them are about, the policy is refused.

use std::sync::Arc;

use flock_core::ids::PodKey;
use flock_core::policy::{
    Action, ClusterPeer, ClusterPods, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, Direction,
    Priority,
};
use flock_core::problem::Problem;
use flock_core::selector::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::policy::{self, Selector};
use super::policy_port::shown;
use super::{cluster_peer, cluster_port};
use crate::manifests::decode;

/// Most bytes of problems in one line; the rest is counted.
const SHOWN: usize = 2000;

/// A `ClusterNetworkPolicy` as flock enforces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterPolicyView {
    /// The policy, in which closed rules stand for those that cannot be enforced.
    pub(crate) policy: Arc<ClusterPolicy>,
    /// Which rules are closed, and why.
    pub(crate) unenforced: Option<String>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Option<Value>,
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    tier: Option<String>,
    priority: Option<Value>,
    subject: Option<Subject>,
    ingress: Option<Vec<Value>>,
    egress: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    namespaces: Option<Selector>,
    pods: Option<Pods>,
}

/// `pods` of a subject or a peer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pods {
    namespace_selector: Option<Selector>,
    pod_selector: Option<Selector>,
}

/// A rule without its name and action.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ingress {
    from: Option<Vec<Value>>,
    protocols: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Egress {
    to: Option<Vec<Value>>,
    protocols: Option<Vec<Value>>,
}

/// Reads a `ClusterNetworkPolicy`, or says everything that makes it unreadable.
pub(crate) fn cluster_policy(object: Value) -> Result<ClusterPolicyView, String> {
    let Object { metadata, spec } = decode("", object)?;
    let name = metadata.name.filter(|name| !name.is_empty()).ok_or("metadata.name is missing")?;
    let mut problems = Vec::new();
    // The names of pods and of policies keep the same rules.
    if PodKey::new("default", &name).is_err() {
        let fix = "use at most 253 lower case letters, digits, '-' and '.'";
        problems.push(Problem::text("metadata.name", &name, "is not a DNS subdomain", fix).to_string());
    }
    let spec: Spec = decode("spec", spec.ok_or("spec is missing")?)?;
    let tier = tier(spec.tier.as_deref(), &mut problems);
    let priority = priority(spec.priority.as_ref(), &mut problems);
    let subject = subject(spec.subject, &mut problems);
    match (tier, priority, subject) {
        (Some(tier), Some(priority), Some(subject)) if problems.is_empty() => {
            let mut closed = Vec::new();
            let ingress = rules(spec.ingress, Direction::Ingress, &mut closed);
            let egress = rules(spec.egress, Direction::Egress, &mut closed);
            let policy = Arc::new(ClusterPolicy { name, tier, priority, subject, ingress, egress });
            let unenforced = (!closed.is_empty()).then(|| line(&closed));
            Ok(ClusterPolicyView { policy, unenforced })
        }
        _ => Err(line(&problems)),
    }
}

/// Problems in one line, which a hostile file cannot make long.
fn line(problems: &[String]) -> String {
    let mut length = 0;
    let fits = |problem: &&String| {
        length += problem.len();
        length <= SHOWN
    };
    let count = problems.iter().take_while(fits).count().max(1);
    let text = problems.get(..count).unwrap_or(problems).join("; ");
    match problems.len().saturating_sub(count) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

/// The value a text stands for, among those that are known.
fn known<T: Copy>(
    text: Option<&str>,
    values: &[(&str, T)],
    field: &str,
    what: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    let Some(text) = text else {
        problems.push(format!("{field} is missing"));
        return None;
    };
    if let Some((_, value)) = values.iter().find(|(name, _)| *name == text) {
        return Some(*value);
    }
    let fix = if let Some((name, _)) = values.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        format!("write {name:?}")
    } else {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        format!("use {}", names.join(" or "))
    };
    problems.push(Problem::text(field, text, format!("is not {what}"), fix).to_string());
    None
}

fn tier(text: Option<&str>, problems: &mut Vec<String>) -> Option<ClusterTier> {
    let tiers = [("Admin", ClusterTier::Admin), ("Baseline", ClusterTier::Baseline)];
    known(text, &tiers, "spec.tier", "a tier", problems)
}

fn priority(written: Option<&Value>, problems: &mut Vec<String>) -> Option<Priority> {
    let Some(written) = written else {
        problems.push("spec.priority is missing".to_owned());
        return None;
    };
    let number = written.as_i64().and_then(|number| i32::try_from(number).ok());
    let priority = number.and_then(Priority::new);
    if priority.is_none() {
        let fix = format!("use a number from 0 to {}", Priority::MAX);
        problems.push(Problem::new("spec.priority", &shown(written), "is not a priority", fix).to_string());
    }
    priority
}

fn subject(subject: Option<Subject>, problems: &mut Vec<String>) -> Option<ClusterPods> {
    let fault = match subject.map(|subject| (subject.namespaces, subject.pods)) {
        None => "spec.subject is missing".to_owned(),
        Some((Some(namespaces), None)) => {
            let namespaces = selector(&namespaces, "spec.subject.namespaces", problems);
            return Some(ClusterPods::of_namespaces(namespaces));
        }
        Some((None, Some(written))) => return pods(&written, "spec.subject.pods", problems),
        Some((Some(_), Some(_))) => {
            "spec.subject.pods stands beside namespaces: keep one of the two".to_owned()
        }
        Some((None, None)) => {
            "spec.subject {} selects nothing that is known: set namespaces or pods".to_owned()
        }
    };
    problems.push(fault);
    None
}

/// Pods by both selectors; without `namespaceSelector` those of all namespaces.
pub(super) fn pods(written: &Pods, field: &str, problems: &mut Vec<String>) -> Option<ClusterPods> {
    let namespaces = match &written.namespace_selector {
        Some(written) => selector(written, &format!("{field}.namespaceSelector"), problems),
        None => LabelSelector::default(),
    };
    let Some(pods) = &written.pod_selector else {
        problems.push(format!("{field}.podSelector is missing"));
        return None;
    };
    let pods = selector(pods, &format!("{field}.podSelector"), problems);
    Some(ClusterPods { namespaces, pods })
}

/// A selector; what is wrong joins `problems`.
pub(super) fn selector(written: &Selector, field: &str, problems: &mut Vec<String>) -> LabelSelector {
    let mut faults = Vec::new();
    let selector = policy::selector(Some(written), field, &mut faults);
    problems.extend(faults.iter().map(Problem::to_string));
    selector
}

/// The rules of a direction; those that are closed join `closed`.
fn rules(written: Option<Vec<Value>>, direction: Direction, closed: &mut Vec<String>) -> Vec<ClusterRule> {
    let side = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let rules = written.into_iter().flatten().enumerate();
    rules.map(|(index, written)| rule(written, &format!("spec.{side}[{index}]"), direction, closed)).collect()
}

fn rule(mut written: Value, field: &str, direction: Direction, closed: &mut Vec<String>) -> ClusterRule {
    let mut problems = Vec::new();
    let mut take = |key: &str| written.as_object_mut().and_then(|rule| rule.remove(key));
    let name = match take("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name).filter(|name| !name.is_empty()),
        Some(other) => {
            let problem =
                Problem::new(format!("{field}.name"), &shown(&other), "is not a text", "write a text");
            problems.push(problem.to_string());
            None
        }
    };
    let action = take("action");
    let actions = [("Accept", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)];
    let text = action.as_ref().and_then(Value::as_str);
    let action = known(text, &actions, &format!("{field}.action"), "an action", &mut problems);
    let parts = parts(written, field, direction, &mut problems);
    match (action, parts) {
        (Some(action), Some((peers, ports))) if problems.is_empty() => {
            ClusterRule { name, action, peers, ports }
        }
        (action, _) => {
            // Of an action that is not known it is only known that it may have been the strictest one.
            let rule = ClusterRule::closed(name, action.unwrap_or(Action::Deny));
            let effect = match rule.action {
                Action::Accept => "matches nothing",
                Action::Deny | Action::Pass => "denies everything",
            };
            let name =
                rule.name.as_ref().map_or_else(String::new, |name| format!(" {}", Problem::quote(name)));
            closed.push(format!("{}; rule {field}{name} {effect}", line(&problems)));
            rule
        }
    }
}

/// Peers and ports of a rule, `None` where they cannot be told.
fn parts(
    written: Value,
    field: &str,
    direction: Direction,
    problems: &mut Vec<String>,
) -> Option<(Vec<ClusterPeer>, Vec<ClusterPort>)> {
    let (side, decoded) = match direction {
        Direction::Ingress => ("from", decode::<Ingress>(field, written).map(|it| (it.from, it.protocols))),
        Direction::Egress => ("to", decode::<Egress>(field, written).map(|it| (it.to, it.protocols))),
    };
    let (peers, protocols) = decoded.map_err(|reason| problems.push(reason)).ok()?;
    let peers = peers.unwrap_or_default();
    if peers.is_empty() {
        problems.push(format!("{field}.{side} is empty: add a peer"));
    }
    let peers: Vec<ClusterPeer> = (peers.into_iter().enumerate())
        .flat_map(|(entry, it)| {
            cluster_peer::read(it, &format!("{field}.{side}[{entry}]"), direction, problems)
        })
        .collect();
    if protocols.as_ref().is_some_and(Vec::is_empty) {
        problems.push(format!("{field}.protocols is empty: add a protocol, or remove it"));
    }
    let mut ports = Vec::new();
    for (entry, written) in protocols.into_iter().flatten().enumerate() {
        let field = format!("{field}.protocols[{entry}]");
        let Some(port) = cluster_port::read(written, &field, problems) else { continue };
        if let ClusterPort::Name(name) = &port
            && peers.iter().any(|peer| matches!(peer, ClusterPeer::Net(_)))
        {
            let (field, fix) = (format!("{field}.destinationNamedPort"), "make two rules of it");
            problems
                .push(Problem::text(field, name, "is asked of networks, which have none", fix).to_string());
        }
        ports.push(port);
    }
    Some((peers, ports))
}

#[cfg(test)]
mod tests;
