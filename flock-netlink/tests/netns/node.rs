//! The node: its addresses, its way out, its settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ids::IfName;
use flock_core::ports::{InterfaceAddress, Netlink, NodeFacts};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{LinkVeth, RouteMessageBuilder, RouteNextHopBuilder};

use crate::world::{World, append, edit, index_of, inside, on_node, set_link, set_up};

/// An uplink with these addresses; up, and with somebody at the other end.
fn uplink(name: &str, addresses: &[&str]) -> u32 {
    let other_end = format!("{name}-peer");
    edit(None, async |handle| {
        handle.link().add(LinkVeth::new(name, &other_end).build()).execute().await.unwrap();
        let index = index_of(name).unwrap();
        set_up(&handle, index).await;
        set_up(&handle, index_of(&other_end).unwrap()).await;
        for address in addresses {
            let (ip, length) = address.split_once('/').unwrap();
            let add = handle.address().add(index, ip.parse().unwrap(), length.parse().unwrap());
            add.execute().await.unwrap();
        }
        index
    })
}

fn default_via(gateway: &str, ifindex: u32, metric: u32, source: Option<Ipv4Addr>) {
    edit(None, async |handle| {
        let route = match gateway.parse().unwrap() {
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(gateway)
                .output_interface(ifindex)
                .priority(metric)
                .build(),
            IpAddr::V4(gateway) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(ifindex);
                let route = route.priority(metric);
                source.map_or(route.clone(), |source| route.pref_source(source)).build()
            }
        };
        handle.route().add(route).execute().await.unwrap();
    });
}

fn address(ifname: &str, address: &str) -> InterfaceAddress {
    let passing = false;
    InterfaceAddress { ifname: IfName::parse(ifname).unwrap(), address: address.parse().unwrap(), passing }
}

async fn facts(world: &World) -> NodeFacts {
    world.kernel.node().await.unwrap()
}

#[test]
fn a_node_without_network_has_no_facts() {
    on_node(async |world| {
        assert_eq!(facts(world).await, NodeFacts::default());
    });
}

#[test]
fn node_facts_are_those_of_the_node_not_of_its_pods() {
    on_node(async |world| {
        let up0 =
            uplink("up0", &["198.51.100.10/24", "198.51.100.11/24", "2001:db8:a::10/64", "fe80::10/64"]);
        let up1 = uplink("up1", &["203.0.113.10/24"]);
        uplink("far", &["169.254.7.7/16"]);
        edit(None, async |handle| {
            let loopback = "2001:db8:ffff::1".parse().unwrap();
            handle.address().add(1, loopback, 128).execute().await.unwrap();
        });
        set_link(&IfName::parse("up0").unwrap(), LinkAttribute::Mtu(1440));
        set_link(&IfName::parse("up1").unwrap(), LinkAttribute::Mtu(9000));
        world.kernel.attach(&world.pod("a", Some("2001:db8::1"), Some("192.0.2.1"))).await.unwrap();

        let found = facts(world).await;
        let expected = [
            address("lo", "2001:db8:ffff::1/128"),
            address("up0", "198.51.100.10/24"),
            InterfaceAddress { passing: true, ..address("up0", "198.51.100.11/24") },
            address("up0", "2001:db8:a::10/64"),
            address("up1", "203.0.113.10/24"),
        ];
        assert_eq!(found.addresses, expected);
        assert_eq!((found.primary4, found.uplink_mtu), (None, None), "no default route yet");

        default_via("203.0.113.1", up1, 100, None);
        let found = facts(world).await;
        assert_eq!((found.primary4, found.uplink_mtu), ("203.0.113.10".parse().ok(), Some(9000)));

        default_via("2001:db8:a::1", up0, 100, None);
        assert_eq!(facts(world).await.uplink_mtu, Some(1440), "IPv6 first");

        default_via("198.51.100.1", up0, 50, "198.51.100.11".parse().ok());
        assert_eq!(
            facts(world).await.primary4,
            "198.51.100.11".parse().ok(),
            "the better route, and its source"
        );
    });
}

