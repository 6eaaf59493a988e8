//! What a file means, without a directory.

use std::sync::Arc;

use flock_core::config::{BgpSpec, DefaultsSpec, NodeConfigSpec, PeerSpec};
use flock_core::ids::{NodeName, PodKey};
use flock_core::ports::ClusterView;
use flock_k8s::{MAX_FILE_BYTES, read_manifests, read_objects};
use proptest::prelude::*;

use crate::bench::{key, node, pod, pod_saying, says};

fn read(text: &str) -> ClusterView {
    read_files(&[("a.yaml", text)])
}

fn read_files(files: &[(&str, &str)]) -> ClusterView {
    read_manifests(&node(), files.iter().map(|(name, text)| (*name, text.as_bytes())))
}

fn names(view: &ClusterView) -> Vec<&str> {
    assert_eq!(view.problems, [""; 0]);
    view.pods.keys().map(PodKey::name).collect()
}

/// A view with nothing in it.
fn nothing() -> ClusterView {
    ClusterView { node: Some(node()), ..ClusterView::default() }
}

/// Exactly one problem, and nothing else.
fn problem(text: &str) -> String {
    let view = read(text);
    assert!(view.pods.is_empty() && view.node_config.is_none(), "{view:?}");
    let [problem] = &view.problems[..] else { panic!("{:?}", view.problems) };
    problem.clone()
}

const NODE_CONFIG: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: node-a, generation: 7}
spec:
  cidr6: [2001:db8:f001::/64]     # pools of this node
  cidr4: [192.0.2.0/24]
  defaults: { ipv6: true }
  bgp:
    asn: 65101
    routerID: 192.0.2.10
    peers:
      - address: 2001:db8::1
        asn: 65000
status:
  conditions: []
";

#[test]
fn node_config_of_the_documentation_is_read() {
    let view = read(NODE_CONFIG);
    assert_eq!(view.problems, [""; 0]);
    let config = view.node_config.unwrap();
    assert_eq!(config.generation, 7);
    let expected = NodeConfigSpec {
        cidr6: vec!["2001:db8:f001::/64".to_owned()],
        cidr4: vec!["192.0.2.0/24".to_owned()],
        defaults: DefaultsSpec { ipv6: Some(true), ipv4: None },
        bgp: BgpSpec {
            asn: 65101,
            router_id: Some("192.0.2.10".to_owned()),
            peers: vec![PeerSpec { address: "2001:db8::1".to_owned(), asn: 65000 }],
        },
        claims: Vec::new(),
    };
    assert_eq!(config.spec, Ok(expected));
}

#[test]
fn node_config_of_another_node_only_tells_its_pools() {
    let other = NODE_CONFIG.replace("node-a", "node-b");
    let mut expected = nothing();
    let pools = ["2001:db8:f001::/64", "192.0.2.0/24"].map(|net| net.parse().unwrap());
    expected.foreign_pools = Arc::new([(NodeName::parse("node-b").unwrap(), pools.into())].into());
    assert_eq!(read(&other), expected);
    // As far as they can be read: that node's agent says what is wrong with the rest.
    let view = read(&other.replace("[192.0.2.0/24]", "[192.0.2.1/24, lots]"));
    assert_eq!(view.foreign_pools, expected.foreign_pools);
}

#[test]
fn node_config_with_a_bad_spec_is_there_and_says_what_is_wrong_where() {
    for (from, to, reason) in [
        (
            "asn: 65000",
            "asn: lots",
            "a.yaml:2: spec.bgp.peers[0].asn: invalid type: string \"lots\", expected u64",
        ),
        ("cidr6:", "cidr5:", "a.yaml:2: spec.cidr5: unknown field `cidr5`, expected one of"),
        ("  bgp:", "  pgb:", "a.yaml:2: spec.pgb: unknown field `pgb`, expected one of"),
        ("cidr4: [192.0.2.0/24]", "cidr4: 192.0.2.0/24", "a.yaml:2: spec.cidr4: invalid type: string"),
    ] {
        let view = read(&NODE_CONFIG.replacen(from, to, 1));
        assert_eq!(view.problems, [""; 0], "it is a NodeConfig and reported as such");
        let error = view.node_config.unwrap().spec.unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }
    let text = NODE_CONFIG.split("spec:").next().unwrap();
    assert_eq!(read(text).node_config.unwrap().spec, Err("a.yaml:2: spec is missing".to_owned()));
    let view = read(&format!("{text}spec: {{}}"));
    assert_eq!(view.node_config.unwrap().spec, Err("a.yaml:2: spec: missing field `bgp`".to_owned()));
}

