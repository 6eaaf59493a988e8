//! What the packet filter costs a packet: `cargo run --release -p flock-netlink --example packet_cost [ROUNDS]`, as root.
//! Two pods on one node, in network namespaces of their own, send each other UDP datagrams; the table changes in turns, so that
//! what else the machine does costs all the same.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::ids::AttachmentId;
use flock_core::ipam::Addresses;
use flock_core::policy::{
    Action, Chain, ChainId, Direction, End, Gate, Peer, PeerId, Place, PodRules, Rule, Ruleset, Stamp, Tier,
};
use flock_core::ports::{Firewall, LinkIdentity, Netlink, NetnsPath, PodLink};
use flock_netlink::{KernelFirewall, KernelNetlink};
use nix::sched::{CloneFlags, setns, unshare};

/// Datagrams of one round, there and back.
const ROUND: u32 = 2000;

/// Of a fast round; the slow ones tell of the rest of the machine.
const PERCENTILE: usize = 10;

fn main() {
    let rounds = std::env::args().nth(1).map_or(200, |text| text.parse().unwrap());
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(measure(rounds));
    })
    .join()
    .unwrap();
}

/// A pod, the namespace it is in, and a socket there.
struct Pod {
    link: PodLink,
    _netns: File,
    socket: UdpSocket,
}

async fn pod(kernel: &KernelNetlink, number: u8) -> Pod {
    let netns = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    let v6 = format!("2001:db8:1::{number}").parse().unwrap();
    let addresses = Addresses { v6: Some(v6), v4: Some(format!("192.0.2.{number}").parse().unwrap()) };
    let attachment = AttachmentId::parse(&format!("pod{number}/eth0")).unwrap();
    let link = PodLink {
        identity: LinkIdentity { attachment, pod: None, uid: None, addresses, more: false },
        netns: NetnsPath::parse(&path).unwrap(),
        mtu: 1500,
        extra: Vec::new(),
        anycast: Vec::new(),
        loopback_runs: false,
        announced: addresses.iter().collect(),
    };
    kernel.attach(&link).await.unwrap();
    let inside = netns.try_clone().unwrap();
    let open = move || {
        setns(inside, CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind((v6, 4000)).unwrap()
    };
    let socket = std::thread::spawn(open).join().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    Pod { link, _netns: netns, socket }
}

/// The rules for these pods: open, or judged at both ends by chains whose last rule of `length` matches.
fn rules(pods: [&Pod; 2], length: Option<u64>) -> Ruleset {
    let mut rules = Ruleset { judging: length.is_some(), ..Ruleset::default() };
    for (number, pod) in (0_u64..).zip(pods) {
        let sources = pod.link.addresses().collect();
        let place = match length {
            None | Some(0) => Place::Open,
            Some(length) => {
                let mut gates = BTreeMap::new();
                for (direction, odd) in [(Direction::Egress, 0), (Direction::Ingress, 1)] {
                    let id = ChainId(number * 2 + odd);
                    let peers = (0..length).map(|n| PeerId(id.0 << 8 | n));
                    for peer in peers.clone() {
                        let last = peer.0 & 0xff == length - 1;
                        let members = pods.iter().filter(|_| last).flat_map(|pod| pod.link.addresses());
                        rules.peers.insert(peer, Arc::new(members.collect()));
                    }
                    let rule = |id| Rule { peer: Peer::Pods(id), ports: None, action: Action::Accept };
                    let chain = Chain { direction, rules: peers.map(rule).collect(), end: End::Refuse };
                    rules.chains.insert(id, Arc::new(chain));
                    gates.insert(Gate { direction, tier: Tier::Policy }, id);
                }
                Place::Judged(gates)
            }
        };
        rules.pods.insert(pod.link.identity.attachment.host_ifname(), PodRules { sources, place });
    }
    rules
}

fn round(pods: [&Pod; 2]) -> Duration {
    let [one, other] = pods.map(|pod| &pod.socket);
    one.connect(other.local_addr().unwrap()).unwrap();
    other.connect(one.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 16];
    let mut exchange = |from: &UdpSocket, to: &UdpSocket| {
        from.send(b"datagram").unwrap();
        to.recv(&mut buffer).unwrap();
    };
    exchange(one, other);
    let start = Instant::now();
    for _ in 0..ROUND {
        exchange(one, other);
        exchange(other, one);
    }
    start.elapsed() / (2 * ROUND)
}

async fn measure(rounds: usize) {
    let kernel = KernelNetlink::new().unwrap();
    kernel.prepare_node().await.unwrap();
    let firewall = KernelFirewall::new().unwrap();
    let (one, other) = (pod(&kernel, 1).await, pod(&kernel, 2).await);
    let pods = [&one, &other];
    let cases: [(&str, Option<Ruleset>); 4] = [
        ("no table", None),
        ("no policy in the cluster", Some(rules(pods, None))),
        ("policies, none for the pods", Some(rules(pods, Some(0)))),
        ("judged, 15 rules at each end", Some(rules(pods, Some(15)))),
    ];
    let mut times: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    for _ in 0..rounds {
        for (number, (_, rules)) in cases.iter().enumerate() {
            match rules {
                None => drop(firewall.remove().await.unwrap()),
                Some(rules) => firewall.replace(rules, Stamp::FIRST).await.unwrap(),
            }
            times.entry(number).or_default().push(round(pods));
        }
    }
    let mut base = None;
    for (number, (what, _)) in cases.iter().enumerate() {
        let times = times.get_mut(&number).unwrap();
        times.sort_unstable();
        let time = times[(times.len() - 1) * PERCENTILE / 100].as_nanos();
        let base = *base.get_or_insert(time);
        println!(
            "{what:<30} {time:>6} ns per packet, {:>+6} ns",
            i128::try_from(time).unwrap() - i128::try_from(base).unwrap()
        );
    }
}
