//! Policies of which several meet: at one pod, at both ends of a connection, in several namespaces; and which pods and
//! which directions a policy is about.

use serde_json::{Value, json};

use super::table::Entry;
use super::world::{OUTSIDE, World, policy};

fn x(spec: &Value) -> Value {
    policy("x", spec)
}

/// What a policy can be about.
pub(super) fn subjects() -> Vec<Entry> {
    let selectors = [
        ("all pods", json!({})),
        ("one pod", json!({"matchLabels": {"pod": "a"}})),
        ("no pod", json!({"matchLabels": {"pod": "d"}})),
        (
            "pods by an expression",
            json!({"matchExpressions": [{"key": "pod", "operator": "In", "values": ["a", "c"]}]}),
        ),
        ("pods without a label", json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]})),
        (
            "pods that are not",
            json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}]}),
        ),
        ("pods with an empty label", json!({"matchLabels": {"empty": ""}})),
        (
            "labels and expressions",
            json!({
                "matchLabels": {"tier": "front"},
                "matchExpressions": [{"key": "pod", "operator": "Exists"}],
            }),
        ),
    ];
    let kinds = [
        ("closed to all", json!({"policyTypes": ["Ingress"]})),
        ("may send to nobody", json!({"policyTypes": ["Egress"]})),
        (
            "are left TCP 80 both ways",
            json!({
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"ports": [{"port": 80}]}],
                "egress": [{"ports": [{"port": 80}]}],
            }),
        ),
    ];
    let mut entries = vec![Entry::new("no selector is all pods", [x(&json!({"policyTypes": ["Ingress"]}))])];
    for (who, selector) in selectors {
        for (what, spec) in &kinds {
            let mut spec = spec.clone();
            spec["podSelector"] = selector.clone();
            entries.push(Entry::new(format!("{who} {what}"), [x(&spec)]));
        }
    }
    entries
}

