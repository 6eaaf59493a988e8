//! `protocols` of a `ClusterNetworkPolicy`.

use flock_core::policy::{ClusterPort, PortRange, Protocol};
use flock_core::problem::Problem;
use serde::Deserialize;
use serde_json::Value;

use super::policy_port::{NUMBER, number, refusal, shown};
use crate::manifests::decode;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    tcp: Option<Attributes>,
    udp: Option<Attributes>,
    sctp: Option<Attributes>,
    destination_named_port: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Attributes {
    destination_port: Option<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    number: Option<Value>,
    range: Option<Range>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    start: Value,
    end: Value,
}

/// What an entry matches; what is wrong joins `problems`.
pub(super) fn read(written: Value, field: &str, problems: &mut Vec<String>) -> Option<ClusterPort> {
    let entry: Entry = decode(field, written).map_err(|reason| problems.push(reason)).ok()?;
    let protocols = [
        ("tcp", Protocol::Tcp, entry.tcp),
        ("udp", Protocol::Udp, entry.udp),
        ("sctp", Protocol::Sctp, entry.sctp),
    ];
    let mut set = protocols.into_iter().filter_map(|(key, protocol, it)| Some((key, protocol, it?)));
    match (set.next(), set.next(), entry.destination_named_port) {
        (Some((key, protocol, attributes)), None, None) => {
            port(protocol, attributes, &format!("{field}.{key}.destinationPort"), problems)
        }
        (None, _, Some(name)) => match refusal(&name) {
            None => Some(ClusterPort::Name(name)),
            Some((reason, fix)) => {
                let field = format!("{field}.destinationNamedPort");
                problems.push(Problem::text(field, &name, reason, fix).to_string());
                None
            }
        },
        (None, _, None) => {
            let fix = "set tcp, udp, sctp or destinationNamedPort";
            problems.push(format!("{field} {{}} is no protocol that is known: {fix}"));
            None
        }
        (Some((first, ..)), second, _) => {
            let second = second.map_or("destinationNamedPort", |(second, ..)| second);
            problems.push(format!("{field}.{second} stands beside {first}: make two entries of it"));
            None
        }
    }
}

/// The ports of a protocol; without `destinationPort` all of them.
fn port(
    protocol: Protocol,
    attributes: Attributes,
    field: &str,
    problems: &mut Vec<String>,
) -> Option<ClusterPort> {
    let Some(port) = attributes.destination_port else { return Some(ClusterPort::All(protocol)) };
    let mut read = |written: &Value, name: &str| {
        let port = number(written);
        if port.is_none() {
            let problem = Problem::new(format!("{field}.{name}"), &shown(written), "is not a port", NUMBER);
            problems.push(problem.to_string());
        }
        port
    };
    let (first, last) = match (&port.number, &port.range) {
        (Some(written), None) => read(written, "number").map(|port| (port, port))?,
        (None, Some(range)) => {
            let ends = (read(&range.start, "range.start"), read(&range.end, "range.end"));
            ends.0.zip(ends.1)?
        }
        (Some(_), Some(_)) => {
            problems.push(format!("{field}.range stands beside number: keep one of the two"));
            return None;
        }
        (None, None) => {
            problems.push(format!("{field} {{}} is no port that is known: set number or range"));
            return None;
        }
    };
    if first > last {
        let reason = format!("is less than the start {first}");
        let problem = Problem::new(format!("{field}.range.end"), &last, reason, "exchange them");
        problems.push(problem.to_string());
        return None;
    }
    Some(ClusterPort::Range(protocol, PortRange { first, last }))
}
