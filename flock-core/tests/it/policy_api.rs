//! What the Kubernetes API asks for of a NetworkPolicy, one law each.

use std::slice::from_ref;
use std::sync::Arc;

use flock_core::policy::{LocalIdentity, LocalPod, Place, PolicyPeer, PolicyRule, PolicyView, Shut};

use crate::policy_given::{
    Node, block, ip, link, local, named, namespaces, pods, pods_in, policy, remote, rule, selector, view,
    with_ports,
};

const NAMESPACES: &[(&str, &[&str])] = &[("a", &["team=x"]), ("b", &["team=y"]), ("c", &[])];

/// One of each kind: the namespace of the policy and two others, with labels and without.
fn cluster() -> Vec<flock_core::policy::PolicyPod> {
    vec![
        remote("a/web", &["app=web"], &["2001:db8::a1", "192.0.2.1"]),
        remote("a/db", &["app=db"], &["2001:db8::a2"]),
        remote("b/web", &["app=web"], &["2001:db8::b1"]),
        remote("c/bare", &[], &["2001:db8::c1"]),
        remote("c/empty", &["app="], &["2001:db8::c2"]),
    ]
}

/// Every pod above, and an address that none of them has.
const EVERYBODY: [&str; 7] = [
    "2001:db8::a1",
    "192.0.2.1",
    "2001:db8::a2",
    "2001:db8::b1",
    "2001:db8::c1",
    "2001:db8::c2",
    "2001:db8:f::1",
];

/// Those that a pod of namespace `a` admits for HTTP by these rules.
fn admitted(rules: &[PolicyRule]) -> Vec<&'static str> {
    let view = view(&[policy("a/p", &[], Some(rules), None)], NAMESPACES, &cluster());
    let node = Node::new(&view, &[local("a/pod", &[], &["2001:db8::1"])]);
    EVERYBODY.into_iter().filter(|from| node.admits(from, "pod", "80/tcp")).collect()
}

fn admitted_peers(peers: &[PolicyPeer]) -> Vec<&'static str> {
    admitted(&[rule(peers, &[])])
}

/// Those of these services that a pod with these named ports admits by the ports of a rule.
fn served(ports: &[&str], own: &[&str]) -> Vec<&'static str> {
    let view = view(&[policy("a/p", &[], Some(&[rule(&[], ports)]), None)], NAMESPACES, &[]);
    let node = Node::new(&view, &[with_ports(local("a/pod", &[], &["2001:db8::1"]), own)]);
    let services = ["80/tcp", "81/tcp", "82/tcp", "80/udp", "81/udp", "80/sctp", "icmp"];
    services.into_iter().filter(|service| node.admits("2001:db8:f::1", "pod", service)).collect()
}

#[test]
fn rules_of_ingress_decide_who_gets_in() {
    assert_eq!(admitted(&[]), [""; 0], "no rule denies all");
    assert_eq!(admitted(&[rule(&[], &[])]), EVERYBODY, "a rule without from admits everybody");
    let two = [rule(&[pods(&["app=db"])], &[]), rule(&[namespaces(&["team=y"])], &[])];
    assert_eq!(admitted(&two), ["2001:db8::a2", "2001:db8::b1"], "one rule is enough");
}

#[test]
fn peers_are_pods_of_namespaces() {
    let cases: [(&str, &[PolicyPeer], &[&str]); 7] = [
        ("an empty podSelector is the namespace", &[pods(&[])], &EVERYBODY[..3]),
        ("an empty namespaceSelector is all pods but nobody else", &[namespaces(&[])], &EVERYBODY[..6]),
        ("both are AND", &[pods_in(&["team=y"], &["app=web"])], &["2001:db8::b1"]),
        ("both are AND, none", &[pods_in(&["team=y"], &["app=db"])], &[]),
        (
            "two peers are OR",
            &[namespaces(&["team=y"]), pods(&["app=db"])],
            &["2001:db8::a2", "2001:db8::b1"],
        ),
        ("a podSelector is about its own namespace", &[pods(&["app=web"])], &EVERYBODY[..2]),
        ("nobody has it", &[pods(&["app=mail"])], &[]),
    ];
    for (law, peers, expected) in cases {
        assert_eq!(admitted_peers(peers), expected, "{law}");
    }
}

