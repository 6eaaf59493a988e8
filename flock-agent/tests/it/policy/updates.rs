//! What changes while policies are in force: they themselves, labels, pods, the agent.

use serde_json::json;

use super::table::{Entry, check_now};
use super::world::{World, policy};
use crate::netns::netns_available;

/// Two worlds: what happens on one node is to be seen on the other as well.
fn on_one_and_two_nodes(story: impl Fn(&mut World)) {
    if netns_available() {
        for nodes in [1, 2] {
            story(&mut World::start(nodes));
        }
    }
}

/// A policy that lets pods of label `pod: a` of red namespaces reach the fronts of x, at the port they call web.
fn fronts_of_x() -> Entry {
    let peer = json!({
        "podSelector": {"matchLabels": {"pod": "a"}},
        "namespaceSelector": {"matchLabels": {"team": "red"}},
    });
    let spec = json!({
        "podSelector": {"matchLabels": {"tier": "front"}},
        "ingress": [{"from": [peer], "ports": [{"port": "web"}]}],
    });
    Entry::new("fronts of x", [policy("x", &spec)])
}

#[test]
fn labels_of_pods_count_from_the_moment_they_change() {
    on_one_and_two_nodes(|world| {
        world.apply(&fronts_of_x().policies);
        check_now(world, "as it begins");
        let changes = [
            ("y/b", "pod", Some("a"), "a stranger becomes a peer"),
            ("y/a", "pod", None, "a peer becomes a stranger"),
            ("x/c", "tier", Some("front"), "a pod becomes a subject"),
            ("x/a", "tier", Some("back"), "a subject is one no more"),
            ("x/a", "tier", Some("front"), "and is one again"),
            ("y/b", "pod", Some("b"), "the stranger is one again"),
            ("x/c", "tier", Some(""), "an empty label is another one"),
        ];
        for (pod, key, value, what) in changes {
            world.edit_pod(pod, |pod| {
                let labels = pod["metadata"]["labels"].as_object_mut().unwrap();
                labels.remove(key);
                labels.extend(value.map(|value| (key.to_owned(), json!(value))));
            });
            world.touch();
            check_now(world, what);
        }
    });
}

#[test]
fn labels_of_namespaces_count_from_the_moment_they_change() {
    on_one_and_two_nodes(|world| {
        let others = json!({
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}]}],
        });
        let policies = [fronts_of_x().policies, Entry::new("", [policy("y", &others)]).policies].concat();
        world.apply(&policies);
        check_now(world, "as it begins");
        let changes = [
            ("z", json!({"ns": "z", "team": "red"}), "a namespace gets the label"),
            ("y", json!({"ns": "y"}), "a namespace loses it"),
            ("x", json!({"ns": "x", "team": "blue"}), "one has another value"),
            ("x", json!({}), "one has no label at all"),
            ("y", json!({"team": "red", "more": ""}), "one has it again"),
        ];
        for (namespace, labels, what) in changes {
            world.edit_namespace(namespace, |object| object["metadata"]["labels"] = labels);
            world.touch();
            check_now(world, what);
        }
    });
}

