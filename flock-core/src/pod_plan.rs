//! From what a pod asks for to what it shall get on a node: families, ranges, given addresses, embedded
//! identity, claims. Pure; the allocator then decides which addresses, ADD and `flock-agent plan` alike.

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::annotation::{PREFIX, PodIntent};
use crate::claims::{Asker, ClaimError, Kind, Surroundings, grant};
use crate::config::NodeConfig;
use crate::family::{Families, Family, FamilyError, families};
use crate::ids::{AttachmentId, PodKey};
use crate::iid::{Embedding, Field, Identity, IidError};
use crate::ipam::{Request, Want};
use crate::ports::Retry;

use std::net::IpAddr;

/// The pod that asks, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodFacts<'a> {
    /// Namespace and name.
    pub key: Option<&'a PodKey>,
    /// Image of its first container, as written.
    pub image: Option<&'a str>,
    /// Labels of its namespace.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
}

/// What a pod shall get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Families it gets an address of.
    pub families: Families,
    /// Where its IPv6 address is to come from, unless one is given.
    pub v6: Want<Ipv6Net>,
    /// Where its IPv4 address is to come from, unless one is given.
    pub v4: Want<Ipv4Net>,
    /// Addresses it brings along, all granted.
    pub given: Vec<IpAddr>,
    /// Identity its IPv6 address is to carry.
    pub embed: Option<Embedding>,
    /// Anycast addresses, all granted.
    pub anycast: Vec<IpAddr>,
}

impl PodPlan {
    /// What to ask the allocator for. The pod and its network namespace are the caller's to add.
    pub fn request(&self, attachment: AttachmentId) -> Request {
        Request {
            attachment,
            pod: None,
            uid: None,
            netns: None,
            v6: self.v6.clone(),
            v4: self.v4.clone(),
            given: self.given.clone(),
            anycast: self.anycast.clone(),
            embed: self.embed.clone(),
        }
    }
}

/// Decides what a pod shall get on a node. The error holds every problem, not the first.
///
/// ```
/// # use std::collections::BTreeMap;
/// use flock_core::annotation::PodIntent;
/// use flock_core::claims::Surroundings;
/// use flock_core::config::{BgpSpec, NodeConfig, NodeConfigSpec};
/// use flock_core::pod_plan::{PodFacts, pod_plan};
///
/// let node = NodeConfig::validate(&NodeConfigSpec {
///     cidr6: vec!["2001:db8:f001::/64".to_owned()],
///     bgp: BgpSpec { asn: 65101, ..BgpSpec::default() },
///     ..NodeConfigSpec::default()
/// })?;
/// let annotations = [("flock.fritzlab.net/addresses".to_owned(), "203.0.113.166".to_owned())];
/// let intent = PodIntent::parse(&BTreeMap::from(annotations))?;
/// let plan = pod_plan(&intent, PodFacts::default(), &node, &Surroundings::default())?;
/// // IPv6 from the pool; no IPv4 pool, but the pod brings an address.
/// assert!(plan.families.ipv6 && plan.families.ipv4);
/// assert_eq!(plan.given, intent.addresses);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pod_plan(
    intent: &PodIntent,
    pod: PodFacts<'_>,
    node: &NodeConfig,
    around: &Surroundings<'_>,
) -> Result<PodPlan, PlanError> {
    let mut refusals = Vec::new();
    let families = families(intent, node).map_err(|error| refusals.push(error.into())).ok();
    let asker = Asker { namespace: pod.key.map_or("", PodKey::namespace), labels: pod.namespace_labels };
    for (kind, addresses) in [(Kind::Anycast, &intent.anycast), (Kind::Addresses, &intent.addresses)] {
        let granted = |address| grant(&node.claims, around, &asker, kind, address);
        refusals.extend(addresses.iter().filter_map(|address| granted(*address).err()).map(Refusal::from));
    }
    let brings = |family| intent.addresses.iter().any(|address| Family::of(*address) == family);
    let ipv6 = families.is_some_and(|families| families.ipv6) && !brings(Family::V6);
    let ipv4 = families.is_some_and(|families| families.ipv4) && !brings(Family::V4);
    let embed = match embedding(intent, pod).transpose() {
        Ok(embedding) => embedding.filter(|_| ipv6),
        Err(refusal) => {
            // Of no use where no IPv6 address is chosen, and so no reason to refuse.
            refusals.extend(ipv6.then_some(refusal));
            None
        }
    };
    match families {
        Some(families) if refusals.is_empty() => Ok(PodPlan {
            families,
            v6: want(ipv6, &intent.cidr6),
            v4: want(ipv4, &intent.cidr4),
            given: intent.addresses.clone(),
            embed,
            anycast: intent.anycast.clone(),
        }),
        _ => Err(PlanError(refusals)),
    }
}

fn want<N: Clone>(wanted: bool, within: &[N]) -> Want<N> {
    match (wanted, within) {
        (false, _) => Want::No,
        (true, []) => Want::Any,
        (true, nets) => Want::Within(nets.to_vec()),
    }
}

fn embedding(intent: &PodIntent, pod: PodFacts<'_>) -> Option<Result<Embedding, Refusal>> {
    if intent.ip_algo.is_empty() {
        return None;
    }
    let Some(key) = pod.key else { return Some(Err(Refusal::NoIdentity)) };
    if intent.ip_algo.contains(&Field::Image) && pod.image.is_none() {
        return Some(Err(Refusal::NoImage { pod: key.clone() }));
    }
    let identity = Identity { namespace: key.namespace(), pod: key.name(), image: pod.image };
    Some(Embedding::new(&intent.ip_algo, &identity).map_err(Refusal::from))
}

/// Everything that stands against what a pod asks for; at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; "))]
pub struct PlanError(Vec<Refusal>);

impl PlanError {
    /// The reasons one by one.
    pub fn refusals(&self) -> &[Refusal] {
        &self.0
    }

    /// When to try again: never, if one reason stays.
    pub fn retry(&self) -> Retry {
        let stays = |refusal: &Refusal| refusal.retry() == Retry::Never;
        if self.0.iter().any(stays) { Retry::Never } else { Retry::Later }
    }

    /// Metric label, of the first reason.
    pub fn label(&self) -> &'static str {
        self.0.first().map_or("refused", Refusal::label)
    }
}

/// One thing that stands against what a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The families asked for are not possible here.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// An address the pod may not take.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The identity cannot be embedded.
    #[error("{PREFIX}/ip-algo: {0}")]
    Embedding(#[from] IidError),
    /// There is no identity to embed.
    #[error("{PREFIX}/ip-algo needs the pod's namespace and name, which the runtime did not give")]
    NoIdentity,
    /// The image is to be embedded, and the pod has not been seen yet.
    #[error("{PREFIX}/ip-algo needs the image of pod {pod}, which is not known yet")]
    NoImage {
        /// The pod.
        pod: PodKey,
    },
}

impl Refusal {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoImage { .. } => Retry::Later,
            Self::Claim(error) => error.retry(),
            Self::Family(_) | Self::Embedding(_) | Self::NoIdentity => Retry::Never,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Family(_) => "family",
            Self::Claim(error) => error.label(),
            Self::Embedding(_) | Self::NoIdentity | Self::NoImage { .. } => "embedding",
        }
    }
}
