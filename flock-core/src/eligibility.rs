//! May the addresses of a pod be advertised (interfaces.md section 9)?

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::family::Family;
use crate::ids::AttachmentId;
use crate::ipam::{Allocation, Phase};
use crate::ports::{ClusterView, PodView};
use crate::route::{NextHop, ObservedRoute, RouteProtocol, Weight};

/// What speaks for and against a pod.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What the cluster says.
    pub view: &'a ClusterView,
    /// Whom an earlier run served; counts while the cluster has not spoken of the node's pods.
    pub served: &'a BTreeSet<AttachmentId>,
}

impl<'a> From<&'a ClusterView> for Evidence<'a> {
    /// Without an earlier run.
    fn from(view: &'a ClusterView) -> Self {
        static NOBODY: BTreeSet<AttachmentId> = BTreeSet::new();
        Self { view, served: &NOBODY }
    }
}

/// Why an address of a pod is not advertised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Withheld {
    /// Its ADD is not finished.
    Pending,
    /// The pod is not known, or another one has its name now, here or on another node.
    Unknown,
    /// No pod is known yet, and no earlier run served this one.
    Unheard,
    /// The pod's condition `Ready` is not true.
    NotReady,
    /// The pod's status is about a sandbox it had before: after a reboot, or when its sandbox has died.
    Outdated,
    /// The pod is being deleted.
    Terminating,
    /// The pod has no address of its own of the anycast address's family to send packets to.
    NoUnicast {
        /// The family.
        family: Family,
    },
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("its ADD is not finished"),
            Self::Unknown => f.write_str("the pod is not known"),
            Self::Unheard => f.write_str("the pods of this node are not known yet"),
            Self::NotReady => f.write_str("the pod is not Ready"),
            Self::Outdated => f.write_str("the status of the pod is about its sandbox before this one"),
            Self::Terminating => f.write_str("the pod is terminating"),
            Self::NoUnicast { family } => write!(f, "the pod has no {family} address of its own"),
        }
    }
}

/// The allocation is committed, and the pod behind it exists, is the same one (UIDs decide), Ready and not
/// terminating, and its status is about this sandbox. Where the runtime named no pod there is nobody to ask, and
/// the attachment itself is the life of the address. Before the cluster has spoken of the node's pods, those stay
/// eligible that were.
pub fn eligibility(allocation: &Allocation, Evidence { view, served }: Evidence<'_>) -> Result<(), Withheld> {
    if allocation.phase != Phase::Committed {
        return Err(Withheld::Pending);
    }
    if allocation.pod.is_none() && allocation.uid.is_none() {
        return Ok(());
    }
    if view.pods_pending {
        return if served.contains(&allocation.attachment) { Ok(()) } else { Err(Withheld::Unheard) };
    }
    match pod_of(allocation, view) {
        None => Err(Withheld::Unknown),
        Some(pod) if pod.terminating => Err(Withheld::Terminating),
        Some(pod) if !pod.ready => Err(Withheld::NotReady),
        Some(pod) if is_outdated(&pod.reported, allocation) => Err(Withheld::Outdated),
        Some(_) => Ok(()),
    }
}

/// The pod behind an allocation, by its name and its UID; by that alone where the name was too long for the alias of
/// the link that the allocation was taken over from.
pub(crate) fn pod_of<'a>(allocation: &Allocation, view: &'a ClusterView) -> Option<&'a Arc<PodView>> {
    let uid = allocation.uid.as_ref();
    match &allocation.pod {
        Some(key) => view.own_pod(key).filter(|pod| pod.is(uid)),
        None => view.pods.values().find(|pod| pod.uid.as_ref() == uid && view.is_own(pod)),
    }
}

/// The interface whose addresses the kubelet reports: runtimes call the first one of each pod so.
const REPORTED: &str = "eth0";

/// Whether these addresses are those of another sandbox. A pod stays `Ready` until the kubelet says otherwise, which it
/// does when the next sandbox has its network already.
fn is_outdated(reported: &[IpAddr], allocation: &Allocation) -> bool {
    allocation.attachment.ifname().as_str() == REPORTED
        && !reported.is_empty()
        && !allocation.held().any(|held| reported.contains(&held))
}

/// Whom these routes, left by an earlier run, announce an address for. Routes outlive the agent, so that nothing has
/// to be written down for it.
pub fn served<'a>(
    allocations: impl IntoIterator<Item = &'a Allocation>,
    observed: &[ObservedRoute],
) -> BTreeSet<AttachmentId> {
    let announced: BTreeSet<_> = observed
        .iter()
        .filter(|route| route.protocol == RouteProtocol::Announce)
        .flat_map(|route| {
            let links: Vec<_> = match &route.next_hop {
                Some(NextHop::Link(link)) => vec![link],
                Some(NextHop::Group(members)) => {
                    let full = members.iter().filter(|member| member.weight == Weight::Full);
                    full.map(|member| &member.link).collect()
                }
                Some(NextHop::Unreachable) | None => Vec::new(),
            };
            links.into_iter().map(|link| (route.destination.addr(), link))
        })
        .collect();
    let is_served = |allocation: &&Allocation| {
        let link = allocation.attachment.host_ifname();
        let mut addresses = allocation.held().chain(allocation.anycast.iter().copied());
        addresses.any(|address| announced.contains(&(address, &link)))
    };
    allocations.into_iter().filter(is_served).map(|allocation| allocation.attachment.clone()).collect()
}
