//! Laws of [`Netlink`], for the fake and for the kernel alike.
#![allow(clippy::missing_panics_doc, reason = "a broken law panics")]

use std::collections::BTreeSet;
use std::future::Future;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ipnet::IpNet;

use crate::ids::{AttachmentId, ContainerId, IfName, PodKey, PodUid};
use crate::ipam::Addresses;
use crate::ports::{LinkIdentity, LinkState, Netlink, NetlinkError, NetnsPath, PodLink, Retry};
use crate::route::{
    GATEWAY4, GATEWAY6, NextHop, ObservedRoute, Route, RouteProtocol, RouteSet, aggregate, host_prefix,
};

mod group;
mod leftover;

pub use group::*;
pub use leftover::*;

/// The port under test and what happens to it from outside.
#[async_trait(?Send)]
pub trait NetlinkWorld: Sync {
    fn netlink(&self) -> &dyn Netlink;
    /// A new, empty network namespace.
    fn netns(&self) -> NetnsPath;
    /// Deletes one, and waits until the links into it are gone.
    async fn remove_netns(&self, netns: &NetnsPath);
    /// Somebody else puts an interface into a pod.
    async fn put_interface(&self, netns: &NetnsPath, ifname: &IfName);
    /// The link loses its alias.
    async fn remove_alias(&self, attachment: &AttachmentId);
    /// Somebody adds an "unreachable" route, behind those of the same prefix and metric; metric 0 is the
    /// default one.
    async fn put_route(&self, destination: IpNet, protocol: u8, metric: u32);
    /// Prefix, protocol and metric of all routes of the main table, in order.
    async fn routes(&self) -> BTreeSet<(IpNet, u8, u32)>;
    /// Waits until there is no link of this name.
    async fn link_is_gone(&self, ifname: &IfName);
    /// An attach that runs to its end right here, as another thread would do it.
    fn attach_now(&self, link: &PodLink) -> Result<LinkState, NetlinkError>;
}

/// One law.
pub type Law = fn(&dyn NetlinkWorld) -> Pin<Box<dyn Future<Output = ()> + '_>>;

/// Makes a `#[test]` of every law; `$run` makes a world and runs the law in it.
#[macro_export]
macro_rules! netlink_contract {
    ($run:path) => {
        $crate::netlink_contract! { $run =>
            attached_link_is_as_asked_for
            same_spec_twice_gives_the_same_state
            differing_leftover_is_replaced
            leftover_without_alias_is_replaced
            leftover_in_another_namespace_is_replaced
            same_attachment_gets_the_same_names_again
            detach_of_nothing_succeeds_however_often
            detach_leaves_nothing
            detach_without_alias_leaves_nothing
            detached_interface_name_is_free_at_once
            failed_attach_leaves_nothing
            interface_of_another_is_left_alone
            link_of_another_attachment_is_left_alone
            deleted_namespace_takes_the_link_with_it
            attachments_are_rebuilt_from_the_kernel_alone
            pod_name_too_long_for_the_alias_is_left_out
            tended_links_say_whose_they_are
            nameless_link_is_discarded
            only_the_nameless_link_that_was_seen_is_discarded
            deleted_namespaces_are_gone
            second_sync_changes_nothing
            sync_touches_only_our_protocols
            a_route_of_somebody_else_is_not_overwritten
            wanted_routes_are_asked_for_after_the_read
            change_of_protocol_is_one_replace
            route_of_a_pod_keeps_its_place_when_it_changes_protocol
            same_prefix_with_another_metric_is_removed
            only_the_stale_one_of_two_routes_in_one_place_is_removed
            routes_to_a_missing_link_are_left_out
            prefixes_of_every_length_are_routed
            a_thousand_routes_are_routed
            anycast_addresses_are_noted_on_the_host
            group_is_made_joined_and_left
            change_of_protocol_of_a_group_is_one_replace
            group_and_link_route_take_each_others_place
            members_without_their_link_are_left_out
            detached_pod_leaves_its_groups
            pod_that_vanishes_leaves_its_groups
            membership_does_not_change_an_attachment
            wanted_routes_may_depend_on_what_is_there
            groups_of_many_are_made_at_once
        }
    };
    ($run:path => $($law:ident)*) => { $(
        #[test]
        fn $law() {
            $run(|world| Box::pin($crate::testing::contract::netlink::$law(world)));
        }
    )* };
}

