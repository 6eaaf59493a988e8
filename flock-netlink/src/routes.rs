//! Makes the routes of our protocol numbers what they should be, and the groups some of them lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use flock_core::ids::IfName;
use flock_core::ports::NetlinkError;
use flock_core::route::{NextHop, ObservedRoute, Route, RouteDiff, RouteSet};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::conn::{Conn, Request, errno};
use crate::inspect::{self, find_link, our_places};
use crate::nexthop::{self, Group, Way};
use crate::reply::Link;
use crate::request;
use crate::spread::Spread;

mod plan;
mod read;

use plan::{Change, Plan, WRITE, plan};
use read::read;

/// Reads and writes them, one call at a time: whoever changes the members of a group must not meet
/// somebody who has read the old ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    turn: Mutex<()>,
    spread: OnceLock<Spread>,
}

impl Routes {
    /// With one way of spreading flows, whatever the kernel can do.
    pub(crate) fn with_spread(spread: Spread) -> Self {
        Self(Arc::new(Shared { turn: Mutex::default(), spread: OnceLock::from(spread) }))
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out how flows are spread here, and says so once if that could be better.
    pub(crate) fn learn(&self) -> Result<(), NetlinkError> {
        let _turn = self.turn();
        self.spread(&mut Conn::open_for_dumps()?);
        Ok(())
    }

    fn spread(&self, conn: &mut Conn) -> Spread {
        if let Some(spread) = self.0.spread.get() {
            return *spread;
        }
        match Spread::probe(conn) {
            Ok(spread) => {
                if let Some(shortcoming) = spread.shortcoming() {
                    tracing::warn!(
                        "this kernel has {shortcoming}: pods that join or leave a shared address move flows of others"
                    );
                }
                *self.0.spread.get_or_init(|| spread)
            }
            // Whatever is in the way now (`lo` that is down) is no reason to do without for good.
            Err(error) => {
                tracing::debug!(%error, "the kernel does not say how it spreads flows");
                Spread::Resilient
            }
        }
    }

    /// Makes them what `ask` answers when it is told what there is. `None`: nobody waits for it any more.
    pub(crate) fn sync(
        &self,
        ask: impl FnOnce(Vec<ObservedRoute>) -> Option<RouteSet>,
    ) -> Result<RouteDiff, NetlinkError> {
        let _turn = self.turn();
        let mut conn = Conn::open_for_dumps()?;
        let spread = self.spread(&mut conn);
        let kernel = read(&mut conn, spread)?;
        let observed = kernel.observed();
        let Some(desired) = ask(observed.clone()) else { return Ok(RouteDiff::default()) };
        let mut links = Links::default();
        let diff = possible(&mut conn, &desired, &observed, &mut links)?;
        apply(&mut conn, plan(diff, kernel, spread, &links.indexes())?)
    }

    /// Takes a link out of every group; the route of a group that has no other member goes.
    pub(crate) fn leave(&self, conn: &mut Conn, link: &IfName) -> Result<(), NetlinkError> {
        let _turn = self.turn();
        conn.prepare_for_dumps()?;
        let spread = self.spread(conn);
        let kernel = read(conn, spread)?;
        let mut links = Links::default();
        let mut diff = RouteDiff::default();
        for route in kernel.observed() {
            let Some(next_hop @ NextHop::Group(_)) = &route.next_hop else { continue };
            if !next_hop.links().any(|other| other == link) {
                continue;
            }
            match next_hop.over(|other| other != link) {
                Some(next_hop) => {
                    links.look_up(conn, &next_hop)?;
                    let (destination, protocol) = (route.destination, route.protocol);
                    diff.replace.push(Route { destination, protocol, next_hop });
                }
                None => diff.remove.push(route),
            }
        }
        apply(conn, plan(diff, kernel, spread, &links.indexes())?).map(drop)
    }
}

/// Links by name, as far as somebody asked.
#[derive(Debug, Default)]
struct Links(BTreeMap<IfName, Option<Link>>);

impl Links {
    fn look_up(&mut self, conn: &mut Conn, next_hop: &NextHop) -> Result<(), NetlinkError> {
        for name in next_hop.links() {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), find_link(conn, name)?);
            }
        }
        Ok(())
    }

    fn is(&self, name: &IfName, so: impl FnOnce(&Link) -> bool) -> bool {
        self.0.get(name).and_then(Option::as_ref).is_some_and(so)
    }

    fn indexes(&self) -> BTreeMap<IfName, u32> {
        let known = self.0.iter().filter_map(|(name, link)| Some((name, link.as_ref()?)));
        known.map(|(name, link)| (name.clone(), link.index)).collect()
    }
}

/// What has to change. A way through a link that is gone is not wanted: it cannot be written, and what is in
/// its place is stale. Neither is a member of a group whose link sees no other end: the kernel refuses it.
fn possible(
    conn: &mut Conn,
    desired: &RouteSet,
    observed: &[ObservedRoute],
    links: &mut Links,
) -> Result<RouteDiff, NetlinkError> {
    let diff = desired.diff(observed);
    let mut reduced: BTreeMap<IpNet, Option<NextHop>> = BTreeMap::new();
    for route in &diff.replace {
        links.look_up(conn, &route.next_hop)?;
        let in_group = matches!(route.next_hop, NextHop::Group(_));
        let left = route.next_hop.over(|name| links.is(name, |link| link.carrier || !in_group));
        if left.as_ref() != Some(&route.next_hop) {
            reduced.insert(route.destination, left);
        }
    }
    if reduced.is_empty() {
        return Ok(diff);
    }
    let left = |route: &Route| match reduced.get(&route.destination) {
        None => Some(route.clone()),
        Some(left) => Some(Route { next_hop: left.clone()?, ..route.clone() }),
    };
    Ok(desired.iter().filter_map(left).collect::<RouteSet>().diff(observed))
}

