//! What a node announces while the API server is away.

use flock_cni::wire::{Add, Pod};
use flock_k8s::testing::Mood;
use serde_json::{Value, json};

use crate::harness::{Netns, TestNode, addresses, eventually, netns_available, plain_add};

const ANYCAST: &str = "2001:db8:a::53";
const GIVEN: &str = "2001:db8:b::7";

fn node_config() -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": "n1", "uid": "config-1", "generation": 1},
        "spec": {"cidr6": ["2001:db8:f001::/64"], "bgp": {"asn": 64500}},
    })
}

fn pod(ready: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "default", "name": "dns", "uid": "uid-1",
            "annotations": {"flock.fritzlab.net/anycast": ANYCAST, "flock.fritzlab.net/addresses": GIVEN},
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "img"}]},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })
}

/// Which addresses of the pod BIRD is to announce.
fn announced(node: &TestNode) -> Vec<&'static str> {
    let routes = node.netns.output("ip", &["-6", "route", "show", "proto", "117"]);
    let has = |address: &&str| routes.lines().any(|line| line.starts_with(address));
    [ANYCAST, GIVEN].into_iter().filter(has).collect()
}

fn add_of(name: &str, uid: &str, netns: &Netns) -> Add {
    let pod = Pod { namespace: "default".to_owned(), name: name.to_owned(), uid: Some(uid.to_owned()) };
    Add { pod: Some(pod), ..plain_add(name, &netns.path()) }
}

#[test]
fn an_agent_that_starts_again_without_an_api_server_withdraws_nothing() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let api = node.api_server();
    api.put(node_config());
    api.put(pod("True"));
    node.start();
    node.wait_ready();
    let netns = Netns::new();
    let added = node.add_with(add_of("dns", "uid-1", &netns)).unwrap();
    eventually("both are announced", || announced(&node) == [ANYCAST, GIVEN], || node.log());
    let kept = node.state_file().with_file_name("nodeconfig.json");
    eventually("the NodeConfig is kept", || kept.exists(), || node.log());

    node.kill();
    api.set_mood(Mood::Away);
    node.start();
    node.wait_ready();
    // A pod with an anycast address makes the agent look at the routes, and what it repairs says that it did.
    node.netns.output("ip", &["-6", "route", "del", "unreachable", "2001:db8:f001::/64"]);
    let asks = [("flock.fritzlab.net/anycast".to_owned(), ANYCAST.to_owned())];
    let other = Netns::new();
    node.add_with(Add { annotations: Some(asks.into()), ..add_of("other", "uid-2", &other) }).unwrap();
    let aggregate = || node.netns.output("ip", &["-6", "route", "show", "2001:db8:f001::/64"]);
    eventually("the routes were looked at", || !aggregate().is_empty(), || node.log());
    assert_eq!(announced(&node), [ANYCAST, GIVEN], "{}", node.log());
    node.assert_reached(addresses(&added));

    api.put(pod("False"));
    api.set_mood(Mood::Well);
    eventually("the API server counts again", || announced(&node).is_empty(), || node.log());
}
