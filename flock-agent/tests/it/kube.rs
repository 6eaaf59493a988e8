//! The agent with an API server: what it needs of it, what it writes, and what it does without.

use flock_cni::error::code;
use flock_cni::wire::{Add, Call, Pod};
use flock_k8s::testing::{FakeApiServer, Mood};
use serde_json::{Value, json};

use crate::harness::{Netns, TestNode, addresses, eventually, netns_available, plain_add};

fn node_config() -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": "n1", "uid": "config-1", "generation": 1},
        "spec": {"cidr6": ["2001:db8:f001::/64"], "cidr4": ["198.51.100.0/24"], "bgp": {"asn": 64500}},
    })
}

fn pod(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": name, "annotations": annotations},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "img"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn populated(node: &TestNode) -> FakeApiServer {
    let api = node.api_server();
    api.put(node_config());
    api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    api
}

fn add_of(name: &str, netns: &Netns) -> Add {
    let pod = Pod { namespace: "default".to_owned(), name: name.to_owned(), uid: Some(name.to_owned()) };
    Add { pod: Some(pod), ..plain_add(name, &netns.path()) }
}

#[test]
fn a_pod_of_the_api_server_gets_what_it_asks_for_and_the_cluster_hears_of_the_node() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let api = populated(&node);
    node.start();
    node.wait_ready();
    // The agent's list may be older than the pod: it is read directly.
    api.put(pod("web", &json!({"flock.fritzlab.net/cidr6": "2001:db8:f001::77/128"})));
    let netns = Netns::new();
    let added = node.add_with(add_of("web", &netns)).unwrap();
    assert_eq!(addresses(&added)[0].to_string(), "2001:db8:f001::77");
    node.assert_reached(addresses(&added));

    let condition = || api.get("nodes", None, "n1").unwrap()["status"]["conditions"][0].clone();
    eventually("the node says so", || condition()["reason"] == "FlockReady", || node.log());
    assert_eq!(
        (&condition()["type"], &condition()["status"]),
        (&json!("NetworkUnavailable"), &json!("False"))
    );
    let status = || api.get("nodeconfigs", None, "n1").unwrap()["status"].clone();
    eventually("the status is written", || status()["conditions"][0]["status"] == "True", || node.log());
    assert_eq!(status()["observedGeneration"], 1);
    let writes: Vec<_> = api.requests().into_iter().filter(|request| request.method == "PATCH").collect();
    let to = |path: &str| writes.iter().find(|request| request.path == path).unwrap();
    let patched = to("/apis/flock.fritzlab.net/v1alpha1/nodeconfigs/n1/status");
    assert_eq!(patched.content_type, "application/apply-patch+yaml");
    assert_eq!(patched.query["fieldManager"], "flock-agent");
    assert_eq!(patched.query["force"], "true");
    let patched = to("/api/v1/nodes/n1/status");
    assert_eq!(patched.content_type, "application/strategic-merge-patch+json");

    api.put(pod("bad", &json!({"flock.fritzlab.net/ipv6": "perhaps"})));
    node.add_with(add_of("bad", &Netns::new())).unwrap_err();
    eventually("the owner is told", || !api.all("events").is_empty(), || node.log());
    let event = &api.all("events")[0];
    assert_eq!(event["regarding"]["name"], "bad");
    assert!(event["note"].as_str().unwrap().contains("perhaps"), "{event}");
}

#[test]
fn without_an_api_server_from_the_start_status_is_50_until_there_is_a_node_config() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let api = populated(&node);
    api.set_mood(Mood::Away);
    node.start();
    eventually("the agent listens", || node.socket().exists(), || node.log());
    assert_eq!(node.call(Call::Status).unwrap_err().code(), code::NOT_READY);
    api.set_mood(Mood::Well);
    node.wait_ready();
}

#[test]
fn a_node_that_starts_without_an_api_server_has_its_last_node_config() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let api = populated(&node);
    node.start();
    node.wait_ready();
    let kept = node.state_file().with_file_name("nodeconfig.json");
    eventually("the NodeConfig is kept", || kept.exists(), || node.log());
    node.kill();
    api.set_mood(Mood::Away);
    node.start();
    node.wait_ready();
    let netns = Netns::new();
    let add = Add { annotations: Some([].into()), ..add_of("static", &netns) };
    node.assert_reached(addresses(&node.add_with(add).unwrap()));
    // A pod whose annotations only the API server knows has to wait for it.
    assert_eq!(node.add_with(add_of("web", &Netns::new())).unwrap_err().code(), code::TRY_AGAIN);
    api.put(pod("web", &json!({})));
    api.set_mood(Mood::Well);
    node.add_with(add_of("web", &Netns::new())).unwrap();

    api.delete("nodeconfigs", None, "n1");
    eventually("what is deleted is forgotten", || !kept.exists(), || node.log());
    node.call(Call::Status).unwrap();
}

#[test]
fn idle_memory_does_not_grow_with_pods_elsewhere() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let api = populated(&node);
    for n in 0..110 {
        api.put(pod(&format!("here-{n}"), &json!({"example.com/note": "x".repeat(1000)})));
    }
    for n in 0..10_000 {
        let mut elsewhere = pod(&format!("far-{n}"), &json!({}));
        elsewhere["spec"]["nodeName"] = json!("n2");
        api.put(elsewhere);
    }
    node.start();
    node.wait_ready();
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    // What the program itself fills: the pages of an unoptimised binary say nothing.
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kilobytes: u32 = own.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 10_000, "{kilobytes} kB");
}
