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
fn lists_are_read_in_order_with_spaces_around_the_entries() {
    let parse = |key: &str, value: &str| {
        let key = format!("{PREFIX}/{key}");
        PodIntent::parse(&annotations(&[(&key, value)])).unwrap()
    };
    let table: [(&str, &str, &[&str]); 20] = [
        ("addresses", "2001:db8::1", &["2001:db8::1"]),
        ("addresses", "192.0.2.1,2001:db8::1", &["192.0.2.1", "2001:db8::1"]),
        ("addresses", " 2001:db8::2 ,\t2001:db8::1\n", &["2001:db8::2", "2001:db8::1"]),
        ("addresses", "2001:DB8:0:0::A", &["2001:db8::a"]),
        ("addresses", "2001:db8::192.0.2.1", &["2001:db8::c000:201"]),
        ("addresses", "64:ff9b::192.0.2.1", &["64:ff9b::c000:201"]),
        ("addresses", "fd00::1,10.0.0.1,100.64.0.1", &["fd00::1", "10.0.0.1", "100.64.0.1"]),
        ("anycast", "203.0.113.255,203.0.113.0", &["203.0.113.255", "203.0.113.0"]),
        ("anycast", "\u{a0}2001:db8::53\u{2003}", &["2001:db8::53"]),
        ("anycast", "2001:db8:0000:0000:0000:0000:0000:0053", &["2001:db8::53"]),
        ("cidr6", "2001:db8::/64", &["2001:db8::/64"]),
        ("cidr6", "2001:DB8:f::/48, 2001:db8::7/128", &["2001:db8:f::/48", "2001:db8::7/128"]),
        ("cidr6", "::/0", &["::/0"]),
        ("cidr6", "2001:db8::/64,2001:db8::/65", &["2001:db8::/64", "2001:db8::/65"]),
        ("cidr4", "192.0.2.0/24", &["192.0.2.0/24"]),
        ("cidr4", "192.0.2.77/32,0.0.0.0/0", &["192.0.2.77/32", "0.0.0.0/0"]),
        ("ip-algo", "pod", &["pod"]),
        ("ip-algo", "image, namespace,pod", &["image", "namespace", "pod"]),
        ("ip-algo", "\tnamespace", &["namespace"]),
        ("ip-algo", "pod,image", &["pod", "image"]),
    ];
    for (key, value, expected) in table {
        let intent = parse(key, value);
        let texts = |all: &[&dyn ToString]| all.iter().map(|it| it.to_string()).collect::<Vec<_>>();
        let read: Vec<&dyn ToString> = match key {
            "addresses" => intent.addresses.iter().map(|it| it as _).collect(),
            "anycast" => intent.anycast.iter().map(|it| it as _).collect(),
            "cidr6" => intent.cidr6.iter().map(|it| it as _).collect(),
            "cidr4" => intent.cidr4.iter().map(|it| it as _).collect(),
            _ => intent.ip_algo.iter().map(|it| it as _).collect(),
        };
        assert_eq!(texts(&read), expected, "{key} {value:?}");
    }
}

