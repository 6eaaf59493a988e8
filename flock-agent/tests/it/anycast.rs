//! The life of an advertised address (interfaces.md section 9), from a pod's manifest to a router's kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{TestNode, eventually};
use crate::netns::{Netns, family, netns_available};
use crate::object::{Says, pod};
use crate::site::Site;

const BOTH: [&str; 2] = ["2001:db8:a::1", "203.0.113.1"];

/// Both of them, as an annotation.
const ANYCAST: &str = "2001:db8:a::1, 203.0.113.1";

#[test]
fn the_last_eligible_pod_takes_its_address_with_it_and_drains_until_its_del() {
    let Some(site) = Site::start() else { return };
    let pod = site.pod("web", ANYCAST);
    for (leaves, comes_back) in [(Says::NotReady, true), (Says::Terminating, false)] {
        site.wait_announced(&BOTH);
        site.say(&pod, leaves);
        for address in BOTH {
            site.wait_withdrawn(&[address]);
            assert!(site.node.route_to(address).contains("proto 118"), "{leaves:?}: {address} drains");
        }
        if comes_back {
            site.say(&pod, Says::Ready);
        }
    }
    site.del(&pod);
    assert_eq!(BOTH.map(|address| site.node.route_to(address)), ["", ""]);
}

#[test]
fn a_pod_whose_object_is_deleted_is_withdrawn_and_drains_until_its_del() {
    let Some(site) = Site::start() else { return };
    let pod = site.pod("web", ANYCAST);
    site.wait_announced(&BOTH);
    site.forget(&pod);
    for address in BOTH {
        site.wait_withdrawn(&[address]);
        assert!(site.node.route_to(address).contains("proto 118"), "{address} drains");
    }
    site.del(&pod);
    assert_eq!(BOTH.map(|address| site.node.route_to(address)), ["", ""]);
}

#[test]
fn an_address_two_pods_share_stays_at_the_router_until_the_second_one_leaves() {
    let Some(site) = Site::start() else { return };
    let first = site.pod("first", ANYCAST);
    site.wait_announced(&BOTH);
    let watch = site.watch();
    let second = site.pod("second", ANYCAST);
    wait_for_members(&site.node, &BOTH, 2);
    // The one that came first leaves first, in the order kubelet does it.
    site.say(&first, Says::Terminating);
    site.del(&first);
    site.forget(&first);
    wait_for_members(&site.node, &BOTH, 1);
    for address in BOTH {
        assert!(site.is_announced(address));
        assert_eq!(watch.of(address), Vec::<String>::new(), "{address} never changed at the router");
    }
    site.say(&second, Says::NotReady);
    site.wait_withdrawn(&BOTH);
}

#[test]
fn an_address_under_a_covering_aggregate_comes_and_goes_on_its_own() {
    let Some(site) = Site::start() else { return };
    // Inside the node's own pools, which are announced all the time.
    let covered = ["2001:db8:f001::a:1", "198.51.100.200"];
    let watch = site.watch();
    let pod = site.pod("web", &covered.join(", "));
    site.wait_announced(&covered);
    site.say(&pod, Says::NotReady);
    site.wait_withdrawn(&covered);
    for pool in ["2001:db8:f001::/64", "198.51.100.0/24"] {
        assert!(site.is_announced(pool));
        assert_eq!(watch.of(pool), Vec::<String>::new());
    }
}

#[test]
fn a_pod_that_vanishes_while_the_agent_is_dead_is_withdrawn_by_the_kernel_alone() {
    let Some(site) = Site::start() else { return };
    let pod = site.pod("web", ANYCAST);
    site.wait_announced(&BOTH);
    site.node.kill();
    drop(pod.netns);
    site.wait_withdrawn(&BOTH);
    site.node.start();
    site.node.wait_ready();
    site.node.del("web").unwrap();
    let left = || {
        let links = site.node.netns.output("ip", &["-o", "link", "show", "type", "veth"]);
        let links = links.lines().filter(|link| link.contains("flock")).count();
        format!("{links} links, {} {}", site.node.report()["allocations"], kernel_of(&site.node))
    };
    let pools =
        "unreachable 2001:db8:f001::/64 dev lo metric 1024 pref medium\nunreachable 198.51.100.0/24 \n";
    let nothing = format!("0 links, [] {pools}0 nexthops of no use\n");
    eventually("nothing is left", || left() == nothing, left);
}

