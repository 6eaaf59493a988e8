//! Everything a list of ports can say.

use serde_json::{Value, json};

/// Lists of ports, and what each shows. Null: the rule has no list.
pub(super) fn lists() -> Vec<(&'static str, Value)> {
    let many: Vec<Value> = (0..60).map(|n| json!({"port": 9000 + 2 * n})).collect();
    let many_with = |port: Value| [many.clone(), vec![port]].concat();
    vec![
        ("no list is every protocol", Value::Null),
        ("an empty list is every protocol", json!([])),
        ("a number is one of TCP", json!([{"port": 80}])),
        ("a number of UDP is none of TCP", json!([{"port": 80, "protocol": "UDP"}])),
        ("a protocol alone is all its ports, TCP", json!([{"protocol": "TCP"}])),
        ("a protocol alone is all its ports, UDP", json!([{"protocol": "UDP"}])),
        ("both protocols are not ICMP", json!([{"protocol": "TCP"}, {"protocol": "UDP"}])),
        ("SCTP is neither of the others", json!([{"protocol": "SCTP"}])),
        ("SCTP beside another", json!([{"protocol": "SCTP", "port": 80}, {"port": 81}])),
        ("an entry without anything is TCP", json!([{}])),
        ("a port nobody serves", json!([{"port": 82}])),
        ("two numbers", json!([{"port": 80}, {"port": 81}])),
        ("a number of each protocol", json!([{"port": 80}, {"port": 81, "protocol": "UDP"}])),
        ("the same number twice", json!([{"port": 80}, {"port": 80}, {"port": 80, "protocol": "TCP"}])),
        ("a number in a protocol that is admitted as a whole", json!([{"port": 80}, {"protocol": "TCP"}])),
        ("a range of one", json!([{"port": 80, "endPort": 80}])),
        ("a range", json!([{"port": 80, "endPort": 81}])),
        ("a range up to a port includes it", json!([{"port": 1, "endPort": 80}])),
        ("a range from a port includes it", json!([{"port": 81, "endPort": 65535}])),
        ("a range below", json!([{"port": 1, "endPort": 79}])),
        ("all ports as a range", json!([{"port": 1, "endPort": 65535, "protocol": "UDP"}])),
        ("ranges that touch", json!([{"port": 79, "endPort": 80}, {"port": 81, "endPort": 90}])),
        ("ranges that overlap", json!([{"port": 70, "endPort": 80}, {"port": 75, "endPort": 81}])),
        ("a range within another", json!([{"port": 1, "endPort": 1000}, {"port": 80, "endPort": 81}])),
        (
            "a range of one protocol, a number of the other",
            json!([{"port": 80, "endPort": 81}, {"port": 81, "protocol": "UDP"}]),
        ),
        ("a name is what the pod calls so", json!([{"port": "web"}])),
        ("a name is looked up with its protocol", json!([{"port": "web", "protocol": "UDP"}])),
        ("a name of UDP", json!([{"port": "dns", "protocol": "UDP"}])),
        ("a name of UDP is none of TCP", json!([{"port": "dns"}])),
        ("a name in another container of the pod", json!([{"port": "alt"}])),
        ("a name of some pods only", json!([{"port": "log", "protocol": "UDP"}])),
        ("a name no pod has", json!([{"port": "nothing"}])),
        ("a name no pod has beside a number", json!([{"port": "nothing"}, {"port": 81}])),
        ("two names", json!([{"port": "web"}, {"port": "dns", "protocol": "UDP"}])),
        ("two names of one pod and one protocol", json!([{"port": "web"}, {"port": "alt"}])),
        ("a name and a number that is the same", json!([{"port": "web"}, {"port": 80}])),
        ("a name and a range", json!([{"port": "web"}, {"port": 80, "endPort": 81, "protocol": "UDP"}])),
        ("many numbers", json!(many_with(json!({"port": 80})))),
        ("many numbers and a name", json!(many_with(json!({"port": "web"})))),
    ]
}