/// For both `anycast` and `addresses`: the value, and what is said of which entry.
#[test]
fn refusals_of_addresses_say_the_entry_the_reason_and_the_fix() {
    let plain = "is not an IP address: write it as in 2001:db8:a::53 or 192.0.2.53";
    let unicast = "use a unicast address that a pod can have";
    let empty = "has an empty entry: remove the comma that is too many";
    let nothing = "is empty: name at least one, or remove the annotation";
    let twice = "is there twice: keep one of them";
    let special = |range: &str| format!("lies in the {range}: {unicast}");
    let table = [
        ("", "", nothing.to_owned()),
        (" \t", " \t", nothing.to_owned()),
        (",", ",", empty.to_owned()),
        (",,,,", ",,,,", empty.to_owned()),
        ("192.0.2.1,", "192.0.2.1,", empty.to_owned()),
        (",192.0.2.1", ",192.0.2.1", empty.to_owned()),
        ("192.0.2.1, ,192.0.2.2", "192.0.2.1, ,192.0.2.2", empty.to_owned()),
        ("web", "web", plain.to_owned()),
        ("true", "true", plain.to_owned()),
        ("192.0.2", "192.0.2", plain.to_owned()),
        ("192.0.2.256", "192.0.2.256", plain.to_owned()),
        ("192.0.02.1", "192.0.02.1", plain.to_owned()),
        ("0xc0.0.2.1", "0xc0.0.2.1", plain.to_owned()),
        ("3221225985", "3221225985", plain.to_owned()),
        ("2001:db8::1::2", "2001:db8::1::2", plain.to_owned()),
        ("2001:db8::12345", "2001:db8::12345", plain.to_owned()),
        ("2001:db8:g::1", "2001:db8:g::1", plain.to_owned()),
        ("192.0.2.1 192.0.2.2", "192.0.2.1 192.0.2.2", plain.to_owned()),
        ("192.0.2.1;192.0.2.2", "192.0.2.1;192.0.2.2", plain.to_owned()),
        ("\"192.0.2.1\"", "\"192.0.2.1\"", plain.to_owned()),
        ("192.0.2.\u{0661}", "192.0.2.\u{0661}", plain.to_owned()),
        ("192.0.2.1\u{200b}", "192.0.2.1\u{200b}", plain.to_owned()),
        ("192.0.2.1\0", "192.0.2.1\0", plain.to_owned()),
        ("[2001:db8::1", "[2001:db8::1", plain.to_owned()),
        ("[2001:db8::1]", "[2001:db8::1]", "is in brackets: write 2001:db8::1".to_owned()),
        ("[2001:db8::1]:53", "[2001:db8::1]:53", "has a port: write 2001:db8::1".to_owned()),
        ("192.0.2.1:53", "192.0.2.1:53", "has a port: write 192.0.2.1".to_owned()),
        ("192.0.2.1:99999", "192.0.2.1:99999", plain.to_owned()),
        ("192.0.2.1/32", "192.0.2.1/32", "has a prefix length: write 192.0.2.1".to_owned()),
        ("2001:db8::1/64", "2001:db8::1/64", "has a prefix length: write 2001:db8::1".to_owned()),
        ("2001:db8::1/", "2001:db8::1/", "has a prefix length: write 2001:db8::1".to_owned()),
        ("2001:db8::1%eth0", "2001:db8::1%eth0", "has a zone: write 2001:db8::1".to_owned()),
        ("fe80::1%eth0", "fe80::1%eth0", special("link-local range fe80::/10")),
        ("fe80::1", "fe80::1", special("link-local range fe80::/10")),
        ("::", "::", special("unspecified range ::/128")),
        ("::1", "::1", special("loopback range ::1/128")),
        ("ff02::1", "ff02::1", special("multicast range ff00::/8")),
        ("0.0.0.0", "0.0.0.0", special("unspecified range 0.0.0.0/8")),
        ("127.0.0.53", "127.0.0.53", special("loopback range 127.0.0.0/8")),
        ("169.254.1.1", "169.254.1.1", special("link-local range 169.254.0.0/16")),
        ("224.0.0.251", "224.0.0.251", special("multicast range 224.0.0.0/4")),
        ("255.255.255.255", "255.255.255.255", special("broadcast range 255.255.255.255/32")),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1", "is IPv4-mapped: write 192.0.2.1".to_owned()),
        ("::FFFF:c000:0201", "::FFFF:c000:0201", "is IPv4-mapped: write 192.0.2.1".to_owned()),
        ("192.0.2.1,192.0.2.1", "192.0.2.1", twice.to_owned()),
        ("2001:DB8::1, 2001:db8:0::1", "2001:db8:0::1", twice.to_owned()),
        ("2001:db8::1,2001:db8::0.0.0.1", "2001:db8::0.0.0.1", twice.to_owned()),
        ("192.0.2.1,192.0.2.2,192.0.2.1,192.0.2.1", "192.0.2.1", twice.to_owned()),
    ];
    for name in ["anycast", "addresses"] {
        let key = format!("{PREFIX}/{name}");
        for (value, entry, expected) in &table {
            let refused = PodIntent::parse(&annotations(&[(&key, value)])).unwrap_err();
            assert_eq!(refused.to_string(), format!("{key} {entry:?} {expected}"), "{value:?}");
        }
    }
}

