//! Reads attachments back from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use flock_core::ids::{AttachmentId, IfName};
use flock_core::ports::{HostSide, LinkIdentity, LinkState, NetlinkError, PodSide};
use flock_core::route::{GATEWAY6, NextHop, ObservedRoute, RouteProtocol};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::alias;
use crate::conn::{Conn, errno};
use crate::netns::Netns;
use crate::note;
use crate::reply::{Address, Link, Neighbour, Route};
use crate::request::{self, DYING_GROUP, LOOPBACK};

pub(crate) const RTN_UNICAST: u8 = 1;
pub(crate) const RTN_LOCAL: u8 = 2;
pub(crate) const RTN_UNREACHABLE: u8 = 7;
pub(crate) const RT_TABLE_MAIN: u32 = 254;
const RT_SCOPE_LINK: u8 = 253;

/// A link by name, if there is one.
pub(crate) fn find_link(conn: &mut Conn, ifname: &IfName) -> Result<Option<Link>, NetlinkError> {
    absent_is_none(conn.get(&request::get_link(ifname), Link::read))
}

/// A link by index, if there is one.
pub(crate) fn find_index(conn: &mut Conn, ifindex: u32) -> Result<Option<Link>, NetlinkError> {
    absent_is_none(conn.get(&request::get_link_by_index(ifindex), Link::read))
}

/// What went while it was looked at was not there.
pub(crate) fn absent_is_none<T>(found: Result<Option<T>, NetlinkError>) -> Result<Option<T>, NetlinkError> {
    match found {
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(None),
        found => found,
    }
}

/// Detached, and waiting to be deleted.
pub(crate) fn is_dying(link: &Link) -> bool {
    link.group == DYING_GROUP
}

