//! What `flock-agent plan` says: by value, and in the words a person reads.

use std::sync::Arc;

use flock_core::config::{BgpSpec, ClaimSpec, DefaultsSpec, NodeConfigSpec, PeerSpec};
use flock_core::family::DecidedBy;
use flock_core::ids::NodeName;
use flock_core::plan::{AddressReport, Announced, FamilyReport, Objects, PodReport, Report, Source, plan};
use flock_core::ports::{NodeConfigView, PodView};
use flock_core::testing::pod_view;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn spec(cidr6: &[&str], cidr4: &[&str]) -> NodeConfigSpec {
    let texts = |nets: &[&str]| nets.iter().map(|net| (*net).to_owned()).collect();
    let peer = PeerSpec { address: "2001:db8::1".to_owned(), asn: 65000 };
    let bgp = BgpSpec { asn: 65101, router_id: None, peers: vec![peer] };
    NodeConfigSpec { cidr6: texts(cidr6), cidr4: texts(cidr4), bgp, ..NodeConfigSpec::default() }
}

fn usual() -> NodeConfigSpec {
    spec(&["2001:db8:f001::/64"], &["192.0.2.0/29"])
}

fn pod(name: &str, annotations: &[(&str, &str)]) -> PodView {
    let key = |key: &str| format!("flock.fritzlab.net/{key}");
    let annotations = annotations.iter().map(|(name, value)| (key(name), (*value).to_owned()));
    PodView { annotations: annotations.collect(), ..pod_view(&format!("shop/{name}")) }
}

fn objects(nodes: &[(&str, NodeConfigSpec)], pods: Vec<PodView>) -> Objects {
    let config = |spec: &NodeConfigSpec| NodeConfigView { generation: 1, spec: Ok(spec.clone()) };
    Objects {
        nodes: nodes.iter().map(|(name, spec)| (node(name), config(spec))).collect(),
        pods: pods.into_iter().map(Arc::new).collect(),
        ..Objects::default()
    }
}

/// The plan of pods on one node.
fn on(spec: NodeConfigSpec, pods: Vec<PodView>) -> Report {
    plan(&objects(&[("n1", spec)], pods), None)
}

fn only(report: &Report) -> &PodReport {
    let [pod] = &report.pods[..] else { panic!("{report}") };
    pod
}

#[test]
fn a_pod_without_annotations_gets_what_the_node_has() {
    let report = on(usual(), vec![pod("web", &[])]);
    assert!(report.is_fine());
    let pool6 = "2001:db8:f001::/64".parse().unwrap();
    let pool4 = "192.0.2.0/29".parse().unwrap();
    let address =
        |source, prefix| Some(AddressReport { source, claim: None, announced: Announced::Pool { prefix } });
    let expected = PodReport {
        pod: "shop/web".parse().unwrap(),
        node: Some(node("n1")),
        host_network: false,
        unplanned: None,
        ipv6: Some(FamilyReport {
            on: true,
            by: DecidedBy::Pools,
            address: address(Source::Random { ranges: vec![pool6] }, pool6),
        }),
        ipv4: Some(FamilyReport {
            on: true,
            by: DecidedBy::Pools,
            address: address(
                Source::Lowest { address: "192.0.2.2".parse().unwrap(), ranges: vec![pool4] },
                pool4,
            ),
        }),
        extra: vec![],
        anycast: vec![],
        problems: vec![],
    };
    assert_eq!(only(&report), &expected);
}

