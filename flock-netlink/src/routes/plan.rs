//! Turns a difference between routes into the requests that mend it: no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use flock_core::ids::IfName;
use flock_core::ports::NetlinkError;
use flock_core::route::{Members, NextHop, ObservedRoute, Route, RouteDiff, Weight};
use ipnet::IpNet;

use super::read::{Kernel, Seen, is_plain};
use crate::conn::Request;
use crate::nexthop::{self, Changes, Form, Group, Way};
use crate::reply::Hop;
use crate::request::{self, Place};
use crate::spread::Spread;

/// Changes to make, in the order in which to make them.
#[derive(Debug)]
pub(super) struct Plan {
    /// Nexthop objects groups need.
    pub(super) ways: Vec<(u32, Way)>,
    /// Of groups.
    pub(super) form: Form,
    /// Groups of routes that are as they should be, but not in the form flock gives them.
    pub(super) mend: Vec<Group>,
    /// Routes, and the groups they lead to.
    pub(super) replace: Vec<Change>,
    /// Routes that go.
    pub(super) remove: Vec<Seen>,
    /// Nexthop objects nobody needs any more.
    pub(super) stale: Vec<u32>,
}

/// What writing a route is called in an error.
pub(super) const WRITE: &str = "write a route";

/// A route that is not as it should be.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) route: Route,
    place: Place,
    how: How,
}

#[derive(Debug)]
enum How {
    Unreachable,
    Link(u32),
    /// Only the members differ, or the route does too.
    Group {
        form: Form,
        group: Group,
        keeps_route: bool,
    },
    Multipath(Vec<(Way, Weight)>),
}

impl Change {
    /// The same where a route of ours has turned up.
    pub(super) fn over_ours(self) -> Self {
        Self { place: Place::Ours, ..self }
    }

    /// What there is to ask about the group.
    pub(super) fn of_group(&self) -> Option<Request> {
        match &self.how {
            How::Group { form, group, .. } if group.is_new => {
                Some(nexthop::write_group(group.id, *form, &group.entries, group.is_there))
            }
            _ => None,
        }
    }

    /// What there is to ask about the route.
    pub(super) fn of_route(&self) -> Option<Request> {
        let (place, &Route { destination, protocol, .. }) = (self.place, &self.route);
        match &self.how {
            How::Unreachable => Some(request::add_unreachable_route(WRITE, destination, protocol, place)),
            How::Link(index) => Some(request::add_link_route(WRITE, destination, protocol, *index, place)),
            How::Group { keeps_route: true, .. } => None,
            How::Group { group, .. } => {
                Some(request::add_group_route(WRITE, destination, protocol, group.id, place))
            }
            How::Multipath(members) => {
                let hop = |(way, weight): &(Way, Weight)| Hop {
                    ifindex: way.ifindex,
                    gateway: Some(way.gateway),
                    weight: weight.number(),
                    onlink: true,
                };
                let hops = members.iter().map(hop);
                Some(request::add_multipath_route(WRITE, destination, protocol, hops, place))
            }
        }
    }
}

/// The requests for `diff`. `indexes` are those of the links it needs.
pub(super) fn plan(
    diff: RouteDiff,
    kernel: Kernel,
    spread: Spread,
    indexes: &BTreeMap<IfName, u32>,
) -> Result<Plan, NetlinkError> {
    let Kernel { seen, table } = kernel;
    let (remove, left) = stale(&diff, seen);
    let written: BTreeSet<IpNet> = diff.replace.iter().map(|route| route.destination).collect();
    let (before, kept): (Vec<Seen>, Vec<Seen>) =
        left.into_iter().partition(|seen| written.contains(&seen.observed.destination));
    let places: BTreeSet<IpNet> = before.iter().map(|seen| seen.observed.destination).collect();
    let kept: Vec<u32> = kept.iter().filter_map(|seen| seen.found.nexthop).collect();
    let form = spread.form().unwrap_or(Form::Plain);
    let mut changes = Changes::new(table, form, kept.iter().copied());
    let mend = kept.into_iter().filter_map(|group| changes.completed(group)).collect();
    let mut replace = Vec::with_capacity(diff.replace.len());
    for route in diff.replace {
        let members = match &route.next_hop {
            NextHop::Group(members) => ways(members, indexes),
            NextHop::Unreachable | NextHop::Link(_) => Vec::new(),
        };
        let how = match (&route.next_hop, spread.form()) {
            (NextHop::Unreachable, _) => Some(How::Unreachable),
            (NextHop::Link(link), _) => indexes.get(link).copied().map(How::Link),
            // All links have gone since they were seen, and the kernel has removed the route.
            (NextHop::Group(_), _) if members.is_empty() => None,
            (NextHop::Group(_), None) => Some(How::Multipath(members)),
            (NextHop::Group(_), Some(form)) => {
                let current = before.iter().find(|seen| seen.observed.destination == route.destination);
                // Beside a twin it is not certain which of the two a packet takes.
                let is_alone = remove.iter().all(|seen| seen.observed.destination != route.destination);
                let group = current.and_then(|seen| seen.found.nexthop);
                let group = changes.group(group, &members).ok_or_else(no_number)?;
                let leads_there = |seen: &Seen| {
                    seen.observed.protocol == route.protocol
                        && seen.found.nexthop == Some(group.id)
                        && is_plain(&seen.found)
                };
                let keeps_route = group.is_there && is_alone && current.is_some_and(leads_there);
                Some(How::Group { form, group, keeps_route })
            }
        };
        let place = if places.contains(&route.destination) { Place::Ours } else { Place::Empty };
        replace.extend(how.map(|how| Change { route, place, how }));
    }
    let stale = changes.stale();
    Ok(Plan { ways: changes.ways, form, mend, replace, remove, stale })
}

fn ways(members: &Members, indexes: &BTreeMap<IfName, u32>) -> Vec<(Way, Weight)> {
    let way = |link| indexes.get(link).copied();
    let known = members.iter().filter_map(|member| Some((member, way(&member.link)?)));
    known.map(|(member, ifindex)| (Way { gateway: member.gateway, ifindex }, member.weight)).collect()
}

fn no_number() -> NetlinkError {
    let source = io::Error::new(io::ErrorKind::StorageFull, "every number flock may give one is taken");
    NetlinkError::Kernel { step: "add a nexthop", source }
}

/// What the kernel has of the routes to remove, and the others. The first of a place that is written to is
/// among the others: it is overwritten, even if another that has to go looks the same.
fn stale(diff: &RouteDiff, seen: Vec<Seen>) -> (Vec<Seen>, Vec<Seen>) {
    let mut overwritten: BTreeSet<IpNet> = diff.replace.iter().map(|route| route.destination).collect();
    let remove: BTreeSet<&ObservedRoute> = diff.remove.iter().collect();
    seen.into_iter().partition(|Seen { observed, .. }| {
        let is_in_place = observed.metric == ObservedRoute::default_metric(&observed.destination);
        let is_overwritten = is_in_place && overwritten.remove(&observed.destination);
        !is_overwritten && remove.contains(observed)
    })
}
