//! The life of an advertised address, from a pod's object to the kernel's routes: 117 is announced, 118 is not.

use serde_json::{Value, json};

use super::with_both_sources;
use crate::harness::{TestNode, add_of, addresses, eventually};
use crate::netns::Netns;
use crate::object::{Says, pod, saying, successor_of};

with_both_sources!(
    what_is_advertised_follows_the_life_of_its_pod,
    an_address_two_pods_share_is_announced_while_one_is_eligible,
    readiness_that_flaps_ends_as_it_should,
    a_pod_that_moves_to_another_node_is_not_announced_here,
    an_object_that_cannot_be_read_is_reported_and_its_last_good_state_stays,
);

/// One the pod has to itself, and one of each family that others may have too.
const ADVERTISED: [&str; 3] = ["203.0.113.9", "2001:db8:a::1", "203.0.113.1"];

fn advertising(name: &str) -> Value {
    pod(name, &[("addresses", "203.0.113.9"), ("anycast", "2001:db8:a::1, 203.0.113.1")])
}

fn wait_all(node: &TestNode, protocol: Option<&str>) {
    for address in ADVERTISED {
        node.wait_protocol(address, protocol);
    }
}

fn what_is_advertised_follows_the_life_of_its_pod(node: &TestNode) {
    node.serve();
    let (web, netns) = (advertising("web"), Netns::new());
    let mut starting = web.clone();
    starting["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
    node.put(&starting);
    node.add_pod(&web, &netns).unwrap();
    node.wait_withheld("203.0.113.9/32", "the pod is not Ready");
    node.wait_withheld("203.0.113.1/32", "the pod is not Ready");
    assert_eq!(ADVERTISED.map(|it| node.protocol_of(it)), [Some("118".to_owned()), None, None]);
    for (says, withheld) in [
        (Says::Ready, None),
        (Says::NotReady, Some("the pod is not Ready")),
        (Says::Ready, None),
        (Says::Terminating, Some("the pod is terminating")),
    ] {
        node.put(&saying(&web, says));
        wait_all(node, Some(if withheld.is_some() { "118" } else { "117" }));
        for address in ["203.0.113.9/32", "2001:db8:a::1/128", "203.0.113.1/32"] {
            match withheld {
                Some(reason) => node.wait_withheld(address, reason),
                None => assert_eq!(node.advertised(address)["announced"], true, "{address}"),
            }
        }
    }
    node.delete(&web);
    node.wait_withheld("203.0.113.9/32", "the pod is not known");
    wait_all(node, Some("118"));
    node.del_pod(&web);
    wait_all(node, None);
    node.assert_empty();
}

fn an_address_two_pods_share_is_announced_while_one_is_eligible(node: &TestNode) {
    node.serve();
    let shared = "2001:db8:a::1";
    let pods = ["a", "b"].map(|name| pod(name, &[("anycast", shared)]));
    let netns = [Netns::new(), Netns::new()];
    for (pod, netns) in pods.iter().zip(&netns) {
        node.put(pod);
        node.add_pod(pod, netns).unwrap();
    }
    let standings = || {
        let pods = node.advertised("2001:db8:a::1/128")["pods"].clone();
        let pods = pods.as_array().cloned().unwrap_or_default();
        pods.iter().map(|it| it["standing"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let wait = |wanted: &str, protocol| {
        eventually(wanted, || standings() == wanted, standings);
        node.wait_protocol(shared, Some(protocol));
    };
    wait("serving serving", "117");
    node.put(&saying(&pods[0], Says::NotReady));
    wait("draining serving", "117");
    node.delete(&pods[1]);
    wait("draining draining", "118");
    node.put(&pods[0]);
    wait("serving draining", "117");
    node.del_pod(&pods[1]);
    wait("serving", "117");
    node.put(&saying(&pods[0], Says::Terminating));
    wait("draining", "118");
}

fn readiness_that_flaps_ends_as_it_should(node: &TestNode) {
    node.serve();
    let (web, netns) = (advertising("web"), Netns::new());
    node.put(&web);
    node.add_pod(&web, &netns).unwrap();
    for last in [Says::Ready, Says::NotReady] {
        for _ in 0..50 {
            node.put(&saying(&web, Says::NotReady));
            node.put(&web);
        }
        node.put(&saying(&web, last));
        wait_all(node, Some(if last == Says::Ready { "117" } else { "118" }));
    }
    node.delete(&web);
    node.del_pod(&web);
    wait_all(node, None);
    node.assert_empty();
}

fn a_pod_that_moves_to_another_node_is_not_announced_here(node: &TestNode) {
    node.serve();
    // Where the runtime tells no UID, the name and the node have to do.
    let (mut web, netns) = (advertising("web"), Netns::new());
    node.put(&web);
    let mut add = add_of(&web, &netns);
    add.pod.as_mut().unwrap().uid = None;
    node.add_with(add.clone()).unwrap();
    wait_all(node, Some("117"));
    web = successor_of(&web, &[("ipv6", "perhaps")]);
    web["spec"]["nodeName"] = json!("n2");
    node.put(&web);
    node.wait_withheld("203.0.113.9/32", "the pod is not known");
    wait_all(node, Some("118"));
    let told = node.ask(&["explain", "default/web"]);
    assert!(told.starts_with("pod default/web: the cluster shows no such pod\n"), "{told}");
    // Nor do its annotations count for a pod of that name that is started here.
    node.del_pod(&web);
    assert_eq!(addresses(&node.add_with(add).unwrap()).len(), 2);
    node.del_pod(&web);
    let told = node.ask(&["explain", "default/web"]);
    assert!(told.contains("node n1 knows no pod default/web"), "{told}");
}

fn an_object_that_cannot_be_read_is_reported_and_its_last_good_state_stays(node: &TestNode) {
    node.serve();
    let (web, netns) = (advertising("web"), Netns::new());
    node.put(&web);
    node.add_pod(&web, &netns).unwrap();
    wait_all(node, Some("117"));
    let mut odd = saying(&web, Says::NotReady);
    odd["status"]["podIPs"] = json!([{"ip": "nowhere"}]);
    node.put(&odd);
    let problems = || node.report()["problems"].to_string();
    let reported = || {
        let problems = problems();
        ["Pod default/web", "status.podIPs: \\\"nowhere\\\" is not an IP address", "its last good"]
            .iter()
            .all(|word| problems.contains(word))
    };
    eventually("it is reported", reported, problems);
    wait_all(node, Some("117"));
    node.put(&saying(&web, Says::NotReady));
    wait_all(node, Some("118"));
    assert_eq!(problems(), "[]");
}
