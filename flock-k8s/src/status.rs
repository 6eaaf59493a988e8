//! What the cluster hears of the node: the status of its NodeConfig, the condition of the node, Events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::ids::NodeName;
use flock_core::ports::{NodeStatus, PodEvent, StatusError, StatusSink};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{PartialObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::crd::{NodeConfig, Status};
use crate::events::Events;
use crate::follow::causes;
use crate::informer::{KubePodSource, Shared};
use crate::object::OwnView;

/// The field manager of everything the agent writes.
pub(crate) const MANAGER: &str = "flock-agent";

/// How often a node that is not ready is looked at: the scheduler may wait for it.
const LOOK: Duration = Duration::from_millis(500);

/// How often the cluster hears of the node.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Shortest time between two writes of the status, and between two where only counters changed: every agent of the
    /// cluster hears of each. What is refused is tried again after the first, then more and more seldom up to the second.
    pub status: (Duration, Duration),
    /// How often the node's network is said to be there, and how soon again where nobody heard it.
    pub heartbeat: (Duration, Duration),
    /// Between two Events on the same thing.
    pub quiet: Duration,
    /// First and longest pause before an Event nobody heard is told again; up to as much again is added at random.
    pub retry: (Duration, Duration),
    /// Longest write.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            status: (Duration::from_secs(5), Duration::from_mins(2)),
            heartbeat: (Duration::from_mins(1), Duration::from_secs(5)),
            quiet: Duration::from_mins(1),
            retry: (Duration::from_secs(2), Duration::from_mins(1)),
            patience: Duration::from_secs(10),
        }
    }
}

/// The [`StatusSink`] of a cluster.
pub struct KubeStatus {
    client: Client,
    node: NodeName,
    shared: Arc<Shared>,
    written: Mutex<Written>,
    events: Events,
    pace: Pace,
    started: Timestamp,
}

/// What has been written last.
#[derive(Default)]
struct Written {
    status: Option<(NodeStatus, String)>,
    /// The last try.
    at: Option<Instant>,
    /// How long the next one waits at least.
    wait: Duration,
    /// Since when each condition is what it is.
    since: BTreeMap<String, (bool, String)>,
}