#[test]
fn readiness_that_flaps_ends_as_it_should_leaks_nothing_and_moves_no_other_prefix() {
    let Some(site) = Site::start() else { return };
    let flapping = site.pod("flapping", "2001:db8:a::1, 203.0.113.1, 2001:db8:a::2, 203.0.113.2");
    let _steady = site.pod("steady", "2001:db8:a::2, 203.0.113.2, 2001:db8:a::3, 203.0.113.3");
    let steady = ["2001:db8:a::2", "203.0.113.2", "2001:db8:a::3", "203.0.113.3"];
    site.wait_announced(&BOTH);
    site.wait_announced(&steady);
    let kernel = || kernel_of(&site.node);
    wait_for_members(&site.node, &["2001:db8:a::2", "203.0.113.2"], 2);
    let before = kernel();
    let watch = site.watch();
    let began = Instant::now();
    for flap in 0_u32..100 {
        site.say(&flapping, if flap % 2 == 0 { Says::NotReady } else { Says::Ready });
        // Faster than 10 Hz, slow enough that most of them are seen.
        sleep((began + Duration::from_millis(30) * flap).saturating_duration_since(Instant::now()));
    }
    eventually(
        "the kernel has what it had",
        || kernel() == before,
        || format!("{}\nnot\n{before}", kernel()),
    );
    site.wait_announced(&BOTH);
    site.say(&flapping, Says::NotReady);
    site.wait_withdrawn(&BOTH);
    for address in BOTH {
        assert!(watch.of(address).len() > 4, "{address} did flap: {:?}", watch.of(address));
    }
    for prefix in steady.into_iter().chain(["2001:db8:f001::/64", "198.51.100.0/24"]) {
        assert_eq!(watch.of(prefix), Vec::<String>::new(), "{prefix} never changed at the router");
    }
}

/// Waits until that many pods get packets of these addresses.
fn wait_for_members(node: &TestNode, addresses: &[&str], count: usize) {
    let members = |address: &str| {
        let route = node.route_to(address);
        let words: Vec<&str> = route.split_whitespace().collect();
        let gateways = words.windows(2).filter(|pair| pair[0] == "via").map(|pair| pair[1]);
        gateways.collect::<BTreeSet<_>>().len()
    };
    let what = format!("{count} pods are members");
    eventually(&what, || addresses.iter().all(|address| members(address) == count), || kernel_of(node));
}

/// Routes of ours, without numbers of nexthops, which may be others after a repair, and without the second entry
/// of a member that is or was alone; and how many nexthops nobody uses.
fn kernel_of(node: &TestNode) -> String {
    let mut routes = String::new();
    for family in ["-6", "-4"] {
        for protocol in ["117", "118"] {
            routes += &node.netns.output("ip", &[family, "route", "show", "proto", protocol]);
        }
    }
    let twin_of = |line: &str| routes.contains(&line.replace(" weight 1 ", " weight 255 "));
    let lines = routes.lines().filter(|line| !(line.contains(" weight 1 ") && twin_of(line)));
    let lines = lines.map(|line| match line.split_once(" nhid ") {
        Some((before, after)) => format!("{before} {}\n", after.split_once(' ').map_or("", |(_, rest)| rest)),
        None => format!("{line}\n"),
    });
    let objects = nexthops(node);
    let used = |id: &str| {
        let in_group = |text: &String| {
            let words: Vec<&str> = text.split(' ').collect();
            let members = words.windows(2).find(|pair| pair[0] == "group").map_or("", |pair| pair[1]);
            members.split('/').any(|member| member.split(',').next() == Some(id))
        };
        routes.contains(&format!(" nhid {id} ")) || objects.values().any(in_group)
    };
    let unused = objects.keys().filter(|id| !used(id)).count();
    format!("{}{unused} nexthops of no use\n", lines.collect::<String>())
}

/// Our nexthop objects by number.
fn nexthops(node: &TestNode) -> BTreeMap<String, String> {
    let shown = node.netns.output("ip", &["-d", "nexthop"]);
    let ours = shown.lines().filter(|line| line.contains("proto 118"));
    ours.map(|line| (line.split(' ').nth(1).unwrap().to_owned(), line.to_owned())).collect()
}

/// A pod on a node without BIRD.
fn add(node: &TestNode, name: &str, anycast: &str) -> Netns {
    let netns = Netns::new();
    let object = pod(name, &[("anycast", anycast)]);
    node.put(&object);
    node.add_pod(&object, &netns).unwrap();
    netns
}

