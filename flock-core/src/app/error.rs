use crate::annotation::AnnotationError;
use crate::ids::{AttachmentId, NodeName};
use crate::ipam::IpamError;
use crate::pod_plan::PlanError;
use crate::ports::{FirewallError, NetlinkError, PodSourceError, Retry, StoreError};

/// Why a pod did not get its network.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no configuration to work from yet.
    #[error("node {node} has no NodeConfig yet: create one named {node}{}", refused_suffix(.refused.as_deref()))]
    NotConfigured {
        /// This node.
        node: NodeName,
        /// What is wrong with the NodeConfig there is.
        refused: Option<String>,
    },
    /// The pod cannot be read.
    #[error(transparent)]
    Pod(#[from] PodSourceError),
    /// The pod's annotations are wrong.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// The pod cannot have here what it asks for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No addresses.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The MTU asked for is out of range.
    #[error("mtu {mtu} is out of range: use 1280 (the least IPv6 allows) to 65535")]
    Mtu {
        /// Bytes.
        mtu: u32,
    },
    /// The kernel did not do it.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The firewall could not be made ready for it.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The allocation could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It took so long that the caller was told to try again; everything that this call made was taken back.
    #[error("the attachment took too long and was taken back")]
    Abandoned,
}

fn refused_suffix(refused: Option<&str>) -> String {
    refused.map(|reason| format!(" (the one there is refused: {reason})")).unwrap_or_default()
}

impl AttachError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotConfigured { .. } | Self::Abandoned => Retry::Later,
            Self::Pod(error) => error.retry(),
            Self::Annotation(_) | Self::Mtu { .. } => Retry::Never,
            Self::Plan(error) => error.retry(),
            Self::Ipam(error) => error.retry(),
            Self::Netlink(error) => error.retry(),
            Self::Firewall(error) => error.retry(),
            Self::Store(error) => error.retry(),
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotConfigured { .. } => "not_configured",
            Self::Pod(error) => error.label(),
            Self::Annotation(_) => "annotation",
            Self::Plan(error) => error.label(),
            Self::Ipam(error) => error.label(),
            Self::Mtu { .. } => "mtu",
            Self::Netlink(error) => error.label(),
            Self::Firewall(error) => error.label(),
            Self::Store(error) => error.label(),
            Self::Abandoned => "abandoned",
        }
    }
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// flock holds nothing for it.
    #[error("attachment {0} is unknown: no addresses are allocated to it")]
    Unknown(AttachmentId),
    /// Something is not as it was set up.
    #[error("attachment {attachment} has drifted: {}", .drift.join("; "))]
    Drifted {
        /// The attachment.
        attachment: AttachmentId,
        /// Each difference, in words.
        drift: Vec<String>,
    },
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The firewall could not be asked.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

impl CheckError {
    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::Drifted { .. } => "drifted",
            Self::Netlink(error) => error.label(),
            Self::Firewall(error) => error.label(),
        }
    }
}

/// What a GC could not remove. Everything else that was not to be kept is gone.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The kernel could not be asked which links there are.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Some attachments stay.
    #[error("not removed: {}", join(.0))]
    Detach(Vec<(AttachmentId, NetlinkError)>),
}

fn join(failed: &[(AttachmentId, NetlinkError)]) -> String {
    failed.iter().map(|(id, error)| format!("{id}: {error}")).collect::<Vec<_>>().join("; ")
}

/// Why the node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel cannot be read or set up.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The state file cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state does not make sense.
    #[error("the saved state cannot be taken over: {0}")]
    State(#[from] IpamError),
}