#[test]
fn documents_lists_and_json_hold_the_same_objects() {
    let (a, b) = (pod("a"), pod("b"));
    let json = |name: &str| format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}}}}"#);
    let list = |items: &str| format!("apiVersion: v1\nkind: List\nmetadata: {{}}\nitems:\n{items}");
    let item = |text: &str| format!("- {}\n", text.trim_end().replace('\n', "\n  "));
    for text in [
        format!("{a}---\n{b}"),
        format!("---\n{a}---\n---\n# nothing\n---\n{b}---\n"),
        format!("\u{feff}{a}...\n---\n{b}"),
        format!("{a}---\n{b}").replace('\n', "\r\n"),
        list(&format!("{}{}", item(&a), item(&b))),
        format!("{}\n---\n{}\n", json("a"), json("b")),
        format!("{}\n---\n{b}", list(&item(&a))),
    ] {
        assert_eq!(names(&read(&text)), ["a", "b"], "{text}");
    }
    for text in [
        format!("{} {}", json("a"), json("b")),
        format!("\u{feff}null\n{}\n\t{}\n", json("a"), json("b")),
        format!(r#"{{"apiVersion":"v1","kind":"List","items":[{},{}]}}"#, json("a"), json("b")),
    ] {
        assert_eq!(names(&read_files(&[("dir/a.json", &text)])), ["a", "b"], "{text}");
    }
    for empty in ["", "\n\n", "# nothing\n", "---\n---\n", "null", "~"] {
        assert_eq!(read(empty), nothing(), "{empty:?}");
    }
}

#[test]
fn anchors_and_merge_keys_work_within_a_document() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: &l {say: hi}\n  annotations: *l\n";
    assert_eq!(says(&read(text), "a").as_deref(), Some("hi"));
    let text = text.replace("*l", "{<<: *l, more: x}");
    assert_eq!(says(&read(&text), "a").as_deref(), Some("hi"));
}

#[test]
fn namespaces_bring_their_labels_and_the_one_every_namespace_has() {
    let view = read("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: web}}\n");
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = [label("team", "web"), label("kubernetes.io/metadata.name", "shop")];
    assert_eq!(view.namespaces, [("shop".to_owned(), labels.into())].into());
}

#[test]
fn other_kinds_are_no_problem() {
    let view = read(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: 5}\n---\n\
         apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: 5\n",
    );
    assert_eq!(view, nothing());
}

#[test]
fn a_bad_file_says_where_and_why() {
    let meta = "apiVersion: v1\nkind: Pod\nmetadata: ";
    for (text, reason) in [
        (pod("a") + " b: 1\n", "a.yaml:5: "),
        (pod("a") + "kind: Pod\n", "a.yaml:5: duplicate mapping key: kind"),
        ("a: [1".to_owned(), "a.yaml:1: "),
        ("5".to_owned(), "a.yaml:1: is not a Kubernetes object: apiVersion is missing"),
        ("\n\nkind: Pod".to_owned(), "a.yaml:3: is not a Kubernetes object: apiVersion is missing"),
        ("apiVersion: v1".to_owned(), "a.yaml:1: is not a Kubernetes object: kind is missing"),
        ("apiVersion: v1\nkind: 5".to_owned(), "a.yaml:1: is not a Kubernetes object: kind is missing"),
        (format!("{meta}{{}}"), "a.yaml:1: Pod without a name: metadata.name is missing"),
        (format!("{meta}{{name: A}}"), "a.yaml:1: Pod A: metadata: pod name \"A\" may hold"),
        (
            format!("{meta}{{name: a, namespace: shop, annotations: {{flock.fritzlab.net/ipv6: true}}}}"),
            "a.yaml:1: Pod shop/a: metadata.annotations.flock.fritzlab.net/ipv6: invalid type: boolean `true`, expected a string",
        ),
        (format!("{meta}{{name: a}}\nspec: 5"), "a.yaml:1: Pod a: spec: invalid type: integer `5`"),
        (
            "apiVersion: flock.fritzlab.net/v2\nkind: NodeConfig\nmetadata: {name: node-a}".to_owned(),
            "a.yaml:1: NodeConfig node-a: apiVersion \"flock.fritzlab.net/v2\" is unknown, write",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {ingress: [{from: [{}]}]}"
                .to_owned(),
            "a.yaml:1: NetworkPolicy a: spec.ingress[0].from[0] {} names nobody: add ipBlock",
        ),
        ("apiVersion: v1\nkind: List\nitems: 5".to_owned(), "a.yaml:1: items: invalid type: integer `5`"),
        (
            "apiVersion: v1\nkind: List\nitems: [{}]".to_owned(),
            "a.yaml:1: items[0]: is not a Kubernetes object",
        ),
    ] {
        let problem = problem(&text);
        assert!(problem.starts_with(reason), "{text:?}\n{problem}\n{reason}");
        assert!(!problem.contains('\n'), "{problem:?}");
    }
}

