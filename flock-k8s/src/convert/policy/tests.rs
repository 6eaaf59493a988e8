use flock_core::policy::{PortMatch, PortRange, Protocol};
use serde_json::json;

use super::*;

fn read(spec: &Value) -> Result<NetworkPolicy, String> {
    network_policy(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": spec,
    }))
}

fn selecting(labels: &[(&str, &str)]) -> LabelSelector {
    let match_labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let spec = LabelSelectorSpec { match_labels, ..LabelSelectorSpec::default() };
    LabelSelector::validate(&spec, "", &mut Vec::new())
}

/// The only rule of `ingress`.
fn ingress(rule: &Value) -> PolicyRule {
    let rules = read(&json!({"podSelector": {}, "ingress": [rule]})).unwrap().ingress.unwrap();
    let [rule] = &rules[..] else { panic!("{rules:?}") };
    rule.clone()
}

fn net(cidr: &str, except: &[&str]) -> PolicyPeer {
    let except = except.iter().map(|net| net.parse().unwrap()).collect();
    PolicyPeer::Net { cidr: cidr.parse().unwrap(), except }
}

#[test]
fn a_policy_of_the_documentation_is_read() {
    let policy = read(&json!({
        "podSelector": {"matchLabels": {"role": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [
                {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}},
                {"namespaceSelector": {"matchLabels": {"project": "shop"}}},
                {"podSelector": {"matchLabels": {"role": "front"}}},
            ],
            "ports": [{"protocol": "TCP", "port": 6379}],
        }],
        "egress": [{
            "to": [{"ipBlock": {"cidr": "2001:db8::/32"}}],
            "ports": [{"port": 32000, "endPort": 32768}, {"protocol": "UDP", "port": "dns"}],
        }],
    }));
    let range = |first, last| PortMatch::Range(PortRange { first, last });
    let port = |protocol, port| PolicyPort { protocol, port };
    let expected = NetworkPolicy {
        key: PolicyKey { namespace: "shop".to_owned(), name: "web".to_owned() },
        subject: selecting(&[("role", "db")]),
        ingress: Some(vec![PolicyRule {
            peers: vec![
                net("192.0.2.0/24", &["192.0.2.128/25"]),
                PolicyPeer::Pods { namespaces: Some(selecting(&[("project", "shop")])), pods: None },
                PolicyPeer::Pods { namespaces: None, pods: Some(selecting(&[("role", "front")])) },
            ],
            ports: vec![port(Protocol::Tcp, range(6379, 6379))],
        }]),
        egress: Some(vec![PolicyRule {
            peers: vec![net("2001:db8::/32", &[])],
            ports: vec![
                port(Protocol::Tcp, range(32000, 32768)),
                port(Protocol::Udp, PortMatch::Name("dns".to_owned())),
            ],
        }]),
    };
    assert_eq!(policy, Ok(expected));
}

#[test]
fn directions_are_those_listed_or_those_that_rules_are_about() {
    let rule = json!([{}]);
    for (spec, expected) in [
        (json!({}), (Some(0), None)),
        (json!({"podSelector": null, "policyTypes": null, "ingress": null, "egress": null}), (Some(0), None)),
        (json!({"ingress": []}), (Some(0), None)),
        (json!({"ingress": rule}), (Some(1), None)),
        (json!({"egress": []}), (Some(0), None)),
        (json!({"egress": rule}), (Some(0), Some(1))),
        (json!({"policyTypes": [], "egress": rule}), (Some(0), Some(1))),
        (json!({"policyTypes": ["Ingress"], "egress": rule}), (Some(0), None)),
        (json!({"policyTypes": ["Egress"], "ingress": rule}), (None, Some(0))),
        (json!({"policyTypes": ["Egress", "Ingress", "Egress"]}), (Some(0), Some(0))),
    ] {
        let policy = read(&spec).unwrap();
        assert!(policy.subject.selects_all());
        assert_eq!((policy.ingress.map(|it| it.len()), policy.egress.map(|it| it.len())), expected, "{spec}");
    }
}

#[test]
fn a_rule_without_peers_or_ports_is_about_everybody_and_everything() {
    let everything = PolicyRule { peers: Vec::new(), ports: Vec::new() };
    for rule in [json!({}), json!({"from": [], "ports": []}), json!({"from": null, "ports": null})] {
        assert_eq!(ingress(&rule), everything);
    }
}

#[test]
fn selectors_that_are_empty_are_not_those_that_are_missing() {
    let all = LabelSelector::default;
    for (peer, namespaces, pods) in [
        (json!({"podSelector": {}}), None, Some(all())),
        (json!({"namespaceSelector": {}}), Some(all()), None),
        (json!({"namespaceSelector": {}, "podSelector": {"matchLabels": null}}), Some(all()), Some(all())),
        (json!({"ipBlock": null, "namespaceSelector": null, "podSelector": {}}), None, Some(all())),
    ] {
        let rule = ingress(&json!({"from": [peer]}));
        assert_eq!(rule.peers, [PolicyPeer::Pods { namespaces, pods }], "{peer}");
    }
}

