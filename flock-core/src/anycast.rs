//! Which pods of this node stand behind an anycast address, and where its packets go.
//!
//! ```text
//!                 Ready                    not Ready, terminating, gone
//!   Withheld ---------------> Serving ---------------------------------> Draining --DEL--> (nothing)
//!   (no packets)              (packets, announced)   <---- Ready ----    (open flows; new ones elsewhere)
//! ```
//!
//! A pod is served from the moment it is eligible (interfaces.md section 9). One that stops to be keeps its
//! place until its DEL, so that what is open ends in peace: that it had one is read from the kernel's own
//! group, so a restart of the agent changes nothing. One that never was eligible gets no place.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::eligibility::{Evidence, Withheld, eligibility};
use crate::family::Family;
use crate::ids::{AttachmentId, PodKey, PodUid};
use crate::ipam::Allocation;
use crate::route::{Member, Members, NextHop, ObservedRoute, Route, RouteProtocol, Weight, host_prefix};

/// An anycast address and the pods of this node that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The address.
    pub address: IpAddr,
    /// Who has it, in the order of attachment IDs; at least one.
    pub holders: Vec<Holder>,
}

/// A pod that has an anycast address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its pod, where known.
    pub pod: Option<PodKey>,
    /// The UID of that, where known.
    pub uid: Option<PodUid>,
    /// What it does for the address.
    pub role: Role,
    /// The pod's own address of that family, which packets are sent to; `None` without one.
    gateway: Option<IpAddr>,
}

/// What a pod does for an anycast address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It gets its share of the packets.
    Serving,
    /// It gets those of its open flows, and new ones only where nobody else is.
    Draining(Withheld),
    /// It gets none.
    Withheld(Withheld),
}

/// Every anycast address of these allocations, in order, IPv6 first. `observed` is what the kernel has: it tells who
/// drains.
pub fn shared<'a>(
    allocations: impl IntoIterator<Item = &'a Allocation>,
    evidence: Evidence<'_>,
    observed: &[ObservedRoute],
) -> Vec<Shared> {
    let mut groups: BTreeMap<IpAddr, &Members> = BTreeMap::new();
    for route in observed {
        if let Some(NextHop::Group(members)) = &route.next_hop {
            groups.entry(route.destination.addr()).or_insert(members);
        }
    }
    let mut shared: BTreeMap<(Family, IpAddr), Vec<Holder>> = BTreeMap::new();
    for allocation in allocations.into_iter().filter(|allocation| !allocation.anycast.is_empty()) {
        let eligible = eligibility(allocation, evidence);
        for address in &allocation.anycast {
            let group = groups.get(address).copied();
            let holder = holder(allocation, *address, eligible, group);
            shared.entry((Family::of(*address), *address)).or_default().push(holder);
        }
    }
    shared.into_iter().map(|((_, address), holders)| Shared { address, holders }).collect()
}

fn holder(
    allocation: &Allocation,
    address: IpAddr,
    eligible: Result<(), Withheld>,
    group: Option<&Members>,
) -> Holder {
    let family = Family::of(address);
    let gateway = allocation.addresses.iter().find(|own| Family::of(*own) == family);
    let has_place = || {
        let link = allocation.attachment.host_ifname();
        group.is_some_and(|group| {
            group.iter().any(|member| member.link == link && Some(member.gateway) == gateway)
        })
    };
    let role = match eligible {
        _ if gateway.is_none() => Role::Withheld(Withheld::NoUnicast { family }),
        Ok(()) => Role::Serving,
        Err(why) if has_place() => Role::Draining(why),
        Err(why) => Role::Withheld(why),
    };
    let Allocation { attachment, pod, uid, .. } = allocation;
    Holder { attachment: attachment.clone(), pod: pod.clone(), uid: uid.clone(), role, gateway }
}

/// A pod that has an anycast address and can never serve it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// The address.
    pub address: IpAddr,
    /// The attachment.
    pub attachment: AttachmentId,
    /// Its pod, where known.
    pub pod: Option<PodKey>,
    /// The UID of that, where known.
    pub uid: Option<PodUid>,
}

impl Shared {
    /// Those of its pods that packets cannot be sent to: without an address of their own of that family.
    pub fn skipped(&self) -> impl Iterator<Item = Skipped> {
        let skipped = self.holders.iter().filter(|holder| holder.gateway.is_none());
        skipped.map(|Holder { attachment, pod, uid, .. }| Skipped {
            address: self.address,
            attachment: attachment.clone(),
            pod: pod.clone(),
            uid: uid.clone(),
        })
    }

    /// Whether BIRD is to announce it: somebody serves.
    pub fn is_announced(&self) -> bool {
        self.holders.iter().any(|holder| holder.role == Role::Serving)
    }

    /// The route to it: none while nobody serves or drains.
    pub fn route(&self) -> Option<Route> {
        let members = Members::new(self.holders.iter().filter_map(Holder::member))?;
        let protocol = if self.is_announced() { RouteProtocol::Announce } else { RouteProtocol::Quiet };
        Some(Route { destination: host_prefix(self.address), protocol, next_hop: NextHop::Group(members) })
    }
}

impl Holder {
    fn member(&self) -> Option<Member> {
        let weight = match self.role {
            Role::Serving => Weight::Full,
            Role::Draining(_) => Weight::Least,
            Role::Withheld(_) => return None,
        };
        Some(Member { gateway: self.gateway?, link: self.attachment.host_ifname(), weight })
    }
}