#[test]
fn every_bad_object_of_a_file_is_named_up_to_a_limit() {
    let bad = |count| "kind: Pod\n---\n".repeat(count);
    assert_eq!(read(&(pod("a") + "---\n" + &bad(2))).problems.len(), 2);
    assert_eq!(read(&bad(1000)).problems.len(), 20);
    let lines = read(&bad(3)).problems;
    assert!(lines[2].starts_with("a.yaml:5: "), "{lines:?}");
    let json = "{}\n{}\n\n {}";
    let lines = read_files(&[("a.json", json)]).problems;
    assert!(lines[2].starts_with("a.json:4: "), "{lines:?}");
}

#[test]
fn a_problem_stays_one_short_line_whatever_the_file_holds() {
    let long = "n".repeat(100_000);
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: \"a\\nb{long}\"}}\n");
    for text in [
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {long}}}\n"),
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a, labels: {{{long}: []}}}}\n"),
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nstatus: {{podIP: {long}}}\n"),
        format!("apiVersion: flock.fritzlab.net/{long}\nkind: NodeConfig\nmetadata: {{name: a}}\n"),
        format!("{namespace}---\n{namespace}"),
    ] {
        let problems = read(&text).problems;
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.len() < 1000 && !problem.contains('\n'), "{problem}");
    }
    // Longer than 1024 characters a key of YAML cannot be (section 7.4.2).
    let key = "n".repeat(1000);
    let spec = NODE_CONFIG.replace("asn: 65101", &format!("asn: 1\n    {key}: 1"));
    let refused = read(&spec).node_config.unwrap().spec.unwrap_err();
    assert!(refused.contains("nnn...") && refused.len() < 1000, "{refused}");
}

#[test]
fn the_first_of_two_definitions_wins_and_the_other_is_a_problem() {
    let first = pod_saying("a", "first");
    let second = format!("{}---\n{}", pod("b"), pod_saying("a", "second"));
    let view = read_files(&[("1.yaml", &first), ("2.yaml", &second)]);
    assert_eq!(says(&view, "a").as_deref(), Some("first"));
    assert!(view.pods.contains_key(&key("b")));
    assert_eq!(
        view.problems,
        ["2.yaml:6: Pod default/a is already defined at 1.yaml:1, this one is ignored"]
    );
    let twice = format!("{NODE_CONFIG}---{}", NODE_CONFIG.replace("65101", "65102"));
    let view = read(&twice);
    assert_eq!(view.node_config.unwrap().spec.unwrap().bgp.asn, 65101);
    assert_eq!(view.problems.len(), 1, "{:?}", view.problems);
}

#[test]
fn a_file_over_the_limit_is_refused() {
    let comment = format!("{}#{}", pod("a"), "x".repeat(MAX_FILE_BYTES));
    assert_eq!(problem(&comment[..=MAX_FILE_BYTES]), "a.yaml: is larger than 4 MiB");
    assert_eq!(names(&read(&comment[..MAX_FILE_BYTES])), ["a"]);
}

#[test]
fn bombs_are_defused() {
    let aliases = |depth: usize| {
        let below = |level: usize| format!("*a{}, ", level - 1).repeat(10);
        let levels = (1..depth).map(|level| format!("a{level}: &a{level} [{}]\n", below(level)));
        format!("a0: &a0 [{}]\n{}", "x, ".repeat(10), levels.collect::<String>())
    };
    let long = "x".repeat(MAX_FILE_BYTES / 2);
    for bomb in [
        aliases(20),
        format!("a: &a {long}\nb: [{}]\n", "*a, ".repeat(90)),
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
        (0..20_000).map(|depth| " ".repeat(depth.min(100)) + "a:\n").collect(),
        "a: &a [*a]\n".repeat(50_000),
        "---\n5\n".repeat(20_000),
        "!!x ".repeat(100_000),
    ] {
        let head: String = bomb.chars().take(40).collect();
        assert!(!read(&bomb).problems.is_empty(), "{head}");
    }
    for bomb in ["[".repeat(100_000), "{\"a\":".repeat(100_000), "5 ".repeat(100_000)] {
        assert!(!read_files(&[("a.json", &bomb)]).problems.is_empty());
    }
}