#[test]
fn prefixes_lose_their_host_bits_and_exceptions_are_in_order() {
    for (block, expected) in [
        (json!({"cidr": "192.0.2.77/24"}), net("192.0.2.0/24", &[])),
        (json!({"cidr": "0.0.0.0/0", "except": null}), net("0.0.0.0/0", &[])),
        (
            json!({"cidr": "::/0", "except": ["2001:db8:2::1/48", "2001:db8:1::/48", "2001:db8:2::/48"]}),
            net("::/0", &["2001:db8:1::/48", "2001:db8:2::/48"]),
        ),
    ] {
        assert_eq!(ingress(&json!({"from": [{"ipBlock": block}]})).peers, [expected]);
    }
}

#[test]
fn ports_are_numbers_names_or_all_of_a_protocol() {
    let range = |first, last| PortMatch::Range(PortRange { first, last });
    for (written, protocol, port) in [
        (json!({}), Protocol::Tcp, PortMatch::Any),
        (json!({"protocol": "SCTP"}), Protocol::Sctp, PortMatch::Any),
        (json!({"protocol": "UDP", "port": 53}), Protocol::Udp, range(53, 53)),
        (json!({"port": 1, "endPort": 65535}), Protocol::Tcp, range(1, 65535)),
        (json!({"port": 80, "endPort": 80}), Protocol::Tcp, range(80, 80)),
        (json!({"port": "web-1"}), Protocol::Tcp, PortMatch::Name("web-1".to_owned())),
        (json!({"port": null, "protocol": null}), Protocol::Tcp, PortMatch::Any),
    ] {
        let rule = ingress(&json!({"ports": [written]}));
        assert_eq!(rule.ports, [PolicyPort { protocol, port }], "{written}");
    }
}

#[test]
fn a_bad_peer_is_refused_in_words_that_help() {
    for (peer, expected) in [
        (
            json!({}),
            "{} names nobody: add ipBlock, podSelector or namespaceSelector; a rule for everybody has no peers",
        ),
        (
            json!({"ipBlock": {"cidr": "192.0.2.0/24"}, "podSelector": {}}),
            ".ipBlock \"192.0.2.0/24\" stands beside a selector: make two peers of it, or keep one of the two",
        ),
        (
            json!({"ipBlock": {"cidr": "192.0.2.1"}}),
            ".ipBlock.cidr \"192.0.2.1\" has no prefix length: write 192.0.2.1/32",
        ),
        (
            json!({"ipBlock": {"cidr": "all"}}),
            ".ipBlock.cidr \"all\" is not a prefix: write ADDRESS/LENGTH, as in 192.0.2.0/24",
        ),
        (
            json!({"ipBlock": {"cidr": "192.0.2.0/33", "except": ["192.0.2.1/32"]}}),
            ".ipBlock.cidr \"192.0.2.0/33\" has the prefix length \"33\": use a number from 0 to 32",
        ),
        (
            json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.3.0/25"]}}),
            ".ipBlock.except[0] \"192.0.3.0/25\" is not within 192.0.2.0/24: use a part of 192.0.2.0/24, or remove it",
        ),
        (
            json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["2001:db8::/32"]}}),
            ".ipBlock.except[0] \"2001:db8::/32\" is not within 0.0.0.0/0: use a part of 0.0.0.0/0, or remove it",
        ),
        (
            json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.9/24"]}}),
            ".ipBlock.except[0] \"192.0.2.9/24\" is all of 192.0.2.0/24: remove the whole entry",
        ),
        (json!({"ipBlock": {}}), ".ipBlock: missing field `cidr`"),
        (
            json!({"podSelector": {"matchLabels": {"app": "a b"}}}),
            ".podSelector.matchLabels \"a b\" is not a label value: use at most 63 letters, digits, '-', '_' and '.', \
             with a letter or digit at both ends",
        ),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "app", "operator": "in"}]}}),
            ".namespaceSelector.matchExpressions[0].operator \"in\" is not an operator: write \"In\"",
        ),
        (
            json!({"domains": ["example.com"]}),
            ".domains: unknown field `domains`, expected one of `ipBlock`, `namespaceSelector`, `podSelector`",
        ),
    ] {
        let told = read(&json!({"ingress": [{}, {"from": [{"podSelector": {}}, peer]}]})).unwrap_err();
        let told = told.strip_prefix("spec.ingress[1].from[1]").unwrap_or_else(|| panic!("{told}"));
        assert_eq!(told.trim_start(), expected.trim_start(), "{peer}");
    }
}

