//! The life of an anycast address on a node (interfaces.md section 9), over fakes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use flock_core::app::{AttachRequest, Node, RoutesSynced, Standpoint};
use flock_core::ids::{AttachmentId, PodKey, PodUid};
use flock_core::ipam::{Addresses, Allocation, Phase};
use flock_core::ports::{NetnsPath, PodSource, StateStore};
use flock_core::route::{Member, NextHop, ObservedRoute, RouteDiff, RouteProtocol, Weight};
use flock_core::testing::{KernelCall, pod_view};

use crate::world::{NOW, World, add, check, del, id, request};

const SIX: &str = "2001:db8:a::53";
const FOUR: &str = "203.0.113.53";

/// An ADD of a pod that asks for these anycast addresses.
fn asking(pod: &str, anycast: &str) -> AttachRequest {
    let annotations = [("flock.fritzlab.net/anycast".to_owned(), anycast.to_owned())];
    AttachRequest { annotations: Some(BTreeMap::from(annotations)), ..request(Some(pod)) }
}

fn key(pod: &str) -> PodKey {
    pod.parse().unwrap()
}

impl World {
    /// A Ready pod with both anycast addresses, attached as container of the same name.
    async fn serve(&self, node: &Node, name: &str) {
        let pod = format!("ns/{name}");
        self.pods.set_pod(pod_view(&pod));
        add(node, name, &asking(&pod, &format!("{SIX}, {FOUR}"))).await.unwrap();
        sync(node).await;
    }

    fn set_ready(&self, name: &str, ready: bool) {
        self.pods.edit_pod(&key(&format!("ns/{name}")), |pod| pod.ready = ready);
    }

    fn terminate(&self, name: &str) {
        self.pods.edit_pod(&key(&format!("ns/{name}")), |pod| pod.terminating = true);
    }

    fn route(&self, address: &str) -> Option<ObservedRoute> {
        let address: IpAddr = address.parse().unwrap();
        self.kernel.routes().into_iter().find(|route| route.destination == address.into())
    }

    /// Protocol, and the weight of each container, of the route to an anycast address.
    fn group(&self, address: &str) -> Option<(RouteProtocol, BTreeMap<String, Weight>)> {
        let route = self.route(address)?;
        let Some(NextHop::Group(members)) = route.next_hop else { panic!("{route:?}") };
        let named = |member: &Member| {
            let name = ["a", "b", "c"].into_iter().find(|name| id(name).host_ifname() == member.link);
            (name.unwrap().to_owned(), member.weight)
        };
        Some((route.protocol, members.iter().map(named).collect()))
    }

    /// The groups of both addresses, which are to be the same.
    fn groups(&self) -> Option<(RouteProtocol, BTreeMap<String, Weight>)> {
        let six = self.group(SIX);
        assert_eq!(six, self.group(FOUR));
        six
    }
}

fn members<const N: usize>(members: [(&str, Weight); N]) -> BTreeMap<String, Weight> {
    members.into_iter().map(|(name, weight)| (name.to_owned(), weight)).collect()
}

async fn sync(node: &Node) -> RouteDiff {
    match node.sync_routes().await.unwrap() {
        RoutesSynced::Done(diff) => diff,
        RoutesSynced::NotConfigured => panic!("not configured"),
    }
}

use RouteProtocol::{Announce, Quiet};
use Weight::{Full, Least};

#[tokio::test]
async fn two_pods_sharing_an_ip_are_one_group_that_each_joins_and_leaves_alone() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    assert_eq!(world.groups(), Some((Announce, members([("a", Full)]))));
    world.serve(&node, "b").await;
    assert_eq!(world.groups(), Some((Announce, members([("a", Full), ("b", Full)]))));
    del(&node, "a").await.unwrap();
    sync(&node).await;
    assert_eq!(world.groups(), Some((Announce, members([("b", Full)]))));
    del(&node, "b").await.unwrap();
    sync(&node).await;
    assert_eq!(world.groups(), None);
    world.assert_empty(&node).await;
}

#[tokio::test]
async fn a_member_leads_to_the_pods_own_address_of_that_family() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    let own = node.report(NOW).await.allocations[0].addresses.clone();
    for (anycast, own) in [SIX, FOUR].into_iter().zip(own) {
        let Some(NextHop::Group(members)) = world.route(anycast).unwrap().next_hop else { panic!() };
        assert_eq!(members.iter().map(|member| member.gateway).collect::<Vec<_>>(), [own]);
    }
}

