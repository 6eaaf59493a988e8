use flock_core::policy::{PortRange, Protocol};
use flock_core::selector::LabelSelectorSpec;
use serde_json::json;

use super::*;

fn read(spec: &Value) -> Result<ClusterPolicyView, String> {
    cluster_policy(json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": spec,
        "status": {"conditions": []},
    }))
}

fn selecting(labels: &[(&str, &str)]) -> LabelSelector {
    let match_labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let spec = LabelSelectorSpec { match_labels, ..LabelSelectorSpec::default() };
    LabelSelector::validate(&spec, "", &mut Vec::new())
}

fn with(side: &str, rule: &Value) -> ClusterPolicyView {
    let mut spec = json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}});
    spec[side] = json!([rule]);
    read(&spec).unwrap()
}

/// The only rule of `egress`, which is enforced.
fn egress(rule: &Value) -> ClusterRule {
    let ClusterPolicyView { policy, unenforced } = with("egress", rule);
    assert_eq!(unenforced, None, "{rule}");
    policy.egress[0].clone()
}

fn net(cidr: &str) -> ClusterPeer {
    ClusterPeer::Net(cidr.parse().unwrap())
}

#[test]
fn every_part_of_a_policy_is_read() {
    let view = read(&json!({
        "tier": "Baseline",
        "priority": 1000,
        "subject": {"pods": {
            "namespaceSelector": {"matchLabels": {"team": "shop"}},
            "podSelector": {"matchLabels": {"role": "db"}},
        }},
        "ingress": [
            {"name": "own", "action": "Pass", "from": [{"namespaces": {"matchLabels": {"team": "shop"}}}]},
            {"action": "Deny", "from": [{"pods": {"podSelector": {}}}], "protocols": null},
        ],
        "egress": [{
            "name": "",
            "action": "Accept",
            "to": [{"networks": ["192.0.2.77/24", "2001:db8::/32"]}, {"namespaces": {}}],
            "protocols": [
                {"tcp": {"destinationPort": {"number": 443}}},
                {"udp": {"destinationPort": {"range": {"start": 5000, "end": 5010}}}},
                {"sctp": {}},
            ],
        }],
    }));
    let shop = ClusterPods::of_namespaces(selecting(&[("team", "shop")]));
    let range = |first, last| PortRange { first, last };
    let policy = ClusterPolicy {
        name: "guard".to_owned(),
        tier: ClusterTier::Baseline,
        priority: Priority::new(1000).unwrap(),
        subject: ClusterPods { pods: selecting(&[("role", "db")]), ..shop.clone() },
        ingress: vec![
            ClusterRule {
                name: Some("own".to_owned()),
                action: Action::Pass,
                peers: vec![ClusterPeer::Pods(shop)],
                ports: Vec::new(),
            },
            ClusterRule {
                name: None,
                action: Action::Deny,
                peers: vec![ClusterPeer::Pods(ClusterPods::default())],
                ports: Vec::new(),
            },
        ],
        egress: vec![ClusterRule {
            name: None,
            action: Action::Accept,
            peers: vec![net("192.0.2.0/24"), net("2001:db8::/32"), ClusterPeer::Pods(ClusterPods::default())],
            ports: vec![
                ClusterPort::Range(Protocol::Tcp, range(443, 443)),
                ClusterPort::Range(Protocol::Udp, range(5000, 5010)),
                ClusterPort::All(Protocol::Sctp),
            ],
        }],
    };
    assert_eq!(view, Ok(ClusterPolicyView { policy: Arc::new(policy), unenforced: None }));
}

#[test]
fn rules_need_not_be_there() {
    for spec in [
        json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}}),
        json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}, "pods": null}, "ingress": null}),
    ] {
        let view = read(&spec).unwrap();
        assert!(view.policy.ingress.is_empty() && view.policy.egress.is_empty());
        assert_eq!(
            (view.policy.tier, view.policy.priority.to_string()),
            (ClusterTier::Admin, "0".to_owned())
        );
    }
}

#[test]
fn ports_go_by_the_name_that_pods_give_them() {
    let to = json!([{"pods": {"podSelector": {}}}]);
    let rule =
        egress(&json!({"action": "Accept", "to": to, "protocols": [{"destinationNamedPort": "http"}]}));
    assert_eq!(rule.ports, [ClusterPort::Name("http".to_owned())]);
}

