//! Makes the routes of our protocol numbers what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use flock_core::ids::IfName;
use flock_core::ports::NetlinkError;
use flock_core::route::{NextHop, ObservedRoute, Route, RouteDiff, RouteProtocol, RouteSet};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::conn::{Conn, Request, errno};
use crate::inspect::{observed, routes};
use crate::{reply, request};

/// A route of ours, as the core sees it and as the kernel has it. Different routes may look the same to the
/// core, if flock never writes such.
#[derive(Debug)]
pub(crate) struct Seen {
    observed: ObservedRoute,
    found: reply::Route,
}

/// Every route of ours; those of one protocol in the kernel's order.
pub(crate) fn read() -> Result<Vec<Seen>, NetlinkError> {
    let mut conn = Conn::open_for_dumps()?;
    let mut names: BTreeMap<u32, Option<IfName>> = BTreeMap::new();
    let mut ours = Vec::new();
    for ipv6 in [true, false] {
        for protocol in RouteProtocol::ALL {
            for route in routes(&mut conn, ipv6, Some(protocol.number()), None, |_| true)? {
                let name = |index| names.entry(index).or_insert_with(|| ifname(index)).clone();
                ours.extend(observed(&route, name).map(|observed| Seen { observed, found: route }));
            }
        }
    }
    Ok(ours)
}

fn ifname(index: u32) -> Option<IfName> {
    // Of an interface that is gone nix 0.31 says that its name is empty; that does not parse.
    IfName::parse(if_indextoname(index).ok()?.to_str().ok()?).ok()
}

/// What has to change. A route to a link that is gone is not wanted: it cannot be written, and what is in
/// its place is stale.
pub(crate) fn plan(desired: &RouteSet, seen: Vec<Seen>) -> Plan {
    let observed: Vec<ObservedRoute> = seen.iter().map(|seen| seen.observed.clone()).collect();
    let mut diff = desired.diff(&observed);
    let mut indexes = BTreeMap::new();
    let mut is_possible = |route: &Route| match &route.next_hop {
        NextHop::Unreachable => true,
        NextHop::Link(ifname) => {
            let index = if_nametoindex(ifname.as_str()).ok();
            indexes.extend(index.map(|index| (ifname.clone(), index)));
            index.is_some()
        }
    };
    let impossible: BTreeSet<IpNet> =
        diff.replace.iter().filter(|route| !is_possible(route)).map(|route| route.destination).collect();
    if !impossible.is_empty() {
        let possible: RouteSet =
            desired.iter().filter(|route| !impossible.contains(&route.destination)).cloned().collect();
        diff = possible.diff(&observed);
    }
    Plan { remove: stale(&diff, seen), replace: diff.replace, indexes }
}

/// What the kernel has of the routes to remove. The first of a place that is written to is not among them:
/// it is overwritten, even if another that has to go looks the same.
fn stale(diff: &RouteDiff, mut seen: Vec<Seen>) -> Vec<Seen> {
    let mut overwritten: BTreeSet<IpNet> = diff.replace.iter().map(|route| route.destination).collect();
    let remove: BTreeSet<&ObservedRoute> = diff.remove.iter().collect();
    seen.retain(|Seen { observed, .. }| {
        let is_in_place = observed.metric == ObservedRoute::default_metric(&observed.destination);
        let is_overwritten = is_in_place && overwritten.remove(&observed.destination);
        !is_overwritten && remove.contains(observed)
    });
    seen
}

/// Changes to make, and the interfaces they need.
pub(crate) struct Plan {
    replace: Vec<Route>,
    remove: Vec<Seen>,
    indexes: BTreeMap<IfName, u32>,
}

impl Plan {
    /// True when the kernel has what is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.replace.is_empty() && self.remove.is_empty()
    }
}

/// Makes the changes, all that can be made; the first refusal is the error. Returns what was changed.
pub(crate) fn apply(plan: Plan) -> Result<RouteDiff, NetlinkError> {
    let Plan { mut replace, mut remove, indexes } = plan;
    let mut conn = Conn::open_for_dumps()?;
    // Write before remove, so that no packet finds a gap.
    let write = |route: &Route| write(route, &indexes);
    // The link has gone, or gone down, since it was looked up.
    let no_link = |errno| matches!(errno, Errno::ENODEV | Errno::ENETDOWN);
    let mut refusals = change(&mut conn, &mut replace, |route| route.destination, write, no_link)?;
    let delete = |seen: &Seen| Some(request::delete_route(&seen.found));
    let no_route = |errno| matches!(errno, Errno::ESRCH | Errno::ENODEV);
    refusals.extend(change(&mut conn, &mut remove, |seen| seen.observed.destination, delete, no_route)?);
    let remove = remove.into_iter().map(|seen| seen.observed).collect();
    refusals.into_iter().next().map_or(Ok(RouteDiff { replace, remove }), Err)
}

fn write(route: &Route, indexes: &BTreeMap<IfName, u32>) -> Option<Request> {
    const STEP: &str = "write a route";
    match &route.next_hop {
        NextHop::Unreachable => Some(request::add_unreachable_route(STEP, route.destination, route.protocol)),
        NextHop::Link(ifname) => {
            let index = indexes.get(ifname)?;
            Some(request::add_link_route(STEP, route.destination, route.protocol, *index))
        }
    }
}

/// Asks for one change per item, many at a time. Items where there turned out to be nothing to do are
/// taken out of the list.
fn change<T>(
    conn: &mut Conn,
    items: &mut Vec<T>,
    destination: impl Fn(&T) -> IpNet,
    ask: impl Fn(&T) -> Option<Request>,
    is_moot: impl Fn(Errno) -> bool,
) -> Result<Vec<NetlinkError>, NetlinkError> {
    let mut done = Vec::with_capacity(items.len());
    let mut refusals = Vec::new();
    let asked: Vec<(T, Request)> =
        items.drain(..).filter_map(|item| ask(&item).map(|request| (item, request))).collect();
    let mut asked = asked.into_iter().peekable();
    while asked.peek().is_some() {
        let (batch, requests): (Vec<T>, Vec<Request>) = asked.by_ref().take(Conn::BATCH).unzip();
        let mut refused: BTreeMap<usize, NetlinkError> = conn.run(requests)?.into_iter().collect();
        for (at, item) in batch.into_iter().enumerate() {
            match refused.remove(&at) {
                None => done.push(item),
                Some(refusal) if errno(&refusal).is_some_and(&is_moot) => {}
                Some(refusal) => refusals.push(name(refusal, destination(&item))),
            }
        }
    }
    *items = done;
    Ok(refusals)
}

fn name(refusal: NetlinkError, destination: IpNet) -> NetlinkError {
    match refusal {
        NetlinkError::Kernel { step, source } => NetlinkError::Kernel {
            step,
            source: io::Error::new(source.kind(), format!("{destination}: {source}")),
        },
        other => other,
    }
}
