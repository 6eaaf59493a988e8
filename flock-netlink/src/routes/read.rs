//! The kernel's routes of our protocols, and where they lead.

use std::collections::BTreeMap;

use flock_core::ids::IfName;
use flock_core::ports::NetlinkError;
use flock_core::route::{Member, Members, NextHop, ObservedRoute, RouteProtocol, Weight};
use nix::net::if_::if_indextoname;

use crate::conn::Conn;
use crate::inspect::{RTN_UNICAST, observed, routes};
use crate::nexthop::Table;
use crate::reply::{Hop, Route};
use crate::spread::{self, Spread};

const RT_SCOPE_UNIVERSE: u8 = 0;

/// A route of ours, as the core sees it and as the kernel has it. Different routes may look the same to the
/// core, if flock never writes such.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) observed: ObservedRoute,
    pub(super) found: Route,
}

/// Everything that has to do with routes of ours.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// Those of one protocol in the kernel's order.
    pub(super) seen: Vec<Seen>,
    pub(super) table: Table,
}

impl Kernel {
    pub(super) fn observed(&self) -> Vec<ObservedRoute> {
        self.seen.iter().map(|seen| seen.observed.clone()).collect()
    }
}

/// Reads them.
pub(super) fn read(conn: &mut Conn, spread: Spread) -> Result<Kernel, NetlinkError> {
    let mut names: BTreeMap<u32, Option<IfName>> = BTreeMap::new();
    let mut name = |index| names.entry(index).or_insert_with(|| ifname(index)).clone();
    // Routes first: a group made in between is then only one that is not in use.
    let mut found = Vec::new();
    for ipv6 in [true, false] {
        for protocol in RouteProtocol::ALL {
            found.extend(routes(conn, ipv6, Some(protocol.number()), None, |_| true)?);
        }
    }
    let table = spread::objects(conn)?.unwrap_or_default();
    let mut seen = Vec::with_capacity(found.len());
    for route in found {
        let Some(mut observed) = observed(&route, &mut name) else { continue };
        if route.is_spread() {
            observed.next_hop = members(&route, spread, &table, &mut name).map(NextHop::Group);
        }
        seen.push(Seen { observed, found: route });
    }
    Ok(Kernel { seen, table })
}

fn ifname(index: u32) -> Option<IfName> {
    // Of an interface that is gone nix 0.31 says that its name is empty; that does not parse.
    IfName::parse(if_indextoname(index).ok()?.to_str().ok()?).ok()
}

/// Whether a route is like those flock writes to groups, wherever it leads.
pub(super) fn is_plain(route: &Route) -> bool {
    route.kind == RTN_UNICAST
        && !route.exotic
        && route.source.is_none()
        && (route.destination.addr().is_ipv6() || route.scope == RT_SCOPE_UNIVERSE)
}

/// The members a route of a group leads to, if flock would write it like that.
fn members(
    route: &Route,
    spread: Spread,
    table: &Table,
    mut ifname: impl FnMut(u32) -> Option<IfName>,
) -> Option<Members> {
    if !is_plain(route) {
        return None;
    }
    match (spread.form(), route.nexthop) {
        (Some(form), Some(group)) => table.members(group, form, ifname),
        (None, None) => {
            // The kernel makes a plain route of a single one, and forgets its weight.
            let single = Hop {
                ifindex: route.oif?,
                gateway: route.gateway,
                weight: Weight::Full.number(),
                onlink: route.onlink,
            };
            let hops = if route.several.is_empty() { &[single] } else { route.several.as_slice() };
            let mut member = |hop: &Hop| {
                let (gateway, weight) = (hop.gateway?, Weight::from_number(hop.weight)?);
                hop.onlink.then_some(Member { gateway, link: ifname(hop.ifindex)?, weight })
            };
            Members::new(hops.iter().map(&mut member).collect::<Option<Vec<Member>>>()?)
        }
        _ => None,
    }
}
