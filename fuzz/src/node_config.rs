//! Manifests: [`flock_k8s::read_manifests`], then [`NodeConfig::validate`], the annotations of the pods, and what
//! these pods get on such a node.

use std::net::IpAddr;

use flock_core::annotation::PodIntent;
use flock_core::config::{NodeConfig, NodeConfigSpec};
use flock_core::ids::{NodeName, PodKey};
use flock_core::iid::Field;
use flock_core::pod_plan::PodFacts;
use flock_core::ports::ClusterView;
use ipnet::IpNet;

use crate::{annotation, pod_plan};

/// What one problem may come to, in bytes: it is shown to a person, and written to the log.
const LONGEST_PROBLEM: usize = 4096;

/// Problems of one file that are reported, and that many again for objects defined twice.
const MOST_PROBLEMS: usize = 20;

/// Takes the bytes as a YAML file, as a JSON file, and as both of a directory.
pub fn run(data: &[u8]) {
    let node = NodeName::parse("node-a").unwrap();
    let (yaml, json) = (("a.yaml", data), ("b.json", data));
    let alone = flock_k8s::read_manifests(&node, [yaml]);
    check(&node, &alone);
    check(&node, &flock_k8s::read_manifests(&node, [json]));
    // What a second file says of the same objects changes nothing.
    let both = flock_k8s::read_manifests(&node, [yaml, ("c.yaml", data)]);
    assert_eq!((&both.pods, &both.node_config), (&alone.pods, &alone.node_config));
}

fn check(node: &NodeName, view: &ClusterView) {
    let faults = view.problems.iter().filter(|problem| !problem.ends_with("this one is ignored"));
    assert!(faults.count() <= MOST_PROBLEMS);
    for problem in &view.problems {
        assert!(problem.len() <= LONGEST_PROBLEM, "{} bytes: {problem}", problem.len());
        assert!(!problem.contains('\n'), "{problem:?}");
    }
    for (key, pod) in &view.pods {
        assert_eq!(key, &pod.key);
        assert_eq!(PodKey::parse(&key.to_string()).as_ref(), Ok(key));
        annotation::check(&pod.annotations);
    }
    if let Some(Ok(spec)) = view.node_config.as_ref().map(|config| config.spec.as_ref()) {
        check_spec(spec, view);
        assert_eq!(&read_again(node, spec), spec, "printed and read again");
    }
}

fn check_spec(spec: &NodeConfigSpec, view: &ClusterView) {
    match NodeConfig::validate(spec) {
        Ok(config) => {
            check_config(&config);
            check_pods(&config, view);
        }
        Err(error) => {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                let text = problem.to_string();
                assert!(text.len() <= LONGEST_PROBLEM, "{} bytes: {text}", text.len());
                assert!(problem.field.starts_with("spec."), "{text}");
            }
        }
    }
}

fn check_config(config: &NodeConfig) {
    let six = config.cidr6.iter().copied().map(IpNet::V6);
    let pools: Vec<IpNet> = six.chain(config.cidr4.iter().copied().map(IpNet::V4)).collect();
    for (index, pool) in pools.iter().enumerate() {
        assert_eq!(*pool, pool.trunc());
        for other in pools.iter().skip(index + 1) {
            assert!(!pool.contains(other) && !other.contains(pool), "{pool} and {other} overlap");
        }
    }
    assert!(config.cidr4.iter().all(|pool| pool.prefix_len() <= 30));
    let peers = &config.bgp.peers;
    for asn in peers.iter().map(|peer| peer.asn).chain([config.bgp.asn]) {
        assert!(![0, 23_456, 65_535, u32::MAX].contains(&asn), "{asn}");
    }
    for (index, peer) in peers.iter().enumerate() {
        assert!(!pools.iter().any(|pool| pool.contains(&peer.address)), "{peer:?}");
        assert!(!peers.iter().skip(index + 1).any(|other| other.address == peer.address), "{peer:?}");
        assert!(!peer.address.is_unspecified() && !peer.address.is_multicast(), "{peer:?}");
    }
    assert!(config.bgp.router_id.is_none_or(|id| !IpAddr::V4(id).is_unspecified()));
}

/// The pods of the same file, and some that are always there, on such a node.
fn check_pods(config: &NodeConfig, view: &ClusterView) {
    for pod in view.pods.values() {
        let Ok(intent) = PodIntent::parse(&pod.annotations) else { continue };
        let facts = PodFacts {
            key: Some(&pod.key),
            image: pod.image.as_deref(),
            namespace_labels: view.namespaces.get(pod.key.namespace()),
        };
        pod_plan::check(&intent, facts, config, &view.foreign_pools);
    }
    let key = PodKey::new("shop", "web-0").unwrap();
    let facts = PodFacts { key: Some(&key), image: Some("img:1"), namespace_labels: None };
    for intent in usual_pods(config) {
        pod_plan::check(&intent, facts, config, &view.foreign_pools);
    }
}

/// A pod for everything that a pod can ask of this node.
fn usual_pods(config: &NodeConfig) -> [PodIntent; 5] {
    let six = config.cidr6.last().map(|pool| IpAddr::V6(pool.broadcast()));
    let four = config.cidr4.last().map(|pool| IpAddr::V4(pool.hosts().nth(1).unwrap_or(pool.addr())));
    let elsewhere = ["2001:db8:a::53", "198.51.100.53"].map(|text| text.parse().unwrap());
    let nothing = PodIntent::default;
    [
        nothing(),
        PodIntent { ipv6: Some(true), ipv4: Some(true), ..nothing() },
        PodIntent { ip_algo: Field::ALL.to_vec(), ..nothing() },
        PodIntent { cidr6: config.cidr6.clone(), cidr4: config.cidr4.clone(), ..nothing() },
        PodIntent { addresses: six.into_iter().chain(four).chain(elsewhere).collect(), ..nothing() },
    ]
}

/// The configuration after a manifest was made of it.
fn read_again(node: &NodeName, spec: &NodeConfigSpec) -> NodeConfigSpec {
    let manifest = serde_json::json!({
        "apiVersion": flock_k8s::NODE_CONFIG_VERSION,
        "kind": "NodeConfig",
        "metadata": { "name": node.as_str() },
        "spec": spec,
    });
    let text = manifest.to_string();
    let view = flock_k8s::read_manifests(node, [("again.json", text.as_bytes())]);
    view.node_config.expect("a NodeConfig").spec.expect("a spec")
}
