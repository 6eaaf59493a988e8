use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{PeerStatus, Retry};
use crate::ids::{PodKey, PodUid};
use crate::ipam::PoolUsage;

/// Where flock tells people how it is: the NodeConfig's status and Events in a cluster, the log elsewhere.
#[async_trait]
pub trait StatusSink: Send + Sync {
    /// Publishes the state of the node; the same state twice is a no-op.
    async fn publish(&self, status: &NodeStatus) -> Result<(), StatusError>;

    /// Tells the owner of a pod something. Does not wait until it is heard.
    async fn event(&self, event: &PodEvent) -> Result<(), StatusError>;
}

/// The status of a NodeConfig (interfaces.md section 2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `Ready` and whatever else a person can act on.
    pub conditions: Vec<Condition>,
    /// One per peer.
    pub bgp: Vec<PeerStatus>,
    /// One per pool.
    pub pools: Vec<PoolUsage>,
    /// Pods that hold addresses.
    #[serde(default)]
    pub pods: u64,
}

/// A condition in the manner of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its type, such as `Ready`.
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// `CamelCase` word for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// Something the owner of a pod should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// The pod.
    pub pod: PodKey,
    /// Its UID, where known: names are used again.
    pub uid: Option<PodUid>,
    /// `CamelCase` word for machines.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Why nobody could be told.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The other side does not answer.
    #[error("cannot publish status: {reason}")]
    Unavailable {
        /// What it said.
        reason: String,
    },
}

impl StatusError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable { .. } => Retry::Later,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "status",
        }
    }
}