#[test]
fn the_source_of_an_address_follows_the_annotations() {
    // Annotations, then how the line of IPv6 goes on, then that of IPv4.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let table: [Case<'_>; 7] = [
        (
            &[("ipv6", "false")],
            "off by annotation flock.fritzlab.net/ipv6",
            "on by spec.cidr4: 192.0.2.2, the lowest free one of 192.0.2.0/29, announced with 192.0.2.0/29",
        ),
        (
            &[("cidr6", "2001:db8:f001:0:1::/80,2001:db8:f001::/64"), ("ipv4", "false")],
            "on by spec.cidr6: a random one of 2001:db8:f001:0:1::/80, announced with 2001:db8:f001::/64",
            "off by annotation flock.fritzlab.net/ipv4",
        ),
        (
            &[("cidr6", "2001:db8:f001::9/128"), ("cidr4", "192.0.2.5/32")],
            "on by spec.cidr6: 2001:db8:f001::9, the only one it asks for, announced with 2001:db8:f001::/64",
            "on by spec.cidr4: 192.0.2.5, the only one it asks for, announced with 192.0.2.0/29",
        ),
        (
            &[("addresses", "203.0.113.7,2001:db8:f001::7"), ("ipv4", "true")],
            "on by the address it brings: 2001:db8:f001::7, announced with 2001:db8:f001::/64",
            "on by annotation flock.fritzlab.net/ipv4: 203.0.113.7, announced as 203.0.113.7/32",
        ),
        (
            &[("ip-algo", "namespace,pod"), ("ipv4", "false")],
            "on by spec.cidr6: one of 2001:db8:f001:0:847e:a3f:d9bc:9100/120 (namespace, pod embedded), \
             announced with 2001:db8:f001::/64",
            "off by annotation flock.fritzlab.net/ipv4",
        ),
        (
            &[("ip-algo", "namespace"), ("cidr6", "2001:db8:f001::/118"), ("ipv4", "false")],
            "on by spec.cidr6: one of 2001:db8:f001::30/124, 2001:db8:f001::130/124, 2001:db8:f001::230/124, \
             2001:db8:f001::330/124 (namespace embedded), announced with 2001:db8:f001::/64",
            "off by annotation flock.fritzlab.net/ipv4",
        ),
        (
            // Nothing is embedded in an address that is given.
            &[("ip-algo", "namespace"), ("addresses", "2001:db8:a::1"), ("ipv4", "false")],
            "on by the address it brings: 2001:db8:a::1, announced as 2001:db8:a::1/128",
            "off by annotation flock.fritzlab.net/ipv4",
        ),
    ];
    for (annotations, ipv6, ipv4) in table {
        let report = on(usual(), vec![pod("web", annotations)]);
        assert!(report.is_fine(), "{report}");
        let text = only(&report).to_string();
        let expected = format!("pod shop/web on n1\n  IPv6       {ipv6}\n  IPv4       {ipv4}\n");
        assert_eq!(text, expected, "{annotations:?}");
    }
}