#[test]
fn refusals_of_prefixes_and_fields_say_the_entry_the_reason_and_the_fix() {
    let shape6 = "is not a prefix: write ADDRESS/LENGTH, as in 2001:db8:f001::/64";
    let shape4 = "is not a prefix: write ADDRESS/LENGTH, as in 192.0.2.0/26";
    let no_field = "is nothing that can be embedded";
    let table = [
        ("cidr6", "", "", "is empty: name at least one, or remove the annotation".to_owned()),
        ("cidr6", "any", "any", shape6.to_owned()),
        (
            "cidr6",
            "2001:db8::/64/64",
            "2001:db8::/64/64",
            r#"has the prefix length "64/64": use a number from 0 to 128"#.to_owned(),
        ),
        ("cidr6", "2001:db8::1", "2001:db8::1", "has no prefix length: write 2001:db8::1/128".to_owned()),
        ("cidr6", "2001:db8::1/64", "2001:db8::1/64", "has host bits set: write 2001:db8::/64".to_owned()),
        (
            "cidr6",
            "2001:db8::/129",
            "2001:db8::/129",
            r#"has the prefix length "129": use a number from 0 to 128"#.to_owned(),
        ),
        (
            "cidr6",
            "2001:db8::/ 64",
            "2001:db8::/ 64",
            r#"has the prefix length " 64": use a number from 0 to 128"#.to_owned(),
        ),
        ("cidr6", "2001:db8::/064", "2001:db8::/064", "has a leading zero: write 2001:db8::/64".to_owned()),
        (
            "cidr6",
            "192.0.2.0/24",
            "192.0.2.0/24",
            "is an IPv4 prefix: move it to flock.fritzlab.net/cidr4".to_owned(),
        ),
        ("cidr6", "fe80::%eth0/64", "fe80::%eth0/64", shape6.to_owned()),
        (
            "cidr6",
            "2001:db8::/64,2001:DB8:0::/64",
            "2001:DB8:0::/64",
            "is there twice: keep one of them".to_owned(),
        ),
        (
            "cidr6",
            "2001:db8::/64,",
            "2001:db8::/64,",
            "has an empty entry: remove the comma that is too many".to_owned(),
        ),
        ("cidr4", "192.0.2/24", "192.0.2/24", shape4.to_owned()),
        ("cidr4", "192.0.2.*", "192.0.2.*", shape4.to_owned()),
        ("cidr4", "192.0.2.77", "192.0.2.77", "has no prefix length: write 192.0.2.77/32".to_owned()),
        ("cidr4", "192.0.2.77/24", "192.0.2.77/24", "has host bits set: write 192.0.2.0/24".to_owned()),
        (
            "cidr4",
            "192.0.2.0/33",
            "192.0.2.0/33",
            r#"has the prefix length "33": use a number from 0 to 32"#.to_owned(),
        ),
        (
            "cidr4",
            "192.0.2.0/255.255.255.0",
            "192.0.2.0/255.255.255.0",
            r#"has the prefix length "255.255.255.0": use a number from 0 to 32"#.to_owned(),
        ),
        (
            "cidr4",
            "192.0.2.0/+24",
            "192.0.2.0/+24",
            r#"has the prefix length "+24": use a number from 0 to 32"#.to_owned(),
        ),
        ("cidr4", "010.0.0.0/8", "010.0.0.0/8", "has a leading zero: write 10.0.0.0/8".to_owned()),
        (
            "cidr4",
            "2001:db8::/64",
            "2001:db8::/64",
            "is an IPv6 prefix: move it to flock.fritzlab.net/cidr6".to_owned(),
        ),
        ("ip-algo", " ", " ", "is empty: name at least one, or remove the annotation".to_owned()),
        ("ip-algo", "Pod", "Pod", format!("{no_field}: write \"pod\"")),
        ("ip-algo", "NAMESPACE", "NAMESPACE", format!("{no_field}: write \"namespace\"")),
        ("ip-algo", "node", "node", format!("{no_field}: use namespace, pod, image")),
        ("ip-algo", "pod image", "pod image", format!("{no_field}: use namespace, pod, image")),
        ("ip-algo", "pod,image,pod", "pod", "is there twice: keep one of them".to_owned()),
        (
            "ip-algo",
            "pod,,image",
            "pod,,image",
            "has an empty entry: remove the comma that is too many".to_owned(),
        ),
    ];
    for (name, value, entry, expected) in table {
        let key = format!("{PREFIX}/{name}");
        let refused = PodIntent::parse(&annotations(&[(&key, value)])).unwrap_err();
        assert_eq!(refused.to_string(), format!("{key} {entry:?} {expected}"), "{value:?}");
    }
}

