use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::ids::IfName;
use crate::policy::{
    Action, Chain, End, Guard, Judging, Peer, Place, PodRules, PortRange, Protocol, Rule, Ruleset, Shut,
    Stamp, Update,
};
use crate::ports::Digest;

fn link(name: &str) -> IfName {
    IfName::parse(name).unwrap()
}

const CLIENT: &str = "flock1f3a770a";
const SERVER: &str = "flock1f3a770b";
const OPEN: &str = "flock1f3a770c";
const OUT: ChainId = ChainId(0x3f2a);
const IN: ChainId = ChainId(0x91c4);
const CLIENTS: PeerId = PeerId(0xab12);
const SERVERS: PeerId = PeerId(0xcd34);
const PORTS: PortsId = PortsId(0x77aa);

fn pod(addresses: [&str; 2], place: Place) -> PodRules {
    PodRules { sources: addresses.iter().map(|text| text.parse().unwrap()).collect(), place }
}

fn judged(gates: &[(Direction, Tier, ChainId)]) -> Place {
    let gate = |(direction, tier, id): &(Direction, Tier, ChainId)| {
        (Gate { direction: *direction, tier: *tier }, *id)
    };
    Place::Judged(gates.iter().map(gate).collect())
}

fn accept(peer: Peer, ports: Option<(Protocol, Option<PortsId>)>) -> Rule {
    Rule { peer, ports, action: Action::Accept }
}

fn net(cidr: &str, except: &[&str]) -> Peer {
    Peer::Net { cidr: cidr.parse().unwrap(), except: except.iter().map(|net| net.parse().unwrap()).collect() }
}

