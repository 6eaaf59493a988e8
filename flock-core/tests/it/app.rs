//! ADD, DEL, CHECK and GC over fakes: what a runtime can do to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use flock_core::app::{AttachError, AttachRequest, CheckError};
use flock_core::config::ClaimSpec;
use flock_core::ipam::{Addresses, Phase};
use flock_core::ports::{NodeConfigView, NodeFacts, Retry};
use flock_core::selector::LabelSelectorSpec;
use flock_core::testing::{KernelCall, pod_view};

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
