//! `flock-agent drops` beside an agent with a policy.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{TestNode, addresses, eventually, within};
use crate::netns::{Netns, netns_available};
use crate::object::{namespace, pod};

/// The command, at work.
struct Drops {
    child: Child,
    /// What it has printed.
    text: std::path::PathBuf,
}

impl Drops {
    fn start(node: &TestNode, socket: &Path, format: &str) -> Self {
        let (text, log) = (node.dir.path().join("drops"), node.dir.path().join("drops.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        command.args(["drops", "-o", format, "--socket"]).arg(socket);
        command.stdin(Stdio::null()).stdout(File::create(&text).unwrap()).stderr(File::create(log).unwrap());
        Self { child: node.netns.run(|| command.spawn().unwrap()), text }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.text).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        // The last one may be on its way.
        self.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A node with two pods, one of which nobody may reach.
struct Closed {
    node: TestNode,
    web: Netns,
    /// Of the pod that is closed.
    db: Vec<IpAddr>,
    _netns: Netns,
}

fn closed() -> Closed {
    let node = TestNode::new();
    node.put(&namespace("default", &json!({})));
    node.put(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]},
    }));
    let (client, mut server) = (pod("web", &[]), pod("db", &[]));
    server["metadata"]["labels"] = json!({"app": "db"});
    node.put(&client);
    node.put(&server);
    node.serve();
    let (web, netns) = (Netns::new(), Netns::new());
    node.add_pod(&client, &web).unwrap();
    let db = addresses(&node.add_pod(&server, &netns).unwrap());
    Closed { node, web, db, _netns: netns }
}

impl Closed {
    /// The client sends so many datagrams to the pod that is closed.
    fn send(&self, to: IpAddr, count: usize) {
        self.web.run(|| {
            let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).unwrap();
            for _ in 0..count {
                socket.send_to(b"hello", SocketAddr::new(to, 53)).unwrap();
            }
        });
    }
}

#[test]
fn refused_packet_is_told_with_its_pods_and_its_policy() {
    if !netns_available() {
        return;
    }
    let closed = closed();
    let drops = Drops::start(&closed.node, &closed.node.socket(), "json");
    for address in &closed.db {
        // Until its rules are there the pod is shut.
        let is_it = |line: &Value| line["to"] == address.to_string() && line["reason"] == "refused";
        let mut found = None;
        let holds = || {
            closed.send(*address, 1);
            found = drops.lines().into_iter().find(is_it);
            found.is_some()
        };
        eventually("the line is there", holds, || drops.text());
        let line = found.unwrap();
        assert_eq!(line["why"], "no ingress rule of default/closed admits it", "{line}");
        assert_eq!([&line["fromPod"], &line["toPod"]], ["default/web", "default/db"], "{line}");
        assert_eq!([&line["service"], &line["toPort"]], [&json!("udp/53"), &json!(53)], "{line}");
        assert!(line["inLink"].as_str().unwrap().starts_with("flock"), "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    assert!(drops.end(Signal::SIGTERM).success());

    let drops = Drops::start(&closed.node, &closed.node.socket(), "table");
    let address = closed.db[0];
    let line = format!(" -> default/db ({address}) udp/53: no ingress rule of default/closed admits it\n");
    let holds = || {
        closed.send(address, 1);
        drops.text().contains(&line) && drops.text().contains("Z refused default/web (2001:db8:f001:")
    };
    eventually("the line is there", holds, || drops.text());
    assert!(drops.end(Signal::SIGINT).success());
}

#[test]
fn flood_is_shown_in_part_and_the_rest_is_counted() {
    if !netns_available() {
        return;
    }
    let closed = closed();
    // Without an agent lines have addresses only, and packets are counted all the same.
    let drops = Drops::start(&closed.node, Path::new("/nonexistent"), "json");
    let address = closed.db[0];
    let listens = || {
        closed.send(address, 1);
        !drops.text().is_empty()
    };
    eventually("it listens", listens, String::new);
    closed.send(address, 1000);
    let sum = |key: &str| drops.lines().iter().filter_map(|line| line[key].as_u64()).sum::<u64>();
    let shown = || drops.lines().iter().filter(|line| line["reason"].is_string()).count();
    let counted = || {
        let dropped = &closed.node.report()["dropped"];
        dropped.as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>()
    };
    let all = || u64::try_from(shown()).unwrap() + sum("notShown");
    // The first may have been dropped before it listened.
    let holds = || all() >= 1000 && all() <= counted();
    within(Duration::from_secs(20), "all are accounted for", holds, || {
        format!("{}\n{}", counted(), drops.text())
    });
    assert!((1..=200).contains(&shown()), "{} lines of a thousand", shown());
    assert!(drops.lines().iter().all(|line| line["fromPod"].is_null()), "{}", drops.text());
}
