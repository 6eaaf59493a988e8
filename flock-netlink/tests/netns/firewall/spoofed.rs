//! What a pod may not send.

use std::net::IpAddr;

use flock_core::policy::{Place, Ruleset};
use flock_core::ports::Firewall;

use super::bench::{FORBIDDEN, NODE, OUTSIDE, SPOOFED, on_bench, talk, tracked};
use super::frame::{ICMP6, datagram, packet, send};

#[test]
fn made_up_sources_never_arrive() {
    on_bench(async |bench| {
        let (liar, neighbour, target) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        let mut lies = 0;
        for family in [0, 1] {
            let socket = target.udp(family);
            let (to, port) = (target.addresses[family], socket.local_addr().unwrap().port());
            let made_up: &[&str] = if family == 0 {
                &["2001:db8:1::ff", "::ffff:192.0.2.1", "fe80::1234", "fe80::1", "2001:db8:dead::1", "::"]
            } else {
                &["192.0.2.77", "169.254.1.1", "0.0.0.0", "198.51.100.7"]
            };
            let others = [neighbour.addresses[family], to, NODE[family].parse().unwrap()];
            let others = others.into_iter().chain([OUTSIDE[family].parse().unwrap()]);
            let all: Vec<IpAddr> = made_up.iter().map(|text| text.parse().unwrap()).chain(others).collect();
            for source in all {
                send(&liar, &datagram(source, to, port, b"lie"));
                lies += 1;
                bench.counts(lies, SPOOFED).await;
            }
            send(&liar, &datagram(liar.addresses[family], to, port, b"truth"));
            let mut buffer = [0; 16];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (b"truth".as_slice(), liar.addresses[family]));
            talk(&liar.udp(family), &socket);
        }
        assert_eq!(bench.dropped(SPOOFED).await, lies);
    });
}

#[test]
fn a_pod_cannot_advertise_itself_as_a_router() {
    on_bench(async |bench| {
        let pod = bench.pod(1).await;
        let advertisement = || vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let redirect = || [vec![137, 0, 0, 0], vec![0; 36]].concat();
        let all: IpAddr = "ff02::1".parse().unwrap();
        send(&pod, &packet("fe80::1234".parse().unwrap(), all, ICMP6, advertisement()));
        bench.counts(1, SPOOFED).await;
        send(&pod, &packet(pod.addresses[0], NODE[0].parse().unwrap(), ICMP6, advertisement()));
        send(&pod, &packet(pod.addresses[0], NODE[0].parse().unwrap(), ICMP6, redirect()));
        send(&pod, &datagram(pod.addresses[0], NODE[0].parse().unwrap(), 546, b"lease"));
        send(&pod, &datagram(pod.addresses[1], NODE[1].parse().unwrap(), 68, b"lease"));
        bench.counts(4, FORBIDDEN).await;
    });
}

#[test]
fn solicitations_fill_no_neighbour_table() {
    on_bench(async |bench| {
        let pod = bench.pod(1).await;
        let target: IpAddr = "fe80::1".parse().unwrap();
        for number in 0..64 {
            let source: IpAddr = format!("fe80::{:x}", 0x1000 + number).parse().unwrap();
            let mut solicitation = vec![135, 0, 0, 0, 0, 0, 0, 0];
            solicitation.extend("fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
            solicitation.extend([1, 1, 2, 0, 0, 0, 0, 1]);
            send(&pod, &packet(source, target, ICMP6, solicitation));
        }
        bench.counts(64, SPOOFED).await;
        // The entry the pod has of its gateway is permanent, so it needs no solicitation of its own.
        talk(&pod.udp(0), &bench.node.udp(0));
    });
}

#[test]
fn without_policies_nothing_is_tracked_and_sources_are_checked() {
    on_bench(async |bench| {
        let (a, b) = (bench.pod(1).await, bench.pod(2).await);
        talk(&a.udp(0), &b.udp(0));
        assert!(tracked() > 0);
        bench.change(Ruleset { judging: false, ..bench.rules.clone() }).await;
        bench.firewall.forget(&a.addresses.into()).await.unwrap();
        assert_eq!(tracked(), 0);
        for family in [0, 1] {
            talk(&a.udp(family), &b.udp(family));
            talk(&bench.outside.udp(family), &b.udp(family));
            talk(&a.udp(family), &bench.node.udp(family));
        }
        assert_eq!(tracked(), 0);
        let socket = b.udp(0);
        let port = socket.local_addr().unwrap().port();
        send(&a, &datagram(bench.outside.addresses[0], b.addresses[0], port, b"lie"));
        bench.counts(1, SPOOFED).await;
        // The first policy brings tracking back.
        bench.change(Ruleset { judging: true, ..bench.rules.clone() }).await;
        talk(&a.udp(1), &b.udp(1));
        assert!(tracked() > 0);
        assert!(matches!(bench.rules.pods[a.link.as_ref().unwrap()].place, Place::Open));
    });
}
