//! Who may take which address (interfaces.md, section 8): what is granted, and the exact words where it is not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use flock_core::annotation::PodIntent;
use flock_core::claims::{Asker, Claim, Kind, Surroundings, grant};
use flock_core::config::{NodeConfig, NodeConfigSpec, Peer};
use flock_core::ids::{NodeName, PodKey};
use flock_core::pod_plan::{PodFacts, pod_plan};
use flock_core::ports::{ClusterView, Retry};
use ipnet::IpNet;
use serde_json::{Value, json};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(claims: &Value) -> NodeConfig {
    let spec = json!({
        "cidr6": ["2001:db8:f001::/64"],
        "cidr4": ["192.0.2.0/24"],
        "bgp": { "asn": 65101, "peers": [{ "address": "2001:db8:ffff::1", "asn": 65000 }] },
        "claims": claims,
    });
    NodeConfig::validate(&serde_json::from_value::<NodeConfigSpec>(spec).unwrap()).unwrap()
}

fn claims(claims: &Value) -> Vec<Claim> {
    node(claims).claims
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Resolvers share an anycast range, the web team has addresses of its own, and one range is for everybody
/// but the guests.
fn example() -> Vec<Claim> {
    claims(&json!([
        {
            "cidrs": ["2001:db8:a::/64", "198.51.100.0/26"],
            "kinds": ["anycast"],
            "namespaceSelector": { "matchLabels": { "team": "dns" } },
        },
        {
            "cidrs": ["2001:db8:b::/64", "2001:db8:a::/80"],
            "kinds": ["addresses"],
            "namespaceSelector": { "matchExpressions": [
                { "key": "team", "operator": "In", "values": ["web", "dns"] },
                { "key": "guest", "operator": "DoesNotExist" },
            ] },
        },
        {
            "cidrs": ["203.0.113.0/24"],
            "namespaceSelector": { "matchExpressions": [
                { "key": "team", "operator": "NotIn", "values": ["guests"] },
            ] },
        },
        { "cidrs": ["2001:db8:c::53/128"], "kinds": ["anycast", "addresses"] },
    ]))
}

#[test]
fn an_entry_grants_what_it_covers_for_its_kinds_to_its_namespaces() {
    use Kind::{Addresses, Anycast};
    let (dns, web) = (labels(&[("team", "dns")]), labels(&[("team", "web"), ("tier", "front")]));
    let (guests, none) = (labels(&[("team", "guests")]), labels(&[]));
    let web_guest = labels(&[("team", "web"), ("guest", "")]);
    let table = [
        (Some(&dns), Anycast, "2001:db8:a::53", true),
        (Some(&dns), Anycast, "2001:db8:a:0:ffff:ffff:ffff:ffff", true),
        (Some(&dns), Anycast, "2001:db8:a:1::", false),
        (Some(&dns), Anycast, "198.51.100.63", true),
        (Some(&dns), Anycast, "198.51.100.64", false),
        (Some(&dns), Addresses, "198.51.100.1", false),
        // The second entry grants a part of what the first covers, for another kind.
        (Some(&dns), Addresses, "2001:db8:a::53", true),
        (Some(&dns), Addresses, "2001:db8:a:0:1::53", false),
        (Some(&dns), Addresses, "2001:db8:b::1", true),
        (Some(&web), Addresses, "2001:db8:b::1", true),
        (Some(&web), Anycast, "2001:db8:b::1", false),
        (Some(&web), Anycast, "2001:db8:a::53", false),
        (Some(&web_guest), Addresses, "2001:db8:b::1", false),
        // "Not in" holds where there is no such label.
        (Some(&none), Anycast, "203.0.113.1", true),
        (Some(&web), Addresses, "203.0.113.1", true),
        (Some(&guests), Addresses, "203.0.113.1", false),
        // An entry for all asks nobody's labels.
        (Some(&guests), Anycast, "2001:db8:c::53", true),
        (None, Addresses, "2001:db8:c::53", true),
        (None, Anycast, "203.0.113.1", false),
        (None, Anycast, "2001:db8:a::53", false),
        (None, Anycast, "192.0.2.99", false),
        // In a pool of this node nothing is different.
        (Some(&dns), Addresses, "2001:db8:f001::77", false),
    ];
    let entries = example();
    for (labels, kind, address, granted) in table {
        let asker = Asker { namespace: "shop", labels };
        let answer = grant(&entries, &Surroundings::default(), &asker, kind, ip(address));
        assert_eq!(answer.is_ok(), granted, "{labels:?} {kind} {address}: {answer:?}");
    }
}

#[test]
fn the_closest_entry_says_what_is_missing() {
    use Kind::{Addresses, Anycast};
    let (dns, web, none) = (labels(&[("team", "dns")]), labels(&[("team", "web")]), labels(&[]));
    let guests = labels(&[("team", "guests")]);
    let second = "is for namespaces with team in (web,dns),!guest";
    let covers1 = "covers 2001:db8:a::/64, 198.51.100.0/26";
    let covers2 = "covers 2001:db8:b::/64, 2001:db8:a::/80";
    let unknown = ", and the labels of this one are not known yet";
    let table = [
        // Right address and kind, other namespace: closer than another kind or another address.
        (Some(&web), Anycast, "2001:db8:a::53", 0, "is for namespaces with team=dns".to_owned()),
        (Some(&none), Addresses, "2001:db8:a::53", 1, second.to_owned()),
        (Some(&none), Addresses, "2001:db8:b::53", 1, second.to_owned()),
        (Some(&guests), Anycast, "203.0.113.1", 2, "is for namespaces with team!=guests".to_owned()),
        // Right address, other kind.
        (Some(&web), Anycast, "2001:db8:b::53", 1, "is for addresses only".to_owned()),
        (Some(&dns), Addresses, "198.51.100.1", 0, "is for anycast only".to_owned()),
        (None, Addresses, "2001:db8:a:0:1::", 0, "is for anycast only".to_owned()),
        // Other addresses: one for the asker, then the one that shares most bits.
        (Some(&dns), Anycast, "2001:db8:a:1::53", 0, covers1.to_owned()),
        (Some(&web), Addresses, "2001:db8:a:1::53", 1, covers2.to_owned()),
        (Some(&web), Addresses, "2001:db8:c::54", 3, "covers 2001:db8:c::53/128".to_owned()),
        (Some(&dns), Anycast, "198.51.100.64", 0, covers1.to_owned()),
        (Some(&web), Anycast, "203.0.112.1", 2, "covers 203.0.113.0/24".to_owned()),
        (Some(&guests), Anycast, "203.0.112.1", 3, "covers 2001:db8:c::53/128".to_owned()),
        (Some(&dns), Anycast, "192.0.2.53", 0, covers1.to_owned()),
        // While the labels are not known.
        (None, Anycast, "2001:db8:a::53", 0, format!("is for namespaces with team=dns{unknown}")),
        (None, Addresses, "2001:db8:b::53", 1, format!("{second}{unknown}")),
        (None, Addresses, "203.0.113.1", 2, format!("is for namespaces with team!=guests{unknown}")),
    ];
    let entries = example();
    for (labels, kind, address, index, why) in table {
        let asker = Asker { namespace: "shop", labels };
        let refused = grant(&entries, &Surroundings::default(), &asker, kind, ip(address)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "namespace shop may not take {address} as {kind}: the closest entry, spec.claims[{index}], {why}"
            )
        );
        // Labels will come; a claim will not.
        let expected = if why.ends_with(unknown) { Retry::Later } else { Retry::Never };
        assert_eq!((refused.retry(), refused.label()), (expected, "not_claimed"), "{refused}");
    }
    let nobody = Asker { namespace: "", labels: None };
    let refused = grant(&entries, &Surroundings::default(), &nobody, Anycast, ip("203.0.113.1")).unwrap_err();
    assert!(refused.to_string().starts_with("namespace - may not take 203.0.113.1 as anycast: "));
    assert_eq!(refused.retry(), Retry::Never); // nobody's labels never come
}