#[test]
fn missing_labels_satisfy_not_in_and_does_not_exist() {
    let of = |requirement: &str| admitted_peers(&[pods_in(&[], &[requirement])]);
    let (bare, empty) = ("2001:db8::c1", "2001:db8::c2");
    assert_eq!(of("app!=web"), ["2001:db8::a2", bare, empty]);
    assert_eq!(of("!app"), [bare]);
    assert_eq!(of("app="), [empty], "a missing label has no empty value");
    assert_eq!(of("app"), [&EVERYBODY[..4], &[empty]].concat());
}

#[test]
fn namespaces_have_their_name_as_label() {
    let name = |name: &str| namespaces(&[&format!("kubernetes.io/metadata.name={name}")]);
    assert_eq!(admitted_peers(&[name("b")]), ["2001:db8::b1"], "where the labels do not say so");
    let unknown = view(
        &[policy("a/p", &[], Some(&[rule(&[name("b"), namespaces(&["team=y"])], &[])]), None)],
        &[],
        &[remote("b/web", &[], &["2001:db8::b1"]), remote("c/web", &[], &["2001:db8::c1"])],
    );
    let node = Node::new(&unknown, &[local("a/pod", &[], &[])]);
    assert!(node.admits("2001:db8::b1", "pod", "80/tcp"), "of a namespace that is not known");
    assert!(!node.admits("2001:db8::c1", "pod", "80/tcp"));
}

#[test]
fn each_direction_is_judged_by_itself() {
    let everything = [rule(&[], &[])];
    let cases: [(_, _, bool, bool); 6] = [
        (None, None, true, true),
        (Some(&[][..]), None, false, true),
        (None, Some(&[][..]), true, false),
        (Some(&[][..]), Some(&[][..]), false, false),
        (Some(&everything[..]), Some(&[][..]), true, false),
        (Some(&[][..]), Some(&everything[..]), false, true),
    ];
    for (ingress, egress, enters, leaves) in cases {
        let view = view(&[policy("a/p", &[], ingress, egress)], NAMESPACES, &[]);
        let node = Node::new(&view, &[local("a/pod", &[], &[])]);
        assert_eq!(node.admits("2001:db8:f::1", "pod", "80/tcp"), enters, "{ingress:?} {egress:?}");
        assert_eq!(node.lets_out("pod", "2001:db8:f::1", "80/tcp"), leaves, "{ingress:?} {egress:?}");
    }
}

#[test]
fn ports_decide_what_gets_in() {
    let all = ["80/tcp", "81/tcp", "82/tcp", "80/udp", "81/udp", "80/sctp", "icmp"];
    assert_eq!(served(&[], &[]), all, "without ports every protocol, ICMP too");
    assert_eq!(served(&["80/tcp"], &[]), ["80/tcp"], "with ports nothing else");
    assert_eq!(served(&["tcp"], &[]), ["80/tcp", "81/tcp", "82/tcp"], "a protocol is all its ports");
    assert_eq!(served(&["81-82/tcp"], &[]), ["81/tcp", "82/tcp"], "both ends of a range are in it");
    assert_eq!(served(&["80/sctp", "81/udp"], &[]), ["81/udp", "80/sctp"]);
    assert_eq!(served(&["80/tcp", "tcp"], &[]), ["80/tcp", "81/tcp", "82/tcp"]);
}

#[test]
fn named_ports_of_ingress_are_those_of_the_selected_pod() {
    let own = ["web:81/tcp", "web:80/udp", "dns:82/tcp"];
    assert_eq!(served(&["web/tcp"], &own), ["81/tcp"], "name and protocol both");
    assert_eq!(served(&["web/udp"], &own), ["80/udp"]);
    assert_eq!(served(&["web/sctp"], &own), [""; 0]);
    assert_eq!(served(&["mail/tcp"], &own), [""; 0], "no pod, no match");

    let by_name = policy("a/p", &[], Some(&[rule(&[], &["web/tcp"])]), None);
    let pods = [
        with_ports(local("a/one", &[], &[]), &["web:80/tcp"]),
        with_ports(local("a/two", &[], &[]), &["web:81/tcp"]),
    ];
    let node = Node::new(&view(&[by_name], NAMESPACES, &[]), &pods);
    let serves = |pod, service| node.admits("2001:db8:f::1", pod, service);
    assert!(serves("one", "80/tcp") && !serves("one", "81/tcp"), "another number in each pod");
    assert!(serves("two", "81/tcp") && !serves("two", "80/tcp"));
}

