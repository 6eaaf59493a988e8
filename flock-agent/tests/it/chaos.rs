//! Crashes and races: whatever is cut off, and wherever, a runtime that does its part finds every pod it was
//! told of in working order, and nothing left of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flock_cni::error::code;
use flock_cni::wire::{Call, Request};
use nix::sys::signal::Signal;

use crate::harness::{TestNode, addresses, attachment, eventually, plain_add};
use crate::netns::{Netns, netns_available};

/// Vigna's `SplitMix64`: numbers that depend on the seed alone.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// A part of a container runtime, with room for a few pods. Their namespaces are used again and again.
struct Runtime {
    name: usize,
    dice: Dice,
    started: usize,
    rooms: Vec<(Netns, Option<Live>)>,
}

/// A pod whose ADD was answered with success.
#[derive(Debug, Clone, PartialEq)]
struct Live {
    container: String,
    addresses: Vec<IpAddr>,
}

impl Runtime {
    const ROOMS: usize = 3;

    fn new(name: usize) -> Self {
        let rooms = (0..Self::ROOMS).map(|_| (Netns::new(), None)).collect();
        Self { name, dice: Dice(name as u64), started: 0, rooms }
    }

    /// Fills or empties one room. A failed ADD is followed by a DEL, a failed DEL by another.
    fn step(&mut self, node: &TestNode) {
        let room = usize::try_from(self.dice.below(Self::ROOMS as u64)).unwrap();
        let (netns, live) = &mut self.rooms[room];
        if let Some(Live { container, .. }) = live.take() {
            return delete(node, &container);
        }
        self.started += 1;
        let container = format!("c{}-{}", self.name, self.started);
        match node.add(&container, netns) {
            Ok(added) => *live = Some(Live { container, addresses: addresses(&added) }),
            // Only a killed agent may keep a pod waiting; nothing is wrong with what was asked.
            Err(error) => {
                assert_eq!(error.code(), code::TRY_AGAIN, "{error}");
                delete(node, &container);
            }
        }
    }

    fn live(&self) -> impl Iterator<Item = &Live> {
        self.rooms.iter().filter_map(|(_, live)| live.as_ref())
    }
}

fn delete(node: &TestNode, container: &str) {
    eventually("DEL succeeds", || node.del(container).is_ok(), || node.log());
}

/// State file, report, links and routes hold the pods that live and no other.
fn assert_consistent(node: &TestNode, runtimes: &[Runtime]) {
    let live: BTreeMap<String, BTreeSet<String>> = runtimes
        .iter()
        .flat_map(Runtime::live)
        .map(|live| (live.container.clone(), live.addresses.iter().map(ToString::to_string).collect()))
        .collect();
    let all: Vec<&String> = live.values().flatten().collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "two pods share an address: {live:?}");

    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(node.state_file()).unwrap()).unwrap();
    assert_eq!(state["version"], 1, "{state}");
    let report = node.report();
    let held: BTreeMap<String, BTreeSet<String>> = report["allocations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|held| {
            let container = held["attachment"].as_str().unwrap().trim_end_matches("/eth0").to_owned();
            assert_eq!(held["phase"], "committed", "{container}");
            let addresses = held["addresses"].as_array().unwrap();
            (container, addresses.iter().map(|it| it.as_str().unwrap().to_owned()).collect())
        })
        .collect();
    assert_eq!(held, live);

    let in_kernel = || {
        let routes = |family| node.netns.output("ip", &[family, "route", "show", "proto", "118"]);
        let routes = routes("-6") + &routes("-4");
        let routes: BTreeSet<String> =
            routes.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        let links = node.netns.output("ip", &["-o", "link", "show", "type", "veth"]).lines().count();
        (routes, links)
    };
    let wanted = (all.into_iter().cloned().collect(), live.len());
    eventually(
        "links and routes are those of the pods",
        || in_kernel() == wanted,
        || format!("{:?} instead of {wanted:?}", in_kernel()),
    );
}

