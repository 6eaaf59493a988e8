//! The agent with an API server: what it needs of it, what it writes, and what it does without.

use std::net::TcpListener;

use flock_cni::error::code;
use flock_cni::wire::{Add, Call};
use flock_k8s::testing::{Answer, Authority, Mood};
use serde_json::json;

use crate::cluster::Source;
use crate::harness::{TestNode, add_of, addresses, annotations, eventually};
use crate::netns::{Netns, netns_available};
use crate::object::{node_config, pod};

/// A node whose agent serves, with an API server.
fn serving() -> TestNode {
    let node = TestNode::of(Source::ApiServer);
    node.serve();
    node
}

#[test]
fn the_cluster_hears_of_the_node_and_of_pods_that_are_refused() {
    if !netns_available() {
        return;
    }
    let node = serving();
    let api = node.cluster.api();
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

    let bad = pod("bad", &[("ipv6", "perhaps")]);
    node.put(&bad);
    node.add_pod(&bad, &Netns::new()).unwrap_err();
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
    let node = TestNode::of(Source::ApiServer);
    node.put(&node_config());
    let api = node.cluster.api();
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
    let node = serving();
    let api = node.cluster.api();
    let kept = node.state_file().with_file_name("nodeconfig.json");
    eventually("the NodeConfig is kept", || kept.exists(), || node.log());
    node.kill();
    api.set_mood(Mood::Away);
    node.start();
    node.wait_ready();
    let netns = Netns::new();
    let add = Add { annotations: Some(annotations(&[])), ..add_of(&pod("static", &[]), &netns) };
    node.assert_reached(addresses(&node.add_with(add).unwrap()));
    // A pod whose annotations only the API server knows has to wait for it.
    let web = pod("web", &[]);
    assert_eq!(node.add_pod(&web, &Netns::new()).unwrap_err().code(), code::TRY_AGAIN);
    node.put(&web);
    api.set_mood(Mood::Well);
    node.add_pod(&web, &Netns::new()).unwrap();

    node.delete(&node_config());
    eventually("what is deleted is forgotten", || !kept.exists(), || node.log());
    node.call(Call::Status).unwrap();
}

#[test]
fn a_kept_node_config_that_is_of_no_use_is_said_to_be() {
    if !netns_available() {
        return;
    }
    let node = TestNode::of(Source::ApiServer);
    node.cluster.api().set_mood(Mood::Away);
    let kept = node.state_file().with_file_name("nodeconfig.json");
    std::fs::create_dir(kept.parent().unwrap()).unwrap();
    std::fs::write(&kept, "{\"apiVersion\"").unwrap();
    node.start();
    let said = || node.log().contains("it holds no good NodeConfig of this node");
    eventually("the log says so", said, || node.log());
    assert!(node.log().contains("nodeconfig.json:1: "), "{}", node.log());
    node.put(&node_config());
    node.cluster.api().set_mood(Mood::Well);
    node.wait_ready();
}

#[test]
fn idle_memory_does_not_grow_with_pods_elsewhere() {
    if !netns_available() {
        return;
    }
    let node = TestNode::of(Source::ApiServer);
    for n in 0..110 {
        let mut here = pod(&format!("here-{n}"), &[]);
        here["metadata"]["annotations"]["example.com/note"] = json!("x".repeat(1000));
        node.put(&here);
    }
    for n in 0..10_000 {
        let mut elsewhere = pod(&format!("far-{n}"), &[]);
        elsewhere["spec"]["nodeName"] = json!("n2");
        node.put(&elsewhere);
    }
    node.serve();
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    // What the program itself fills: the pages of an unoptimised binary say nothing.
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kilobytes: u32 = own.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 10_000, "{kilobytes} kB");
}

