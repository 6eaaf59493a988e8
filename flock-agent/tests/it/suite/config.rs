//! The NodeConfig: what is refused, what stays in force, what a change does to pods.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use flock_cni::error::code;
use flock_cni::wire::Call;
use serde_json::{Value, json};

use super::with_both_sources;
use crate::harness::{TestNode, addresses, eventually};
use crate::netns::Netns;
use crate::object::{node_config, node_config_of};

with_both_sources!(
    status_is_not_ready_until_there_is_a_good_config,
    the_last_good_config_stays_in_force,
    pools_change_under_load_and_pods_keep_their_addresses,
);

/// Bad in one place, and what is said of it.
fn bad_configs() -> [(Value, &'static str); 4] {
    let with = |field: &str, value: Value| {
        let mut config = node_config();
        config["spec"][field] = value;
        config
    };
    [
        (node_config_of("n1", "2001:db8:f001::1/64", "198.51.100.0/24"), "2001:db8:f001::/64"),
        (node_config_of("n1", "2001:db8:f001::/64", "198.51.100.0/31"), "198.51.100.0/31"),
        (with("bgp", json!({"asn": 0})), "asn"),
        (with("cidr6", json!("2001:db8:f001::/64")), "spec.cidr6"),
    ]
}

fn message(node: &TestNode) -> String {
    node.condition("ConfigAccepted").to_string()
}

fn status_is_not_ready_until_there_is_a_good_config(node: &TestNode) {
    node.start();
    let said = || match node.call(Call::Status) {
        Err(error) if error.code() == code::NOT_READY => error.to_string(),
        other => format!("{other:?}"),
    };
    eventually("there is none", || said().contains("there is no NodeConfig named n1"), said);
    let netns = Netns::new();
    assert_eq!(node.add("c1", &netns).unwrap_err().code(), code::TRY_AGAIN);
    for (config, reason) in bad_configs() {
        node.put(&config);
        let refused = || said().contains("the NodeConfig is refused") && said().contains(reason);
        eventually("it is refused", refused, said);
        let error = node.add("c1", &netns).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains(reason)), (code::TRY_AGAIN, true), "{error}");
    }
    node.put(&node_config());
    node.wait_ready();
    node.add("c1", &netns).unwrap();
}

fn the_last_good_config_stays_in_force(node: &TestNode) {
    node.serve();
    for (n, (config, reason)) in bad_configs().into_iter().enumerate() {
        node.put(&config);
        eventually("the config is refused", || message(node).contains(reason), || message(node));
        assert_eq!(node.condition("ConfigAccepted")["reason"], "Refused");
        node.call(Call::Status).unwrap();
        node.add(&format!("c{n}"), &Netns::new()).unwrap();
    }
    node.delete(&node_config());
    let gone = "the NodeConfig was deleted";
    eventually("it is said to be gone", || message(node).contains(gone), || message(node));
    node.add("gone", &Netns::new()).unwrap();
    node.wait_routes("117", &["2001:db8:f001::/64", "198.51.100.0/24"]);
    node.put(&node_config());
    let is_well = || node.condition("ConfigAccepted")["status"] == true;
    eventually("all is well", is_well, || message(node));
}

/// Turns true when it is dropped.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn pools_change_under_load_and_pods_keep_their_addresses(node: &TestNode) {
    node.serve();
    let (old, new) = (Netns::new(), Netns::new());
    let other_pools = node_config_of("n1", "2001:db8:f002::/64", "203.0.113.0/24");
    let added = node.add("old", &old).unwrap();
    let held: Vec<String> = addresses(&added).iter().map(ToString::to_string).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..3 {
            let done = &done;
            scope.spawn(move || {
                for n in 0.. {
                    let pod = Netns::new();
                    node.add(&format!("w{worker}-{n}"), &pod).unwrap();
                    node.del(&format!("w{worker}-{n}")).unwrap();
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        // However this ends, or the workers would never.
        let _end = AtEnd(&done);
        let is_announced = |route: &str| node.routes("117").iter().any(|it| it == route);
        let wait = |what: &str, holds: &dyn Fn() -> bool| eventually(what, holds, || node.log());
        for _ in 0..3 {
            node.put(&other_pools);
            wait("the old addresses are announced on their own", &|| held.iter().all(|it| is_announced(it)));
            node.put(&node_config());
            wait("the aggregate covers them again", &|| !held.iter().any(|it| is_announced(it)));
        }
        node.put(&other_pools);
        wait("new pools", &|| is_announced("203.0.113.0/24"));
    });
    node.wait_routes("117", &["2001:db8:f002::/64", "203.0.113.0/24", &held[0], &held[1]]);
    node.wait_routes("118", &[]);
    node.assert_reached(addresses(&added));
    assert_eq!(node.add("old", &old).unwrap(), added, "the same ADD after the change");
    let fresh = addresses(&node.add("new", &new).unwrap());
    assert!(
        fresh.iter().all(|it| match it {
            IpAddr::V6(it) => it.segments()[..3] == [0x2001, 0xdb8, 0xf002],
            IpAddr::V4(it) => it.octets()[..3] == [203, 0, 113],
        }),
        "{fresh:?}"
    );
    node.del("old").unwrap();
    node.del("new").unwrap();
    node.assert_empty();
    node.wait_routes("117", &["2001:db8:f002::/64", "203.0.113.0/24"]);
}
