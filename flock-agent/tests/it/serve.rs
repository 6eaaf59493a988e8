//! The agent as the plugin and an operator see it: a real process, real links, a real state file.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;

use flock_cni::error::code;
use flock_cni::wire::{Added, Call, MAX_REQUEST};

use crate::harness::{TestNode, addresses, eventually};
use crate::netns::{Netns, netns_available};

#[test]
fn an_added_pod_is_reached_from_its_node_and_a_deleted_one_leaves_nothing() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    let added = node.add("c1", &pod).unwrap();
    for address in addresses(&added) {
        let ping = node.netns.output("ping", &["-c1", "-W5", &address.to_string()]);
        assert!(ping.contains("1 received"), "{ping}");
    }
    node.check("c1", &pod, addresses(&added)).unwrap();
    assert_eq!(node.add("c1", &pod).unwrap(), added, "the same ADD twice");
    node.del("c1").unwrap();
    node.assert_empty();
    node.del("c1").unwrap();
    assert_eq!(node.log().matches("detached").count(), 1, "{}", node.log());
    assert_eq!(node.check("c1", &pod, addresses(&added)).unwrap_err().code(), code::UNKNOWN_CONTAINER);
}

#[test]
fn a_hundred_pods_come_and_go_at_once_without_a_duplicate() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pods: Vec<Netns> = (0..100).map(|_| Netns::new()).collect();
    let added: Vec<Added> = thread::scope(|scope| {
        let running: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(n, pod)| {
                let node = &node;
                scope.spawn(move || node.add(&format!("c{n}"), pod).unwrap())
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: BTreeSet<IpAddr> = added.iter().flat_map(addresses).collect();
    assert_eq!(distinct.len(), 200);
    thread::scope(|scope| {
        for n in 0..pods.len() {
            let node = &node;
            scope.spawn(move || node.del(&format!("c{n}")).unwrap());
        }
    });
    node.assert_empty();
    assert!(node.is_alive());
}

#[test]
fn the_aggregates_are_in_the_kernel_and_come_back_when_they_are_deleted() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let aggregates =
        || node.netns.output("ip", &["-6", "route", "show", "proto", "117", "type", "unreachable"]);
    eventually("the aggregate is there", || aggregates().contains("2001:db8:f001::/64"), aggregates);
    node.netns.output("ip", &["-6", "route", "del", "unreachable", "2001:db8:f001::/64"]);
    eventually("the aggregate is back", || aggregates().contains("2001:db8:f001::/64"), aggregates);
}

#[test]
fn the_socket_is_for_root_alone_and_for_one_agent() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let mode = std::fs::metadata(node.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = node.netns.run(|| node.command().output().unwrap());
    assert!(!second.status.success());
    let stderr = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(stderr.contains("another agent keeps its state there"), "{stderr}");
    node.call(Call::Status).unwrap();
}

#[test]
fn a_bad_client_is_told_why_and_harms_nobody() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let answer = |request: &[u8]| {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        // A refused request may be cut off before it was read to its end.
        drop(stream.write_all(request));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut text = String::new();
        drop(stream.read_to_string(&mut text));
        text
    };
    let stalled = UnixStream::connect(node.socket()).unwrap();
    let huge = vec![b' '; MAX_REQUEST + 10];
    let cases: [(&[u8], &str); 6] = [
        (b"hello\n", "the request is not one of protocol version 1"),
        (b"{\"version\":2,\"call\":\"status\"}\n", "the request has protocol version 2, this agent speaks 1"),
        (b"{\"version\":1,\"call\":\"dance\"}\n", "unknown variant"),
        (b"{\"version\":1,\"call\":\"status\"}", "ends without a line feed"),
        (
            b"{\"version\":1,\"call\":\"del\",\"containerId\":\"../x\",\"ifname\":\"eth0\"}\n",
            "must start with",
        ),
        (&huge, "is longer than 1 MiB"),
    ];
    for (request, want) in cases {
        let text = answer(request);
        assert!(text.contains(want), "{want}: {text}");
        node.call(Call::Status).unwrap();
    }
    assert_eq!(answer(b""), "");
    drop(stalled);
}

#[test]
fn gc_keeps_what_is_listed() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pods: Vec<Netns> = (0..3).map(|_| Netns::new()).collect();
    for (n, pod) in pods.iter().enumerate() {
        node.add(&format!("c{n}"), pod).unwrap();
    }
    node.gc(&["c1"]).unwrap();
    let left = node.report()["allocations"].clone();
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["attachment"], "c1/eth0");
    node.gc(&[]).unwrap();
    node.assert_empty();
}

#[test]
fn sigterm_stops_cleanly_and_leaves_the_pods_alone() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    let added = node.add("c1", &pod).unwrap();
    assert_eq!(node.terminate().code(), Some(0));
    for address in addresses(&added) {
        let ping = node.netns.output("ping", &["-c1", "-W5", &address.to_string()]);
        assert!(ping.contains("1 received"), "{ping}");
    }
}

#[test]
fn a_pod_whose_namespace_is_gone_is_deleted_all_the_same() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    node.add("c1", &pod).unwrap();
    drop(pod);
    node.del("c1").unwrap();
    node.assert_empty();
    let gone = node.add("c2", &Netns::new());
    assert!(gone.is_ok(), "a namespace that exists for the call only");
}
