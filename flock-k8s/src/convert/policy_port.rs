//! `ports` of a NetworkPolicy.

use flock_core::policy::{PolicyPort, PortMatch, PortRange, Protocol};
use flock_core::problem::Problem;
use serde::Deserialize;
use serde_json::Value;

/// As written; numbers and names alike.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    protocol: Option<String>,
    port: Option<Value>,
    end_port: Option<Value>,
}

pub(super) const NUMBER: &str = "use a number from 1 to 65535";

/// The ports of an entry; what is wrong joins `problems`.
pub(super) fn read(written: &Entry, field: &str, problems: &mut Vec<Problem>) -> Option<PolicyPort> {
    let protocol = protocol(written.protocol.as_deref(), field, problems);
    let port = port(written, field, problems);
    Some(PolicyPort { protocol: protocol?, port: port? })
}

fn protocol(text: Option<&str>, field: &str, problems: &mut Vec<Problem>) -> Option<Protocol> {
    let Some(text) = text else { return Some(Protocol::Tcp) };
    let known = super::protocol(text);
    if known.is_none() {
        let upper = text.to_ascii_uppercase();
        let fix = match super::protocol(&upper) {
            Some(_) => format!("write {upper:?}"),
            None => "use TCP, UDP or SCTP".to_owned(),
        };
        problems.push(Problem::text(format!("{field}.protocol"), text, "is not a protocol", fix));
    }
    known
}

fn port(written: &Entry, field: &str, problems: &mut Vec<Problem>) -> Option<PortMatch> {
    let (port, end) = (written.port.as_ref(), written.end_port.as_ref());
    let end_field = format!("{field}.endPort");
    let mut refuse = |field: String, value: &Value, reason: &str, fix: String| {
        problems.push(Problem::new(field, &shown(value), reason, fix));
        None
    };
    match (port, end) {
        (None, None) => Some(PortMatch::Any),
        (None, Some(end)) => {
            refuse(end_field, end, "has no port to begin at", "add port, or remove endPort".to_owned())
        }
        (Some(Value::String(name)), None) => match refusal(name) {
            None => Some(PortMatch::Name(name.clone())),
            Some((reason, fix)) => {
                problems.push(Problem::text(format!("{field}.port"), name, reason, fix));
                None
            }
        },
        (Some(name @ Value::String(_)), Some(end)) => {
            let fix = format!("write a number instead of {}, or remove endPort", shown(name));
            refuse(end_field, end, "follows a port that has a name", fix)
        }
        (Some(port), end) => {
            let Some(first) = number(port) else {
                return refuse(format!("{field}.port"), port, "is not a port", NUMBER.to_owned());
            };
            let Some(end) = end else {
                return Some(PortMatch::Range(PortRange { first, last: first }));
            };
            match number(end) {
                Some(last) if last >= first => Some(PortMatch::Range(PortRange { first, last })),
                Some(_) => {
                    refuse(end_field, end, &format!("is less than port {first}"), "exchange them".to_owned())
                }
                None => refuse(end_field, end, "is not a port", NUMBER.to_owned()),
            }
        }
    }
}

pub(super) fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => Problem::quote(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
        other => other.to_string(),
    }
}

/// Why a text is not the name of a port (RFC 6335, section 5.1), and what to write instead.
pub(super) fn refusal(name: &str) -> Option<(&'static str, String)> {
    let bytes = name.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit) {
        return Some(("is a number in quotes", "write it without them".to_owned()));
    }
    let is_plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let is_good = bytes.len() <= 15
        && bytes.iter().all(is_plain)
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    let fix = "use at most 15 lower case letters, digits and single '-', with a letter among them and no '-' at the ends";
    (!is_good).then(|| ("is not the name of a port", fix.to_owned()))
}