#[tokio::test]
async fn a_pod_gets_no_packets_before_it_is_ready_the_first_time() {
    let world = World::new();
    let node = world.start().await;
    world.pods.set_pod(flock_core::ports::PodView { ready: false, ..pod_view("ns/a") });
    add(&node, "a", &asking("ns/a", SIX)).await.unwrap();
    sync(&node).await;
    assert_eq!(world.group(SIX), None);
    world.set_ready("a", true);
    sync(&node).await;
    assert_eq!(world.group(SIX), Some((Announce, members([("a", Full)]))));
}

#[tokio::test]
async fn a_status_that_is_about_an_earlier_sandbox_of_the_pod_does_not_count() {
    let world = World::new();
    let node = world.start().await;
    let reports = |addresses: Vec<IpAddr>| {
        world.pods.edit_pod(&key("ns/a"), |pod| pod.reported.clone_from(&addresses));
    };
    world.pods.set_pod(pod_view("ns/a"));
    reports(vec!["2001:db8:f001::1".parse().unwrap(), "192.0.2.200".parse().unwrap()]);
    add(&node, "a", &asking("ns/a", SIX)).await.unwrap();
    sync(&node).await;
    assert_eq!(world.group(SIX), None);
    let own: Vec<IpAddr> = node.report(NOW).await.allocations[0].addresses.clone();
    // A kubelet of one family names one of them; one that names none has not spoken of a sandbox.
    for told in [own.clone(), vec![own[1]], Vec::new()] {
        reports(told);
        sync(&node).await;
        assert_eq!(world.group(SIX), Some((Announce, members([("a", Full)]))));
    }
    reports(vec!["2001:db8:f001::1".parse().unwrap()]);
    sync(&node).await;
    assert_eq!(world.group(SIX), Some((Quiet, members([("a", Full)]))));
    del(&node, "a").await.unwrap();
    // The kubelet reports addresses of the first interface, and of that alone.
    let guard = node.lock(AttachmentId::parse("a/net1").unwrap()).await;
    node.attach(&guard, &asking("ns/a", SIX), &|| NOW, 7, &|| false).await.unwrap();
    sync(&node).await;
    assert_eq!(world.route(SIX).unwrap().protocol, Announce);
}

#[tokio::test]
async fn the_last_eligible_pod_leaving_is_one_change_of_protocol_and_keeps_the_route_until_del() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    for leave in [World::set_unready, World::terminate as fn(&World, &str)] {
        leave(&world, "a");
        let diff = sync(&node).await;
        assert_eq!((diff.replace.len(), diff.remove.len()), (2, 0), "one of each family: {diff:?}");
        assert_eq!(world.groups(), Some((Quiet, members([("a", Full)]))));
        assert!(sync(&node).await.is_empty());
        world.pods.set_pod(pod_view("ns/a"));
        sync(&node).await;
        assert_eq!(world.groups(), Some((Announce, members([("a", Full)]))));
    }
    world.terminate("a");
    sync(&node).await;
    del(&node, "a").await.unwrap();
    sync(&node).await;
    assert_eq!(world.groups(), None);
}

impl World {
    fn set_unready(&self, name: &str) {
        self.set_ready(name, false);
    }
}

#[tokio::test]
async fn a_pod_that_leaves_while_others_serve_drains_with_the_least_weight() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    world.set_ready("a", false);
    sync(&node).await;
    assert_eq!(world.groups(), Some((Announce, members([("a", Least), ("b", Full)]))));
    // The last one leaves too: nobody is announced, both keep what is open.
    world.terminate("b");
    sync(&node).await;
    assert_eq!(world.groups(), Some((Quiet, members([("a", Full), ("b", Full)]))));
    // One comes back.
    world.set_ready("a", true);
    sync(&node).await;
    assert_eq!(world.groups(), Some((Announce, members([("a", Full), ("b", Least)]))));
    del(&node, "b").await.unwrap();
    sync(&node).await;
    assert_eq!(world.groups(), Some((Announce, members([("a", Full)]))));
}

#[tokio::test]
async fn a_pod_that_is_being_detached_comes_into_no_group_again() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    for succeeds in [false, true] {
        if !succeeds {
            world.kernel.fail_next(KernelCall::Detach);
        }
        let held = world.kernel.hold_detaches().await;
        let look = async {
            sync(&node).await;
            drop(held);
            world.groups()
        };
        let (detached, meanwhile) = tokio::join!(del(&node, "a"), look);
        assert_eq!(meanwhile, Some((Announce, members([("b", Full)]))));
        assert_eq!(detached.is_ok(), succeeds);
        sync(&node).await;
        let left = if succeeds { members([("b", Full)]) } else { members([("a", Full), ("b", Full)]) };
        assert_eq!(world.groups(), Some((Announce, left)), "what could not be detached may still serve");
    }
}

