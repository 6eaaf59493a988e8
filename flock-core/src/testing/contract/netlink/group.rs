//! Laws of anycast: addresses several pods share, and the groups that lead to them.

use std::sync::Mutex;

use super::{
    BTreeSet, IpAddr, IpNet, NetlinkWorld, NextHop, ObservedRoute, PodLink, Route, RouteProtocol, RouteSet,
    attach, dual, host_prefix, host_routes, id, inspect, nothing_is_left, ours, pod, sorted,
};
use crate::route::{Member, Members, Weight};

const ANYCAST: [&str; 2] = ["2001:db8:a::1", "198.51.100.1"];

fn anycast() -> Vec<IpAddr> {
    ANYCAST.map(|address| address.parse().unwrap()).into()
}

/// A pod that has both.
fn sharing(world: &dyn NetlinkWorld, container: &str, last: u8) -> PodLink {
    PodLink { anycast: anycast(), ..dual(world, container, last) }
}

fn member(pod: &PodLink, like: IpAddr, weight: Weight) -> Member {
    let gateway = pod.addresses().find(|own| own.is_ipv6() == like.is_ipv6()).unwrap();
    Member { gateway, link: id(pod).host_ifname(), weight }
}

/// The route to an address over these pods.
fn to_group(address: IpAddr, protocol: RouteProtocol, pods: &[(&PodLink, Weight)]) -> Option<Route> {
    let members = Members::new(pods.iter().map(|(pod, weight)| member(pod, address, *weight)))?;
    Some(Route { destination: host_prefix(address), protocol, next_hop: NextHop::Group(members) })
}

/// Both addresses over these pods, beside the pods' own.
fn wanted(protocol: RouteProtocol, pods: &[(&PodLink, Weight)]) -> RouteSet {
    let groups = anycast().into_iter().filter_map(|address| to_group(address, protocol, pods));
    groups.chain(pods.iter().flat_map(|(pod, _)| host_routes(pod))).collect()
}

fn and(set: &RouteSet, more: Vec<Route>) -> RouteSet {
    set.iter().cloned().chain(more).collect()
}

fn full(pod: &PodLink) -> (&PodLink, Weight) {
    (pod, Weight::Full)
}

/// What the kernel has, by way of a pass that changes nothing.
async fn observe(world: &dyn NetlinkWorld) -> RouteSet {
    let seen = Mutex::new(RouteSet::default());
    let keep = |observed: &[ObservedRoute]| {
        let as_wanted = |route: &ObservedRoute| {
            let next_hop = route.next_hop.clone().unwrap_or_else(|| panic!("a form flock writes: {route:?}"));
            Route { destination: route.destination, protocol: route.protocol, next_hop }
        };
        let set: RouteSet = observed.iter().map(as_wanted).collect();
        *seen.lock().unwrap() = set.clone();
        set
    };
    assert!(world.netlink().sync_routes(&keep).await.unwrap().is_empty());
    seen.into_inner().unwrap()
}

/// Makes it so, and that is then how it is; a second time nothing happens. Answers the prefixes written.
async fn sync(world: &dyn NetlinkWorld, wanted: &RouteSet) -> Vec<IpNet> {
    let diff = world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap();
    assert_eq!(observe(world).await, *wanted);
    assert!(world.netlink().sync_routes(&|_| wanted.clone()).await.unwrap().is_empty());
    diff.replace.iter().map(|route| route.destination).collect()
}

fn both() -> Vec<IpNet> {
    sorted(anycast().into_iter().map(host_prefix))
}

pub async fn anycast_addresses_are_noted_on_the_host(world: &dyn NetlinkWorld) {
    let many = (0..40).map(|n| format!("2001:db8:a::{n:x}").parse().unwrap()).collect();
    let pods = [
        sharing(world, "both", 1),
        PodLink { anycast: vec![anycast()[1]], ..pod(world, "four", None, Some("192.0.2.2")) },
        PodLink { anycast: many, ..dual(world, "many", 3) },
        dual(world, "none", 4),
    ];
    for link in &pods {
        let state = attach(world, link).await;
        let noted = sorted(link.anycast.clone());
        assert_eq!(state.host.anycast, noted);
        let on_lo = state.pod.as_ref().map(|pod| pod.anycast.clone());
        assert_eq!(on_lo, Some(noted.iter().copied().map(host_prefix).collect()));
        assert_eq!(inspect(world, link).await.as_ref(), Some(&state));
        assert_eq!(attach(world, link).await, state);
    }
    let found = world.netlink().attachments().await.unwrap();
    let found: BTreeSet<Vec<IpAddr>> = found.into_iter().map(|link| link.host.anycast).collect();
    assert_eq!(found, pods.iter().map(|link| sorted(link.anycast.clone())).collect());

    let less = PodLink { anycast: vec![anycast()[0]], ..pods[0].clone() };
    assert_eq!(attach(world, &less).await.host.anycast, less.anycast, "a leftover that differs is replaced");
}

