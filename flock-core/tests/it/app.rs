//! The use cases over fakes: what a runtime, a crash and the cluster can do to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flock_core::app::{AttachError, AttachRequest, CheckError, Configured, RoutesSynced};
use flock_core::config::{ClaimSpec, LabelSelectorSpec};
use flock_core::ipam::{Addresses, Phase};
use flock_core::ports::{
    InterfaceAddress, NodeConfigView, NodeFacts, PeerState, PeerStatus, Retry, StateStore,
};
use flock_core::route::RouteProtocol;
use flock_core::testing::{FakeStore, KernelCall, pod_view};

use crate::world::*;

#[tokio::test]
async fn an_added_pod_is_durable_before_the_runtime_hears_of_it() {
    let world = World::new();
    let node = world.start().await;
    let attached = add(&node, "c1", &request(Some("ns/p"))).await.unwrap();
    assert_eq!(attached.addresses.v4, Some("192.0.2.2".parse().unwrap()));
    assert!(attached.addresses.v6.is_some());
    assert_eq!(world.saved().await, vec![("c1/eth0".to_owned(), Phase::Committed)]);
    assert_eq!(world.kernel.links().len(), 1);
}

#[tokio::test]
async fn the_same_add_twice_gives_the_same_result() {
    let world = World::new();
    let node = world.start().await;
    let first = add(&node, "c1", &request(None)).await.unwrap();
    let second = add(&node, "c1", &request(None)).await.unwrap();
    assert_eq!(first.addresses, second.addresses);
    assert_eq!(first.link.host.mac, second.link.host.mac);
    assert_eq!(world.saved().await.len(), 1);
}

#[tokio::test]
async fn a_repeated_add_leaves_a_whole_link_alone_and_mends_a_broken_one() {
    let world = World::new();
    let node = world.start().await;
    let first = add(&node, "c1", &request(None)).await.unwrap();
    // By now a new pod would get another MTU, but this one is running.
    world.kernel.set_node(NodeFacts { uplink_mtu: Some(9000), ..NodeFacts::default() });
    node.sync_facts().await.unwrap();
    let attaches = || world.kernel.calls().iter().filter(|call| **call == KernelCall::Attach).count();
    let before = attaches();
    let second = add(&node, "c1", &request(None)).await.unwrap();
    assert_eq!((second.link.host.mtu, attaches()), (first.link.host.mtu, before));
    world.kernel.break_route(&"192.0.2.2/32".parse().unwrap());
    add(&node, "c1", &request(None)).await.unwrap();
    assert_eq!(attaches(), before + 1);
    assert!(world.kernel.routes().iter().any(|route| route.destination.to_string() == "192.0.2.2/32"));
}

#[tokio::test]
async fn a_del_leaves_nothing_and_a_second_one_succeeds() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    del(&node, "c1").await.unwrap();
    world.assert_empty(&node).await;
    del(&node, "c1").await.unwrap();
    del(&node, "never-seen").await.unwrap();
}