/// Whether a name is one flock gives: a prefix and 8 hexadecimal digits.
pub(crate) fn is_host_ifname(name: &str) -> bool {
    let digits = name.strip_prefix(AttachmentId::HOST_IFNAME_PREFIX).unwrap_or_default();
    digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a link is a veth under such a name.
pub(crate) fn is_host_veth(link: &Link) -> bool {
    link.veth && is_host_ifname(&link.name)
}

/// Whose link it is, as far as its alias is about this link.
pub(crate) fn identity(link: &Link) -> Option<LinkIdentity> {
    let identity = alias::decode(link.alias.as_deref()?)?;
    (identity.attachment.host_ifname().as_str() == link.name).then_some(identity)
}

/// Routes of the main table to keep. Protocol and interface are a filter in the kernel, but only a hint:
/// old ones send everything.
pub(crate) fn routes(
    conn: &mut Conn,
    ipv6: bool,
    protocol: Option<u8>,
    ifindex: Option<u32>,
    keep: impl Fn(&Route) -> bool,
) -> Result<Vec<Route>, NetlinkError> {
    let is_asked = |route: &Route| {
        route.table == RT_TABLE_MAIN
            && !route.cloned
            && protocol.is_none_or(|protocol| route.protocol == protocol)
            && ifindex.is_none_or(|ifindex| route.oif == Some(ifindex))
            && keep(route)
    };
    let request = request::dump_routes(ipv6, protocol, ifindex);
    match conn.dump(&request, |message| Route::read(message).filter(is_asked)) {
        // A namespace that never had a route has no table either.
        Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(Vec::new()),
        found => found,
    }
}

/// Routes of both families through one interface.
pub(crate) fn routes_through(
    conn: &mut Conn,
    ifindex: u32,
    keep: impl Fn(&Route) -> bool,
) -> Result<Vec<Route>, NetlinkError> {
    let mut found = routes(conn, true, None, Some(ifindex), &keep)?;
    found.extend(routes(conn, false, None, Some(ifindex), &keep)?);
    Ok(found)
}

/// Prefixes that have a route of ours where flock writes one.
pub(crate) fn our_places(conn: &mut Conn) -> Result<BTreeSet<IpNet>, NetlinkError> {
    let in_place = |route: &Route| route.metric == ObservedRoute::default_metric(&route.destination);
    let mut places = BTreeSet::new();
    for ipv6 in [true, false] {
        for protocol in RouteProtocol::ALL {
            let found = routes(conn, ipv6, Some(protocol.number()), None, in_place)?;
            places.extend(found.into_iter().map(|route| route.destination));
        }
    }
    Ok(places)
}

/// Why a route is not written where another one is.
pub(crate) fn taken(step: &'static str, destination: IpNet) -> NetlinkError {
    let reason = format!(
        "somebody else has a route to {destination}, and flock leaves that alone: remove it, or use another prefix"
    );
    NetlinkError::Kernel { step, source: io::Error::new(io::ErrorKind::AlreadyExists, reason) }
}

/// Whether a route is flock's.
pub(crate) fn is_ours(route: &Route) -> bool {
    RouteProtocol::from_number(route.protocol).is_some()
}

/// Whether a route is flock's and leads through a single link, as those of groups do not even if it looks
/// like it for the moment.
pub(crate) fn is_its_own(route: &Route) -> bool {
    is_ours(route) && !route.is_spread()
}

/// The route as the core sees it, if its protocol is ours and it is not that of a group. `ifname` names
/// interfaces.
pub(crate) fn observed(route: &Route, ifname: impl FnOnce(u32) -> Option<IfName>) -> Option<ObservedRoute> {
    let simple = !route.exotic && route.hops.is_none();
    let plain = simple && route.gateway.is_none() && route.source.is_none();
    let next_hop = match route.kind {
        RTN_UNREACHABLE if simple => Some(NextHop::Unreachable),
        RTN_UNICAST if plain && (route.destination.addr().is_ipv6() || route.scope == RT_SCOPE_LINK) => {
            route.oif.and_then(ifname).map(NextHop::Link)
        }
        _ => None,
    };
    let protocol = RouteProtocol::from_number(route.protocol)?;
    Some(ObservedRoute { destination: route.destination, protocol, next_hop, metric: route.metric })
}

fn addresses(conn: &mut Conn, ifindex: u32) -> Result<Vec<Address>, NetlinkError> {
    let found = conn.dump(&request::dump_addresses(ifindex), Address::read)?;
    Ok(found.into_iter().filter(|address| address.ifindex == ifindex).collect())
}

fn neighbours(conn: &mut Conn, ifindex: u32) -> Result<Vec<IpAddr>, NetlinkError> {
    let found = conn.dump(&request::dump_neighbours(ifindex), Neighbour::read)?;
    let permanent = found.into_iter().filter(|entry| entry.ifindex == ifindex && entry.permanent);
    Ok(sorted(permanent.map(|entry| entry.address)))
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

/// The host's end: link, routes, neighbours, gateway.
pub(crate) fn host_side(conn: &mut Conn, ifname: &IfName, link: &Link) -> Result<HostSide, NetlinkError> {
    let ours = routes_through(conn, link.index, is_its_own)?;
    let ours = ours.iter().filter_map(|route| observed(route, |_| Some(ifname.clone())));
    Ok(HostSide {
        ifname: ifname.clone(),
        ifindex: link.index,
        mac: link.mac,
        mtu: link.mtu,
        up: link.up,
        routes: sorted(ours),
        neighbours: neighbours(conn, link.index)?,
        has_gateway: addresses(conn, link.index)?.iter().any(is_gateway),
        anycast: noted(link),
    })
}

/// The anycast addresses noted on a link.
pub(crate) fn noted(link: &Link) -> Vec<IpAddr> {
    sorted(link.names.iter().filter_map(|name| note::decode(&link.name, name)))
}

pub(crate) fn is_gateway(address: &Address) -> bool {
    address.net.addr() == IpAddr::V6(GATEWAY6)
}

/// The pod's end, seen from inside; `None` when the interface of that name is not the other end of `host`.
pub(crate) fn pod_side(netns: &Netns, ifname: &IfName, host: &Link) -> Result<Option<PodSide>, NetlinkError> {
    let seen = netns.visit(|| {
        let mut conn = Conn::open_for_dumps()?;
        let Some(link) = find_link(&mut conn, ifname)? else { return Ok(None) };
        if link.peer != Some(host.index) || host.peer != Some(link.index) {
            return Ok(None);
        }
        let defaults = routes_through(&mut conn, link.index, |route| route.destination.prefix_len() == 0)?;
        let found = conn.dump(&request::dump_addresses(0), Address::read)?;
        let on = |index| {
            let on_it = found.iter().filter(move |address| address.ifindex == index);
            on_it.map(|address| address.net).filter(|net| !is_link_local(net.addr()))
        };
        Ok(Some(PodSide {
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            addresses: sorted(on(link.index)),
            anycast: sorted(on(LOOPBACK).filter(|net| !net.addr().is_loopback())),
            gateways: sorted(defaults.into_iter().filter_map(|route| route.gateway)),
            neighbours: neighbours(&mut conn, link.index)?,
        }))
    });
    absent_is_none(seen)
}

pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => address.is_unicast_link_local(),
        IpAddr::V4(address) => address.is_link_local(),
    }
}

/// What there is of an attachment. A link on its way out is nothing, and so is one of another attachment
/// with the same hash.
pub(crate) fn inspect(
    attachment: &AttachmentId,
    netns: Option<&Netns>,
) -> Result<Option<LinkState>, NetlinkError> {
    let mut conn = Conn::open_for_dumps()?;
    let ifname = attachment.host_ifname();
    let Some(link) = find_link(&mut conn, &ifname)?.filter(|link| !is_dying(link)) else { return Ok(None) };
    let identity = identity(&link);
    if identity.as_ref().is_some_and(|identity| identity.attachment != *attachment) {
        return Ok(None);
    }
    let found = host_side(&mut conn, &ifname, &link).map(Some);
    let Some(host) = absent_is_none(found)? else { return Ok(None) };
    let pod = match netns.map(|netns| pod_side(netns, attachment.ifname(), &link)) {
        // A file that is no namespace (any more) has no pod in it.
        None | Some(Err(NetlinkError::Netns { .. })) => None,
        Some(found) => found?,
    };
    Ok(Some(LinkState { identity, host, pod }))
}

