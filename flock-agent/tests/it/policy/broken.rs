//! Policies that cannot be read: nobody may take them for "nothing is forbidden".

use serde_json::{Value, json};

use super::table::{Entry, check};
use super::world::{World, policy};
use crate::cluster::Source;
use crate::netns::netns_available;

/// What is wrong, and a specification in which it is.
fn specs() -> [(&'static str, Value); 5] {
    let all = json!({});
    [
        (
            "a prefix that is none",
            json!({"podSelector": all, "ingress": [{"from": [{"ipBlock": {"cidr": "198.51.100.0/33"}}]}]}),
        ),
        (
            "an operator there is not",
            json!({"podSelector": {"matchExpressions": [{"key": "pod", "operator": "Like", "values": ["a"]}]}}),
        ),
        (
            "a range that ends before it begins",
            json!({"podSelector": all, "ingress": [{"ports": [{"port": 81, "endPort": 80}]}]}),
        ),
        (
            "a range of a name",
            json!({"podSelector": all, "ingress": [{"ports": [{"port": "web", "endPort": 81}]}]}),
        ),
        ("a peer that is nobody", json!({"podSelector": all, "ingress": [{"from": [{}]}]})),
    ]
}

#[test]
fn a_policy_that_cannot_be_read_closes_its_namespace() {
    is_closed_for_what_cannot_be_read(Source::ApiServer);
}

#[test]
fn a_manifest_of_a_policy_that_cannot_be_read_closes_its_namespace() {
    is_closed_for_what_cannot_be_read(Source::Manifests);
}

fn is_closed_for_what_cannot_be_read(source: Source) {
    if !netns_available() {
        return;
    }
    let closed = policy("x", &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    // Others between them: what a file said before it was broken is not what is to be seen.
    let entries = specs().into_iter().flat_map(|(what, spec)| {
        let broken = Entry::new(what, [policy("x", &spec)]).meaning([closed.clone()]);
        [Entry::new("none", []), broken]
    });
    check(&mut World::of(1, source), entries.collect());
}