impl KubeStatus {
    /// Writes for a node; `pods` knows which object is meant. To be called within a Tokio runtime.
    pub fn new(client: Client, node: &NodeName, pods: &KubePodSource, pace: Pace) -> Self {
        let shared = pods.shared();
        let events = Events::new(client.clone(), node.clone(), pace);
        let started = Timestamp::now();
        Self { client, node: node.clone(), shared, written: Mutex::default(), events, pace, started }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says for ever that the network of the node is there, from the moment pods can be attached: what cloud providers
    /// and schedulers look at.
    pub async fn keep_network_available(&self, can_attach: impl Fn() -> bool) {
        let mut failing = false;
        loop {
            if !can_attach() {
                tokio::time::sleep(LOOK.min(self.pace.heartbeat.1)).await;
                continue;
            }
            let wait = match self.say_network_is_available().await {
                Ok(()) => {
                    failing = false;
                    self.pace.heartbeat.0
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(op = "node_condition", %error, "the node does not show that its network is there");
                    }
                    self.pace.heartbeat.1
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn say_network_is_available(&self) -> Result<(), Unheard> {
        let condition = json!({
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "FlockReady",
            "message": "flock gives pods their network",
            "lastHeartbeatTime": seconds(Timestamp::now()),
            "lastTransitionTime": seconds(self.started),
        });
        let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let api = Api::<PartialObjectMeta<Node>>::all(self.client.clone());
        within(self.pace.patience, api.patch_status(self.node.as_str(), &params, &patch)).await.map(|_| ())
    }

    /// What is to be written now, if anything.
    fn news(&self, status: &NodeStatus, object: &str, own: &OwnView) -> Option<Value> {
        let mut written = self.written();
        let apart = match &written.status {
            Some((last, of)) if of == object && last == status => return None,
            Some((last, of)) if of == object && same_but_counters(last, status) => self.pace.status.1,
            Some(_) => self.pace.status.0,
            None => Duration::ZERO,
        };
        if written.at.is_some_and(|at| at.elapsed() < apart.max(written.wait)) {
            return None;
        }
        written.at = Some(Instant::now());
        let now = seconds(Timestamp::now());
        for condition in &status.conditions {
            let since = written.since.entry(condition.kind.clone());
            // An earlier run may have said the same.
            let before = || own.since.get(&condition.kind).cloned();
            let since = since.or_insert_with(|| before().unwrap_or((condition.status, now.clone())));
            if since.0 != condition.status {
                *since = (condition.status, now.clone());
            }
        }
        let since = |kind: &str| written.since.get(kind).map_or_else(|| now.clone(), |since| since.1.clone());
        let status = Status::of(status, Some(own.config.generation), since);
        Some(json!({
            "apiVersion": "flock.fritzlab.net/v1alpha1",
            "kind": "NodeConfig",
            "metadata": { "name": self.node },
            "status": status,
        }))
    }
}

#[async_trait]
impl StatusSink for KubeStatus {
    async fn publish(&self, status: &NodeStatus) -> Result<(), StatusError> {
        // There is nothing to write to; the log says so.
        let Some(own) = self.shared.own() else { return Ok(()) };
        self.events.of_config(status, own.uid.clone());
        let object = format!("{:?} {}", own.uid, own.config.generation);
        let Some(body) = self.news(status, &object, &own) else { return Ok(()) };
        // Of the answer only this is read: whether it is a good NodeConfig does not matter here.
        let api = Api::<PartialObjectMeta<NodeConfig>>::all(self.client.clone());
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(body));
        let request = api.patch_status(self.node.as_str(), &params, &patch);
        let outcome = within(self.pace.patience, request).await;
        let mut written = self.written();
        match outcome {
            Ok(_) => {
                written.wait = Duration::ZERO;
                written.status = Some((status.clone(), object));
                Ok(())
            }
            Err(error) => {
                let (first, longest) = self.pace.status;
                written.wait = match &error {
                    Unheard::Unavailable { .. } => first,
                    Unheard::Refused { .. } => (written.wait * 2).clamp(first, longest),
                };
                match error {
                    // It was deleted just now, which the watch will tell.
                    Unheard::Refused { code: 404, .. } => Ok(()),
                    error => Err(StatusError::Unavailable { reason: error.to_string() }),
                }
            }
        }
    }

    /// Nobody waits for it.
    async fn event(&self, event: &PodEvent) -> Result<(), StatusError> {
        let known = || self.shared.view().pods.get(&event.pod).and_then(|pod| pod.uid.clone());
        self.events.of_pod(event, event.uid.clone().or_else(known));
        Ok(())
    }
}

/// Whether nothing a person would act on is different.
fn same_but_counters(a: &NodeStatus, b: &NodeStatus) -> bool {
    let sessions = |status: &NodeStatus| {
        status.bgp.iter().map(|it| (it.peer, it.state, it.last_error.clone())).collect::<Vec<_>>()
    };
    let pools =
        |status: &NodeStatus| status.pools.iter().map(|it| (it.cidr, it.capacity)).collect::<Vec<_>>();
    a.conditions == b.conditions && sessions(a) == sessions(b) && pools(a) == pools(b)
}

/// As the fields of type `Time` want it.
pub(crate) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Why the API server did not take something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unheard {
    /// It may later.
    #[error("{reason}")]
    Unavailable {
        /// What it said, or that it did not.
        reason: String,
    },
    /// It would not now and will not again.
    #[error("{code} {reason}: {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The word for machines.
        reason: String,
        /// The sentence for people.
        message: String,
    },
}

/// Waits for the answer, but not for ever.
pub(crate) async fn within<T>(
    patience: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Unheard> {
    match tokio::time::timeout(patience, request).await {
        Err(_) => Err(Unheard::Unavailable { reason: format!("no answer within {} s", patience.as_secs()) }),
        Ok(outcome) => outcome.map_err(|error| match error {
            kube::Error::Api(status) if is_final(status.code, &status.reason) => {
                let kube::core::Status { code, reason, message, .. } = *status;
                Unheard::Refused { code, reason, message }
            }
            error => Unheard::Unavailable { reason: causes(&error) },
        }),
    }
}

/// Whether asking again will not help: not so for a token that is being exchanged, a conflict, too many requests.
fn is_final(code: u16, reason: &str) -> bool {
    let passes = matches!(code, 401 | 408 | 429) || (code == 409 && reason != "AlreadyExists");
    (400..500).contains(&code) && !passes
}
