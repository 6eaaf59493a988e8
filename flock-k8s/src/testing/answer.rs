//! What is answered to which request.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::http::{Connection, Request};
use super::rules::Target;
use super::store::selected;
use super::{Shared, State, validate};

pub(super) fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        504 => "Timeout",
        _ => "Unknown",
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

impl State {
    /// Whether there is such a kind.
    fn knows(&self, target: &Target) -> bool {
        self.has_cluster_policies || target.plural != "clusternetworkpolicies"
    }
}

pub(super) fn answer(state: &mut State, request: &Request) -> (u16, Value) {
    let (Some(target), Some(access)) = (request.target(), request.access()) else {
        return (404, status(404, "the server could not find the requested resource"));
    };
    if !state.allowed.contains(&access) {
        return (403, status(403, &format!("the agent cannot {access:?}")));
    }
    if !state.knows(&target) {
        return (404, status(404, "the server could not find the requested resource"));
    }
    let namespace = target.namespace.as_deref();
    match (request.method.as_str(), target.name.as_deref()) {
        ("GET", None) => list(state, &target.plural, request),
        ("GET", Some(name)) => match state.store.get(&target.plural, namespace, name) {
            Some(object) => (200, object),
            None => (404, status(404, "no such object")),
        },
        ("POST", None) => {
            let name = request.body["metadata"]["name"].as_str().unwrap();
            if state.store.get(&target.plural, namespace, name).is_some() {
                let mut exists = status(409, "it exists");
                exists["reason"] = json!("AlreadyExists");
                return (409, exists);
            }
            if let Err(reason) = validate::event(&request.body, namespace.unwrap_or_default()) {
                return (422, status(422, &reason));
            }
            state.store.put(request.body.clone());
            (201, request.body.clone())
        }
        ("PATCH", Some(name)) => patch(state, &target, name, request),
        _ => (405, status(405, "not allowed")),
    }
}

fn list(state: &mut State, plural: &str, request: &Request) -> (u16, Value) {
    if let Err(reason) = validate::list(&request.query) {
        return (400, status(400, &reason));
    }
    let token = request.query.get("continue");
    let (version, mut items) = match token {
        Some(token) => match state.store.pages.remove(token) {
            Some(rest) => rest,
            None => return (410, status(410, "the continue token is too old")),
        },
        None => {
            let selector =
                request.query.get("fieldSelector").filter(|it| state.selective || it.contains("!="));
            let mut items = state.store.all(plural);
            items.retain(|object| selected(object, selector));
            (state.store.version, items)
        }
    };
    let limit = request.query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let rest = items.split_off(limit.min(items.len()));
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if !rest.is_empty() {
        let token = format!("{version}-{}-{plural}", rest.len());
        metadata["continue"] = json!(token);
        state.store.pages.insert(token, (version, rest));
    }
    let mut items: Vec<Value> = items.iter().map(|item| item.as_ref().clone()).collect();
    for item in items.iter_mut().filter(|_| plural != "nodeconfigs" && plural != "clusternetworkpolicies") {
        // Of a built-in kind the list says once what its items are.
        item.as_object_mut().unwrap().retain(|field, _| field != "apiVersion" && field != "kind");
    }
    (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items }))
}