#[test]
fn an_agent_that_ends_at_any_moment_loses_no_pod_and_leaks_none() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let mut dice = Dice(2);
    let mut runtimes: Vec<Runtime> = (0..6).map(Runtime::new).collect();
    for round in 0..18 {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for runtime in &mut runtimes {
                let (node, done) = (&node, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        runtime.step(node);
                    }
                });
            }
            thread::sleep(Duration::from_millis(dice.below(150)));
            if round % 3 == 2 {
                assert_eq!(node.terminate().code(), Some(0));
            } else {
                node.kill();
            }
            // Whatever is not taken back or finished now must be found again by the next agent.
            done.store(true, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(dice.below(20)));
            node.start();
        });
        node.wait_ready();
        assert_consistent(&node, &runtimes);
        node.assert_reached(runtimes[0].live().flat_map(|live| live.addresses.clone()));
    }
    for runtime in &runtimes {
        node.assert_reached(runtime.live().flat_map(|live| live.addresses.clone()));
        for (netns, live) in &runtime.rooms {
            if let Some(Live { container, addresses }) = live {
                node.check(container, netns, addresses.clone()).unwrap();
                delete(&node, container);
            }
        }
    }
    node.assert_empty();
    assert!(node.is_alive());
}

#[test]
fn add_and_del_of_one_container_at_once_end_in_one_state() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    thread::scope(|scope| {
        for seed in 0..8 {
            let (node, pod) = (&node, &pod);
            scope.spawn(move || {
                let mut dice = Dice(seed);
                for _ in 0..15 {
                    if dice.below(2) == 0 {
                        node.add("c1", pod).unwrap();
                    } else {
                        node.del("c1").unwrap();
                    }
                }
            });
        }
    });
    let held = node.report()["allocations"].as_array().unwrap().clone();
    let added = node.add("c1", &pod).unwrap();
    if let [held] = held.as_slice() {
        assert_eq!(held["addresses"], serde_json::json!(addresses(&added)), "the ADD that came last stands");
    }
    assert!(held.len() < 2, "{held:?}");
    node.assert_reached(addresses(&added));
    node.check("c1", &pod, addresses(&added)).unwrap();
    node.del("c1").unwrap();
    node.assert_empty();
}

/// Sends a request and leaves the answer to be read.
fn ask(node: &TestNode, call: Call) -> UnixStream {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    let mut line = serde_json::to_vec(&Request::new(call)).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
    stream
}

fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_del_undoes_the_add_of_a_client_that_hung_up() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pods: Vec<Netns> = (0..20).map(|_| Netns::new()).collect();
    // Held up, the agent finds ADD and DEL side by side, and may take either first.
    for held_up in [false, true] {
        if held_up {
            node.signal(Signal::SIGSTOP);
        }
        let deletions: Vec<UnixStream> = pods
            .iter()
            .enumerate()
            .map(|(n, pod)| {
                drop(ask(&node, Call::Add(plain_add(&format!("c{n}"), &pod.path()))));
                ask(&node, Call::Del(attachment(&format!("c{n}"))))
            })
            .collect();
        node.signal(Signal::SIGCONT);
        for deletion in deletions {
            let text = answer(deletion);
            assert!(text.contains(r#""kind":"done""#), "{text}");
        }
        node.assert_empty();
    }
}

#[test]
fn a_client_that_only_closes_its_own_side_gets_its_answer() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    let stream = ask(&node, Call::Add(plain_add("c1", &pod.path())));
    stream.shutdown(Shutdown::Write).unwrap();
    let text = answer(stream);
    assert!(text.contains(r#""kind":"added""#), "{text}");
}

#[test]
fn a_request_that_breaks_off_does_nothing() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    let line = serde_json::to_vec(&Request::new(Call::Add(plain_add("c1", &pod.path())))).unwrap();
    for length in [0, 1, line.len() / 2, line.len()] {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.write_all(&line[..length]).unwrap();
        drop(stream);
    }
    node.add("c2", &pod).unwrap();
    node.del("c2").unwrap();
    node.assert_empty();
}