pub async fn group_is_made_joined_and_left(world: &dyn NetlinkWorld) {
    use Weight::{Full, Least};
    let [a, b, c] = [sharing(world, "a", 1), sharing(world, "b", 2), sharing(world, "c", 3)];
    for link in [&a, &b, &c] {
        attach(world, link).await;
    }
    let own: Vec<Route> = [&a, &b, &c].into_iter().flat_map(host_routes).collect();
    let steps: [&[(&PodLink, Weight)]; 9] = [
        &[(&a, Full)],
        &[(&a, Full), (&b, Full)],
        &[(&a, Full), (&b, Full), (&c, Full)],
        &[(&a, Full), (&b, Least), (&c, Full)],
        &[(&a, Full), (&c, Full)],
        &[(&a, Least), (&c, Full)],
        &[(&c, Full)],
        &[(&b, Full)],
        &[],
    ];
    for pods in steps {
        let set = and(&wanted(RouteProtocol::Announce, pods), own.clone());
        let written = sync(world, &set).await;
        assert_eq!(written, if pods.is_empty() { vec![] } else { both() }, "{pods:#?}");
    }
    assert_eq!(ours(world).await.len(), 6, "the pods' own");
}

pub async fn change_of_protocol_of_a_group_is_one_replace(world: &dyn NetlinkWorld) {
    let [a, b] = [sharing(world, "a", 1), sharing(world, "b", 2)];
    for link in [&a, &b] {
        attach(world, link).await;
    }
    for protocol in [RouteProtocol::Announce, RouteProtocol::Quiet, RouteProtocol::Announce] {
        assert_eq!(sync(world, &wanted(protocol, &[full(&a), full(&b)])).await, both());
        let numbers: Vec<u8> = ours(world)
            .await
            .into_iter()
            .filter_map(|(prefix, number, _)| both().contains(&prefix).then_some(number))
            .collect();
        assert_eq!(numbers, [protocol.number(); 2]);
    }
}

pub async fn group_and_link_route_take_each_others_place(world: &dyn NetlinkWorld) {
    let [a, b] = [sharing(world, "a", 1), sharing(world, "b", 2)];
    for link in [&a, &b] {
        attach(world, link).await;
    }
    let own: Vec<Route> = [&a, &b].into_iter().flat_map(host_routes).collect();
    let straight = |address: IpAddr| Route {
        destination: host_prefix(address),
        protocol: RouteProtocol::Quiet,
        next_hop: NextHop::Link(id(&a).host_ifname()),
    };
    let nowhere = |address: IpAddr| Route { next_hop: NextHop::Unreachable, ..straight(address) };
    let of = |route: &dyn Fn(IpAddr) -> Route| -> RouteSet {
        anycast().into_iter().map(route).chain(own.clone()).collect()
    };
    for plain in [of(&straight), of(&nowhere)] {
        for pods in [&[full(&a)][..], &[full(&a), full(&b)]] {
            let groups = and(&wanted(RouteProtocol::Quiet, pods), own.clone());
            for set in [&plain, &groups, &plain] {
                sync(world, set).await;
                assert_eq!(ours(world).await.len(), 6);
            }
        }
    }
}

pub async fn members_without_their_link_are_left_out(world: &dyn NetlinkWorld) {
    let [a, gone] = [sharing(world, "a", 1), sharing(world, "gone", 2)];
    attach(world, &a).await;
    let alone = wanted(RouteProtocol::Announce, &[full(&a)]);
    let together = wanted(RouteProtocol::Announce, &[full(&a), full(&gone)]);
    for _ in 0..2 {
        world.netlink().sync_routes(&|_| together.clone()).await.unwrap();
        assert_eq!(observe(world).await, alone);
    }
    assert!(world.netlink().sync_routes(&|_| together.clone()).await.unwrap().is_empty());

    let nobody = wanted(RouteProtocol::Announce, &[full(&gone)]);
    world.netlink().sync_routes(&|_| nobody.clone()).await.unwrap();
    assert_eq!(ours(world).await, BTreeSet::new());
    attach(world, &gone).await;
    assert_eq!(sync(world, &nobody).await, both(), "they come back with it");
}

