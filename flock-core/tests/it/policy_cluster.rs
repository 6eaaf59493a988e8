//! What the Kubernetes API asks for of a `ClusterNetworkPolicy`, one law each.

use std::sync::Arc;

use flock_core::policy::{
    Action, ClusterPeer, ClusterPods, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, Direction,
    Endpoint, Flow, Gate, Judgement, LocalIdentity, LocalPod, NetworkPolicy, Place, PolicyName, PolicyPod,
    PolicyView, PortMatch, Priority, Protocol, Shut, Stamp, Subject, Tier, Update, Verdict, compile, guard,
    selecting, verdict,
};

use crate::policy_given::{Node, ip, link, local, policy, port, remote, rule, selector, view, with_ports};

use Action::{Accept, Deny, Pass};
use ClusterTier::{Admin, Baseline};

const NAMESPACES: &[(&str, &[&str])] = &[("a", &["team=x"]), ("b", &["team=y"])];

/// Of two namespaces, and an address that no pod has.
const EVERYBODY: [&str; 4] = ["2001:db8::a1", "192.0.2.1", "2001:db8::b1", "2001:db8:f::1"];

fn pods() -> [PolicyPod; 2] {
    [
        remote("a/web", &["app=web"], &["2001:db8::a1", "192.0.2.1"]),
        remote("b/db", &["app=db"], &["2001:db8::b1"]),
    ]
}

fn namespaces(requirements: &[&str]) -> ClusterPeer {
    ClusterPeer::Pods(ClusterPods::of_namespaces(selector(requirements)))
}

fn pods_in(namespaces: &[&str], pods: &[&str]) -> ClusterPeer {
    ClusterPeer::Pods(ClusterPods { namespaces: selector(namespaces), pods: selector(pods) })
}

fn net(cidr: &str) -> ClusterPeer {
    ClusterPeer::Net(cidr.parse().unwrap())
}

/// Ports as elsewhere, and a name alone.
fn of(action: Action, peers: &[ClusterPeer], ports: &[&str]) -> ClusterRule {
    let port = |text: &&str| match text.strip_prefix("name:") {
        Some(name) => ClusterPort::Name(name.to_owned()),
        None => match port(text) {
            port if port.port == PortMatch::Any => ClusterPort::All(port.protocol),
            port => match port.port {
                PortMatch::Range(range) => ClusterPort::Range(port.protocol, range),
                _ => panic!("{text}"),
            },
        },
    };
    ClusterRule { name: None, action, peers: peers.to_vec(), ports: ports.iter().map(port).collect() }
}

/// For all pods of namespaces with these labels.
fn cluster(
    name: &str,
    (tier, priority): (ClusterTier, i32),
    subject: &[&str],
    ingress: &[ClusterRule],
    egress: &[ClusterRule],
) -> ClusterPolicy {
    ClusterPolicy {
        name: name.to_owned(),
        tier,
        priority: Priority::new(priority).unwrap(),
        subject: ClusterPods::of_namespaces(selector(subject)),
        ingress: ingress.to_vec(),
        egress: egress.to_vec(),
    }
}

fn view_of(policies: &[NetworkPolicy], cluster: &[ClusterPolicy]) -> PolicyView {
    let named = |policy: &ClusterPolicy| (policy.name.clone(), Arc::new(policy.clone()));
    let cluster = Arc::new(cluster.iter().map(named).collect());
    PolicyView { cluster, ..view(policies, NAMESPACES, &pods()) }
}

fn pod() -> LocalPod {
    with_ports(local("a/pod", &[], &["2001:db8::1"]), &["web:80/tcp", "web:81/udp"])
}

/// Those that a pod of namespace `a` admits for a service.
fn admitted(policies: &[NetworkPolicy], cluster: &[ClusterPolicy], service: &str) -> Vec<&'static str> {
    let node = Node::new(&view_of(policies, cluster), &[pod()]);
    EVERYBODY.into_iter().filter(|from| node.admits(from, "pod", service)).collect()
}

fn admin(rules: &[ClusterRule]) -> ClusterPolicy {
    cluster("admin", (Admin, 1), &[], rules, &[])
}

