//! The rules that policies are compiled into, what becomes of them, and what people are told.

use std::collections::BTreeSet;
use std::sync::Arc;

use flock_core::policy::{
    Change, Compiler, Direction, Endpoint, Flow, Gate, Judgement, LocalIdentity, LocalPod, NetworkPolicy,
    Peer, Place, PolicyPod, PolicyRule, PolicyView, Protocol, Ruleset, Stamp, Subject, Tier, Update, compile,
    selecting, verdict,
};

use crate::policy_given::{block, ip, link, local, namespaces, pods, policy, remote, rule, view, with_ports};

const INGRESS: Gate = Gate { direction: Direction::Ingress, tier: Tier::Policy };
const EGRESS: Gate = Gate { direction: Direction::Egress, tier: Tier::Policy };

fn cluster() -> Vec<PolicyPod> {
    vec![remote("a/web", &["app=web"], &["2001:db8::a1"]), remote("a/db", &["app=db"], &["2001:db8::a2"])]
}

fn view_of(policies: &[NetworkPolicy]) -> PolicyView {
    view(policies, &[("a", &[])], &cluster())
}

/// Rules of one pod, which admits what these rules say.
fn admitting(rules: &[PolicyRule]) -> Ruleset {
    compile(&view_of(&[policy("a/p", &[], Some(rules), None)]), &[pod()])
}

fn pod() -> LocalPod {
    local("a/pod", &[], &["2001:db8::1"])
}

/// The only chain of `rules`, with names replaced by what they stand for.
fn shown(rules: &Ruleset) -> Vec<String> {
    let [chain] = &rules.chains.values().collect::<Vec<_>>()[..] else { panic!("{:?}", rules.chains) };
    let rule = |rule: &flock_core::policy::Rule| {
        let peer = match &rule.peer {
            Peer::Any => "any".to_owned(),
            Peer::Pods(id) => format!("{:?}", rules.peers[id]),
            Peer::Net { cidr, except } => format!("{cidr} but {except:?}"),
        };
        let list = |id| {
            let ranges: Vec<_> =
                rules.ports[&id].iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
            ranges.join(",")
        };
        match rule.ports {
            None => peer,
            Some((protocol, None)) => format!("{peer} {protocol:?}"),
            Some((protocol, Some(id))) => format!("{peer} {protocol:?} {}", list(id)),
        }
    };
    chain.rules.iter().map(rule).collect()
}

#[test]
fn rules_of_one_peer_are_one_for_each_protocol() {
    let cases: [(&[PolicyRule], &[&str]); 7] = [
        (&[], &[]),
        (&[rule(&[], &["443/tcp", "80/tcp", "81-90/tcp", "85-95/tcp"])], &["any Tcp 80-95,443-443"]),
        (&[rule(&[], &["80/tcp", "80/udp", "tcp", "81/tcp"])], &["any Tcp", "any Udp 80-80"]),
        (&[rule(&[], &["80/tcp"]), rule(&[pods(&[])], &[]), rule(&[], &[])], &["any"]),
        (
            &[rule(&[pods(&["app=db"])], &["80/tcp"]), rule(&[pods(&["app=db"])], &["81/tcp"])],
            &["{2001:db8::a2} Tcp 80-81"],
        ),
        (&[rule(&[pods(&["app=db"])], &["80/tcp"]), rule(&[pods(&["app=db"])], &[])], &["{2001:db8::a2}"]),
        (&[rule(&[pods(&["app=db"])], &[]), rule(&[pods(&["app=db"])], &["80/tcp"])], &["{2001:db8::a2}"]),
    ];
    for (rules, expected) in cases {
        assert_eq!(shown(&admitting(rules)), expected, "{rules:?}");
    }
}

#[test]
fn pods_with_the_same_policies_share_a_chain() {
    let web = policy("a/web", &["app=web"], Some(&[rule(&[], &["web/tcp"])]), None);
    let all = policy("a/all", &[], Some(&[rule(&[], &["443/tcp"])]), None);
    let pods = [
        with_ports(local("a/one", &["app=web"], &[]), &["web:80/tcp"]),
        with_ports(local("a/two", &["app=web", "v=2"], &[]), &["web:80/tcp", "metrics:9090/tcp"]),
        with_ports(local("a/three", &["app=web"], &[]), &["web:81/tcp"]),
        with_ports(local("a/four", &[], &[]), &["web:80/tcp"]),
    ];
    let rules = compile(&view_of(&[web, all]), &pods);
    let chain = |name| match &rules.pods[&link(name)].place {
        Place::Judged(gates) => gates[&INGRESS],
        place => panic!("{place:?}"),
    };
    assert_eq!(chain("one"), chain("two"), "by what their ports come to");
    assert_eq!(BTreeSet::from(["one", "three", "four"].map(chain)).len(), 3);
    assert_eq!(rules.chains.len(), 3);
}