#[test]
fn the_first_of_equally_close_entries_is_named_and_a_long_one_is_cut() {
    let entry = json!({ "cidrs": ["2001:db8:a::/64"], "namespaceSelector": { "matchLabels": { "a": "b" } } });
    let web = labels(&[]);
    let asker = Asker { namespace: "web", labels: Some(&web) };
    let entries = claims(&json!([{ "cidrs": ["2001:db8:b::/64"] }, entry, entry]));
    let refused =
        grant(&entries, &Surroundings::default(), &asker, Kind::Anycast, ip("2001:db8:a::1")).unwrap_err();
    assert!(refused.to_string().ends_with("spec.claims[1], is for namespaces with a=b"), "{refused}");

    let cidrs: Vec<String> = (1..=100).map(|n| format!("2001:db8:{n}::/64")).collect();
    let entries = claims(&json!([{ "cidrs": cidrs }]));
    let refused =
        grant(&entries, &Surroundings::default(), &asker, Kind::Anycast, ip("2001:db8:a:1::")).unwrap_err();
    let shown = cidrs[..8].join(", ");
    assert!(refused.to_string().ends_with(&format!("covers {shown}, ...")), "{refused}");
}

/// The node, its peer, and the pools of two other nodes.
struct Around {
    node: Vec<IpAddr>,
    peers: Vec<Peer>,
    pools: BTreeMap<NodeName, Vec<IpNet>>,
}

