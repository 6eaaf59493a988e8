//! What a node announces while the API server is away.

use flock_cni::wire::Add;
use flock_k8s::testing::Mood;

use crate::cluster::Source;
use crate::harness::{TestNode, add_of, addresses, annotations, eventually};
use crate::netns::{Netns, netns_available};
use crate::object::{Says, pod, saying};

const ANYCAST: &str = "2001:db8:a::53";
const GIVEN: &str = "2001:db8:b::7";

/// Which addresses of the pod BIRD is to announce.
fn announced(node: &TestNode) -> Vec<&'static str> {
    let routes = node.netns.output("ip", &["-6", "route", "show", "proto", "117"]);
    let has = |address: &&str| routes.lines().any(|line| line.starts_with(address));
    [ANYCAST, GIVEN].into_iter().filter(has).collect()
}

#[test]
fn an_agent_that_starts_again_without_an_api_server_withdraws_nothing() {
    if !netns_available() {
        return;
    }
    let node = TestNode::of(Source::ApiServer);
    node.serve();
    let dns = pod("dns", &[("anycast", ANYCAST), ("addresses", GIVEN)]);
    node.put(&dns);
    let netns = Netns::new();
    let added = node.add_pod(&dns, &netns).unwrap();
    eventually("both are announced", || announced(&node) == [ANYCAST, GIVEN], || node.log());
    let kept = node.state_file().with_file_name("nodeconfig.json");
    eventually("the NodeConfig is kept", || kept.exists(), || node.log());

    node.kill();
    node.cluster.api().set_mood(Mood::Away);
    node.start();
    node.wait_ready();
    // A pod with an anycast address makes the agent look at the routes, and what it repairs says that it did.
    node.netns.output("ip", &["-6", "route", "del", "unreachable", "2001:db8:f001::/64"]);
    let other = Netns::new();
    let asks = Some(annotations(&[("anycast", ANYCAST)]));
    node.add_with(Add { annotations: asks, ..add_of(&pod("other", &[]), &other) }).unwrap();
    let aggregate = || node.netns.output("ip", &["-6", "route", "show", "2001:db8:f001::/64"]);
    eventually("the routes were looked at", || !aggregate().is_empty(), || node.log());
    assert_eq!(announced(&node), [ANYCAST, GIVEN], "{}", node.log());
    node.assert_reached(addresses(&added));

    node.put(&saying(&dns, Says::NotReady));
    node.cluster.api().set_mood(Mood::Well);
    eventually("the API server counts again", || announced(&node).is_empty(), || node.log());
}

#[test]
fn an_api_server_that_keeps_failing_is_logged_once_for_each_kind_of_objects() {
    if !netns_available() {
        return;
    }
    let node = TestNode::of(Source::ApiServer);
    node.serve();
    let api = node.cluster.api();
    api.set_mood(Mood::Failing(503));
    let tried = api.requests().len();
    eventually("it is tried again and again", || api.requests().len() > tried + 8, || node.log());
    let log = node.log();
    let warned =
        |kind: &str| log.lines().filter(|it| it.contains("interrupted") && it.contains(kind)).count();
    assert_eq!((warned("Pod"), warned("NodeConfig")), (1, 2), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}