#[test]
fn names_stand_for_selectors_and_not_for_members() {
    let rules = [rule(&[pods(&["app=db"])], &["80/tcp"])];
    let policies = [policy("a/p", &[], Some(&rules), None)];
    let before = compile(&view_of(&policies), &[pod()]);
    let after = compile(&view(&policies, &[], &[]), &[pod()]);
    assert_eq!(before.chains, after.chains);
    assert_eq!(before.peers.keys().collect::<Vec<_>>(), after.peers.keys().collect::<Vec<_>>());
    assert!(after.peers.values().all(|members| members.is_empty()), "a selector nobody matches is there too");
    let elsewhere =
        compile(&view(&[policy("b/p", &[], Some(&rules), None)], &[], &[]), &[local("b/pod", &[], &[])]);
    assert_ne!(
        before.peers.keys().next(),
        elsewhere.peers.keys().next(),
        "a selector means its own namespace"
    );
}

#[test]
fn names_stay_the_same() {
    // Tables of an older release are compared with what is wanted now, so they should not be written anew for nothing.
    let rules = admitting(&[rule(&[pods(&["app=db"])], &["80/tcp"])]);
    insta::assert_debug_snapshot!((
        rules.chains.keys().collect::<Vec<_>>(),
        rules.peers.keys().collect::<Vec<_>>(),
        rules.ports.keys().collect::<Vec<_>>(),
    ));
}

#[test]
fn what_stays_the_same_is_shared() {
    let rules = [rule(&[pods(&["app=db"])], &["80/tcp"]), rule(&[pods(&["app=web"])], &["80/tcp"])];
    let before = view_of(&[policy("a/p", &[], Some(&rules), None)]);
    let mut after = before.clone();
    let db = remote("a/db2", &["app=db"], &["2001:db8::a3"]);
    Arc::make_mut(&mut after.pods).insert(db.key.clone(), Arc::new(db));
    let mut other = after.clone();
    let policies =
        [policy("a/p", &[], Some(&rules), None), policy("a/q", &["app=web"], Some(&rules[..1]), None)];
    other.policies = view_of(&policies).policies;

    let mut compiler = Compiler::default();
    let [one, two, three] = [&before, &after, &other].map(|view| compiler.compile(view, &[pod()]));
    let shared = |one: &Ruleset, two: &Ruleset| {
        let same = |id| Arc::ptr_eq(&one.peers[id], &two.peers[id]);
        (
            one.peers.keys().filter(|id| same(id)).count(),
            one.chains.iter().all(|(id, chain)| Arc::ptr_eq(chain, &two.chains[id])),
        )
    };
    assert_eq!(shared(&one, &two), (1, true), "a pod joins one of two selectors");
    assert_eq!(shared(&two, &three), (2, true), "a policy comes that selects no pod of the node");
    assert_eq!(three, compile(&other, &[pod()]));
}

#[test]
fn pods_may_send_from_what_they_share() {
    let pod = LocalPod { anycast: vec![ip("2001:db8::53")], ..pod() };
    let rules = compile(&view_of(&[]), &[pod]);
    assert_eq!(rules.pods[&link("pod")].sources, BTreeSet::from([ip("2001:db8::1"), ip("2001:db8::53")]));
}