fn baseline(rules: &[ClusterRule]) -> ClusterPolicy {
    cluster("baseline", (Baseline, 1), &[], rules, &[])
}

fn nobody() -> NetworkPolicy {
    policy("a/nobody", &[], Some(&[]), None)
}

fn everybody() -> NetworkPolicy {
    policy("a/everybody", &[], Some(&[rule(&[], &[])]), None)
}

/// A law, policies, and who is admitted.
type TierCase<'a> = (&'a str, &'a [NetworkPolicy], &'a [ClusterPolicy], &'a [&'a str]);

#[test]
fn tiers_are_asked_in_their_order() {
    let x = || [namespaces(&["team=x"])];
    let all = || [namespaces(&[])];
    let [web6, web4, db, outside] = EVERYBODY;
    let cases: [TierCase<'_>; 12] = [
        ("Accept overrules", &[nobody()], &[admin(&[of(Accept, &x(), &[])])], &[web6, web4]),
        ("Deny overrules", &[everybody()], &[admin(&[of(Deny, &x(), &[])])], &[db, outside]),
        ("Pass leaves it to a NetworkPolicy", &[nobody()], &[admin(&[of(Pass, &x(), &[])])], &[]),
        (
            "Pass skips the rules behind it",
            &[everybody()],
            &[admin(&[of(Pass, &x(), &[]), of(Deny, &all(), &[])])],
            &[web6, web4, outside],
        ),
        ("no match leaves it too", &[nobody()], &[admin(&[of(Accept, &[net("10.0.0.0/8")], &[])])], &[]),
        (
            "Accept overrules the baseline",
            &[],
            &[admin(&[of(Accept, &x(), &[])]), baseline(&[of(Deny, &all(), &[])])],
            &[web6, web4, outside],
        ),
        (
            "Pass leads to the baseline",
            &[],
            &[admin(&[of(Pass, &x(), &[]), of(Accept, &all(), &[])]), baseline(&[of(Deny, &all(), &[])])],
            &[db, outside],
        ),
        ("the baseline denies", &[], &[baseline(&[of(Deny, &x(), &[])])], &[db, outside]),
        ("a NetworkPolicy overrules it", &[everybody()], &[baseline(&[of(Deny, &x(), &[])])], &EVERYBODY),
        ("and where it admits", &[nobody()], &[baseline(&[of(Accept, &x(), &[])])], &[]),
        (
            "the baseline is for the other direction still",
            &[policy("a/out", &[], None, Some(&[]))],
            &[baseline(&[of(Deny, &x(), &[])])],
            &[db, outside],
        ),
        ("else everybody is admitted", &[], &[baseline(&[of(Pass, &all(), &[])])], &EVERYBODY),
    ];
    for (law, policies, cluster, expected) in cases {
        assert_eq!(admitted(policies, cluster, "80/tcp"), expected, "{law}");
    }
}

#[test]
fn first_rule_that_matches_decides() {
    let x = [namespaces(&["team=x"])];
    let all = [ClusterPeer::Everybody];
    let accepts = of(Accept, &x, &[]);
    let denies = of(Deny, &all, &[]);
    let [web6, web4, ..] = EVERYBODY;
    assert_eq!(admitted(&[], &[admin(&[accepts.clone(), denies.clone()])], "80/tcp"), [web6, web4]);
    assert_eq!(admitted(&[], &[admin(&[denies.clone(), accepts.clone()])], "80/tcp"), [""; 0]);

    let two = |first: i32, second: i32| {
        let one = cluster("z", (Admin, first), &[], std::slice::from_ref(&accepts), &[]);
        let other = cluster("a", (Admin, second), &[], std::slice::from_ref(&denies), &[]);
        admitted(&[], &[one, other], "80/tcp")
    };
    assert_eq!(two(0, 1000), [web6, web4], "the smaller number first");
    assert_eq!(two(1000, 0), [""; 0]);
    assert_eq!(two(7, 7), [""; 0], "then the name");
}

