//! Several routes in one place (one prefix, one metric): the kernel deletes the first that has all a request
//! names. What is stale goes, wherever it stands; what is wanted stays.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ids::IfName;
use flock_core::ports::Netlink;
use flock_core::route::{NextHop, Route, RouteProtocol, RouteSet};
use flock_core::testing::contract::netlink::NetlinkWorld;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol as Protocol,
    RouteScope, RouteType,
};
use rtnetlink::{LinkVeth, RouteMessageBuilder};

use crate::world::{append, edit, index_of, on_node, set_up};

const V6: &str = "2001:db8::1";
const V4: &str = "192.0.2.1";

fn is_v6(address: &str) -> bool {
    address == V6
}

/// A route of ours to one address.
fn to(address: &str) -> RouteMessage {
    let mut message = match address.parse().unwrap() {
        IpAddr::V6(address) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build()
        }
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build(),
    };
    message.header.protocol = Protocol::Other(RouteProtocol::Quiet.number());
    message
}

fn straight(address: &str, ifname: &str) -> RouteMessage {
    let mut message = to(address);
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Oif(index_of(ifname).unwrap()));
    message
}

fn gateway(address: &str, number: u8) -> IpAddr {
    let text = if is_v6(address) { format!("2001:db8:a::{number}") } else { format!("198.51.100.{number}") };
    text.parse().unwrap()
}

fn via(address: &str, ifname: &str) -> RouteMessage {
    let mut message = to(address);
    let hop = RouteAttribute::Gateway(gateway(address, 9).into());
    message.attributes.extend([hop, RouteAttribute::Oif(index_of(ifname).unwrap())]);
    message
}

fn of_kind(address: &str, kind: RouteType) -> RouteMessage {
    let mut message = to(address);
    message.header.kind = kind;
    message
}

/// A route of IPv4 that only differs from [`straight`] in its scope, its source or its type of service.
fn odd(address: &str, ifname: &str, oddity: usize) -> RouteMessage {
    let mut message = straight(address, ifname);
    match oddity {
        0 => message.header.scope = RouteScope::Universe,
        1 => message.attributes.push(RouteAttribute::PrefSource(gateway(address, 1).into())),
        _ => message.header.tos = 0x10,
    }
    message
}

fn over_two(address: &str) -> RouteMessage {
    let hop = |number| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = index_of("up0").unwrap();
        hop.attributes = vec![RouteAttribute::Gateway(gateway(address, number).into())];
        hop
    };
    let mut message = to(address);
    message.attributes.push(RouteAttribute::MultiPath(vec![hop(7), hop(8)]));
    message
}

fn make_links() {
    edit(None, async |handle| {
        for name in ["up0", "up1"] {
            let other_end = format!("{name}-peer");
            handle.link().add(LinkVeth::new(name, &other_end).build()).execute().await.unwrap();
            set_up(&handle, index_of(name).unwrap()).await;
            set_up(&handle, index_of(&other_end).unwrap()).await;
        }
        let up0 = index_of("up0").unwrap();
        for (net, length) in [(gateway(V6, 1), 64), (gateway(V4, 1), 24)] {
            handle.address().add(up0, net, length).execute().await.unwrap();
        }
    });
}

/// What there is for one address, as far as it tells the routes of these tests apart.
fn there(address: &str) -> Vec<(RouteType, Option<u32>, bool)> {
    use futures::TryStreamExt;
    let destination = RouteAttribute::Destination(match address.parse().unwrap() {
        IpAddr::V6(address) => RouteAddress::Inet6(address),
        IpAddr::V4(address) => RouteAddress::Inet(address),
    });
    edit(None, async |handle| {
        let mut query = RouteMessage::default();
        query.header.address_family = if is_v6(address) { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let mut routes = handle.route().get(query).execute();
        let mut found = Vec::new();
        while let Some(route) = routes.try_next().await.unwrap() {
            if route.header.table == RouteHeader::RT_TABLE_MAIN && route.attributes.contains(&destination) {
                let oif = route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
                let is_plain = route.header.tos == 0
                    && (is_v6(address)
                        || route.header.kind != RouteType::Unicast
                        || route.header.scope == RouteScope::Link)
                    && !route.attributes.iter().any(|attribute| {
                        matches!(
                            attribute,
                            RouteAttribute::Gateway(_)
                                | RouteAttribute::PrefSource(_)
                                | RouteAttribute::MultiPath(_)
                        )
                    });
                found.push((route.header.kind, oif, is_plain));
            }
        }
        found
    })
}

/// Every stale route beside the wanted one, before it and behind it, and all of them at once.
async fn check(
    world: &crate::world::World,
    address: &str,
    wanted: &RouteMessage,
    next_hop: NextHop,
    stale: &[RouteMessage],
) {
    let destination = address.parse::<IpAddr>().unwrap().into();
    let desired: RouteSet =
        [Route { destination, protocol: RouteProtocol::Quiet, next_hop }].into_iter().collect();
    append(wanted.clone());
    let alone = there(address);
    assert_eq!(alone.len(), 1);
    world.kernel.sync_routes(&|_| RouteSet::default()).await.unwrap();

    let mut orders: Vec<Vec<&RouteMessage>> = Vec::new();
    for one in stale {
        orders.extend([vec![one, wanted], vec![wanted, one]]);
    }
    for place in 0..=stale.len() {
        let mut order: Vec<&RouteMessage> = stale.iter().collect();
        order.insert(place, wanted);
        orders.push(order);
    }
    for order in orders {
        for route in &order {
            append((*route).clone());
        }
        assert_eq!(there(address).len(), order.len(), "all in one place: {order:#?}");
        let diff = world.kernel.sync_routes(&|_| desired.clone()).await.unwrap();
        assert_eq!(diff.replace, [], "it is there: {order:#?}");
        assert_eq!(there(address), alone, "{order:#?}");
        assert!(world.kernel.sync_routes(&|_| desired.clone()).await.unwrap().is_empty());
        world.kernel.sync_routes(&|_| RouteSet::default()).await.unwrap();
        assert_eq!(there(address), []);
    }
    assert_eq!(world.routes().await.iter().filter(|(_, protocol, _)| *protocol == 118).count(), 0);
}

fn link(name: &str) -> NextHop {
    NextHop::Link(IfName::parse(name).unwrap())
}

#[test]
fn stale_routes_go_from_beside_a_wanted_one() {
    on_node(async |world| {
        make_links();
        for address in [V6, V4] {
            let straight0 = straight(address, "up0");
            let unreachable = of_kind(address, RouteType::Unreachable);
            // IPv6 would make one route of these two.
            for roundabout in [via(address, "up0"), over_two(address)] {
                let mut stale = vec![straight(address, "up1"), unreachable.clone(), roundabout];
                if !is_v6(address) {
                    stale.push(of_kind(address, RouteType::BlackHole));
                    stale.extend([0, 1].map(|oddity| odd(address, "up0", oddity)));
                }
                check(world, address, &straight0, link("up0"), &stale).await;
                stale[1] = straight0.clone();
                check(world, address, &unreachable, NextHop::Unreachable, &stale).await;
            }
        }
    });
}

#[test]
fn a_route_of_another_type_of_service_is_removed() {
    on_node(async |world| {
        make_links();
        append(odd(V4, "up0", 2));
        assert_eq!(there(V4).len(), 1);
        let diff = world.kernel.sync_routes(&|_| RouteSet::default()).await.unwrap();
        assert_eq!((diff.remove.len(), there(V4).len()), (1, 0));
    });
}