#[test]
fn pods_of_a_node_share_its_addresses_in_the_order_written() {
    let six = [("ipv4", "false")];
    let table: [(&str, Vec<PodView>, &[&str]); 11] = [
        (
            "a given address twice",
            vec![
                pod("b", &[("addresses", "2001:db8:f001::7"), six[0]]),
                pod("a", &[("addresses", "2001:db8:f001::7"), six[0]]),
            ],
            &["", "address 2001:db8:f001::7 is held by pod shop/b"],
        ),
        (
            "a pin on a given address",
            vec![
                pod("a", &[("addresses", "2001:db8:f001::7"), six[0]]),
                pod("b", &[("cidr6", "2001:db8:f001::7/128"), six[0]]),
            ],
            &["", "address 2001:db8:f001::7 is held by pod shop/a"],
        ),
        (
            "the lowest free address, then somebody who brings it",
            vec![pod("a", &[]), pod("b", &[("addresses", "192.0.2.2")])],
            &["", "address 192.0.2.2 is held by pod shop/a"],
        ),
        (
            "an exhausted range",
            vec![
                pod("a", &[("cidr4", "192.0.2.2/31")]),
                pod("b", &[]),
                pod("c", &[("cidr4", "192.0.2.2/31")]),
            ],
            &["", "", "no free IPv4 address in 192.0.2.2/31: 2 in use, 0 cooling down"],
        ),
        (
            "a pod that is refused holds nothing",
            vec![pod("a", &[("cidr6", "2001:db8:f002::/64")]), pod("b", &[("cidr4", "192.0.2.2/32")])],
            &[
                "annotation flock.fritzlab.net/cidr6: none of the prefixes 2001:db8:f002::/64 lies in a pool of this node: 2001:db8:f001::/64",
                "",
            ],
        ),
        (
            "several problems of one pod",
            vec![
                pod("a", &[("cidr4", "192.0.2.2/32")]),
                pod("b", &[("addresses", "2001:db8:f001::,2001:db8:a::1"), ("cidr4", "192.0.2.2/32")]),
            ],
            &[
                "",
                "address 2001:db8:f001:: cannot be given to a pod: it is the subnet-router anycast address \
                 (RFC 4291); address 192.0.2.2 is held by pod shop/a",
            ],
        ),
        (
            "an anycast address that pods share",
            vec![
                pod("a", &[("anycast", "2001:db8:f001::53")]),
                pod("b", &[("anycast", "2001:db8:f001::53")]),
            ],
            &["", ""],
        ),
        (
            "an address of one pod, then anycast of another",
            vec![
                pod("a", &[("addresses", "2001:db8:f001::53")]),
                pod("b", &[("anycast", "2001:db8:f001::53,192.0.2.2")]),
            ],
            &["", "address 2001:db8:f001::53 is held by pod shop/a; address 192.0.2.2 is held by pod shop/a"],
        ),
        (
            "anycast of one pod, then an address of another",
            vec![
                pod("a", &[("anycast", "2001:db8:f001::53")]),
                pod("b", &[("addresses", "2001:db8:f001::53")]),
            ],
            &["", "address 2001:db8:f001::53 is an anycast address of pod shop/a"],
        ),
        (
            "a pin on an anycast address of the same pod",
            vec![pod("a", &[("anycast", "2001:db8:f001::53"), ("cidr6", "2001:db8:f001::53/128")])],
            &["address 2001:db8:f001::53 cannot be given to a pod: it is an anycast address of the same pod"],
        ),
        (
            "a reserved address",
            vec![pod("a", &[("addresses", "192.0.2.1")])],
            &["address 192.0.2.1 cannot be given to a pod: it is the gateway address of the pool"],
        ),
    ];
    for (what, pods, expected) in table {
        let report = on(usual(), pods);
        let problems: Vec<_> = report.pods.iter().map(|pod| pod.problems.join("; ")).collect();
        assert_eq!(problems, expected, "{what}");
    }
}

#[test]
fn anycast_is_announced_by_itself_even_inside_a_pool_while_the_pod_is_eligible() {
    let claim = |cidr: &str, kinds: &[&str]| ClaimSpec {
        cidrs: vec![cidr.to_owned()],
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        ..ClaimSpec::default()
    };
    let claims = vec![claim("2001:db8:a::/64", &["addresses"]), claim("::/0", &["anycast"])];
    let node = NodeConfigSpec { claims, ..usual() };
    let eligible = pod("dns", &[("anycast", "2001:db8:a::53,2001:db8:f001::53")]);
    let starting = PodView { ready: false, ..eligible.clone() };
    let leaving = PodView { terminating: true, ..eligible.clone() };
    let table = [
        (eligible, ["announced as 2001:db8:a::53/128", "announced as 2001:db8:f001::53/128"]),
        (starting, ["not announced: the pod is not Ready"; 2]),
        (leaving, ["not announced: the pod is terminating"; 2]),
    ];
    for (pod, [first, second]) in table {
        let report = on(node.clone(), vec![pod]);
        assert!(report.is_fine(), "{report}");
        let seen: Vec<_> = only(&report).anycast.iter().map(ToString::to_string).collect();
        let expected = [
            format!("2001:db8:a::53, granted by spec.claims[1], {first}"),
            format!("2001:db8:f001::53, granted by spec.claims[1], {second}"),
        ];
        assert_eq!(seen, expected);
    }
}

#[test]
fn chance_makes_no_two_pods_meet() {
    // Seven addresses, six of which somebody asks for by name after one has been left to chance.
    let pool = "2001:db8:f001::/125";
    let named =
        |number: u32| pod(&format!("pod-{number}"), &[("addresses", &format!("2001:db8:f001::{number}"))]);
    for free in 1..=7 {
        let mut pods = vec![pod("lucky", &[])];
        pods.extend((1..=7).filter(|number| *number != free).map(named));
        let report = on(spec(&[pool], &[]), pods);
        assert!(report.is_fine(), "{report}");
    }
    let report = on(spec(&[pool], &[]), (1..=7).map(named).chain([pod("late", &[])]).collect());
    assert_eq!(
        report.pods.last().unwrap().problems,
        ["no free IPv6 address in 2001:db8:f001::/125: 7 in use, 0 cooling down"]
    );
}

