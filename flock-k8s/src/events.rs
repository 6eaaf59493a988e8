//! Events (`events.k8s.io/v1`): the first of a kind is told at once, its repetitions are counted and told now and
//! then, and however much happens, only so many are told at all. Nobody waits for the API server: what it does not hear
//! is told when it does.

mod told;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flock_core::ids::{NodeName, PodUid};
use flock_core::ports::{NodeStatus, PodEvent};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::told::{About, Happening, Heard, Tell, Told};
use crate::pause::Pause;
use crate::status::{MANAGER, Pace, Unheard, within};

/// The API server takes no longer ones.
const NOTE: usize = 1024;
const REPORTER: usize = 128;

/// Tells of events.
pub(crate) struct Events {
    shared: Arc<Shared>,
    /// The reason a NodeConfig was refused for last.
    refused: Mutex<Option<String>>,
    node: NodeName,
    /// Ends with this value.
    _teller: JoinSet<()>,
}

struct Shared {
    told: Mutex<Told>,
    news: Notify,
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// To be called within a Tokio runtime.
    pub(crate) fn new(client: Client, node: NodeName, pace: Pace) -> Self {
        let run = format!("{:x}", Timestamp::now().as_nanosecond());
        let told = Mutex::new(Told::new(run, pace.quiet, Instant::now()));
        let shared = Arc::new(Shared { told, news: Notify::new() });
        let teller = Teller {
            client,
            node: cut(node.as_str(), REPORTER).to_owned(),
            shared: Arc::clone(&shared),
            patience: pace.patience,
        };
        let mut task = JoinSet::new();
        task.spawn(teller.run(Pause::new(pace.retry)));
        Self { shared, refused: Mutex::default(), node, _teller: task }
    }

    /// Tells of a pod.
    pub(crate) fn of_pod(&self, event: &PodEvent, uid: Option<PodUid>) {
        let about = About {
            api_version: "v1",
            kind: "Pod",
            namespace: Some(event.pod.namespace().to_owned()),
            name: event.pod.name().to_owned(),
            uid,
        };
        if !self.happened(about, event.reason, &event.message) {
            tracing::debug!(pod = %event.pod, "one event too many");
        }
    }

    /// Tells of a NodeConfig that is refused, once for each reason.
    pub(crate) fn of_config(&self, status: &NodeStatus, uid: Option<PodUid>) {
        let refused =
            status.conditions.iter().find(|it| it.kind == "ConfigAccepted" && it.reason == "Refused");
        let reason = refused.map(|condition| condition.message.clone());
        let mut last = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == reason {
            return;
        }
        let about = About {
            api_version: "flock.fritzlab.net/v1alpha1",
            kind: "NodeConfig",
            namespace: None,
            name: self.node.to_string(),
            uid,
        };
        let told = reason.as_ref().is_none_or(|message| self.happened(about, "ConfigRefused", message));
        if told {
            *last = reason;
        }
    }

    fn happened(&self, about: About, reason: &'static str, note: &str) -> bool {
        let what = Happening { about, reason, note: cut(note, NOTE).to_owned() };
        let taken = self.shared.told().happened(what, Instant::now(), Timestamp::now());
        self.shared.news.notify_one();
        taken
    }
}

/// Sends what is to be told, one after the other.
struct Teller {
    client: Client,
    node: String,
    shared: Arc<Shared>,
    patience: Duration,
}

impl Teller {
    async fn run(self, mut pause: Pause) {
        let mut failing = false;
        loop {
            let next = self.shared.told().next();
            let Some((what, tell)) = next else {
                self.shared.news.notified().await;
                continue;
            };
            let outcome = self.tell(&what, &tell).await;
            let heard = heard(&tell, outcome.as_ref().err());
            self.shared.told().heard(&what, heard, Instant::now());
            let Err(error) = outcome else {
                pause.reset();
                failing = false;
                continue;
            };
            if heard == Heard::Silence {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(op = "event", %error, "events are told later");
                }
                tokio::time::sleep(pause.next()).await;
            } else if heard == Heard::Refused {
                tracing::warn!(object = what.about.name, reason = what.reason, %error, "event refused");
            }
        }
    }

    async fn tell(&self, what: &Happening, tell: &Tell) -> Result<(), Unheard> {
        // Of an object without a namespace it is told in this one.
        let namespace = what.about.namespace.as_deref().unwrap_or("default");
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let manager = Some(MANAGER.to_owned());
        match tell {
            Tell::First { name, since, count } => {
                let event = self.event(what, namespace, name, *since, *count);
                let params = PostParams { field_manager: manager, ..PostParams::default() };
                within(self.patience, api.create(&params, &event)).await.map(|_| ())
            }
            Tell::Again { name, count } => {
                let patch = Patch::Merge(json!({ "series": series(*count) }));
                let params = PatchParams { field_manager: manager, ..PatchParams::default() };
                within(self.patience, api.patch(name, &params, &patch)).await.map(|_| ())
            }
        }
    }

    fn event(&self, what: &Happening, namespace: &str, name: &str, since: Timestamp, count: i32) -> Event {
        let Happening { about, reason, note } = what;
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(since)),
            series: (count > 1).then(|| series(count)),
            reporting_controller: Some("flock.fritzlab.net/agent".to_owned()),
            reporting_instance: Some(self.node.clone()),
            action: Some("Network".to_owned()),
            reason: Some((*reason).to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(about.api_version.to_owned()),
                kind: Some(about.kind.to_owned()),
                namespace: about.namespace.clone(),
                name: Some(about.name.clone()),
                uid: about.uid.as_ref().map(ToString::to_string),
                ..ObjectReference::default()
            }),
            note: Some(note.clone()),
            type_: Some("Warning".to_owned()),
            ..Event::default()
        }
    }
}

/// It happened so often, and just now again.
fn series(count: i32) -> EventSeries {
    EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) }
}

fn heard(tell: &Tell, error: Option<&Unheard>) -> Heard {
    match (tell, error) {
        (_, None) => Heard::Yes,
        // An earlier try got through after all.
        (Tell::First { .. }, Some(Unheard::Refused { code: 409, reason, .. }))
            if reason == "AlreadyExists" =>
        {
            Heard::Yes
        }
        (Tell::Again { .. }, Some(Unheard::Refused { code: 404, .. })) => Heard::Gone,
        (_, Some(Unheard::Refused { .. })) => Heard::Refused,
        (_, Some(Unheard::Unavailable { .. })) => Heard::Silence,
    }
}

/// The start of a text, in so many bytes.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut(&"é".repeat(600), NOTE).len(), 1024);
        assert_eq!(cut(&format!("a{}", "é".repeat(600)), NOTE).len(), 1023);
        assert_eq!(cut("short", NOTE), "short");
    }
}
