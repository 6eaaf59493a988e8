use async_trait::async_trait;

use super::Retry;
use crate::ipam::Snapshot;

/// Keeps the allocations over a crash.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// The last snapshot saved; `None` on a fresh node.
    async fn load(&self) -> Result<Option<Snapshot>, StoreError>;

    /// Makes the snapshot durable: after this returns, a crash or a power cut does not lose it, and a
    /// crash before leaves the previous one whole. Calls may overlap: a snapshot of an older
    /// [`generation`](Snapshot::generation) never replaces a newer one, and one write may serve several
    /// callers.
    async fn save(&self, snapshot: Snapshot) -> Result<(), StoreError>;
}

/// Why the state is not safe.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {step} {path}: {source}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The content is not a snapshot. It is never overwritten without being kept aside.
    #[error("{path} does not hold a state of flock: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store has been closed.
    #[error("the state store is closed")]
    Closed,
}

impl StoreError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Io { .. } => Retry::Later,
            Self::Corrupt { .. } | Self::Closed => Retry::Never,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store_io",
            Self::Corrupt { .. } => "store_corrupt",
            Self::Closed => "store_closed",
        }
    }
}
