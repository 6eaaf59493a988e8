//! Who reaches whom.

use std::io;

use flock_core::policy::{Direction, Place, Protocol};
use flock_core::ports::Firewall;

use super::bench::{Allow, REFUSED, SHUT, Who, nft, on_bench, talk};

const FAMILIES: [usize; 2] = [0, 1];

#[test]
fn open_pod_is_reached_by_everybody() {
    on_bench(async |bench| {
        let (a, b) = (bench.pod(1).await, bench.pod(2).await);
        for family in FAMILIES {
            for peer in [&b, &bench.outside, &bench.node] {
                talk(&peer.udp(family), &a.udp(family));
                talk(&a.udp(family), &peer.udp(family));
            }
        }
        assert_eq!(bench.firewall.counters().await.unwrap(), flock_core::ports::Counters::default());
    });
}

#[test]
fn shut_pod_is_reached_by_its_node_alone() {
    on_bench(async |bench| {
        let (a, b) = (bench.pod(1).await, bench.pod(2).await);
        bench.shut(&a).await;
        for family in FAMILIES {
            for peer in [&b, &bench.outside] {
                bench.blocks(&peer.udp(family), &a.udp(family), SHUT).await;
                bench.blocks(&a.udp(family), &peer.udp(family), SHUT).await;
            }
            talk(&bench.node.udp(family), &a.udp(family));
            talk(&a.udp(family), &bench.node.udp(family));
        }
        bench.change(bench.placed(&a, Place::Open)).await;
        talk(&b.udp(0), &a.udp(0));
    });
}

#[test]
fn ingress_admits_peers_on_their_ports() {
    on_bench(async |bench| {
        let (server, friend, stranger) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        let allow: [Allow<'_>; 2] = [
            (Who::Pods(&[&friend]), Some((Protocol::Udp, &[(53, 53), (8000, 8999)]))),
            (Who::Pods(&[&friend]), Some((Protocol::Tcp, &[]))),
        ];
        bench.change(bench.judged(&server, Direction::Ingress, &allow)).await;
        for family in FAMILIES {
            for port in [53, 8000, 8500, 8999] {
                let socket = server.udp_on(family, port);
                talk(&friend.udp(family), &socket);
                bench.blocks(&stranger.udp(family), &socket, REFUSED).await;
                bench.blocks(&bench.outside.udp(family), &socket, REFUSED).await;
                talk(&bench.node.udp(family), &socket);
            }
            for port in [54, 7999, 9000] {
                bench.blocks(&friend.udp(family), &server.udp_on(family, port), REFUSED).await;
            }
            // The other direction is open.
            talk(&server.udp(family), &stranger.udp(family));
            talk(&server.udp(family), &bench.outside.udp(family));
        }
    });
}

