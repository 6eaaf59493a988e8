//! Pods, a machine outside, and rules.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flock_core::ids::IfName;
use flock_core::policy::{
    Action, Chain, ChainId, Direction, End, Gate, Peer, PeerId, Place, PodRules, PortRange, PortsId,
    Protocol, Rule, Ruleset, Shut, Stamp, Tier, Update,
};
use flock_core::ports::{Counters, Firewall, Mac, Netlink, NetnsPath};
use flock_core::testing::require;
use flock_netlink::KernelFirewall;

use crate::world::{World, edit, eventually, inside, on_node};

pub(crate) const NODE: [&str; 2] = ["2001:db8:f::1", "203.0.113.1"];
pub(crate) const OUTSIDE: [&str; 2] = ["2001:db8:f::2", "203.0.113.2"];

/// A reason packets are dropped for.
pub(crate) type Reason = fn(&Counters) -> u64;

pub(crate) const SHUT: Reason = |counters| counters.shut;
pub(crate) const REFUSED: Reason = |counters| counters.refused;
pub(crate) const SPOOFED: Reason = |counters| counters.spoofed;
pub(crate) const FORBIDDEN: Reason = |counters| counters.forbidden;
pub(crate) const STRAY: Reason = |counters| counters.stray;

/// A pod, or the machine outside.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// `None` for the node.
    pub(crate) netns: Option<NetnsPath>,
    pub(crate) addresses: [IpAddr; 2],
    /// The host's end of the link of a pod.
    pub(crate) link: Option<IfName>,
    /// Its hardware address.
    pub(crate) gateway: Mac,
}

fn both(addresses: [&str; 2]) -> [IpAddr; 2] {
    addresses.map(|text| text.parse().unwrap())
}

impl Host {
    pub(crate) fn udp(&self, family: usize) -> UdpSocket {
        self.udp_on(family, 0)
    }

    pub(crate) fn udp_on(&self, family: usize, port: u16) -> UdpSocket {
        let address = SocketAddr::new(self.addresses[family], port);
        let socket = inside(self.netns.as_ref(), || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }
}

/// A node with a firewall.
pub(crate) struct Bench<'a> {
    pub(crate) world: &'a World,
    pub(crate) firewall: KernelFirewall,
    /// As written.
    pub(crate) rules: Ruleset,
    pub(crate) stamp: Stamp,
    pub(crate) node: Host,
    pub(crate) outside: Host,
}