#[tokio::test]
async fn a_failed_add_leaves_nothing() {
    for failing in ["attach", "first save", "second save"] {
        let world = World::new();
        let node = world.start().await;
        match failing {
            "attach" => world.kernel.fail_next(KernelCall::Attach),
            "first save" => world.store.fail_next(),
            _ => world.store.fail_after(1),
        }
        let error = add(&node, "c1", &request(None)).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Later, "{failing}");
        world.assert_empty(&node).await;
        add(&node, "c1", &request(None)).await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_repeat_keeps_the_addresses_of_a_running_pod() {
    let world = World::new();
    let node = world.start().await;
    let first = add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.break_route(&"192.0.2.2/32".parse().unwrap());
    world.kernel.fail_next(KernelCall::Attach);
    add(&node, "c1", &request(None)).await.unwrap_err();
    assert_eq!(world.saved().await, vec![("c1/eth0".to_owned(), Phase::Committed)]);
    assert_eq!(add(&node, "c1", &request(None)).await.unwrap().addresses, first.addresses);
}

#[tokio::test]
async fn an_abandoned_add_is_taken_back() {
    let world = World::new();
    let node = world.start().await;
    let guard = node.lock(id("c1")).await;
    let error = node.attach(&guard, &request(None), &|| NOW, 7, &|| true).await.unwrap_err();
    assert!(matches!(error, AttachError::Abandoned), "{error}");
    drop(guard);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn an_abandoned_repeat_keeps_what_was_there() {
    for broken in [false, true] {
        let world = World::new();
        let node = world.start().await;
        let first = add(&node, "c1", &request(None)).await.unwrap();
        if broken {
            world.kernel.break_route(&"192.0.2.2/32".parse().unwrap());
        }
        // Told at the last moment at which it counts.
        let asked = AtomicUsize::new(0);
        let late = || !broken || asked.fetch_add(1, Ordering::Relaxed) == 1;
        let guard = node.lock(id("c1")).await;
        let repeat = AttachRequest { netns: netns("c1"), ..request(None) };
        let error = node.attach(&guard, &repeat, &|| NOW, 7, &late).await.unwrap_err();
        assert!(matches!(error, AttachError::Abandoned), "{error}");
        let identity = world.kernel.link(&id("c1")).unwrap().identity.unwrap();
        assert_eq!((identity.attachment, identity.addresses), (id("c1"), first.addresses));
        assert_eq!(world.saved().await, vec![("c1/eth0".to_owned(), Phase::Committed)]);
    }
}

#[tokio::test]
async fn addresses_of_a_link_that_cannot_be_removed_stay_held() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.fail_next(KernelCall::Detach);
    del(&node, "c1").await.unwrap_err();
    assert_eq!(world.saved().await.len(), 1);
    del(&node, "c1").await.unwrap();
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn a_release_that_cannot_be_written_is_written_later() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.store.fail_next();
    del(&node, "c1").await.unwrap();
    assert_eq!(world.saved().await.len(), 1);
    world.store.fail_next();
    node.catch_up().await.unwrap_err();
    node.catch_up().await.unwrap();
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn without_a_configuration_an_add_is_to_be_tried_again() {
    let world = World::new();
    world.pods.set_node_config(None);
    let node = world.start().await;
    let error = add(&node, "c1", &request(None)).await.unwrap_err();
    assert_eq!((error.retry(), error.label()), (Retry::Later, "not_configured"));
    assert_eq!(error.to_string(), "node n1 has no NodeConfig yet: create one named n1");
    assert_eq!(node.readiness(), Err("there is no NodeConfig named n1".to_owned()));
}

#[tokio::test]
async fn annotations_choose_the_families() {
    let cases: [(&str, &str, bool, bool); 3] =
        [("ipv4", "false", true, false), ("ipv6", " FALSE ", false, true), ("ipv4", "true", true, true)];
    for (key, value, v6, v4) in cases {
        let world = World::new();
        let mut pod = pod_view("ns/p");
        pod.annotations.insert(format!("flock.fritzlab.net/{key}"), value.to_owned());
        world.pods.set_pod(pod);
        let node = world.start().await;
        let Addresses { v6: got6, v4: got4 } =
            add(&node, "c1", &request(Some("ns/p"))).await.unwrap().addresses;
        assert_eq!((got6.is_some(), got4.is_some()), (v6, v4), "{key}: {value}");
    }
}

#[tokio::test]
async fn a_refused_annotation_fails_the_add_and_tells_the_owner() {
    let world = World::new();
    let node = world.start().await;
    let annotations = BTreeMap::from([("flock.fritzlab.net/ipv4".to_owned(), "no".to_owned())]);
    let asked = AttachRequest { annotations: Some(annotations), ..request(Some("ns/p")) };
    let error = add(&node, "c1", &asked).await.unwrap_err();
    assert_eq!((error.retry(), error.label()), (Retry::Never, "annotation"));
    let events = world.status.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].message, error.to_string());
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn annotations_of_a_pod_with_another_uid_do_not_count() {
    let world = World::new();
    let mut stale = pod_view("ns/p");
    stale.uid = Some("uid-before".parse().unwrap());
    stale.annotations.insert("flock.fritzlab.net/ipv4".to_owned(), "false".to_owned());
    world.pods.set_pod(stale.clone());
    let mut current = stale;
    current.uid = Some("uid-now".parse().unwrap());
    current.annotations = BTreeMap::from([("flock.fritzlab.net/ipv6".to_owned(), "false".to_owned())]);
    world.pods.set_ahead_of_view(current.key.clone(), Some(current));
    let node = world.start().await;
    let asked = AttachRequest { uid: Some("uid-now".parse().unwrap()), ..request(Some("ns/p")) };
    let addresses = add(&node, "c1", &asked).await.unwrap().addresses;
    assert_eq!((addresses.v6.is_some(), addresses.v4.is_some()), (false, true));
}

#[tokio::test]
async fn an_unreadable_pod_is_to_be_tried_again() {
    let world = World::new();
    world.pods.fail_pod(Some("the API server is away"));
    let node = world.start().await;
    let error = add(&node, "c1", &request(Some("ns/p"))).await.unwrap_err();
    assert_eq!((error.retry(), error.label()), (Retry::Later, "pod_source"));
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn the_mtu_is_asked_for_else_the_uplinks_else_ethernets() {
    for (asked, uplink, want) in
        [(Some(1400), Some(9000), 1400), (None, Some(9000), 9000), (None, None, 1500)]
    {
        let world = World::new();
        world.kernel.set_node(NodeFacts { uplink_mtu: uplink, ..NodeFacts::default() });
        let node = world.start().await;
        let attached = add(&node, "c1", &AttachRequest { mtu: asked, ..request(None) }).await.unwrap();
        assert_eq!(attached.link.host.mtu, want);
    }
    let world = World::new();
    let node = world.start().await;
    let error = add(&node, "c1", &AttachRequest { mtu: Some(68), ..request(None) }).await.unwrap_err();
    assert_eq!(error.to_string(), "mtu 68 is out of range: use 1280 (the least IPv6 allows) to 65535");
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn a_restart_keeps_every_pod_and_every_address() {
    let world = World::new();
    let node = world.start().await;
    let mut held = Vec::new();
    for container in ["c1", "c2", "c3"] {
        held.push(add(&node, container, &request(Some("ns/p"))).await.unwrap().addresses);
    }
    drop(node);
    let node = world.start().await;
    for (container, addresses) in ["c1", "c2", "c3"].into_iter().zip(&held) {
        assert_eq!(add(&node, container, &request(Some("ns/p"))).await.unwrap().addresses, *addresses);
    }
    let fresh = add(&node, "c4", &request(None)).await.unwrap().addresses;
    assert!(held.iter().all(|held| held.v4 != fresh.v4 && held.v6 != fresh.v6));
}

#[tokio::test]
async fn a_restart_without_a_state_file_knows_the_pods_from_the_kernel() {
    let world = World::new();
    let node = world.start().await;
    let held = add(&node, "c1", &request(Some("ns/p"))).await.unwrap().addresses;
    let world = World { store: Arc::new(FakeStore::default()), ..world };
    let (node, notices) = world.start_in("boot-1").await;
    assert_eq!(notices, vec!["c1/eth0 is taken over from the kernel"]);
    let report = node.report(NOW).await;
    assert_eq!(report.allocations[0].addresses, held.iter().collect::<Vec<_>>());
    assert_eq!(report.allocations[0].pod.as_ref().unwrap().to_string(), "ns/p");
    assert_eq!(world.saved().await, vec![("c1/eth0".to_owned(), Phase::Committed)]);
}

#[tokio::test]
async fn an_add_that_a_crash_cut_off_is_kept_with_its_link_and_released_without() {
    for linked in [true, false] {
        let world = World::new();
        let node = world.start().await;
        add(&node, "c1", &request(None)).await.unwrap();
        // The crash came before the commit reached the disk.
        let mut snapshot = world.store.load().await.unwrap().unwrap();
        snapshot.allocations[0].phase = Phase::Pending;
        snapshot.generation += 1;
        world.store.save(snapshot).await.unwrap();
        if !linked {
            world.kernel.remove_link(&id("c1"));
        }
        let node = world.start().await;
        let held = node.report(NOW).await.allocations;
        assert_eq!(held.len(), usize::from(linked), "linked: {linked}");
        assert!(held.iter().all(|held| held.phase == Phase::Committed));
    }
}

#[tokio::test]
async fn a_reboot_drops_the_allocations_of_the_boot_before() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.remove_link(&id("c1"));
    let (node, notices) = world.start_in("boot-2").await;
    assert_eq!(notices, vec!["the node was rebooted: 1 allocations dropped"]);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn a_corrupt_state_file_does_not_stop_the_node() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.store.corrupt();
    let (node, notices) = world.start_in("boot-1").await;
    assert!(notices[0].contains("allocations are rebuilt from the kernel"), "{notices:?}");
    assert_eq!(node.report(NOW).await.allocations.len(), 1);
}

#[tokio::test]
async fn the_kernel_wins_where_the_state_file_gives_an_address_to_somebody_else() {
    let world = World::new();
    let node = world.start().await;
    let held = add(&node, "linked", &request(None)).await.unwrap().addresses;
    let mut snapshot = world.store.load().await.unwrap().unwrap();
    snapshot.allocations[0].attachment = id("unlinked");
    snapshot.generation += 1;
    world.store.save(snapshot).await.unwrap();
    let node = world.start().await;
    let report = node.report(NOW).await.allocations;
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].attachment, id("linked"));
    assert_eq!(report[0].addresses, held.iter().collect::<Vec<_>>());
}

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
async fn check_passes_after_add_and_names_what_drifted() {
    let world = World::new();
    let node = world.start().await;
    let addresses: Vec<IpAddr> = add(&node, "c1", &request(None)).await.unwrap().addresses.iter().collect();
    check(&node, "c1", addresses.clone()).await.unwrap();
    let error = check(&node, "c1", addresses[..1].to_vec()).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.2 is allocated but not in the previous result"), "{error}");
    world.kernel.break_route(&"192.0.2.2/32".parse().unwrap());
    let error = check(&node, "c1", addresses.clone()).await.unwrap_err();
    assert!(error.to_string().contains("host route 192.0.2.2/32"), "{error}");
    world.kernel.remove_link(&id("c1"));
    let error = check(&node, "c1", addresses.clone()).await.unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
    assert!(matches!(check(&node, "c2", addresses).await, Err(CheckError::Unknown(_))));
}

