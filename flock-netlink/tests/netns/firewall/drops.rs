//! What is told of packets that are dropped.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use flock_core::policy::render::{self, DropReason, LOG_RATE};
use flock_core::policy::{Direction, Protocol};
use flock_core::ports::Firewall;
use flock_netlink::{DropLog, DropLogError, Dropped, Payload};

use super::bench::{Host, NODE, REFUSED, nft, on_bench};
use super::frame::{ICMP6, datagram, packet, send};
use crate::world::inside;

/// Waits for the next packet of a reason; others are refused tries of TCP.
fn next(log: &mut DropLog, reason: DropReason) -> Dropped {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = log.wait().unwrap().into_iter().find(|dropped| dropped.reason == reason);
        if let Some(found) = found {
            return found;
        }
        assert!(Instant::now() < deadline, "nothing is told of a packet that is {reason}");
    }
}

fn link(host: &Host) -> Option<String> {
    host.link.as_ref().map(ToString::to_string)
}

#[test]
fn dropped_packets_are_told_with_their_reason_and_ends() {
    on_bench(async |bench| {
        let (client, server, closed) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        bench.change(bench.judged(&server, Direction::Ingress, &[])).await;
        bench.shut(&closed).await;
        let mut log = DropLog::open().unwrap();
        for family in [0, 1] {
            let (from, to) = (client.addresses[family], server.addresses[family]);
            let told = |reason, out: &Host, from, to, payload| Dropped {
                reason,
                in_link: link(&client),
                out_link: link(out),
                from,
                to,
                payload,
            };
            let service = SocketAddr::new(to, 80);
            inside(client.netns.as_ref(), || {
                TcpStream::connect_timeout(&service, Duration::from_millis(20)).unwrap_err()
            });
            let syn = next(&mut log, DropReason::Refused);
            let Payload::Ports { protocol: Protocol::Tcp, from: port, to: 80 } = syn.payload else {
                panic!("{syn:?}")
            };
            let tcp = Payload::Ports { protocol: Protocol::Tcp, from: port, to: 80 };
            assert_eq!(syn, told(DropReason::Refused, &server, from, to, tcp));

            let udp = |port| Payload::Ports { protocol: Protocol::Udp, from: 4000, to: port };
            let others = [
                (DropReason::Refused, &server, from, server.addresses[family]),
                (DropReason::Shut, &closed, from, closed.addresses[family]),
                (DropReason::Spoofed, &bench.node, closed.addresses[family], to),
                (DropReason::Forbidden, &bench.node, from, NODE[family].parse().unwrap()),
            ];
            let service = if family == 0 { 546 } else { 68 };
            for (reason, out, from, to) in others {
                send(&client, &datagram(from, to, service, b"no"));
                let mut found = next(&mut log, reason);
                // The kernel tries the SYN again.
                while found.payload == tcp {
                    found = next(&mut log, reason);
                }
                assert_eq!(found, told(reason, out, from, to, udp(service)));
            }
        }
        let node: IpAddr = NODE[0].parse().unwrap();
        let redirect = [vec![137, 0, 0, 0], vec![0; 36]].concat();
        send(&client, &packet(client.addresses[0], node, ICMP6, redirect));
        let found = next(&mut log, DropReason::Forbidden);
        assert_eq!(found.payload, Payload::Icmp { kind: 137, code: 0 });
    });
}

#[test]
fn flood_is_told_in_part_and_counted_as_a_whole() {
    on_bench(async |bench| {
        let (client, server) = (bench.pod(1).await, bench.pod(2).await);
        bench.change(bench.judged(&server, Direction::Ingress, &[])).await;
        let mut log = DropLog::open().unwrap();
        let (socket, target) = (client.udp(0), SocketAddr::new(server.addresses[0], 53));
        let start = Instant::now();
        for _ in 0..1000 {
            socket.send_to(b"no", target).unwrap();
        }
        bench.counts(1000, REFUSED).await;
        let seconds = u32::try_from(start.elapsed().as_secs()).unwrap() + 1;
        let mut told = 0;
        loop {
            match log.wait().unwrap().len() {
                0 => break,
                some => told += some,
            }
        }
        let told = u32::try_from(told).unwrap();
        assert!(told >= LOG_RATE, "{told} are told of a thousand");
        assert!(told <= LOG_RATE * (1 + seconds), "{told} are told in {seconds} s");
    });
}

#[test]
fn only_one_can_follow_and_the_next_one_when_it_ends() {
    on_bench(async |bench| {
        let pod = bench.pod(1).await;
        let log = DropLog::open().unwrap();
        let held = DropLog::open().unwrap_err();
        assert!(matches!(held, DropLogError::Held), "{held}");
        drop(log);
        let mut log = DropLog::open().unwrap();
        send(&pod, &datagram("192.0.2.99".parse().unwrap(), pod.addresses[1], 53, b"no"));
        next(&mut log, DropReason::Spoofed);
    });
}

#[test]
fn table_for_a_kernel_that_cannot_log_drops_all_the_same() {
    on_bench(async |bench| {
        let pod = bench.pod(1).await;
        nft(&render::without_log(&render::table(&bench.rules, bench.stamp)));
        let expected = bench.rules.as_observed(Some(bench.stamp));
        assert_eq!(bench.firewall.observe().await.unwrap(), Some(expected));
        send(&pod, &datagram("192.0.2.99".parse().unwrap(), pod.addresses[1], 53, b"no"));
        bench.counts(1, super::bench::SPOOFED).await;
    });
}