/// Runs a test on a node with a neighbour and a firewall, if this machine can.
pub(crate) fn on_bench(test: impl AsyncFnOnce(&mut Bench<'_>) + Send + 'static) {
    if !require("nft", Command::new("nft").arg("--version").output().is_ok()) {
        return;
    }
    on_node(async move |world| {
        world.kernel.prepare_node().await.unwrap();
        let (netns, gateway) = (world.new_netns(), [0; 6]);
        cable(&netns);
        let mut bench = Bench {
            world,
            firewall: KernelFirewall::new().unwrap(),
            rules: Ruleset { judging: true, ..Ruleset::default() },
            stamp: Stamp::FIRST,
            node: Host { netns: None, addresses: both(NODE), link: None, gateway },
            outside: Host { netns: Some(netns), addresses: both(OUTSIDE), link: None, gateway },
        };
        bench.firewall.replace(&bench.rules, bench.stamp).await.unwrap();
        test(&mut bench).await;
    });
}

/// Connects the machine outside to the node.
fn cable(netns: &NetnsPath) {
    let far = std::fs::File::open(netns.as_path()).unwrap();
    edit(None, async |handle| {
        use std::os::fd::AsRawFd;
        let pair = rtnetlink::LinkVeth::new("up0", "eth0").build();
        handle.link().add(pair).execute().await.unwrap();
        let index = crate::world::index_of("eth0").unwrap();
        let end = rtnetlink::LinkUnspec::new_with_index(index).setns_by_fd(far.as_raw_fd()).build();
        handle.link().set(end).execute().await.unwrap();
    });
    for (netns, ifname, addresses, other) in
        [(None, "up0", NODE, OUTSIDE), (Some(netns), "eth0", OUTSIDE, NODE)]
    {
        let is_node = netns.is_none();
        let run = |command: String| {
            inside(netns, || {
                let status = Command::new("ip").args(command.split(' ')).status().unwrap();
                assert!(status.success(), "ip {command}");
            });
        };
        run(format!("link set {ifname} up"));
        for (address, (length, other)) in addresses.iter().zip([64, 24].iter().zip(other)) {
            let family = if address.contains(':') { "-6" } else { "-4" };
            let flag = if family == "-6" { " nodad" } else { "" };
            run(format!("{family} addr add {address}/{length} dev {ifname}{flag}"));
            if !is_node {
                run(format!("{family} route add default via {other}"));
            }
        }
    }
}

/// What somebody else does.
pub(crate) fn nft(commands: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{commands}");
}

/// How many flows the node tracks.
pub(crate) fn tracked() -> u32 {
    let count = inside(None, || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    count.unwrap().trim().parse().unwrap()
}

impl Bench<'_> {
    /// Makes a pod, open.
    pub(crate) async fn pod(&mut self, number: u8) -> Host {
        let addresses = [format!("2001:db8:1::{number:x}"), format!("192.0.2.{number}")];
        let pod = self.world.pod(&format!("pod{number}"), Some(&addresses[0]), Some(&addresses[1]));
        let state = self.world.kernel.attach(&pod).await.unwrap();
        let addresses = addresses.map(|text| text.parse().unwrap());
        let mut rules = self.rules.clone();
        let open = PodRules { sources: addresses.into(), place: Place::Open };
        rules.pods.insert(state.host.ifname.clone(), open);
        self.change(rules).await;
        let link = Some(state.host.ifname);
        Host { netns: Some(pod.netns), addresses, link, gateway: state.host.mac }
    }

    /// Brings these rules about, without a new judgement.
    pub(crate) async fn change(&mut self, rules: Ruleset) {
        self.firewall.update(&Update::between(&self.rules, &rules, self.stamp)).await.unwrap();
        self.rules = rules;
    }

    /// The same, and all open flows are judged again.
    pub(crate) async fn narrow(&mut self, rules: Ruleset) {
        self.stamp = self.stamp.next().0;
        let update = Update::between(&self.rules, &rules, self.stamp).judging_again(self.stamp);
        self.firewall.update(&update).await.unwrap();
        self.rules = rules;
    }

    pub(crate) fn placed(&self, host: &Host, place: Place) -> Ruleset {
        let mut rules = self.rules.clone();
        rules.pods.get_mut(host.link.as_ref().unwrap()).unwrap().place = place;
        rules
    }

    pub(crate) async fn shut(&mut self, host: &Host) {
        self.change(self.placed(host, Place::Shut(Shut::Unknown))).await;
    }

    /// Judges a pod in one direction by these rules, in the place of all other policies.
    pub(crate) fn judged(&self, host: &Host, direction: Direction, allow: &[Allow<'_>]) -> Ruleset {
        let mut gates = BTreeMap::new();
        let mut rules = self.placed(host, Place::Open);
        (rules.chains, rules.peers, rules.ports) = Default::default();
        let id = ChainId(self.rules.chains.keys().next().map_or(1, |id| id.0 + 1));
        gates.insert(Gate { direction, tier: Tier::Policy }, id);
        rules.pods.get_mut(host.link.as_ref().unwrap()).unwrap().place = Place::Judged(gates);
        let mut chain = Chain { direction, rules: Vec::new(), end: End::Refuse };
        for (number, (peer, ports)) in (id.0 << 8..).zip(allow) {
            let peer = match peer {
                Who::Anybody => Peer::Any,
                Who::Pods(hosts) => {
                    let members = hosts.iter().flat_map(|host| host.addresses).collect();
                    rules.peers.insert(PeerId(number), Arc::new(members));
                    Peer::Pods(PeerId(number))
                }
                Who::Net(cidr, except) => Peer::Net {
                    cidr: cidr.parse().unwrap(),
                    except: except.iter().map(|net| net.parse().unwrap()).collect(),
                },
            };
            let ports = ports.map(|(protocol, ranges)| {
                let range = |(first, last): &(u16, u16)| PortRange { first: *first, last: *last };
                let ranges: Arc<[PortRange]> = ranges.iter().map(range).collect();
                let id = (!ranges.is_empty()).then_some(PortsId(number));
                rules.ports.extend(id.map(|id| (id, ranges)));
                (protocol, id)
            });
            chain.rules.push(Rule { peer, ports, action: Action::Accept });
        }
        rules.chains.insert(id, Arc::new(chain));
        rules
    }

    pub(crate) async fn dropped(&self, reason: Reason) -> u64 {
        reason(&self.firewall.counters().await.unwrap())
    }

    /// A datagram of a flow of its own does not arrive and counts.
    pub(crate) async fn blocks(&self, from: &UdpSocket, to: &UdpSocket, reason: Reason) {
        let before = self.dropped(reason).await;
        from.send_to(b"no", to.local_addr().unwrap()).unwrap();
        self.counts(before + 1, reason).await;
        to.set_nonblocking(true).unwrap();
        let received = to.recv_from(&mut [0; 16]);
        to.set_nonblocking(false).unwrap();
        assert!(received.is_err(), "{received:?} from {from:?}");
    }

    /// Waits for a count.
    pub(crate) async fn counts(&self, wanted: u64, reason: Reason) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let found = self.dropped(reason).await;
            assert!(found <= wanted, "{found} dropped instead of {wanted}");
            if found == wanted {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{found} dropped, not {wanted}");
            tokio::task::yield_now().await;
        }
    }
}

/// The other end of what is allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who<'a> {
    Anybody,
    Pods(&'a [&'a Host]),
    Net(&'a str, &'a [&'a str]),
}

/// Whom, and for what.
pub(crate) type Allow<'a> = (Who<'a>, Option<(Protocol, &'a [(u16, u16)])>);

/// One datagram there and one back.
pub(crate) fn talk(a: &UdpSocket, b: &UdpSocket) {
    let mut buffer = [0; 16];
    a.send_to(b"there", b.local_addr().unwrap()).unwrap();
    let (length, from) = b.recv_from(&mut buffer).expect("it arrives");
    assert_eq!((&buffer[..length], from), (b"there".as_slice(), a.local_addr().unwrap()));
    b.send_to(b"back", from).unwrap();
    let (length, from) = a.recv_from(&mut buffer).expect("the answer arrives");
    assert_eq!((&buffer[..length], from), (b"back".as_slice(), b.local_addr().unwrap()));
}

/// Waits until something is so that is asked without waiting.
pub(crate) fn soon(what: &str, is_so: impl FnMut() -> bool) {
    eventually(what, is_so);
}
