//! Everything an entry of `from` or `to` can say.

use serde_json::{Value, json};

use super::world::{OUTSIDE, World};

/// Lists of peers, and what each shows. Null: the rule has no list.
pub(super) fn lists(world: &World) -> Vec<(&'static str, Value)> {
    let at = |name: &str| &world.pods[world.pod(name)];
    let (outside4, outside6) = (format!("{}/32", OUTSIDE.0), format!("{}/128", OUTSIDE.1));
    let (ya4, ya6) = (format!("{}/32", at("y/a").v4), format!("{}/128", at("y/a").v6));
    let (xb4, xb6) = (format!("{}/32", at("x/b").v4), format!("{}/128", at("x/b").v6));
    let (pools4, pools6) = ("198.51.100.0/24", "2001:db8:f000::/44");
    let expression = |key: &str, operator: &str, values: &[&str]| {
        let mut expression = json!({"key": key, "operator": operator});
        if !values.is_empty() {
            expression["values"] = json!(values);
        }
        json!({"matchExpressions": [expression]})
    };
    let pods = |selector: Value| json!([{"podSelector": selector}]);
    let namespaces = |selector: Value| json!([{"namespaceSelector": selector}]);
    let blocks =
        |cidrs: &[&str]| cidrs.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}})).collect::<Value>();
    let except = |cidr: &str, except: &[&str]| json!({"ipBlock": {"cidr": cidr, "except": except}});
    let (a, y) = (json!({"matchLabels": {"pod": "a"}}), json!({"matchLabels": {"ns": "y"}}));
    vec![
        ("no list admits everybody", Value::Null),
        ("an empty list admits everybody", json!([])),
        ("the empty pod selector is the namespace", pods(json!({}))),
        ("the empty namespace selector is all pods and nobody else", namespaces(json!({}))),
        ("both selectors empty are all pods", json!([{"podSelector": {}, "namespaceSelector": {}}])),
        ("pods by label are those of the namespace", pods(a.clone())),
        ("a label of nobody admits nobody", pods(json!({"matchLabels": {"pod": "d"}}))),
        ("two labels are both asked for", pods(json!({"matchLabels": {"pod": "a", "tier": "back"}}))),
        ("two labels that one pod has", pods(json!({"matchLabels": {"pod": "b", "tier": "back"}}))),
        ("In means one of the values", pods(expression("pod", "In", &["a", "c", "d"]))),
        ("NotIn is true of pods without the label", pods(expression("tier", "NotIn", &["front"]))),
        ("Exists is true of an empty label too", pods(expression("empty", "Exists", &[]))),
        ("DoesNotExist is true without the label", pods(expression("tier", "DoesNotExist", &[]))),
        ("an empty value is a value", pods(json!({"matchLabels": {"empty": ""}}))),
        ("an absent label is not in the empty value", pods(expression("empty", "In", &[""]))),
        ("an absent label is not the empty value", pods(expression("empty", "NotIn", &[""]))),
        (
            "labels and expressions are both asked for",
            pods(json!({
                "matchLabels": {"pod": "b"},
                "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front", "back"]}],
            })),
        ),
        (
            "two expressions are both asked for",
            pods(json!({"matchExpressions": [
                {"key": "tier", "operator": "Exists"},
                {"key": "pod", "operator": "NotIn", "values": ["b"]},
            ]})),
        ),
        (
            "expressions that exclude each other admit nobody",
            pods(json!({"matchExpressions": [
                {"key": "tier", "operator": "Exists"},
                {"key": "tier", "operator": "DoesNotExist"},
            ]})),
        ),
        ("a namespace by label", namespaces(y.clone())),
        ("a namespace by its name", namespaces(json!({"matchLabels": {"kubernetes.io/metadata.name": "z"}}))),
        (
            "namespaces by their names",
            namespaces(expression("kubernetes.io/metadata.name", "NotIn", &["x", "y"])),
        ),
        ("namespaces by one label", namespaces(json!({"matchLabels": {"team": "red"}}))),
        ("namespaces without a label", namespaces(expression("team", "DoesNotExist", &[]))),
        ("namespaces with an empty label", namespaces(json!({"matchLabels": {"empty": ""}}))),
        ("an unknown namespace admits nobody", namespaces(json!({"matchLabels": {"ns": "ghost"}}))),
        ("labels of pods are none of namespaces", namespaces(a.clone())),
        ("the own namespace may be named too", namespaces(json!({"matchLabels": {"ns": "x"}}))),
        (
            "both selectors in one peer are both asked for",
            json!([{"podSelector": a, "namespaceSelector": y}]),
        ),
        ("selectors in two peers are alternatives", json!([{"podSelector": a}, {"namespaceSelector": y}])),
        ("pods by label in all namespaces", json!([{"podSelector": a, "namespaceSelector": {}}])),
        (
            "all pods of one namespace, written with both selectors",
            json!([{"podSelector": {}, "namespaceSelector": y}]),
        ),
        (
            "peers that overlap",
            json!([{"podSelector": {}}, {"podSelector": a}, {"podSelector": a, "namespaceSelector": {}}]),
        ),
        ("the host outside by IPv4", blocks(&[&outside4])),
        ("the host outside by IPv6", blocks(&[&outside6])),
        ("the host outside by both", blocks(&[&outside4, &outside6])),
        ("all of IPv4 is none of IPv6", blocks(&["0.0.0.0/0"])),
        ("all of IPv6 is none of IPv4", blocks(&["::/0"])),
        ("all addresses are everybody", blocks(&["::/0", "0.0.0.0/0"])),
        ("half of IPv4", blocks(&["128.0.0.0/1"])),
        ("the other half of IPv4", blocks(&["0.0.0.0/1"])),
        ("one pod by its addresses", blocks(&[&ya4, &ya6])),
        ("pods by their pools", blocks(&[pools4, pools6])),
        ("host bits of a prefix mean nothing", blocks(&["203.0.113.77/24", "2001:db8:e::77/64"])),
        ("the nodes and the host outside by their prefixes", blocks(&["203.0.113.0/29", "2001:db8:e::/125"])),
        ("the second node by its addresses", blocks(&["203.0.113.2/32", "2001:db8:e::2/128"])),
        (
            "an exception is not admitted",
            json!([except("0.0.0.0/0", &[&outside4]), except("::/0", &[&outside6])]),
        ),
        (
            "an exception of pods counts for pods",
            json!([except("0.0.0.0/0", &[pools4]), except("::/0", &[pools6])]),
        ),
        ("several exceptions", json!([except(pools4, &[&ya4, &xb4]), except(pools6, &[&ya6, &xb6])])),
        (
            "exceptions that overlap",
            json!([except(pools4, &["198.51.100.0/30", "198.51.100.2/31", "198.51.100.2/31"])]),
        ),
        (
            "exceptions that make up the whole admit nobody",
            json!([
                except(pools4, &["198.51.100.0/25", "198.51.100.128/25"]),
                except(pools6, &["2001:db8:f000::/45", "2001:db8:f008::/45"]),
            ]),
        ),
        (
            "another peer admits what is an exception",
            json!([except("0.0.0.0/0", &[pools4]), {"podSelector": a, "namespaceSelector": {}}]),
        ),
        (
            "an exception of one prefix is admitted by another",
            json!([except("198.51.100.0/24", &[&ya4]), {"ipBlock": {"cidr": ya4}}]),
        ),
        (
            "prefixes and selectors are alternatives",
            json!([{"ipBlock": {"cidr": outside6}}, {"podSelector": {"matchLabels": {"pod": "b"}}}]),
        ),
    ]
}
