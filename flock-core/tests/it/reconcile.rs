//! What follows from the configuration and from what the node is: pools, routes, peers, status.

use flock_core::app::{Configured, RoutesSynced};
use flock_core::ports::{InterfaceAddress, NodeFacts, PeerState, PeerStatus};
use flock_core::route::RouteProtocol;

use crate::world::*;

#[tokio::test]
async fn a_default_route_that_is_gone_or_leads_elsewhere_does_not_change_the_router_id() {
    let world = World::new();
    let own = |ifname: &str, address: &str| InterfaceAddress {
        ifname: ifname.parse().unwrap(),
        address: address.parse().unwrap(),
        passing: false,
    };
    let facts = NodeFacts {
        addresses: vec![own("up0", "192.0.2.250/24"), own("up1", "198.51.100.250/24")],
        primary4: Some("192.0.2.250".parse().unwrap()),
        ..NodeFacts::default()
    };
    world.kernel.set_node(facts.clone());
    let node = world.start().await;
    node.sync_routing().await.unwrap();
    let router_id = || world.routing.applied().last().unwrap().router_id.to_string();
    assert_eq!(router_id(), "192.0.2.250");
    world.kernel.set_node(NodeFacts { primary4: None, ..facts.clone() });
    node.sync_facts().await.unwrap();
    node.sync_routing().await.unwrap();
    assert_eq!(router_id(), "192.0.2.250", "the address is still there");
    let other = NodeFacts { primary4: Some("198.51.100.250".parse().unwrap()), ..facts.clone() };
    world.kernel.set_node(other.clone());
    node.sync_facts().await.unwrap();
    node.sync_routing().await.unwrap();
    assert_eq!(router_id(), "192.0.2.250", "one of two uplinks has failed, and the address is still there");
    let addresses = vec![own("up1", "198.51.100.250/24")];
    world.kernel.set_node(NodeFacts { addresses, ..other });
    node.sync_facts().await.unwrap();
    node.sync_routing().await.unwrap();
    assert_eq!(router_id(), "198.51.100.250", "the address is gone");
    world.kernel.set_node(NodeFacts { primary4: None, addresses: vec![], ..facts });
    node.sync_facts().await.unwrap();
    node.sync_routing().await.unwrap();
    assert_ne!(router_id(), "198.51.100.250", "all are gone");
}

#[tokio::test]
async fn a_bad_configuration_is_refused_and_the_last_good_one_stays() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.configure(&["2001:db8:1::1/64"], &[]);
    assert!(matches!(node.sync_config(), Configured::Refused(_)));
    assert_eq!(node.sync_config(), Configured::Unchanged, "said once");
    assert_eq!(node.readiness(), Ok(()));
    add(&node, "c2", &request(None)).await.unwrap();
    world.pods.set_node_config(None);
    assert_eq!(node.sync_config(), Configured::Missing);
    assert_eq!(node.readiness(), Ok(()));
}

#[tokio::test]
async fn where_the_first_configuration_is_refused_the_last_good_one_of_an_earlier_run_is_in_force() {
    let world = World::new();
    world.configure(&["2001:db8:1::1/64"], &[]);
    world.pods.set_last_good(Some(spec(&["2001:db8:2::/64"], &[])));
    let node = world.start().await;
    assert_eq!(node.readiness(), Ok(()));
    let pool = "2001:db8:2::/64".parse::<ipnet::Ipv6Net>().unwrap();
    assert!(pool.contains(&add(&node, "c1", &request(None)).await.unwrap().addresses.v6.unwrap()));
    let report = node.report(NOW).await.status;
    let accepted = report.conditions.iter().find(|it| it.kind == "ConfigAccepted").unwrap();
    assert!(!accepted.status && accepted.message.contains("2001:db8:1::1/64"), "{}", accepted.message);
    world.configure(&["2001:db8:1::/64"], &[]);
    assert_eq!(node.sync_config(), Configured::Changed);
    world.configure(&["2001:db8:1::1/64"], &[]);
    node.sync_config();
    let pool = "2001:db8:1::/64".parse::<ipnet::Ipv6Net>().unwrap();
    assert!(pool.contains(&add(&node, "c2", &request(None)).await.unwrap().addresses.v6.unwrap()));
}

#[tokio::test]
async fn pods_keep_addresses_that_a_new_configuration_does_not_cover() {
    let world = World::new();
    let node = world.start().await;
    let before = add(&node, "c1", &request(None)).await.unwrap().addresses;
    node.sync_routes().await.unwrap();
    world.configure(&["2001:db8:2::/64"], &["198.51.100.0/24"]);
    assert_eq!(node.sync_config(), Configured::Changed);
    node.sync_routes().await.unwrap();
    let protocol_of = |prefix: String| {
        world.kernel.routes().into_iter().find(|r| r.destination.to_string() == prefix).map(|r| r.protocol)
    };
    assert_eq!(protocol_of("2001:db8:2::/64".to_owned()), Some(RouteProtocol::Announce));
    assert_eq!(protocol_of("2001:db8:1::/64".to_owned()), None, "the old aggregate is withdrawn");
    let own = format!("{}/128", before.v6.unwrap());
    assert_eq!(protocol_of(own), Some(RouteProtocol::Announce), "the pod is announced on its own");
    assert_eq!(add(&node, "c1", &request(None)).await.unwrap().addresses, before);
    let after = add(&node, "c2", &request(None)).await.unwrap().addresses;
    assert_eq!(after.v4, Some("198.51.100.2".parse().unwrap()));
}

