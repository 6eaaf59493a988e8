//! What the API server does with an object before it takes it: defaults, the schema, the rules.

use flock_core::config::{NodeConfig, NodeConfigSpec};
use kube_cel::{Validator, apply_defaults, compile_schema, estimate_rule_cost};
use regex::Regex;
use serde_json::{Value, json};

/// The schema of a NodeConfig.
pub(crate) fn schema() -> Value {
    let crd = serde_json::to_value(flock_k8s::crd::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// The object with its defaults, or everything the API server would say against it.
pub(crate) fn admit(schema: &Value, object: &Value) -> Result<Value, Vec<String>> {
    let object = apply_defaults(schema, object);
    let mut complaints = Vec::new();
    check(schema, &object, "", &mut complaints);
    // Rules are for objects that fit the schema.
    if complaints.is_empty()
        && let Err(errors) = Validator::new().validate(schema, &object, None)
    {
        complaints.extend(errors.as_slice().iter().map(|error| format!("{:?}: {error}", error.kind)));
    }
    if complaints.is_empty() { Ok(object) } else { Err(complaints) }
}

/// The part of a structural schema that is not CEL.
fn check(schema: &Value, value: &Value, path: &str, complaints: &mut Vec<String>) {
    let mut refuse = |what: &str| complaints.push(format!("{path}: {what}"));
    let limit = |name: &str| schema[name].as_f64();
    let most = |name: &str| schema[name].as_u64().map(|number| usize::try_from(number).unwrap());
    if value.is_null() {
        if schema["nullable"] != true {
            refuse("null");
        }
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ => true,
    };
    if !fits {
        return refuse("type");
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        refuse("enum");
    }
    if let Some(text) = value.as_str() {
        if most("maxLength").is_some_and(|most| text.chars().count() > most) {
            refuse("maxLength");
        }
        if schema["pattern"].as_str().is_some_and(|it| !Regex::new(it).unwrap().is_match(text)) {
            refuse("pattern");
        }
    }
    if let Some(number) = value.as_f64()
        && (limit("minimum").is_some_and(|it| number < it) || limit("maximum").is_some_and(|it| number > it))
    {
        refuse("range");
    }
    if let Some(items) = value.as_array() {
        let count = items.len();
        if most("minItems").is_some_and(|it| count < it) || most("maxItems").is_some_and(|it| count > it) {
            refuse("number of items");
        }
        for (index, item) in items.iter().enumerate() {
            check(&schema["items"], item, &format!("{path}[{index}]"), complaints);
        }
        return;
    }
    let Some(fields) = value.as_object() else { return };
    for required in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(required.as_str().unwrap()) {
            complaints.push(format!("{path}: {required} is missing"));
        }
    }
    for (name, field) in fields {
        let schema = match schema["properties"].get(name) {
            Some(known) => known,
            None => &schema["additionalProperties"],
        };
        check(schema, field, &format!("{path}.{name}"), complaints);
    }
}

fn object(spec: &Value) -> Value {
    json!({
        "apiVersion": "flock.fritzlab.net/v1alpha1",
        "kind": "NodeConfig",
        "metadata": {"name": "node-a"},
        "spec": spec,
    })
}

/// A good specification with one field, given by its JSON pointer, set to something else.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = json!({
        "cidr6": ["2001:db8:f001::/64"],
        "cidr4": ["192.0.2.0/24"],
        "defaults": {"ipv6": true},
        "bgp": {
            "asn": 65101,
            "routerID": "192.0.2.10",
            "peers": [{"address": "2001:db8::1", "asn": 65000}],
        },
        "claims": [{
            "cidrs": ["2001:db8:a::/64", "198.51.100.0/26"],
            "kinds": ["anycast"],
            "namespaceSelector": {
                "matchLabels": {"team": "dns"},
                "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}],
            },
        }],
    });
    *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    spec
}