#[test]
fn a_key_that_only_looks_like_ours_is_not_passed_over_in_silence() {
    let table = [
        ("flock.fritzlab.net/IPV6", "use flock.fritzlab.net/ipv6"),
        ("flock.fritzlab.net/ ipv6", "use flock.fritzlab.net/ipv6"),
        ("flock.fritzlab.net//ipv6", "use flock.fritzlab.net/ipv6"),
        ("Flock.Fritzlab.net/ipv6", "use flock.fritzlab.net/ipv6"),
        ("FLOCK.FRITZLAB.NET/ANYCAST", "use flock.fritzlab.net/anycast"),
    ];
    for (key, fix) in table {
        let refused = PodIntent::parse(&annotations(&[(key, "true")])).unwrap_err();
        assert_eq!(refused.to_string(), format!("{key} \"true\" is not an annotation of flock: {fix}"));
    }
    // Other names, other owners.
    for key in ["flock.fritzlab.net", "flock.fritzlab.net.example/ipv6", "flock/ipv6", "/ipv6", "", "/"] {
        assert_eq!(PodIntent::parse(&annotations(&[(key, "?")])), Ok(PodIntent::default()), "{key}");
    }
}

#[test]
fn an_address_is_shared_or_the_pods_own_but_not_both() {
    let pairs = [
        ("flock.fritzlab.net/anycast", "192.0.2.1, 2001:db8::1, 2001:db8::2"),
        ("flock.fritzlab.net/addresses", "2001:DB8:0::1,192.0.2.1,192.0.2.9"),
    ];
    let both = |address: &str| {
        format!(
            "flock.fritzlab.net/anycast \"{address}\" is also in flock.fritzlab.net/addresses: \
             keep it where it belongs: shared by several pods, or this pod's own"
        )
    };
    let refused = PodIntent::parse(&annotations(&pairs)).unwrap_err();
    assert_eq!(refused.to_string(), format!("{}; {}", both("192.0.2.1"), both("2001:db8::1")));
    // In the order of the keys, whatever is wrong beside it.
    let more = [pairs[0], pairs[1], ("flock.fritzlab.net/cidr4", "?"), ("flock.fritzlab.net/ipv4", "?")];
    let refused = PodIntent::parse(&annotations(&more)).unwrap_err();
    let fields: Vec<_> = refused.problems().iter().map(|problem| problem.field.as_str()).collect();
    let key = |name: &str| format!("{PREFIX}/{name}");
    assert_eq!(fields, [key("anycast"), key("anycast"), key("cidr4"), key("ipv4")]);
}

#[test]
fn a_list_has_an_end_and_so_has_what_is_said_of_it() {
    let list = |count: usize| (1..=count).map(|n| format!("2001:db8::{n:x}")).collect::<Vec<_>>().join(",");
    let parse = |value: &str| PodIntent::parse(&annotations(&[("flock.fritzlab.net/anycast", value)]));
    assert_eq!(parse(&list(64)).unwrap().anycast.len(), 64);
    let refused = parse(&list(65)).unwrap_err().to_string();
    let shown: String = list(65).chars().take(80).collect();
    assert_eq!(refused, format!("{PREFIX}/anycast \"{shown}\"... has 65 entries: use at most 64"));
    // As large as all annotations of a pod may be.
    let refused = parse(&",".repeat(256 * 1024)).unwrap_err().to_string();
    assert!(refused.ends_with("has 262145 entries: use at most 64") && refused.len() < 200, "{refused}");
    let wrong = vec!["\u{1f426}".repeat(500); 64].join(",");
    assert_eq!(parse(&wrong).unwrap_err().problems().len(), 1); // the same one
    let wrong: Vec<String> = (0..64).map(|n| format!("{n}{}", "x".repeat(3000))).collect();
    let refused = parse(&wrong.join(",")).unwrap_err();
    assert_eq!(refused.problems().len(), 64);
    assert!(refused.to_string().len() < 12_000);
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