#[test]
fn subjects_are_pods_of_namespaces() {
    let denies = [of(Deny, &[ClusterPeer::Everybody], &[])];
    let shuts = |namespaces: &[&str], pods: &[&str]| {
        let subject = ClusterPods { namespaces: selector(namespaces), pods: selector(pods) };
        let policy = ClusterPolicy { subject, ..admin(&denies) };
        let pods = [
            local("a/web0", &["app=web"], &[]),
            local("a/db0", &["app=db"], &[]),
            local("b/web1", &["app=web"], &[]),
        ];
        let node = Node::new(&view_of(&[], &[policy]), &pods);
        ["web0", "db0", "web1"].map(|pod| !node.admits("2001:db8:f::1", pod, "80/tcp"))
    };
    assert_eq!(shuts(&[], &[]), [true, true, true]);
    assert_eq!(shuts(&["team=x"], &[]), [true, true, false]);
    assert_eq!(shuts(&[], &["app=web"]), [true, false, true]);
    assert_eq!(shuts(&["kubernetes.io/metadata.name=b"], &["app=web"]), [false, false, true]);
}

#[test]
fn peers_are_pods_or_networks() {
    let [web6, web4, db, outside] = EVERYBODY;
    let cases: [(&str, &[ClusterPeer], &[&str]); 6] = [
        ("all pods but nobody else", &[namespaces(&[])], &[web6, web4, db]),
        ("both selectors", &[pods_in(&["team=y"], &["app=db"])], &[db]),
        ("both selectors, none", &[pods_in(&["team=x"], &["app=db"])], &[]),
        ("one of several", &[pods_in(&[], &["app=db"]), net("192.0.2.0/24")], &[web4, db]),
        ("networks are pods too", &[net("2001:db8::/32")], &[web6, db, outside]),
        ("no peer, no match", &[], &[]),
    ];
    for (law, peers, expected) in cases {
        assert_eq!(admitted(&[nobody()], &[admin(&[of(Accept, peers, &[])])], "80/tcp"), expected, "{law}");
        let rest: Vec<_> = EVERYBODY.into_iter().filter(|from| !expected.contains(from)).collect();
        assert_eq!(admitted(&[], &[admin(&[of(Deny, peers, &[])])], "80/tcp"), rest, "denied: {law}");
    }
}

#[test]
fn both_directions_have_rules_of_their_own() {
    let denies = [of(Deny, &[net("2001:db8:f::/64")], &["80/tcp"])];
    for (ingress, egress) in [(&denies[..], &[][..]), (&[], &denies), (&denies, &denies)] {
        let node = Node::new(&view_of(&[], &[cluster("p", (Baseline, 0), &[], ingress, egress)]), &[pod()]);
        for (service, open) in [("80/tcp", false), ("81/tcp", true), ("icmp", true)] {
            let enters = node.admits("2001:db8:f::1", "pod", service);
            let leaves = node.lets_out("pod", "2001:db8:f::1", service);
            assert_eq!(
                (enters, leaves),
                (open || ingress.is_empty(), open || egress.is_empty()),
                "{service}"
            );
        }
    }
}

#[test]
fn ports_are_of_a_protocol_or_named() {
    let services = ["80/tcp", "81/tcp", "80/udp", "81/udp", "80/sctp", "icmp"];
    let served = |ports: &[&str]| -> Vec<&str> {
        let rules = [of(Accept, &[ClusterPeer::Everybody], ports)];
        let is_served = |service: &&str| !admitted(&[nobody()], &[admin(&rules)], service).is_empty();
        services.into_iter().filter(is_served).collect()
    };
    assert_eq!(served(&[]), services, "without ports everything, ICMP too");
    assert_eq!(served(&["tcp"]), ["80/tcp", "81/tcp"]);
    assert_eq!(served(&["81/tcp", "80-81/udp"]), ["81/tcp", "80/udp", "81/udp"]);
    assert_eq!(served(&["sctp"]), ["80/sctp"]);
    assert_eq!(served(&["name:web"]), ["80/tcp", "81/udp"], "of whatever protocol the pod says");
    assert_eq!(served(&["name:dns"]), [""; 0]);
}

