//! What the API server refuses of what is asked and written, as far as flock could get it wrong.

use std::collections::BTreeMap;

use flock_core::ids::PodKey;
use serde_json::Value;

use super::http::Request;

/// `ValidateListOptions` of the API server.
pub(super) fn list(query: &BTreeMap<String, String>) -> Result<(), String> {
    let is = |name: &str| query.get(name).is_some_and(|value| !value.is_empty());
    let watch = is("watch");
    if is("resourceVersionMatch") && (watch || !is("resourceVersion") || is("continue")) {
        return Err("resourceVersionMatch: Forbidden".to_owned());
    }
    if is("continue") && is("resourceVersion") {
        return Err("specifying resource version is not allowed when using continue".to_owned());
    }
    if is("sendInitialEvents") {
        return Err("sendInitialEvents: Forbidden".to_owned());
    }
    if watch && (is("limit") || is("continue")) {
        return Err("a watch has no pages".to_owned());
    }
    Ok(())
}

/// Server-side apply of a status, as far as every kind has it in common.
pub(super) fn apply(name: &str, request: &Request) -> Result<(), String> {
    let body = &request.body;
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if !request.query.contains_key("fieldManager") {
        return Err("fieldManager: Required value: is required for apply patch".to_owned());
    }
    if text("/apiVersion").is_empty() || text("/kind").is_empty() {
        return Err("apiVersion and kind must be set".to_owned());
    }
    if text("/metadata/name") != name {
        return Err("the name of the object does not match the name on the URL".to_owned());
    }
    if body.pointer("/metadata/managedFields").is_some() {
        return Err("metadata.managedFields must be nil".to_owned());
    }
    let mut kinds: Vec<_> = conditions(body).map(|it| it["type"].as_str().unwrap_or_default()).collect();
    let count = kinds.len();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() == count { Ok(()) } else { Err("duplicate entries for key [type]".to_owned()) }
}

fn conditions(body: &Value) -> impl Iterator<Item = &Value> {
    body.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

/// `ValidateEventCreate` of the API server, for `events.k8s.io/v1`.
pub(super) fn event(event: &Value, namespace: &str) -> Result<(), String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let bounded = |field: &str, limit: usize| match text(field).len() {
        0 => Err(format!("{field}: Required value")),
        length if length > limit => Err(format!("{field}: can have at most {limit} characters")),
        _ => Ok(()),
    };
    if PodKey::new("default", text("/metadata/name")).is_err() {
        return Err(format!("metadata.name: {:?} must be a DNS subdomain", text("/metadata/name")));
    }
    if text("/metadata/namespace") != namespace {
        return Err("the namespace of the object does not match the namespace on the request".to_owned());
    }
    if !is_micro_time(text("/eventTime")) {
        return Err(format!("eventTime: {:?}", text("/eventTime")));
    }
    bounded("/reportingInstance", 128)?;
    bounded("/action", 128)?;
    bounded("/reason", 128)?;
    let (prefix, name) = text("/reportingController").split_once('/').unwrap_or(("a", "b"));
    let is_name = |name: &str| PodKey::new("default", name).is_ok();
    if text("/reportingController").is_empty() || !is_name(prefix) || !is_name(name) || name.len() > 63 {
        return Err("reportingController: must be a qualified name".to_owned());
    }
    if text("/note").len() > 1024 {
        return Err("note: can have at most 1024 characters".to_owned());
    }
    if !["Normal", "Warning"].contains(&text("/type")) {
        return Err("type: Invalid value".to_owned());
    }
    // Of an object without a namespace it is told in one of these two.
    match text("/regarding/namespace") {
        "" if !["default", "kube-system"].contains(&namespace) => {
            Err("regarding.namespace: does not match event.namespace".to_owned())
        }
        "" => series(event),
        other if other != namespace => Err("regarding.namespace: does not match".to_owned()),
        _ => series(event),
    }
}

/// `ValidateEventUpdate`: only the series may change.
pub(super) fn event_update(old: &Value, new: &Value) -> Result<(), String> {
    let fixed = |event: &Value| {
        let mut event = event.clone();
        event["series"] = Value::Null;
        event["metadata"] = Value::Null;
        event
    };
    if fixed(old) != fixed(new) {
        return Err("field is immutable".to_owned());
    }
    series(new)
}

fn series(event: &Value) -> Result<(), String> {
    let Some(series) = event.get("series").filter(|series| !series.is_null()) else { return Ok(()) };
    if series["count"].as_i64().is_none_or(|count| count < 2) {
        return Err("series.count: should be at least 2".to_owned());
    }
    match series["lastObservedTime"].as_str() {
        Some(time) if is_micro_time(time) => Ok(()),
        other => Err(format!("series.lastObservedTime: {other:?}")),
    }
}

/// `2006-01-02T15:04:05.000000Z`: neither more nor fewer digits.
pub(super) fn is_micro_time(text: &str) -> bool {
    let shape: String = text.chars().map(|it| if it.is_ascii_digit() { '0' } else { it }).collect();
    shape == "0000-00-00T00:00:00.000000Z"
}
