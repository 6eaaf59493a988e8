//! What the API server does with `deploy/policy.yaml`: its expressions are evaluated, and refuse what flock refuses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use flock_core::annotation::{PREFIX, PodIntent};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube_cel::KubeCelExt;
use kube_cel::cel::{Context, Program, ResolveResult, Value, to_value};
use proptest::prelude::*;
use serde_json::json;

type Annotations = BTreeMap<String, String>;

/// The policy, ready to be evaluated.
struct Policy {
    conditions: Vec<Program>,
    /// By name, in the order written: each may use those before it.
    variables: Vec<(String, Program)>,
    rules: Vec<Rule>,
    /// What it is applied to, as the API names it.
    resources: BTreeSet<String>,
}

struct Rule {
    holds: Program,
    message: String,
    message_expression: Option<Program>,
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(include_str!("../../../deploy/policy.yaml")).unwrap();
    let policy: ValidatingAdmissionPolicy = serde_json::from_value(documents[0].clone()).unwrap();
    let binding: ValidatingAdmissionPolicyBinding = serde_json::from_value(documents[1].clone()).unwrap();
    assert_eq!(Some(binding.spec.policy_name), policy.metadata.name);
    let spec = policy.spec.unwrap();
    let compile = |text: &str| Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let rule = |rule: k8s_openapi::api::admissionregistration::v1::Validation| Rule {
        holds: compile(&rule.expression),
        message: rule.message.unwrap(),
        message_expression: rule.message_expression.as_deref().map(compile),
    };
    let named = spec.match_constraints.unwrap().resource_rules.unwrap();
    Policy {
        conditions: spec.match_conditions.unwrap().iter().map(|it| compile(&it.expression)).collect(),
        variables: spec.variables.unwrap().into_iter().map(|it| (it.name, compile(&it.expression))).collect(),
        rules: spec.validations.unwrap().into_iter().map(rule).collect(),
        resources: named.into_iter().flat_map(|it| it.resources.unwrap()).collect(),
    }
});

/// Objects the policy looks at, with the annotations where such an object has its pod's.
fn object(kind: &str, annotations: &Annotations) -> serde_json::Value {
    // Kubernetes leaves out a map that is empty.
    let mut pod = json!({ "metadata": { "name": "pod" }, "spec": {} });
    if !annotations.is_empty() {
        pod["metadata"]["annotations"] = json!(annotations);
    }
    match kind {
        "Pod" => pod,
        "CronJob" => json!({ "metadata": {}, "spec": { "jobTemplate": { "spec": { "template": pod } } } }),
        _ => json!({ "metadata": {}, "spec": { "template": pod } }),
    }
}

/// `isCIDR` as Kubernetes has it; the crate takes leading zeros.
fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.rsplit_once('/') else { return false };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => 128,
        _ => return false,
    };
    let plain = length == "0" || !length.starts_with(['0', '+']);
    plain && length.parse::<u8>().is_ok_and(|length| length <= longest)
}

/// Everything the API server says against an object; nothing where it takes it. An expression that cannot be
/// evaluated is refused there in words nobody understands, so it fails the test.
fn complaints(kind: &str, object: &serde_json::Value) -> Vec<String> {
    let mut context = Context::default().with_all();
    context.add_function("dyn", |value: Value| -> ResolveResult { Ok(value) });
    context.add_function("isCIDR", |text: Arc<String>| is_cidr(&text));
    context.add_variable_from_value("object", to_value(object).unwrap());
    context.add_variable_from_value("request", to_value(json!({ "kind": { "kind": kind } })).unwrap());
    let evaluate = |context: &Context<'_>, program: &Program| {
        program.execute(context).unwrap_or_else(|error| panic!("{error}: {program:?} of {object}"))
    };
    if POLICY.conditions.iter().any(|it| evaluate(&context, it) != Value::Bool(true)) {
        return Vec::new();
    }
    let mut variables = HashMap::new();
    for (name, program) in &POLICY.variables {
        context.add_variable_from_value("variables", variables.clone());
        variables.insert(name.clone(), evaluate(&context, program));
    }
    context.add_variable_from_value("variables", variables.clone());
    let broken = POLICY.rules.iter().filter(|rule| match evaluate(&context, &rule.holds) {
        Value::Bool(holds) => !holds,
        other => panic!("{}: {other:?}", rule.message),
    });
    let told = broken.map(|rule| match rule.message_expression.as_ref().map(|it| evaluate(&context, it)) {
        Some(Value::String(text)) => text.to_string(),
        Some(other) => panic!("{}: {other:?}", rule.message),
        None => rule.message.clone(),
    });
    told.collect()
}