/// Which directions a policy is about.
pub(super) fn types() -> Vec<Entry> {
    let (open, shut) = (json!([{}]), json!([]));
    let to_y = json!([{"to": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]);
    let from_y = json!([{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]);
    let of = |name, spec: Value| {
        let mut spec = spec;
        spec["podSelector"] = json!({});
        Entry::new(name, [x(&spec)])
    };
    vec![
        of("a policy that says nothing closes", json!({})),
        of("a policy with empty types closes", json!({"policyTypes": []})),
        of("no types and empty egress: ingress only", json!({"egress": shut})),
        of("no types and rules of egress: both", json!({"egress": to_y})),
        of("no types and rules of both", json!({"ingress": from_y, "egress": to_y})),
        of("no types and rules of ingress: ingress only", json!({"ingress": from_y})),
        of("both types without rules close both ways", json!({"policyTypes": ["Ingress", "Egress"]})),
        of("types in the other order", json!({"policyTypes": ["Egress", "Ingress"], "ingress": from_y})),
        of(
            "rules of a direction not listed do not count",
            json!({"policyTypes": ["Egress"], "ingress": shut, "egress": to_y}),
        ),
        of(
            "rules of egress do not count in ingress only",
            json!({"policyTypes": ["Ingress"], "ingress": from_y, "egress": to_y}),
        ),
        of("both types and rules of one", json!({"policyTypes": ["Ingress", "Egress"], "ingress": open})),
        of(
            "both types and rules of the other",
            json!({"policyTypes": ["Ingress", "Egress"], "egress": open}),
        ),
        of("open both ways", json!({"policyTypes": ["Ingress", "Egress"], "ingress": open, "egress": open})),
        of(
            "null lists are none",
            json!({"policyTypes": ["Ingress", "Egress"], "ingress": null, "egress": null}),
        ),
    ]
}

/// Several policies.
pub(super) fn stacks(world: &World) -> Vec<Entry> {
    let deny = |namespace: &str, types: &[&str]| {
        policy(namespace, &json!({"podSelector": {}, "policyTypes": types}))
    };
    let namespaces = ["x", "y", "z"];
    let everywhere = |types: &[&str]| namespaces.map(|namespace| deny(namespace, types)).to_vec();
    let by_pod = |name: &str| json!({"matchLabels": {"pod": name}});
    let by_ns = |name: &str| json!({"matchLabels": {"ns": name}});
    let ingress = |subject: Value, rules: Value| json!({"podSelector": subject, "policyTypes": ["Ingress"], "ingress": rules});
    let egress = |subject: Value, rules: Value| json!({"podSelector": subject, "policyTypes": ["Egress"], "egress": rules});
    let from = |peer: Value, ports: Value| json!({"from": [peer], "ports": ports});
    let to = |peer: Value, ports: Value| json!({"to": [peer], "ports": ports});
    let dns = json!([{"ports": [{"port": 80, "protocol": "UDP"}]}]);
    let y = json!({"namespaceSelector": by_ns("y")});
    let z = json!({"namespaceSelector": by_ns("z")});
    let local = &world.pods[world.pod("x/b")];
    let with = |mut policies: Vec<Value>, more: &[Value]| {
        policies.extend(more.iter().cloned());
        policies
    };
    let only_from_b = x(&ingress(json!({}), json!([from(json!({"podSelector": by_pod("b")}), json!([]))])));
    let crowd: Vec<Value> = (0..40)
        .map(|n| x(&ingress(json!({}), json!([from(y.clone(), json!([{"port": 9000 + n}]))]))))
        .collect();
    vec![
        Entry::new("default deny of ingress", everywhere(&["Ingress"])),
        Entry::new("default deny of egress", everywhere(&["Egress"])),
        Entry::new("default deny of both", everywhere(&["Ingress", "Egress"])),
        Entry::new("one namespace is closed, the others are not", [deny("y", &["Ingress", "Egress"])]),
        Entry::new(
            "deny and allow of all is allow",
            [deny("x", &["Ingress"]), x(&ingress(json!({}), json!([{}])))],
        ),
        Entry::new(
            "allow of all first and deny second is the same",
            [x(&ingress(json!({}), json!([{}]))), deny("x", &["Ingress"])],
        ),
        Entry::new("default deny with one exception", with(everywhere(&["Ingress"]), std::slice::from_ref(&only_from_b))),
        Entry::new(
            "two policies of one pod add up",
            [
                x(&ingress(by_pod("a"), json!([from(y.clone(), json!([{"port": 80}]))]))),
                x(&ingress(json!({}), json!([from(z.clone(), json!([{"port": 81}]))]))),
            ],
        ),
        Entry::new(
            "peers and ports of two rules do not mix",
            [x(&ingress(
                json!({}),
                json!([from(y.clone(), json!([{"port": 80}])), from(z.clone(), json!([{"port": 81}]))]),
            ))],
        ),
        Entry::new(
            "peers and ports of two policies do not mix",
            [
                x(&egress(json!({}), json!([to(y.clone(), json!([{"port": 80}]))]))),
                x(&egress(json!({}), json!([to(z.clone(), json!([{"port": 81}]))]))),
            ],
        ),
        Entry::new("a rule that admits all beside one that does not", [x(&ingress(json!({}), json!([from(y.clone(), json!([])), {}])))]),
        Entry::new(
            "the same policy three times",
            [only_from_b.clone(), only_from_b.clone(), only_from_b.clone()],
        ),
        Entry::new(
            "the same rules in another order",
            [
                x(&ingress(by_pod("a"), json!([from(y.clone(), json!([])), from(z.clone(), json!([{"port": 80}]))]))),
                x(&ingress(by_pod("b"), json!([from(z.clone(), json!([{"port": 80}])), from(y.clone(), json!([]))]))),
            ],
        ),
        Entry::new("a policy of another namespace does not select", [policy("y", &ingress(by_pod("a"), json!([])))]),
        Entry::new("a policy of a namespace without pods", [policy("ghost", &ingress(json!({}), json!([])))]),
        Entry::new("egress to DNS only", [x(&egress(json!({}), dns.clone()))]),
        Entry::new("egress to DNS only, everywhere", namespaces.map(|it| policy(it, &egress(json!({}), dns.clone())))),
        Entry::new(
            "egress to DNS by its name",
            [x(&egress(json!({}), json!([{"ports": [{"port": "dns", "protocol": "UDP"}]}])))],
        ),
        Entry::new(
            "egress consents and ingress does not",
            [x(&egress(json!({}), json!([to(y.clone(), json!([]))]))), deny("y", &["Ingress"])],
        ),
        Entry::new(
            "ingress consents and egress does not",
            [policy("y", &ingress(json!({}), json!([{"from": [{"namespaceSelector": by_ns("x")}]}]))), deny("x", &["Egress"])],
        ),
        Entry::new(
            "both ends consent",
            with(
                everywhere(&["Ingress", "Egress"]),
                &[
                    x(&egress(by_pod("a"), json!([to(y.clone(), json!([]))]))),
                    policy("y", &ingress(by_pod("b"), json!([{"from": [{"namespaceSelector": by_ns("x")}]}]))),
                ],
            ),
        ),
        Entry::new(
            "both ends consent, each to other ports",
            [
                x(&egress(json!({}), json!([{"ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]}]))),
                policy("y", &ingress(json!({}), json!([{"ports": [{"port": 80}, {"port": 81}]}]))),
            ],
        ),
        Entry::new(
            "the ends name the port differently",
            [
                x(&egress(json!({}), json!([{"ports": [{"port": "web"}]}]))),
                policy("y", &ingress(json!({}), json!([{"ports": [{"port": 80}, {"port": "web"}]}]))),
            ],
        ),
        Entry::new(
            "pods of one namespace among themselves only",
            namespaces.map(|it| {
                let peers = json!([{"podSelector": {}}]);
                let rules = (json!([{"from": peers}]), json!([{"to": peers}]));
                policy(it, &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": rules.0, "egress": rules.1}))
            }),
        ),
        Entry::new(
            "the outside only, by exception of the pods",
            [x(&egress(
                json!({}),
                json!([{"to": [
                    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24"]}},
                    {"ipBlock": {"cidr": "::/0", "except": ["2001:db8:f000::/44"]}},
                ]}]),
            ))],
        ),
        Entry::new(
            "a policy that names the own pod as its only peer",
            [x(&ingress(by_pod("b"), json!([{"from": [{"ipBlock": {"cidr": format!("{}/128", local.v6)}}]}])))],
        ),
        Entry::new("forty policies of one pod, none of which fits", crowd.clone()),
        Entry::new("forty policies of one pod and one that fits", with(crowd, std::slice::from_ref(&only_from_b))),
        Entry::new(
            "a rule of many peers",
            [x(&ingress(
                json!({}),
                json!([{"from": (0..200)
                    .map(|n| json!({"ipBlock": {"cidr": format!("192.0.2.{n}/32")}}))
                    .chain([json!({"ipBlock": {"cidr": format!("{}/32", OUTSIDE.0)}})])
                    .collect::<Vec<_>>()}]),
            ))],
        ),
        Entry::new(
            "rings: x to y, y to z, z to x",
            [("x", "y"), ("y", "z"), ("z", "x")]
                .map(|(from, to)| policy(from, &egress(json!({}), json!([{"to": [{"namespaceSelector": by_ns(to)}]}])))),
        ),
        Entry::new(
            "each pod has a policy of its own",
            namespaces.into_iter().flat_map(|namespace| {
                let of = move |name: &str, other: &str| {
                    policy(
                        namespace,
                        &json!({
                            "podSelector": {"matchLabels": {"pod": name}},
                            "policyTypes": ["Ingress", "Egress"],
                            "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": other}}, "namespaceSelector": {}}]}],
                            "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "web"}]}, {"ports": [{"port": 81, "protocol": "UDP"}]}],
                        }),
                    )
                };
                [of("a", "b"), of("b", "c"), of("c", "a")]
            }),
        ),
        Entry::new("nothing at all", []),
    ]
}
