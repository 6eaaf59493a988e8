//! What it takes to compile the policies of a large cluster, for a full node.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement for people")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use flock_core::ids::{IfName, PodKey};
use flock_core::policy::{
    Compiler, Labels, LocalIdentity, LocalPod, NamedPort, NetworkPolicy, PolicyKey, PolicyPeer, PolicyPod,
    PolicyPort, PolicyRule, PolicyView, PortMatch, PortRange, Protocol, compile,
};
use flock_core::selector::{LabelSelector, LabelSelectorSpec};

const NAMESPACES: u32 = 50;
const WORKLOADS: u32 = 20;
const REPLICAS: u32 = 10;
const POLICIES: u32 = 20;

fn labels(pairs: &[(&str, String)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn selector(pairs: &[(&str, String)]) -> LabelSelector {
    let spec = LabelSelectorSpec { match_labels: labels(pairs), ..LabelSelectorSpec::default() };
    LabelSelector::validate(&spec, "selector", &mut vec![])
}

fn namespace(index: u32) -> String {
    format!("namespace-{index}")
}

fn workload(index: u32) -> Labels {
    labels(&[
        ("app.kubernetes.io/name", format!("app-{index}")),
        ("app.kubernetes.io/part-of", format!("suite-{}", index % 7)),
        ("tier", format!("tier-{}", index % 3)),
        ("pod-template-hash", format!("hash-{index}")),
    ])
}

fn addresses(index: u32) -> Vec<IpAddr> {
    let v6 = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(index.wrapping_mul(2_654_435_761)));
    vec![v6.into(), Ipv4Addr::from(0x0a00_0000 | index).into()]
}

fn rules(of: u32, index: u32) -> Vec<PolicyRule> {
    let app = |index: u32| ("app.kubernetes.io/name", format!("app-{}", index % WORKLOADS));
    let own = PolicyPeer::Pods { namespaces: None, pods: Some(selector(&[app(index + 1)])) };
    let tier = ("tier", format!("tier-{}", index % 3));
    let team = ("team", format!("team-{}", of % 10));
    let wide = PolicyPeer::Pods { namespaces: Some(selector(&[team])), pods: Some(selector(&[tier])) };
    let port = |first| PolicyPort {
        protocol: Protocol::Tcp,
        port: PortMatch::Range(PortRange { first, last: first }),
    };
    let http = PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Name("http".to_owned()) };
    vec![
        PolicyRule { peers: vec![own], ports: vec![port(443), http] },
        PolicyRule { peers: vec![wide], ports: vec![port(9090)] },
    ]
}

fn policy(of: u32, index: u32) -> NetworkPolicy {
    let part = ("app.kubernetes.io/part-of", format!("suite-{}", index % 7));
    let subject = if index < 3 { selector(&[]) } else { selector(&[part]) };
    NetworkPolicy {
        key: PolicyKey { namespace: namespace(of), name: format!("policy-{index}") },
        subject,
        ingress: Some(rules(of, index)),
        egress: index.is_multiple_of(3).then(|| rules(of, index)),
    }
}

fn cluster() -> (PolicyView, Vec<LocalPod>) {
    let mut view = PolicyView { complete: true, ..PolicyView::default() };
    let (policies, namespaces, pods) = (
        Arc::make_mut(&mut view.policies),
        Arc::make_mut(&mut view.namespaces),
        Arc::make_mut(&mut view.pods),
    );
    let mut local = Vec::new();
    for of in 0..NAMESPACES {
        let name = namespace(of);
        let labelled =
            labels(&[("team", format!("team-{}", of % 10)), ("kubernetes.io/metadata.name", name.clone())]);
        namespaces.insert(name.clone(), Arc::new(labelled));
        for index in 0..POLICIES {
            let policy = policy(of, index);
            policies.insert(policy.key.clone(), Arc::new(policy));
        }
        for index in 0..WORKLOADS {
            let labels = Arc::new(workload(index));
            let number = if index % 2 == 0 { 8080 } else { 80 };
            let port = NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, number };
            let ports: Arc<[NamedPort]> = Arc::new([port]);
            for replica in 0..REPLICAS {
                let key = PodKey::new(&name, &format!("app-{index}-{replica}")).unwrap();
                let pod = PolicyPod {
                    key: key.clone(),
                    labels: Arc::clone(&labels),
                    ports: Arc::clone(&ports),
                    pod_ips: addresses((of * WORKLOADS + index) * REPLICAS + replica),
                    claimed: vec![],
                };
                pods.insert(key, Arc::new(pod));
            }
            if index.is_multiple_of(4) {
                let key = PodKey::new(&name, &format!("local-{index}")).unwrap();
                local.push(LocalPod {
                    link: IfName::parse(&format!("flock{of}x{index}")).unwrap(),
                    addresses: addresses(0x8000 + of * WORKLOADS + index),
                    anycast: vec![],
                    identity: LocalIdentity::Pod { key, labels, ports, ended: false },
                });
            }
        }
    }
    (view, local)
}

fn policies(c: &mut Criterion) {
    let (view, pods) = cluster();
    c.bench_function("compile everything", |b| b.iter(|| compile(black_box(&view), black_box(&pods))));

    // As it is where no two pods share the storage of their labels.
    let mut apart = view.clone();
    for pod in Arc::make_mut(&mut apart.pods).values_mut() {
        let pod = Arc::make_mut(pod);
        pod.labels = Arc::new((*pod.labels).clone());
    }
    c.bench_function("compile everything, labels apart", |b| {
        b.iter(|| compile(black_box(&apart), black_box(&pods)));
    });

    // One pod restarts, and comes back with another address.
    let mut changed = view.clone();
    let (key, pod) = view.pods.iter().nth(5_000).unwrap();
    let pod = PolicyPod { pod_ips: addresses(0xf_0000), ..(**pod).clone() };
    Arc::make_mut(&mut changed.pods).insert(key.clone(), Arc::new(pod));
    let mut compiler = Compiler::default();
    c.bench_function("follow one pod of another node", |b| {
        let mut turn = false;
        b.iter(|| {
            turn = !turn;
            compiler.compile(black_box(if turn { &changed } else { &view }), black_box(&pods))
        });
    });
    let fewer = &pods[1..];
    c.bench_function("follow one pod of this node", |b| {
        let mut turn = false;
        b.iter(|| {
            turn = !turn;
            compiler.compile(black_box(&view), black_box(if turn { fewer } else { &pods }))
        });
    });
}

criterion_group!(benches, policies);
criterion_main!(benches);