/// Holds the policy against flock: the two take and refuse the same.
fn compare(annotations: &Annotations) -> Vec<String> {
    let said = complaints("Pod", &object("Pod", annotations));
    let intent = PodIntent::parse(annotations);
    // The one exception: an IPv4-mapped prefix is none for Kubernetes, and no pool has addresses of it.
    let mapped = |intent: &PodIntent| intent.cidr6.iter().any(|it| it.addr().to_ipv4_mapped().is_some());
    let good = intent.as_ref().is_ok_and(|intent| !mapped(intent));
    assert_eq!(said.is_empty(), good, "{annotations:?}: {said:?} and {intent:?}");
    assert!(said.iter().all(|it| !it.trim().is_empty() && !it.contains('\n')), "{said:?}");
    said
}

fn one(name: &str, value: &str) -> Annotations {
    BTreeMap::from([(format!("{PREFIX}/{name}"), value.to_owned())])
}

/// Every key with everything that can be right or wrong with it.
fn cases() -> Vec<Annotations> {
    let lists: [(&str, &[&str]); 5] = [
        (
            "cidr6",
            &[
                "2001:db8::/64",
                "2001:DB8:0::/64",
                "2001:db8::1/64",
                "2001:db8::/064",
                "::/0",
                "::ffff:192.0.2.0/120",
                "192.0.2.0/24",
            ],
        ),
        (
            "cidr4",
            &[
                "192.0.2.0/24",
                "192.0.2.77/32",
                "192.0.2.77/24",
                "0.0.0.0/0",
                "192.0.2.0/33",
                "192.0.02.0/24",
                "192.0.2.0/+24",
                "2001:db8::/64",
            ],
        ),
        ("ip-algo", &["namespace", "pod", "image", "Pod", "node"]),
        ("anycast", &ADDRESSES),
        ("addresses", &ADDRESSES),
    ];
    let mut cases = vec![
        BTreeMap::new(),
        BTreeMap::from([("example.com/ipv4".to_owned(), "no".to_owned())]),
        BTreeMap::from([("my.flock.fritzlab.net/ipv4".to_owned(), "no".to_owned())]),
        BTreeMap::from([("Flock.Fritzlab.Net/ipv4".to_owned(), "true".to_owned())]),
    ];
    for name in ["ipv6", "ipv4"] {
        for value in [
            "true",
            "false",
            "TRUE",
            " False ",
            "\tfalse\n",
            "\u{a0}true",
            "",
            "no",
            "1",
            "tr ue",
            "truefalse",
        ] {
            cases.push(one(name, value));
        }
    }
    for name in ["ipv5", "IPv6", "anycasts", "ip_algo", "cidr"] {
        cases.push(one(name, "true"));
    }
    for (name, values) in lists {
        for first in ["", " ", ",", "x", "\u{2003}", "x/y", "192.0.2.1", "2001:db8::1"].iter().chain(values) {
            cases.push(one(name, first));
            cases.extend(values.iter().map(|second| one(name, &format!(" {first} ,{second}"))));
        }
    }
    let mut many = |name: &str, entry: fn(u32) -> String| {
        let lists = [64, 65, 66].map(|count| (0..count).map(entry).collect::<Vec<_>>().join(","));
        cases.extend(lists.map(|list| one(name, &list)));
    };
    many("cidr6", |n| format!("2001:db8:{n:x}::/48"));
    many("cidr4", |n| format!("192.0.2.{n}/32"));
    many("anycast", |n| format!("2001:db8::{n:x}"));
    many("addresses", |n| format!("192.0.2.{n}"));
    for (a, b) in [("2001:db8::1", "2001:DB8::0:1"), ("192.0.2.1", "192.0.2.2")] {
        cases.push(one("anycast", a).into_iter().chain(one("addresses", b)).collect());
    }
    cases
}

