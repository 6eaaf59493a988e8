//! What is left of pods that nobody deletes: what goes, when, and what never does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flock_core::app::{AttachRequest, Node};
use flock_core::ids::AttachmentId;
use flock_core::ipam::{Addresses, Phase};
use flock_core::leak::{AT_ONCE, GRACE, Leak};
use flock_core::ports::{HostLink, LinkIdentity, Netlink, PodLink};
use flock_core::testing::KernelCall;
use flock_core::time::Timestamp;

use crate::world::*;

fn at(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

async fn look(node: &Node, seconds: u64) -> Vec<Leak> {
    node.sync_links(GRACE, &|| at(seconds)).await.unwrap().swept
}

/// Every 10 s for two minutes.
async fn looks(node: &Node) -> Vec<Leak> {
    let mut swept = Vec::new();
    for seconds in (0..=120).step_by(10) {
        swept.extend(look(node, seconds).await);
    }
    swept
}

fn addresses(container: &str) -> Leak {
    Leak::Allocation(id(container))
}

/// A link that the node knows nothing of.
async fn stray(world: &World, container: &str) -> HostLink {
    let addresses = Addresses { v6: None, v4: container.replace('c', "192.0.2.7").parse().ok() };
    let identity = LinkIdentity { attachment: id(container), pod: None, uid: None, addresses, more: false };
    let link = PodLink {
        identity,
        netns: netns(container),
        mtu: 1500,
        extra: Vec::new(),
        anycast: Vec::new(),
        loopback_runs: false,
        announced: BTreeSet::new(),
    };
    let host = world.kernel.attach(&link).await.unwrap().host;
    HostLink { ifname: host.ifname, ifindex: host.ifindex, attachment: Some(id(container)) }
}

async fn held(node: &Node) -> Vec<AttachmentId> {
    node.report(NOW).await.allocations.into_iter().map(|held| held.attachment).collect()
}

#[tokio::test]
async fn addresses_of_a_pod_that_is_gone_are_released_after_the_grace_period_and_rest() {
    let world = World::new();
    let node = world.start().await;
    let first = add(&node, "c1", &request(None)).await.unwrap().addresses;
    world.kernel.remove_netns(&netns("c1"));
    for (seconds, swept) in
        [(0, vec![]), (30, vec![]), (59, vec![]), (60, vec![addresses("c1")]), (70, vec![])]
    {
        assert_eq!(look(&node, seconds).await, swept, "after {seconds} s");
    }
    world.assert_empty(&node).await;
    del(&node, "c1").await.unwrap();
    world.kernel.restore_netns(&netns("c1"));
    let again = add(&node, "c1", &request(None)).await.unwrap().addresses;
    assert!(again.v4 != first.v4 && again.v6 != first.v6, "{again:?}");
    assert_eq!(looks(&node).await, []);
}

#[tokio::test]
async fn a_pod_keeps_its_addresses_when_somebody_deletes_its_link() {
    let world = World::new();
    let node = world.start().await;
    let given: Vec<IpAddr> = add(&node, "c1", &request(None)).await.unwrap().addresses.iter().collect();
    world.kernel.remove_link(&id("c1"));
    assert_eq!(looks(&node).await, []);
    let error = check(&node, "c1", given.clone()).await.unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
    // Started again in another namespace, without a DEL.
    let guard = node.lock(id("c1")).await;
    let elsewhere = AttachRequest { netns: netns("elsewhere"), ..request(None) };
    let again = node.attach(&guard, &elsewhere, &|| NOW, 7, &|| false).await.unwrap();
    drop(guard);
    assert_eq!(again.addresses.iter().collect::<Vec<_>>(), given);
    world.kernel.remove_netns(&netns("c1"));
    world.kernel.remove_link(&id("c1"));
    assert_eq!(looks(&node).await, []);
    world.kernel.remove_netns(&netns("elsewhere"));
    assert_eq!(looks(&node).await, [addresses("c1")]);
}

#[tokio::test]
async fn a_link_that_nobody_owns_is_removed_and_one_of_a_pod_is_not() {
    let world = World::new();
    let node = world.start().await;
    let named = stray(&world, "c1").await;
    let nameless = HostLink { attachment: None, ..stray(&world, "c2").await };
    world.kernel.remove_alias(&id("c2"));
    add(&node, "pod", &request(None)).await.unwrap();
    world.kernel.remove_alias(&id("pod"));
    let swept: BTreeSet<Leak> = looks(&node).await.into_iter().collect();
    assert_eq!(swept, BTreeSet::from([Leak::Link(named), Leak::Link(nameless)]));
    assert_eq!(world.kernel.links().len(), 1);
    assert!(world.kernel.link(&id("pod")).is_some());
}

#[tokio::test]
async fn what_a_failed_add_could_not_take_back_goes_with_the_pod() {
    let world = World::new();
    let node = world.start().await;
    world.kernel.fail_next(KernelCall::Attach);
    world.kernel.fail_next(KernelCall::Detach);
    add(&node, "c1", &request(None)).await.unwrap_err();
    assert_eq!(world.saved().await, [("c1/eth0".to_owned(), Phase::Pending)]);
    assert_eq!(looks(&node).await, [], "the runtime may try again");
    world.kernel.remove_netns(&netns("c1"));
    assert_eq!(looks(&node).await, [addresses("c1")]);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn an_operation_under_way_keeps_the_sweep_away() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.remove_netns(&netns("c1"));
    look(&node, 0).await;
    let guard = node.lock(id("c1")).await;
    assert_eq!(look(&node, 60).await, []);
    drop(guard);
    assert_eq!(look(&node, 70).await, [], "it starts over");
    assert_eq!(look(&node, 130).await, [addresses("c1")]);
}

/// Does something to the node between the look at everything and the removal.
async fn meanwhile(node: &Node, seconds: u64, something: impl Fn() + Send + Sync) -> Vec<Leak> {
    let clock = || {
        something();
        at(seconds)
    };
    node.sync_links(GRACE, &clock).await.unwrap().swept
}

/// Fakes never wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[tokio::test]
async fn what_is_no_leak_any_more_just_before_its_removal_stays() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    add(&node, "c2", &request(None)).await.unwrap();
    let before = stray(&world, "c3").await;
    for container in ["c1", "c2"] {
        world.kernel.remove_netns(&netns(container));
    }
    look(&node, 0).await;
    let swept = meanwhile(&node, 60, || {
        // An ADD of the one, the namespace of the other, and another link.
        world.kernel.restore_netns(&netns("c1"));
        world.kernel.restore_netns(&netns("c2"));
        now(add(&node, "c1", &request(None))).unwrap();
        world.kernel.remove_link(&id("c3"));
        assert_ne!(now(stray(&world, "c3")), before);
    });
    assert_eq!(swept.await, []);
    assert_eq!(held(&node).await, [id("c1"), id("c2")]);
    for container in ["c1", "c3"] {
        assert!(world.kernel.link(&id(container)).is_some(), "{container}");
    }
}

