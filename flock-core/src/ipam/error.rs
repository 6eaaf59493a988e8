use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Allocation;
use crate::annotation::PREFIX;
use crate::family::Family;
use crate::ids::{AttachmentId, PodKey};
use crate::iid::IidError;
use crate::ports::Retry;

/// Why no address was given, or none taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Every address of the ranges asked for is in use.
    #[error("no free {family} address in {}: {in_use} in use, {cooling} cooling down", list(.ranges))]
    Exhausted {
        /// The family.
        family: Family,
        /// The pools, or the part of one, that were tried.
        ranges: Vec<IpNet>,
        /// Addresses of these ranges that pods hold.
        in_use: u64,
        /// Released addresses of these ranges that cannot be handed out: the node itself has them now.
        cooling: u64,
    },
    /// The ranges asked for have reserved addresses only, or the node's own.
    #[error("{} has no {family} address for a pod: all are reserved or the node's own", list(.ranges))]
    Unusable {
        /// The family.
        family: Family,
        /// The pools, or the part of one, that were tried.
        ranges: Vec<IpNet>,
    },
    /// The node has no pool of a family that was asked for.
    #[error("this node has no {family} pool")]
    NoPool {
        /// The family.
        family: Family,
    },
    /// None of the prefixes asked for touches a pool of the node.
    #[error(
        "annotation {}: none of the prefixes {} lies in a pool of this node: {}",
        annotation(*.family), list(.wanted), list(.pools)
    )]
    NoMatch {
        /// The family.
        family: Family,
        /// What was asked for.
        wanted: Vec<IpNet>,
        /// What there is.
        pools: Vec<IpNet>,
    },
    /// The one address asked for is never handed out.
    #[error("address {address} cannot be given to a pod: it {why}")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// What it is.
        why: &'static str,
    },
    /// The one address asked for is somebody else's.
    #[error("address {address} is held by {holder}")]
    Held {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: Holder,
    },
    /// The one address asked for is an anycast address that others share.
    #[error("address {address} is an anycast address of {holder}")]
    Anycast {
        /// The address.
        address: IpAddr,
        /// One of those who have it.
        holder: Holder,
    },
    /// Two attachments claim one address.
    #[error("address {address} of {claimant} is held by {holder}")]
    Conflict {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: Box<Holder>,
        /// Who was to be recorded with it as well.
        claimant: Box<Holder>,
    },
    /// No range leaves room for the identity to embed.
    #[error(transparent)]
    Embedding(#[from] IidError),
    /// A request or a record without an address of either family.
    #[error("attachment {attachment} has no address family")]
    NoFamily {
        /// The attachment.
        attachment: AttachmentId,
    },
    /// A snapshot that contradicts itself, or of another version.
    #[error("snapshot refused: {reason}")]
    BadSnapshot {
        /// What is wrong with it.
        reason: String,
    },
}

impl IpamError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Exhausted { .. } | Self::Held { .. } | Self::Anycast { .. } | Self::Conflict { .. } => {
                Retry::Later
            }
            Self::Unusable { .. }
            | Self::NoPool { .. }
            | Self::NoMatch { .. }
            | Self::Reserved { .. }
            | Self::Embedding(_)
            | Self::NoFamily { .. }
            | Self::BadSnapshot { .. } => Retry::Never,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Exhausted { .. } => "pool_exhausted",
            Self::Unusable { .. } => "pool_unusable",
            Self::NoPool { .. } => "no_pool",
            Self::NoMatch { .. } => "no_pool_matches",
            Self::Reserved { .. } => "address_reserved",
            Self::Held { .. } => "address_held",
            Self::Anycast { .. } => "address_shared",
            Self::Conflict { .. } => "address_conflict",
            Self::Embedding(_) => "no_room_to_embed",
            Self::NoFamily { .. } => "no_family",
            Self::BadSnapshot { .. } => "bad_snapshot",
        }
    }
}

/// Who has an address, by the name people know where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its pod, where known.
    pub pod: Option<PodKey>,
}

impl From<&Allocation> for Holder {
    fn from(allocation: &Allocation) -> Self {
        Self { attachment: allocation.attachment.clone(), pod: allocation.pod.clone() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "pod {pod} (attachment {})", self.attachment),
            None => write!(f, "attachment {}", self.attachment),
        }
    }
}

/// The annotation that restricts a family to prefixes.
fn annotation(family: Family) -> String {
    let key = match family {
        Family::V6 => "cidr6",
        Family::V4 => "cidr4",
    };
    format!("{PREFIX}/{key}")
}

/// Prefixes for a message: of many, as many as a person reads.
fn list(nets: &[IpNet]) -> String {
    const SHOWN: usize = 16;
    let shown: Vec<_> = nets.iter().take(SHOWN).map(IpNet::to_string).collect();
    match nets.len().checked_sub(SHOWN) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_a_few_prefixes_and_counts_the_rest() {
        let nets = |count: u8| {
            (0..count).map(|n| IpNet::new([192, 0, 2, n].into(), 32).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(list(&nets(2)), "192.0.2.0/32, 192.0.2.1/32");
        assert!(list(&nets(16)).ends_with(", 192.0.2.15/32"));
        assert!(list(&nets(200)).ends_with(", 192.0.2.15/32 and 184 more"));
    }
}
