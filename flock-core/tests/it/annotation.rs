//! Pod annotations: what is accepted, and the exact words of every refusal.

use std::collections::BTreeMap;

use flock_core::annotation::{PREFIX, PodIntent};
use proptest::prelude::*;

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn families_are_read_in_any_case_with_spaces_around() {
    type Case<'a> = (&'a [(&'a str, &'a str)], (Option<bool>, Option<bool>));
    let table: [Case<'_>; 9] = [
        (&[], (None, None)),
        (&[("flock.fritzlab.net/ipv6", "true")], (Some(true), None)),
        (&[("flock.fritzlab.net/ipv4", "false")], (None, Some(false))),
        (
            &[("flock.fritzlab.net/ipv6", "TRUE"), ("flock.fritzlab.net/ipv4", "False")],
            (Some(true), Some(false)),
        ),
        (&[("flock.fritzlab.net/ipv6", "  true ")], (Some(true), None)),
        (&[("flock.fritzlab.net/ipv6", "\tfalse\n")], (Some(false), None)),
        // Somebody else's.
        (&[("example.com/ipv6", "maybe"), ("ipv6", "maybe")], (None, None)),
        (&[("flock.fritzlab.network/ipv6", "maybe")], (None, None)),
        (&[("my.flock.fritzlab.net/ipv6", "maybe"), ("flock.fritzlab.net", "maybe")], (None, None)),
    ];
    for (pairs, (ipv6, ipv4)) in table {
        assert_eq!(
            PodIntent::parse(&annotations(pairs)),
            Ok(PodIntent { ipv6, ipv4, ..PodIntent::default() }),
            "{pairs:?}"
        );
    }
}

#[test]
fn refusals_say_key_value_reason_and_fix() {
    let table = [
        ("ipv4", "no", r#""no" is neither true nor false: write "false""#),
        ("ipv4", "0", r#""0" is neither true nor false: write "false""#),
        ("ipv4", "Off", r#""Off" is neither true nor false: write "false""#),
        ("ipv6", "yes", r#""yes" is neither true nor false: write "true""#),
        ("ipv6", "1", r#""1" is neither true nor false: write "true""#),
        ("ipv6", "", r#""" is neither true nor false: write "true" or "false""#),
        ("ipv6", "t", r#""t" is neither true nor false: write "true" or "false""#),
        ("ipv6", "truefalse", r#""truefalse" is neither true nor false: write "true" or "false""#),
        ("ipv6", "tr ue", r#""tr ue" is neither true nor false: write "true" or "false""#),
        ("anycats", "::", r#""::" is not an annotation of flock: use flock.fritzlab.net/anycast"#),
        ("address", "::", r#""::" is not an annotation of flock: use flock.fritzlab.net/addresses"#),
        ("ip_algo", "pod", r#""pod" is not an annotation of flock: use flock.fritzlab.net/ip-algo"#),
        ("ivp4", "true", r#""true" is not an annotation of flock: use flock.fritzlab.net/ipv4"#),
        ("IPv6", "true", r#""true" is not an annotation of flock: use flock.fritzlab.net/ipv6"#),
        (
            "ipv",
            "true",
            r#""true" is not an annotation of flock: use flock.fritzlab.net/ipv6 or flock.fritzlab.net/ipv4"#,
        ),
        (
            "cidr",
            "x",
            r#""x" is not an annotation of flock: use flock.fritzlab.net/cidr6 or flock.fritzlab.net/cidr4"#,
        ),
        (
            "",
            "x",
            r#""x" is not an annotation of flock: remove it, or use one of ipv6, ipv4, cidr6, cidr4, ip-algo, anycast, addresses"#,
        ),
        (
            "ip",
            "x",
            r#""x" is not an annotation of flock: remove it, or use one of ipv6, ipv4, cidr6, cidr4, ip-algo, anycast, addresses"#,
        ),
        (
            "bandwidth",
            "x",
            r#""x" is not an annotation of flock: remove it, or use one of ipv6, ipv4, cidr6, cidr4, ip-algo, anycast, addresses"#,
        ),
        ("ipv6/", "true", r#""true" is not an annotation of flock: use flock.fritzlab.net/ipv6"#),
    ];
    for (name, value, expected) in table {
        let key = format!("{PREFIX}/{name}");
        let refused = PodIntent::parse(&annotations(&[(&key, value)])).unwrap_err();
        assert_eq!(refused.to_string(), format!("{key} {expected}"));
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let pairs = [
        ("flock.fritzlab.net/ipv4", "nope"),
        ("flock.fritzlab.net/ipv6", "true"),
        ("flock.fritzlab.net/anycast", "192.0.2.1/24"),
        ("flock.fritzlab.net/colour", "blue"),
    ];
    let refused = PodIntent::parse(&annotations(&pairs)).unwrap_err();
    let fields: Vec<_> = refused.problems().iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        ["flock.fritzlab.net/anycast", "flock.fritzlab.net/colour", "flock.fritzlab.net/ipv4"]
    );
    assert_eq!(refused.to_string().matches("; ").count(), 2);
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic_or_the_message_long(name in ".{0,200}", value in ".{0,200}") {
        let key = format!("{PREFIX}/{name}");
        let parsed = PodIntent::parse(&annotations(&[(&key, &value)]));
        if let Err(refused) = parsed {
            // Escapes make a character up to ten long.
            prop_assert!(refused.to_string().chars().count() < 1200);
        }
    }
}
