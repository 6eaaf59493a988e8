//! The requests flock makes of the kernel, each under the name it has in an error.

use std::net::IpAddr;
use std::os::fd::RawFd;

use flock_core::ids::IfName;
use flock_core::ports::Mac;
use flock_core::route::{GATEWAY4, GATEWAY6};
use ipnet::{IpNet, Ipv6Net};
use rtnetlink::packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, Prop,
};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::conn::Request;
use crate::reply::{Hop, Route as Found};

/// Links flock has detached wait in this group (`ip link show group 1718382435`) to be deleted together,
/// since a deletion costs the same 20 ms for one link and for forty. The number is `floc` in ASCII: nobody
/// else is likely to use it, and a link that is in it is deleted.
pub const DYING_GROUP: u32 = u32::from_be_bytes(*b"floc");

/// `lo` is the first interface of every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

fn request(step: &'static str, flags: u16, message: RouteNetlinkMessage) -> Request {
    Request { step, flags, message: message.into() }
}

fn family(address: &IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn link(ifindex: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = attributes;
    message
}

/// One end of a veth pair to be.
pub(crate) struct End<'a> {
    pub(crate) ifname: &'a IfName,
    pub(crate) mac: Mac,
}

impl End<'_> {
    fn attributes(&self, mtu: u32) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::IfName(self.ifname.to_string()),
            LinkAttribute::Address(self.mac.to_vec()),
            LinkAttribute::Mtu(mtu),
        ]
    }
}

/// The pair in one message, the pod's end born in its namespace. Moving it there later takes fifty times
/// as long. Not up yet: the kernel would answer ENOTCONN, and the host's end has settings to take first.
pub(crate) fn create_veth(host: &End<'_>, pod: &End<'_>, mtu: u32, netns: RawFd) -> Request {
    let mut peer = pod.attributes(mtu);
    peer.push(LinkAttribute::NetNsFd(netns));
    let mut attributes = host.attributes(mtu);
    attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(link(0, peer)))),
    ]));
    let message = RouteNetlinkMessage::NewLink(link(0, attributes));
    request("create the veth pair", NLM_F_CREATE | NLM_F_EXCL, message)
}

fn no_link_local() -> AfSpecUnspec {
    AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])
}

/// What a new host veth needs before it goes up, in place of five writes below /proc/sys. The values come
/// as attributes with the number of the setting (`IPV4_DEVCONF_*` in linux/ip.h) as their type.
pub(crate) fn host_settings(ifindex: u32) -> Request {
    const IFLA_INET_CONF: u16 = 1;
    const FORWARDING: u16 = 1;
    const PROXY_ARP: u16 = 3;
    const RP_FILTER: u16 = 8;
    const IGNORE_ROUTES_WITH_LINKDOWN: u16 = 29;
    // Pods have a permanent entry for their gateway and the node has one for each address of a pod, so nobody has to
    // be answered. A node that did would keep an entry for every sender a pod makes up.
    let settings = [(FORWARDING, 1u32), (PROXY_ARP, 0), (RP_FILTER, 0), (IGNORE_ROUTES_WITH_LINKDOWN, 1)]
        .map(|(setting, value)| DefaultNla::new(setting, value.to_ne_bytes().to_vec()));
    let mut value = vec![0; settings.as_slice().buffer_len()];
    settings.as_slice().emit(&mut value);
    let inet = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, value));
    let attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![inet]), no_link_local()])];
    request("configure the host veth", 0, RouteNetlinkMessage::SetLink(link(ifindex, attributes)))
}

/// The pod's end gets the addresses flock gives it and no other.
pub(crate) fn pod_settings(ifindex: u32) -> Request {
    let attributes = vec![LinkAttribute::AfSpecUnspec(vec![no_link_local()])];
    request("configure the pod interface", 0, RouteNetlinkMessage::SetLink(link(ifindex, attributes)))
}

