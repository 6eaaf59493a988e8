//! `spec.claims` of a node configuration, label selectors included: what is accepted, and the exact words of
//! every refusal.

use flock_core::config::{NodeConfig, NodeConfigSpec};
use serde_json::{Value, json};

fn spec(claims: &Value) -> NodeConfigSpec {
    serde_json::from_value(json!({ "bgp": { "asn": 65101 }, "claims": claims })).unwrap()
}

fn refusal(claims: &Value) -> String {
    NodeConfig::validate(&spec(claims)).unwrap_err().to_string()
}

/// One claim on a good prefix.
fn selecting(selector: &Value) -> Value {
    json!([{ "cidrs": ["2001:db8:a::/64"], "namespaceSelector": selector }])
}

#[test]
fn good_claims_are_accepted() {
    let table = [
        json!([]),
        json!([{ "cidrs": ["2001:db8:a::/64", "192.0.2.0/26"] }]),
        json!([{ "cidrs": ["::/0", "0.0.0.0/0"], "kinds": ["anycast", "addresses"] }]),
        json!([{ "cidrs": ["2001:db8:a::53/128"], "kinds": ["addresses"] }]),
        json!([{ "cidrs": ["192.0.2.53/32"], "kinds": [] }]),
        // Around a special range, the same twice in two entries, one inside the other.
        json!([{ "cidrs": ["fe00::/7", "128.0.0.0/1"] }]),
        json!([{ "cidrs": ["2001:db8:a::/64"] }, { "cidrs": ["2001:db8:a::/64"] }]),
        json!([{ "cidrs": ["2001:db8:a::/64", "2001:db8:a::/96"] }]),
        selecting(&json!({})),
        selecting(&json!({ "matchLabels": {}, "matchExpressions": [] })),
        selecting(&json!({ "matchLabels": { "team": "dns", "empty": "", "a.B_c-9": "x_Y.z-0" } })),
        selecting(&json!({ "matchLabels": { "kubernetes.io/metadata.name": "dns" } })),
        selecting(&json!({ "matchLabels": { "a".repeat(63): "b".repeat(63) } })),
        selecting(&json!({ "matchExpressions": [
            { "key": "team", "operator": "In", "values": ["dns", "web", "dns"] },
            { "key": "team", "operator": "NotIn", "values": [""] },
            { "key": "example.com/tier", "operator": "Exists" },
            { "key": "9", "operator": "DoesNotExist", "values": [] },
        ] })),
        // Nothing has both, but Kubernetes takes it too.
        selecting(&json!({ "matchExpressions": [
            { "key": "team", "operator": "Exists" },
            { "key": "team", "operator": "DoesNotExist" },
        ] })),
    ];
    for claims in table {
        assert!(NodeConfig::validate(&spec(&claims)).is_ok(), "{claims}");
    }
}

