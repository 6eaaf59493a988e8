//! No open window: what is forbidden is tried as fast as it goes, while pods come and go, the agent dies and policies
//! are edited. Not one packet arrives, and a connection that is admitted all the while does not miss one.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use flock_cni::error::code;
use flock_cni::wire::Add;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use serde_json::{Value, json};

use super::flow::{Flow, Flows, TCP_PING, TCP_PUSH, UDP_PING, UDP_PUSH};
use super::server::Servers;
use super::table::{Entry, check_now};
use super::world::{OUTSIDE, World, pod, policy};
use crate::harness::{TestNode, add_of, annotations, attachment, eventually};
use crate::netns::{Netns, netns_available};
use crate::object::text;

/// So many pods at a time, one in each room.
const ROOMS: u8 = 8;

/// What pods try to reach outside.
const LURE: u16 = 7777;

/// A namespace that one pod after another gets, always with the same addresses, and that answers before they come.
struct Room {
    number: u8,
    pods: AtomicU64,
    netns: Netns,
    addresses: [IpAddr; 2],
}

impl Room {
    fn new(number: u8) -> Self {
        let v4 = format!("198.51.100.{}", 64 + number).parse().unwrap();
        let v6 = format!("2001:db8:f001::5:{number:x}").parse().unwrap();
        Self { number, pods: AtomicU64::new(0), netns: Netns::new(), addresses: [v4, v6] }
    }

    /// A pod that has not been there yet.
    fn next(&self) -> Value {
        let count = self.pods.fetch_add(1, Ordering::Relaxed);
        let mut object = pod("x", "c");
        object["metadata"]["name"] = json!(format!("room-{}-{count}", self.number));
        object["metadata"]["uid"] = json!(format!("uid-of-room-{}-{count}", self.number));
        object["metadata"]["annotations"] = json!({crate::object::annotation("addresses"): self.asked()});
        object
    }

    fn asked(&self) -> String {
        let [v4, v6] = self.addresses;
        format!("{v4}, {v6}")
    }

    /// Its ADD as a runtime sends it that hands annotations over: the object need not be known.
    fn add(&self, object: &Value) -> Add {
        let add = add_of(object, &self.netns);
        let annotations = Some(annotations(&[("addresses", &self.asked())]));
        Add { attachment: attachment(text(object, "uid")), annotations, ..add }
    }

    /// Packets of TCP and UDP that have come in since the namespace was made, whatever became of them.
    fn arrived(&self) -> u64 {
        let read = |name: &str| {
            self.netns.run(|| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap())
        };
        counters(&read("snmp")) + counters6(&read("snmp6"))
    }

    /// Attaches the next pod; `None` where the agent died meanwhile, and the pod was taken back.
    fn come(&self, node: &TestNode) -> Option<Value> {
        let object = self.next();
        node.put(&object);
        match node.add_with(self.add(&object)) {
            Ok(_) => Some(object),
            Err(error) => {
                assert_eq!(error.code(), code::TRY_AGAIN, "{error}");
                self.go(node, &object);
                None
            }
        }
    }

    fn go(&self, node: &TestNode, object: &Value) {
        let container = text(object, "uid");
        eventually(
            "DEL succeeds",
            || node.del(container).is_ok(),
            || format!("{}\n{}", self.asked(), node.log()),
        );
        node.delete(object);
    }

    /// One pod after the other comes and goes. Its object is there before it or comes later, goes before it or after.
    fn cycle(&self, node: &TestNode, pods: usize) {
        for count in 0..pods {
            let object = self.next();
            if count % 2 == 0 {
                node.put(&object);
            }
            node.add_with(self.add(&object)).unwrap();
            if count % 2 == 1 {
                node.put(&object);
            }
            if count % 4 < 2 {
                node.delete(&object);
            }
            node.del(text(&object, "uid")).unwrap();
            if count % 4 >= 2 {
                node.delete(&object);
            }
        }
    }
}

/// The counters of IPv4, and those of TCP, which has none by family.
fn counters(snmp: &str) -> u64 {
    let wanted = [("Tcp:", "InSegs"), ("Udp:", "InDatagrams"), ("Udp:", "NoPorts"), ("Udp:", "InErrors")];
    let lines: Vec<&str> = snmp.lines().collect();
    let rows = lines.chunks_exact(2).flat_map(|pair| {
        let [names, values] = [pair[0], pair[1]].map(|line| line.split(' '));
        let protocol = pair[0].split(' ').next().unwrap();
        names.zip(values).map(move |(name, value)| (protocol, name, value))
    });
    let wanted = rows.filter(|(protocol, name, _)| wanted.contains(&(*protocol, *name)));
    wanted.map(|(_, _, value)| value.parse::<u64>().unwrap()).sum()
}

fn counters6(snmp6: &str) -> u64 {
    let wanted = ["Udp6InDatagrams", "Udp6NoPorts", "Udp6InErrors"];
    let rows = snmp6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    rows.filter(|(name, _)| wanted.contains(name))
        .map(|(_, value)| value.trim().parse::<u64>().unwrap())
        .sum()
}

