//! What the cluster hears of the node: the status of its NodeConfig, the condition of the node, Events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::ids::NodeName;
use flock_core::ports::{NodeStatus, PodEvent, StatusError, StatusSink};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::crd::{NodeConfig, Status};
use crate::events::Events;
use crate::informer::{KubePodSource, Shared};

/// The field manager of everything the agent writes.
pub(crate) const MANAGER: &str = "flock-agent";

/// Shortest time between two writes of the status, and between two where only counters changed: every agent of the
/// cluster hears of each.
const APART: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(2));

/// Longest write.
const PATIENCE: Duration = Duration::from_secs(10);

/// The [`StatusSink`] of a cluster.
pub struct KubeStatus {
    client: Client,
    node: NodeName,
    shared: Arc<Shared>,
    written: Mutex<Written>,
    events: Events,
    started: Timestamp,
}

/// What has been written last.
#[derive(Default)]
struct Written {
    status: Option<(NodeStatus, String)>,
    at: Option<Instant>,
    /// Since when each condition is what it is.
    since: BTreeMap<String, (bool, String)>,
}

impl KubeStatus {
    /// Writes for a node; `pods` knows which object is meant.
    pub fn new(client: Client, node: &NodeName, pods: &KubePodSource) -> Self {
        let shared = pods.shared();
        let events = Events::new(client.clone(), node.clone());
        let started = Timestamp::now();
        Self { client, node: node.clone(), shared, written: Mutex::default(), events, started }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the network of the node is there: what cloud providers and schedulers look at.
    pub async fn say_network_is_available(&self) -> Result<(), StatusError> {
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
        let api = Api::<Node>::all(self.client.clone());
        within(api.patch_status(self.node.as_str(), &params, &patch)).await.map(|_| ())
    }

    /// What is to be written now, if anything.
    fn news(&self, status: &NodeStatus, object: &str, generation: i64) -> Option<Value> {
        let mut written = self.written();
        let apart = match &written.status {
            Some((last, of)) if of == object && last == status => return None,
            Some((last, of)) if of == object && same_but_counters(last, status) => APART.1,
            Some(_) => APART.0,
            None => Duration::ZERO,
        };
        if written.at.is_some_and(|at| at.elapsed() < apart) {
            return None;
        }
        let now = seconds(Timestamp::now());
        for condition in &status.conditions {
            let since = written.since.entry(condition.kind.clone());
            let since = since.or_insert_with(|| (condition.status, now.clone()));
            if since.0 != condition.status {
                *since = (condition.status, now.clone());
            }
        }
        let since = |kind: &str| written.since.get(kind).map_or_else(|| now.clone(), |since| since.1.clone());
        let status = Status::of(status, Some(generation), since);
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
        self.events.tell_of_config(status, self.shared.identity()).await?;
        // There is nothing to write to; the log says so.
        let Some((uid, generation)) = self.shared.identity() else { return Ok(()) };
        let object = format!("{uid:?} {generation}");
        let Some(body) = self.news(status, &object, generation) else { return Ok(()) };
        let api = Api::<NodeConfig>::all(self.client.clone());
        let params = PatchParams::apply(MANAGER).force();
        within(api.patch_status(self.node.as_str(), &params, &Patch::Apply(body))).await?;
        let mut written = self.written();
        written.status = Some((status.clone(), object));
        written.at = Some(Instant::now());
        Ok(())
    }

    async fn event(&self, event: &PodEvent) -> Result<(), StatusError> {
        let pod = self.shared.view().pods.get(&event.pod).cloned();
        self.events.tell_of_pod(event, pod.and_then(|pod| pod.uid.clone())).await
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

pub(crate) async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, StatusError> {
    let unavailable = |reason: String| StatusError::Unavailable { reason };
    match tokio::time::timeout(PATIENCE, request).await {
        Err(_) => Err(unavailable(format!("no answer within {} s", PATIENCE.as_secs()))),
        Ok(outcome) => outcome.map_err(|error| unavailable(error.to_string())),
    }
}
