//! Who may take which address (interfaces.md section 8).
//!
//! ```
//! use std::collections::BTreeMap;
//! use flock_core::claims::{Asker, Kind, Surroundings, grant};
//! use flock_core::config::{BgpSpec, ClaimSpec, NodeConfig, NodeConfigSpec};
//! use flock_core::selector::LabelSelectorSpec;
//!
//! let team = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
//! let node = NodeConfig::validate(&NodeConfigSpec {
//!     bgp: BgpSpec { asn: 65101, ..BgpSpec::default() },
//!     claims: vec![ClaimSpec {
//!         cidrs: vec!["2001:db8:a::/64".to_owned()],
//!         kinds: vec!["anycast".to_owned()],
//!         namespace_selector: LabelSelectorSpec { match_labels: team("dns"), ..Default::default() },
//!     }],
//!     ..NodeConfigSpec::default()
//! })?;
//! let around = Surroundings::default();
//! let address = "2001:db8:a::53".parse()?;
//!
//! let dns = team("dns");
//! let asker = Asker { namespace: "resolvers", labels: Some(&dns) };
//! assert!(grant(&node.claims, &around, &asker, Kind::Anycast, address).is_ok());
//!
//! let web = team("web");
//! let asker = Asker { namespace: "shop", labels: Some(&web) };
//! assert_eq!(
//!     grant(&node.claims, &around, &asker, Kind::Anycast, address).unwrap_err().to_string(),
//!     "namespace shop may not take 2001:db8:a::53 as anycast: \
//!      the closest entry, spec.claims[0], is for namespaces with team=dns",
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Peer;
use crate::ids::NodeName;
use crate::ports::Retry;
use crate::selector::LabelSelector;

/// One entry of `spec.claims`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Addresses the entry grants, at least one prefix, no host bits.
    pub cidrs: Vec<IpNet>,
    /// What it grants them for, at least one.
    pub kinds: Vec<Kind>,
    /// Namespaces it grants them to.
    pub namespaces: LabelSelector,
}

/// What an address is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The annotation `anycast`.
    Anycast,
    /// The annotation `addresses`.
    Addresses,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Anycast, Self::Addresses];

    /// The word for it in a claim; also the annotation, without its prefix.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anycast => "anycast",
            Self::Addresses => "addresses",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The namespace of the pod that asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Its name; empty where the runtime named no pod.
    pub namespace: &'a str,
    /// Its labels; `None` while they are not known.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// Addresses that nobody may take, whatever the claims say.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The node's own.
    pub node: &'a [IpAddr],
    /// Those of its BGP peers.
    pub peers: &'a [Peer],
    /// The pools of other nodes, where known.
    pub foreign_pools: &'a BTreeMap<NodeName, Vec<IpNet>>,
}

impl Default for Surroundings<'_> {
    /// Nothing around.
    fn default() -> Self {
        static NOBODY: BTreeMap<NodeName, Vec<IpNet>> = BTreeMap::new();
        Self { node: &[], peers: &[], foreign_pools: &NOBODY }
    }
}

/// Decides whether a pod of a namespace may take an address. Without claims any pod may take any address
/// that is not somebody else's.
pub fn grant(
    claims: &[Claim],
    around: &Surroundings<'_>,
    asker: &Asker<'_>,
    kind: Kind,
    address: IpAddr,
) -> Result<(), ClaimError> {
    if let Some(whose) = owner(around, address) {
        return Err(ClaimError::Taken { kind, address, whose });
    }
    let verdicts =
        claims.iter().enumerate().map(|(index, claim)| (index, judge(claim, asker, kind, address)));
    let mut misses: Vec<(usize, Miss)> = Vec::new();
    for (index, verdict) in verdicts {
        match verdict {
            Ok(()) => return Ok(()),
            Err(miss) => misses.push((index, miss)),
        }
    }
    // The first of the closest.
    let closest = misses.into_iter().min_by_key(|(index, miss)| (miss.distance(), *index));
    match closest {
        None => Ok(()),
        Some((index, miss)) => {
            let namespace = asker.namespace.to_owned();
            Err(ClaimError::NotClaimed { namespace, kind, address, index, miss: Box::new(miss) })
        }
    }
}

/// The first entry that grants an address; `None` where there is none, and so also where there are no claims.
pub fn granting(claims: &[Claim], asker: &Asker<'_>, kind: Kind, address: IpAddr) -> Option<usize> {
    claims.iter().position(|claim| judge(claim, asker, kind, address).is_ok())
}

fn owner(around: &Surroundings<'_>, address: IpAddr) -> Option<Owner> {
    if around.node.contains(&address) {
        return Some(Owner::Node);
    }
    if around.peers.iter().any(|peer| peer.address == address) {
        return Some(Owner::Peer);
    }
    let pools =
        around.foreign_pools.iter().flat_map(|(node, pools)| pools.iter().map(move |pool| (node, pool)));
    let mut around_it = pools.filter(|(_, pool)| pool.contains(&address));
    around_it.next().map(|(node, pool)| Owner::OtherNode { node: node.clone(), pool: *pool })
}