#[test]
fn refusals_of_prefixes_say_field_value_reason_and_fix() {
    let shape = "is not a prefix: write ADDRESS/LENGTH, as in 2001:db8:a::/64 or 192.0.2.0/26";
    let special = |range: &str| format!("lies in the {range}: use addresses that a pod can have");
    let table = [
        ("", shape.to_owned()),
        ("any", shape.to_owned()),
        ("192.0.2/24", shape.to_owned()),
        (" 192.0.2.0/24", shape.to_owned()),
        ("192.0.2.0-192.0.2.9", shape.to_owned()),
        ("fe80::%eth0/64", shape.to_owned()),
        ("2001:db8:a::53", "has no prefix length: write 2001:db8:a::53/128".to_owned()),
        ("192.0.2.53", "has no prefix length: write 192.0.2.53/32".to_owned()),
        ("2001:db8:a::53/64", "has host bits set: write 2001:db8:a::/64".to_owned()),
        ("192.0.2.53/26", "has host bits set: write 192.0.2.0/26".to_owned()),
        ("192.0.2.0/33", r#"has the prefix length "33": use a number from 0 to 32"#.to_owned()),
        ("2001:db8:a::/129", r#"has the prefix length "129": use a number from 0 to 128"#.to_owned()),
        ("192.0.2.0/-1", r#"has the prefix length "-1": use a number from 0 to 32"#.to_owned()),
        ("192.000.2.0/24", "has a leading zero: write 192.0.2.0/24".to_owned()),
        ("2001:db8:a::/064", "has a leading zero: write 2001:db8:a::/64".to_owned()),
        ("::/128", special("unspecified range ::/128")),
        ("::1/128", special("loopback range ::1/128")),
        ("fe80::/64", special("link-local range fe80::/10")),
        ("ff02::/16", special("multicast range ff00::/8")),
        ("::ffff:192.0.2.0/120", special("IPv4-mapped range ::ffff:0.0.0.0/96")),
        ("0.0.0.0/8", special("unspecified range 0.0.0.0/8")),
        ("127.0.0.53/32", special("loopback range 127.0.0.0/8")),
        ("169.254.0.0/16", special("link-local range 169.254.0.0/16")),
        ("224.0.0.0/4", special("multicast range 224.0.0.0/4")),
        ("255.255.255.255/32", special("broadcast range 255.255.255.255/32")),
        ("2001:DB8:B:0::/64", "is there twice: keep one of them".to_owned()),
    ];
    for (text, expected) in table {
        let claims = json!([{ "cidrs": ["192.0.2.64/26"] }, { "cidrs": ["2001:db8:b::/64", text] }]);
        assert_eq!(refusal(&claims), format!(r#"spec.claims[1].cidrs[1] "{text}" {expected}"#));
    }
    assert_eq!(
        refusal(&json!([{ "cidrs": [] }])),
        "spec.claims[0].cidrs [] covers no address: add a prefix, as in 2001:db8:a::/64, or remove the entry"
    );
}

#[test]
fn refusals_of_kinds_say_what_there_is() {
    let neither = "is not a kind of claim: use anycast or addresses, or leave the field out for both";
    let table = [
        ("Anycast", r#"is not a kind of claim: write "anycast""#),
        (" anycast", r#"is not a kind of claim: write "anycast""#),
        ("address", r#"is not a kind of claim: write "addresses""#),
        ("ADDRESSES", r#"is not a kind of claim: write "addresses""#),
        ("both", neither),
        ("", neither),
        ("addresses", "is there twice: keep one of them"),
    ];
    for (kind, expected) in table {
        let claims = json!([{ "cidrs": ["2001:db8:a::/64"], "kinds": ["addresses", kind] }]);
        assert_eq!(refusal(&claims), format!(r#"spec.claims[0].kinds[1] "{kind}" {expected}"#));
    }
}

#[test]
fn selectors_keep_the_rules_of_kubernetes() {
    let key = "is not a label key: write [PREFIX/]NAME, as in team or example.com/team";
    let value = "is not a label value: use at most 63 letters, digits, '-', '_' and '.', with a letter or \
                 digit at both ends";
    let long = "a".repeat(64);
    for bad in [
        "",
        "/",
        "/team",
        "example.com/",
        "a/b/c",
        "-team",
        "team-",
        ".team",
        "te am",
        "té",
        "Example.com/team",
        "example..com/team",
        "exa_mple.com/team",
        "-a.com/team",
        &long,
    ] {
        let expected = format!("{bad:?} {key}");
        let labels = selecting(&json!({ "matchLabels": { bad: "dns" } }));
        assert_eq!(refusal(&labels), format!("spec.claims[0].namespaceSelector.matchLabels {expected}"));
        let expression = json!({ "matchExpressions": [{ "key": bad, "operator": "Exists" }] });
        assert_eq!(
            refusal(&selecting(&expression)),
            format!("spec.claims[0].namespaceSelector.matchExpressions[0].key {expected}")
        );
    }
    for bad in ["-dns", "dns-", "d ns", "dns/web", "dé", &long, " "] {
        let expected = format!("{bad:?} {value}");
        let labels = selecting(&json!({ "matchLabels": { "team": bad } }));
        assert_eq!(refusal(&labels), format!("spec.claims[0].namespaceSelector.matchLabels {expected}"));
        let requirement = json!({ "key": "team", "operator": "In", "values": ["dns", bad] });
        assert_eq!(
            refusal(&selecting(&json!({ "matchExpressions": [requirement] }))),
            format!("spec.claims[0].namespaceSelector.matchExpressions[0].values[1] {expected}")
        );
    }
    // A prefix of 253 characters is the longest.
    let prefix = |length: usize| format!("{}/team", "a".repeat(length));
    assert!(NodeConfig::validate(&spec(&selecting(&json!({ "matchLabels": { prefix(253): "" } })))).is_ok());
    assert!(NodeConfig::validate(&spec(&selecting(&json!({ "matchLabels": { prefix(254): "" } })))).is_err());
}

#[test]
fn operators_say_what_they_take() {
    let any = "is not an operator: use one of In, NotIn, Exists, DoesNotExist";
    let table = [
        ("in", json!(["a"]), r#"operator "in" is not an operator: write "In""#.to_owned()),
        ("NOTIN", json!(["a"]), r#"operator "NOTIN" is not an operator: write "NotIn""#.to_owned()),
        ("exists", json!([]), r#"operator "exists" is not an operator: write "Exists""#.to_owned()),
        ("=", json!(["a"]), format!(r#"operator "=" {any}"#)),
        ("Gt", json!(["1"]), format!(r#"operator "Gt" {any}"#)),
        ("", json!([]), format!(r#"operator "" {any}"#)),
        ("In", json!([]), "values [] of In needs values: add at least one".to_owned()),
        ("NotIn", json!([]), "values [] of NotIn needs values: add at least one".to_owned()),
        (
            "Exists",
            json!(["a"]),
            r#"values ["a"] of Exists takes no values: remove them, or use In instead of Exists"#.to_owned(),
        ),
        (
            "DoesNotExist",
            json!(["a", "b"]),
            r#"values ["a", "b"] of DoesNotExist takes no values: remove them, or use NotIn instead of DoesNotExist"#
                .to_owned(),
        ),
    ];
    for (operator, values, expected) in table {
        let requirement = json!({ "key": "team", "operator": operator, "values": values });
        let claims = selecting(&json!({ "matchExpressions": [requirement] }));
        let field = "spec.claims[0].namespaceSelector.matchExpressions[0].";
        assert_eq!(refusal(&claims), format!("{field}{expected}"));
    }
}

#[test]
fn every_problem_of_the_claims_is_reported_in_order() {
    let claims = json!([
        { "cidrs": ["192.0.2.7/26", "fe80::/10"], "kinds": ["unicast"] },
        { "cidrs": ["2001:db8:a::/64"] },
        {
            "cidrs": [],
            "kinds": ["anycast", "anycast"],
            "namespaceSelector": {
                "matchLabels": { "-": "-" },
                "matchExpressions": [{ "key": "", "operator": "Is", "values": ["?"] }],
            },
        },
    ]);
    let refused = NodeConfig::validate(&spec(&claims)).unwrap_err();
    let fields: Vec<_> = refused.problems().iter().map(|problem| problem.field.as_str()).collect();
    let selector = "spec.claims[2].namespaceSelector";
    assert_eq!(
        fields,
        [
            "spec.claims[0].cidrs[0]",
            "spec.claims[0].cidrs[1]",
            "spec.claims[0].kinds[0]",
            "spec.claims[2].cidrs",
            "spec.claims[2].kinds[1]",
            &format!("{selector}.matchLabels"), // the key
            &format!("{selector}.matchLabels"), // the value
            &format!("{selector}.matchExpressions[0].key"),
            &format!("{selector}.matchExpressions[0].values[0]"),
            &format!("{selector}.matchExpressions[0].operator"),
        ]
    );
}

#[test]
fn unknown_fields_of_a_claim_are_refused() {
    for claim in [
        json!({ "cidr": ["2001:db8::/64"] }),
        json!({ "cidrs": ["2001:db8::/64"], "podSelector": {} }),
        json!({ "cidrs": ["2001:db8::/64"], "namespaceSelector": { "matchLabel": {} } }),
        json!({ "kinds": ["anycast"] }), // without cidrs
        json!({ "cidrs": "2001:db8::/64" }),
    ] {
        let spec = json!({ "bgp": { "asn": 65101 }, "claims": [claim] });
        assert!(serde_json::from_value::<NodeConfigSpec>(spec.clone()).is_err(), "{spec}");
    }
}
