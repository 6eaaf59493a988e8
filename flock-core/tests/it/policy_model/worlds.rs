//! Clusters so small that their pods have the same labels, ports and addresses all the time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use flock_core::ids::{IfName, PodKey};
use flock_core::policy::{
    Action, ClusterPeer, ClusterPods, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, Labels,
    LocalIdentity, LocalPod, NamedPort, NetworkPolicy, PolicyKey, PolicyPeer, PolicyPod, PolicyPort,
    PolicyRule, PolicyView, PortMatch, PortRange, Priority, Protocol,
};
use flock_core::selector::{LabelRequirementSpec, LabelSelector, LabelSelectorSpec};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// What a node knows.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) view: PolicyView,
    pub(crate) pods: Vec<LocalPod>,
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
const ADDRESSES: [&str; 10] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.4",
    "192.0.2.5",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8::3",
    "2001:db8::4",
    "2001:db8::5",
];
const BLOCKS: [&[&str]; 2] = [
    &["0.0.0.0/0", "192.0.2.0/24", "192.0.2.4/30", "192.0.2.2/31", "192.0.2.3/32"],
    &["::/0", "2001:db8::/64", "2001:db8::4/126", "2001:db8::2/127", "2001:db8::3/128"],
];

/// All addresses pods can have, and one of each family that none has.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let strangers = ["198.51.100.1", "2001:db8:f::1"];
    ADDRESSES.iter().chain(&strangers).map(|address| address.parse().unwrap()).collect()
}

/// Services around the edges of all the ports that policies name.
pub(crate) fn services() -> Vec<Option<(Protocol, u16)>> {
    let of = |protocol, ports: std::ops::RangeInclusive<u16>| ports.map(move |port| Some((protocol, port)));
    let tcp = of(Protocol::Tcp, 79..=84);
    tcp.chain(of(Protocol::Udp, 80..=82)).chain(of(Protocol::Sctp, 80..=81)).chain([None]).collect()
}

pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
    let policies = (
        vec((policy(), 0..3_u8), 0..5),
        prop_oneof![vec(cluster_policy(), 0..1), vec(cluster_policy(), 1..5)],
    );
    let flags = (prop::bool::weighted(0.95), any::<bool>());
    (flags, policies, namespaces(), vec(remote(), 0..6), vec(local(), 0..4)).prop_map(
        |((complete, shared), (policies, cluster), namespaces, remote, local)| {
            let cluster = cluster.into_iter().map(|policy| (policy.name.clone(), Arc::new(policy)));
            let mut shared = shared.then(Shared::default);
            let policies = policies.into_iter().map(|(mut policy, name)| {
                policy.key.name = format!("p{name}");
                (policy.key.clone(), Arc::new(policy))
            });
            let remote = remote.into_iter().enumerate().map(|(index, mut pod)| {
                pod.key = PodKey::new(pod.key.namespace(), &format!("remote{index}")).unwrap();
                if let Some(shared) = &mut shared {
                    shared.of(&mut pod.labels, &mut pod.ports);
                }
                (pod.key.clone(), Arc::new(pod))
            });
            let remote = Arc::new(remote.collect());
            let local = local.into_iter().enumerate().map(|(index, mut pod)| {
                pod.link = IfName::parse(&format!("flock{index}")).unwrap();
                if let (Some(shared), LocalIdentity::Pod { labels, ports, .. }) =
                    (&mut shared, &mut pod.identity)
                {
                    shared.of(labels, ports);
                }
                pod
            });
            let view = PolicyView {
                complete,
                policies: Arc::new(policies.collect()),
                cluster: Arc::new(cluster.collect()),
                namespaces: Arc::new(namespaces),
                pods: remote,
                ..PolicyView::default()
            };
            Cluster { view, pods: local.collect() }
        },
    )
}

/// Pods that have the same share it, as the pods of a workload do.
#[derive(Default)]
struct Shared {
    labels: BTreeMap<Arc<Labels>, Arc<Labels>>,
    ports: BTreeMap<Arc<[NamedPort]>, Arc<[NamedPort]>>,
}

impl Shared {
    fn of(&mut self, labels: &mut Arc<Labels>, ports: &mut Arc<[NamedPort]>) {
        *labels = Arc::clone(self.labels.entry(Arc::clone(labels)).or_insert_with_key(Arc::clone));
        *ports = Arc::clone(self.ports.entry(Arc::clone(ports)).or_insert_with_key(Arc::clone));
    }
}