#[test]
fn a_default_route_over_several_next_hops_counts() {
    on_node(async |world| {
        let up0 = uplink("up0", &["198.51.100.10/24"]);
        let up1 = uplink("up1", &["203.0.113.10/24"]);
        edit(None, async |handle| {
            let hop = |index, gateway: &str| {
                RouteNextHopBuilder::new_ipv4()
                    .interface(index)
                    .via(gateway.parse().unwrap())
                    .unwrap()
                    .build()
            };
            let hops = vec![hop(up0, "198.51.100.1"), hop(up1, "203.0.113.1")];
            let route = RouteMessageBuilder::<Ipv4Addr>::new().multipath(hops).build();
            handle.route().add(route).execute().await.unwrap();
        });
        let found = facts(world).await;
        assert_eq!((found.primary4, found.uplink_mtu), ("198.51.100.10".parse().ok(), Some(1500)));
    });
}

#[test]
fn a_default_route_is_found_behind_filters_of_strange_addresses() {
    on_node(async |world| {
        let up0 = uplink("up0", &["198.51.100.10/24", "2001:db8:a::10/64"]);
        default_via("198.51.100.1", up0, 100, None);
        default_via("2001:db8:a::1", up0, 100, None);
        set_link(&IfName::parse("up0").unwrap(), LinkAttribute::Mtu(1440));
        let plain = facts(world).await;
        assert_eq!((plain.primary4, plain.uplink_mtu), ("198.51.100.10".parse().ok(), Some(1440)));
        let kinds = [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit];
        for (length, kind) in (6u8..).zip(kinds) {
            let nets = [
                RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(Ipv6Addr::UNSPECIFIED, length)
                    .build(),
                RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(Ipv4Addr::UNSPECIFIED, length)
                    .build(),
            ];
            for mut route in nets {
                route.header.kind = kind;
                append(route);
            }
            assert_eq!(facts(world).await, plain, "{kind:?}");
        }
    });
}

fn setting(name: &str) -> String {
    inside(None, || std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap().trim().to_owned())
}

#[test]
fn a_node_is_prepared_once() {
    on_node(async |world| {
        uplink("up0", &["2001:db8:a::10/64"]);
        inside(None, || {
            for (name, value) in [
                ("ipv6/conf/all/forwarding", "0"),
                ("ipv4/ip_forward", "0"),
                ("ipv4/conf/default/forwarding", "0"),
                ("ipv6/conf/up0/accept_ra", "1"),
            ] {
                std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
            }
        });
        let notices = world.kernel.prepare_node().await.unwrap();
        assert_eq!(notices[0], "net.ipv6.conf.up0.accept_ra was 1, set to 2");
        assert!(notices.contains(&"net.ipv6.conf.all.forwarding was 0, set to 1".to_owned()), "{notices:#?}");
        for name in [
            "ipv6/conf/all/forwarding",
            "ipv6/conf/default/forwarding",
            "ipv6/conf/up0/forwarding",
            "ipv4/ip_forward",
            "ipv4/conf/default/forwarding",
            "ipv6/conf/default/ignore_routes_with_linkdown",
            "ipv4/conf/default/ignore_routes_with_linkdown",
        ] {
            assert_eq!(setting(name), "1", "{name}");
        }
        assert_eq!(setting("ipv6/conf/default/accept_ra"), "1", "pods must not advertise routers");
        assert_eq!(world.kernel.prepare_node().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn kube_proxy_in_ipvs_mode_is_known_by_its_interface() {
    on_node(async |world| {
        uplink("up0", &[]);
        assert!(!facts(world).await.ipvs);
        uplink("kube-ipvs0", &[]);
        assert!(facts(world).await.ipvs);
    });
}