fn judge(claim: &Claim, asker: &Asker<'_>, kind: Kind, address: IpAddr) -> Result<(), Miss> {
    let covered = claim.cidrs.iter().any(|net| net.contains(&address));
    let of_kind = claim.kinds.contains(&kind);
    let selected = match asker.labels {
        _ if claim.namespaces.selects_all() => Some(true),
        labels => labels.map(|labels| claim.namespaces.matches(labels)),
    };
    match (covered, of_kind, selected) {
        (true, true, Some(true)) => Ok(()),
        (true, true, None) => Err(Miss::Unknown { selector: claim.namespaces.clone() }),
        (true, true, Some(false)) => Err(Miss::Namespace { selector: claim.namespaces.clone() }),
        (true, false, _) => Err(Miss::Kind { kinds: claim.kinds.clone() }),
        (false, _, _) => {
            let is_for_asker = of_kind && selected != Some(false);
            let shared = claim.cidrs.iter().map(|net| shared_bits(net, address)).max().unwrap_or(0);
            Err(Miss::Address { cidrs: claim.cidrs.clone(), is_for_asker, shared })
        }
    }
}

/// How many leading bits of a prefix an address has; none of one of the other family.
fn shared_bits(net: &IpNet, address: IpAddr) -> u32 {
    let shared = match (net.addr(), address) {
        (IpAddr::V6(net), IpAddr::V6(address)) => (net.to_bits() ^ address.to_bits()).leading_zeros(),
        (IpAddr::V4(net), IpAddr::V4(address)) => (net.to_bits() ^ address.to_bits()).leading_zeros(),
        _ => 0,
    };
    shared.min(u32::from(net.prefix_len()))
}

/// Why an address is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It is somebody else's, whatever the claims say.
    #[error("address {address} cannot be taken by {kind}: it is {whose}")]
    Taken {
        /// What for.
        kind: Kind,
        /// The address.
        address: IpAddr,
        /// Whose it is.
        whose: Owner,
    },
    /// No entry grants it.
    #[error(
        "namespace {} may not take {address} as {kind}: the closest entry, spec.claims[{index}], {miss}",
        if .namespace.is_empty() { "-" } else { .namespace.as_str() }
    )]
    NotClaimed {
        /// The namespace; empty where the runtime named no pod.
        namespace: String,
        /// What for.
        kind: Kind,
        /// The address.
        address: IpAddr,
        /// The closest entry.
        index: usize,
        /// Why it does not grant it.
        miss: Box<Miss>,
    },
}

impl ClaimError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            // Labels of a namespace nobody named never come.
            Self::NotClaimed { namespace, miss, .. }
                if !namespace.is_empty() && matches!(**miss, Miss::Unknown { .. }) =>
            {
                Retry::Later
            }
            Self::NotClaimed { .. } | Self::Taken { .. } => Retry::Never,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "address_taken",
            Self::NotClaimed { .. } => "not_claimed",
        }
    }
}

/// Who has an address that no pod may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The node itself.
    Node,
    /// One of its BGP peers.
    Peer,
    /// Another node has it in a pool.
    OtherNode {
        /// The node.
        node: NodeName,
        /// The pool.
        pool: IpNet,
    },
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("an address of this node"),
            Self::Peer => f.write_str("the address of a BGP peer"),
            Self::OtherNode { node, pool } => write!(f, "in the pool {pool} of node {node}"),
        }
    }
}

/// Why an entry does not grant an address: the rest of a sentence that starts with the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// The labels of the namespace decide, and are not known yet.
    Unknown {
        /// The selector of the entry.
        selector: LabelSelector,
    },
    /// It is for other namespaces.
    Namespace {
        /// The selector of the entry.
        selector: LabelSelector,
    },
    /// It grants the address for something else.
    Kind {
        /// What for.
        kinds: Vec<Kind>,
    },
    /// It does not cover the address.
    Address {
        /// What it covers.
        cidrs: Vec<IpNet>,
        /// It would have granted another address for this.
        is_for_asker: bool,
        /// How many leading bits of one of its prefixes the address has.
        shared: u32,
    },
}

impl Miss {
    /// What orders misses: the more of an entry fits, the closer it is.
    fn distance(&self) -> (u8, u32) {
        match self {
            Self::Unknown { .. } => (0, 0),
            Self::Namespace { .. } => (1, 0),
            Self::Kind { .. } => (2, 0),
            Self::Address { is_for_asker: true, shared, .. } => (3, u32::MAX - shared),
            Self::Address { is_for_asker: false, shared, .. } => (4, u32::MAX - shared),
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { selector } => {
                write!(f, "is for namespaces with {selector}, and the labels of this one are not known yet")
            }
            Self::Namespace { selector } => write!(f, "is for namespaces with {selector}"),
            Self::Kind { kinds } => {
                let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
                write!(f, "is for {} only", kinds.join(" and "))
            }
            Self::Address { cidrs, .. } => {
                /// As many as a person reads.
                const SHOWN: usize = 8;
                let shown: Vec<_> = cidrs.iter().take(SHOWN).map(IpNet::to_string).collect();
                let more = if cidrs.len() > SHOWN { ", ..." } else { "" };
                write!(f, "covers {}{more}", shown.join(", "))
            }
        }
    }
}
