//! `/livez` and `/readyz` of a real agent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::json;

use crate::harness::{TestNode, eventually};
use crate::netns::netns_available;
use crate::object::node_config;

const ADDRESS: &str = "127.0.0.1:9474";

fn connect(node: &TestNode) -> std::io::Result<TcpStream> {
    node.netns.run(|| TcpStream::connect(ADDRESS.parse::<SocketAddr>().unwrap()))
}

/// Status and body; status 0 while nobody listens.
fn get(node: &TestNode, path: &str) -> (u16, String) {
    let Ok(mut stream) = connect(node) else { return (0, String::new()) };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn wait_for(node: &TestNode, path: &str, status: u16) -> String {
    eventually(path, || get(node, path).0 == status, || format!("{:?}\n{}", get(node, path), node.log()));
    get(node, path).1
}

#[test]
fn readiness_takes_a_configuration_and_bird_and_no_peer() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    node.start();
    let text = wait_for(&node, "/readyz", 503);
    assert!(text.contains("[-] node there is no NodeConfig named n1\n"), "{text}");
    // Nothing is wrong with the agent: starting it again would not help.
    let text = wait_for(&node, "/livez", 200);
    assert_eq!(text, "[+] routes ok\n[+] firewall ok\n[+] links ok\n[+] routing ok\n[+] bird ok\n");

    let mut config = node_config();
    config["spec"]["bgp"]["peers"] = json!([{"address": "2001:db8::1", "asn": 64501}]);
    node.put(&config);
    node.wait_ready();
    eventually("no BIRD", || get(&node, "/readyz").1.contains("[-] bird "), || get(&node, "/readyz").1);
    assert_eq!(get(&node, "/readyz").0, 503);
    assert_eq!(get(&node, "/readyz?exclude=bird&exclude=routing").0, 200);

    let bird = node.start_bird();
    let text = wait_for(&node, "/readyz", 200);
    assert_eq!(text, "[+] node ok\n[+] routes ok\n[+] firewall ok\n[+] routing ok\n[+] bird ok\n");
    assert_ne!(node.report()["bgp"][0]["state"], "Established");

    drop(bird);
    wait_for(&node, "/readyz", 503);
    assert_eq!(get(&node, "/livez").0, 200, "BIRD may be on its way back");
}

#[test]
fn whatever_a_client_does_the_next_one_is_answered() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let stalled: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(&node).unwrap();
            stream.write_all(b"GET /li").unwrap();
            stream
        })
        .collect();
    for garbage in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"", &[b'a'; 4096]] {
        // It may be refused before it is through.
        let _ = connect(&node).unwrap().write_all(garbage);
    }
    assert_eq!(get(&node, "/livez").0, 200);
    assert_eq!(get(&node, "/secrets").0, 404);
    drop(stalled);
}

#[test]
fn address_in_use_is_told_with_the_way_out() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let _other = node.netns.run(|| TcpListener::bind(ADDRESS).unwrap());
    let output = node.netns.run(|| node.command().output().unwrap());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(ADDRESS) && text.contains("--metrics-addr"), "{text}");
}
