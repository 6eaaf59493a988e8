//! What the kernel tells those who listen, such as BIRD.

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use std::net::IpAddr;

const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_NEXTHOP: u32 = 32;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    Written(IpAddr),
    Removed(IpAddr),
    Nexthop,
}

/// A listener in the namespace of the thread that made it.
pub(crate) struct Monitor(Socket);

impl Monitor {
    pub(crate) fn start() -> Self {
        let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
        socket.bind_auto().unwrap();
        for group in [RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_NEXTHOP] {
            socket.add_membership(group).unwrap();
        }
        socket.set_non_blocking(true).unwrap();
        Self(socket)
    }

    /// What has happened since the last time to host routes of flock's protocols and to nexthops, in order.
    pub(crate) fn news(&self) -> Vec<News> {
        let mut news = Vec::new();
        while let Ok((datagram, _)) = self.0.recv_from_full() {
            let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
            if (104..=106).contains(&kind) {
                news.push(News::Nexthop);
                continue;
            }
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram).unwrap();
            news.extend(match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                    destination(&route).map(News::Written)
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
                    destination(&route).map(News::Removed)
                }
                _ => None,
            });
        }
        news
    }
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    let is_ours = matches!(u8::from(route.header.protocol), 117 | 118);
    let found = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    });
    found.filter(|_| is_ours)
}