#[tokio::test]
async fn a_pod_object_that_is_deleted_withdraws_its_addresses() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.pods.remove_pod(&key("ns/a"));
    sync(&node).await;
    assert_eq!(world.groups(), Some((Quiet, members([("a", Full)]))));
}

#[tokio::test]
async fn a_pod_of_the_same_name_does_not_serve_for_the_one_before() {
    let world = World::new();
    let node = world.start().await;
    let uid = |text: &str| Some(PodUid::parse(text).unwrap());
    let pod = flock_core::ports::PodView { uid: uid("one"), ..pod_view("ns/a") };
    world.pods.set_pod(pod.clone());
    add(&node, "a", &AttachRequest { uid: uid("one"), ..asking("ns/a", SIX) }).await.unwrap();
    sync(&node).await;
    assert_eq!(world.group(SIX), Some((Announce, members([("a", Full)]))));
    world.pods.set_pod(flock_core::ports::PodView { uid: uid("two"), ..pod });
    sync(&node).await;
    assert_eq!(world.group(SIX), Some((Quiet, members([("a", Full)]))));
}

#[tokio::test]
async fn an_ip_under_a_covering_aggregate_is_announced_and_withdrawn_on_its_own() {
    let world = World::new();
    let node = world.start().await;
    world.pods.set_pod(pod_view("ns/a"));
    let (six, four) = ("2001:db8:1::53", "192.0.2.53");
    add(&node, "a", &asking("ns/a", &format!("{six},{four}"))).await.unwrap();
    sync(&node).await;
    for address in [six, four] {
        assert_eq!(world.group(address).unwrap().0, Announce, "{address}");
    }
    world.set_ready("a", false);
    sync(&node).await;
    for address in [six, four] {
        assert_eq!(world.group(address).unwrap().0, Quiet, "{address}");
    }
    for pool in ["2001:db8:1::/64", "192.0.2.0/24"] {
        let kept = world.kernel.routes().into_iter().find(|route| route.destination.to_string() == pool);
        assert_eq!(kept.unwrap().protocol, Announce, "{pool}");
    }
}

#[tokio::test]
async fn a_veth_that_vanishes_while_the_agent_is_dead_comes_back_in_no_group() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    drop(node);
    world.kernel.remove_link(&id("a"));
    // The kernel alone: the group goes on with the other one.
    assert_eq!(world.groups(), Some((Announce, members([("b", Full)]))));
    let node = world.start().await;
    assert!(sync(&node).await.is_empty());
    assert_eq!(world.groups(), Some((Announce, members([("b", Full)]))));
    del(&node, "a").await.unwrap();
    assert!(sync(&node).await.is_empty());
}

#[tokio::test]
async fn a_draining_pod_drains_on_after_a_restart_of_the_agent() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    world.terminate("a");
    sync(&node).await;
    drop(node);
    let node = world.start().await;
    assert!(sync(&node).await.is_empty());
    assert_eq!(world.groups(), Some((Announce, members([("a", Least), ("b", Full)]))));
}

#[tokio::test]
async fn a_restart_before_the_pods_are_known_leaves_every_announcement_as_it_is() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    world.terminate("b");
    world.pods.set_pod(pod_view("ns/c"));
    let annotations = [("flock.fritzlab.net/addresses".to_owned(), "2001:db8:b::7".to_owned())];
    let given = AttachRequest { annotations: Some(annotations.into()), ..request(Some("ns/c")) };
    add(&node, "c", &given).await.unwrap();
    sync(&node).await;
    assert_eq!(world.route("2001:db8:b::7").unwrap().protocol, Announce);
    drop(node);

    let cluster = ["a", "b", "c"].map(|name| key(&format!("ns/{name}")));
    let known = cluster.each_ref().map(|pod| world.pods.snapshot().pods[pod].as_ref().clone());
    for pod in &cluster {
        world.pods.remove_pod(pod);
    }
    world.pods.set_pods_pending(true);
    let node = world.start().await;
    assert!(sync(&node).await.is_empty());
    // Also when the kernel loses something meanwhile.
    world.kernel.break_route(&SIX.parse::<IpAddr>().unwrap().into());
    sync(&node).await;
    assert_eq!(
        world.group(SIX),
        Some((Announce, members([("a", Full)]))),
        "who drained is not known any more"
    );
    world.kernel.break_route(&"2001:db8:b::7".parse::<IpAddr>().unwrap().into());
    sync(&node).await;
    assert_eq!(world.route("2001:db8:b::7").unwrap().protocol, Announce);
    // A pod that comes now has to wait for the cluster.
    add(&node, "d", &asking("ns/d", SIX)).await.unwrap();
    sync(&node).await;
    assert_eq!(world.group(SIX), Some((Announce, members([("a", Full)]))));
    let report = node.report(NOW).await;
    let shown = report.advertised.iter().find(|it| it.prefix.to_string() == "2001:db8:a::53/128").unwrap();
    let reasons: Vec<_> = shown.pods.iter().map(|pod| pod.reason.as_deref()).collect();
    let unheard = Some("the pods of this node are not known yet");
    assert_eq!(reasons, [None, unheard, unheard]);

    // The cluster speaks: its word counts from now on.
    known.into_iter().filter(|pod| pod.key != key("ns/c")).for_each(|pod| world.pods.set_pod(pod));
    world.pods.set_pods_pending(false);
    sync(&node).await;
    assert_eq!(world.route("2001:db8:b::7").unwrap().protocol, Quiet, "a pod that is gone");
    world.terminate("a");
    sync(&node).await;
    assert_eq!(world.group(SIX).unwrap().0, Quiet);
}

