//! Flows that are open while the rules change.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use flock_core::policy::{Direction, Protocol, Stamp, Update};
use flock_core::ports::Firewall;

use super::bench::{Allow, Bench, Host, REFUSED, STRAY, Who, on_bench, soon, talk, tracked};
use crate::world::inside;

/// A connection, both ends.
fn connect(client: &Host, server: &Host, family: usize, port: u16) -> [TcpStream; 2] {
    let address = SocketAddr::new(server.addresses[family], port);
    let listener = inside(server.netns.as_ref(), || TcpListener::bind(address).unwrap());
    let outer = inside(client.netns.as_ref(), || {
        TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap()
    });
    let (inner, _) = listener.accept().unwrap();
    for end in [&outer, &inner] {
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        end.set_nodelay(true).unwrap();
    }
    [outer, inner]
}

fn goes_on([a, b]: &mut [TcpStream; 2]) {
    // A stream is read and written through a shared reference too.
    let (mut a, mut b) = (&*a, &*b);
    a.write_all(b"x").unwrap();
    b.read_exact(&mut [0; 1]).unwrap();
    b.write_all(b"x").unwrap();
    a.read_exact(&mut [0; 1]).unwrap();
}

/// Sends in one direction; the packet is dropped.
async fn is_cut(bench: &Bench<'_>, from: &mut TcpStream, to: &mut TcpStream) {
    let before = bench.dropped(REFUSED).await;
    from.write_all(b"x").unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while bench.dropped(REFUSED).await == before {
        assert!(std::time::Instant::now() < deadline, "it was not refused");
        tokio::task::yield_now().await;
    }
    to.set_nonblocking(true).unwrap();
    assert_eq!(to.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn denied_flow_is_cut_and_an_allowed_one_goes_on() {
    on_bench(async |bench| {
        let (server, friend, other) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        let both: [Allow<'_>; 1] = [(Who::Pods(&[&friend, &other]), Some((Protocol::Tcp, &[(80, 83)])))];
        bench.change(bench.judged(&server, Direction::Ingress, &both)).await;
        let mut allowed = [0, 1].map(|family| connect(&friend, &server, family, 80));
        let mut forward = [0, 1].map(|family| connect(&other, &server, family, 81));
        let mut back = [0, 1].map(|family| connect(&other, &server, family, 82));
        allowed.iter_mut().chain(&mut forward).chain(&mut back).for_each(goes_on);
        let one: [Allow<'_>; 1] = [(Who::Pods(&[&friend]), Some((Protocol::Tcp, &[(80, 83)])))];
        bench.narrow(bench.judged(&server, Direction::Ingress, &one)).await;
        allowed.iter_mut().for_each(goes_on);
        for [client, server] in &mut forward {
            is_cut(bench, client, server).await;
        }
        // The server's packet is refused as well, although the policy is about its ingress.
        for [client, server] in &mut back {
            is_cut(bench, server, client).await;
        }
        allowed.iter_mut().for_each(goes_on);
    });
}

#[test]
fn flow_goes_on_where_no_new_judgement_is_asked_for() {
    on_bench(async |bench| {
        let (server, friend) = (bench.pod(1).await, bench.pod(2).await);
        let mut flow = connect(&friend, &server, 0, 80);
        bench.change(bench.judged(&server, Direction::Ingress, &[])).await;
        goes_on(&mut flow);
        bench.narrow(bench.rules.clone()).await;
        let [client, server] = &mut flow;
        is_cut(bench, client, server).await;
    });
}

#[test]
fn flow_older_than_the_tracking_is_judged_the_right_way_round() {
    on_bench(async |bench| {
        let (server, friend, other) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        let mut rules = bench.rules.clone();
        rules.judging = false;
        bench.change(rules).await;
        let mut allowed = connect(&friend, &server, 0, 80);
        let mut denied = connect(&other, &server, 0, 81);
        let allow: [Allow<'_>; 1] = [(Who::Pods(&[&friend]), None)];
        let mut rules = bench.judged(&server, Direction::Ingress, &allow);
        rules.judging = true;
        bench.change(rules).await;
        // The server speaks first.
        let before = bench.dropped(STRAY).await;
        denied[1].write_all(b"x").unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while bench.dropped(STRAY).await == before {
            assert!(std::time::Instant::now() < deadline, "it was not stray");
            tokio::task::yield_now().await;
        }
        let [client, server] = &mut denied;
        is_cut(bench, client, server).await;
        goes_on(&mut allowed);
    });
}

#[test]
fn flows_of_an_address_are_forgotten() {
    on_bench(async |bench| {
        let (a, b, c) = (bench.pod(1).await, bench.pod(2).await, bench.pod(3).await);
        for family in [0, 1] {
            talk(&a.udp(family), &b.udp(family));
            talk(&b.udp(family), &c.udp(family));
            talk(&bench.outside.udp(family), &c.udp(family));
        }
        assert_eq!(tracked(), 6);
        assert_eq!(bench.firewall.forget(&a.addresses.into()).await.unwrap(), 2);
        assert_eq!(bench.firewall.forget(&a.addresses.into()).await.unwrap(), 0);
        assert_eq!(tracked(), 4);
        let both = b.addresses.into_iter().chain(c.addresses).collect();
        assert_eq!(bench.firewall.forget(&both).await.unwrap(), 4);
        soon("nothing is tracked", || tracked() == 0);
    });
}

#[test]
fn forgotten_stamp_means_a_new_judgement() {
    on_bench(async |bench| {
        let (server, friend) = (bench.pod(1).await, bench.pod(2).await);
        let mut flow = connect(&friend, &server, 0, 80);
        let again = Stamp::FIRST;
        let next = Update::default().judging_again(again.next().0);
        bench.firewall.update(&next).await.unwrap();
        // The numbers start again, and the flow carries one that means something else now.
        bench.change(bench.judged(&server, Direction::Ingress, &[])).await;
        bench.firewall.forget_stamps(again.next().0).await.unwrap();
        bench.firewall.update(&Update::default().judging_again(again)).await.unwrap();
        let [client, server] = &mut flow;
        is_cut(bench, client, server).await;
        // The current stamp stays.
        let other = bench.pod(3).await;
        let mut kept = connect(&friend, &other, 0, 80);
        bench.firewall.forget_stamps(again).await.unwrap();
        bench.shut(&other).await;
        goes_on(&mut kept);
    });
}