fn members(addresses: &[&str]) -> Arc<BTreeSet<std::net::IpAddr>> {
    Arc::new(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

/// A client that may go to servers, a server that admits clients, and a pod no policy selects.
fn example() -> Ruleset {
    let out = Chain {
        direction: Direction::Egress,
        rules: vec![
            accept(Peer::Pods(SERVERS), Some((Protocol::Tcp, Some(PORTS)))),
            accept(net("203.0.113.0/24", &[]), Some((Protocol::Udp, None))),
        ],
        end: End::Refuse,
    };
    let into = Chain {
        direction: Direction::Ingress,
        rules: vec![
            accept(Peer::Pods(CLIENTS), None),
            accept(
                net("2001:db8:e::/64", &["2001:db8:e::8/125", "2001:db8:e::1/128"]),
                Some((Protocol::Sctp, Some(PORTS))),
            ),
        ],
        end: End::Refuse,
    };
    Ruleset {
        judging: true,
        pods: BTreeMap::from([
            (
                link(CLIENT),
                pod(["2001:db8:1::10", "192.0.2.10"], judged(&[(Direction::Egress, Tier::Policy, OUT)])),
            ),
            (
                link(SERVER),
                pod(["2001:db8:1::11", "192.0.2.11"], judged(&[(Direction::Ingress, Tier::Policy, IN)])),
            ),
            (link(OPEN), pod(["2001:db8:1::12", "192.0.2.12"], Place::Open)),
        ]),
        chains: BTreeMap::from([(OUT, Arc::new(out)), (IN, Arc::new(into))]),
        peers: BTreeMap::from([
            (CLIENTS, members(&["2001:db8:1::10", "192.0.2.10", "2001:db8:1::12"])),
            (SERVERS, members(&["192.0.2.11"])),
        ]),
        ports: BTreeMap::from([(
            PORTS,
            Arc::from([PortRange { first: 80, last: 80 }, PortRange { first: 8000, last: 8999 }]),
        )]),
    }
}

fn between(from: &Ruleset, to: &Ruleset) -> Rendered {
    update(&Update::between(from, to, Stamp::FIRST))
}

fn script(rendered: Rendered) -> String {
    let Rendered::Script(text) = rendered else { panic!("{rendered:?}") };
    text
}

fn elements(rendered: Rendered) -> Vec<String> {
    let Rendered::Elements(changes) = rendered else { panic!("{rendered:?}") };
    let text = |ElementChange { verb, set, elements }: ElementChange| {
        let elements: Vec<String> = elements.iter().map(ToString::to_string).collect();
        format!("{verb:?} {set}: {}", elements.join(", "))
    };
    changes.into_iter().map(text).collect()
}

#[test]
fn whole_table() {
    insta::assert_snapshot!("table", table(&example(), Stamp::FIRST));
}

#[test]
fn without_policies_there_is_no_word_of_connections() {
    let mut rules = example();
    rules.judging = false;
    rules.chains.clear();
    rules.pods.values_mut().for_each(|pod| pod.place = Place::Open);
    let text = table(&rules, Stamp::FIRST);
    assert!(!text.contains("rule inet flock forward") && !text.contains(" ct "), "{text}");
    assert!(text.contains("iifname . ip6 saddr @src6 accept"), "{text}");
    insta::assert_snapshot!("first_policy", script(between(&rules, &example())));
    insta::assert_snapshot!("last_policy", script(between(&example(), &rules)));
}

#[test]
fn elements_of_sets_that_are_there_need_no_text() {
    let from = example();
    let mut to = example();
    to.pods.get_mut(&link(CLIENT)).unwrap().place = Place::Shut(Shut::Unknown);
    to.pods.get_mut(&link(OPEN)).unwrap().place = judged(&[(Direction::Egress, Tier::Policy, OUT)]);
    to.pods.remove(&link(SERVER));
    *to.peers.get_mut(&SERVERS).unwrap() = members(&["2001:db8:1::12"]);
    assert_eq!(
        elements(between(&from, &to)),
        [
            "Remove src6: \"flock1f3a770b\" . 2001:db8:1::11",
            "Remove src4: \"flock1f3a770b\" . 192.0.2.11",
            "Remove guarded: \"flock1f3a770b\"",
            "Remove self: \"flock1f3a770b\" . \"flock1f3a770b\"",
            "Remove out_np: \"flock1f3a770a\" : jump o_0000000000003f2a",
            "Remove in_np: \"flock1f3a770b\" : jump i_00000000000091c4",
            "Remove p4_000000000000cd34: 192.0.2.11",
            "Add guarded: \"flock1f3a770c\"",
            "Add shut: \"flock1f3a770a\"",
            "Add self: \"flock1f3a770c\" . \"flock1f3a770c\"",
            "Add out_np: \"flock1f3a770c\" : jump o_0000000000003f2a",
            "Add p6_000000000000cd34: 2001:db8:1::12",
        ]
    );
}

#[test]
fn what_the_kernel_does_not_hold_is_no_change() {
    let from = example();
    let mut to = example();
    let shut = |rules: &mut Ruleset, why| rules.pods.get_mut(&link(OPEN)).unwrap().place = Place::Shut(why);
    let mut from = from;
    shut(&mut from, Shut::Starting);
    shut(&mut to, Shut::Failed);
    assert_eq!(between(&from, &to), Rendered::Elements(Vec::new()));
    assert_eq!(update(&Update::default()), Rendered::Elements(Vec::new()));
}

#[test]
fn another_chain_is_written_before_the_old_one_goes() {
    let from = example();
    let mut to = example();
    let id = ChainId(0x1111);
    let chain = Chain { direction: Direction::Egress, rules: Vec::new(), end: End::Refuse };
    to.chains = BTreeMap::from([(IN, Arc::clone(&from.chains[&IN])), (id, Arc::new(chain))]);
    to.pods.get_mut(&link(CLIENT)).unwrap().place = judged(&[(Direction::Egress, Tier::Policy, id)]);
    to.peers.remove(&SERVERS);
    let text = script(between(&from, &to));
    let expected = "\
add chain inet flock o_0000000000001111
add rule inet flock o_0000000000001111 goto drop_refused
delete element inet flock out_np { \"flock1f3a770a\" : jump o_0000000000003f2a }
delete chain inet flock o_0000000000003f2a
delete set inet flock p6_000000000000cd34
delete set inet flock p4_000000000000cd34
add element inet flock out_np { \"flock1f3a770a\" : jump o_0000000000001111 }
";
    assert_eq!(text, expected);
}

#[test]
fn raised_stamp_is_written_into_the_rules_that_hold_it() {
    let stamp = Stamp::LAST;
    let text = script(update(&Update { judging: Some(Judging::On(stamp)), ..Update::default() }));
    for expected in [
        "flush chain inet flock forward\n",
        "add rule inet flock forward ct mark & 0x3fff0000 == 0x3fff0000 accept\n",
        "add rule inet flock admit ct mark set ct mark & 0x0000ffff | 0x3fff0000 accept\n",
        "flush set inet flock stamp\nadd element inet flock stamp { 0x3fff0000 }\n",
    ] {
        assert!(text.contains(expected), "{expected}{text}");
    }
    assert!(!text.contains("flush chain inet flock tier"), "they hold none: {text}");
}

#[test]
fn tiers_are_asked_in_their_order() {
    let mut to = example();
    let id = ChainId(7);
    let any = |action| Rule { peer: Peer::Any, ports: None, action };
    let chain = Chain {
        direction: Direction::Egress,
        rules: vec![any(Action::Pass), any(Action::Deny), any(Action::Accept)],
        end: End::NextTier,
    };
    to.chains.insert(id, Arc::new(chain));
    to.pods.get_mut(&link(CLIENT)).unwrap().place = judged(&[
        (Direction::Egress, Tier::Admin, id),
        (Direction::Egress, Tier::Policy, OUT),
        (Direction::Egress, Tier::Baseline, id),
    ]);
    let whole = table(&to, Stamp::FIRST);
    for text in [script(between(&example(), &to)), whole] {
        for expected in [
            "add map inet flock in_base { type ifname : verdict; }",
            "add rule inet flock tier_admin ct direction original iifname vmap @out_admin",
            "add rule inet flock tier_base ct direction reply ct mark & 0x80000000 == 0 iifname vmap @in_base",
            "add rule inet flock o_0000000000000007 return",
            "add rule inet flock o_0000000000000007 goto drop_refused",
            "add rule inet flock o_0000000000000007 ct mark set ct mark | 0x40000000 return",
            "add element inet flock out_admin { \"flock1f3a770a\" : jump o_0000000000000007 }",
        ] {
            assert!(text.contains(&format!("{expected}\n")), "{expected}\n{text}");
        }
        assert!(!text.contains("element inet flock out_base"), "NetworkPolicy is final: {text}");
    }
}

#[test]
fn guard_is_the_sources_and_what_shuts() {
    let shut = |shut| {
        let sources = ["2001:db8::1", "192.0.2.1"].map(|text| text.parse().unwrap()).into();
        let elements = guard(&Guard { link: link("flock00000001"), sources, shut }).into_iter();
        elements.map(|(set, element)| format!("{set} {element}")).collect::<Vec<_>>()
    };
    let sources = ["src6 \"flock00000001\" . 2001:db8::1", "src4 \"flock00000001\" . 192.0.2.1"];
    assert_eq!(shut(false), sources);
    let more =
        ["guarded \"flock00000001\"", "self \"flock00000001\" . \"flock00000001\"", "shut \"flock00000001\""];
    assert_eq!(shut(true), [sources.as_slice(), &more].concat());
}

#[test]
fn link_that_is_not_flocks_has_no_elements() {
    for name in ["eth0", "flock*", "flock\"; drop"] {
        let Ok(link) = IfName::parse(name) else { continue };
        let guarded = Guard { link, sources: vec!["2001:db8::1".parse().unwrap()], shut: true };
        assert_eq!(guard(&guarded), [], "{name}");
    }
}

#[test]
fn keys_are_as_the_kernel_has_them() {
    let name = [b"flock00000001".as_slice(), &[0; 3]].concat();
    let link = link("flock00000001");
    let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let cases = [
        (Key::Link(link.clone()), name.clone()),
        (Key::Itself(link.clone()), [name.clone(), name.clone()].concat()),
        (Key::Source(link.clone(), "2001:db8::1".parse().unwrap()), [name.as_slice(), &address].concat()),
        (Key::Source(link, "192.0.2.1".parse().unwrap()), [name.as_slice(), &[192, 0, 2, 1]].concat()),
        (Key::Address("192.0.2.1".parse().unwrap()), vec![192, 0, 2, 1]),
    ];
    for (key, bytes) in cases {
        assert_eq!(key.bytes(), bytes, "{key}");
    }
}

#[test]
fn observation_counts_rules_and_elements() {
    let observed = example().as_observed(Some(Stamp::FIRST));
    assert_eq!(observed.stamp, Some(Stamp::FIRST));
    let chains: Vec<(&str, u32)> =
        observed.chains.iter().map(|(name, rules)| (name.as_str(), *rules)).collect();
    assert_eq!(
        chains,
        [
            ("admit", 1),
            ("drop_forbidden", 2),
            ("drop_refused", 2),
            ("drop_shut", 2),
            ("drop_spoofed", 2),
            ("drop_stray", 2),
            ("early", 1),
            ("forward", 15),
            ("from_pod", 4),
            ("i_00000000000091c4", 4),
            ("local", 4),
            ("o_0000000000003f2a", 4),
            ("stray", 2),
            ("tier_admin", 0),
            ("tier_base", 0),
        ]
    );
    let mut one = Digest::default();
    one.add(&[192, 0, 2, 11], b"");
    assert_eq!(observed.sets["p4_000000000000cd34"], one);
    assert_eq!(observed.sets["p6_000000000000cd34"], Digest::default());
    let mut jump = Digest::default();
    jump.add(&Key::Link(link(SERVER)).bytes(), b"i_00000000000091c4");
    assert_eq!(observed.sets["in_np"], jump);
    assert!(!observed.sets.contains_key("stamp") && !observed.sets.keys().any(|set| set.starts_with("t_")));
}