#[test]
fn policies_count_as_they_are_edited_deleted_and_made_again() {
    on_one_and_two_nodes(|world| {
        let original = fronts_of_x().policies;
        let edits = [
            ("/spec/ingress/0/ports", json!([{"port": 81}]), "another port"),
            ("/spec/ingress/0/ports", json!([{"port": 80, "endPort": 81}]), "more ports"),
            ("/spec/ingress/0/from/0/podSelector", json!({}), "more peers"),
            ("/spec/podSelector", json!({}), "more subjects"),
            ("/spec/policyTypes", json!(["Egress", "Ingress"]), "another direction"),
            ("/spec/egress", json!([{"ports": [{"port": 80, "protocol": "UDP"}]}]), "with a rule"),
            ("/spec/ingress", json!([]), "no rule"),
            ("/spec/ingress", json!([{}]), "a rule that admits all"),
            ("/spec/policyTypes", json!(["Egress"]), "a direction less"),
        ];
        let mut policies = original.clone();
        policies[0]["spec"]["policyTypes"] = json!(["Ingress"]);
        policies[0]["spec"]["egress"] = json!([]);
        for (path, value, what) in edits {
            *policies[0].pointer_mut(path).unwrap() = value;
            world.apply(&policies);
            check_now(world, what);
        }
        for what in ["deleted", "deleted once more"] {
            world.apply(&[]);
            check_now(world, what);
            world.apply(&original);
            check_now(world, "made again");
        }
        policies.clone_from(&original);
        policies[0]["metadata"]["name"] = json!("another");
        world.apply(&policies);
        check_now(world, "the same by another name");
    });
}

#[test]
fn pods_that_come_and_go_take_their_addresses_and_ports_along() {
    on_one_and_two_nodes(|world| {
        let peer = &world.pods[world.pod("y/a")];
        let block = json!({"ipBlock": {"cidr": format!("{}/128", peer.v6)}});
        let spec = json!({"podSelector": {}, "ingress": [{"from": [block], "ports": [{"port": 81}]}]});
        let policies = [fronts_of_x().policies, Entry::new("", [policy("z", &spec)]).policies].concat();
        world.apply(&policies);
        check_now(world, "as it begins");
        for (pod, what) in [("y/a", "a peer has other addresses"), ("x/a", "a subject has other addresses")] {
            world.replace(world.pod(pod), |_| {});
            world.touch();
            check_now(world, what);
        }
        world.replace(world.pod("x/a"), |pod| {
            pod["spec"]["containers"][0]["ports"] = json!([{"name": "web", "containerPort": 81}]);
        });
        world.touch();
        check_now(world, "a port has another number");
        world.replace(world.pod("y/a"), |pod| pod["metadata"]["labels"]["pod"] = json!("new"));
        world.touch();
        check_now(world, "a peer comes back without the label");
        world.edit_pod("x/a", |pod| pod["metadata"]["deletionTimestamp"] = json!("2024-06-07T08:09:10Z"));
        world.touch();
        check_now(world, "a pod that terminates is one still");
    });
}

#[test]
fn a_pod_that_has_ended_is_no_peer_any_more() {
    on_one_and_two_nodes(|world| {
        world.apply(&fronts_of_x().policies);
        check_now(world, "as it begins");
        for phase in ["Succeeded", "Running", "Failed"] {
            world.edit_pod("y/a", |pod| pod["status"]["phase"] = json!(phase));
            world.touch();
            check_now(world, phase);
        }
    });
}

#[test]
fn the_first_policy_closes_and_the_last_one_opens() {
    on_one_and_two_nodes(|world| {
        let closed =
            Entry::new("", ["x", "y", "z"].map(|it| policy(it, &json!({"podSelector": {}})))).policies;
        for what in ["the first time", "the second time"] {
            world.apply_only(&[]);
            check_now(world, what);
            world.apply_only(&closed);
            check_now(world, what);
        }
    });
}

#[test]
fn an_agent_that_was_away_enforces_what_was_said_meanwhile() {
    on_one_and_two_nodes(|world| {
        let mut policies = fronts_of_x().policies;
        world.apply(&policies);
        check_now(world, "as it begins");
        for port in [80, 81] {
            world.nodes[0].kill();
            check_now(world, "the agent of n1 is away");
            policies[0]["spec"]["ingress"][0]["ports"] = json!([{"port": port}]);
            world.apply(&policies);
            world.nodes[0].start();
            world.nodes[0].wait_ready();
            check_now(world, "the agent of n1 is back");
        }
        world.nodes[0].kill();
        world.nodes[0].start();
        world.nodes[0].wait_ready();
        check_now(world, "nothing was said meanwhile");
    });
}
