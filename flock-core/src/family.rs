//! The two address families, and which of them a pod gets.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::annotation::{PREFIX, PodIntent};
use crate::config::NodeConfig;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv6, the first wherever both are listed.
    #[serde(rename = "IPv6")]
    V6,
    /// IPv4.
    #[serde(rename = "IPv4")]
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
/// node has a pool or the pod brings an address. The error holds every problem, not the first.
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
    let (v6, by6) = wanted(Family::V6, intent, node);
    let (v4, by4) = wanted(Family::V4, intent, node);
    let (pool6, pool4) = (possible(Family::V6, intent, node), possible(Family::V4, intent, node));
    let mut problems = Vec::new();
    for (family, wanted, by, pool) in [(Family::V6, v6, by6, pool6), (Family::V4, v4, by4, pool4)] {
        if wanted && !pool {
            problems.push(FamilyProblem::NoPool { family, by });
        }
    }
    for (key, addresses) in [("anycast", &intent.anycast), ("addresses", &intent.addresses)] {
        for address in addresses {
            let (on, by) = if address.is_ipv6() { (v6, by6) } else { (v4, by4) };
            if !on {
                problems.push(FamilyProblem::Off { key, address: *address, by });
            }
        }
    }
    if !v6 && !v4 {
        problems.push(FamilyProblem::NoFamily { ipv6: by6, ipv4: by4 });
    }
    if problems.is_empty() { Ok(Families { ipv6: v6, ipv4: v4 }) } else { Err(FamilyError(problems)) }
}

/// Whether a pod is to get a family, and what says so; whether it can is for [`families`] to decide.
pub fn wanted(family: Family, intent: &PodIntent, node: &NodeConfig) -> (bool, DecidedBy) {
    let (annotation, default) = match family {
        Family::V6 => (intent.ipv6, node.defaults.ipv6),
        Family::V4 => (intent.ipv4, node.defaults.ipv4),
    };
    match (annotation, default) {
        (Some(wanted), _) => (wanted, DecidedBy::Annotation),
        (None, Some(wanted)) => (wanted, DecidedBy::Defaults),
        (None, None) => (possible(family, intent, node), DecidedBy::Pools),
    }
}

/// The node has a pool of the family, or the pod brings an address.
fn possible(family: Family, intent: &PodIntent, node: &NodeConfig) -> bool {
    let pool = match family {
        Family::V6 => !node.cidr6.is_empty(),
        Family::V4 => !node.cidr4.is_empty(),
    };
    pool || intent.addresses.iter().any(|address| Family::of(*address) == family)
}

/// What decided whether a pod gets a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DecidedBy {
    /// The pod's annotation.
    Annotation,
    /// The node's `spec.defaults`.
    Defaults,
    /// Whether the node has a pool, or the pod brings an address.
    Pools,
}

impl DecidedBy {
    /// The field that decided.
    pub(crate) fn field(self, family: Family) -> String {
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

/// Why a pod cannot have the families it should: every problem, at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(FamilyProblem::to_string).collect::<Vec<_>>().join("; "))]
pub struct FamilyError(Vec<FamilyProblem>);

impl FamilyError {
    /// The problems one by one.
    pub fn problems(&self) -> &[FamilyProblem] {
        &self.0
    }
}

/// One thing wrong with the families of a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FamilyProblem {
    /// Asked for, but the node has no pool and the pod brings no address.
    #[error(
        "{} asks for {family}, but {} of this node has no pool: add one, or turn {family} off",
        .by.field(*.family),
        pools_field(*.family)
    )]
    NoPool {
        /// The family.
        family: Family,
        /// Who asked.
        by: DecidedBy,
    },
    /// An address of a family that is off.
    #[error(
        "{PREFIX}/{key} \"{address}\" is an {family} address, and {family} is off by {}: \
         remove the address, or turn {family} on",
        .by.field(Family::of(*.address)),
        family = Family::of(*.address)
    )]
    Off {
        /// The annotation, without prefix.
        key: &'static str,
        /// The address.
        address: IpAddr,
        /// What turned the family off.
        by: DecidedBy,
    },
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