pub async fn detached_pod_leaves_its_groups(world: &dyn NetlinkWorld) {
    let [a, b] = [sharing(world, "a", 1), sharing(world, "b", 2)];
    for link in [&a, &b] {
        attach(world, link).await;
    }
    sync(world, &wanted(RouteProtocol::Announce, &[full(&a), (&b, Weight::Least)])).await;
    world.netlink().detach(id(&a)).await.unwrap();
    assert_eq!(
        observe(world).await,
        wanted(RouteProtocol::Announce, &[full(&b)]),
        "the rest gets everything"
    );
    world.netlink().detach(id(&b)).await.unwrap();
    for link in [&a, &b] {
        nothing_is_left(world, link).await;
    }
}

pub async fn pod_that_vanishes_leaves_its_groups(world: &dyn NetlinkWorld) {
    let [a, b] = [sharing(world, "a", 1), sharing(world, "b", 2)];
    for link in [&a, &b] {
        attach(world, link).await;
    }
    let together = wanted(RouteProtocol::Announce, &[full(&a), full(&b)]);
    sync(world, &together).await;
    world.remove_netns(&a.netns).await;
    // Some kernels drop a route over several next hops as a whole.
    world.netlink().sync_routes(&|_| together.clone()).await.unwrap();
    assert_eq!(observe(world).await, wanted(RouteProtocol::Announce, &[full(&b)]));
    assert!(world.netlink().sync_routes(&|_| together.clone()).await.unwrap().is_empty());
    world.remove_netns(&b.netns).await;
    nothing_is_left(world, &b).await;
}

pub async fn membership_does_not_change_an_attachment(world: &dyn NetlinkWorld) {
    let [a, b] = [sharing(world, "a", 1), sharing(world, "b", 2)];
    let states = [attach(world, &a).await, attach(world, &b).await];
    for pods in [&[full(&a)][..], &[full(&a), full(&b)]] {
        let set = and(&wanted(RouteProtocol::Announce, pods), host_routes(&b));
        sync(world, &set).await;
        for (link, state) in [&a, &b].into_iter().zip(&states) {
            assert_eq!(attach(world, link).await, *state);
            assert_eq!(inspect(world, link).await.as_ref(), Some(state));
        }
        assert_eq!(observe(world).await, set);
    }
}

pub async fn wanted_routes_may_depend_on_what_is_there(world: &dyn NetlinkWorld) {
    let [a, b] = [sharing(world, "a", 1), sharing(world, "b", 2)];
    for link in [&a, &b] {
        attach(world, link).await;
    }
    // What is there stays, and nobody else comes in.
    let drain = |observed: &[ObservedRoute]| {
        let is_group = |route: &&ObservedRoute| matches!(route.next_hop, Some(NextHop::Group(_)));
        let quiet = observed.iter().filter(is_group).map(|route| Route {
            destination: route.destination,
            protocol: RouteProtocol::Quiet,
            next_hop: route.next_hop.clone().unwrap(),
        });
        quiet.chain(host_routes(&a)).chain(host_routes(&b)).collect()
    };
    world.netlink().sync_routes(&drain).await.unwrap();
    assert_eq!(ours(world).await.len(), 4, "there was nothing to keep");
    let set = and(&wanted(RouteProtocol::Announce, &[full(&a)]), host_routes(&b));
    sync(world, &set).await;
    let diff = world.netlink().sync_routes(&drain).await.unwrap();
    assert_eq!((diff.replace.len(), diff.remove.len()), (2, 0));
    assert!(world.netlink().sync_routes(&drain).await.unwrap().is_empty());
}

pub async fn groups_of_many_are_made_at_once(world: &dyn NetlinkWorld) {
    let pods: Vec<PodLink> = (1..=8).map(|n| sharing(world, &format!("p{n}"), n)).collect();
    for link in &pods {
        attach(world, link).await;
    }
    let all: Vec<(&PodLink, Weight)> = pods.iter().map(full).collect();
    let addresses = (0..60).map(|n| format!("2001:db8:b::{n:x}").parse().unwrap());
    let routes = addresses.filter_map(|address| to_group(address, RouteProtocol::Announce, &all));
    let set: RouteSet = routes.chain(pods.iter().flat_map(host_routes)).collect();
    assert_eq!(sync(world, &set).await.len(), 60);
    let fewer: RouteSet =
        set.iter().filter(|route| !matches!(route.next_hop, NextHop::Group(_))).cloned().collect();
    sync(world, &fewer).await;
}
