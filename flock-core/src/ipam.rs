//! Which pod has which address. Pure: a request, the time and some entropy go in, a decision comes out.
//! Only used addresses are stored, so cost does not grow with the size of a prefix.
//!
//! ```text
//!   allocate -> Pending --commit--> Committed --release--> cooling (30 s) -> free
//!                  \------------------release--------------^
//! ```
//!
//! ```
//! use flock_core::ids::AttachmentId;
//! use flock_core::ipam::{Ipam, Phase, Pools, Request, Want};
//! use flock_core::time::Timestamp;
//!
//! let mut ipam = Ipam::default();
//! let pools = Pools { v6: vec!["2001:db8:f001::/64".parse()?], v4: vec!["192.0.2.0/24".parse()?] };
//! ipam.reconfigure(pools, ["192.0.2.2".parse()?].into());
//!
//! let request = Request {
//!     attachment: AttachmentId::parse("c0ffee/eth0")?,
//!     pod: None,
//!     uid: None,
//!     netns: None,
//!     v6: Want::Any,
//!     v4: Want::Any,
//!     given: vec![],
//!     anycast: vec![],
//!     embed: None,
//! };
//! let (now, entropy) = (Timestamp::from_millis(0), 42);
//! let allocation = ipam.allocate(&request, now, entropy)?;
//! assert_eq!(allocation.phase, Phase::Pending);
//! // Not the network, the gateway, or the node's own address.
//! assert_eq!(allocation.addresses.v4, Some("192.0.2.3".parse()?));
//!
//! assert!(ipam.commit(&request.attachment));
//! assert_eq!(ipam.release(&request.attachment, now).map(|it| it.addresses), Some(allocation.addresses));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::ids::{AttachmentId, PodKey, PodUid};
use crate::iid::Embedding;
use crate::ports::NetnsPath;

mod alloc;
mod error;
mod pool;
mod range;
mod ranges;
mod snapshot;
mod space;

pub use alloc::{Ipam, Pools};
pub use error::{Holder, IpamError};
pub use snapshot::{Cooling, Snapshot};

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

    /// Whether this address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.iter().any(|own| own == address)
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
    /// The IPv6 address wanted, unless one is given.
    pub v6: Want<Ipv6Net>,
    /// The IPv4 address wanted, unless one is given.
    pub v4: Want<Ipv4Net>,
    /// Addresses the pod brings along (annotation `addresses`). The first of each family is the one of that
    /// family, and nothing is chosen for it; the others are extra.
    pub given: Vec<IpAddr>,
    /// Addresses it shares with other pods (annotation `anycast`).
    pub anycast: Vec<IpAddr>,
    /// What a chosen IPv6 address is to carry (annotation `ip-algo`).
    pub embed: Option<Embedding>,
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
    /// The addresses of the CNI result.
    #[serde(flatten)]
    pub addresses: Addresses,
    /// Further addresses the pod brought along, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<IpAddr>,
    /// Addresses it shares with other pods, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anycast: Vec<IpAddr>,
    /// How far it has got.
    pub phase: Phase,
}

impl Allocation {
    /// Every address it has to itself: those of the CNI result, then the extra ones.
    pub fn held(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(self.extra.iter().copied())
    }
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

/// How many addresses of a pool can be handed out at all.
pub(crate) fn capacity(pool: IpNet) -> u64 {
    pool::Block::new(pool).capacity()
}