#[test]
fn named_ports_of_egress_are_those_of_the_destination() {
    let mut view =
        view_of(&[], &[cluster("p", (Admin, 0), &[], &[], &[of(Deny, &[namespaces(&[])], &["name:web"])])]);
    let pods = Arc::make_mut(&mut view.pods);
    for (pod, port) in pods.values_mut().zip(["web:80/tcp", "web:81/udp"]) {
        Arc::make_mut(pod).ports = crate::policy_given::named(&[port]);
    }
    let node = Node::new(&view, &[pod()]);
    let denied =
        |to| ["80/tcp", "81/tcp", "80/udp", "81/udp"].map(|service| !node.lets_out("pod", to, service));
    assert_eq!(denied("2001:db8::a1"), [true, false, false, false]);
    assert_eq!(denied("2001:db8::b1"), [false, false, false, true]);
    assert_eq!(denied("2001:db8:f::1"), [false; 4]);
}

#[test]
fn rules_that_cannot_be_enforced_fail_closed() {
    let closed = |action| ClusterRule::closed(None, action);
    let all = of(Accept, &[ClusterPeer::Everybody], &[]);
    assert_eq!(admitted(&[nobody()], &[admin(&[closed(Accept)])], "80/tcp"), [""; 0], "matches nothing");
    assert_eq!(admitted(&[], &[admin(&[closed(Accept)])], "80/tcp"), EVERYBODY);
    for action in [Deny, Pass] {
        assert_eq!(admitted(&[], &[admin(&[closed(action), all.clone()])], "80/tcp"), [""; 0], "{action:?}");
    }
}

#[test]
fn shared_addresses_are_denied_where_one_holder_is() {
    let anycast = "2001:db8::53";
    let claims = |key: &str, labelled: &[&str], own: &str| {
        let claimed = vec![ip(anycast)];
        PolicyPod { claimed, ..remote(key, labelled, &[own]) }
    };
    let of_db = |action| [of(action, &[pods_in(&[], &["app=db"])], &[])];
    let admits = |action, own: &[&str], base: &[NetworkPolicy]| {
        let mut view = view_of(base, &[admin(&of_db(action))]);
        let db = [claims("b/db", &["app=db"], "2001:db8::b1"), claims("b/other", own, "2001:db8::b2")];
        view.pods = Arc::new(db.map(|pod| (pod.key.clone(), Arc::new(pod))).into());
        Node::new(&view, &[pod()]).admits(anycast, "pod", "80/tcp")
    };
    for (other, all_are) in [(&["app=db"][..], true), (&["app=web"], false)] {
        assert_eq!(admits(Accept, other, &[nobody()]), all_are, "a stranger is not let in");
        assert!(!admits(Deny, other, &[]), "a stranger lets nobody in");
    }
}

#[test]
fn pods_that_are_not_known_are_shut_where_a_policy_may_select_them() {
    let of_x = view_of(&[], &[cluster("x", (Baseline, 0), &["team=x"], &[], &[])]);
    let none = view_of(&[], &[]);
    let unknown =
        |namespace: Option<&str>| LocalIdentity::Unknown { namespace: namespace.map(str::to_owned) };
    let cases = [
        (&of_x, unknown(Some("a")), true),
        (&of_x, unknown(Some("b")), false),
        (&of_x, unknown(Some("new")), true),
        (&of_x, unknown(None), true),
        (&of_x, LocalIdentity::Nameless, false),
        (&none, unknown(Some("new")), false),
    ];
    for (view, identity, expected) in cases {
        let pod = LocalPod { identity, ..pod() };
        let place = if expected { Place::Shut(Shut::Unknown) } else { Place::Open };
        assert_eq!(Node::new(view, std::slice::from_ref(&pod)).0.pods[&pod.link].place, place, "{pod:?}");
        assert_eq!(guard(view, &pod).shut, expected, "{pod:?}");
    }
    assert!(Node::new(&of_x, &[]).0.judging && !Node::new(&none, &[]).0.judging);
}