fn pod(world: &dyn NetlinkWorld, container: &str, v6: Option<&str>, v4: Option<&str>) -> PodLink {
    PodLink {
        identity: LinkIdentity {
            attachment: AttachmentId::parse(&format!("{container}/eth0")).unwrap(),
            pod: Some(PodKey::new("default", container).unwrap()),
            uid: Some(PodUid::parse("7d3a7c9e-0000-4000-8000-000000000001").unwrap()),
            addresses: Addresses { v6: v6.map(|a| a.parse().unwrap()), v4: v4.map(|a| a.parse().unwrap()) },
            more: false,
        },
        netns: world.netns(),
        mtu: 1500,
        extra: Vec::new(),
        anycast: Vec::new(),
        loopback_runs: false,
        announced: BTreeSet::new(),
    }
}

/// With further addresses, of which one is announced.
fn with_extra(mut link: PodLink, extra: &[&str]) -> PodLink {
    link.identity.more = true;
    link.extra = extra.iter().map(|address| address.parse().unwrap()).collect();
    link.announced.extend(link.extra.first());
    link
}

fn dual(world: &dyn NetlinkWorld, container: &str, last: u8) -> PodLink {
    pod(world, container, Some(&format!("2001:db8::{last:x}")), Some(&format!("192.0.2.{last}")))
}

fn id(link: &PodLink) -> &AttachmentId {
    &link.identity.attachment
}

async fn attach(world: &dyn NetlinkWorld, link: &PodLink) -> LinkState {
    world.netlink().attach(link).await.unwrap()
}

async fn inspect(world: &dyn NetlinkWorld, link: &PodLink) -> Option<LinkState> {
    world.netlink().inspect(id(link), Some(link.netns.clone())).await.unwrap()
}

async fn ours(world: &dyn NetlinkWorld) -> BTreeSet<(IpNet, u8, u32)> {
    let is_ours = |(_, protocol, _): &(IpNet, u8, u32)| RouteProtocol::from_number(*protocol).is_some();
    world.routes().await.into_iter().filter(is_ours).collect()
}

