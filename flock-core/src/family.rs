//! The two address families, and which of them a pod gets.

use std::fmt;
use std::net::IpAddr;

use crate::annotation::{PREFIX, PodIntent};
use crate::config::NodeConfig;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv6, the first wherever both are listed.
    V6,
    /// IPv4.
    V4,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V6(_) => Self::V6,
            IpAddr::V4(_) => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6 => "IPv6",
            Self::V4 => "IPv4",
        })
    }
}

/// The families a pod gets; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Families {
    /// It gets an IPv6 address.
    pub ipv6: bool,
    /// It gets an IPv4 address.
    pub ipv4: bool,
}

/// Decides which families a pod gets: what its annotation says, else the node's default, else whether the
/// node has a pool.
///
/// ```
/// use flock_core::annotation::PodIntent;
/// use flock_core::config::{Bgp, Defaults, NodeConfig};
/// use flock_core::family::{Families, families};
///
/// let node = NodeConfig {
///     cidr6: vec!["2001:db8:f001::/64".parse().unwrap()],
///     cidr4: vec![],
///     defaults: Defaults::default(),
///     bgp: Bgp { asn: 65101, router_id: None, peers: vec![] },
///     claims: vec![],
/// };
/// let silent = PodIntent::default();
/// assert_eq!(families(&silent, &node)?, Families { ipv6: true, ipv4: false });
///
/// let dual = PodIntent { ipv4: Some(true), ..silent };
/// assert_eq!(
///     families(&dual, &node).unwrap_err().to_string(),
///     "annotation flock.fritzlab.net/ipv4 asks for IPv4, but spec.cidr4 of this node has no pool: \
///      add one, or turn IPv4 off",
/// );
/// # Ok::<(), flock_core::family::FamilyError>(())
/// ```
pub fn families(intent: &PodIntent, node: &NodeConfig) -> Result<Families, FamilyError> {
    let v6 = decide(intent.ipv6, node.defaults.ipv6, !node.cidr6.is_empty());
    let v4 = decide(intent.ipv4, node.defaults.ipv4, !node.cidr4.is_empty());
    let unserved: Vec<Unserved> = [(Family::V6, v6, node.cidr6.len()), (Family::V4, v4, node.cidr4.len())]
        .into_iter()
        .filter(|(_, (wanted, _), pools)| *wanted && *pools == 0)
        .map(|(family, (_, by), _)| Unserved { family, by })
        .collect();
    if !unserved.is_empty() {
        return Err(FamilyError::NoPool(unserved));
    }
    match (v6, v4) {
        ((false, by6), (false, by4)) => Err(FamilyError::NoFamily { ipv6: by6, ipv4: by4 }),
        ((ipv6, _), (ipv4, _)) => Ok(Families { ipv6, ipv4 }),
    }
}

fn decide(annotation: Option<bool>, default: Option<bool>, pool: bool) -> (bool, DecidedBy) {
    match (annotation, default) {
        (Some(wanted), _) => (wanted, DecidedBy::Annotation),
        (None, Some(wanted)) => (wanted, DecidedBy::Defaults),
        (None, None) => (pool, DecidedBy::Pools),
    }
}

/// What decided whether a pod gets a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// The pod's annotation.
    Annotation,
    /// The node's `spec.defaults`.
    Defaults,
    /// Whether the node has a pool.
    Pools,
}

/// A family that was asked for and that the node has no pool of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unserved {
    /// The family.
    pub family: Family,
    /// Who asked.
    pub by: DecidedBy,
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, by } = self;
        let pools = pools_field(*family);
        write!(
            f,
            "{} asks for {family}, but {pools} of this node has no pool: add one, or turn {family} off",
            by.field(*family)
        )
    }
}

impl DecidedBy {
    /// The field that decided.
    fn field(self, family: Family) -> String {
        let key = match family {
            Family::V6 => "ipv6",
            Family::V4 => "ipv4",
        };
        match self {
            Self::Annotation => format!("annotation {PREFIX}/{key}"),
            Self::Defaults => format!("spec.defaults.{key}"),
            Self::Pools => format!("empty {}", pools_field(family)),
        }
    }
}

/// The field of a node configuration that holds the pools of a family.
pub(crate) fn pools_field(family: Family) -> &'static str {
    match family {
        Family::V6 => "spec.cidr6",
        Family::V4 => "spec.cidr4",
    }
}

/// Why a pod cannot have the families it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FamilyError {
    /// Asked for, but the node has no pool; one entry for each such family, at least one.
    #[error("{}", .0.iter().map(Unserved::to_string).collect::<Vec<_>>().join("; "))]
    NoPool(Vec<Unserved>),
    /// Neither family is wanted.
    #[error(
        "no address family is left for the pod: IPv6 is off by {}, IPv4 by {}",
        .ipv6.field(Family::V6),
        .ipv4.field(Family::V4)
    )]
    NoFamily {
        /// What turned IPv6 off.
        ipv6: DecidedBy,
        /// What turned IPv4 off.
        ipv4: DecidedBy,
    },
}
