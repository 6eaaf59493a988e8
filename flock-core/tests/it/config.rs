//! Node configurations: what is accepted, and the exact words of every refusal.

use flock_core::config::{
    BgpSpec, ClaimSpec, Defaults, DefaultsSpec, NodeConfig, NodeConfigSpec, Peer, PeerSpec,
};

fn bgp() -> BgpSpec {
    let peer = PeerSpec { address: "2001:db8::1".to_owned(), asn: 65000 };
    BgpSpec { asn: 65101, router_id: None, peers: vec![peer] }
}

fn pools(cidr6: &[&str], cidr4: &[&str]) -> NodeConfigSpec {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    NodeConfigSpec { cidr6: texts(cidr6), cidr4: texts(cidr4), bgp: bgp(), ..NodeConfigSpec::default() }
}

fn without_peers(mut spec: NodeConfigSpec) -> NodeConfigSpec {
    spec.bgp.peers.clear();
    spec
}

fn refusal(spec: &NodeConfigSpec) -> String {
    NodeConfig::validate(spec).unwrap_err().to_string()
}

#[test]
fn a_good_configuration_is_taken_over_as_written() {
    let spec = NodeConfigSpec {
        cidr6: vec!["2001:db8:f001::/64".to_owned(), "2001:DB8:F002:0::/112".to_owned()],
        cidr4: vec!["192.0.2.0/24".to_owned(), "198.51.100.4/30".to_owned()],
        defaults: DefaultsSpec { ipv6: Some(true), ipv4: None },
        bgp: BgpSpec {
            asn: 4_294_967_294,
            router_id: Some("192.0.2.10".to_owned()),
            peers: vec![
                PeerSpec { address: "2001:db8::1".to_owned(), asn: 65000 },
                PeerSpec { address: "203.0.113.1".to_owned(), asn: 1 },
            ],
        },
        claims: vec![],
    };
    let config = NodeConfig::validate(&spec).unwrap();
    assert_eq!(config.cidr6, ["2001:db8:f001::/64", "2001:db8:f002::/112"].map(|net| net.parse().unwrap()));
    assert_eq!(config.cidr4, ["192.0.2.0/24", "198.51.100.4/30"].map(|net| net.parse().unwrap()));
    assert_eq!(config.defaults, Defaults { ipv6: Some(true), ipv4: None });
    assert_eq!((config.bgp.asn, config.bgp.router_id), (4_294_967_294, Some("192.0.2.10".parse().unwrap())));
    let peers = [("2001:db8::1", 65000), ("203.0.113.1", 1)];
    assert_eq!(config.bgp.peers, peers.map(|(address, asn)| Peer { address: address.parse().unwrap(), asn }));
}

#[test]
fn pools_and_peers_may_be_missing() {
    let spec =
        NodeConfigSpec { bgp: BgpSpec { asn: 65101, ..BgpSpec::default() }, ..NodeConfigSpec::default() };
    assert!(NodeConfig::validate(&spec).is_ok());
    // Whether a pod can have what the defaults say is known when there is a pod.
    let defaults = DefaultsSpec { ipv6: Some(true), ipv4: Some(false) };
    assert!(NodeConfig::validate(&NodeConfigSpec { defaults, ..spec }).is_ok());
}

#[test]
fn usable_pools_are_accepted() {
    let table6 = [
        "2001:db8::/64",
        "2001:db8::/32",
        "2001:db8::/127",
        "2001:db8::2/127",
        "fd00:1::/48",
        "64:ff9b:1::/48",
        "fec0::/64",
    ];
    let table4 =
        ["192.0.2.0/30", "10.0.0.0/8", "100.64.0.0/10", "240.0.0.0/24", "1.0.0.0/24", "223.255.255.0/24"];
    for net in table6 {
        assert!(NodeConfig::validate(&without_peers(pools(&[net], &[]))).is_ok(), "{net}");
    }
    for net in table4 {
        assert!(NodeConfig::validate(&pools(&[], &[net])).is_ok(), "{net}");
    }
}