#[tokio::test]
async fn an_agent_without_its_state_file_finds_anycast_addresses_at_the_links() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    let mut before = node.report(NOW).await.allocations;
    drop(node);
    let world = world.without_state();
    let node = world.start().await;
    // The links do not know in which order they were asked for.
    before[0].anycast.sort();
    assert_eq!(node.report(NOW).await.allocations, before);
    assert!(sync(&node).await.is_empty());
}

#[tokio::test]
async fn a_pod_whose_name_was_too_long_for_its_link_is_known_by_its_uid() {
    let world = World::new();
    let node = world.start().await;
    let name = format!("ns/{}", "a".repeat(253));
    let uid: PodUid = "aaaaaaaa-1111".parse().unwrap();
    let mut pod = pod_view(&name);
    pod.uid = Some(uid.clone());
    world.pods.set_pod(pod);
    add(&node, "a", &AttachRequest { uid: Some(uid), ..asking(&name, SIX) }).await.unwrap();
    let world = world.without_state();
    let node = world.start().await;
    assert_eq!(node.report(NOW).await.allocations[0].pod, None, "the alias of a link has 255 bytes");
    sync(&node).await;
    assert_eq!(world.group(SIX), Some((Announce, members([("a", Full)]))));
    world.pods.edit_pod(&key(&name), |pod| pod.ready = false);
    sync(&node).await;
    assert_eq!(world.group(SIX), Some((Quiet, members([("a", Full)]))));
}

#[tokio::test]
async fn an_unchanged_set_writes_nothing() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    let before = world.kernel.route_writes();
    for _ in 0..3 {
        // A change of the pod that is none for its addresses.
        world.pods.edit_pod(&key("ns/a"), |pod| pod.image = pod.image.take().or(Some("dns:1".to_owned())));
        assert!(sync(&node).await.is_empty());
    }
    assert_eq!(world.kernel.route_writes(), before);
}

#[tokio::test]
async fn flapping_a_hundred_times_leaves_what_one_change_leaves() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    let before = world.kernel.routes();
    for round in 0..100 {
        world.set_ready("a", round % 2 == 1);
        sync(&node).await;
    }
    assert_eq!(world.kernel.routes(), before);
}

#[tokio::test]
async fn an_add_and_a_del_of_an_anycast_pod_wake_the_reconciler() {
    let world = World::new();
    let node = world.start().await;
    let mut changes = node.changes();
    changes.mark_unchanged();
    world.pods.set_pod(pod_view("ns/a"));
    add(&node, "a", &asking("ns/a", SIX)).await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    del(&node, "a").await.unwrap();
    assert!(changes.has_changed().unwrap());
}

#[tokio::test]
async fn an_anycast_ip_equal_to_a_unicast_one_is_refused_either_way_round() {
    let world = World::new();
    let node = world.start().await;
    world.pods.set_pod(pod_view("ns/a"));
    let own = add(&node, "a", &asking("ns/a", FOUR)).await.unwrap().addresses.v4.unwrap().to_string();
    let error = add(&node, "b", &asking("ns/b", &own)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("address {own} is held by pod ns/a (attachment a/eth0)"));
    let annotations = [("flock.fritzlab.net/addresses".to_owned(), FOUR.to_owned())];
    let brings = AttachRequest { annotations: Some(annotations.into()), ..request(Some("ns/b")) };
    let error = add(&node, "b", &brings).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("address {FOUR} is an anycast address of pod ns/a (attachment a/eth0)")
    );
    del(&node, "a").await.unwrap();
    add(&node, "b", &brings).await.unwrap();
}