#[test]
fn updates_narrow_where_an_open_flow_may_be_refused() {
    let db = || pods(&["app=db"]);
    let http = admitting(&[rule(&[db()], &["80/tcp"])]);
    let open = compile(&view_of(&[]), &[pod()]);
    let nobody = Ruleset::default();
    let listing = compile(&PolicyView::default(), &[pod()]);
    let fewer =
        compile(&view(&[policy("a/p", &[], Some(&[rule(&[db()], &["80/tcp"])]), None)], &[], &[]), &[pod()]);
    let both_ways =
        compile(&view_of(&[policy("a/p", &[], Some(&[rule(&[db()], &["80/tcp"])]), Some(&[]))]), &[pod()]);
    let cases = [
        ("nothing happens", http.clone(), http.clone(), false),
        ("a pod is judged", open.clone(), http.clone(), true),
        ("a pod is judged no more", http.clone(), open.clone(), false),
        ("a pod is shut", open.clone(), listing.clone(), true),
        ("a judged pod is shut", http.clone(), listing.clone(), true),
        ("a shut pod is judged", listing.clone(), http.clone(), false),
        ("an open pod comes", nobody.clone(), open.clone(), false),
        ("a judged pod comes without a guard", nobody.clone(), http.clone(), true),
        ("a pod goes", http.clone(), nobody, false),
        ("a member joins", fewer.clone(), http.clone(), false),
        ("a member leaves", http.clone(), fewer, true),
        ("a gate more", http.clone(), both_ways.clone(), true),
        ("a gate less", both_ways, http.clone(), false),
        ("a port more", http.clone(), admitting(&[rule(&[db()], &["80/tcp", "443/tcp"])]), false),
        ("a port less", admitting(&[rule(&[db()], &["80/tcp", "443/tcp"])]), http.clone(), true),
        ("a range less", admitting(&[rule(&[db()], &["80-81/tcp"])]), http.clone(), true),
        ("all ports", http.clone(), admitting(&[rule(&[db()], &["tcp"])]), false),
        ("no longer all ports", admitting(&[rule(&[db()], &["tcp"])]), http.clone(), true),
        ("another protocol", http.clone(), admitting(&[rule(&[db()], &["80/udp"])]), true),
        ("everything", http.clone(), admitting(&[rule(&[db()], &[])]), false),
        (
            "no longer everything",
            admitting(&[rule(&[db()], &[])]),
            admitting(&[rule(&[db()], &["tcp"])]),
            true,
        ),
        ("everybody", http.clone(), admitting(&[rule(&[], &[])]), false),
        ("everybody, other ports", http.clone(), admitting(&[rule(&[], &["81/tcp"])]), true),
        (
            "a rule more",
            http.clone(),
            admitting(&[rule(&[db()], &["80/tcp"]), rule(&[pods(&[])], &["81/tcp"])]),
            false,
        ),
        ("no rule", http.clone(), admitting(&[]), true),
        ("another selector", http.clone(), admitting(&[rule(&[pods(&[])], &["80/tcp"])]), true),
        (
            "a larger block",
            admitting(&[rule(&[block("2001:db8::/64", &[])], &[])]),
            admitting(&[rule(&[block("2001:db8::/32", &[])], &[])]),
            false,
        ),
        (
            "a smaller block",
            admitting(&[rule(&[block("2001:db8::/32", &[])], &[])]),
            admitting(&[rule(&[block("2001:db8::/64", &[])], &[])]),
            true,
        ),
        (
            "an exception more",
            admitting(&[rule(&[block("2001:db8::/64", &[])], &[])]),
            admitting(&[rule(&[block("2001:db8::/64", &["2001:db8::/80"])], &[])]),
            true,
        ),
        (
            "an exception less",
            admitting(&[rule(&[block("2001:db8::/64", &["2001:db8::/80"])], &[])]),
            admitting(&[rule(&[block("2001:db8::/64", &[])], &[])]),
            false,
        ),
    ];
    for (law, before, after, expected) in cases {
        let update = Update::between(&before, &after, Stamp::FIRST);
        assert_eq!(update.narrows(&after), expected, "{law}: {update:#?}");
    }
}

#[test]
fn chains_that_an_update_does_not_show_may_be_narrower() {
    let moved = |app: &str| {
        let policies = [
            policy("a/db", &["app=db"], Some(&[rule(&[], &["80/tcp"])]), None),
            policy("a/web", &["app=web"], Some(&[rule(&[], &["80-90/tcp"])]), None),
        ];
        let pods =
            ["a/one", "a/two"].map(|key| local(key, &[if key == "a/one" { app } else { "app=web" }], &[]));
        let keep = local("a/three", &["app=db"], &[]);
        compile(&view_of(&policies), &[pods.as_slice(), &[keep]].concat())
    };
    let (before, after) = (moved("app=db"), moved("app=web"));
    let update = Update::between(&before, &after, Stamp::FIRST);
    assert!(update.chains.is_empty() && update.pods.len() == 1 && update.narrows(&after));
}