const ADDRESSES: [&str; 26] = [
    "2001:db8::53",
    "2001:DB8:0::53",
    "2001:db8::192.0.2.1",
    "192.0.2.53",
    "203.0.113.255",
    "192.0.2",
    "192.0.2.053",
    "192.0.2.256",
    "192.0.2.53/32",
    "192.0.2.53:53",
    "2001:db8::53%eth0",
    "[2001:db8::53]",
    "2001:db8:::53",
    "1:2:3:4:5:6:7::8",
    "::ffff:192.0.2.1",
    "::",
    "::1",
    "fe80::1",
    "febf::1",
    "ff02::1",
    "0.0.0.1",
    "127.0.0.53",
    "169.254.1.1",
    "224.0.0.251",
    "239.1.1.1",
    "255.255.255.255",
];

#[test]
fn api_server_and_flock_refuse_the_same_annotations() {
    let mut told = BTreeSet::new();
    for case in cases() {
        told.extend(compare(&case));
    }
    for rule in &POLICY.rules {
        let unknown = rule.message_expression.is_some();
        assert!(unknown || told.contains(&rule.message), "nothing is refused for: {}", rule.message);
    }
    let unknown = compare(&one("ivp4", "true"));
    assert!(unknown[0].starts_with("flock knows no annotation flock.fritzlab.net/ivp4;"), "{unknown:?}");
}

/// The inputs that fuzzing has collected.
#[test]
fn api_server_and_flock_refuse_the_same_of_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/annotation");
    let mut count = 0;
    for file in fs::read_dir(corpus).unwrap() {
        let text = fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&text);
        let lines = text.split('\n').filter_map(|line| line.split_once('='));
        compare(&lines.flat_map(|(name, value)| one(name, value)).collect());
        for name in ["ipv4", "cidr6", "cidr4", "ip-algo", "anycast", "addresses"] {
            compare(&one(name, &text));
        }
        count += 1;
    }
    assert!(count > 20, "{count}");
}

proptest! {
    #[test]
    fn api_server_and_flock_refuse_the_same_lists(name in "cidr6|cidr4|anycast|addresses|ip-algo", value in
        "(( ?([0-9a-f:]{0,3}2001:db8::[0-9a-f]{0,2}|192\\.0\\.2\\.[0-9]{1,3}|[0-9a-f:.]{1,9}|pod|image)(/[0-9]{1,3})?),?){1,4}")
    {
        compare(&one(&name, &value));
    }
}

/// Where each kind has the annotations of its pods.
#[test]
fn every_kind_that_makes_pods_is_looked_at() {
    let kinds = BTreeMap::from([
        ("pods", "Pod"),
        ("deployments", "Deployment"),
        ("statefulsets", "StatefulSet"),
        ("daemonsets", "DaemonSet"),
        ("jobs", "Job"),
        ("cronjobs", "CronJob"),
    ]);
    assert!(POLICY.resources.iter().eq(kinds.keys()), "{:?}", POLICY.resources);
    let (good, bad) = (one("ipv4", "false"), one("ipv4", "no"));
    for kind in kinds.into_values() {
        let said = |object: &serde_json::Value| complaints(kind, object);
        assert_eq!(said(&object(kind, &Annotations::new())), [""; 0], "{kind}");
        assert_eq!(said(&object(kind, &good)), [""; 0], "{kind}");
        let mut object = object(kind, &bad);
        assert_eq!(said(&object), ["flock.fritzlab.net/ipv6 and ipv4 must be true or false"], "{kind}");
        // Its controller must be able to tidy up.
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(said(&object), [""; 0], "{kind}");
    }
    // A template without metadata.
    assert_eq!(complaints("Deployment", &json!({ "metadata": {}, "spec": { "template": {} } })), [""; 0]);
}