#[tokio::test]
async fn gc_removes_what_is_not_kept_in_the_state_or_in_the_kernel() {
    let world = World::new();
    let node = world.start().await;
    for container in ["c1", "c2", "c3"] {
        add(&node, container, &request(None)).await.unwrap();
    }
    let removed = node.gc(&BTreeSet::from([id("c2")]), NOW).await.unwrap();
    assert_eq!(removed, vec![id("c1"), id("c3")]);
    assert_eq!(world.saved().await, vec![("c2/eth0".to_owned(), Phase::Committed)]);
    assert_eq!(world.kernel.links().len(), 1);
}

#[tokio::test]
async fn gc_goes_on_after_an_error_and_reports_it() {
    let world = World::new();
    let node = world.start().await;
    for container in ["c1", "c2"] {
        add(&node, container, &request(None)).await.unwrap();
    }
    world.kernel.fail_next(KernelCall::Detach);
    let error = node.gc(&BTreeSet::new(), NOW).await.unwrap_err();
    assert!(error.to_string().starts_with("not removed: c1/eth0"), "{error}");
    assert_eq!(world.saved().await, vec![("c1/eth0".to_owned(), Phase::Committed)]);
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

#[tokio::test]
async fn what_is_not_known_yet_is_told_to_the_runtime_and_not_to_the_owner() {
    let world = World::new();
    let label = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    let mut claimed = spec(&["2001:db8:1::/64"], &[]);
    claimed.claims = vec![ClaimSpec {
        cidrs: vec!["2001:db8:a::/64".to_owned()],
        namespace_selector: LabelSelectorSpec { match_labels: label("dns"), ..Default::default() },
        ..Default::default()
    }];
    world.pods.set_node_config(Some(NodeConfigView { generation: 1, spec: Ok(claimed) }));
    let node = world.start().await;
    let annotations = [("flock.fritzlab.net/anycast".to_owned(), "2001:db8:a::53".to_owned())];
    let asking = AttachRequest { annotations: Some(BTreeMap::from(annotations)), ..request(Some("ns/a")) };
    let error = add(&node, "a", &asking).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Later, "{error}");
    assert_eq!(world.status.events(), []);
    world.pods.set_namespace("ns", label("web"));
    let error = add(&node, "a", &asking).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never, "{error}");
    assert_eq!(world.status.events().len(), 1);
    world.pods.set_namespace("ns", label("dns"));
    add(&node, "a", &asking).await.unwrap();
}