/// Takes the alias and goes up. The kernel ignores an alias in the creating message.
pub(crate) fn alias_and_up(ifindex: u32, alias: &str) -> Request {
    // `LinkAttribute::IfAlias` adds a NUL, which the kernel counts: 255 bytes would be one too many.
    const IFLA_IFALIAS: u16 = 20;
    let alias = LinkAttribute::Other(DefaultNla::new(IFLA_IFALIAS, alias.as_bytes().to_vec()));
    let mut message = link(ifindex, vec![alias]);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    request("name and bring up the host veth", 0, RouteNetlinkMessage::SetLink(message))
}

/// Gives a link further names: the notes of its anycast addresses (Linux 5.5).
pub(crate) fn add_names(ifindex: u32, names: impl Iterator<Item = String>) -> Request {
    let names = LinkAttribute::PropList(names.map(Prop::AltIfName).collect());
    let message = RouteNetlinkMessage::NewLinkProp(link(ifindex, vec![names]));
    request("note the anycast addresses on the host veth", NLM_F_CREATE | NLM_F_EXCL, message)
}

/// Brings an interface of the pod up.
pub(crate) fn up(step: &'static str, ifindex: u32) -> Request {
    let mut message = link(ifindex, Vec::new());
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    request(step, 0, RouteNetlinkMessage::SetLink(message))
}

/// Down, and into the group of those to be deleted.
pub(crate) fn retire(ifindex: u32) -> Request {
    let mut message = link(ifindex, vec![LinkAttribute::Group(DYING_GROUP)]);
    message.header.change_mask = LinkFlags::Up;
    request("retire the host veth", 0, RouteNetlinkMessage::SetLink(message))
}

/// Deletes one link, by name.
pub(crate) fn delete_link(ifname: &IfName) -> Request {
    let attributes = vec![LinkAttribute::IfName(ifname.to_string())];
    request("delete the host veth", 0, RouteNetlinkMessage::DelLink(link(0, attributes)))
}

/// Deletes every link of the dying group.
pub(crate) fn delete_dying() -> Request {
    let attributes = vec![LinkAttribute::Group(DYING_GROUP)];
    request("delete the retired veths", 0, RouteNetlinkMessage::DelLink(link(0, attributes)))
}

/// Adds an address without duplicate address detection.
pub(crate) fn add_address(step: &'static str, ifindex: u32, address: IpNet) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(&address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.flags = AddressHeaderFlags::Nodad;
    message.header.scope = AddressScope::Universe;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    request(step, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewAddress(message))
}

/// Adds the pods' gateway to a host veth.
pub(crate) fn add_gateway(ifindex: u32) -> Request {
    let gateway = IpNet::V6(Ipv6Net::new_assert(GATEWAY6, 64));
    add_address("add the gateway address to the host veth", ifindex, gateway)
}

/// Tells a host veth its pod's hardware address.
pub(crate) fn add_pod_neighbour(ifindex: u32, address: IpAddr, mac: Mac) -> Request {
    add_neighbour("add the pod as a neighbour", ifindex, address, mac)
}

fn neighbour(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(&address);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// Adds a permanent neighbour: nobody ever has to ask for its hardware address.
pub(crate) fn add_neighbour(step: &'static str, ifindex: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour(ifindex, address);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    request(step, NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message))
}

pub(crate) fn delete_neighbour(ifindex: u32, address: IpAddr) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(neighbour(ifindex, address));
    request("remove the pod's neighbour entry", 0, message)
}

fn route(destination: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(&destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.addr().into()));
    }
    message
}

/// Where a route is written: its prefix and its metric, whatever protocol the route there has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing of ours is there. What is there all the same stays, and the kernel says EEXIST.
    Empty,
    /// What is there is ours, and is overwritten.
    Ours,
}

fn write_route(step: &'static str, message: RouteMessage, place: Place) -> Request {
    let how = match place {
        Place::Empty => NLM_F_EXCL,
        Place::Ours => NLM_F_REPLACE,
    };
    request(step, NLM_F_CREATE | how, RouteNetlinkMessage::NewRoute(message))
}