async fn nothing_is_left(world: &dyn NetlinkWorld, link: &PodLink) {
    assert_eq!(ours(world).await, BTreeSet::new());
    assert_eq!(inspect(world, link).await, None);
    assert_eq!(world.netlink().attachments().await.unwrap(), []);
    world.link_is_gone(&id(link).host_ifname()).await;
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

fn host_routes(link: &PodLink) -> Vec<Route> {
    let route = |address: IpAddr| Route {
        destination: host_prefix(address),
        protocol: link.protocol_of(address),
        next_hop: NextHop::Link(id(link).host_ifname()),
    };
    link.addresses().map(route).collect()
}

fn unreachable(destination: &str, protocol: RouteProtocol) -> Route {
    Route { protocol, ..aggregate(destination.parse().unwrap()) }
}

pub async fn attached_link_is_as_asked_for(world: &dyn NetlinkWorld) {
    let mut announced = dual(world, "announced", 4);
    announced.announced.extend(announced.identity.addresses.v6.map(IpAddr::V6));
    announced.mtu = 9000;
    let pods = [
        dual(world, "dual", 1),
        pod(world, "six", Some("2001:db8::2"), None),
        pod(world, "four", None, Some("192.0.2.3")),
        announced,
        with_extra(dual(world, "extra", 5), &["2001:db8::105", "198.51.100.5", "192.0.2.105"]),
        with_extra(pod(world, "extra6", Some("2001:db8::6"), None), &["2001:db8::106"]),
    ];
    for link in &pods {
        let LinkState { identity, host, pod } = attach(world, link).await;
        let pod = pod.unwrap();
        let own = sorted(link.addresses());
        let gateway = |a: IpAddr| if a.is_ipv6() { GATEWAY6.into() } else { IpAddr::V4(GATEWAY4) };
        let gateways: Vec<IpAddr> = sorted(link.identity.addresses.iter()).into_iter().map(gateway).collect();
        assert_eq!(identity.as_ref(), Some(&link.identity));
        assert_eq!(host.ifname, id(link).host_ifname());
        assert!(host.up && host.has_gateway && pod.up && host.ifindex > 0);
        assert_eq!((host.mtu, pod.mtu), (link.mtu, link.mtu));
        assert_ne!(host.mac, pod.mac);
        assert_eq!(host.neighbours, own);
        assert_eq!(host.routes, sorted(host_routes(link).into_iter().map(ObservedRoute::from)));
        assert_eq!(pod.addresses, own.iter().map(|a| host_prefix(*a)).collect::<Vec<_>>());
        assert_eq!((&pod.gateways, &pod.neighbours), (&gateways, &gateways));
    }
    let indexes: BTreeSet<u32> =
        world.netlink().attachments().await.unwrap().iter().map(|link| link.host.ifindex).collect();
    assert_eq!(indexes.len(), pods.len());
}

pub async fn same_spec_twice_gives_the_same_state(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    let first = attach(world, &link).await;
    assert_eq!(inspect(world, &link).await.as_ref(), Some(&first));
    let routes = world.routes().await;
    assert_eq!(attach(world, &link).await, first);
    assert_eq!(world.routes().await, routes);
    let host_only = world.netlink().inspect(id(&link), None).await.unwrap().unwrap();
    assert_eq!(host_only, LinkState { pod: None, ..first });
}

pub async fn differing_leftover_is_replaced(world: &dyn NetlinkWorld) {
    let old = dual(world, "a", 1);
    let first = attach(world, &old).await;
    let netns = old.netns.clone();
    let changes = [
        PodLink { mtu: 1400, ..old.clone() },
        PodLink { announced: old.addresses().filter(IpAddr::is_ipv4).collect(), ..old.clone() },
        with_extra(old.clone(), &["198.51.100.1"]),
        PodLink { netns, ..dual(world, "a", 2) },
        PodLink { netns: old.netns.clone(), ..pod(world, "a", Some("2001:db8::3"), None) },
    ];
    let mut last = first.host.ifindex;
    for new in changes {
        let state = attach(world, &new).await;
        assert_ne!(state.host.ifindex, last, "another link");
        assert_eq!(inspect(world, &new).await.as_ref(), Some(&state));
        let routes: BTreeSet<IpNet> = host_routes(&new).iter().map(|route| route.destination).collect();
        let kept: BTreeSet<IpNet> = ours(world).await.into_iter().map(|(prefix, ..)| prefix).collect();
        assert_eq!(kept, routes);
        last = state.host.ifindex;
    }
}

pub async fn leftover_without_alias_is_replaced(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    let first = attach(world, &link).await;
    world.remove_alias(id(&link)).await;
    assert_eq!(inspect(world, &link).await.unwrap().identity, None);
    let second = attach(world, &link).await;
    assert_ne!(second.host.ifindex, first.host.ifindex);
    assert_eq!(second.identity, Some(link.identity));
}

pub async fn leftover_in_another_namespace_is_replaced(world: &dyn NetlinkWorld) {
    let old = dual(world, "a", 1);
    attach(world, &old).await;
    let new = dual(world, "a", 1);
    assert_eq!(world.netlink().inspect(id(&new), Some(new.netns.clone())).await.unwrap().unwrap().pod, None);
    let state = attach(world, &new).await;
    assert_eq!(inspect(world, &new).await, Some(state));
    assert_eq!(inspect(world, &old).await.unwrap().pod, None);
}

pub async fn same_attachment_gets_the_same_names_again(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    let first = attach(world, &link).await;
    world.netlink().detach(id(&link)).await.unwrap();
    let second = attach(world, &link).await;
    assert_eq!((&first.host.ifname, first.host.mac), (&second.host.ifname, second.host.mac));
    assert_eq!(first.pod, second.pod);
    assert_eq!(inspect(world, &link).await, Some(second));
}

pub async fn detach_of_nothing_succeeds_however_often(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    for _ in 0..2 {
        world.netlink().detach(id(&link)).await.unwrap();
    }
    attach(world, &link).await;
    for _ in 0..3 {
        world.netlink().detach(id(&link)).await.unwrap();
    }
    nothing_is_left(world, &link).await;
    world.netlink().detach(id(&link)).await.unwrap();
}

pub async fn detach_leaves_nothing(world: &dyn NetlinkWorld) {
    let plain = dual(world, "a", 1);
    let extra = with_extra(dual(world, "b", 2), &["198.51.100.2", "2001:db8:1::2"]);
    for link in [plain, extra] {
        attach(world, &link).await;
        assert_eq!(ours(world).await.len(), link.addresses().count());
        world.netlink().detach(id(&link)).await.unwrap();
        nothing_is_left(world, &link).await;
    }
}

pub async fn detach_without_alias_leaves_nothing(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    attach(world, &link).await;
    world.remove_alias(id(&link)).await;
    world.netlink().detach(id(&link)).await.unwrap();
    nothing_is_left(world, &link).await;
}

pub async fn detached_interface_name_is_free_at_once(world: &dyn NetlinkWorld) {
    let old = dual(world, "old", 1);
    attach(world, &old).await;
    world.netlink().detach(id(&old)).await.unwrap();
    let new = PodLink { netns: old.netns.clone(), ..dual(world, "new", 1) };
    let state = attach(world, &new).await;
    assert_eq!(inspect(world, &new).await, Some(state));
}

pub async fn failed_attach_leaves_nothing(world: &dyn NetlinkWorld) {
    for mtu in [0, 67, 1279, 65536, u32::MAX] {
        let link = PodLink { mtu, ..dual(world, "a", 1) };
        let error = world.netlink().attach(&link).await.unwrap_err();
        assert!(matches!(error, NetlinkError::Kernel { .. }), "mtu {mtu}: {error}");
        nothing_is_left(world, &link).await;
    }
    let link = dual(world, "a", 1);
    world.remove_netns(&link.netns).await;
    let error = world.netlink().attach(&link).await.unwrap_err();
    assert!(matches!(error, NetlinkError::Netns { .. }), "{error}");
    nothing_is_left(world, &link).await;
}

pub async fn interface_of_another_is_left_alone(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    world.put_interface(&link.netns, id(&link).ifname()).await;
    let error = world.netlink().attach(&link).await.unwrap_err();
    assert!(matches!(error, NetlinkError::InterfaceExists { .. }), "{error}");
    nothing_is_left(world, &link).await;

    let first = dual(world, "first", 2);
    let state = attach(world, &first).await;
    let second = PodLink { netns: first.netns.clone(), ..dual(world, "second", 3) };
    let error = world.netlink().attach(&second).await.unwrap_err();
    assert!(matches!(error, NetlinkError::InterfaceExists { .. }), "{error}");
    assert_eq!(inspect(world, &first).await, Some(state));
}

pub async fn link_of_another_attachment_is_left_alone(world: &dyn NetlinkWorld) {
    let (first, second) = (dual(world, "c23923", 1), dual(world, "c79018", 2));
    assert_eq!(id(&first).host_ifname(), id(&second).host_ifname(), "a collision of the hash");
    let state = attach(world, &first).await;
    match world.netlink().attach(&second).await.unwrap_err() {
        NetlinkError::NameTaken { other, .. } => assert_eq!(other, *id(&first)),
        error => panic!("{error}"),
    }
    assert_eq!(inspect(world, &second).await, None);
    world.netlink().detach(id(&second)).await.unwrap();
    assert_eq!(inspect(world, &first).await, Some(state));
}

pub async fn deleted_namespace_takes_the_link_with_it(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    attach(world, &link).await;
    world.remove_netns(&link.netns).await;
    nothing_is_left(world, &link).await;
    world.netlink().detach(id(&link)).await.unwrap();
}

pub async fn attachments_are_rebuilt_from_the_kernel_alone(world: &dyn NetlinkWorld) {
    let pods = [
        dual(world, "c", 1),
        pod(world, "a", Some("2001:db8::2"), None),
        with_extra(dual(world, "b", 3), &["2001:db8::103", "198.51.100.3"]),
    ];
    let mut expected = Vec::new();
    for link in &pods {
        let mut state = attach(world, link).await;
        if link.extra.is_empty() {
            state.host.routes.clear();
        }
        state.host.neighbours.clear();
        expected.push(LinkState { pod: None, ..state });
    }
    expected.sort_by(|a, b| {
        a.identity.as_ref().map(|i| &i.attachment).cmp(&b.identity.as_ref().map(|i| &i.attachment))
    });
    assert_eq!(world.netlink().attachments().await.unwrap(), expected);

    world.remove_alias(id(&pods[0])).await;
    let nameless = &world.netlink().attachments().await.unwrap()[0];
    assert_eq!((&nameless.identity, &nameless.host.ifname), (&None, &id(&pods[0]).host_ifname()));

    world.netlink().detach(id(&pods[1])).await.unwrap();
    assert_eq!(world.netlink().attachments().await.unwrap().len(), 2);
}

pub async fn pod_name_too_long_for_the_alias_is_left_out(world: &dyn NetlinkWorld) {
    let mut link = dual(world, "a", 1);
    let container = ContainerId::parse(&"f".repeat(ContainerId::MAX_LEN)).unwrap();
    link.identity.attachment = AttachmentId::new(container, IfName::parse("fifteen-letters").unwrap());
    link.identity.uid = Some(PodUid::parse(&"a".repeat(64)).unwrap());
    link.identity.addresses.v6 = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().ok();
    link.identity.addresses.v4 = "198.51.100.254".parse().ok();
    let state = attach(world, &link).await;
    assert_eq!(state.identity, Some(LinkIdentity { pod: None, ..link.identity.clone() }));
    assert_eq!(attach(world, &link).await, state);
    assert_eq!(world.netlink().attachments().await.unwrap()[0].identity, state.identity);
}

pub async fn second_sync_changes_nothing(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    attach(world, &link).await;
    let pools = [
        unreachable("2001:db8::/64", RouteProtocol::Announce),
        unreachable("192.0.2.0/24", RouteProtocol::Announce),
    ];
    let wanted: RouteSet = pools.iter().cloned().chain(host_routes(&link)).collect();
    let first = world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap();
    assert_eq!(sorted(first.replace), sorted(pools), "the pod's own are there");
    assert_eq!(first.remove, []);
    let routes = world.routes().await;
    assert!(world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap().is_empty());
    assert_eq!(world.routes().await, routes);
    let last = world.netlink().sync_routes(&|_| RouteSet::default()).await.unwrap();
    assert_eq!((last.replace.len(), last.remove.len()), (0, 4));
    assert_eq!(ours(world).await, BTreeSet::new());
}

pub async fn sync_touches_only_our_protocols(world: &dyn NetlinkWorld) {
    world.put_route("2001:db8:1::/64".parse().unwrap(), 4, 0).await;
    world.put_route("198.51.100.0/24".parse().unwrap(), 186, 0).await;
    let foreign = world.routes().await;
    let stray = [("2001:db8:2::/64", 117), ("203.0.113.0/24", 118)];
    for (prefix, protocol) in stray {
        world.put_route(prefix.parse().unwrap(), protocol, 0).await;
    }
    let diff = world.netlink().sync_routes(&|_| RouteSet::default()).await.unwrap();
    let removed: BTreeSet<IpNet> = diff.remove.iter().map(|route| route.destination).collect();
    assert_eq!(removed, stray.iter().map(|(prefix, _)| prefix.parse().unwrap()).collect());
    assert_eq!(world.routes().await, foreign);
}

pub async fn a_route_of_somebody_else_is_not_overwritten(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    for destination in ["2001:db8:1::/64", "192.0.2.0/24"] {
        world.put_route(destination.parse().unwrap(), 4, 0).await;
    }
    let foreign = world.routes().await;
    let pools = ["2001:db8:1::/64", "192.0.2.0/24", "2001:db8:2::/64", "198.51.100.0/24"];
    let pools: RouteSet =
        pools.into_iter().map(|destination| unreachable(destination, RouteProtocol::Announce)).collect();
    for _ in 0..2 {
        let refused = world.netlink().sync_routes(&|_| pools.clone()).await.unwrap_err();
        assert!(
            matches!(&refused, NetlinkError::Kernel { source, .. } if source.kind() == ErrorKind::AlreadyExists)
        );
        let written: BTreeSet<IpNet> =
            ours(world).await.into_iter().map(|(destination, ..)| destination).collect();
        let expected = ["2001:db8:2::/64", "198.51.100.0/24"].map(|destination| destination.parse().unwrap());
        assert_eq!(written, expected.into(), "the others are");
        assert!(foreign.is_subset(&world.routes().await));
    }
    for route in host_routes(&link) {
        world.put_route(route.destination, 4, 0).await;
        let before = world.routes().await;
        assert_eq!(world.netlink().attach(&link).await.unwrap_err().retry(), Retry::Later);
        assert_eq!(world.routes().await, before);
    }
    assert_eq!(inspect(world, &link).await, None);
}

pub async fn wanted_routes_are_asked_for_after_the_read(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    let asked = AtomicUsize::new(0);
    let desired = |_: &[ObservedRoute]| {
        asked.fetch_add(1, Ordering::Relaxed);
        world.attach_now(&link).unwrap();
        host_routes(&link).into_iter().collect()
    };
    let diff = world.netlink().sync_routes(&desired).await.unwrap();
    assert_eq!(asked.into_inner(), 1);
    assert_eq!(sorted(diff.replace), sorted(host_routes(&link)), "not there yet when the kernel was read");
    assert_eq!(ours(world).await.len(), 2);
}

pub async fn change_of_protocol_is_one_replace(world: &dyn NetlinkWorld) {
    for destination in ["2001:db8::/64", "192.0.2.0/24"] {
        let [announced, quiet] = [RouteProtocol::Announce, RouteProtocol::Quiet]
            .map(|protocol| unreachable(destination, protocol));
        for route in [&announced, &quiet, &announced] {
            let wanted = |_: &[ObservedRoute]| RouteSet::from_iter([route.clone()]);
            let diff = world.netlink().sync_routes(&wanted).await.unwrap();
            assert_eq!((diff.replace, diff.remove), (vec![route.clone()], vec![]));
            let there: Vec<_> =
                ours(world).await.into_iter().map(|(prefix, number, _)| (prefix, number)).collect();
            assert_eq!(there, [(route.destination, route.protocol.number())]);
        }
        world.netlink().sync_routes(&|_| RouteSet::default()).await.unwrap();
    }
}

pub async fn route_of_a_pod_keeps_its_place_when_it_changes_protocol(world: &dyn NetlinkWorld) {
    let mut link = dual(world, "a", 1);
    attach(world, &link).await;
    link.announced = link.addresses().collect();
    let diff = world.netlink().sync_routes(&|_| host_routes(&link).into_iter().collect()).await.unwrap();
    assert_eq!((sorted(diff.replace), diff.remove), (sorted(host_routes(&link)), vec![]));
    let state = inspect(world, &link).await.unwrap();
    assert_eq!(state.host.routes, sorted(host_routes(&link).into_iter().map(ObservedRoute::from)));
    assert_eq!(attach(world, &link).await, state, "and is what such an attach would make");
}

pub async fn same_prefix_with_another_metric_is_removed(world: &dyn NetlinkWorld) {
    for destination in ["2001:db8::/64", "192.0.2.0/24"] {
        let route = unreachable(destination, RouteProtocol::Announce);
        let wanted = |_: &[ObservedRoute]| RouteSet::from_iter([route.clone()]);
        world.netlink().sync_routes(&wanted).await.unwrap();
        world.put_route(route.destination, 117, 77).await;
        let diff = world.netlink().sync_routes(&wanted).await.unwrap();
        let removed: Vec<u32> = diff.remove.iter().map(|route| route.metric).collect();
        assert_eq!((diff.replace, removed), (vec![], vec![77]));
        let metric = ObservedRoute::default_metric(&route.destination);
        assert_eq!(ours(world).await, BTreeSet::from([(route.destination, 117, metric)]));
        world.netlink().sync_routes(&|_| RouteSet::default()).await.unwrap();
    }
}

pub async fn only_the_stale_one_of_two_routes_in_one_place_is_removed(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    attach(world, &link).await;
    let to_pod = host_routes(&link);
    let to_nobody: Vec<Route> =
        to_pod.iter().map(|route| Route { next_hop: NextHop::Unreachable, ..route.clone() }).collect();
    for stale_first in [false, true] {
        for route in &to_nobody {
            world.put_route(route.destination, route.protocol.number(), 0).await;
        }
        let (wanted, stale) = if stale_first { (&to_nobody, &to_pod) } else { (&to_pod, &to_nobody) };
        let wanted = |_: &[ObservedRoute]| wanted.iter().cloned().collect::<RouteSet>();
        let diff = world.netlink().sync_routes(&wanted).await.unwrap();
        let removed = sorted(stale.iter().cloned().map(ObservedRoute::from));
        assert_eq!((diff.replace, sorted(diff.remove)), (vec![], removed), "stale first: {stale_first}");
        let through_pod = inspect(world, &link).await.unwrap().host.routes.len();
        assert_eq!(through_pod, if stale_first { 0 } else { 2 }, "stale first: {stale_first}");
        assert_eq!(ours(world).await.len(), 2, "stale first: {stale_first}");
        assert!(world.netlink().sync_routes(&wanted).await.unwrap().is_empty());
    }
}

pub async fn routes_to_a_missing_link_are_left_out(world: &dyn NetlinkWorld) {
    let gone = dual(world, "gone", 1);
    let pool = unreachable("2001:db8::/64", RouteProtocol::Announce);
    // In the place of one of them stands something stale.
    world.put_route(host_routes(&gone)[0].destination, 117, 0).await;
    let wanted: RouteSet = host_routes(&gone).into_iter().chain([pool.clone()]).collect();
    let diff = world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap();
    assert_eq!(diff.replace, vec![pool.clone()]);
    assert_eq!(diff.remove.len(), 1);
    assert_eq!(ours(world).await, BTreeSet::from([(pool.destination, 117, 1024)]));
    assert!(world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap().is_empty());
}

pub async fn prefixes_of_every_length_are_routed(world: &dyn NetlinkWorld) {
    let lengths6 = (0..=128).map(|length| format!("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/{length}"));
    let lengths4 = (0..=32).map(|length| format!("203.0.113.255/{length}"));
    let route = |prefix: String| unreachable(&prefix, RouteProtocol::Quiet);
    let wanted: RouteSet = lengths6.chain(lengths4).map(route).collect();
    assert_eq!(wanted.len(), 129 + 33);
    let diff = world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap();
    assert_eq!(diff.replace.len(), wanted.len());
    assert_eq!(ours(world).await.len(), wanted.len());
    assert!(world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap().is_empty());
    world.netlink().sync_routes(&|_| RouteSet::default()).await.unwrap();
    assert_eq!(ours(world).await, BTreeSet::new());
}

pub async fn a_thousand_routes_are_routed(world: &dyn NetlinkWorld) {
    let prefixes = (0..1000).map(|n| format!("2001:db8:0:{n:x}::/64"));
    let wanted: RouteSet = prefixes.map(|prefix| unreachable(&prefix, RouteProtocol::Announce)).collect();
    let diff = world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap();
    assert_eq!(diff.replace.len(), 1000);
    assert_eq!(ours(world).await.len(), 1000);
    assert!(world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap().is_empty());
    let diff = world.netlink().sync_routes(&|_| RouteSet::default()).await.unwrap();
    assert_eq!(diff.remove.len(), 1000);
    assert_eq!(ours(world).await, BTreeSet::new());
}