#[test]
fn egress_admits_peers_on_their_ports() {
    on_bench(async |bench| {
        let (client, friend, stranger) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        let allow: [Allow<'_>; 1] = [(Who::Pods(&[&friend]), Some((Protocol::Udp, &[(53, 53)])))];
        bench.change(bench.judged(&client, Direction::Egress, &allow)).await;
        for family in FAMILIES {
            talk(&client.udp(family), &friend.udp_on(family, 53));
            bench.blocks(&client.udp(family), &friend.udp_on(family, 54), REFUSED).await;
            bench.blocks(&client.udp(family), &stranger.udp_on(family, 53), REFUSED).await;
            bench.blocks(&client.udp(family), &bench.outside.udp_on(family, 53), REFUSED).await;
            talk(&client.udp(family), &bench.node.udp(family));
            talk(&stranger.udp(family), &client.udp(family));
        }
    });
}

#[test]
fn prefix_admits_all_but_its_exceptions() {
    on_bench(async |bench| {
        let (server, a, b) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        let allow: [Allow<'_>; 2] = [
            (Who::Net("2001:db8::/32", &["2001:db8:1::3/128", "2001:db8:f::/64"]), None),
            (Who::Net("192.0.2.0/24", &["192.0.2.3/32"]), None),
        ];
        bench.change(bench.judged(&server, Direction::Ingress, &allow)).await;
        for family in FAMILIES {
            talk(&a.udp(family), &server.udp(family));
            bench.blocks(&b.udp(family), &server.udp(family), REFUSED).await;
            bench.blocks(&bench.outside.udp(family), &server.udp(family), REFUSED).await;
        }
    });
}

#[test]
fn anybody_is_everybody_and_nothing_is_nobody() {
    on_bench(async |bench| {
        let (server, pod) = (bench.pod(1).await, bench.pod(2).await);
        bench.change(bench.judged(&server, Direction::Ingress, &[])).await;
        for family in FAMILIES {
            bench.blocks(&pod.udp(family), &server.udp(family), REFUSED).await;
        }
        bench.change(bench.judged(&server, Direction::Ingress, &[(Who::Anybody, None)])).await;
        for family in FAMILIES {
            talk(&pod.udp(family), &server.udp(family));
            talk(&bench.outside.udp(family), &server.udp(family));
        }
    });
}

#[test]
fn errors_about_admitted_flows_pass() {
    on_bench(async |bench| {
        let (server, friend) = (bench.pod(1).await, bench.pod(2).await);
        let allow: [Allow<'_>; 1] = [(Who::Pods(&[&friend]), Some((Protocol::Udp, &[(53, 53)])))];
        bench.change(bench.judged(&server, Direction::Ingress, &allow)).await;
        for family in FAMILIES {
            let client = friend.udp(family);
            client.connect((server.addresses[family], 53)).unwrap();
            client.send(b"is there anybody?").unwrap();
            let refused = client.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
        assert_eq!(bench.dropped(REFUSED).await, 0);
    });
}

#[test]
fn service_is_judged_by_the_pod_behind_it() {
    on_bench(async |bench| {
        let (client, server) = (bench.pod(1).await, bench.pod(2).await);
        let [six, four] = server.addresses;
        nft(&format!(
            "add table inet services
             add chain inet services pre {{ type nat hook prerouting priority -100; }}
             add rule inet services pre ip6 daddr 2001:db8:5::1 udp dport 80 dnat ip6 to [{six}]:8080
             add rule inet services pre ip daddr 198.51.100.1 udp dport 80 dnat ip to {four}:8080"
        ));
        let services = ["[2001:db8:5::1]:80", "198.51.100.1:80"];
        let allow: [Allow<'_>; 1] = [(Who::Pods(&[&server]), Some((Protocol::Udp, &[(8080, 8080)])))];
        bench.change(bench.judged(&client, Direction::Egress, &allow)).await;
        for family in FAMILIES {
            let (client, server) = (client.udp(family), server.udp_on(family, 8080));
            client.send_to(b"hello", services[family]).unwrap();
            let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
            server.send_to(b"hello", from).unwrap();
            assert_eq!(client.recv_from(&mut [0; 16]).unwrap().1.to_string(), services[family]);
        }
        // The port of the service is nobody's.
        let allow: [Allow<'_>; 1] = [(Who::Anybody, Some((Protocol::Udp, &[(80, 80)])))];
        bench.change(bench.judged(&client, Direction::Egress, &allow)).await;
        for (family, before) in [(0, 0), (1, 1)] {
            client.udp(family).send_to(b"hello", services[family]).unwrap();
            bench.counts(before + 1, REFUSED).await;
        }
    });
}

#[test]
fn a_pod_reaches_itself_by_way_of_a_service() {
    on_bench(async |bench| {
        let pod = bench.pod(1).await;
        let [six, four] = pod.addresses;
        nft(&format!(
            "add table inet services
             add chain inet services pre {{ type nat hook prerouting priority -100; }}
             add chain inet services post {{ type nat hook postrouting priority 100; }}
             add rule inet services pre ip6 daddr 2001:db8:5::1 udp dport 80 dnat ip6 to [{six}]:8080
             add rule inet services pre ip daddr 198.51.100.1 udp dport 80 dnat ip to {four}:8080
             add rule inet services post ip6 saddr {six} ip6 daddr {six} snat ip6 to 2001:db8:f::1
             add rule inet services post ip saddr {four} ip daddr {four} snat ip to 203.0.113.1"
        ));
        let services = ["[2001:db8:5::1]:80", "198.51.100.1:80"];
        for direction in [Direction::Ingress, Direction::Egress] {
            bench.narrow(bench.judged(&pod, direction, &[])).await;
            for family in FAMILIES {
                let (client, server) = (pod.udp(family), pod.udp_on(family, 8080));
                client.send_to(b"hello", services[family]).unwrap();
                let (_, from) = server.recv_from(&mut [0; 16]).expect("it reaches itself");
                server.send_to(b"hello", from).unwrap();
                assert_eq!(client.recv_from(&mut [0; 16]).unwrap().1.to_string(), services[family]);
            }
        }
    });
}