/// A route to `destination` straight through an interface.
pub(crate) fn add_link_route(
    step: &'static str,
    destination: IpNet,
    protocol: flock_core::route::RouteProtocol,
    ifindex: u32,
    place: Place,
) -> Request {
    let mut message = route(destination);
    message.header.protocol = RouteProtocol::Other(protocol.number());
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Oif(ifindex));
    write_route(step, message, place)
}

/// A route by way of a group of nexthop objects.
pub(crate) fn add_group_route(
    step: &'static str,
    destination: IpNet,
    protocol: flock_core::route::RouteProtocol,
    group: u32,
    place: Place,
) -> Request {
    const RTA_NH_ID: u16 = 30;
    let mut message = route(destination);
    message.header.protocol = RouteProtocol::Other(protocol.number());
    message.attributes.push(RouteAttribute::Other(DefaultNla::new(RTA_NH_ID, group.to_ne_bytes().to_vec())));
    write_route(step, message, place)
}

/// A route over several next hops that are no objects. IPv4 makes a plain route of a single one.
pub(crate) fn add_multipath_route(
    step: &'static str,
    destination: IpNet,
    protocol: flock_core::route::RouteProtocol,
    hops: impl Iterator<Item = Hop>,
    place: Place,
) -> Request {
    let hop = |Hop { ifindex, gateway, weight, onlink }: Hop| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = ifindex;
        hop.hops = u8::try_from(weight.saturating_sub(1)).unwrap_or(u8::MAX);
        hop.flags.set(RouteNextHopFlags::Onlink, onlink);
        hop.attributes = gateway.map(|address| RouteAttribute::Gateway(address.into())).into_iter().collect();
        hop
    };
    let mut message = route(destination);
    message.header.protocol = RouteProtocol::Other(protocol.number());
    message.attributes.push(RouteAttribute::MultiPath(hops.map(hop).collect()));
    write_route(step, message, place)
}

/// A route that answers "unreachable".
pub(crate) fn add_unreachable_route(
    step: &'static str,
    destination: IpNet,
    protocol: flock_core::route::RouteProtocol,
    place: Place,
) -> Request {
    let mut message = route(destination);
    message.header.protocol = RouteProtocol::Other(protocol.number());
    message.header.kind = RouteType::Unreachable;
    write_route(step, message, place)
}

const REMOVE_ROUTE: &str = "remove a route";

/// Deletes a route of one of our protocols through an interface, whatever its scope and kind.
pub(crate) fn delete_route_through(
    ifindex: u32,
    destination: IpNet,
    protocol: flock_core::route::RouteProtocol,
) -> Request {
    let mut message = route(destination);
    message.header.protocol = RouteProtocol::Other(protocol.number());
    message.header.scope = RouteScope::NoWhere;
    message.header.kind = RouteType::Unspec;
    message.attributes.push(RouteAttribute::Oif(ifindex));
    request(REMOVE_ROUTE, 0, RouteNetlinkMessage::DelRoute(message))
}

/// Deletes exactly this route. Several can share a prefix and a metric, and the kernel deletes the first
/// that has everything the request names: so it names all there is. Of a kind IPv6 takes no notice, but
/// an unreachable route leads through `lo` there.
pub(crate) fn delete_route(found: &Found) -> Request {
    let mut message = route(found.destination);
    message.header.protocol = found.protocol.into();
    message.header.scope = found.scope.into();
    message.header.kind = found.kind.into();
    message.header.tos = found.tos;
    if let Some(hops) = &found.hops {
        message.attributes.push(RouteAttribute::Other(hops.clone()));
    } else {
        message.attributes.extend(found.oif.map(RouteAttribute::Oif));
        message.attributes.extend(found.gateway.map(|address| RouteAttribute::Gateway(address.into())));
    }
    message.attributes.extend(found.source.map(|address| RouteAttribute::PrefSource(address.into())));
    message.attributes.extend((found.metric > 0).then_some(RouteAttribute::Priority(found.metric)));
    request(REMOVE_ROUTE, 0, RouteNetlinkMessage::DelRoute(message))
}