impl Around {
    fn new() -> Self {
        let pools = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Self {
            node: vec![ip("2001:db8:ffff::10"), ip("203.0.113.10"), ip("192.0.2.10")],
            peers: vec![
                Peer { address: ip("2001:db8:ffff::1"), asn: 65000 },
                Peer { address: ip("203.0.113.1"), asn: 65000 },
            ],
            pools: BTreeMap::from([
                (NodeName::parse("node-b").unwrap(), pools(&["2001:db8:f002::/64", "198.51.100.0/25"])),
                (NodeName::parse("node-c").unwrap(), pools(&["198.51.100.128/25"])),
            ]),
        }
    }

    fn get(&self) -> Surroundings<'_> {
        Surroundings { node: &self.node, peers: &self.peers, foreign_pools: &self.pools }
    }
}

#[test]
fn what_is_somebody_elses_is_never_granted_whatever_the_claims_say() {
    let around = Around::new();
    let table = [
        ("2001:db8:ffff::10", "an address of this node"),
        ("203.0.113.10", "an address of this node"),
        ("192.0.2.10", "an address of this node"), // in a pool of this node too
        ("2001:db8:ffff::1", "the address of a BGP peer"),
        ("203.0.113.1", "the address of a BGP peer"),
        ("2001:db8:f002::", "in the pool 2001:db8:f002::/64 of node node-b"),
        ("2001:db8:f002::53", "in the pool 2001:db8:f002::/64 of node node-b"),
        ("198.51.100.127", "in the pool 198.51.100.0/25 of node node-b"),
        ("198.51.100.128", "in the pool 198.51.100.128/25 of node node-c"),
    ];
    let all = [claims(&json!([])), claims(&json!([{ "cidrs": ["::/0", "0.0.0.0/0"] }])), example()];
    let dns = labels(&[("team", "dns")]);
    for (address, whose) in table {
        for (entries, labels) in all.iter().zip([None, Some(&dns), Some(&dns)]) {
            for kind in Kind::ALL {
                let asker = Asker { namespace: "shop", labels };
                let refused = grant(entries, &around.get(), &asker, kind, ip(address)).unwrap_err();
                assert_eq!(
                    (refused.to_string(), refused.retry(), refused.label()),
                    (
                        format!("address {address} cannot be taken by {kind}: it is {whose}"),
                        Retry::Never,
                        "address_taken"
                    )
                );
            }
        }
    }
}

#[test]
fn without_claims_any_pod_may_take_any_address_that_is_nobodys() {
    let around = Around::new();
    let addresses = ["2001:db8:a::53", "203.0.113.2", "192.0.2.77", "2001:db8:f001::77", "2001:db8:f003::1"];
    for address in addresses {
        for kind in Kind::ALL {
            for namespace in ["shop", ""] {
                let asker = Asker { namespace, labels: None };
                assert_eq!(grant(&[], &around.get(), &asker, kind, ip(address)), Ok(()), "{address}");
            }
        }
    }
}

#[test]
fn a_mistake_in_the_configuration_of_another_node_takes_nothing_from_this_one() {
    let mut view = ClusterView::default();
    let spec = json!({
        "cidr6": ["::/0", "2001:db8:f002::/64", "nonsense", "2001:db8:f003::1/64"],
        "cidr4": ["0.0.0.0/0", "128.0.0.0/1", "198.51.100.0/25"],
        "bgp": { "asn": 65102 },
    });
    let node = NodeName::parse("node-b").unwrap();
    view.add_foreign_pools(node.clone(), &serde_json::from_value(spec).unwrap());
    // Host bits leave no doubt which network is meant.
    let pools = ["2001:db8:f002::/64", "2001:db8:f003::/64", "198.51.100.0/25"];
    assert_eq!(view.foreign_pools[&node], pools.map(|net| net.parse::<IpNet>().unwrap()));
}