#[test]
fn a_bad_port_is_refused_in_words_that_help() {
    const NAME: &str = "is not the name of a port: use at most 15 lower case letters, digits and single '-', \
                        with a letter among them and no '-' at the ends";
    for (port, expected) in [
        (json!({"protocol": "tcp"}), "protocol \"tcp\" is not a protocol: write \"TCP\"".to_owned()),
        (json!({"protocol": "ICMP"}), "protocol \"ICMP\" is not a protocol: use TCP, UDP or SCTP".to_owned()),
        (json!({"port": 0}), "port 0 is not a port: use a number from 1 to 65535".to_owned()),
        (json!({"port": 65536}), "port 65536 is not a port: use a number from 1 to 65535".to_owned()),
        (json!({"port": -1}), "port -1 is not a port: use a number from 1 to 65535".to_owned()),
        (json!({"port": 80.5}), "port 80.5 is not a port: use a number from 1 to 65535".to_owned()),
        (json!({"port": [80]}), "port a list is not a port: use a number from 1 to 65535".to_owned()),
        (json!({"port": "80"}), "port \"80\" is a number in quotes: write it without them".to_owned()),
        (json!({"port": ""}), format!("port \"\" {NAME}")),
        (json!({"port": "Web"}), format!("port \"Web\" {NAME}")),
        (json!({"port": "8-0"}), format!("port \"8-0\" {NAME}")),
        (json!({"port": "a--b"}), format!("port \"a--b\" {NAME}")),
        (json!({"port": "-a"}), format!("port \"-a\" {NAME}")),
        (json!({"port": "a-"}), format!("port \"a-\" {NAME}")),
        (json!({"port": "sixteen-letters-"}), format!("port \"sixteen-letters-\" {NAME}")),
        (
            json!({"endPort": 90}),
            "endPort 90 has no port to begin at: add port, or remove endPort".to_owned(),
        ),
        (
            json!({"port": "web", "endPort": 90}),
            "endPort 90 follows a port that has a name: write a number instead of \"web\", or remove endPort"
                .to_owned(),
        ),
        (json!({"port": 90, "endPort": 80}), "endPort 80 is less than port 90: exchange them".to_owned()),
        (
            json!({"port": 90, "endPort": "99"}),
            "endPort \"99\" is not a port: use a number from 1 to 65535".to_owned(),
        ),
        (
            json!({"ports": 90}),
            "ports: unknown field `ports`, expected one of `protocol`, `port`, `endPort`".to_owned(),
        ),
    ] {
        let told = read(&json!({"egress": [{"ports": [port]}]})).unwrap_err();
        assert_eq!(told, format!("spec.egress[0].ports[0].{expected}"), "{port}");
    }
}

#[test]
fn everything_else_that_is_wrong_is_named_too() {
    for (object, expected) in [
        (json!({"metadata": {}}), "metadata.name is missing"),
        (json!({"spec": {}}), "missing field `metadata`"),
        (json!({"metadata": {"name": "web"}}), "spec is missing"),
        (
            json!({"metadata": {"name": "Web", "namespace": "a.b"}, "spec": {}}),
            "metadata.name \"Web\" is not a DNS subdomain: use at most 253 lower case letters, digits, '-' and '.'; \
             metadata.namespace \"a.b\" is not a DNS label: use at most 63 lower case letters, digits and '-'",
        ),
        (
            json!({"metadata": {"name": "web"}, "spec": {"policyTypes": ["ingress", "Both"]}}),
            "spec.policyTypes[0] \"ingress\" is not a policy type: write \"Ingress\"; \
             spec.policyTypes[1] \"Both\" is not a policy type: use Ingress, Egress or both",
        ),
        (
            json!({"metadata": {"name": "web"}, "spec": {"ingress": [{"form": []}]}}),
            "spec.ingress[0].form: unknown field `form`, expected `from` or `ports`",
        ),
        (
            json!({"metadata": {"name": "web"}, "spec": {"ingress": [null]}}),
            "spec.ingress[0]: invalid type: null, expected struct Ingress",
        ),
    ] {
        assert_eq!(network_policy(object.clone()), Err(expected.to_owned()), "{object}");
    }
    let web = json!({"metadata": {"name": "web", "namespace": ""}, "spec": {}});
    assert_eq!(network_policy(web).unwrap().key.to_string(), "default/web");
}

#[test]
fn rules_that_are_ignored_have_to_be_right_all_the_same() {
    let told = read(&json!({"policyTypes": ["Ingress"], "egress": [{"to": [{}]}]})).unwrap_err();
    assert!(told.starts_with("spec.egress[0].to[0] {} names nobody"), "{told}");
}

#[test]
fn very_many_problems_are_counted() {
    let name = "\u{1}".repeat(1000);
    let ports: Vec<_> = (0..1000).map(|_| json!({"port": name})).collect();
    let told = read(&json!({"ingress": [{"ports": ports}]})).unwrap_err();
    assert!(told.len() < 2200 && told.ends_with(" more"), "{told}");
}
