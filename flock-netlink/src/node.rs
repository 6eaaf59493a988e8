//! The node's own addresses and its way out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ids::IfName;
use flock_core::ports::{InterfaceAddress, NetlinkError, NodeFacts};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::conn::{Conn, errno};
use crate::inspect::{RT_TABLE_MAIN, RTN_UNICAST, is_host_ifname, is_link_local, routes};
use crate::reply::{Address, Link, Route};
use crate::request;

/// Of IPv6 it says that the address is a temporary one.
const IFA_F_SECONDARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;

/// The interface kube-proxy makes in IPVS mode, for the addresses of Services.
const IPVS: &str = "kube-ipvs0";

/// Reads them.
pub(crate) fn facts() -> Result<NodeFacts, NetlinkError> {
    let mut conn = Conn::open_for_dumps()?;
    let links: BTreeMap<u32, Link> = conn
        .dump(&request::dump_links(false), Link::read)?
        .into_iter()
        .filter(|link| !is_host_ifname(&link.name))
        .map(|link| (link.index, link))
        .collect();
    let mut addresses = conn.dump(&request::dump_addresses(0), Address::read)?;
    addresses.retain(|found| is_global(found) && links.contains_key(&found.ifindex));
    let uplink6 = default_route(&mut conn, true, &links)?;
    let uplink4 = default_route(&mut conn, false, &links)?;
    let mtu = |route: &Route| route.oif.and_then(|index| links.get(&index)).map(|link| link.mtu);
    let uplink_mtu = uplink6.as_ref().and_then(mtu).or_else(|| uplink4.as_ref().and_then(mtu));
    let primary4 = match &uplink4 {
        Some(route) => primary4(&mut conn, route, &addresses)?,
        None => None,
    };
    let named = |found: &Address| {
        let ifname = IfName::parse(&links.get(&found.ifindex)?.name).ok()?;
        let passing = found.flags & (IFA_F_SECONDARY | IFA_F_DEPRECATED) != 0;
        Some(InterfaceAddress { ifname, address: found.net, passing })
    };
    let mut addresses: Vec<InterfaceAddress> = addresses.iter().filter_map(named).collect();
    addresses.sort_unstable();
    let ipvs = links.values().any(|link| link.name == IPVS);
    Ok(NodeFacts { addresses, primary4, uplink_mtu, ipvs })
}

fn is_global(found: &Address) -> bool {
    let address = found.net.addr();
    found.flags & IFA_F_DADFAILED == 0 && !address.is_loopback() && !is_link_local(address)
}

/// An address that only a default route leads to. Looking it up costs the same beside a full BGP table,
/// where listing a quarter of a million routes takes 90 ms.
const NOWHERE6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// Of IPv4: for the unspecified one itself the kernel looks nowhere.
const NOWHERE4: IpAddr = IpAddr::V4(Ipv4Addr::new(0, 0, 0, 1));

/// The best default route: the one of the lowest metric. Pods' links never have one.
fn default_route(
    conn: &mut Conn,
    ipv6: bool,
    links: &BTreeMap<u32, Link>,
) -> Result<Option<Route>, NetlinkError> {
    let leads_out = |route: &Route| {
        route.destination.prefix_len() == 0
            && route.kind == RTN_UNICAST
            && route.oif.is_some_and(|index| links.contains_key(&index))
    };
    let nowhere = if ipv6 { NOWHERE6 } else { NOWHERE4 };
    match conn.get(&request::match_route(nowhere), Route::read) {
        Ok(Some(route)) if route.table == RT_TABLE_MAIN && leads_out(&route) => return Ok(Some(route)),
        Err(error) if errno(&error) == Some(Errno::ENETUNREACH) => return Ok(None),
        Err(error) if errno(&error).is_none() => return Err(error),
        // A kernel before 5.3 knows no such IPv4 address, or somebody has a route to it.
        _ => {}
    }
    Ok(routes(conn, ipv6, None, None, leads_out)?.into_iter().min_by_key(|route| route.metric))
}

/// What the route says, else the source the kernel takes towards the gateway, else the first address of the
/// interface.
fn primary4(conn: &mut Conn, route: &Route, addresses: &[Address]) -> Result<Option<Ipv4Addr>, NetlinkError> {
    let mut source = route.source;
    if let (None, Some(gateway @ IpAddr::V4(_))) = (source, route.gateway) {
        source = match conn.get(&request::get_route(gateway), Route::read) {
            Ok(found) => found.and_then(|found| found.source),
            // The gateway is not reachable just now; the interface still has its address.
            Err(error) if errno(&error).is_some() => None,
            Err(error) => return Err(error),
        };
    }
    let first = || {
        addresses.iter().find_map(|found| match found.net {
            IpNet::V4(net) if Some(found.ifindex) == route.oif && found.flags & IFA_F_SECONDARY == 0 => {
                Some(IpAddr::V4(net.addr()))
            }
            _ => None,
        })
    };
    match source.or_else(first) {
        Some(IpAddr::V4(address)) => Ok(Some(address)),
        _ => Ok(None),
    }
}