fn namespaces() -> impl Strategy<Value = BTreeMap<String, Arc<Labels>>> {
    let team = option::of(select(vec!["", "x", "y"]));
    let one = option::weighted(0.9, (team, prop::bool::weighted(0.8)));
    [one.clone(), one.clone(), one].prop_map(|labels| {
        let known = NAMESPACES.iter().zip(labels).filter_map(|(name, labels)| {
            let (team, named) = labels?;
            let team = team.map(|team| ("team".to_owned(), team.to_owned()));
            let named = named.then(|| (NAMESPACE_NAME.to_owned(), (*name).to_owned()));
            Some(((*name).to_owned(), Arc::new(team.into_iter().chain(named).collect())))
        });
        known.collect()
    })
}

fn labels() -> impl Strategy<Value = Arc<Labels>> {
    let values = (option::of(select(vec!["", "x", "y"])), option::weighted(0.3, Just("x")));
    values.prop_map(|(k, l)| {
        let labels = [("k", k), ("l", l)].into_iter();
        Arc::new(labels.filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect())
    })
}

fn named_ports() -> impl Strategy<Value = Arc<[NamedPort]>> {
    let port = (select(vec!["web", "dns"]), select(vec![Protocol::Tcp, Protocol::Udp]), 80..83_u16);
    // Few lists of their own, so that pods of several workloads have the same.
    let alike = prop_oneof![
        2 => Just(vec![]),
        2 => Just(vec![("web", Protocol::Tcp, 80)]),
        2 => Just(vec![("web", Protocol::Tcp, 81)]),
    ];
    prop_oneof![3 => alike, 1 => vec(port, 0..4)].prop_map(|ports| {
        let mut ports: Vec<_> = ports
            .into_iter()
            .map(|(name, protocol, number)| NamedPort { name: name.to_owned(), protocol, number })
            .collect();
        ports.sort();
        ports.into()
    })
}

fn some(most: usize) -> impl Strategy<Value = Vec<IpAddr>> {
    vec(select(&ADDRESSES[..]), 0..=most)
        .prop_map(|addresses| addresses.iter().map(|address| address.parse().unwrap()).collect())
}

fn pod_key() -> impl Strategy<Value = PodKey> {
    select(&NAMESPACES[..]).prop_map(|namespace| PodKey::new(namespace, "pod").unwrap())
}

fn remote() -> impl Strategy<Value = PolicyPod> {
    (pod_key(), labels(), named_ports(), some(2), some(2))
        .prop_map(|(key, labels, ports, pod_ips, claimed)| PolicyPod { key, labels, ports, pod_ips, claimed })
}

fn local() -> impl Strategy<Value = LocalPod> {
    let pod = (pod_key(), labels(), named_ports(), prop::bool::weighted(0.15))
        .prop_map(|(key, labels, ports, ended)| LocalIdentity::Pod { key, labels, ports, ended });
    let unknown = option::weighted(0.8, select(&NAMESPACES[..]))
        .prop_map(|namespace| LocalIdentity::Unknown { namespace: namespace.map(str::to_owned) });
    let identity = prop_oneof![8 => pod, 1 => unknown, 1 => Just(LocalIdentity::Nameless)];
    (some(2), some(2), identity).prop_map(|(addresses, anycast, identity)| {
        let link = IfName::parse("flock").unwrap();
        LocalPod { link, addresses, anycast, identity }
    })
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || option::weighted(0.7, vec(rule(), 0..4));
    (select(&NAMESPACES[..]), selector(&["k", "l"]), rules(), rules()).prop_map(
        |(namespace, subject, ingress, egress)| {
            let key = PolicyKey { namespace: namespace.to_owned(), name: String::new() };
            NetworkPolicy { key, subject, ingress, egress }
        },
    )
}

/// Many of the same priority, whose names decide.
fn cluster_policy() -> impl Strategy<Value = ClusterPolicy> {
    let tier = select(vec![ClusterTier::Admin, ClusterTier::Baseline]);
    let priority = select(vec![0, 500, 500, 1000]).prop_map(|number| Priority::new(number).unwrap());
    let rules = || vec(cluster_rule(), 0..4);
    (select(vec!["w", "x", "y", "z"]), tier, priority, cluster_pods(), rules(), rules()).prop_map(
        |(name, tier, priority, subject, ingress, egress)| ClusterPolicy {
            name: name.to_owned(),
            tier,
            priority,
            subject,
            ingress,
            egress,
        },
    )
}

fn cluster_pods() -> impl Strategy<Value = ClusterPods> {
    (selector(&["team", NAMESPACE_NAME]), selector(&["k", "l"]))
        .prop_map(|(namespaces, pods)| ClusterPods { namespaces, pods })
}