#[test]
fn named_ports_of_egress_are_those_of_the_destination() {
    let mut cluster = cluster();
    cluster[0].ports = named(&["web:80/tcp"]);
    cluster[1].ports = named(&["web:81/tcp"]);
    cluster[2].ports = named(&["web:80/udp"]);
    let out = |peers: &[PolicyPeer]| {
        let egress = policy("a/p", &[], None, Some(&[rule(peers, &["web/tcp"])]));
        let node = Node::new(&view(&[egress], NAMESPACES, &cluster), &[local("a/pod", &[], &[])]);
        let services = ["80/tcp", "81/tcp", "80/udp"];
        let all = EVERYBODY.into_iter().flat_map(move |to| services.map(|service| (to, service)));
        all.filter(|(to, service)| node.lets_out("pod", to, service)).collect::<Vec<_>>()
    };
    let (web6, web4, db) = (("2001:db8::a1", "80/tcp"), ("192.0.2.1", "80/tcp"), ("2001:db8::a2", "81/tcp"));
    assert_eq!(out(&[pods(&[])]), [web6, web4, db]);
    assert_eq!(out(&[pods(&["app=db"])]), [db]);
    assert_eq!(out(&[namespaces(&["team=y"])]), []);
    assert_eq!(out(&[]), [web6, web4, db], "of all pods that are known");
    assert_eq!(out(&[block("2001:db8::/64", &["2001:db8::a2/128"])]), [web6], "of pods in the block");
}

#[test]
fn policies_of_a_pod_add_up() {
    let one = policy("a/one", &[], Some(&[rule(&[pods(&["app=db"])], &["80/tcp"])]), None);
    let two = policy("a/two", &["app=web"], Some(&[rule(&[pods(&[])], &["81/tcp"])]), None);
    let other = policy("b/other", &[], Some(&[rule(&[], &[])]), None);
    let node = Node::new(
        &view(&[one, two, other], NAMESPACES, &cluster()),
        &[local("a/both", &["app=web"], &[]), local("a/first", &[], &[])],
    );
    let (web, db) = ("2001:db8::a1", "2001:db8::a2");
    let expected = [(web, "80/tcp", false, false), (web, "81/tcp", true, false), (db, "80/tcp", true, true)];
    for (from, service, both, first) in expected {
        assert_eq!(node.admits(from, "both", service), both, "{from} {service}");
        assert_eq!(node.admits(from, "first", service), first, "{from} {service}");
    }
}

#[test]
fn flows_need_the_consent_of_both_ends() {
    let pods = [local("a/client", &[], &["2001:db8::1"]), local("b/server", &[], &["2001:db8::2"])];
    let to_b = rule(&[namespaces(&["team=y"])], &[]);
    let from_a = rule(&[namespaces(&["team=x"])], &[]);
    for (leaves, enters) in [(true, true), (true, false), (false, true)] {
        let egress = if leaves { vec![to_b.clone()] } else { vec![] };
        let ingress = if enters { vec![from_a.clone()] } else { vec![] };
        let policies = [policy("a/out", &[], None, Some(&egress)), policy("b/in", &[], Some(&ingress), None)];
        let node = Node::new(&view(&policies, NAMESPACES, &[]), &pods);
        let packet = flock_core::testing::Packet {
            from: Some(link("client")),
            to: Some(link("server")),
            source: ip("2001:db8::1"),
            destination: ip("2001:db8::2"),
            service: None,
        };
        assert_eq!(flock_core::testing::passes(&node.0, &packet), leaves && enters);
    }
}

#[test]
fn ip_blocks_mean_addresses_on_the_wire() {
    let cases: [(&str, &[&str], &[&str]); 5] = [
        (
            "::/0",
            &[],
            &[
                "2001:db8::a1",
                "2001:db8::a2",
                "2001:db8::b1",
                "2001:db8::c1",
                "2001:db8::c2",
                "2001:db8:f::1",
            ],
        ),
        ("0.0.0.0/0", &[], &["192.0.2.1"]),
        ("2001:db8::/64", &["2001:db8::c0/124"], &["2001:db8::a1", "2001:db8::a2", "2001:db8::b1"]),
        ("2001:db8:f::1/128", &[], &["2001:db8:f::1"]),
        ("2001:db8::a0/124", &["2001:db8::a1/128", "2001:db8::a2/128"], &[]),
    ];
    for (cidr, except, expected) in cases {
        assert_eq!(admitted_peers(&[block(cidr, except)]), expected, "{cidr} {except:?}");
    }
}