#[tokio::test]
async fn a_pod_without_an_address_of_its_own_of_that_family_is_skipped_and_its_owner_told_once() {
    let world = World::new();
    let node = world.start().await;
    drop(node);
    // Only an older state can hold such a pod: an ADD refuses it.
    let allocation = Allocation {
        attachment: id("a"),
        pod: Some(key("ns/a")),
        uid: None,
        netns: NetnsPath::parse("/run/netns/a").ok(),
        addresses: Addresses { v6: Some("2001:db8:1::5".parse().unwrap()), v4: None },
        extra: vec![],
        anycast: vec![FOUR.parse().unwrap()],
        phase: Phase::Committed,
    };
    let snapshot = flock_core::ipam::Snapshot {
        version: flock_core::ipam::Snapshot::VERSION,
        boot_id: "boot-1".to_owned(),
        generation: 7,
        allocations: vec![allocation],
        cooling: vec![],
    };
    world.store.save(snapshot).await.unwrap();
    world.pods.set_pod(pod_view("ns/a"));
    let node = world.start().await;
    for _ in 0..2 {
        sync(&node).await;
    }
    assert_eq!(world.group(FOUR), None);
    let events = world.status.events();
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (event.reason, event.message.as_str()),
        (
            "AddressWithheld",
            "anycast address 203.0.113.53 is not served: the pod has no IPv4 address of its own"
        )
    );
    let report = node.report(NOW).await;
    let shown = report.advertised.iter().find(|it| it.prefix.to_string() == "203.0.113.53/32").unwrap();
    assert_eq!((shown.announced, shown.pods[0].standing), (false, Standpoint::Withheld));
    assert_eq!(shown.pods[0].reason.as_deref(), Some("the pod has no IPv4 address of its own"));
}

#[tokio::test]
async fn status_says_who_serves_drains_and_is_withheld_and_why() {
    let world = World::new();
    let node = world.start().await;
    world.serve(&node, "a").await;
    world.serve(&node, "b").await;
    world.pods.set_pod(flock_core::ports::PodView { ready: false, ..pod_view("ns/c") });
    add(&node, "c", &asking("ns/c", SIX)).await.unwrap();
    world.terminate("b");
    sync(&node).await;
    let report = node.report(NOW).await;
    let shown: Vec<_> = report.advertised.iter().map(|it| (it.prefix.to_string(), it.announced)).collect();
    let expected = ["2001:db8:1::/64", "192.0.2.0/24", "2001:db8:a::53/128", "203.0.113.53/32"];
    assert_eq!(shown, expected.map(|prefix| (prefix.to_owned(), true)));
    let pods: Vec<_> =
        report.advertised[2].pods.iter().map(|pod| (pod.standing, pod.reason.as_deref())).collect();
    let expected = [
        (Standpoint::Serving, None),
        (Standpoint::Draining, Some("the pod is terminating")),
        (Standpoint::Withheld, Some("the pod is not Ready")),
    ];
    assert_eq!(pods, expected);
}

#[tokio::test]
async fn check_misses_an_anycast_address_on_lo() {
    let world = World::new();
    let node = world.start().await;
    world.pods.set_pod(pod_view("ns/a"));
    let attached = add(&node, "a", &asking("ns/a", SIX)).await.unwrap();
    let expected: Vec<IpAddr> = attached.addresses.iter().collect();
    check(&node, "a", expected.clone()).await.unwrap();
    world.kernel.remove_anycast(&id("a"), SIX.parse().unwrap());
    let error = check(&node, "a", expected).await.unwrap_err().to_string();
    assert!(error.contains("anycast address 2001:db8:a::53/128 is missing on lo in the pod"), "{error}");
}

#[tokio::test]
async fn ipam_hands_out_no_address_that_pods_share() {
    let world = World::new();
    world.configure(&["2001:db8:1::/64"], &["192.0.2.0/29"]);
    let node = world.start().await;
    add(&node, "a", &asking("ns/a", "192.0.2.3")).await.unwrap();
    let given: Vec<_> = [add(&node, "b", &request(None)).await, add(&node, "c", &request(None)).await]
        .into_iter()
        .map(|attached| attached.unwrap().addresses.v4.unwrap().to_string())
        .collect();
    assert_eq!(given, ["192.0.2.4", "192.0.2.5"]);
}