#[tokio::test]
async fn an_unchanged_state_writes_no_route() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    node.sync_routes().await.unwrap();
    let writes = world.kernel.route_writes();
    let RoutesSynced::Done(diff) = node.sync_routes().await.unwrap() else { panic!("not configured") };
    assert!(diff.is_empty());
    assert_eq!(world.kernel.route_writes(), writes);
}

#[tokio::test]
async fn routes_of_an_earlier_run_stay_until_there_is_a_configuration() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    node.sync_routes().await.unwrap();
    let before = world.kernel.routes();
    world.pods.set_node_config(None);
    let node = world.start().await;
    assert_eq!(node.sync_routes().await.unwrap(), RoutesSynced::NotConfigured);
    assert_eq!(world.kernel.routes(), before);
}

#[tokio::test]
async fn addresses_of_the_node_itself_are_never_given_away() {
    let world = World::new();
    world.configure(&[], &["192.0.2.0/29"]);
    let own = InterfaceAddress {
        ifname: "up0".parse().unwrap(),
        address: "192.0.2.2/29".parse().unwrap(),
        passing: false,
    };
    world.kernel.set_node(NodeFacts { addresses: vec![own], ..NodeFacts::default() });
    let node = world.start().await;
    let attached = add(&node, "c1", &request(None)).await.unwrap();
    assert_eq!(attached.addresses.v4, Some("192.0.2.3".parse().unwrap()));
}

#[tokio::test]
async fn a_pool_that_is_a_network_of_the_node_itself_gets_no_route() {
    let world = World::new();
    world.configure(&["2001:db8:1::/64"], &["192.0.2.0/29", "198.51.100.0/24"]);
    let own = |address: &str| InterfaceAddress {
        ifname: "up0".parse().unwrap(),
        address: address.parse().unwrap(),
        passing: false,
    };
    // Of IPv6 the kernel's own route comes first; the network of the node may hold a pool.
    let addresses = vec![own("192.0.2.2/29"), own("198.51.100.2/23"), own("2001:db8:1::2/64")];
    world.kernel.set_node(NodeFacts { addresses, ..NodeFacts::default() });
    let node = world.start().await;
    let pools = || -> Vec<String> {
        world.kernel.routes().iter().map(|route| route.destination.to_string()).collect()
    };
    for _ in 0..2 {
        let error = node.sync_routes().await.unwrap_err().to_string();
        assert!(error.starts_with("192.0.2.0/29 is a network of the node itself"), "{error}");
        assert_eq!(pools(), ["198.51.100.0/24", "2001:db8:1::/64"], "all others are written");
    }
    world.kernel.set_node(NodeFacts::default());
    node.sync_facts().await.unwrap();
    node.sync_routes().await.unwrap();
    assert_eq!(pools(), ["192.0.2.0/29", "198.51.100.0/24", "2001:db8:1::/64"]);
}

#[tokio::test]
async fn a_session_starts_from_the_address_on_the_peers_subnet() {
    let world = World::new();
    let own = InterfaceAddress {
        ifname: "up0".parse().unwrap(),
        address: "2001:db8:ffff::2/64".parse().unwrap(),
        passing: false,
    };
    world.kernel.set_node(NodeFacts { addresses: vec![own], ..NodeFacts::default() });
    let node = world.start().await;
    node.sync_routing().await.unwrap();
    let applied = world.routing.applied();
    assert_eq!(applied.last().unwrap().peers[0].local, Some("2001:db8:ffff::2".parse().unwrap()));
}

#[tokio::test]
async fn the_routing_condition_holds_only_once_the_daemon_has_taken_the_configuration_over() {
    let world = World::new();
    world.configure(&["2001:db8:1::/64"], &[]);
    let node = world.start().await;
    let condition = async || {
        let conditions = node.report(NOW).await.status.conditions;
        let condition =
            conditions.into_iter().find(|condition| condition.kind == "RoutingConfigured").unwrap();
        (condition.status, condition.reason)
    };
    assert_eq!(condition().await, (false, "Pending".to_owned()));
    world.routing.set_reachable(false);
    node.sync_routing().await.unwrap_err();
    assert_eq!(condition().await, (false, "Failed".to_owned()));
    world.routing.set_reachable(true);
    node.sync_routing().await.unwrap();
    assert_eq!(condition().await, (true, "Applied".to_owned()));
    world.configure(&["2001:db8:1::/64"], &["192.0.2.0/24"]);
    node.sync_config();
    node.sync_routing().await.unwrap();
    assert_eq!(condition().await, (false, "PoolsUnannounced".to_owned()), "IPv4 pools, no IPv4 peer");
}

#[tokio::test]
async fn a_configured_peer_shows_whatever_becomes_of_the_routing_daemon() {
    let world = World::new();
    let node = world.start().await;
    let sessions = async || {
        let sessions = node.report(NOW).await.status.bgp;
        sessions.into_iter().map(|it| (it.peer.to_string(), it.state)).collect::<Vec<_>>()
    };
    let peer = || "2001:db8:ffff::1".to_owned();
    world.routing.set_reachable(false);
    assert_eq!(sessions().await, [(peer(), PeerState::Down)]);
    world.routing.set_reachable(true);
    node.sync_routing().await.unwrap();
    world.routing.set_session(PeerStatus {
        peer: peer().parse().unwrap(),
        state: PeerState::Established,
        since: "12:00:00".to_owned(),
        last_error: None,
        imported: 0,
        exported: 2,
    });
    assert_eq!(sessions().await, [(peer(), PeerState::Established)]);
}