/// Every change to a good specification, whether it is still good.
fn cases() -> Vec<(bool, Value)> {
    let long = "x".repeat(64);
    let mut cases = vec![
        (true, json!({"bgp": {"asn": 64500}})),
        (true, json!({"cidr4": ["192.0.2.0/30"], "bgp": {"asn": 4_294_967_294_u32}})),
        (false, json!({})),
        (false, json!({"bgp": {}})),
        (false, json!({"bgp": {"asn": "64500"}})),
    ];
    let tables: [(&str, &[Value], &[Value]); 13] = [
        (
            "/cidr6",
            &[json!([]), json!(["2001:db8:f001::/64", "2001:db8:f002::/127"])],
            &[
                json!(["2001:db8:f001::1/64"]),
                json!(["2001:db8:f001::"]),
                json!(["2001:db8:f001::/129"]),
                json!(["2001:db8:f001::/128"]),
                json!(["192.0.2.0/24"]),
                json!(["::ffff:192.0.2.0/120"]),
                json!(["fe80::/64"]),
                json!(["ff02::/16"]),
                json!(["::/0"]),
                json!(["::/64"]),
                json!(["pool"]),
                json!([""]),
                json!([64]),
                json!("2001:db8:f001::/64"),
                json!(["2001:db8::/32", "2001:db8:f001::/64"]),
                json!(["2001:db8:f001::/64", "2001:db8:f001::/64"]),
            ],
        ),
        (
            "/cidr4",
            &[json!(["198.51.100.0/25", "198.51.100.128/25"])],
            &[
                json!(["192.0.2.7/24"]),
                json!(["192.0.2.0/31"]),
                json!(["192.0.2.0/33"]),
                json!(["192.0.2/24"]),
                json!(["0.0.0.0/0"]),
                json!(["127.0.0.0/16"]),
                json!(["169.254.0.0/24"]),
                json!(["224.0.0.0/24"]),
                json!(["2001:db8::/64"]),
                json!(["192.0.2.0/24", "192.0.2.64/26"]),
            ],
        ),
        ("/defaults", &[json!({}), json!({"ipv4": false})], &[json!({"ipv6": "yes"})]),
        (
            "/bgp/asn",
            &[json!(1), json!(23455), json!(65534), json!(65536)],
            &[
                json!(0),
                json!(23456),
                json!(65535),
                json!(4_294_967_295_u32),
                json!(4_294_967_296_u64),
                json!(-1),
            ],
        ),
        (
            "/bgp/routerID",
            &[json!("198.51.100.1")],
            &[json!("0.0.0.0"), json!("2001:db8::1"), json!("192.0.2.10/32"), json!("router"), json!("")],
        ),
        (
            "/bgp/peers/0/address",
            &[json!("198.51.100.1"), json!("2001:DB8::1")],
            &[
                json!("2001:db8:f001::1"),
                json!("192.0.2.1"),
                json!("fe80::1"),
                json!("fe80::1%eth0"),
                json!("2001:db8::1%eth0"),
                json!("2001:db8::1/64"),
                json!("[2001:db8::1]:179"),
                json!("ff02::1"),
                json!("127.0.0.1"),
                json!("0.0.0.0"),
                json!("::"),
                json!("::1"),
                json!("255.255.255.255"),
                json!("::ffff:192.0.2.1"),
                json!("router.example"),
            ],
        ),
        ("/bgp/peers/0/asn", &[json!(65101)], &[json!(0), json!(23456)]),
        (
            "/bgp/peers",
            &[
                json!([]),
                json!([{"address": "2001:db8::1", "asn": 65000}, {"address": "2001:db8::2", "asn": 65000}]),
            ],
            &[
                json!([{"address": "2001:db8::1"}]),
                json!([{"address": "2001:db8::1", "asn": 1}, {"address": "2001:db8:0::1", "asn": 2}]),
            ],
        ),
        (
            "/claims/0/cidrs",
            &[json!(["::/0", "0.0.0.0/0"])],
            &[
                json!([]),
                json!(["2001:db8:a::1/64"]),
                json!(["2001:db8:a::"]),
                json!(["fe80::/64"]),
                json!(["224.0.0.0/4"]),
                json!(["2001:db8:a::/64", "2001:db8:a:0::/64"]),
            ],
        ),
        (
            "/claims/0/kinds",
            &[json!([]), json!(["addresses", "anycast"])],
            &[json!(["Anycast"]), json!(["anycast", "anycast"]), json!(["any"])],
        ),
        (
            "/claims/0/namespaceSelector/matchLabels",
            &[json!({}), json!({"example.com/team": ""}), json!({"a": "A_b.c-d"})],
            &[json!({"a": "b c"}), json!({"a": "-b"}), json!({ "a": long })],
        ),
        (
            "/claims/0/namespaceSelector/matchExpressions/0",
            &[
                json!({"key": "a", "operator": "Exists"}),
                json!({"key": "a", "operator": "NotIn", "values": ["", "b"]}),
            ],
            &[
                json!({"key": "a", "operator": "In"}),
                json!({"key": "a", "operator": "NotIn", "values": []}),
                json!({"key": "a", "operator": "Exists", "values": ["b"]}),
                json!({"key": "a", "operator": "DoesNotExist", "values": ["b"]}),
                json!({"key": "a", "operator": "in", "values": ["b"]}),
                json!({"key": "a b", "operator": "Exists"}),
                json!({"key": "a", "operator": "In", "values": ["b c"]}),
            ],
        ),
        ("/claims", &[json!([]), json!([{"cidrs": ["2001:db8:a::/64"]}])], &[json!([{}])]),
    ];
    for (pointer, good, bad) in tables {
        cases.extend(good.iter().map(|value| (true, with(pointer, value.clone()))));
        cases.extend(bad.iter().map(|value| (false, with(pointer, value.clone()))));
    }
    cases
}