/// The pod's way out for one address: default route via the gateway of its family, the address as the
/// source unless the application chose one.
pub(crate) fn pod_routes(ifindex: u32, source: IpAddr) -> Vec<Request> {
    let via = |step, gateway: IpAddr| {
        let mut message = route(if source.is_ipv6() { IpNet::V6(DEFAULT6) } else { IpNet::V4(DEFAULT4) });
        message.header.protocol = RouteProtocol::Boot;
        message.attributes.extend([
            RouteAttribute::Gateway(gateway.into()),
            RouteAttribute::Oif(ifindex),
            RouteAttribute::PrefSource(source.into()),
        ]);
        write_route(step, message, Place::Ours)
    };
    if source.is_ipv6() {
        return vec![via("add the pod's IPv6 default route", GATEWAY6.into())];
    }
    let mut gateway = route(IpNet::from(IpAddr::V4(GATEWAY4)));
    gateway.header.protocol = RouteProtocol::Boot;
    gateway.header.scope = RouteScope::Link;
    gateway.attributes.push(RouteAttribute::Oif(ifindex));
    vec![
        write_route("add the pod's route to its IPv4 gateway", gateway, Place::Ours),
        via("add the pod's IPv4 default route", GATEWAY4.into()),
    ]
}

const DEFAULT6: ipnet::Ipv6Net = ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0);
const DEFAULT4: ipnet::Ipv4Net = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0);

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// One link by name; ENODEV when there is none.
pub(crate) fn get_link(ifname: &IfName) -> Request {
    let attributes = vec![LinkAttribute::IfName(ifname.to_string()), without_statistics()];
    request("look up an interface", 0, RouteNetlinkMessage::GetLink(link(0, attributes)))
}

/// One link by index.
pub(crate) fn get_link_by_index(ifindex: u32) -> Request {
    let message = link(ifindex, vec![without_statistics()]);
    request("look up an interface", 0, RouteNetlinkMessage::GetLink(message))
}

/// All veths, or all links.
pub(crate) fn dump_links(veths_only: bool) -> Request {
    let mut message = link(0, vec![without_statistics()]);
    if veths_only {
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]));
    }
    request("list the interfaces", 0, RouteNetlinkMessage::GetLink(message))
}

/// Addresses of both families, of one interface unless 0.
pub(crate) fn dump_addresses(ifindex: u32) -> Request {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    request("list the addresses", 0, RouteNetlinkMessage::GetAddress(message))
}

/// Neighbours of both families on one interface.
pub(crate) fn dump_neighbours(ifindex: u32) -> Request {
    let mut message = NeighbourMessage::default();
    message.attributes = vec![NeighbourAttribute::IfIndex(ifindex)];
    request("list the neighbours", 0, RouteNetlinkMessage::GetNeighbour(message))
}

/// Routes of the main table: those of one protocol, or through one interface, or all.
pub(crate) fn dump_routes(ipv6: bool, protocol: Option<u8>, ifindex: Option<u32>) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
    message.attributes.extend(ifindex.map(RouteAttribute::Oif));
    request("list the routes", 0, RouteNetlinkMessage::GetRoute(message))
}

const LOOK_UP_ROUTE: &str = "look up a route";

fn lookup(destination: IpAddr, flags: RouteFlags) -> Request {
    let host = IpNet::from(destination);
    let mut message = RouteMessage::default();
    message.header.address_family = family(&destination);
    message.header.destination_prefix_length = host.prefix_len();
    message.header.flags = flags;
    message.attributes = vec![RouteAttribute::Destination(destination.into())];
    request(LOOK_UP_ROUTE, 0, RouteNetlinkMessage::GetRoute(message))
}

/// The entry of the routing table that a packet to `destination` would be forwarded by (Linux 4.13).
pub(crate) fn match_route(destination: IpAddr) -> Request {
    lookup(destination, RouteFlags::FibMatch)
}

/// The route a packet to `destination` would take.
pub(crate) fn get_route(destination: IpAddr) -> Request {
    lookup(destination, RouteFlags::empty())
}