#[test]
fn a_pod_of_the_cluster_finds_its_api_server_by_ipv6_and_trusts_the_authority_of_the_cluster_alone() {
    if !netns_available() {
        return;
    }
    let node = TestNode::of(Source::ApiServer);
    node.put(&node_config());
    let api = node.cluster.api();
    let authority = Authority::new();
    let server = node
        .netns
        .run(|| api.with_tls(TcpListener::bind("[::1]:0").unwrap(), &authority, &["kubernetes", "::1"]));
    let account = node.dir.path().join("account");
    std::fs::create_dir(&account).unwrap();
    let write = |name: &str, text: &str| std::fs::write(account.join(name), text).unwrap();
    write("namespace", "kube-system");
    write("token", "of-the-account");
    write("ca.crt", &Authority::new().pem());
    node.start_as(node.command_in_cluster(server, &account));
    eventually("the log says why", || node.log().contains("invalid peer certificate"), || node.log());
    assert!(api.requests().is_empty());
    node.kill();
    write("ca.crt", &authority.pem());
    node.start_as(node.command_in_cluster(server, &account));
    node.wait_ready();
    let requests = api.requests();
    assert!(requests.iter().all(|it| it.authorization.as_deref() == Some("Bearer of-the-account")));
}

#[test]
fn a_pod_whose_sandbox_is_a_new_one_is_announced_when_the_kubelet_speaks_of_that_one() {
    const ANYCAST: &str = "2001:db8:a::53";
    if !netns_available() {
        return;
    }
    let node = serving();
    let reporting = |addresses: &[&str]| {
        let mut dns = pod("dns", &[("anycast", ANYCAST)]);
        let named: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        dns["status"]["podIPs"] = json!(named);
        dns
    };
    // Ready, as before the node was started again.
    let dns = reporting(&["2001:db8:f001::1", "198.51.100.200"]);
    node.put(&dns);
    let netns = Netns::new();
    let own = addresses(&node.add_pod(&dns, &netns).unwrap());
    node.wait_withheld(
        &format!("{ANYCAST}/128"),
        "the status of the pod is about its sandbox before this one",
    );
    let own: Vec<_> = own.iter().map(ToString::to_string).collect();
    node.put(&reporting(&own.iter().map(String::as_str).collect::<Vec<_>>()));
    node.wait_protocol(ANYCAST, Some("117"));
}

#[test]
fn a_refused_pod_does_not_wait_for_the_api_server_to_hear_of_it() {
    if !netns_available() {
        return;
    }
    let node = serving();
    let api = node.cluster.api();
    api.plan_always("create", "/events", Answer::Trickle);
    let bad = || {
        let annotations = Some(annotations(&[("ipv6", "perhaps")]));
        Add { annotations, ..add_of(&pod("bad", &[]), &Netns::new()) }
    };
    let posts = || api.requests().into_iter().filter(|it| it.verb() == "create").count();
    for _ in 0..20 {
        node.add_with(bad()).unwrap_err();
    }
    // Otherwise each would have tried once, and waited until it was given up.
    eventually("the cluster is told", || posts() == 1, || node.log());
    api.as_ever();
    api.cut();
    eventually("it is told in the end", || !api.all("events").is_empty(), || node.log());
    assert_eq!(api.all("events")[0]["series"]["count"], 20);
}

#[test]
fn a_change_of_peers_does_not_wait_for_the_api_server_to_hear_of_the_last_one() {
    if !netns_available() {
        return;
    }
    let node = serving();
    let _bird = node.start_bird();
    let api = node.cluster.api();
    let told = || api.requests().iter().filter(|it| it.path.ends_with("/nodeconfigs/n1/status")).count();
    api.plan_always("patch", "/nodeconfigs/n1/status", Answer::Trickle);
    let before = told();
    for address in ["2001:db8::1", "2001:db8::2"] {
        let mut config = node_config();
        config["spec"]["bgp"]["peers"] = json!([{"address": address, "asn": 64501}]);
        node.put(&config);
        let neighbor = format!("neighbor {address} ");
        eventually("BIRD has the peer", || node.bird_conf().contains(&neighbor), || node.log());
        eventually("the API server is told", || told() > before, || node.log());
    }
    assert!(!node.log().contains("the status is out of date"), "{}", node.log());
}