#[test]
fn api_server_and_core_refuse_the_same_specifications() {
    let schema = schema();
    for (good, spec) in cases() {
        let admitted = admit(&schema, &object(&spec));
        assert_eq!(admitted.is_ok(), good, "API server: {spec}: {admitted:?}");
        if let Err(complaints) = &admitted {
            let evaluated = complaints.iter().all(|it| !it.starts_with("Comp") && !it.starts_with("Unsup"));
            assert!(evaluated, "{complaints:?}");
        }
        let core = serde_json::from_value::<NodeConfigSpec>(spec.clone())
            .map_err(|error| error.to_string())
            .and_then(|spec| NodeConfig::validate(&spec).map_err(|error| error.to_string()));
        assert_eq!(core.is_ok(), good, "core: {spec}: {core:?}");
    }
}

#[test]
fn what_the_api_server_admits_is_the_same_for_the_core() {
    let schema = schema();
    for spec in cases().into_iter().filter_map(|(good, spec)| good.then_some(spec)) {
        let admitted = admit(&schema, &object(&spec)).unwrap();
        let read = |value: &Value| serde_json::from_value::<NodeConfigSpec>(value.clone()).unwrap();
        assert_eq!(read(&admitted["spec"]), read(&spec));
        let typed: flock_k8s::crd::NodeConfig = serde_json::from_value(admitted).unwrap();
        assert_eq!(NodeConfigSpec::from(typed.spec), read(&spec));
    }
}

/// Rules with their schema, wherever they are.
fn rules(schema: &Value, path: &str, found: &mut Vec<(String, Value, Value)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.push((path.to_owned(), rule.clone(), schema.clone()));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        rules(field, &format!("{path}.{name}"), found);
    }
    if schema.get("items").is_some() {
        rules(&schema["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn every_rule_is_bounded_and_says_what_to_do() {
    let mut found = Vec::new();
    rules(&schema(), "", &mut found);
    assert!(found.len() > 15, "{found:?}");
    for (path, rule, schema) in found {
        let text = rule["rule"].as_str().unwrap();
        let warnings = estimate_rule_cost(text, &compile_schema(&schema));
        assert!(warnings.is_empty(), "{path}: {warnings:?}");
        assert!(rule["message"].as_str().unwrap().contains(": "), "{path}: {rule}");
    }
}

#[test]
fn every_field_is_described_and_every_list_and_text_of_the_spec_is_bounded() {
    fn look(schema: &Value, path: &str, bounded: bool) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            // `kubectl explain` wraps lines itself.
            assert!(field["description"].as_str().is_some_and(|it| !it.contains('\n')), "{path}");
            look(field, &path, bounded || path == ".spec");
        }
        let limit = match schema["type"].as_str() {
            Some("array") => "maxItems",
            Some("string") if schema.get("enum").is_none() => "maxLength",
            _ => "type",
        };
        assert!(!bounded || schema.get(limit).is_some(), "{path} has no {limit}");
        if schema.get("items").is_some() {
            look(&schema["items"], &format!("{path}[]"), bounded);
        }
    }
    look(&schema(), "", false);
}

/// A list is applied as a whole: what the API server filled in inside of one would be a difference to what was applied,
/// every time it is applied again.
#[test]
fn nothing_inside_a_list_of_the_spec_has_a_default() {
    fn look(schema: &Value, path: &str, in_list: bool) {
        assert!(!in_list || schema.get("default").is_none(), "{path}");
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            look(field, &format!("{path}.{name}"), in_list);
        }
        if schema.get("items").is_some() {
            look(&schema["items"], &format!("{path}[]"), true);
        }
    }
    look(&schema()["properties"]["spec"], ".spec", false);
}

#[test]
fn the_definition_in_deploy_is_the_one_of_the_code() {
    let file = include_str!("../../../deploy/crd.yaml");
    assert_eq!(file, flock_k8s::crd::crd_yaml().unwrap(), "run cargo xtask crd");
}