#[test]
fn the_node_is_the_one_named_else_the_pods_else_the_only_one() {
    let both = [("n1", usual()), ("n2", spec(&["2001:db8:f002::/64"], &[]))];
    let silent = pod("web", &[]);
    let on_n2 = PodView { node: Some(node("n2")), ..silent.clone() };
    let on_n3 = PodView { node: Some(node("n3")), ..silent.clone() };
    let several = "it names no node, and there are n1, n2: set spec.nodeName or --node-name";
    let table = [
        (&both[..1], &silent, None, Ok("n1")),
        (&both[..1], &on_n2, None, Err("there is no NodeConfig of n2")),
        (&both[..], &on_n2, None, Ok("n2")),
        (&both[..], &on_n2, Some("n1"), Ok("n1")),
        (&both[..], &silent, Some("n2"), Ok("n2")),
        (&both[..], &silent, None, Err(several)),
        (&both[..], &on_n3, None, Err("there is no NodeConfig of n3")),
        (&both[..0], &silent, None, Err("there is no NodeConfig: add that of its node")),
    ];
    for (nodes, pod, named, expected) in table {
        let report = plan(&objects(nodes, vec![pod.clone()]), named.map(node).as_ref());
        let pod = only(&report);
        match expected {
            Ok(name) => assert_eq!((pod.node.as_ref(), &pod.unplanned), (Some(&node(name)), &None)),
            Err(reason) => assert_eq!(pod.unplanned.as_deref(), Some(reason)),
        }
        assert_eq!(report.is_fine(), expected.is_ok());
    }
}

/// A bit of everything.
fn everything() -> Objects {
    let claims = vec![
        ClaimSpec { cidrs: vec!["2001:db8:a::/64".to_owned()], ..ClaimSpec::default() },
        ClaimSpec { cidrs: vec!["203.0.113.0/24".to_owned()], ..ClaimSpec::default() },
    ];
    let n1 = NodeConfigSpec { claims, ..usual() };
    let mut n2 = spec(&["2001:db8:f002::/64"], &["192.0.2.9/28"]);
    n2.bgp.asn = 0;
    let mut n3 = spec(&["2001:db8:f003::/64"], &["198.51.100.0/24"]);
    n3.defaults = DefaultsSpec { ipv6: None, ipv4: Some(false) };
    n3.bgp.peers.clear();

    let at = |name: &str, pod: PodView| PodView { node: Some(node(name)), ..pod };
    let given = [("addresses", "203.0.113.7, 203.0.113.8,2001:db8:a::7")];
    let mut objects = objects(
        &[("n1", n1), ("n2", n2), ("n3", n3)],
        vec![
            at("n1", pod("web-0", &[("ip-algo", "namespace,pod")])),
            at("n1", PodView { ready: false, ..pod("given", &given) }),
            at("n1", pod("again", &given)),
            at(
                "n1",
                pod("greedy", &[("addresses", "198.51.100.7,2001:db8::1,2001:db8:b::1"), ("ipv4", "false")]),
            ),
            at("n2", pod("typo", &[("ipv4", "no"), ("adresses", "203.0.113.7")])),
            at("n3", pod("six", &[("anycast", "2001:db8:a::53")])),
            at("n3", PodView { host_network: true, ..pod("host", &[("ipv4", "no")]) }),
            pod("lost", &[]),
        ],
    );
    objects.problems.push("pods.yaml:3: Pod Web: metadata: pod name \"Web\" is bad".to_owned());
    objects.ignored.insert("apps/v1 Deployment".to_owned(), 2);
    objects
}

#[test]
fn the_text_says_everything_at_once() {
    insta::assert_snapshot!("plan", plan(&everything(), None).to_string());
}

#[test]
fn the_json_says_the_same() {
    insta::assert_snapshot!("plan-json", serde_json::to_string_pretty(&plan(&everything(), None)).unwrap());
}

#[test]
fn the_same_manifests_give_the_same_plan() {
    assert_eq!(plan(&everything(), None), plan(&everything(), None));
}
