//! What flock needs from the world, as traits at the level of intent. Adapters implement them with one
//! real mechanism each; the module `testing` (feature `test-util`) has a fake for each.
//!
//! Every port has its own error enum that says when to try again ([`Retry`]) and how to label the
//! failure in a metric, so that no caller ever looks into a message.

mod firewall;
mod netlink;
mod pod_source;
mod routing;
mod status;
mod store;

pub use firewall::{Counters, Digest, Fingerprint, Firewall, FirewallError, Observed, ObservedLink};
pub use netlink::{
    DesiredRoutes, HostLink, HostSide, InterfaceAddress, LinkIdentity, LinkState, LinksTended, Mac, Netlink,
    NetlinkError, NetnsPath, NodeFacts, PodLink, PodSide,
};
pub use pod_source::{
    ClusterView, Demand, ForeignPools, NodeConfigView, PodSource, PodSourceError, PodView, Readiness,
    Revision,
};
pub use routing::{
    Applied, PeerState, PeerStatus, Routing, RoutingConfig, RoutingError, RoutingPeer, RoutingStatus,
};
pub use status::{Condition, NodeStatus, PodEvent, StatusError, StatusSink};
pub use store::{StateStore, StoreError};

/// When the failed operation may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// A race or an interruption: at once.
    Now,
    /// Something outside has to change first: later, with backoff.
    Later,
    /// The same input fails the same way.
    Never,
}