#[test]
fn what_a_policy_is_about_has_to_be_readable() {
    let good = json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}});
    for (field, value, expected) in [
        ("tier", Value::Null, "spec.tier is missing"),
        ("tier", json!("admin"), "spec.tier \"admin\" is not a tier: write \"Admin\""),
        ("tier", json!("NetworkPolicy"), "spec.tier \"NetworkPolicy\" is not a tier: use Admin or Baseline"),
        ("priority", Value::Null, "spec.priority is missing"),
        ("priority", json!(-1), "spec.priority -1 is not a priority: use a number from 0 to 1000"),
        ("priority", json!("7"), "spec.priority \"7\" is not a priority: use a number from 0 to 1000"),
        ("subject", Value::Null, "spec.subject is missing"),
        ("subject", json!({}), "spec.subject {} selects nothing that is known: set namespaces or pods"),
        (
            "subject",
            json!({"namespaces": {}, "pods": {"podSelector": {}}}),
            "spec.subject.pods stands beside namespaces: keep one of the two",
        ),
        ("subject", json!({"pods": {}}), "spec.subject.pods.podSelector is missing"),
        (
            "subject",
            json!({"services": {}}),
            "spec.subject.services: unknown field `services`, expected `namespaces` or `pods`",
        ),
        (
            "subject",
            json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}}),
            "spec.subject.namespaces.matchExpressions[0].operator \"in\" is not an operator: write \"In\"",
        ),
        ("ingress", json!({}), "spec.ingress: invalid type: map, expected a sequence"),
        (
            "enforce",
            json!(false),
            "spec.enforce: unknown field `enforce`, expected one of `tier`, `priority`, `subject`, `ingress`, \
             `egress`",
        ),
    ] {
        let mut spec = good.clone();
        spec[field] = value;
        assert_eq!(read(&spec), Err(expected.to_owned()), "{spec}");
    }
    for (object, expected) in [
        (json!({"metadata": {}, "spec": good}), "metadata.name is missing"),
        (json!({"metadata": {"name": "guard"}}), "spec is missing"),
        (
            json!({"metadata": {"name": "Guard"}, "spec": {"subject": {"namespaces": {}}}}),
            "metadata.name \"Guard\" is not a DNS subdomain: use at most 253 lower case letters, digits, '-' \
             and '.'; spec.tier is missing; spec.priority is missing",
        ),
    ] {
        assert_eq!(cluster_policy(object.clone()), Err(expected.to_owned()), "{object}");
    }
}

/// Rules that are closed: the rule but for its action, and what is wrong with it.
fn closed() -> Vec<(&'static str, Value, &'static str)> {
    let all = || json!([{"namespaces": {}}]);
    let port = |value: Value| ("egress", json!({"to": all(), "protocols": [value]}));
    let tcp = |value: Value| port(json!({"tcp": {"destinationPort": value}}));
    let to = |value: Value| ("egress", json!({"to": [value]}));
    let from = |value: Value| ("ingress", json!({"from": [value]}));
    let cases = [
        (("ingress", json!({})), "F.from is empty: add a peer"),
        (("egress", json!({"to": []})), "F.to is empty: add a peer"),
        (("egress", json!({"from": all()})), "F.from: unknown field `from`, expected `to` or `protocols`"),
        (
            ("egress", json!({"to": all(), "protocols": []})),
            "F.protocols is empty: add a protocol, or remove it",
        ),
        (("egress", json!({"to": all(), "name": 5})), "F.name 5 is not a text: write a text"),
        (to(json!({})), "F.to[0] {} is no peer that is known: set namespaces, pods or networks"),
        (
            to(json!({"nodes": {}})),
            "F.to[0].nodes {} is not enforced: use networks, with the prefixes of what is meant",
        ),
        (
            to(json!({"domainNames": ["a.example"]})),
            "F.to[0].domainNames [\"a.example\"] is not enforced: use networks, with the prefixes of what is meant",
        ),
        (
            to(json!({"services": {}})),
            "F.to[0].services: unknown field `services`, expected one of `namespaces`, `pods`, `nodes`, \
             `networks`, `domainNames`",
        ),
        (
            from(json!({"networks": ["::/0"]})),
            "F.from[0].networks: unknown field `networks`, expected `namespaces` or `pods`",
        ),
        (
            to(json!({"namespaces": {}, "networks": ["::/0"]})),
            "F.to[0].networks stands beside namespaces: make two peers of it",
        ),
        (to(json!({"pods": {"namespaceSelector": {}}})), "F.to[0].pods.podSelector is missing"),
        (
            from(json!({"namespaces": {"matchLabel": {}}})),
            "F.from[0].namespaces.matchLabel: unknown field `matchLabel`, expected `matchLabels` or \
             `matchExpressions`",
        ),
        (
            from(
                json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}}),
            ),
            "F.from[0].namespaces.matchExpressions[0].operator \"in\" is not an operator: write \"In\"",
        ),
        (to(json!({"networks": []})), "F.to[0].networks is empty: add a prefix"),
        (
            to(json!({"networks": ["::/0", "192.0.2.1"]})),
            "F.to[0].networks[1] \"192.0.2.1\" has no prefix length: write 192.0.2.1/32",
        ),
        (
            port(json!({})),
            "F.protocols[0] {} is no protocol that is known: set tcp, udp, sctp or destinationNamedPort",
        ),
        (
            port(json!({"icmp": {}})),
            "F.protocols[0].icmp: unknown field `icmp`, expected one of `tcp`, `udp`, `sctp`, \
             `destinationNamedPort`",
        ),
        (port(json!({"tcp": {}, "udp": {}})), "F.protocols[0].udp stands beside tcp: make two entries of it"),
        (
            port(json!({"tcp": {}, "destinationNamedPort": "http"})),
            "F.protocols[0].destinationNamedPort stands beside tcp: make two entries of it",
        ),
        (
            port(json!({"tcp": {"sourcePort": {}}})),
            "F.protocols[0].tcp.sourcePort: unknown field `sourcePort`, expected `destinationPort`",
        ),
        (
            port(json!({"destinationNamedPort": "80"})),
            "F.protocols[0].destinationNamedPort \"80\" is a number in quotes: write it without them",
        ),
        (
            tcp(json!({})),
            "F.protocols[0].tcp.destinationPort {} is no port that is known: set number or range",
        ),
        (
            tcp(json!({"number": 0})),
            "F.protocols[0].tcp.destinationPort.number 0 is not a port: use a number from 1 to 65535",
        ),
        (
            tcp(json!({"number": 1, "range": {"start": 1, "end": 2}})),
            "F.protocols[0].tcp.destinationPort.range stands beside number: keep one of the two",
        ),
        (
            tcp(json!({"range": {"start": 2, "end": 1}})),
            "F.protocols[0].tcp.destinationPort.range.end 1 is less than the start 2: exchange them",
        ),
        (
            tcp(json!({"range": {"start": 2}})),
            "F.protocols[0].tcp.destinationPort.range: missing field `end`",
        ),
        (
            (
                "egress",
                json!({"to": [{"networks": ["::/0"]}], "protocols": [{"destinationNamedPort": "http"}]}),
            ),
            "F.protocols[0].destinationNamedPort \"http\" is asked of networks, which have none: make two \
             rules of it",
        ),
    ];
    cases.into_iter().map(|((side, rule), expected)| (side, rule, expected)).collect()
}

