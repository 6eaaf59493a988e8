//! Events (`events.k8s.io/v1`): the first of a kind is told at once, its repetitions are counted and told now and
//! then, and however much happens, only so many are told at all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use flock_core::ids::{NodeName, PodUid};
use flock_core::ports::{NodeStatus, PodEvent, StatusError};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::status::{MANAGER, within};

/// Between two words on the same thing.
const QUIET: Duration = Duration::from_mins(1);
/// What is not repeated for so long is forgotten, and new when it comes again.
const FORGOTTEN: Duration = Duration::from_mins(6);
/// Events told at once, and how long one takes to be allowed again.
const BUDGET: (u32, Duration) = (25, Duration::from_secs(5));

/// What to do about something that happened.
#[derive(Debug, PartialEq, Eq)]
enum Tell {
    First { name: String },
    Again { name: String, count: i32 },
    Nothing,
}

/// What has been told.
#[derive(Debug)]
struct Told {
    series: BTreeMap<(String, String, String), Series>,
    budget: u32,
    refilled: Instant,
    /// Makes the names of events differ.
    serial: u64,
}

#[derive(Debug)]
struct Series {
    name: String,
    count: i32,
    told: Instant,
    seen: Instant,
}

impl Told {
    fn new(now: Instant) -> Self {
        Self { series: BTreeMap::new(), budget: BUDGET.0, refilled: now, serial: 0 }
    }

    fn decide(&mut self, object: &str, reason: &str, note: &str, prefix: &str, now: Instant) -> Tell {
        while self.budget < BUDGET.0 && now.duration_since(self.refilled) >= BUDGET.1 {
            self.budget += 1;
            self.refilled += BUDGET.1;
        }
        if self.budget == BUDGET.0 {
            self.refilled = now;
        }
        self.series.retain(|_, series| now.duration_since(series.seen) < FORGOTTEN);
        let key = (object.to_owned(), reason.to_owned(), note.to_owned());
        if let Some(series) = self.series.get_mut(&key) {
            series.count = series.count.saturating_add(1);
            series.seen = now;
            if now.duration_since(series.told) < QUIET || self.budget == 0 {
                return Tell::Nothing;
            }
            series.told = now;
            self.budget -= 1;
            return Tell::Again { name: series.name.clone(), count: series.count };
        }
        if self.budget == 0 {
            return Tell::Nothing;
        }
        self.budget -= 1;
        self.serial += 1;
        let name = format!("{prefix}.{:x}", self.serial);
        self.series.insert(key, Series { name: name.clone(), count: 1, told: now, seen: now });
        Tell::First { name }
    }
}

/// Tells of events.
pub(crate) struct Events {
    client: Client,
    node: NodeName,
    told: Mutex<Told>,
    refused: Mutex<Option<String>>,
    /// Tells the events of this run from those of others.
    run: String,
}

/// What an event is about.
struct About {
    api_version: &'static str,
    kind: &'static str,
    /// Where the event goes, which for an object without a namespace is `default`.
    namespace: String,
    object: Value,
    name: String,
}

impl Events {
    pub(crate) fn new(client: Client, node: NodeName) -> Self {
        let run = format!("{:x}", Timestamp::now().as_nanosecond());
        Self { client, node, told: Mutex::new(Told::new(Instant::now())), refused: Mutex::default(), run }
    }

    pub(crate) async fn tell_of_pod(&self, event: &PodEvent, uid: Option<PodUid>) -> Result<(), StatusError> {
        let (namespace, name) = (event.pod.namespace().to_owned(), event.pod.name().to_owned());
        let object = json!({ "namespace": namespace, "uid": uid });
        let about = About { api_version: "v1", kind: "Pod", namespace, object, name };
        self.tell(&about, event.reason, &event.message).await
    }