/// A node with rooms, and all that goes on around them.
struct Siege {
    world: World,
    rooms: Vec<Room>,
    flows: Flows,
    /// What pods reach outside with.
    lure: UdpSocket,
    _servers: Servers,
}

impl Siege {
    fn begin() -> Self {
        let mut world = World::start(1);
        world.apply(&policies(0));
        check_now(&world, "before");
        let rooms: Vec<Room> = (0..ROOMS).map(Room::new).collect();
        let namespaces: Vec<&Netns> = rooms.iter().map(|room| &room.netns).collect();
        let servers = Servers::start(&namespaces, &[80]);
        let lure = world.outside.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, LURE)).unwrap());
        lure.set_nonblocking(true).unwrap();
        let flows = Flows::of(admitted(&world));
        Self { world, rooms, flows, lure, _servers: servers }
    }

    /// Tries what is forbidden while `story` goes on.
    fn during(&self, story: impl FnOnce()) -> Attempts {
        let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let stranger = &self.world.pods[self.world.pod("y/b")];
        let began = self.flows.delivered();
        self.flows.during(|| {
            thread::scope(|scope| {
                for from in [&self.world.outside, &stranger.netns] {
                    let (done, sent) = (&done, &sent);
                    scope.spawn(move || hammer(from, &self.rooms, done, sent));
                }
                scope.spawn(|| escape(&self.rooms, &done, &sent));
                let _ends = Ends(&done);
                story();
            });
            let then = self.flows.delivered();
            let go_on = || self.flows.delivered().into_iter().zip(&then).all(|(now, then)| now > then + 100);
            let otherwise = || format!("{began:?}, {then:?}, {:?}", self.flows.delivered());
            eventually("what is admitted goes on", go_on, otherwise);
        });
        let lost = self.flows.lock().iter().map(|flow| flow.gaps).sum();
        Attempts { sent: sent.load(Ordering::Relaxed), lost }
    }

    fn assert_nothing_arrived(&self, what: &str) {
        let arrived: Vec<u64> = self.rooms.iter().map(Room::arrived).collect();
        assert!(
            arrived.iter().all(|count| *count == 0),
            "packets have reached the rooms while {what}: {arrived:?}"
        );
        assert_eq!(self.escaped(), Vec::new(), "packets that left pods while {what}");
    }

    /// Where packets that reached the outside came from.
    fn escaped(&self) -> Vec<SocketAddr> {
        let mut buffer = [0; 8];
        std::iter::from_fn(|| Some(self.lure.recv_from(&mut buffer).ok()?.1)).collect()
    }

    /// The same attempts are seen as soon as they are not forbidden: it was not for the lack of trying.
    fn assert_attempts_count(&mut self) {
        let node = &self.world.nodes[0];
        let pods = self.rooms.iter().filter_map(|room| room.come(node)).count();
        assert_eq!(pods, self.rooms.len());
        self.world.apply(&[]);
        self.during(|| {
            let seen = || self.rooms.iter().all(|room| room.arrived() > 10) && !self.escaped().is_empty();
            eventually("attempts arrive", seen, || self.world.nodes[0].log());
        });
    }
}

/// What was tried and what became of what is admitted.
struct Attempts {
    /// Packets that were not to arrive.
    sent: u64,
    /// Messages of the admitted connections that have not arrived, although each of these goes on.
    lost: u64,
}

/// Says that it is over, also where the story ends in a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All pods of x are closed both ways, but y/a reaches them, on a port more or less.
fn policies(edits: u16) -> Vec<Value> {
    let friend = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "namespaceSelector": {"matchLabels": {"ns": "y"}}});
    let ports = json!([
        {"port": 7000, "endPort": 7999},
        {"port": 7000, "endPort": 7999, "protocol": "UDP"},
        {"port": 9000 + edits},
    ]);
    let mut spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let closed = policy("x", &spec);
    spec["ingress"] = json!([{"from": [friend], "ports": ports}]);
    if edits % 3 == 1 {
        spec["egress"] = json!([{"ports": [{"port": 9000 + edits}]}]);
    }
    let open = policy("x", &spec);
    // Every few edits the policy that closes is deleted, or made again: another closes as well.
    let closed = Some(closed).filter(|_| edits % 4 < 2);
    Entry::new("", [open].into_iter().chain(closed)).policies
}

/// Connections from y/a to x/a.
fn admitted(world: &World) -> Vec<Flow> {
    let (client, server) = (&world.pods[world.pod("y/a")], &world.pods[world.pod("x/a")]);
    let manners = [TCP_PING, UDP_PING, TCP_PUSH, UDP_PUSH];
    let addresses = [IpAddr::from(server.v4), IpAddr::from(server.v6)];
    let all = addresses.into_iter().flat_map(|address| manners.map(|manner| (address, manner)));
    (7001..)
        .zip(all)
        .map(|(port, (address, manner))| {
            Flow::open(manner, &client.netns, &server.netns, port, SocketAddr::new(address, port))
        })
        .collect()
}