#[test]
fn tiers_that_hand_flows_on_narrow_whatever_changes() {
    let gates = |tier| {
        let mut rules = admitting(&[rule(&[], &["80/tcp"])]);
        let pod = rules.pods.get_mut(&link("pod")).unwrap();
        let Place::Judged(gates) = &mut pod.place else { panic!("not judged") };
        let id = gates[&INGRESS];
        gates.insert(Gate { tier, ..INGRESS }, id);
        rules
    };
    let (admin, policy) = (gates(Tier::Admin), gates(Tier::Policy));
    assert!(Update::between(&admin, &policy, Stamp::FIRST).narrows(&policy));
    let change = Change { before: admin.pods.get(&link("pod")).cloned(), after: None };
    let gone = Update { pods: [(link("pod"), change)].into(), ..Update::default() };
    assert!(!gone.narrows(&Ruleset::default()));
}

#[test]
fn verdicts_name_the_policy_that_decides() {
    let policies = [
        policy(
            "a/db",
            &["app=db"],
            Some(&[rule(&[], &["80/tcp"]), rule(&[pods(&["app=web"])], &["tcp"])]),
            None,
        ),
        policy("a/deny", &[], Some(&[]), None),
        policy("b/out", &[], None, Some(&[rule(&[namespaces(&[])], &[])])),
    ];
    let view = view_of(&policies);
    let db = local("a/db0", &["app=db"], &["2001:db8::1"]);
    let client = local("b/client", &[], &["2001:db8::2"]);
    let pods = [db.clone(), client.clone()];
    let remote = &view.pods[&flock_core::ids::PodKey::parse("a/web").unwrap()];
    let outside = Subject::Outside;
    let judged = |from: (Subject<'_>, &str), to: (Subject<'_>, &str), port| {
        let end = |(subject, address)| Endpoint { subject, address: ip(address) };
        let flow = Flow { from: end(from), to: end(to), service: Some((Protocol::Tcp, port)) };
        serde_json::to_string(&verdict(&view, &pods, &flow)).unwrap()
    };
    let server = (Subject::Local(&db), "2001:db8::1");
    let cases = [
        (
            judged((Subject::Local(&client), "2001:db8::2"), server, 80),
            concat!(
                r#"{"egress":{"judgement":"admitted","policy":"b/out","rule":0},"#,
                r#""ingress":{"judgement":"admitted","policy":"a/db","rule":0}}"#,
            ),
        ),
        (
            judged((Subject::Remote(remote), "2001:db8::a1"), server, 81),
            r#"{"egress":{"judgement":"notSelected"},"ingress":{"judgement":"admitted","policy":"a/db","rule":1}}"#,
        ),
        (
            judged((outside, "2001:db8:f::1"), server, 81),
            r#"{"egress":{"judgement":"notSelected"},"ingress":{"judgement":"refused","policies":["a/db","a/deny"]}}"#,
        ),
        (
            judged(server, (Subject::Remote(remote), "2001:db8::a1"), 81),
            r#"{"egress":{"judgement":"notSelected"},"ingress":{"judgement":"refused","policies":["a/deny"]}}"#,
        ),
        (judged(server, server, 81), r#"{"egress":{"judgement":"itself"},"ingress":{"judgement":"itself"}}"#),
    ];
    for (said, expected) in cases {
        assert_eq!(said, expected);
        let read: flock_core::policy::Verdict = serde_json::from_str(&said).unwrap();
        let refuses = |end: &Judgement| matches!(end, Judgement::Refused { .. });
        assert_eq!(read.passes(), !refuses(&read.egress) && !refuses(&read.ingress));
    }
    let named: Vec<_> =
        selecting(&view, Subject::Local(&db)).into_iter().map(|(key, of)| (key.to_string(), of)).collect();
    let ingress = vec![Direction::Ingress];
    assert_eq!(named, [("a/db".to_owned(), ingress.clone()), ("a/deny".to_owned(), ingress)]);
}

#[test]
fn a_policy_that_cannot_be_read_admits_nothing() {
    let closed = NetworkPolicy::closed(policy("a/p", &[], None, None).key);
    let rules = compile(&view_of(&[closed]), &[pod()]);
    let Place::Judged(gates) = &rules.pods[&link("pod")].place else { panic!("not judged") };
    assert!([EGRESS, INGRESS].iter().all(|gate| rules.chains[&gates[gate]].rules.is_empty()));
    let unknown = LocalPod { identity: LocalIdentity::Unknown { namespace: Some("a".to_owned()) }, ..pod() };
    let closed = Arc::new(NetworkPolicy::closed(policy("a/p", &[], None, None).key));
    assert!(flock_core::policy::guard(&view_of(&[(*closed).clone()]), &unknown).shut);
}