#[test]
fn the_kernel_has_what_is_wanted_again_whatever_somebody_did_to_it() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let _pods: Vec<Netns> = ["a", "b", "c"].iter().map(|name| add(&node, name, ANYCAST)).collect();
    let kernel = || kernel_of(&node);
    wait_for_members(&node, &BOTH, 3);
    let wanted = kernel();
    // Somebody else's, in the way of numbers as well.
    node.netns.ip("nexthop add id 7 blackhole proto 4");
    node.netns.ip("nexthop add id 8 via 192.0.2.99 dev lo onlink proto 4");
    let foreign = || {
        let shown = node.netns.output("ip", &["nexthop"]);
        shown.lines().filter(|line| line.starts_with("id 7 ") || line.starts_with("id 8 ")).count()
    };

    let delete_routes = || {
        for address in BOTH {
            node.netns.ip(&format!("{} route del {address}", family(address)));
        }
    };
    let delete_nexthops = || {
        // A group goes with its last member.
        for id in nexthops(&node).keys() {
            node.netns.output("ip", &["nexthop", "del", "id", id]);
        }
    };
    let bounce_links = || {
        let links = node.netns.output("ip", &["-br", "link", "show", "type", "veth"]);
        for link in links.lines().filter_map(|line| line.split(['@', ' ']).next()) {
            node.netns.ip(&format!("link set {link} down"));
            node.netns.ip(&format!("link set {link} up"));
        }
    };
    let nothing = || ();
    let disturbances: [(&str, &dyn Fn()); 4] = [
        ("nothing", &nothing),
        ("routes deleted", &delete_routes),
        ("nexthops deleted", &delete_nexthops),
        ("links down and up", &bounce_links),
    ];
    let settled = |what: &str| {
        eventually(what, || kernel() == wanted, || format!("{}\nnot\n{wanted}\n{}", kernel(), node.log()));
        assert_eq!(foreign(), 2, "{what}");
    };
    for (what, disturb) in disturbances {
        node.kill();
        disturb();
        node.start();
        node.wait_ready();
        settled(&format!("{what}, and the agent restarted"));
    }
    // And under an agent that runs, all at once, since it looks every 10 s only.
    delete_routes();
    delete_nexthops();
    bounce_links();
    settled("everything, while the agent runs");
}

/// A connection to a pod, both ends.
struct Connection {
    pod: usize,
    outer: TcpStream,
    inner: TcpStream,
}

impl Connection {
    fn open(listeners: &[TcpListener], client: &Netns, to: SocketAddr) -> Self {
        let outer = client.run(|| TcpStream::connect(to).unwrap());
        let mut accepted = None;
        let mut accept = || {
            accepted = listeners.iter().enumerate().find_map(|(pod, it)| Some((pod, it.accept().ok()?.0)));
            accepted.is_some()
        };
        eventually("a pod accepts", &mut accept, String::new);
        let (pod, inner) = accepted.unwrap();
        inner.set_nonblocking(false).unwrap();
        for end in [&outer, &inner] {
            end.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        Self { pod, outer, inner }
    }

    /// Both ends say something.
    fn speak(&mut self) {
        self.outer.write_all(b"?").unwrap();
        self.inner.write_all(b"!").unwrap();
    }

    /// Both ends hear what was said.
    fn hear(&mut self) -> std::io::Result<()> {
        let mut heard = [0];
        self.inner.read_exact(&mut heard)?;
        self.outer.read_exact(&mut heard)
    }
}

/// `nft` in the node's namespace.
fn nft(node: &TestNode, rules: &str) {
    let output = node.netns.run(|| Command::new("nft").arg(rules).output().unwrap());
    assert!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn connections_of_a_pod_to_an_address_of_its_node_survive_a_second_and_a_half_of_silence() {
    let nft_works = Command::new("nft").arg("--version").output().is_ok_and(|done| done.status.success());
    if !netns_available() || !flock_core::testing::require("nft", nft_works) {
        return;
    }
    let node = TestNode::serving();
    let policy = node.netns.output("cat", &["/proc/sys/net/ipv4/fib_multipath_hash_policy"]);
    if !flock_core::testing::require("a kernel that hashes inner fields of its choice", policy.trim() == "3")
    {
        return;
    }
    let pods: Vec<Netns> = ["a", "b", "c", "d"].iter().map(|name| add(&node, name, ANYCAST)).collect();
    let client = Netns::new();
    node.add("client", &client).unwrap();
    wait_for_members(&node, &BOTH, 4);
    let mut connections = Vec::new();
    for address in BOTH {
        let to = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 5353);
        let listen = |pod: &Netns| {
            pod.run(|| {
                let listener = TcpListener::bind(to).unwrap();
                listener.set_nonblocking(true).unwrap();
                listener
            })
        };
        let listeners: Vec<TcpListener> = pods.iter().map(listen).collect();
        connections.extend((0..40).map(|_| (address, Connection::open(&listeners, &client, to))));
    }
    let speak = |connections: &mut Vec<(&str, Connection)>| {
        for (_, connection) in connections {
            connection.speak();
        }
    };
    let hear = |connections: &mut Vec<(&str, Connection)>, when: &str| {
        for (address, connection) in connections {
            let pod = connection.pod;
            connection.hear().unwrap_or_else(|error| panic!("{when}, {address}, pod {pod}: {error}"));
        }
    };
    speak(&mut connections);
    hear(&mut connections, "before");
    // Every packet between pods. How long it lasts is what this is about: three retransmissions.
    nft(
        &node,
        "add table inet loss; add chain inet loss between { type filter hook forward priority 0; policy drop; }",
    );
    speak(&mut connections);
    sleep(Duration::from_millis(1500));
    nft(&node, "delete table inet loss");
    hear(&mut connections, "after the loss");
    speak(&mut connections);
    hear(&mut connections, "later");
}