    /// Tells of a NodeConfig that is refused, once for each reason.
    pub(crate) async fn tell_of_config(
        &self,
        status: &NodeStatus,
        identity: Option<(Option<PodUid>, i64)>,
    ) -> Result<(), StatusError> {
        let Some((uid, _)) = identity else { return Ok(()) };
        let refused =
            status.conditions.iter().find(|it| it.kind == "ConfigAccepted" && it.reason == "Refused");
        let reason = refused.map(|condition| condition.message.clone());
        {
            let mut last = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if *last == reason {
                return Ok(());
            }
            last.clone_from(&reason);
        }
        let Some(message) = reason else { return Ok(()) };
        let about = About {
            api_version: "flock.fritzlab.net/v1alpha1",
            kind: "NodeConfig",
            namespace: "default".to_owned(),
            object: json!({ "uid": uid }),
            name: self.node.to_string(),
        };
        self.tell(&about, "ConfigRefused", &message).await
    }

    async fn tell(&self, about: &About, reason: &str, note: &str) -> Result<(), StatusError> {
        let object = format!("{} {}/{}", about.kind, about.namespace, about.name);
        let prefix = format!("{}.{}", about.name, self.run);
        let tell = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.decide(&object, reason, note, &prefix, Instant::now())
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &about.namespace);
        match tell {
            Tell::Nothing => Ok(()),
            Tell::First { name } => {
                let event = self.event(&name, about, reason, note);
                let Ok(event) = serde_json::from_value::<Event>(event) else { return Ok(()) };
                let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                within(api.create(&params, &event)).await.map(|_| ())
            }
            Tell::Again { name, count } => {
                let series = json!({ "count": count, "lastObservedTime": micros(Timestamp::now()) });
                let params =
                    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
                let patch = Patch::Merge(json!({ "series": series }));
                within(api.patch(&name, &params, &patch)).await.map(|_| ())
            }
        }
    }

    fn event(&self, name: &str, about: &About, reason: &str, note: &str) -> Value {
        let mut regarding = about.object.clone();
        regarding["apiVersion"] = json!(about.api_version);
        regarding["kind"] = json!(about.kind);
        regarding["name"] = json!(about.name);
        json!({
            "metadata": { "name": name, "namespace": about.namespace },
            "eventTime": micros(Timestamp::now()),
            "reportingController": "flock.fritzlab.net/agent",
            "reportingInstance": self.node,
            "action": "Network",
            "reason": reason,
            "regarding": regarding,
            "note": cut(note),
            "type": "Warning",
        })
    }
}

/// The API server takes notes of at most 1024 bytes.
fn cut(note: &str) -> &str {
    let mut end = note.len().min(1024);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default()
}

/// As the fields of type `MicroTime` want it.
fn micros(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted_and_told_now_and_then() {
        let start = Instant::now();
        let mut told = Told::new(start);
        let mut at = |seconds| told.decide("Pod a/b", "R", "note", "b", start + Duration::from_secs(seconds));
        assert_eq!(at(0), Tell::First { name: "b.1".to_owned() });
        assert_eq!(at(1), Tell::Nothing);
        assert_eq!(at(59), Tell::Nothing);
        assert_eq!(at(60), Tell::Again { name: "b.1".to_owned(), count: 4 });
        assert_eq!(at(61), Tell::Nothing);
        assert_eq!(at(61 + 360), Tell::First { name: "b.2".to_owned() }, "forgotten meanwhile");
    }

    #[test]
    fn a_flood_is_cut_off_and_ends() {
        let start = Instant::now();
        let mut told = Told::new(start);
        let mut firsts = |from: u32, at: Instant| {
            let tells = (from..from + 1000).map(|n| told.decide(&n.to_string(), "R", "note", "b", at));
            tells.filter(|tell| *tell != Tell::Nothing).count()
        };
        assert_eq!(firsts(0, start), 25);
        assert_eq!(firsts(1000, start + Duration::from_secs(10)), 2);
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut(&"é".repeat(600)).len(), 1024);
        assert_eq!(cut(&format!("a{}", "é".repeat(600))).len(), 1023);
        assert_eq!(cut("short"), "short");
    }
}
