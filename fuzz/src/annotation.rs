//! Annotations of a pod: [`PodIntent::parse`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use flock_core::annotation::{PREFIX, PodIntent};
use flock_core::iid::Field;

/// The keys that have a meaning, without their prefix.
const KEYS: [&str; 7] = ["ipv6", "ipv4", "cidr6", "cidr4", "ip-algo", "anycast", "addresses"];

/// What one problem may come to, in bytes: its message is for a person.
const LONGEST_PROBLEM: usize = 4096;

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
            for problem in error.problems() {
                let text = problem.to_string();
                assert!(text.len() <= LONGEST_PROBLEM, "{} bytes: {text}", text.len());
                assert!(problem.field.starts_with(PREFIX), "{text}");
            }
        }
    }
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
    let names = intent.ip_algo.iter().map(|field| match field {
        Field::Namespace => "namespace",
        Field::Pod => "pod",
        Field::Image => "image",
    });
    let values = [
        intent.ipv6.map(|wanted| wanted.to_string()),
        intent.ipv4.map(|wanted| wanted.to_string()),
        list(&intent.cidr6),
        list(&intent.cidr4),
        list(&names.collect::<Vec<_>>()),
        list(&intent.anycast),
        list(&intent.addresses),
    ];
    let given = KEYS.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?)));
    given.map(|(key, value)| (format!("{PREFIX}/{key}"), value)).collect()
}
