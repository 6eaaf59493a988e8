//! Which pod has which address. Pure: a request, the time and some entropy go in, a decision comes out.
//! Only used addresses are stored, so cost does not grow with the size of a prefix.
//!
//! ```text
//!   allocate -> Pending --commit--> Committed --release--> cooling (30 s) -> free
//!                  \------------------release--------------^
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::ids::{AttachmentId, PodKey, PodUid};
use crate::ports::NetnsPath;
use crate::time::Timestamp;

/// How long a released address rests while another one is free.
pub const COOLDOWN: Duration = Duration::from_secs(30);

/// At most one address of each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// The IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
    /// The IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
}

impl Addresses {
    /// The addresses there are, IPv6 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v6.map(IpAddr::V6).into_iter().chain(self.v4.map(IpAddr::V4))
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.v6.is_none() && self.v4.is_none()
    }
}

/// Whether a request wants an address of a family, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Want<Net> {
    /// No address of this family.
    #[default]
    No,
    /// From any pool of the node.
    Any,
    /// From the part of the node's pools these prefixes cover, in this order (annotations `cidr6`, `cidr4`).
    Within(Vec<Net>),
}

/// One attachment asking for addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who will hold them.
    pub attachment: AttachmentId,
    /// The pod behind it, where known.
    pub pod: Option<PodKey>,
    /// The pod's UID, where known.
    pub uid: Option<PodUid>,
    /// The pod's network namespace.
    pub netns: Option<NetnsPath>,
    /// The IPv6 address wanted.
    pub v6: Want<Ipv6Net>,
    /// The IPv4 address wanted.
    pub v4: Want<Ipv4Net>,
}

/// How far an allocation has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The addresses are held, the pod may not have them yet.
    Pending,
    /// The pod has them and the runtime was, or is about to be, told.
    Committed,
}

/// The addresses of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// Who holds them.
    pub attachment: AttachmentId,
    /// The pod behind it, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodKey>,
    /// The pod's UID, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<PodUid>,
    /// The pod's network namespace, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<NetnsPath>,
    /// The addresses.
    #[serde(flatten)]
    pub addresses: Addresses,
    /// How far it has got.
    pub phase: Phase,
}

/// A released address that is not handed out again yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cooling {
    /// The address.
    pub address: IpAddr,
    /// When it was released.
    pub since: Timestamp,
}

/// Everything the allocator knows, for the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Form of this record; [`Snapshot::VERSION`].
    pub version: u32,
    /// The boot it belongs to: after another boot no link is left, and so no allocation.
    pub boot_id: String,
    /// Counts changes within a boot and over agent restarts; the larger is the newer.
    pub generation: u64,
    /// Every allocation, in the order of attachment IDs.
    pub allocations: Vec<Allocation>,
    /// Every resting address, oldest first.
    pub cooling: Vec<Cooling>,
}

impl Snapshot {
    /// The form written today.
    pub const VERSION: u32 = 1;
}

/// How full a pool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolUsage {
    /// The pool.
    pub cidr: IpNet,
    /// Addresses pods hold.
    pub allocated: u64,
    /// Released addresses still resting.
    pub cooling: u64,
    /// Addresses that can be handed out at all; [`u64::MAX`] where there are more than that.
    pub capacity: u64,
}