#[test]
fn pods_that_have_ended_are_no_peers() {
    let from_db = policy("a/p", &["app=web"], Some(&[rule(&[pods(&["app=db"])], &[])]), None);
    let admitted = |ended_now: bool| {
        let mut db = local("a/db", &["app=db"], &["2001:db8::2"]);
        db.anycast = vec![ip("2001:db8::53")];
        if let LocalIdentity::Pod { ended, .. } = &mut db.identity {
            *ended = ended_now;
        }
        let web = local("a/web", &["app=web"], &["2001:db8::1"]);
        let node = Node::new(&view(from_ref(&from_db), NAMESPACES, &[]), &[web, db]);
        ["2001:db8::2", "2001:db8::53"].map(|from| node.admits(from, "web", "80/tcp"))
    };
    assert_eq!((admitted(false), admitted(true)), ([true, true], [false, false]));
}

#[test]
fn claimed_addresses_are_peers_where_all_holders_are() {
    let from_db = policy("a/p", &[], Some(&[rule(&[pods(&["app=db"])], &[])]), None);
    let anycast = "2001:db8::53";
    let claims = |labelled: &[&str], key: &str, own: &[&str]| {
        let mut pod = remote(key, labelled, own);
        pod.claimed = vec![ip(anycast)];
        pod
    };
    let db = || claims(&["app=db"], "a/db", &["2001:db8::a2"]);
    let stranger = |own: &[&str]| claims(&[], "c/stranger", own);
    let cases = [
        ("one holder", vec![db()], true),
        ("all are", vec![db(), claims(&["app=db"], "a/db2", &["2001:db8::a3"])], true),
        ("a stranger claims it", vec![db(), stranger(&["2001:db8::c1"])], false),
        ("a stranger that does not run claims it", vec![db(), stranger(&[])], true),
        ("it does not run", vec![claims(&["app=db"], "a/db", &[])], false),
        ("it is a stranger's own", vec![db(), remote("c/own", &[], &[anycast])], false),
        (
            "it is its own, and a stranger claims it",
            vec![remote("a/db", &["app=db"], &[anycast]), stranger(&["2001:db8::c1"])],
            true,
        ),
        (
            "two own it",
            vec![remote("a/db", &["app=db"], &[anycast]), remote("c/own", &[], &[anycast])],
            false,
        ),
    ];
    for (law, cluster, expected) in cases {
        let node = Node::new(&view(from_ref(&from_db), NAMESPACES, &cluster), &[local("a/pod", &[], &[])]);
        assert_eq!(node.admits(anycast, "pod", "80/tcp"), expected, "{law}");
    }
}

#[test]
fn pods_that_are_not_known_are_shut_where_policies_may_select_them() {
    let one = view(&[policy("a/p", &["app=web"], Some(&[]), None)], NAMESPACES, &[]);
    let none = view(&[], NAMESPACES, &[]);
    let listing = PolicyView { complete: false, ..none.clone() };
    let unknown =
        |namespace: Option<&str>| LocalIdentity::Unknown { namespace: namespace.map(str::to_owned) };
    let shut = Place::Shut(Shut::Unknown);
    let cases = [
        (&one, unknown(Some("a")), &shut),
        (&one, unknown(Some("b")), &Place::Open),
        (&one, unknown(None), &shut),
        (&one, LocalIdentity::Nameless, &Place::Open),
        (&none, unknown(None), &Place::Open),
        (&listing, LocalIdentity::Nameless, &Place::Shut(Shut::Starting)),
    ];
    for (view, identity, expected) in cases {
        let pod = LocalPod { link: link("pod"), addresses: vec![], anycast: vec![], identity };
        let guard = flock_core::policy::guard(view, &pod);
        assert_eq!(&Node::new(view, from_ref(&pod)).0.pods[&pod.link].place, expected, "{pod:?}");
        assert_eq!(guard.shut, *expected != Place::Open, "{pod:?}");
    }
}

#[test]
fn nothing_is_judged_without_a_policy() {
    let pod = || [local("a/pod", &[], &["2001:db8::1"])];
    let judges = |view: &PolicyView| Node::new(view, &pod()).0.judging;
    let none = view(&[], NAMESPACES, &cluster());
    assert!(!judges(&none));
    assert!(judges(&PolicyView { complete: false, ..none.clone() }));
    let elsewhere = Arc::new(view(&[policy("c/p", &[], Some(&[]), None)], NAMESPACES, &[]));
    assert!(judges(&elsewhere), "flows are tracked even where no pod of the node is selected");
    assert_eq!(Node::new(&elsewhere, &pod()).0.pods[&link("pod")].place, Place::Open);
    assert_eq!(selector(&[]).to_string(), "");
}