#[test]
fn pool_refusals_say_field_value_reason_and_fix() {
    let table: [(&[&str], &[&str], &str); 39] = [
        (&[], &["192.0.2.7/24"], r#"spec.cidr4[0] "192.0.2.7/24" has host bits set: write 192.0.2.0/24"#),
        (
            &["2001:db8:f001::1/64"],
            &[],
            r#"spec.cidr6[0] "2001:db8:f001::1/64" has host bits set: write 2001:db8:f001::/64"#,
        ),
        (
            &[],
            &["192.0.2.0"],
            r#"spec.cidr4[0] "192.0.2.0" has no prefix length: add one, as in 192.0.2.0/24"#,
        ),
        (
            &["2001:db8::"],
            &[],
            r#"spec.cidr6[0] "2001:db8::" has no prefix length: add one, as in 2001:db8:f001::/64"#,
        ),
        (
            &[],
            &["192.0.2/24"],
            r#"spec.cidr4[0] "192.0.2/24" is not an IPv4 prefix: write ADDRESS/LENGTH, as in 192.0.2.0/24"#,
        ),
        (
            &[],
            &["192.0.2.0/33"],
            r#"spec.cidr4[0] "192.0.2.0/33" has the prefix length "33": use a number from 0 to 32"#,
        ),
        (&[], &["192.0.02.0/24"], r#"spec.cidr4[0] "192.0.02.0/24" has a leading zero: write 192.0.2.0/24"#),
        (&[], &["10.0.0.0/08"], r#"spec.cidr4[0] "10.0.0.0/08" has a leading zero: write 10.0.0.0/8"#),
        (
            &["2001:db8::/064"],
            &[],
            r#"spec.cidr6[0] "2001:db8::/064" has a leading zero: write 2001:db8::/64"#,
        ),
        (
            &["2001:db8::/+64"],
            &[],
            r#"spec.cidr6[0] "2001:db8::/+64" has the prefix length "+64": use a number from 0 to 128"#,
        ),
        (
            &["2001:db8::/"],
            &[],
            r#"spec.cidr6[0] "2001:db8::/" has the prefix length "": use a number from 0 to 128"#,
        ),
        (
            &[],
            &["192.0.2.0/24/24"],
            r#"spec.cidr4[0] "192.0.2.0/24/24" has the prefix length "24/24": use a number from 0 to 32"#,
        ),
        (
            &[],
            &["192.0.2.0/255.255.255.0"],
            r#"spec.cidr4[0] "192.0.2.0/255.255.255.0" has the prefix length "255.255.255.0": use a number from 0 to 32"#,
        ),
        (
            &["fd00::%eth0/64"],
            &[],
            r#"spec.cidr6[0] "fd00::%eth0/64" is not an IPv6 prefix: write ADDRESS/LENGTH, as in 2001:db8:f001::/64"#,
        ),
        (
            &["2001:db8:f001::/64,2001:db8:f002::/64"],
            &[],
            r#"spec.cidr6[0] "2001:db8:f001::/64,2001:db8:f002::/64" has the prefix length "64,2001:db8:f002::/64": use a number from 0 to 128"#,
        ),
        (
            &["2001:db8:f001::/64", "2001:DB8:F001:0::/64"],
            &[],
            r#"spec.cidr6[1] "2001:DB8:F001:0::/64" overlaps spec.cidr6[0] 2001:db8:f001::/64: keep one of them, or make them disjoint"#,
        ),
        (
            &["::ffff:0:0/95"],
            &[],
            r#"spec.cidr6[0] "::ffff:0:0/95" has host bits set: write ::fffe:0:0/95; spec.cidr6[0] "::ffff:0:0/95" overlaps the IPv4-mapped range ::ffff:0.0.0.0/96: write the IPv4 prefix in spec.cidr4"#,
        ),
        (
            &[],
            &["192.0.2.0/24", "192.0.2.64/26", "192.0.2.0/23"],
            r#"spec.cidr4[1] "192.0.2.64/26" overlaps spec.cidr4[0] 192.0.2.0/24: keep one of them, or make them disjoint; spec.cidr4[2] "192.0.2.0/23" overlaps spec.cidr4[0] 192.0.2.0/24: keep one of them, or make them disjoint; spec.cidr4[2] "192.0.2.0/23" overlaps spec.cidr4[1] 192.0.2.64/26: keep one of them, or make them disjoint"#,
        ),
        (&[], &[""], r#"spec.cidr4[0] "" is not an IPv4 prefix: write ADDRESS/LENGTH, as in 192.0.2.0/24"#),
        (
            &["2001:db8::/129"],
            &[],
            r#"spec.cidr6[0] "2001:db8::/129" has the prefix length "129": use a number from 0 to 128"#,
        ),
        (
            &[" 2001:db8::/64"],
            &[],
            r#"spec.cidr6[0] " 2001:db8::/64" is not an IPv6 prefix: write ADDRESS/LENGTH, as in 2001:db8:f001::/64"#,
        ),
        (&["192.0.2.0/24"], &[], r#"spec.cidr6[0] "192.0.2.0/24" is an IPv4 prefix: move it to spec.cidr4"#),
        (
            &[],
            &["2001:db8::/64"],
            r#"spec.cidr4[0] "2001:db8::/64" is an IPv6 prefix: move it to spec.cidr6"#,
        ),
        (
            &[],
            &["192.0.2.0/31"],
            r#"spec.cidr4[0] "192.0.2.0/31" has no address for a pod: use a /30 or larger"#,
        ),
        (
            &[],
            &["192.0.2.1/32"],
            r#"spec.cidr4[0] "192.0.2.1/32" has no address for a pod: use a /30 or larger"#,
        ),
        (
            &["2001:db8::1/128"],
            &[],
            r#"spec.cidr6[0] "2001:db8::1/128" has no address for a pod: use a /127 or larger"#,
        ),
        (
            &["2001:db8::fdff:ffff:ffff:ff80/121"],
            &[],
            r#"spec.cidr6[0] "2001:db8::fdff:ffff:ffff:ff80/121" has no address for a pod: use a /127 or larger"#,
        ),
        (
            &["::/0"],
            &[],
            r#"spec.cidr6[0] "::/0" overlaps the unspecified range ::/128: use unicast addresses that nobody else has"#,
        ),
        (
            &["::1/128"],
            &[],
            r#"spec.cidr6[0] "::1/128" overlaps the loopback range ::1/128: use unicast addresses that nobody else has"#,
        ),
        (
            &["fe80::/64"],
            &[],
            r#"spec.cidr6[0] "fe80::/64" overlaps the link-local range fe80::/10: use unicast addresses that nobody else has"#,
        ),
        (
            &["ff02::/64"],
            &[],
            r#"spec.cidr6[0] "ff02::/64" overlaps the multicast range ff00::/8: use unicast addresses that nobody else has"#,
        ),
        (
            &["::ffff:192.0.2.0/120"],
            &[],
            r#"spec.cidr6[0] "::ffff:192.0.2.0/120" overlaps the IPv4-mapped range ::ffff:0.0.0.0/96: write the IPv4 prefix in spec.cidr4"#,
        ),
        (
            &[],
            &["0.0.0.0/0"],
            r#"spec.cidr4[0] "0.0.0.0/0" overlaps the unspecified range 0.0.0.0/8: use unicast addresses that nobody else has"#,
        ),
        (
            &[],
            &["127.0.0.0/24"],
            r#"spec.cidr4[0] "127.0.0.0/24" overlaps the loopback range 127.0.0.0/8: use unicast addresses that nobody else has"#,
        ),
        (
            &[],
            &["169.254.1.0/24"],
            r#"spec.cidr4[0] "169.254.1.0/24" overlaps the link-local range 169.254.0.0/16: use unicast addresses that nobody else has"#,
        ),
        (
            &[],
            &["239.0.0.0/24"],
            r#"spec.cidr4[0] "239.0.0.0/24" overlaps the multicast range 224.0.0.0/4: use unicast addresses that nobody else has"#,
        ),
        (
            &[],
            &["255.255.255.0/24"],
            r#"spec.cidr4[0] "255.255.255.0/24" overlaps the broadcast range 255.255.255.255/32: use unicast addresses that nobody else has"#,
        ),
        (
            &[],
            &["192.0.2.0/24", "198.51.100.0/24", "192.0.2.128/25"],
            r#"spec.cidr4[2] "192.0.2.128/25" overlaps spec.cidr4[0] 192.0.2.0/24: keep one of them, or make them disjoint"#,
        ),
        (
            &["2001:db8:f001::/64", "2001:db8:f001::/48"],
            &[],
            r#"spec.cidr6[1] "2001:db8:f001::/48" overlaps spec.cidr6[0] 2001:db8:f001::/64: keep one of them, or make them disjoint"#,
        ),
    ];
    for (cidr6, cidr4, expected) in table {
        assert_eq!(refusal(&without_peers(pools(cidr6, cidr4))), expected);
    }
}

#[test]
fn asn_refusals_name_the_rule() {
    let fix = "use another number from 1 to 4294967294";
    let table = [
        (0, "is reserved (RFC 7607)"),
        (23456, "is AS_TRANS, a stand-in that no network has (RFC 6793)"),
        (65535, "is reserved (RFC 7300)"),
        (4_294_967_295, "is reserved (RFC 7300)"),
        (4_294_967_296, "does not fit in 32 bits"),
        (u64::MAX, "does not fit in 32 bits"),
    ];
    for (asn, reason) in table {
        let ours = NodeConfigSpec { bgp: BgpSpec { asn, ..bgp() }, ..NodeConfigSpec::default() };
        assert_eq!(refusal(&ours), format!("spec.bgp.asn {asn} {reason}: {fix}"));
        let peers = vec![PeerSpec { address: "192.0.2.1".to_owned(), asn }];
        let theirs = NodeConfigSpec { bgp: BgpSpec { peers, ..bgp() }, ..NodeConfigSpec::default() };
        assert_eq!(refusal(&theirs), format!("spec.bgp.peers[0].asn {asn} {reason}: {fix}"));
    }
}

#[test]
fn router_id_refusals_say_what_one_is() {
    let fix = "write an IPv4 address such as 192.0.2.10, or leave the field out";
    let table = [
        ("0.0.0.0", "is reserved (RFC 6286)"),
        ("2001:db8::1", "is not an IPv4 address"),
        ("3221225994", "is not an IPv4 address"),
        ("192.0.2.10/24", "is not an IPv4 address"),
        ("", "is not an IPv4 address"),
    ];
    for (text, reason) in table {
        let spec = NodeConfigSpec {
            bgp: BgpSpec { router_id: Some(text.to_owned()), ..bgp() },
            ..NodeConfigSpec::default()
        };
        assert_eq!(refusal(&spec), format!(r#"spec.bgp.routerID "{text}" {reason}: {fix}"#));
    }
}

#[test]
fn peer_refusals_say_what_an_address_must_be() {
    let unicast = "use a unicast address of the router";
    let link_local = "is link-local, and flock has no field yet to say behind which interface: \
                      use another address of the router";
    let not_an_address = "is not an IP address: write it without prefix length or port, as in 2001:db8::1";
    let pool6 =
        "lies in the pool spec.cidr6[0] 2001:db8:f001::/64: use an address outside every pool of this node";
    let pool4 = "lies in the pool spec.cidr4[0] 192.0.2.0/24: use an address outside every pool of this node";
    let table = [
        ("router.example", not_an_address.to_owned()),
        ("2001:db8::1/64", not_an_address.to_owned()),
        ("203.0.113.1:179", not_an_address.to_owned()),
        ("", not_an_address.to_owned()),
        ("::", format!("lies in the unspecified range ::/128: {unicast}")),
        ("0.0.0.0", format!("lies in the unspecified range 0.0.0.0/8: {unicast}")),
        ("::1", format!("lies in the loopback range ::1/128: {unicast}")),
        ("127.0.0.1", format!("lies in the loopback range 127.0.0.0/8: {unicast}")),
        ("ff02::5", format!("lies in the multicast range ff00::/8: {unicast}")),
        ("224.0.0.5", format!("lies in the multicast range 224.0.0.0/4: {unicast}")),
        ("255.255.255.255", format!("lies in the broadcast range 255.255.255.255/32: {unicast}")),
        ("::ffff:203.0.113.1", format!("lies in the IPv4-mapped range ::ffff:0.0.0.0/96: {unicast}")),
        ("fe80::1", link_local.to_owned()),
        ("fe80::1%eth0", link_local.to_owned()),
        ("169.254.7.1", link_local.to_owned()),
        ("2001:db8::7%eth0", "has a zone: write the address without what follows the '%'".to_owned()),
        ("2001:db8:f001::7", pool6.to_owned()),
        ("192.0.2.7", pool4.to_owned()),
        ("2001:DB8:0::1", "is the same as spec.bgp.peers[0].address: keep one of them".to_owned()),
    ];
    for (address, expected) in table {
        let mut spec = pools(&["2001:db8:f001::/64"], &["192.0.2.0/24"]);
        spec.bgp.peers.push(PeerSpec { address: address.to_owned(), asn: 65000 });
        assert_eq!(refusal(&spec), format!(r#"spec.bgp.peers[1].address "{address}" {expected}"#));
    }
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_fields() {
    let spec = NodeConfigSpec {
        cidr6: vec!["192.0.2.0/24".to_owned(), "nonsense".to_owned()],
        // Host bits do not hide that the pools overlap.
        cidr4: vec!["198.51.100.1/24".to_owned(), "198.51.100.130/31".to_owned()],
        defaults: DefaultsSpec::default(),
        bgp: BgpSpec {
            asn: 0,
            router_id: Some("one".to_owned()),
            peers: vec![
                PeerSpec { address: "198.51.100.9".to_owned(), asn: 23456 },
                PeerSpec { address: "198.51.100.9".to_owned(), asn: 65000 },
            ],
        },
        claims: vec![ClaimSpec::default()],
    };
    let refused = NodeConfig::validate(&spec).unwrap_err();
    let fields: Vec<_> = refused.problems().iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.cidr6[0]",
            "spec.cidr6[1]",
            "spec.cidr4[0]",
            "spec.cidr4[1]", // no address
            "spec.cidr4[1]", // overlap
            "spec.bgp.asn",
            "spec.bgp.routerID",
            "spec.bgp.peers[0].address", // in a pool
            "spec.bgp.peers[0].asn",
            "spec.bgp.peers[1].address", // in a pool
            "spec.bgp.peers[1].address", // the same as the first
            "spec.claims[0].cidrs",
        ]
    );
}

#[test]
fn yaml_field_names_are_those_of_the_contract() {
    let json = serde_json::json!({
        "cidr6": ["2001:db8:f001::/64"],
        "cidr4": ["192.0.2.0/24"],
        "defaults": { "ipv6": true, "ipv4": true },
        "bgp": { "asn": 65101, "routerID": "192.0.2.10", "peers": [{ "address": "2001:db8::1", "asn": 65000 }] },
        "claims": [],
    });
    let spec: NodeConfigSpec = serde_json::from_value(json).unwrap();
    let config = NodeConfig::validate(&spec).unwrap();
    assert_eq!(config.bgp.router_id, Some("192.0.2.10".parse().unwrap()));
    let unknown = serde_json::json!({ "bgp": { "asn": 65101 }, "cidr": [] });
    assert!(serde_json::from_value::<NodeConfigSpec>(unknown).is_err());
}
