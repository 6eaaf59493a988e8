//! `status` of a NodeConfig: what the agent of the node says.

use flock_core::ports::{NodeStatus, PeerState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the agent of the node says. Written by the agent alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The generation of the NodeConfig the agent has looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: pods can be attached. `ConfigAccepted`: the spec is in force. `RoutingConfigured`: BIRD runs its peers.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<StatusCondition>,
    /// BGP sessions that are up, of those configured: `1/2`.
    #[serde(default)]
    pub sessions: String,
    /// Pods with addresses of flock.
    #[serde(default)]
    #[schemars(extend("format" = "int64"))]
    pub pods: u64,
    /// The BGP sessions.
    #[serde(default)]
    pub bgp: Vec<BgpSession>,
    /// The pools.
    #[serde(default)]
    pub pools: Vec<Pool>,
}

/// A condition as everywhere in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// The generation of the NodeConfig it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Since when.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// A BGP session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpSession {
    /// Address of the router.
    pub peer: String,
    /// State of the session: `Established` is up.
    pub state: String,
    /// Since when, as BIRD says it.
    #[serde(default)]
    pub since: String,
    /// The last error of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Routes taken from the router.
    #[serde(default)]
    #[schemars(extend("format" = "int64"))]
    pub imported: u64,
    /// Routes announced to the router.
    #[serde(default)]
    #[schemars(extend("format" = "int64"))]
    pub exported: u64,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// The prefix.
    pub cidr: String,
    /// Addresses pods hold.
    #[schemars(extend("format" = "int64"))]
    pub allocated: u64,
    /// Released addresses that still rest.
    #[serde(default)]
    #[schemars(extend("format" = "int64"))]
    pub cooling: u64,
    /// Addresses that can be handed out at all; as text, since an IPv6 pool has more than JSON can count.
    pub capacity: String,
}

impl Status {
    /// The state of a node as a status. `since` says when a condition last changed.
    pub(crate) fn of(status: &NodeStatus, generation: Option<i64>, since: impl Fn(&str) -> String) -> Self {
        let conditions = status.conditions.iter().map(|condition| StatusCondition {
            kind: condition.kind.clone(),
            status: if condition.status { "True" } else { "False" }.to_owned(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            observed_generation: generation,
            last_transition_time: since(&condition.kind),
        });
        let bgp = status.bgp.iter().map(|session| BgpSession {
            peer: session.peer.to_string(),
            state: format!("{:?}", session.state),
            since: session.since.clone(),
            last_error: session.last_error.clone(),
            imported: session.imported,
            exported: session.exported,
        });
        let pools = status.pools.iter().map(|pool| Pool {
            cidr: pool.cidr.to_string(),
            allocated: pool.allocated,
            cooling: pool.cooling,
            capacity: pool.capacity.to_string(),
        });
        let up = status.bgp.iter().filter(|session| session.state == PeerState::Established).count();
        Self {
            observed_generation: generation,
            conditions: conditions.collect(),
            sessions: format!("{up}/{}", status.bgp.len()),
            pods: status.pods,
            bgp: bgp.collect(),
            pools: pools.collect(),
        }
    }
}
