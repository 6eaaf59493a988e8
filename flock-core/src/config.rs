//! The configuration of a node: as written ([`NodeConfigSpec`]) and as checked ([`NodeConfig`]).
//!
//! ```
//! use flock_core::config::{BgpSpec, NodeConfig, NodeConfigSpec, PeerSpec};
//!
//! let mut spec = NodeConfigSpec {
//!     cidr6: vec!["2001:db8:f001::/64".to_owned()],
//!     bgp: BgpSpec {
//!         asn: 65101,
//!         router_id: None,
//!         peers: vec![PeerSpec { address: "2001:db8::1".to_owned(), asn: 65000 }],
//!     },
//!     ..NodeConfigSpec::default()
//! };
//! assert_eq!(NodeConfig::validate(&spec)?.bgp.peers.len(), 1);
//!
//! spec.cidr4 = vec!["192.0.2.7/24".to_owned(), "198.51.100.0/31".to_owned()];
//! let refused = NodeConfig::validate(&spec).unwrap_err();
//! assert_eq!(refused.problems().len(), 2);
//! assert_eq!(
//!     refused.problems()[0].to_string(),
//!     r#"spec.cidr4[0] "192.0.2.7/24" has host bits set: write 192.0.2.0/24"#,
//! );
//! # Ok::<(), flock_core::config::ConfigError>(())
//! ```

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::claims::Claim;
use crate::problem::Problem;

mod claims;
mod spec;
mod validate;

pub use spec::{BgpSpec, ClaimSpec, DefaultsSpec, NodeConfigSpec, PeerSpec};

/// A configuration that keeps every rule of this module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// IPv6 pools in the order given: no host bits, no overlap, unicast.
    pub cidr6: Vec<Ipv6Net>,
    /// IPv4 pools in the order given: /30 or larger, no host bits, no overlap, unicast.
    pub cidr4: Vec<Ipv4Net>,
    /// Families of a pod whose annotations do not say.
    pub defaults: Defaults,
    /// How the node speaks BGP.
    pub bgp: Bgp,
    /// Who may take which address; empty: any pod, any address.
    pub claims: Vec<Claim>,
}

/// Families of a pod whose annotations do not say; `None` leaves it to whether there is a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Default of the annotation `ipv6`.
    pub ipv6: Option<bool>,
    /// Default of the annotation `ipv4`.
    pub ipv4: Option<bool>,
}

/// How the node speaks BGP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// Our autonomous system number, 1 to 4294967294, none of the reserved ones.
    pub asn: u32,
    /// BGP identifier, never 0.0.0.0; `None` where the operator leaves the choice to flock.
    pub router_id: Option<Ipv4Addr>,
    /// The upstream routers in the order given; may be empty.
    pub peers: Vec<Peer>,
}

/// An upstream router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Its address: unicast, not link-local, unique among the peers, outside every pool of the node.
    pub address: IpAddr,
    /// Its autonomous system number, in the same range as ours.
    pub asn: u32,
}

impl NodeConfig {
    /// Checks a configuration as written. The error holds every problem, not the first.
    pub fn validate(spec: &NodeConfigSpec) -> Result<Self, ConfigError> {
        validate::validate(spec).map_err(ConfigError)
    }
}

/// Every problem of a configuration, in the order of its fields; at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Problem::join(.0))]
pub struct ConfigError(Vec<Problem>);

impl ConfigError {
    /// The problems one by one.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}