#[tokio::test]
async fn an_add_that_takes_a_link_over_as_it_is_before_its_turn_comes_keeps_it() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.remove_netns(&netns("c1"));
    let link = stray(&world, "c4").await;
    look(&node, 0).await;
    let annotations = [("addresses", "192.0.2.74"), ("ipv6", "false")];
    let annotations = annotations.map(|(key, value)| (format!("flock.fritzlab.net/{key}"), value.to_owned()));
    let as_stray = AttachRequest { annotations: Some(BTreeMap::from(annotations)), ..request(None) };
    let told_the_time = AtomicUsize::new(0);
    let swept = meanwhile(&node, 60, || {
        // For the second time when the first leak goes.
        if told_the_time.fetch_add(1, Ordering::Relaxed) == 1 {
            now(add(&node, "c4", &as_stray)).unwrap();
        }
    });
    assert_eq!(swept.await, [addresses("c1")]);
    assert_eq!(held(&node).await, [id("c4")]);
    assert_eq!(world.kernel.link(&id("c4")).unwrap().host.ifindex, link.ifindex);
}

#[tokio::test]
async fn an_error_on_one_does_not_stop_the_others_and_it_is_tried_again() {
    for call in [KernelCall::Detach, KernelCall::Inspect] {
        let world = World::new();
        let node = world.start().await;
        for container in ["c1", "c2", "c3"] {
            add(&node, container, &request(None)).await.unwrap();
            world.kernel.remove_netns(&netns(container));
        }
        look(&node, 0).await;
        world.kernel.fail_next(call);
        assert_eq!(look(&node, 60).await, [addresses("c2"), addresses("c3")], "{call:?}");
        assert_eq!(held(&node).await, [id("c1")]);
        look(&node, 70).await;
        assert_eq!(look(&node, 130).await, [addresses("c1")]);
        world.assert_empty(&node).await;
    }
}

#[tokio::test]
async fn namespaces_that_cannot_be_looked_at_may_be_alive() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.remove_netns(&netns("c1"));
    let link = stray(&world, "c2").await;
    world.kernel.fail_all(KernelCall::Gone);
    assert_eq!(looks(&node).await, [Leak::Link(link)]);
    world.kernel.heal();
    assert_eq!(looks(&node).await, [addresses("c1")]);
}

#[tokio::test]
async fn a_sweep_has_a_limit_and_the_next_one_goes_on() {
    let world = World::new();
    let node = world.start().await;
    for n in 0..AT_ONCE + 8 {
        add(&node, &format!("c{n}"), &request(None)).await.unwrap();
        world.kernel.remove_netns(&netns(&format!("c{n}")));
    }
    look(&node, 0).await;
    assert_eq!(look(&node, 60).await.len(), AT_ONCE);
    assert_eq!(look(&node, 70).await.len(), 8);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn a_restart_starts_the_grace_period_over() {
    let world = World::new();
    let node = world.start().await;
    add(&node, "c1", &request(None)).await.unwrap();
    world.kernel.remove_netns(&netns("c1"));
    look(&node, 0).await;
    drop(node);
    let node = world.start().await;
    assert_eq!(look(&node, 60).await, []);
    assert_eq!(look(&node, 120).await, [addresses("c1")]);
}

#[tokio::test]
async fn nothing_is_looked_at_twice_while_nothing_is_suspicious() {
    let world = World::new();
    let node = world.start().await;
    for container in ["c1", "c2"] {
        add(&node, container, &request(None)).await.unwrap();
    }
    world.kernel.bounce_link(&id("c1"));
    let before = world.kernel.calls().len();
    let synced = node.sync_links(GRACE, &|| NOW).await.unwrap();
    assert_eq!(world.kernel.calls()[before..], [KernelCall::TendLinks]);
    assert_eq!((synced.mended.len(), synced.swept), (1, vec![]));
}