fn intent(pairs: &[(&str, &str)]) -> PodIntent {
    let pairs = pairs.iter().map(|(key, value)| (format!("flock.fritzlab.net/{key}"), (*value).to_owned()));
    PodIntent::parse(&pairs.collect()).unwrap()
}

#[test]
fn a_pod_may_bring_addresses_of_its_nodes_pools_but_not_of_another_nodes() {
    let around = Around::new();
    let plan = |addresses: &str| {
        let intent = intent(&[("addresses", addresses)]);
        pod_plan(&intent, PodFacts::default(), &node(&json!([])), &around.get())
    };
    let own = "2001:db8:f001::77,192.0.2.77,203.0.113.77";
    assert_eq!(plan(own).unwrap().given, own.split(',').map(ip).collect::<Vec<_>>());
    let refused = plan("2001:db8:f001::77,2001:db8:f002::77").unwrap_err();
    assert_eq!(
        (refused.to_string().as_str(), refused.retry(), refused.label()),
        (
            "address 2001:db8:f002::77 cannot be taken by addresses: \
             it is in the pool 2001:db8:f002::/64 of node node-b",
            Retry::Never,
            "address_taken"
        )
    );
}

#[test]
fn a_pod_hears_of_every_refused_address_at_once() {
    let node = node(&json!([{
        "cidrs": ["203.0.113.0/24"],
        "kinds": ["addresses"],
        "namespaceSelector": { "matchLabels": { "team": "web" } },
    }]));
    let around = Around::new();
    let key = PodKey::new("shop", "web-0").unwrap();
    let web = labels(&[("team", "web")]);
    let known = PodFacts { key: Some(&key), image: None, namespace_labels: Some(&web) };
    let intent = intent(&[("addresses", "203.0.113.77,203.0.113.1,2001:db8:a::1,2001:db8:f002::1")]);
    let refused = pod_plan(&intent, known, &node, &around.get()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "address 203.0.113.1 cannot be taken by addresses: it is the address of a BGP peer; \
         namespace shop may not take 2001:db8:a::1 as addresses: \
         the closest entry, spec.claims[0], covers 203.0.113.0/24; \
         address 2001:db8:f002::1 cannot be taken by addresses: \
         it is in the pool 2001:db8:f002::/64 of node node-b"
    );
    assert_eq!((refused.refusals().len(), refused.retry()), (3, Retry::Never));
}

#[test]
fn a_pod_tries_again_when_only_the_labels_are_missing() {
    let node = node(&json!([{
        "cidrs": ["203.0.113.0/24"],
        "namespaceSelector": { "matchLabels": { "team": "web" } },
    }]));
    let key = PodKey::new("shop", "web-0").unwrap();
    let unknown = PodFacts { key: Some(&key), image: None, namespace_labels: None };
    let plan = |pairs: &[(&str, &str)], facts| {
        pod_plan(&intent(pairs), facts, &node, &Surroundings::default()).map_err(|error| error.retry())
    };
    assert_eq!(plan(&[("addresses", "203.0.113.7,203.0.113.8")], unknown), Err(Retry::Later));
    // Beside something that stays, trying again is of no use.
    assert_eq!(plan(&[("addresses", "203.0.113.7,2001:db8:a::1")], unknown), Err(Retry::Never));
    assert_eq!(plan(&[("addresses", "203.0.113.7"), ("ipv4", "false")], unknown), Err(Retry::Never));
    let (web, other) = (labels(&[("team", "web")]), labels(&[]));
    let facts = |labels| PodFacts { namespace_labels: Some(labels), ..unknown };
    assert!(plan(&[("addresses", "203.0.113.7")], facts(&web)).is_ok());
    assert_eq!(plan(&[("addresses", "203.0.113.7")], facts(&other)), Err(Retry::Never));
    // Who asks for nothing is asked for nothing.
    assert!(plan(&[], unknown).is_ok());
    assert!(plan(&[("cidr4", "192.0.2.77/32")], unknown).is_ok());
}