/// Tries to reach every room, over both protocols and both families.
fn hammer(from: &Netns, rooms: &[Room], done: &AtomicBool, sent: &AtomicU64) {
    from.enter();
    let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
    let udp6 = UdpSocket::bind("[::]:0").unwrap();
    while !done.load(Ordering::Relaxed) {
        for address in rooms.iter().flat_map(|room| room.addresses) {
            let target = SocketAddr::new(address, 80);
            let udp = if address.is_ipv4() { &udp } else { &udp6 };
            drop(udp.send_to(b"let me in", target));
            let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let tcp = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
            let _ = connect(tcp.as_raw_fd(), &SockaddrStorage::from(target));
            sent.fetch_add(2, Ordering::Relaxed);
        }
    }
}

/// Tries to reach the outside from every room.
fn escape(rooms: &[Room], done: &AtomicBool, sent: &AtomicU64) {
    let sockets: Vec<UdpSocket> = rooms
        .iter()
        .flat_map(|room| {
            room.netns.run(|| ["0.0.0.0:0", "[::]:0"].map(|address| UdpSocket::bind(address).unwrap()))
        })
        .collect();
    let targets = [IpAddr::from(OUTSIDE.0), IpAddr::from(OUTSIDE.1)].map(|it| SocketAddr::new(it, LURE));
    while !done.load(Ordering::Relaxed) {
        for (socket, target) in sockets.iter().zip(targets.into_iter().cycle()) {
            // As long as there is no pod there is no way.
            let way = socket.send_to(b"out", target);
            sent.fetch_add(u64::from(way.is_ok()), Ordering::Relaxed);
        }
        thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn nothing_reaches_a_closed_pod_while_it_comes_and_goes() {
    if !netns_available() {
        return;
    }
    let mut siege = Siege::begin();
    let attempts = siege.during(|| {
        let node = &siege.world.nodes[0];
        thread::scope(|scope| {
            for room in &siege.rooms {
                scope.spawn(move || room.cycle(node, 25));
            }
        });
    });
    println!("{} packets were sent", attempts.sent);
    assert_eq!(attempts.lost, 0, "messages that were admitted");
    siege.assert_nothing_arrived("200 pods came and went");
    siege.assert_attempts_count();
}

#[test]
fn nothing_reaches_a_closed_pod_while_its_agent_is_killed() {
    survive_restarts(20);
}

#[test]
#[ignore = "takes minutes"]
fn nothing_reaches_a_closed_pod_while_its_agent_is_killed_often() {
    survive_restarts(200);
}

/// Every other agent dies while pods come and go, the others while they stay.
fn survive_restarts(times: u64) {
    if !netns_available() {
        return;
    }
    let mut siege = Siege::begin();
    let attempts = siege.during(|| {
        let node = &siege.world.nodes[0];
        let restart = |time: u64| {
            thread::sleep(Duration::from_millis(10 * (time % 7)));
            node.kill();
            node.start();
            node.wait_ready();
        };
        for time in 0..times {
            if time % 2 == 0 {
                let done = AtomicBool::new(false);
                thread::scope(|scope| {
                    for room in &siege.rooms {
                        scope.spawn(|| {
                            while !done.load(Ordering::Relaxed) {
                                room.come(node).inspect(|object| room.go(node, object));
                            }
                        });
                    }
                    let _ends = Ends(&done);
                    restart(time);
                });
            } else {
                let pods: Vec<_> = siege.rooms.iter().map(|room| (room, room.come(node).unwrap())).collect();
                restart(time);
                for (room, object) in &pods {
                    room.go(node, object);
                }
            }
        }
    });
    println!("{} packets were sent", attempts.sent);
    // The table of the agent before stays as it is: written as a whole it may cost a packet that is in the middle.
    assert_eq!(attempts.lost, 0, "messages that were admitted");
    siege.assert_nothing_arrived("agents died");
    siege.assert_attempts_count();
}

#[test]
fn nothing_reaches_a_closed_pod_while_its_policies_are_edited() {
    if !netns_available() {
        return;
    }
    let mut siege = Siege::begin();
    let node = &siege.world.nodes[0];
    let pods: Vec<_> = siege.rooms.iter().map(|room| (room, room.come(node).unwrap())).collect();
    let changes = || node.log().matches("firewall changed").count();
    let attempts = siege.during(|| {
        let mut old = policies(0);
        // The last ones have the names of the first, which is what the world knows of.
        for edit in 1..=100 {
            let (before, new) = (changes(), policies(edit));
            for policy in &new {
                node.put(policy);
            }
            for gone in old.iter().skip(new.len()) {
                node.delete(gone);
            }
            eventually("the edit is in force", || changes() > before, || node.log());
            old = new;
        }
    });
    println!("{} packets were sent", attempts.sent);
    assert_eq!(attempts.lost, 0, "messages that were admitted");
    siege.assert_nothing_arrived("policies were edited");
    for (room, object) in &pods {
        room.go(node, object);
    }
    siege.assert_attempts_count();
}