/// Pieces that make up manifests, so that random text gets past the first byte.
fn tokens() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "annotations",
        "labels",
        "uid",
        "spec",
        "status",
        "items",
        "List",
        "Pod",
        "NodeConfig",
        "Namespace",
        "v1",
        "flock.fritzlab.net/v1alpha1",
        "bgp",
        "asn",
        "peers",
        "conditions",
        "podIPs",
        "containers",
        "image",
        "deletionTimestamp",
        "generation",
        ": ",
        ":",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "---\n",
        "...",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\"",
        "'",
        "&a",
        "*a",
        "<<",
        "!!str ",
        "!!binary ",
        "|",
        ">",
        "# ",
        "%YAML 1.2",
        "? ",
        "~",
        "true",
        "-1",
        "1e999",
        "0x",
        ".inf",
        "2001:db8::1",
        "192.0.2.1/24",
        "\t",
        "\r\n",
        "\u{feff}",
        "\u{0}",
        "\u{85}",
        "é",
        "\\",
        "\\u",
        "99999999999999999999",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.concat())
}

/// A manifest somebody's disk or editor has been at.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let good = format!("{NODE_CONFIG}---\n{}---\n{}", pod_saying("a", "x"), pod("b")).into_bytes();
    let edits = prop::collection::vec((0..good.len(), any::<u8>(), 0..3_u8), 1..6);
    edits.prop_map(move |edits| {
        let mut bytes = good.clone();
        for (at, byte, how) in edits {
            let at = at.min(bytes.len().saturating_sub(1));
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        tokens().prop_map(String::into_bytes),
        damaged(),
    ]) {
        for file in ["a.yaml", "a.json"] {
            let view = read_manifests(&node(), [(file, &bytes[..])]);
            for problem in &view.problems {
                prop_assert!(problem.starts_with(file) && !problem.contains('\n'), "{problem:?}");
            }
            // What it makes of them depends on nothing else.
            prop_assert_eq!(view, read_manifests(&node(), [(file, &bytes[..])]));
        }
    }
}

#[test]
fn objects_are_those_of_every_node_in_the_order_written() {
    let pods = "{apiVersion: v1, kind: Pod, metadata: {name: b}}\n---\n\
                {apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\n\
                {apiVersion: v1, kind: Pod, metadata: {name: B}}\n";
    let other = NODE_CONFIG.replace("node-a", "node-b").replace("asn: 65101", "asn: lots");
    let rest = "{apiVersion: v1, kind: Pod, metadata: {name: b}}\n---\n\
                {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: web}}}\n---\n\
                {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}\n---\n\
                {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, spec: {}}\n";
    let files = [("pods.yaml", pods), ("a.yaml", NODE_CONFIG), ("b.yaml", &other), ("rest.yaml", rest)];
    let objects = read_objects(files.iter().map(|(name, text)| (*name, text.as_bytes())));

    // The good objects of a file with a bad one are there: a person wants to hear of everything at once.
    let names: Vec<_> = objects.pods.iter().map(|pod| pod.key.name()).collect();
    assert_eq!(names, ["b", "a"]);
    let nodes: Vec<_> = objects.nodes.iter().map(|(name, view)| (name.as_str(), view.spec.is_ok())).collect();
    assert_eq!(nodes, [("node-a", true), ("node-b", false)]);
    let refused = objects.nodes[&NodeName::parse("node-b").unwrap()].spec.as_ref().unwrap_err();
    assert!(refused.starts_with("b.yaml:2: spec.bgp.asn: "), "{refused}");
    assert_eq!(objects.namespaces["shop"]["team"], "web");
    let ignored: Vec<_> = objects.ignored.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    assert_eq!(ignored, [("apps/v1 Deployment", 1)]);
    let policies: Vec<_> = objects.policies.iter().map(|policy| policy.key.to_string()).collect();
    assert_eq!(policies, ["default/web"]);
    let [bad, twice] = &objects.problems[..] else { panic!("{:?}", objects.problems) };
    assert!(bad.starts_with("pods.yaml:5: Pod B: "), "{bad}");
    assert!(bad.ends_with("; a node takes nothing of this file"), "{bad}");
    assert_eq!(twice, "rest.yaml:1: Pod default/b is already defined at pods.yaml:1, this one is ignored");
}
