//! The objects, and what happened to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What happened to an object: the state before and after it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) plural: String,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

type Key = (String, String, String);

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) version: u64,
    /// Changes up to this version are forgotten.
    pub(super) compacted: u64,
    objects: BTreeMap<Key, Value>,
    pub(super) changes: Vec<Change>,
    /// Rest of a list that is read in pages.
    pub(super) pages: BTreeMap<String, (u64, Vec<Value>)>,
}

impl Store {
    pub(super) fn put(&mut self, mut object: Value) {
        let plural = match object["kind"].as_str().unwrap() {
            "Pod" => "pods",
            "Namespace" => "namespaces",
            "NodeConfig" => "nodeconfigs",
            "Node" => "nodes",
            "Event" => "events",
            kind => panic!("no such kind: {kind}"),
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (plural.to_owned(), text("namespace"), text("name"));
        let before = self.objects.insert(key, object.clone());
        let plural = plural.to_owned();
        self.changes.push(Change { version: self.version, plural, before, after: Some(object) });
    }

    pub(super) fn delete(&mut self, plural: &str, namespace: Option<&str>, name: &str) {
        let Some(mut before) = self.objects.remove(&key(plural, namespace, name)) else { return };
        self.version += 1;
        before["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let plural = plural.to_owned();
        self.changes.push(Change { version: self.version, plural, before: Some(before), after: None });
    }

    pub(super) fn get(&self, plural: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.objects.get(&key(plural, namespace, name)).cloned()
    }

    pub(super) fn all(&self, plural: &str) -> Vec<Value> {
        self.objects
            .iter()
            .filter(|((kind, ..), _)| kind == plural)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Forgets the past and moves on, so that nobody's version is the present one.
    pub(super) fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
        self.changes.clear();
        self.pages.clear();
    }
}

fn key(plural: &str, namespace: Option<&str>, name: &str) -> Key {
    (plural.to_owned(), namespace.unwrap_or_default().to_owned(), name.to_owned())
}

/// Whether an object is selected by `metadata.name=a,spec.nodeName=b`.
pub(super) fn selected(object: &Value, selector: Option<&String>) -> bool {
    selector.into_iter().flat_map(|selector| selector.split(',')).all(|part| {
        let (field, value) = part.split_once('=').unwrap();
        let pointer = format!("/{}", field.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default() == value
    })
}