#[test]
fn a_rule_that_cannot_be_enforced_is_closed_and_says_why() {
    let actions = [
        ("Accept", Action::Accept, "matches nothing"),
        ("Deny", Action::Deny, "denies everything"),
        ("Pass", Action::Pass, "denies everything"),
    ];
    for (side, mut rule, expected) in closed() {
        for (word, action, effect) in actions {
            rule["action"] = json!(word);
            let view = with(side, &rule);
            let rules = if side == "ingress" { &view.policy.ingress } else { &view.policy.egress };
            assert_eq!(rules[..], [ClusterRule::closed(None, action)], "{rule}");
            let field = format!("spec.{side}[0]");
            let expected = format!("{}; rule {field} {effect}", expected.replace("F.", &format!("{field}.")));
            assert_eq!(view.unenforced, Some(expected), "{rule}");
        }
    }
}

#[test]
fn an_action_that_is_not_known_denies_everything() {
    for (action, expected) in [
        (json!("Log"), "spec.egress[0].action \"Log\" is not an action: use Accept or Deny or Pass"),
        (json!("allow"), "spec.egress[0].action \"allow\" is not an action: use Accept or Deny or Pass"),
        (json!("accept"), "spec.egress[0].action \"accept\" is not an action: write \"Accept\""),
        (Value::Null, "spec.egress[0].action is missing"),
    ] {
        let rule = json!({"name": "odd", "action": action, "to": [{"namespaces": {}}]});
        let view = with("egress", &rule);
        assert_eq!(view.policy.egress, [ClusterRule::closed(Some("odd".to_owned()), Action::Deny)]);
        assert_eq!(
            view.unenforced,
            Some(format!("{expected}; rule spec.egress[0] \"odd\" denies everything"))
        );
    }
    let view = with("egress", &Value::Null);
    assert_eq!(view.policy.egress, [ClusterRule::closed(None, Action::Deny)]);
}

#[test]
fn rules_beside_a_closed_one_keep_their_places() {
    let good = json!({"action": "Accept", "to": [{"namespaces": {}}]});
    let odd = json!({"action": "Accept", "to": [{"nodes": {}}]});
    let view = read(&json!({
        "tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [good, odd, good],
    }));
    let view = view.unwrap();
    assert_eq!(view.policy.egress.iter().map(|rule| rule.peers.len()).collect::<Vec<_>>(), [1, 0, 1]);
    assert!(view.unenforced.unwrap().starts_with("spec.egress[1].to[0].nodes"));
}

#[test]
fn very_many_problems_are_counted() {
    let peers: Vec<_> = (0..1000).map(|_| json!({"domainNames": ["\u{1}".repeat(1000)]})).collect();
    let rules: Vec<_> = (0..1000).map(|_| json!({"action": "Accept", "to": peers[..3]})).collect();
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": rules});
    let told = read(&spec).unwrap().unenforced.unwrap();
    assert!(told.len() < 2200 && told.ends_with(" more"), "{told}");
}
