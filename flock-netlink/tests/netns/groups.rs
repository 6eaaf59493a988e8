//! Groups of pods that share an address, as the kernel has them: seen with `ip`, changed with `ip`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use flock_core::ids::IfName;
use flock_core::ports::{Netlink, NetnsPath, PodLink};
use flock_core::route::{Member, Members, NextHop, Route, RouteProtocol, RouteSet, Weight, host_prefix};
use flock_core::testing::contract::netlink::NetlinkWorld;
use flock_netlink::{KernelNetlink, NEXTHOP_IDS, Spread};
use futures::future::join_all;

use crate::monitor::{Monitor, News};
use crate::world::{World, eventually, inside, on_node, on_node_with};

pub(crate) const ANYCAST: [&str; 2] = ["2001:db8:a::1", "198.51.100.200"];

const ALL: [Spread; 3] = [Spread::Resilient, Spread::Plain, Spread::Multipath];

pub(crate) fn anycast() -> [IpAddr; 2] {
    ANYCAST.map(|address| address.parse().unwrap())
}

/// Runs `ip` in a namespace, the node's own without one.
fn ip_in(netns: Option<&NetnsPath>, arguments: &str) -> String {
    let output = inside(netns, || Command::new("ip").args(arguments.split(' ')).output().unwrap());
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip(arguments: &str) -> String {
    ip_in(None, arguments)
}

/// Nexthops with their numbers.
fn nexthops() -> Vec<(u32, String)> {
    let numbered = |line: &str| {
        let (id, rest) = line.strip_prefix("id ").unwrap().split_once(' ').unwrap();
        (id.parse().unwrap(), rest.trim().to_owned())
    };
    ip("-d nexthop").lines().map(numbered).collect()
}

fn groups() -> BTreeSet<u32> {
    nexthops().into_iter().filter(|(_, text)| text.starts_with("group")).map(|(id, _)| id).collect()
}

/// Everything there is of ours.
fn everything() -> String {
    let routes = ["-d route", "-d -6 route"].map(ip);
    format!("{}{}{}", ip("-d nexthop"), routes[0], routes[1])
}

fn link(pod: &PodLink) -> IfName {
    pod.identity.attachment.host_ifname()
}

pub(crate) async fn attach(world: &World, count: u8) -> Vec<PodLink> {
    let mut pods = Vec::new();
    for n in 1..=count {
        let (v6, v4) = (format!("2001:db8::{n:x}"), format!("192.0.2.{n}"));
        let pod = PodLink { anycast: anycast().into(), ..world.pod(&format!("p{n}"), Some(&v6), Some(&v4)) };
        world.kernel.attach(&pod).await.unwrap();
        pods.push(pod);
    }
    pods
}

/// The routes of these pods, and of their shared addresses to `members` of them.
pub(crate) fn wanted<'a>(
    pods: &'a [PodLink],
    protocol: RouteProtocol,
    members: impl IntoIterator<Item = (&'a PodLink, Weight)>,
) -> RouteSet {
    let members: Vec<_> = members.into_iter().collect();
    let own = pods.iter().flat_map(|pod| {
        pod.addresses().map(|address| Route {
            destination: host_prefix(address),
            protocol: pod.protocol_of(address),
            next_hop: NextHop::Link(link(pod)),
        })
    });
    let shared = anycast().into_iter().filter_map(|address| {
        let member = |(pod, weight): &(&PodLink, Weight)| Member {
            gateway: pod.addresses().find(|own| own.is_ipv6() == address.is_ipv6()).unwrap(),
            link: link(pod),
            weight: *weight,
        };
        let members = Members::new(members.iter().map(member))?;
        Some(Route { destination: host_prefix(address), protocol, next_hop: NextHop::Group(members) })
    });
    own.chain(shared).collect()
}

pub(crate) fn all(pods: &[PodLink], protocol: RouteProtocol) -> RouteSet {
    wanted(pods, protocol, pods.iter().map(|pod| (pod, Weight::Full)))
}

pub(crate) async fn sync(kernel: &KernelNetlink, wanted: &RouteSet) -> (usize, usize) {
    let diff = kernel.sync_routes(&|_| wanted.clone()).await.unwrap();
    (diff.replace.len(), diff.remove.len())
}

#[test]
fn the_kernel_has_what_was_meant() {
    on_node(async |world| {
        let pods = attach(world, 2).await;
        let members = [(&pods[0], Weight::Full), (&pods[1], Weight::Least)];
        sync(&world.kernel, &wanted(&pods, RouteProtocol::Announce, members)).await;
        let there = nexthops();
        assert!(there.iter().all(|(id, _)| NEXTHOP_IDS.contains(id)), "{there:#?}");
        let id_of = |text: &str| there.iter().find(|(_, found)| found == text).map(|(id, _)| *id);
        for (shared, own) in anycast().into_iter().zip([0, 1]) {
            let ids = pods.iter().map(|pod| {
                let gateway = pod.addresses().nth(own).unwrap();
                id_of(&format!("via {gateway} dev {} scope link proto 118 onlink", link(pod)))
            });
            let ids: Vec<u32> = ids.map(Option::unwrap).collect();
            let group = format!(
                "group {},255/{} type resilient buckets 4096 idle_timer 60 unbalanced_timer 0 unbalanced_time 0 scope global proto 118",
                ids[0], ids[1]
            );
            let group = id_of(&group).unwrap_or_else(|| panic!("{group}: {there:#?}"));
            let family = if shared.is_ipv6() { "-6" } else { "-4" };
            let route = ip(&format!("{family} route show {shared}"));
            assert!(route.contains(&format!("nhid {group} ")) && route.contains("proto 117"), "{route}");
        }
        assert_eq!(there.len(), 6);
        sync(&world.kernel, &RouteSet::default()).await;
        assert_eq!(nexthops(), []);
    });
}

#[test]
fn nexthops_of_others_survive_and_their_numbers_are_not_used() {
    on_node(async |world| {
        let (next, pods) = (*NEXTHOP_IDS.start(), attach(world, 2).await);
        // On the number that is next, in the range, under our protocol outside of it, in a group and a route.
        ip(&format!("nexthop add id {next} via 192.0.2.1 dev {} onlink proto 4", link(&pods[0])));
        ip(&format!("nexthop add id {} blackhole proto 4", next + 2));
        ip("nexthop add id 7 blackhole proto 118");
        ip(&format!("nexthop add id 8 group {next} proto 118"));
        ip(&format!("nexthop add id {} group 7 proto 4", next + 3));
        ip("route add 203.0.113.1/32 nhid 8 proto 4");
        let (foreign, route) = (nexthops(), ip("route show 203.0.113.1"));
        // Each family has its ways and a group; who is or was alone with IPv4 has a twin.
        for (count, own) in [(1, 5), (2, 7), (1, 5), (0, 0), (2, 6)] {
            let members = pods[..count].iter().map(|pod| (pod, Weight::Full));
            sync(&world.kernel, &wanted(&pods, RouteProtocol::Announce, members)).await;
            let there = nexthops();
            assert!(foreign.iter().all(|object| there.contains(object)), "{there:#?}");
            assert_eq!(there.len(), foreign.len() + own);
        }
        sync(&world.kernel, &RouteSet::default()).await;
        assert_eq!((nexthops(), ip("route show 203.0.113.1")), (foreign, route));
    });
}

#[test]
fn a_restarted_agent_finds_everything_as_it_was() {
    for spread in ALL {
        on_node_with(spread, async move |world| {
            let pods = attach(world, 3).await;
            let members = [(&pods[0], Weight::Full), (&pods[1], Weight::Full), (&pods[2], Weight::Least)];
            let wanted = wanted(&pods, RouteProtocol::Announce, members);
            sync(&world.kernel, &wanted).await;
            let (before, monitor) = (everything(), Monitor::start());
            let restarted = KernelNetlink::with_spread(spread).unwrap();
            for _ in 0..2 {
                assert_eq!(sync(&restarted, &wanted).await, (0, 0), "{spread:?}");
            }
            assert_eq!((monitor.news(), everything()), (vec![], before), "{spread:?}");
        });
    }
}

#[test]
fn the_kernel_of_this_node_is_asked_what_it_can_do_and_keeps_nothing_of_it() {
    on_node(async |world| {
        world.kernel.prepare_node().await.unwrap();
        assert_eq!(nexthops(), []);
    });
}

#[test]
fn a_change_of_protocol_only_writes_the_route_and_a_change_of_members_only_the_group() {
    on_node(async |world| {
        let pods = attach(world, 3).await;
        let two = |protocol| wanted(&pods, protocol, pods[..2].iter().map(|pod| (pod, Weight::Full)));
        sync(&world.kernel, &two(RouteProtocol::Announce)).await;
        let (numbers, monitor) = (groups(), Monitor::start());
        let sorted = |mut news: Vec<News>| {
            news.sort_unstable();
            news
        };
        for protocol in [RouteProtocol::Quiet, RouteProtocol::Announce] {
            sync(&world.kernel, &two(protocol)).await;
            assert_eq!(sorted(monitor.news()), sorted(anycast().map(News::Written).into()));
        }
        let draining =
            wanted(&pods, RouteProtocol::Announce, [(&pods[0], Weight::Full), (&pods[1], Weight::Least)]);
        // A way and a group for each family; groups alone; groups, and a way that is not needed any more.
        let steps =
            [(all(&pods, RouteProtocol::Announce), 4), (two(RouteProtocol::Announce), 4), (draining, 2)];
        for (set, count) in steps {
            assert_eq!(sync(&world.kernel, &set).await, (2, 0));
            // IPv6 tells of the routes of a group that changed, too.
            let news: Vec<News> = monitor.news().into_iter().filter(|news| *news == News::Nexthop).collect();
            assert_eq!(news.len(), count, "{set:#?}");
            assert_eq!(groups(), numbers);
        }
    });
}

#[test]
fn drift_is_repaired() {
    on_node(async |world| {
        let pods = attach(world, 2).await;
        let wanted = all(&pods, RouteProtocol::Announce);
        sync(&world.kernel, &wanted).await;
        let settled: Vec<String> = nexthops().into_iter().map(|(_, text)| text).collect();
        assert_eq!(settled.len(), 6);
        // Of IPv4, and the first of its group.
        let numbers = || {
            let there = nexthops();
            let starts = |start: &str| there.iter().find(|(_, text)| text.starts_with(start)).unwrap().0;
            let way = starts("via 192.0.2.1 ");
            (way.to_string(), starts(&format!("group {way}")).to_string())
        };
        let spare = NEXTHOP_IDS.end() - 9;
        let drifts = [
            "nexthop del id WAY",
            "nexthop del id GROUP",
            "route del 198.51.100.200",
            "-6 route del 2001:db8:a::1",
            "nexthop replace id GROUP group WAY type resilient buckets 4096 idle_timer 60 unbalanced_timer 0 proto 118",
            "nexthop replace id GROUP group WAY,9 type resilient buckets 4096 proto 118",
            "nexthop replace id GROUP group WAY type resilient buckets 4096 idle_timer 5 proto 118",
            "nexthop replace id GROUP group WAY type resilient buckets 4096 proto 4",
            "nexthop add id SPARE blackhole proto 118",
            "nexthop add id SPARE group WAY proto 118",
            "route replace 198.51.100.200 dev LINK proto 117",
            "-6 route replace unreachable 2001:db8:a::1 proto 118",
            "route replace 198.51.100.200 nhid GROUP proto 118 src 192.0.2.99",
        ];
        ip("addr add 192.0.2.99/32 dev lo");
        for drift in drifts {
            let (way, group) = numbers();
            let drift = drift
                .replace("WAY", &way)
                .replace("GROUP", &group)
                .replace("SPARE", &spare.to_string())
                .replace("LINK", link(&pods[0]).as_str());
            ip(&drift);
            sync(&world.kernel, &wanted).await;
            assert_eq!(sync(&world.kernel, &wanted).await, (0, 0), "after ip {drift}");
            let there: Vec<(u32, String)> = nexthops();
            let ours = there.iter().filter(|(_, text)| !text.contains("proto 4"));
            assert_eq!(ours.count(), 6, "after ip {drift}: {there:#?}");
            ip("nexthop flush proto 4");
            sync(&world.kernel, &wanted).await;
        }
    });
}

/// No way leads there, or only one the kernel does not take: without nexthop objects it keeps such a way in
/// mind, to take it again when the link is back.
fn is_out_of_use(route: &str, link: &IfName) -> bool {
    let mut ways = route.lines().filter(|line| line.contains(link.as_str()));
    ways.all(|line| line.contains("linkdown"))
}

#[test]
fn a_link_set_down_and_up_is_mended() {
    for spread in ALL {
        on_node_with(spread, async move |world| {
            world.kernel.prepare_node().await.unwrap();
            let pods = attach(world, 2).await;
            let wanted = all(&pods, RouteProtocol::Announce);
            sync(&world.kernel, &wanted).await;
            let before = ip("-6 route") + &ip("route");
            let name = link(&pods[0]);
            ip(&format!("link set {name} down"));
            sync(&world.kernel, &wanted).await;
            assert!(is_out_of_use(&ip("route show 198.51.100.200"), &name), "{spread:?}");
            ip(&format!("link set {name} up"));
            let notices = world.kernel.tend_links().await.unwrap().notices;
            assert_eq!(notices, [format!("{name} had lost its gateway address fe80::1, added")]);
            sync(&world.kernel, &wanted).await;
            let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<String>>();
            // Nor with the twin of the other, which is there to stay.
            let without_numbers = |text: &str| {
                let lines = sorted(text).into_iter().filter(|line| !line.contains("weight 1 "));
                lines.map(|line| line.split(" nhid ").next().unwrap().to_owned()).collect::<BTreeSet<_>>()
            };
            assert_eq!(without_numbers(&(ip("-6 route") + &ip("route"))), without_numbers(&before));
            assert_eq!(sync(&world.kernel, &wanted).await, (0, 0));
            let state = world.kernel.inspect(&pods[0].identity.attachment, None).await.unwrap().unwrap();
            assert!(state.host.has_gateway);
            assert_eq!(state.host.neighbours.len(), 2);
            assert_eq!(world.kernel.tend_links().await.unwrap().notices, Vec::<String>::new());
        });
    }
}

#[test]
fn a_pod_that_takes_its_interface_down_is_left_out_until_it_is_back() {
    for spread in ALL {
        on_node_with(spread, async move |world| {
            let pods = attach(world, 2).await;
            let wanted = all(&pods, RouteProtocol::Announce);
            let route = || ip("route show 198.51.100.200") + &ip("-6 route show 2001:db8:a::1");
            sync(&world.kernel, &wanted).await;
            ip_in(Some(&pods[0].netns), "link set eth0 down");
            eventually("the kernel has noticed", || is_out_of_use(&route(), &link(&pods[0])));
            for _ in 0..2 {
                sync(&world.kernel, &wanted).await;
                let route = route();
                assert!(is_out_of_use(&route, &link(&pods[0])), "{spread:?}: {route}");
                assert!(route.matches(link(&pods[1]).as_str()).count() >= 2, "{spread:?}: {route}");
            }
            assert!(ip("route show 192.0.2.1").contains("linkdown"), "its own route stays");
            ip_in(Some(&pods[0].netns), "link set eth0 up");
            eventually("the kernel has noticed", || {
                ip(&format!("link show {}", link(&pods[0]))).contains("state UP")
            });
            sync(&world.kernel, &wanted).await;
            assert_eq!(route().matches(link(&pods[0]).as_str()).count(), 2, "{spread:?}");
            assert_eq!(sync(&world.kernel, &wanted).await, (0, 0), "{spread:?}");
        });
    }
}

#[test]
fn another_kernel_takes_over_what_the_one_before_could_do() {
    on_node(async |world| {
        let pods = attach(world, 3).await;
        let wanted = all(&pods, RouteProtocol::Announce);
        for spread in [0, 1, 2, 1, 0, 2, 0].map(|at: usize| ALL[at]) {
            let kernel = KernelNetlink::with_spread(spread).unwrap();
            assert_eq!(sync(&kernel, &wanted).await.0, 2, "{spread:?}");
            assert_eq!(sync(&kernel, &wanted).await, (0, 0), "{spread:?}");
            let objects = if spread == Spread::Multipath { 0 } else { 8 };
            assert_eq!(nexthops().len(), objects, "{spread:?}");
            assert_eq!(world.routes().await.iter().filter(|(_, number, _)| *number == 117).count(), 8);
        }
    });
}

#[test]
fn who_is_left_alone_behind_flocks_back_is_completed() {
    on_node(async |world| {
        let pods = attach(world, 2).await;
        sync(&world.kernel, &all(&pods, RouteProtocol::Announce)).await;
        ip(&format!("link del {}", link(&pods[1])));
        let left = all(&pods[..1], RouteProtocol::Announce);
        let numbers = groups();
        // Nothing is wrong with the routes.
        assert_eq!(sync(&world.kernel, &left).await, (0, 0));
        let twins = nexthops().into_iter().filter(|(_, text)| text.starts_with("via 192.0.2.1 ")).count();
        assert_eq!((twins, groups()), (2, numbers));
        let monitor = Monitor::start();
        assert_eq!(sync(&world.kernel, &left).await, (0, 0));
        assert_eq!(monitor.news(), []);
    });
}

#[test]
fn everybody_hears_when_the_last_pod_leaves() {
    for spread in ALL {
        on_node_with(spread, async move |world| {
            let pods = attach(world, 2).await;
            sync(&world.kernel, &all(&pods, RouteProtocol::Announce)).await;
            let monitor = Monitor::start();
            for (pod, is_last) in pods.iter().zip([false, true]) {
                world.detach(pod).await;
                let news = monitor.news();
                for address in anycast() {
                    let removed = news.contains(&News::Removed(address));
                    assert_eq!(removed, is_last, "{spread:?} {address}: {news:?}");
                }
            }
            assert_eq!(nexthops(), []);
        });
    }
}

#[test]
fn everybody_hears_when_the_last_link_that_nobody_owns_is_discarded() {
    for spread in ALL {
        on_node_with(spread, async move |world| {
            let pods = attach(world, 1).await;
            sync(&world.kernel, &all(&pods, RouteProtocol::Announce)).await;
            world.remove_alias(&pods[0].identity.attachment).await;
            let monitor = Monitor::start();
            let seen = world.kernel.tend_links().await.unwrap().links.remove(0);
            world.kernel.discard(&seen).await.unwrap();
            let news = monitor.news();
            let destinations = anycast().into_iter().chain(pods[0].addresses());
            for gone in destinations.map(News::Removed) {
                assert!(news.contains(&gone), "{spread:?}: {news:?} without {gone:?}");
            }
            assert_eq!(world.routes().await, BTreeSet::new());
            assert_eq!(nexthops(), []);
        });
    }
}

#[test]
fn the_kernel_does_not_tell_that_an_ipv4_route_went_with_its_last_nexthop() {
    // Why a detach removes such routes itself. If this fails the kernel has become better.
    on_node(async |world| {
        let pods = attach(world, 1).await;
        sync(&world.kernel, &all(&pods, RouteProtocol::Announce)).await;
        let monitor = Monitor::start();
        ip(&format!("link set {} down", link(&pods[0])));
        let news = monitor.news();
        let told = anycast().map(|address| news.contains(&News::Removed(address)));
        assert_eq!(told, [true, false], "{news:?}");
        assert_eq!(ip("route show 198.51.100.200"), "");
    });
}

#[test]
fn passes_and_detaches_take_turns() {
    for spread in ALL {
        on_node_with(spread, async move |world| {
            let pods = attach(world, 6).await;
            let (stay, go) = pods.split_at(3);
            let (everybody, left) = (all(&pods, RouteProtocol::Announce), all(stay, RouteProtocol::Announce));
            sync(&world.kernel, &everybody).await;
            let pass = |set: &RouteSet| {
                let set = set.clone();
                // Whatever it meets on its way out of a group, the next one is right.
                async move { drop(world.kernel.sync_routes(&move |_| set.clone()).await) }
            };
            let passes = join_all([&everybody, &left, &everybody, &left].map(pass));
            futures::join!(passes, join_all(go.iter().map(|pod| world.detach(pod))));
            sync(&world.kernel, &left).await;
            assert_eq!(sync(&world.kernel, &left).await, (0, 0), "{spread:?}");
            let objects = if spread == Spread::Multipath { 0 } else { 8 };
            assert_eq!(nexthops().len(), objects, "{spread:?}");
        });
    }
}
