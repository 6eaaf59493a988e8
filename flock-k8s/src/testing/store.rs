//! The objects, and what happened to them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

/// Changes that are remembered: a watch that is further behind is told that its version is gone.
const HISTORY: usize = 2_000;

/// What happened to an object: the state before and after it.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) plural: String,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

type Key = (String, String, String);

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) version: u64,
    /// Changes up to this version are forgotten.
    pub(super) compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    pub(super) changes: VecDeque<Change>,
    /// Rest of a list that is read in pages.
    pub(super) pages: BTreeMap<String, (u64, Vec<Arc<Value>>)>,
}

impl Store {
    pub(super) fn put(&mut self, mut object: Value) {
        let plural = match object["kind"].as_str().unwrap() {
            "Pod" => "pods",
            "Namespace" => "namespaces",
            "NodeConfig" => "nodeconfigs",
            "Node" => "nodes",
            "Event" => "events",
            "NetworkPolicy" => "networkpolicies",
            "ClusterNetworkPolicy" => "clusternetworkpolicies",
            kind => panic!("no such kind: {kind}"),
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (plural.to_owned(), text("namespace"), text("name"));
        let object = Arc::new(object);
        let before = self.objects.insert(key, Arc::clone(&object));
        self.remember(plural, before, Some(object));
    }

    pub(super) fn delete(&mut self, plural: &str, namespace: Option<&str>, name: &str) {
        let Some(before) = self.objects.remove(&key(plural, namespace, name)) else { return };
        self.version += 1;
        self.remember(plural, Some(before), None);
    }

    fn remember(&mut self, plural: &str, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.changes.push_back(Change { version: self.version, plural: plural.to_owned(), before, after });
        if self.changes.len() > HISTORY
            && let Some(forgotten) = self.changes.pop_front()
        {
            self.compacted = forgotten.version;
        }
    }

    pub(super) fn get(&self, plural: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.objects.get(&key(plural, namespace, name)).map(|object| Value::clone(object))
    }

    pub(super) fn all(&self, plural: &str) -> Vec<Arc<Value>> {
        self.objects
            .iter()
            .filter(|((kind, ..), _)| kind == plural)
            .map(|(_, object)| Arc::clone(object))
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

/// Whether an object is selected by `metadata.name=a,spec.nodeName!=b`.
pub(super) fn selected(object: &Value, selector: Option<&String>) -> bool {
    selector.into_iter().flat_map(|selector| selector.split(',')).all(|part| {
        let (field, value) = part.split_once('=').unwrap();
        let (field, wanted) = field.strip_suffix('!').map_or((field, true), |field| (field, false));
        let pointer = format!("/{}", field.replace('.', "/"));
        (object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default() == value) == wanted
    })
}