fn patch(state: &mut State, target: &Target, name: &str, request: &Request) -> (u16, Value) {
    let Some(mut object) = state.store.get(&target.plural, target.namespace.as_deref(), name) else {
        return (404, status(404, "no such object"));
    };
    let patch = &request.body;
    match (request.content_type.as_str(), target.subresource.as_deref()) {
        // One field manager: what it applies is all there is.
        ("application/apply-patch+yaml", Some("status")) => {
            if let Err(reason) = validate::apply(name, request) {
                return (400, status(400, &reason));
            }
            let uid = &patch["metadata"]["uid"];
            if !uid.is_null() && *uid != object["metadata"]["uid"] {
                return (409, status(409, "Precondition failed: UID in precondition does not match"));
            }
            object["status"] = patch["status"].clone();
        }
        ("application/strategic-merge-patch+json", Some("status")) => {
            let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            for new in patch["status"]["conditions"].as_array().unwrap() {
                match conditions.iter_mut().find(|old| old["type"] == new["type"]) {
                    Some(old) => merge(old, new),
                    None => conditions.push(new.clone()),
                }
            }
            object["status"]["conditions"] = json!(conditions);
        }
        ("application/merge-patch+json", None) if target.plural == "events" => {
            let old = object.clone();
            merge(&mut object, patch);
            if let Err(reason) = validate::event_update(&old, &object) {
                return (422, status(422, &reason));
            }
        }
        (other, _) => return (415, status(415, other)),
    }
    state.store.put(object.clone());
    (200, object)
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// Tells of changes until the time asked for is over.
pub(super) fn watch(
    connection: &mut Connection<'_>,
    shared: &Shared,
    request: &Request,
    is_over: &dyn Fn() -> bool,
) -> io::Result<()> {
    let target = request.target().unwrap();
    let query = |name: &str| request.query.get(name);
    let seconds = query("timeoutSeconds").map_or(300, |seconds| seconds.parse().unwrap());
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut seen: u64 = query("resourceVersion").map_or(0, |version| version.parse().unwrap());
    let marked = query("allowWatchBookmarks").is_some_and(|it| it == "true");
    let refused = {
        let allowed = request.access().is_some_and(|access| shared.state().allowed.contains(&access));
        let known = shared.state().knows(&target);
        let valid = validate::list(&request.query);
        match (allowed, known) {
            (false, _) => Some((403, "no".to_owned())),
            (true, false) => Some((404, "no such kind".to_owned())),
            (true, true) => valid.err().map(|reason| (400, reason)),
        }
    };
    if let Some((code, reason)) = refused {
        return connection.write(code, &status(code, &reason));
    }
    connection.begin()?;
    let mut state = shared.state();
    let selector = query("fieldSelector").filter(|it| state.selective || it.contains("!="));
    let mut bookmarks = state.bookmarks;
    state.watch += 1;
    let watch = state.watch;
    state.told.insert(watch, (seen, bookmarks));
    let outcome = loop {
        if is_over() || connection.is_closed() {
            break Err(io::ErrorKind::ConnectionAborted.into());
        }
        if state.mood == super::Mood::Silent {
            state = shared.wait(state, Duration::from_millis(20));
            continue;
        }
        if seen < state.store.compacted {
            let gone = json!({ "type": "ERROR", "object": status(410, "too old resource version") });
            break connection.part(&gone).and_then(|()| connection.end());
        }
        let news = state.store.changes.iter().filter(|change| change.version > seen);
        let mut parts = Vec::new();
        for change in news.filter(|change| change.plural == target.plural) {
            let is = |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|it| selected(it, selector));
            let kind = match (is(&change.before), is(&change.after)) {
                (false, false) => continue,
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
            };
            let last = change.after.as_ref().or(change.before.as_ref()).unwrap();
            let mut object = Value::clone(last);
            object["metadata"]["resourceVersion"] = json!(change.version.to_string());
            parts.push(json!({ "type": kind, "object": object }));
        }
        seen = state.store.version;
        if marked && state.bookmarks > bookmarks {
            let metadata = json!({ "resourceVersion": seen.to_string() });
            let object = json!({ "apiVersion": "v1", "kind": "Bookmark", "metadata": metadata });
            parts.push(json!({ "type": "BOOKMARK", "object": object }));
        }
        bookmarks = state.bookmarks;
        if let Err(error) = parts.iter().try_for_each(|part| connection.part(part)) {
            break Err(error);
        }
        state.told.insert(watch, (seen, bookmarks));
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break connection.end();
        }
        state = shared.wait(state, left.min(Duration::from_millis(50)));
    };
    state.told.remove(&watch);
    outcome
}
