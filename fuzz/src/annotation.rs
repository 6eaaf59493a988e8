//! Annotations of a pod: [`PodIntent::parse`], then what such a pod gets on some nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::LazyLock;

use flock_core::annotation::{AnnotationError, PREFIX, PodIntent, is_ours};
use flock_core::config::{BgpSpec, ClaimSpec, NodeConfig, NodeConfigSpec};
use flock_core::ids::PodKey;
use flock_core::pod_plan::PodFacts;
use flock_core::problem::Problem;

use crate::pod_plan;

/// The keys that have a meaning, without their prefix.
const KEYS: [&str; 7] = ["ipv6", "ipv4", "cidr6", "cidr4", "ip-algo", "anycast", "addresses"];

/// What one problem may come to, in bytes: its message is for a person.
const LONGEST_PROBLEM: usize = 4096;

/// How the one reason starts that two keys have together.
const ALSO: &str = "is also in ";

/// Nodes that the pods meet: with much room, with little and a claim, with one family.
static NODES: LazyLock<[NodeConfig; 3]> = LazyLock::new(|| {
    let node = |pools: [&[&str]; 2], claims: &[&str]| {
        let [cidr6, cidr4] = pools.map(|pools| pools.iter().map(ToString::to_string).collect());
        let claim = |cidr: &&str| ClaimSpec { cidrs: vec![(*cidr).to_owned()], ..ClaimSpec::default() };
        let bgp = BgpSpec { asn: 65101, ..BgpSpec::default() };
        let claims = claims.iter().map(claim).collect();
        NodeConfig::validate(&NodeConfigSpec { cidr6, cidr4, bgp, claims, ..NodeConfigSpec::default() })
            .unwrap()
    };
    [
        node([&["2001:db8:f001::/64", "2001:db8:f002::/48"], &["192.0.2.0/24", "198.51.100.0/26"]], &[]),
        node([&["2001:db8:f001::/124"], &["192.0.2.0/30"]], &["2001:db8:a::/64", "192.0.0.0/8"]),
        node([&["2001:db8:f001::/120"], &[]], &[]),
    ]
});

/// Takes the text once as lines `KEY=VALUE`, where a key without `/` gets flock's prefix, and once per known key
/// as its value.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let full = |key: &str| if key.contains('/') { key.to_owned() } else { format!("{PREFIX}/{key}") };
    let lines = text.split('\n').filter_map(|line| line.split_once('='));
    check(&lines.map(|(key, value)| (full(key), value.to_owned())).collect());
    for key in KEYS {
        check(&BTreeMap::from([(full(key), text.clone().into_owned())]));
    }
}

/// Reads annotations and holds the outcome against its promises.
pub(crate) fn check(annotations: &BTreeMap<String, String>) {
    match PodIntent::parse(annotations) {
        Ok(intent) => check_intent(&intent),
        Err(error) => {
            assert!(!error.problems().is_empty());
            let values = values(annotations);
            error.problems().iter().for_each(|problem| check_problem(&values, problem));
            // Every problem is told at once: without the keys it names, nothing stands against the rest.
            let named: BTreeSet<_> = error.problems().iter().map(|problem| problem.field.as_str()).collect();
            let (bad, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
                annotations.clone().into_iter().partition(|(key, _)| named.contains(shown(key).as_str()));
            assert!(PodIntent::parse(&rest).is_ok(), "{rest:?} without {named:?}");
            // And no key is named for what another one holds.
            for (key, value) in bad.iter().filter(|_| !is_shared(&error)) {
                assert!(alone(key, value).is_err(), "{key}={value} is named in {error}");
            }
        }
    }
}

/// A problem names a key, its value or an entry of it, a reason, and a way out that is one.
fn check_problem(values: &BTreeMap<String, BTreeSet<String>>, problem: &Problem) {
    let text = problem.to_string();
    assert!(text.len() <= LONGEST_PROBLEM, "{} bytes: {text}", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(is_ours(&problem.field), "{text}");
    assert!(!problem.reason.is_empty() && !problem.fix.is_empty(), "{text}");
    let given = values.get(&problem.field).expect("a key that is there");
    // An address that is also elsewhere is told as it is printed.
    assert!(given.contains(&problem.value) || problem.reason.starts_with(ALSO), "{text}");
    if let Some(advice) = problem.fix.strip_prefix("write ")
        && !advice.contains(' ')
        && let Err(again) = alone(&problem.field, advice.trim_matches('"'))
    {
        assert!(again.problems().iter().all(|it| it.reason != problem.reason), "{text}, and then: {again}");
    }
}

fn is_shared(error: &AnnotationError) -> bool {
    error.problems().iter().any(|problem| problem.reason.starts_with(ALSO))
}

/// By key, as problems show it, the value and its entries, as problems show them. Long keys may look the same.
fn values(annotations: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut values: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (key, value) in annotations {
        let parts = std::iter::once(value.as_str()).chain(value.split(',').map(str::trim));
        values.entry(shown(key)).or_default().extend(parts.map(Problem::quote));
    }
    values
}

/// One annotation without the others.
fn alone(key: &str, value: &str) -> Result<PodIntent, AnnotationError> {
    PodIntent::parse(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
}

/// A key as a problem shows it.
fn shown(key: &str) -> String {
    key.chars().take(120).flat_map(char::escape_debug).collect()
}

fn check_intent(intent: &PodIntent) {
    assert!(intent.cidr6.iter().all(|net| *net == net.trunc()), "{intent:?}");
    assert!(intent.cidr4.iter().all(|net| *net == net.trunc()), "{intent:?}");
    assert_distinct(&intent.cidr6);
    assert_distinct(&intent.cidr4);
    assert_distinct(&intent.ip_algo);
    assert_distinct(&intent.addresses);
    assert_distinct(&intent.anycast);
    for address in intent.addresses.iter().chain(&intent.anycast) {
        assert!(!address.is_unspecified() && !address.is_loopback() && !address.is_multicast(), "{address}");
        let odd = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        };
        assert!(!odd, "{address}");
    }
    assert!(!intent.anycast.iter().any(|address| intent.addresses.contains(address)), "{intent:?}");
    assert_eq!(PodIntent::parse(&print(intent)).as_ref(), Ok(intent), "printed and read again");
    let key = PodKey::new("shop", "web-0").unwrap();
    let facts = PodFacts { key: Some(&key), image: Some("img:1"), namespace_labels: None };
    for config in NODES.iter() {
        pod_plan::check(intent, facts, config, &BTreeMap::new());
    }
}

fn assert_distinct<T: Ord + std::fmt::Debug>(items: &[T]) {
    assert_eq!(items.iter().collect::<BTreeSet<_>>().len(), items.len(), "{items:?}");
}

/// The annotations that mean `intent`.
fn print(intent: &PodIntent) -> BTreeMap<String, String> {
    fn list(items: &[impl Display]) -> Option<String> {
        let texts: Vec<_> = items.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| texts.join(","))
    }
    let values = [
        intent.ipv6.map(|wanted| wanted.to_string()),
        intent.ipv4.map(|wanted| wanted.to_string()),
        list(&intent.cidr6),
        list(&intent.cidr4),
        list(&intent.ip_algo),
        list(&intent.anycast),
        list(&intent.addresses),
    ];
    let given = KEYS.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?)));
    given.map(|(key, value)| (format!("{PREFIX}/{key}"), value)).collect()
}
