//! `ClusterNetworkPolicies` around `NetworkPolicies`, as packets see them.

use serde_json::{Value, json};

use super::table::{Entry, check};
use super::world::{World, policy};
use crate::netns::netns_available;

/// What the tiers add up to is said with `NetworkPolicies` alone: the oracle knows no others.
fn entry(name: &str, cluster: &[Value], namespaced: &[Value], meaning: &Value) -> Entry {
    let policies = cluster.iter().chain(namespaced).cloned();
    Entry::new(name, policies).meaning([policy("x", meaning)])
}

/// A policy about all pods of x.
fn about_x(tier: &str, priority: u32, ingress: &Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {},
        "spec": {
            "tier": tier,
            "priority": priority,
            "subject": {"namespaces": by_ns("x")},
            "ingress": ingress,
        },
    })
}

fn by_ns(name: &str) -> Value {
    json!({"matchLabels": {"ns": name}})
}

/// Everything from the pods of a namespace.
fn rule(action: &str, ns: &str) -> Value {
    json!({"action": action, "from": [{"namespaces": by_ns(ns)}]})
}

fn tables() -> Vec<Entry> {
    let ingress = |rules: Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
    let of = |name: &str| json!({"from": [{"namespaceSelector": by_ns(name)}]});
    let others = json!({"from": [
        {"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["y"]}]}},
        {"ipBlock": {"cidr": "203.0.113.0/24"}},
        {"ipBlock": {"cidr": "2001:db8:e::/64"}},
    ]});
    let (open, shut) = (policy("x", &ingress(json!([{}]))), policy("x", &ingress(json!([]))));
    let http = json!({
        "action": "Accept",
        "from": [{"namespaces": by_ns("y")}],
        "protocols": [{"tcp": {"destinationPort": {"number": 80}}}],
    });
    let admin = |rules: Value| about_x("Admin", 10, &rules);
    let baseline = |rules: Value| about_x("Baseline", 10, &rules);
    let deny_y = json!([rule("Deny", "y")]);
    let odd = json!({"action": "Deny", "from": [{"services": {}}]});
    vec![
        entry(
            "an Admin Deny overrules a policy that admits",
            &[admin(deny_y.clone())],
            std::slice::from_ref(&open),
            &ingress(json!([others])),
        ),
        entry(
            "an Admin Accept overrules a policy that admits nothing",
            &[admin(json!([http]))],
            std::slice::from_ref(&shut),
            &ingress(json!([{
                "from": [{"namespaceSelector": by_ns("y")}],
                "ports": [{"protocol": "TCP", "port": 80}],
            }])),
        ),
        entry(
            "an Admin Pass leaves it to the NetworkPolicies",
            &[admin(json!([rule("Pass", "y"), rule("Deny", "y")]))],
            &[policy("x", &ingress(json!([of("y")])))],
            &ingress(json!([of("y")])),
        ),
        entry(
            "the Admin policy of the smaller number is asked first",
            &[admin(deny_y.clone()), about_x("Admin", 9, &json!([rule("Accept", "y")]))],
            std::slice::from_ref(&shut),
            &ingress(json!([of("y")])),
        ),
        entry(
            "a Baseline Deny without NetworkPolicies",
            &[baseline(deny_y.clone())],
            &[],
            &ingress(json!([others])),
        ),
        entry(
            "a Baseline Deny with a NetworkPolicy that admits",
            &[baseline(deny_y)],
            &[open],
            &ingress(json!([{}])),
        ),
        entry(
            "a Deny rule with a peer of an unknown kind",
            &[baseline(json!([odd]))],
            &[],
            &ingress(json!([])),
        ),
    ]
}

#[test]
fn truth_table_of_tiers() {
    if netns_available() {
        let mut world = World::start(2);
        check(&mut world, tables());
    }
}
