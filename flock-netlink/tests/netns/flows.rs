//! Real flows to an address several pods share, from a pod beside them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use flock_core::ports::{Netlink, NetnsPath, PodLink};
use flock_core::route::{RouteProtocol, Weight};
use flock_netlink::Spread;
use nix::time::{ClockId, clock_gettime};

use crate::groups::{anycast, attach, sync, wanted};
use crate::world::{World, edit, eventually, index_of, inside, on_node, on_node_with};

/// Enough that every pod gets some, few enough that most buckets stay idle.
const FLOWS: usize = 64;

/// How long somebody waits who should not have to wait at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pods that share the addresses, and behind them one that asks.
async fn ready(world: &World, count: u8) -> (Vec<PodLink>, NetnsPath) {
    world.kernel.prepare_node().await.unwrap();
    let mut pods = attach(world, count).await;
    let client = world.pod("client", Some("2001:db8::c"), Some("192.0.2.12"));
    world.kernel.attach(&client).await.unwrap();
    pods.push(client.clone());
    (pods, client.netns)
}

/// Makes these pods the members.
async fn share(world: &World, pods: &[PodLink], protocol: RouteProtocol, members: &[usize]) {
    let members: Vec<_> = members.iter().map(|pod| (&pods[*pod], Weight::Full)).collect();
    sync(&world.kernel, &wanted(pods, protocol, members)).await;
    next_tick();
}

/// Waits for the next tick of the kernel. A bucket that moves and gets its first packet within one tick counts
/// as idle, and may move again.
fn next_tick() {
    let now = || clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    let start = now();
    eventually("the clock ticks", || now() != start);
}

/// Answers on an address of a pod with the number of the pod.
struct Servers {
    port: u16,
    sockets: Vec<(UdpSocket, TcpListener)>,
}

impl Servers {
    fn start(pods: &[PodLink], address: IpAddr) -> Self {
        let port = 5353;
        let listen = |pod: &PodLink| {
            inside(Some(&pod.netns), || {
                let udp = UdpSocket::bind(SocketAddr::new(address, port)).unwrap();
                udp.set_nonblocking(true).unwrap();
                let tcp = TcpListener::bind(SocketAddr::new(address, port)).unwrap();
                tcp.set_nonblocking(true).unwrap();
                (udp, tcp)
            })
        };
        Self { port, sockets: pods.iter().filter(|pod| !pod.anycast.is_empty()).map(listen).collect() }
    }

    /// Which pod got what a client has just sent; the pod answers.
    fn answer(&self, client: &UdpSocket) -> usize {
        client.send(b"who is there?").unwrap();
        // Everything happens inside the send: both links are veths.
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            for (pod, (udp, _)) in self.sockets.iter().enumerate() {
                let Ok((_, from)) = udp.recv_from(&mut [0; 64]) else { continue };
                assert_eq!(from.port(), client.local_addr().unwrap().port());
                udp.send_to(&[u8::try_from(pod).unwrap()], from).unwrap();
                let mut answer = [0; 1];
                client.recv(&mut answer).expect("the answer comes from the address that was asked");
                return answer[0].into();
            }
            assert!(std::time::Instant::now() < deadline, "nobody got it");
            std::thread::yield_now();
        }
    }

    /// A connection, both ends, and the pod it leads to.
    fn connect(&self, client: &NetnsPath, address: IpAddr) -> (usize, TcpStream, TcpStream) {
        let outer = inside(Some(client), || TcpStream::connect(SocketAddr::new(address, self.port)).unwrap());
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            for (pod, (_, tcp)) in self.sockets.iter().enumerate() {
                let Ok((inner, _)) = tcp.accept() else { continue };
                inner.set_nonblocking(false).unwrap();
                for end in [&outer, &inner] {
                    end.set_read_timeout(Some(PATIENCE)).unwrap();
                }
                return (pod, outer, inner);
            }
            assert!(std::time::Instant::now() < deadline, "nobody accepted");
            std::thread::yield_now();
        }
    }
}

