//! What a pod gets: its annotations, wherever they come from, and what becomes of bad ones.

use std::net::IpAddr;

use flock_cni::error::code;
use flock_cni::wire::Add;
use serde_json::{Value, json};

use super::with_both_sources;
use crate::harness::{TestNode, add_of, addresses, annotations};
use crate::netns::Netns;
use crate::object::{pod, successor_of};

with_both_sources!(
    a_pod_gets_what_its_object_asks_for,
    a_bad_annotation_is_refused_in_words_and_leaves_nothing,
    annotations_of_the_runtime_count_more_than_those_of_the_object,
    a_pod_nobody_knows_gets_what_the_node_gives_and_announces_nothing,
    an_object_of_another_pod_of_the_same_name_is_not_used,
    a_mirror_pod_stands_for_its_static_pod,
);

/// Keys and values of annotations.
type Asked = &'static [(&'static str, &'static str)];

fn shown(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn a_pod_gets_what_its_object_asks_for(node: &TestNode) {
    node.serve();
    let cases: [(Asked, &[&str]); 4] = [
        (
            &[("cidr6", "2001:db8:f001::77/128"), ("cidr4", "203.0.113.0/24, 198.51.100.77/32")],
            &["2001:db8:f001::77", "198.51.100.77"],
        ),
        (&[("cidr6", "2001:db8:f001::78/128"), ("ipv4", " False ")], &["2001:db8:f001::78"]),
        (&[("addresses", "203.0.113.9, 2001:db8:9::9")], &["2001:db8:9::9", "203.0.113.9"]),
        (&[("cidr4", "198.51.100.79/32"), ("ipv6", "false"), ("anycast", "203.0.113.1")], &["198.51.100.79"]),
    ];
    let pods: Vec<(Value, Netns)> =
        (0..).zip(cases).map(|(n, (asked, _))| (pod(&format!("pod-{n}"), asked), Netns::new())).collect();
    for ((object, netns), (asked, wanted)) in pods.iter().zip(cases) {
        // The agent cannot have seen the object before it is asked for the pod.
        node.put(object);
        let added = node.add_pod(object, netns).unwrap();
        assert_eq!(shown(&addresses(&added)), wanted, "{asked:?}");
        node.assert_reached(addresses(&added));
    }
    node.wait_protocol("203.0.113.1", Some("117"));
    node.assert_reached(["203.0.113.1".parse().unwrap()]);
    for (object, _) in &pods {
        node.del_pod(object);
    }
    node.assert_empty();
}

fn a_bad_annotation_is_refused_in_words_and_leaves_nothing(node: &TestNode) {
    node.serve();
    let cases: [(Asked, &[&str]); 4] = [
        (&[("ipv6", "maybe"), ("ipv4", "false")], &["flock.fritzlab.net/ipv6", "\"maybe\"", "true"]),
        (&[("ivp4", "true")], &["flock.fritzlab.net/ivp4", "use flock.fritzlab.net/ipv4"]),
        (&[("cidr6", "2001:db8:f009::/64")], &["2001:db8:f009::/64", "2001:db8:f001::/64"]),
        (&[("ipv4", "false"), ("anycast", "203.0.113.1")], &["203.0.113.1", "IPv4"]),
    ];
    for (n, (asked, words)) in cases.into_iter().enumerate() {
        let object = pod(&format!("pod-{n}"), asked);
        node.put(&object);
        let error = node.add_pod(&object, &Netns::new()).unwrap_err();
        assert_eq!(error.code(), code::POD_REFUSED, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
        node.assert_empty();
    }
}

fn annotations_of_the_runtime_count_more_than_those_of_the_object(node: &TestNode) {
    node.serve();
    let web = pod("web", &[("ipv6", "maybe")]);
    node.put(&web);
    node.add_pod(&web, &Netns::new()).unwrap_err();
    let netns = Netns::new();
    let with = |pairs| node.add_with(Add { annotations: Some(annotations(pairs)), ..add_of(&web, &netns) });
    assert_eq!(with(&[("ipv6", "false"), ("ipv4", "false")]).unwrap_err().code(), code::POD_REFUSED);
    node.assert_empty();
    let added = with(&[("ipv6", " TRUE "), ("ipv4", "false")]).unwrap();
    assert!(matches!(addresses(&added)[..], [IpAddr::V6(_)]), "{added:?}");
}

fn a_pod_nobody_knows_gets_what_the_node_gives_and_announces_nothing(node: &TestNode) {
    node.serve();
    let (plain, shared) = (pod("plain", &[]), pod("shared", &[]));
    let netns = [Netns::new(), Netns::new()];
    let added = node.add_pod(&plain, &netns[0]).unwrap();
    assert_eq!(addresses(&added).len(), 2, "one of each family");
    // A runtime that hands annotations over need not wait for the cluster.
    let told = Some(annotations(&[("anycast", "2001:db8:a::1")]));
    node.add_with(Add { annotations: told, ..add_of(&shared, &netns[1]) }).unwrap();
    node.wait_withheld("2001:db8:a::1/128", "the pod is not known");
    assert_eq!(node.protocol_of("2001:db8:a::1"), None);
    node.put(&shared);
    node.wait_protocol("2001:db8:a::1", Some("117"));
}

fn an_object_of_another_pod_of_the_same_name_is_not_used(node: &TestNode) {
    node.serve();
    let asks = |cidr6| [("cidr6", cidr6), ("anycast", "2001:db8:a::1")];
    let first = pod("db-0", &asks("2001:db8:f001::77/128"));
    let second = successor_of(&first, &asks("2001:db8:f001::78/128"));
    let third = successor_of(&second, &asks("2001:db8:f001::79/128"));
    let netns = [Netns::new(), Netns::new(), Netns::new()];
    // Containers of pods of one name have names of their own.
    let add = |object, n: usize| {
        let mut add = add_of(object, &netns[n]);
        add.attachment.container_id = format!("db-{n}");
        shown(&addresses(&node.add_with(add).unwrap()))[0].clone()
    };
    node.put(&first);
    assert_eq!(add(&first, 0), "2001:db8:f001::77");
    node.wait_protocol("2001:db8:a::1", Some("117"));
    // The first one is gone for the cluster, and still runs.
    node.put(&second);
    node.wait_withheld("2001:db8:a::1/128", "the pod is not known");
    node.wait_protocol("2001:db8:a::1", Some("118"));
    assert_eq!(add(&second, 1), "2001:db8:f001::78");
    node.wait_protocol("2001:db8:a::1", Some("117"));
    // Asked for before its object is there, and with nothing of the object that is.
    node.del("db-1").unwrap();
    let fresh = add(&third, 2);
    assert!(!["2001:db8:f001::78", "2001:db8:f001::79"].contains(&fresh.as_str()), "{fresh}");
    let held = node.report()["allocations"].clone();
    let of_third = held.as_array().unwrap().iter().find(|it| it["attachment"] == "db-2/eth0").unwrap();
    assert_eq!(of_third["anycast"], Value::Null, "{of_third}");
}

fn a_mirror_pod_stands_for_its_static_pod(node: &TestNode) {
    node.serve();
    let asks = [("cidr6", "2001:db8:f001::77/128"), ("anycast", "2001:db8:a::1")];
    // The runtime knows the one by the UID of the kubelet, the cluster the other by that of the API server.
    let (mut of_runtime, mut mirror) = (pod("proxy-n1", &asks), pod("proxy-n1", &asks));
    of_runtime["metadata"]["uid"] = json!("0123abcd");
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("0123abcd");
    node.put(&mirror);
    let netns = Netns::new();
    let added = node.add_pod(&of_runtime, &netns).unwrap();
    assert_eq!(shown(&addresses(&added))[0], "2001:db8:f001::77");
    node.wait_protocol("2001:db8:a::1", Some("117"));
}