#[test]
fn pods_of_the_same_policies_share_chains() {
    let rules = [of(Deny, &[namespaces(&["team=y"])], &["80/tcp"])];
    let policies = [admin(&rules), cluster("same", (Baseline, 3), &[], &rules, &rules)];
    let pods = [local("a/one", &[], &[]), local("a/two", &["app=web"], &[])];
    let rules = compile(&view_of(&[nobody()], &policies), &pods);
    let gates = |name| match &rules.pods[&link(name)].place {
        Place::Judged(gates) => gates.clone(),
        place => panic!("{place:?}"),
    };
    assert_eq!(gates("one"), gates("two"));
    let gate = |direction, tier| Gate { direction, tier };
    let expected = [
        gate(Direction::Egress, Tier::Baseline),
        gate(Direction::Ingress, Tier::Admin),
        gate(Direction::Ingress, Tier::Policy),
    ];
    assert_eq!(gates("one").into_keys().collect::<Vec<_>>(), expected, "no baseline behind a NetworkPolicy");
    assert_eq!(rules.chains.len(), 3);
}

#[test]
fn updates_narrow_where_peers_join_those_denied() {
    let peers = || [pods_in(&[], &["app=db"])];
    let more = |view: &PolicyView| {
        let mut view = view.clone();
        let db = remote("b/db2", &["app=db"], &["2001:db8::b2"]);
        Arc::make_mut(&mut view.pods).insert(db.key.clone(), Arc::new(db));
        view
    };
    for (action, comes, goes) in [(Accept, false, true), (Pass, true, true), (Deny, true, true)] {
        let view = view_of(&[], &[admin(&[of(action, &peers(), &[])])]);
        let (few, many) = (compile(&view, &[pod()]), compile(&more(&view), &[pod()]));
        let narrows = |from, to| Update::between(from, to, Stamp::FIRST).narrows(to);
        assert_eq!((narrows(&few, &many), narrows(&many, &few)), (comes, goes), "{action:?}");
        assert!(!narrows(&few, &few));
    }
}

fn told(view: &PolicyView, from: &str, port: u16) -> String {
    let pod = pod();
    let flow = Flow {
        from: Endpoint { subject: Subject::Outside, address: ip(from) },
        to: Endpoint { subject: Subject::Local(&pod), address: ip("2001:db8::1") },
        service: Some((Protocol::Tcp, port)),
    };
    let verdict = verdict(view, std::slice::from_ref(&pod), &flow);
    let said = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&said).unwrap(), verdict);
    let refuses = matches!(verdict.ingress, Judgement::Refused { .. } | Judgement::Denied { .. });
    assert_eq!(verdict.passes(), !refuses);
    serde_json::to_string(&verdict.ingress).unwrap()
}

#[test]
fn verdicts_name_the_rule_of_the_tier_that_decides() {
    let policies = [
        cluster(
            "first",
            (Admin, 0),
            &[],
            &[of(Deny, &[net("192.0.2.0/24")], &[]), of(Accept, &[net("::/0")], &["80/tcp"])],
            &[],
        ),
        cluster("last", (Baseline, 0), &[], &[of(Deny, &[namespaces(&["team=x"])], &[])], &[]),
    ];
    let view = view_of(&[], &policies);
    let [web6, web4, db, _] = EVERYBODY;
    let cases = [
        (web4, 80, r#"{"judgement":"denied","policy":"ClusterNetworkPolicy/first","rule":0}"#),
        (web6, 80, r#"{"judgement":"admitted","policy":"ClusterNetworkPolicy/first","rule":1}"#),
        (web6, 81, r#"{"judgement":"denied","policy":"ClusterNetworkPolicy/last","rule":0}"#),
        (db, 81, r#"{"judgement":"undecided"}"#),
    ];
    for (from, port, expected) in cases {
        assert_eq!(told(&view, from, port), expected);
    }
    let view = view_of(&[nobody()], &policies);
    assert_eq!(told(&view, web6, 81), r#"{"judgement":"refused","policies":["a/nobody"]}"#);
    let pod = pod();
    let named: Vec<_> = selecting(&view, Subject::Local(&pod)).into_iter().collect();
    let expected = [("ClusterNetworkPolicy/first", 1), ("a/nobody", 1), ("ClusterNetworkPolicy/last", 0)];
    assert_eq!(
        named.iter().map(|(name, of)| (name.to_string(), of.len())).collect::<Vec<_>>(),
        expected.map(|(name, of)| (name.to_owned(), of))
    );
    assert!(named.iter().all(|(name, _)| PolicyName::try_from(name.to_string()).as_ref() == Ok(name)));
}