fn cluster_rule() -> impl Strategy<Value = ClusterRule> {
    let action = || select(vec![Action::Accept, Action::Deny, Action::Pass]);
    let nets: Vec<IpNet> = BLOCKS.iter().flat_map(|family| *family).map(|net| net.parse().unwrap()).collect();
    let peer = prop_oneof![
        4 => cluster_pods().prop_map(ClusterPeer::Pods),
        2 => select(nets).prop_map(ClusterPeer::Net),
        1 => Just(ClusterPeer::Everybody),
    ];
    let port = prop_oneof![
        3 => port().prop_map(|PolicyPort { protocol, port }| match port {
            PortMatch::Any => ClusterPort::All(protocol),
            PortMatch::Range(range) => ClusterPort::Range(protocol, range),
            PortMatch::Name(name) => ClusterPort::Name(name),
        }),
        1 => Just(ClusterPort::Name("web".to_owned())),
    ];
    let ports = prop_oneof![1 => vec(port.clone(), 0..1), 2 => vec(port, 1..3)];
    let rule = (action(), vec(peer, 1..3), ports).prop_map(|(action, peers, ports)| ClusterRule {
        name: None,
        action,
        peers,
        ports,
    });
    prop_oneof![12 => rule, 1 => action().prop_map(|action| ClusterRule::closed(None, action))]
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let few = |none| prop_oneof![none => Just(0..1_usize), 9 => Just(1..3)];
    let peers = few(1).prop_flat_map(|count| vec(peer(), count));
    let ports = few(3).prop_flat_map(|count| vec(port(), count));
    (peers, ports).prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

fn peer() -> impl Strategy<Value = PolicyPeer> {
    let namespaces = || selector(&["team", NAMESPACE_NAME]);
    let pods = || selector(&["k", "l"]);
    let of = |namespaces, pods| PolicyPeer::Pods { namespaces, pods };
    // One that many rules have, for different ports.
    let common = of(None, Some(LabelSelector::default()));
    prop_oneof![
        2 => Just(common),
        2 => pods().prop_map(move |pods| of(None, Some(pods))),
        1 => namespaces().prop_map(move |namespaces| of(Some(namespaces), None)),
        2 => (namespaces(), pods()).prop_map(move |(namespaces, pods)| of(Some(namespaces), Some(pods))),
        2 => block(),
    ]
}

fn block() -> impl Strategy<Value = PolicyPeer> {
    let nets = |family: &[&str]| family.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
    select(BLOCKS.map(nets).to_vec())
        .prop_flat_map(|nets| {
            let most = nets.len();
            (select(nets.clone()), subsequence(nets, 0..most))
        })
        .prop_map(|(cidr, mut except)| {
            except.retain(|except| cidr.contains(except) && *except != cidr);
            except.sort_unstable();
            PolicyPeer::Net { cidr, except }
        })
}

fn port() -> impl Strategy<Value = PolicyPort> {
    let range =
        (80..84_u16, 0..3_u16).prop_map(|(first, more)| PortRange { first, last: (first + more).min(83) });
    let name = select(vec!["web", "web", "dns"]);
    let port = prop_oneof![
        1 => Just(PortMatch::Any),
        4 => range.prop_map(PortMatch::Range),
        4 => name.prop_map(|name| PortMatch::Name(name.to_owned())),
    ];
    let protocol = prop_oneof![4 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)];
    (protocol, port).prop_map(|(protocol, port)| PolicyPort { protocol, port })
}

/// Selectors over these keys, many of which select everything.
fn selector(keys: &[&'static str]) -> impl Strategy<Value = LabelSelector> + use<> {
    let keys = keys.to_vec();
    let requirement =
        (select(keys), select(vec!["In", "NotIn", "Exists", "DoesNotExist"]), vec(value(), 1..3)).prop_map(
            |(key, operator, mut values)| {
                if !operator.ends_with("In") {
                    values.clear();
                }
                LabelRequirementSpec { key: key.to_owned(), operator: operator.to_owned(), values }
            },
        );
    let count = prop_oneof![3 => Just(0..1_usize), 5 => Just(1..2), 1 => Just(2..3)];
    count.prop_flat_map(move |count| vec(requirement.clone(), count)).prop_map(|match_expressions| {
        let mut problems = vec![];
        let spec = LabelSelectorSpec { match_expressions, ..LabelSelectorSpec::default() };
        let selector = LabelSelector::validate(&spec, "selector", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        selector
    })
}

/// Values of labels, names of namespaces among them.
fn value() -> impl Strategy<Value = String> + Clone {
    select(vec!["", "x", "y", "a", "b"]).prop_map(str::to_owned)
}