/// Makes the changes, all that can be made; the first refusal is the error. Returns what was changed.
fn apply(conn: &mut Conn, plan: Plan) -> Result<RouteDiff, NetlinkError> {
    let Plan { mut ways, form, mut mend, mut replace, mut remove, mut stale } = plan;
    let never = |_| false;
    // The link has gone, or gone down, since it was looked up.
    let no_link = |errno| matches!(errno, Errno::ENODEV | Errno::ENETDOWN);
    let no_route = |errno| matches!(errno, Errno::ESRCH | Errno::ENODEV);
    // First what others refer to, and write before remove, so that no packet finds a gap.
    let add = |(id, way): &(u32, Way)| Some(nexthop::add_way(*id, *way));
    let mut refusals = named(change(conn, &mut ways, add, never)?, |(_, way)| way.gateway.to_string());
    let complete = |group: &Group| Some(nexthop::write_group(group.id, form, &group.entries, true));
    refusals.extend(named(change(conn, &mut mend, complete, never)?, |group| group.id.to_string()));
    let destination = |change: &Change| change.route.destination.to_string();
    refusals.extend(named(change(conn, &mut replace, Change::of_group, never)?, destination));
    let refused = change(conn, &mut replace, Change::of_route, no_link)?;
    let (taken, refused): (Vec<_>, Vec<_>) =
        refused.into_iter().partition(|(_, refusal)| errno(refusal) == Some(Errno::EEXIST));
    refusals.extend(named(refused, destination));
    // By an ADD since the kernel was read, or by somebody else.
    let ours = if taken.is_empty() { BTreeSet::new() } else { our_places(conn)? };
    let (mut written, taken): (Vec<Change>, Vec<Change>) = taken
        .into_iter()
        .map(|(change, _)| change.over_ours())
        .partition(|change| ours.contains(&change.route.destination));
    refusals.extend(named(change(conn, &mut written, Change::of_route, no_link)?, destination));
    replace.extend(written);
    let delete = |seen: &read::Seen| Some(request::delete_route(&seen.found));
    refusals.extend(named(change(conn, &mut remove, delete, no_route)?, |seen| {
        seen.observed.destination.to_string()
    }));
    // A route that could not be written or removed may still need them.
    if refusals.is_empty() {
        let delete = |id: &u32| Some(nexthop::delete(*id));
        let no_object = |errno| errno == Errno::ENOENT;
        refusals.extend(named(change(conn, &mut stale, delete, no_object)?, ToString::to_string));
    }
    refusals.extend(taken.iter().map(|change| inspect::taken(WRITE, change.route.destination)));
    let replace = replace.into_iter().map(|change| change.route).collect();
    let remove = remove.into_iter().map(|seen| seen.observed).collect();
    refusals.into_iter().next().map_or(Ok(RouteDiff { replace, remove }), Err)
}

/// Asks for one change per item, many at a time; items that need none are done. Those where there turned
/// out to be nothing to do are taken out of the list, and so are those that were refused, which it returns.
fn change<T>(
    conn: &mut Conn,
    items: &mut Vec<T>,
    ask: impl Fn(&T) -> Option<Request>,
    is_moot: impl Fn(Errno) -> bool,
) -> Result<Vec<(T, NetlinkError)>, NetlinkError> {
    let mut refusals = Vec::new();
    let mut left = std::mem::take(items).into_iter().peekable();
    while left.peek().is_some() {
        let batch: Vec<T> = left.by_ref().take(Conn::BATCH).collect();
        let (places, requests): (Vec<usize>, Vec<Request>) =
            batch.iter().enumerate().filter_map(|(place, item)| Some((place, ask(item)?))).unzip();
        let refused = conn.run(requests)?.into_iter();
        let mut refused: BTreeMap<usize, NetlinkError> =
            refused.filter_map(|(at, refusal)| Some((*places.get(at)?, refusal))).collect();
        for (place, item) in batch.into_iter().enumerate() {
            match refused.remove(&place) {
                None => items.push(item),
                Some(refusal) if errno(&refusal).is_some_and(&is_moot) => {}
                Some(refusal) => refusals.push((item, refusal)),
            }
        }
    }
    Ok(refusals)
}

/// Refusals that say what they are about.
fn named<T>(refused: Vec<(T, NetlinkError)>, name: impl Fn(&T) -> String) -> Vec<NetlinkError> {
    refused.into_iter().map(|(item, refusal)| about(refusal, &name(&item))).collect()
}

fn about(refusal: NetlinkError, what: &str) -> NetlinkError {
    match refusal {
        NetlinkError::Kernel { step, source } => {
            NetlinkError::Kernel { step, source: io::Error::new(source.kind(), format!("{what}: {source}")) }
        }
        other => other,
    }
}