/// Every attachment, and whether a link is still waiting to be deleted.
pub(crate) fn attachments() -> Result<(Vec<LinkState>, bool), NetlinkError> {
    let mut conn = Conn::open_for_dumps()?;
    let mut links = conn.dump(&request::dump_links(true), Link::read)?;
    links.retain(|link| is_host_ifname(&link.name));
    let dying = links.iter().any(is_dying);
    links.retain(|link| !is_dying(link));
    let with_gateway: BTreeSet<u32> = conn
        .dump(&request::dump_addresses(0), |message| Address::read(message).filter(is_gateway))?
        .into_iter()
        .map(|address| address.ifindex)
        .collect();
    let mut through = BTreeMap::new();
    let is_more = |link: &Link| identity(link).is_some_and(|identity| identity.more);
    if links.iter().any(is_more) {
        through = routes_by_link(&mut conn)?;
    }
    let mut found: Vec<LinkState> = links
        .iter()
        .filter_map(|link| {
            let ifname = IfName::parse(&link.name).ok()?;
            let routes = through.get(&link.index).filter(|_| is_more(link));
            let routes = routes.into_iter().flatten();
            let host = HostSide {
                routes: sorted(routes.filter_map(|route| observed(route, |_| Some(ifname.clone())))),
                ifname,
                ifindex: link.index,
                mac: link.mac,
                mtu: link.mtu,
                up: link.up,
                neighbours: Vec::new(),
                has_gateway: with_gateway.contains(&link.index),
                anycast: noted(link),
            };
            Some(LinkState { identity: identity(link), host, pod: None })
        })
        .collect();
    found.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok((found, dying))
}

/// Our routes by the interface they lead through.
fn routes_by_link(conn: &mut Conn) -> Result<BTreeMap<u32, Vec<Route>>, NetlinkError> {
    let mut found: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
    for ipv6 in [true, false] {
        for protocol in RouteProtocol::ALL {
            for route in routes(conn, ipv6, Some(protocol.number()), None, is_its_own)? {
                if let Some(oif) = route.oif {
                    found.entry(oif).or_default().push(route);
                }
            }
        }
    }
    Ok(found)
}

fn order(link: &LinkState) -> (Option<&AttachmentId>, &IfName) {
    (link.identity.as_ref().map(|identity| &identity.attachment), &link.host.ifname)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use rtnetlink::packet_core::DefaultNla;

    use super::*;

    #[test]
    fn only_names_flock_gives_are_flocks() {
        for ours in ["flock00000000", "flock7ac7509f"] {
            assert!(is_host_ifname(ours), "{ours}");
        }
        for not in
            ["flock", "flock0", "flock7AC7509F", "flock7ac7509f0", "flock7ac7509", "eth0", "flockxxxxxxxx"]
        {
            assert!(!is_host_ifname(not), "{not}");
        }
    }

    fn route(destination: &str) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            table: RT_TABLE_MAIN,
            protocol: 117,
            scope: RT_SCOPE_LINK,
            kind: RTN_UNICAST,
            metric: 0,
            oif: Some(7),
            gateway: None,
            source: None,
            tos: 0,
            hops: None,
            several: Vec::new(),
            nexthop: None,
            onlink: false,
            exotic: false,
            cloned: false,
        }
    }

    fn seen(route: &Route) -> Option<NextHop> {
        observed(route, |index| IfName::parse(&format!("if{index}")).ok()).unwrap().next_hop
    }

    #[test]
    fn only_next_hops_flock_writes_are_understood() {
        let link = Some(NextHop::Link(IfName::parse("if7").unwrap()));
        let gateway: IpAddr = Ipv6Addr::LOCALHOST.into();
        assert_eq!(seen(&route("2001:db8::1/128")), link);
        assert_eq!(seen(&route("192.0.2.1/32")), link);
        assert_eq!(seen(&Route { scope: 0, ..route("2001:db8::1/128") }), link);
        assert_eq!(
            seen(&Route { kind: RTN_UNREACHABLE, ..route("2001:db8::/64") }),
            Some(NextHop::Unreachable)
        );
        let drift = [
            Route { scope: 0, ..route("192.0.2.1/32") },
            Route { gateway: Some(gateway), ..route("2001:db8::1/128") },
            Route { source: Some(gateway), ..route("2001:db8::1/128") },
            Route { exotic: true, ..route("2001:db8::1/128") },
            Route { hops: Some(DefaultNla::new(30, vec![1, 0, 0, 0])), ..route("2001:db8::1/128") },
            Route { kind: 6, ..route("2001:db8::1/128") },
            Route { oif: None, ..route("2001:db8::1/128") },
            // Another type of service: packets of the others do not take it.
            Route { kind: RTN_UNREACHABLE, exotic: true, ..route("192.0.2.0/24") },
        ];
        for route in &drift {
            assert_eq!(seen(route), None, "{route:?}");
        }
        assert!(observed(&Route { protocol: 4, ..route("192.0.2.1/32") }, |_| None).is_none());
    }
}