fn flows(client: &NetnsPath, address: IpAddr, port: u16) -> Vec<UdpSocket> {
    let any: IpAddr = if address.is_ipv6() { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
    let flow = |_| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
        socket.connect(SocketAddr::new(address, port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    inside(Some(client), || (0..FLOWS).map(flow).collect())
}

fn per_pod(answers: &[usize]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for pod in answers {
        *counts.entry(*pod).or_default() += 1;
    }
    counts
}

#[test]
fn every_pod_of_a_group_answers_and_every_flow_is_answered() {
    for spread in [Spread::Resilient, Spread::Plain, Spread::Multipath] {
        on_node_with(spread, async move |world| {
            let (pods, client) = ready(world, 4).await;
            for address in anycast() {
                let servers = Servers::start(&pods, address);
                let flows = flows(&client, address, servers.port);
                for count in [1, 2, 4, 3, 1] {
                    let members: Vec<usize> = (0..count).collect();
                    share(world, &pods, RouteProtocol::Announce, &members).await;
                    let answers: Vec<usize> = flows.iter().map(|flow| servers.answer(flow)).collect();
                    let counts = per_pod(&answers);
                    assert!(counts.keys().all(|pod| *pod < count), "{spread:?} {address}: {counts:?}");
                    // Flows that are there stay where they are; only without that everybody gets some at once.
                    let spreads_at_once = spread != Spread::Resilient;
                    assert!(!spreads_at_once || counts.len() == count, "{spread:?} {address}: {counts:?}");
                }
            }
        });
    }
}

#[test]
fn a_pod_that_joins_or_leaves_moves_no_flow_of_the_others() {
    on_node(async |world| {
        let (pods, client) = ready(world, 4).await;
        for address in anycast() {
            let servers = Servers::start(&pods, address);
            let (announce, quiet) = (RouteProtocol::Announce, RouteProtocol::Quiet);
            share(world, &pods, announce, &[0]).await;
            let first = flows(&client, address, servers.port);
            let ask = |flows: &[UdpSocket]| -> Vec<usize> {
                flows.iter().map(|flow| servers.answer(flow)).collect()
            };
            assert_eq!(per_pod(&ask(&first)), BTreeMap::from([(0, FLOWS)]));
            let mut open: Vec<_> = (0..8).map(|_| servers.connect(&client, address)).collect();

            // Joins, and a new protocol on the way.
            share(world, &pods, announce, &[0, 1, 2]).await;
            share(world, &pods, quiet, &[0, 1, 2]).await;
            assert_eq!(per_pod(&ask(&first)), BTreeMap::from([(0, FLOWS)]), "{address}: nobody moved");
            let second = flows(&client, address, servers.port);
            let where_to = ask(&second);
            assert_eq!(per_pod(&where_to).len(), 3, "{address}: the new ones get some of what is new");
            open.extend((0..8).map(|_| servers.connect(&client, address)));

            // One leaves, another comes.
            share(world, &pods, announce, &[0, 2, 3]).await;
            assert_eq!(per_pod(&ask(&first)), BTreeMap::from([(0, FLOWS)]));
            for (before, now) in where_to.iter().zip(ask(&second)) {
                assert!(*before == now || *before == 1, "{address}: from {before} to {now}");
                assert_ne!(now, 1);
            }
            for (pod, outer, inner) in open.iter_mut().filter(|(pod, ..)| *pod != 1) {
                outer.write_all(b"still there?").unwrap();
                let mut text = [0; 12];
                inner.read_exact(&mut text).unwrap_or_else(|error| panic!("{address}, pod {pod}: {error}"));
                inner.write_all(b"yes").unwrap();
                outer
                    .read_exact(&mut text[..3])
                    .unwrap_or_else(|error| panic!("{address}, pod {pod}: {error}"));
            }
            share(world, &pods, announce, &[]).await;
        }
    });
}

#[test]
fn a_pod_that_drains_keeps_its_flows_and_gets_almost_no_new_ones() {
    on_node(async |world| {
        let (pods, client) = ready(world, 2).await;
        for address in anycast() {
            let servers = Servers::start(&pods, address);
            share(world, &pods, RouteProtocol::Announce, &[0, 1]).await;
            let ask = |flows: &[UdpSocket]| -> Vec<usize> {
                flows.iter().map(|flow| servers.answer(flow)).collect()
            };
            let old = flows(&client, address, servers.port);
            let before = ask(&old);
            let draining = [(&pods[0], Weight::Least), (&pods[1], Weight::Full)];
            sync(&world.kernel, &wanted(&pods, RouteProtocol::Announce, draining)).await;
            next_tick();
            assert_eq!(ask(&old), before, "{address}");
            let new = per_pod(&ask(&flows(&client, address, servers.port)));
            // Those that hash onto a bucket that is in use: 32 of 4096, so less than one is to be expected.
            assert!(new.get(&0).is_none_or(|count| *count <= FLOWS / 4), "{address}: {new:?}");

            world.detach(&pods[0]).await;
            assert_eq!(per_pod(&ask(&old)), BTreeMap::from([(1, FLOWS)]), "{address}");
            world.kernel.attach(&pods[0]).await.unwrap();
        }
    });
}

#[test]
fn a_pod_that_vanishes_leaves_the_flows_of_the_others_alone() {
    on_node(async |world| {
        let (pods, client) = ready(world, 3).await;
        share(world, &pods, RouteProtocol::Announce, &[0, 1, 2]).await;
        let [v6, v4] = anycast();
        let (servers6, servers4) = (Servers::start(&pods, v6), Servers::start(&pods, v4));
        let both = [(&servers6, flows(&client, v6, 5353)), (&servers4, flows(&client, v4, 5353))];
        let ask = || -> Vec<usize> {
            both.iter().flat_map(|(servers, flows)| flows.iter().map(|flow| servers.answer(flow))).collect()
        };
        let before = ask();
        // Behind flock's back, as when a runtime deletes the namespace.
        let name = pods[1].identity.attachment.host_ifname();
        edit(None, async |handle| {
            handle.link().del(index_of(name.as_str()).unwrap()).execute().await.unwrap();
        });
        for (before, now) in before.into_iter().zip(ask()) {
            assert!(before == now || before == 1, "from {before} to {now}");
            assert_ne!(now, 1);
        }
    });
}
