//! An agent that is killed, and what it finds when it comes back.

use std::net::IpAddr;

use flock_cni::error::code;
use flock_cni::wire::Call;
use serde_json::{Value, json};

use super::with_both_sources;
use crate::cluster::Cluster;
use crate::harness::{TestNode, addresses, eventually};
use crate::netns::{Netns, RouteLog};
use crate::object::{Says, node_config, pod, saying};

with_both_sources!(
    a_killed_agent_comes_back_with_every_pod_and_every_address,
    a_killed_agent_comes_back_and_withdraws_nothing_for_a_moment,
    an_agent_that_comes_back_to_no_config_serves_no_new_pod_and_leaves_the_others,
    an_agent_that_comes_back_to_a_refused_config_leaves_its_pods,
    what_happens_to_pods_while_the_agent_is_dead_counts_when_it_is_back,
);

/// Ends the agent without a word, and starts it again.
fn restart(node: &TestNode) {
    node.kill();
    node.start();
    node.wait_ready();
}

fn a_killed_agent_comes_back_with_every_pod_and_every_address(node: &TestNode) {
    node.serve();
    let objects = ["a", "b", "c"].map(|name| pod(name, &[]));
    let pods: Vec<Netns> = objects.iter().map(|_| Netns::new()).collect();
    let add = || -> Vec<Vec<IpAddr>> {
        let added = objects.iter().zip(&pods).map(|(object, netns)| node.add_pod(object, netns).unwrap());
        added.map(|added| addresses(&added)).collect()
    };
    for object in &objects {
        node.put(object);
    }
    let before = add();
    for lost_state in [false, true] {
        node.kill();
        if lost_state {
            std::fs::remove_file(node.state_file()).unwrap();
        }
        node.assert_reached(before.concat());
        node.start();
        node.wait_ready();
        assert_eq!(before, add(), "state file lost: {lost_state}");
        assert_eq!(node.report()["allocations"][0]["pod"], "default/a");
    }
    for object in &objects {
        node.del_pod(object);
    }
    node.assert_empty();
}

fn a_killed_agent_comes_back_and_withdraws_nothing_for_a_moment(node: &TestNode) {
    node.serve();
    let object = pod("web", &[("addresses", "2001:db8:9::9"), ("anycast", "2001:db8:a::1, 203.0.113.1")]);
    let announced =
        ["2001:db8:9::9", "2001:db8:a::1", "203.0.113.1", "2001:db8:f001::/64", "198.51.100.0/24"];
    let netns = Netns::new();
    node.put(&object);
    node.add_pod(&object, &netns).unwrap();
    node.wait_routes("117", &announced);
    let log = RouteLog::start(&node.netns, node.dir.path().join("routes.log"));
    for _ in 0..3 {
        restart(node);
    }
    // Whatever it did to routes at its start, it did before it gets to this one, and the log is in order.
    let marker = pod("marker", &[("anycast", "203.0.113.2")]);
    let other = Netns::new();
    node.put(&marker);
    node.add_pod(&marker, &other).unwrap();
    eventually("the log is there too", || !log.of("203.0.113.2").is_empty(), || node.log());
    for prefix in announced {
        assert_eq!(log.of(prefix), Vec::<String>::new(), "{prefix} did not change");
    }
}

fn an_agent_that_comes_back_to_no_config_serves_no_new_pod_and_leaves_the_others(node: &TestNode) {
    comes_back(node, |node, config| {
        node.delete(config);
        let gone = || node.condition("ConfigAccepted").to_string();
        eventually("it is gone", || gone().contains("was deleted"), gone);
        node.kill();
        node.start();
        let said = || node.call(Call::Status).err().map(|error| error.to_string()).unwrap_or_default();
        eventually("it is said", || said().contains("there is no NodeConfig named n1"), said);
        assert_eq!(node.add("c1", &Netns::new()).unwrap_err().code(), code::TRY_AGAIN);
    });
}

/// Only of an API server is the last good NodeConfig kept.
fn an_agent_that_comes_back_to_a_refused_config_leaves_its_pods(node: &TestNode) {
    comes_back(node, |node, config| {
        let mut bad = config.clone();
        bad["spec"]["bgp"]["asn"] = json!(0);
        node.put(&bad);
        let refused = || node.condition("ConfigAccepted")["status"] == false;
        eventually("it is refused", refused, || node.log());
        node.kill();
        node.start();
        if matches!(node.cluster, Cluster::ApiServer { .. }) {
            node.wait_ready();
            let new = Netns::new();
            node.assert_reached(addresses(&node.add("c1", &new).unwrap()));
            node.del("c1").unwrap();
            assert!(refused(), "{}", node.log());
        } else {
            let said = || node.call(Call::Status).err().map(|error| error.to_string()).unwrap_or_default();
            eventually("it is said", || said().contains("the NodeConfig is refused"), said);
            assert_eq!(node.add("c1", &Netns::new()).unwrap_err().code(), code::TRY_AGAIN);
        }
    });
}

/// A pod that is announced stays so, whatever becomes of the configuration.
fn comes_back(node: &TestNode, restart: fn(&TestNode, &Value)) {
    node.serve();
    let object = pod("web", &[("anycast", "2001:db8:a::1")]);
    let netns = Netns::new();
    node.put(&object);
    let added = node.add_pod(&object, &netns).unwrap();
    let announced = ["2001:db8:a::1", "2001:db8:f001::/64", "198.51.100.0/24"];
    node.wait_routes("117", &announced);
    restart(node, &node_config());
    node.assert_reached(addresses(&added));
    node.wait_routes("117", &announced);
    node.put(&node_config());
    node.wait_ready();
    node.del_pod(&object);
    node.assert_empty();
}

fn what_happens_to_pods_while_the_agent_is_dead_counts_when_it_is_back(node: &TestNode) {
    node.serve();
    let shared = ["2001:db8:a::1", "2001:db8:a::2", "2001:db8:a::3", "2001:db8:a::4"];
    let objects = ["stays", "unready", "gone", "comes"];
    let objects: Vec<_> =
        objects.iter().zip(shared).map(|(name, it)| pod(name, &[("anycast", it)])).collect();
    let netns: Vec<Netns> = objects.iter().map(|_| Netns::new()).collect();
    node.put(&objects[0]);
    node.put(&objects[1]);
    node.put(&objects[2]);
    node.put(&saying(&objects[3], Says::NotReady));
    for (object, netns) in objects.iter().zip(&netns) {
        node.add_pod(object, netns).unwrap();
    }
    for (address, protocol) in shared.into_iter().zip([Some("117"), Some("117"), Some("117"), None]) {
        node.wait_protocol(address, protocol);
    }
    node.kill();
    node.put(&saying(&objects[1], Says::NotReady));
    node.delete(&objects[2]);
    node.put(&objects[3]);
    node.start();
    node.wait_ready();
    for (address, protocol) in shared.into_iter().zip(["117", "118", "118", "117"]) {
        node.wait_protocol(address, Some(protocol));
    }
}
