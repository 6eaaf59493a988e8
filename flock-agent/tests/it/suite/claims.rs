//! Who may take which address: claims, labels of namespaces, pools of other nodes.

use flock_cni::error::code;
use serde_json::{Value, json};

use super::with_both_sources;
use crate::harness::{TestNode, eventually};
use crate::netns::Netns;
use crate::object::{namespace, node_config, node_config_of, pod};

with_both_sources!(
    claims_grant_by_the_labels_of_a_namespace,
    claims_grant_by_the_name_of_a_namespace,
    an_address_in_a_pool_of_another_node_is_refused,
);

/// The usual configuration, with one claim for namespaces that have a label.
fn claimed_for(label: &str, value: &str) -> Value {
    let mut config = node_config();
    let selector = json!({"matchLabels": {label: value}});
    config["spec"]["claims"] =
        json!([{"cidrs": ["2001:db8:a::/64"], "kinds": ["anycast"], "namespaceSelector": selector}]);
    config
}

/// A pod of a namespace that asks for an address of the claim.
fn asking(namespace: &str) -> Value {
    let mut pod = pod(&format!("of-{namespace}"), &[("anycast", "2001:db8:a::53")]);
    pod["metadata"]["namespace"] = json!(namespace);
    pod
}

/// Waits until a pod gets its network; it is told to try again until then.
fn wait_granted(node: &TestNode, object: &Value) {
    let granted = || match node.add_pod(object, &Netns::new()) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code(), code::TRY_AGAIN, "{error}");
            false
        }
    };
    eventually("the pod gets its network", granted, || node.log());
    node.del_pod(object);
}

fn claims_grant_by_the_labels_of_a_namespace(node: &TestNode) {
    let of_team = json!({"team": "dns"});
    node.put(&claimed_for("team", "dns"));
    node.put(&namespace("resolvers", &of_team));
    node.put(&namespace("shop", &json!({"team": "shop"})));
    node.start();
    node.wait_ready();
    let (resolver, shop, nobody) = (asking("resolvers"), asking("shop"), asking("nowhere"));
    for object in [&resolver, &shop, &nobody] {
        node.put(object);
    }
    wait_granted(node, &resolver);
    let refused = "namespace shop may not take 2001:db8:a::53 as anycast: \
         the closest entry, spec.claims[0], is for namespaces with team=dns";
    node.wait_refusal(&shop, Some(refused));
    let error = node.add_pod(&shop, &Netns::new()).unwrap_err();
    assert_eq!((error.code(), error.to_string().contains(refused)), (code::POD_REFUSED, true), "{error}");
    let error = node.add_pod(&nobody, &Netns::new()).unwrap_err();
    assert_eq!(error.code(), code::TRY_AGAIN, "{error}");
    assert!(error.to_string().contains("the labels of this one are not known yet"), "{error}");

    node.put(&namespace("shop", &of_team));
    node.wait_refusal(&shop, None);
    wait_granted(node, &shop);
    node.put(&namespace("shop", &json!({})));
    node.wait_refusal(&shop, Some(refused));
    // Any other claim, and none, is in force as soon as it is written.
    node.put(&claimed_for("team", "shop"));
    node.wait_refusal(&resolver, Some("is for namespaces with team=shop"));
    node.put(&node_config());
    node.wait_refusal(&resolver, None);
    node.delete(&namespace("shop", &json!({})));
    node.put(&claimed_for("team", "shop"));
    node.wait_refusal(&shop, Some("the labels of this one are not known yet"));
    node.put(&namespace("shop", &json!({})));
    node.put(&claimed_for("team", "dns"));
    node.wait_refusal(&shop, Some(refused));
    wait_granted(node, &resolver);
    node.assert_empty();
}

fn claims_grant_by_the_name_of_a_namespace(node: &TestNode) {
    node.put(&claimed_for("kubernetes.io/metadata.name", "resolvers"));
    node.put(&namespace("resolvers", &json!({})));
    node.put(&namespace("shop", &json!({})));
    node.start();
    node.wait_ready();
    let (resolver, shop) = (asking("resolvers"), asking("shop"));
    node.put(&resolver);
    node.put(&shop);
    wait_granted(node, &resolver);
    node.wait_refusal(&shop, Some("is for namespaces with kubernetes.io/metadata.name=resolvers"));
    node.add_pod(&shop, &Netns::new()).unwrap_err();
    node.assert_empty();
}

fn an_address_in_a_pool_of_another_node_is_refused(node: &TestNode) {
    node.serve();
    let (six, four) = ("2001:db8:f002::5", "203.0.113.5");
    let web = pod("web", &[("addresses", six), ("anycast", four)]);
    node.put(&web);
    let other = node_config_of("n2", "2001:db8:f002::/64", "203.0.113.0/24");
    node.put(&other);
    node.wait_refusal(&web, Some("it is in the pool 203.0.113.0/24 of node n2"));
    let error = node.add_pod(&web, &Netns::new()).unwrap_err();
    assert_eq!(error.code(), code::POD_REFUSED, "{error}");
    for word in
        [six, four, "in the pool 2001:db8:f002::/64 of node n2", "in the pool 203.0.113.0/24 of node n2"]
    {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    node.assert_empty();
    // A pool moves away, then the node goes.
    node.put(&node_config_of("n2", "2001:db8:f003::/64", "203.0.113.0/24"));
    let left = || node.refusals(&web);
    eventually("one is left", || !left().contains("2001:db8:f002::/64"), left);
    assert!(left().contains(four), "{}", left());
    node.delete(&other);
    node.wait_refusal(&web, None);
    let netns = Netns::new();
    node.add_pod(&web, &netns).unwrap();
    node.wait_protocol(four, Some("117"));
}
