//! Policies and clusters for tests, written in a few words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use flock_core::ids::{IfName, PodKey};
use flock_core::policy::{
    Labels, LocalIdentity, LocalPod, NamedPort, NetworkPolicy, PolicyKey, PolicyPeer, PolicyPod, PolicyPort,
    PolicyRule, PolicyView, PortMatch, PortRange, Protocol, Ruleset, compile,
};
use flock_core::selector::{LabelRequirementSpec, LabelSelector, LabelSelectorSpec};
use flock_core::testing::{Packet, passes};

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub(crate) fn link(name: &str) -> IfName {
    IfName::parse(name).unwrap()
}

/// `k=v` each.
pub(crate) fn labels(pairs: &[&str]) -> Arc<Labels> {
    let pair =
        |pair: &&str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap();
    Arc::new(pairs.iter().map(pair).collect())
}

/// `k=v`, `k!=v`, `k` or `!k` each.
pub(crate) fn selector(requirements: &[&str]) -> LabelSelector {
    let requirement = |text: &&str| {
        let (key, operator, values) =
            match (text.split_once("!="), text.split_once('='), text.strip_prefix('!')) {
                (Some((key, value)), ..) => (key, "NotIn", vec![value.to_owned()]),
                (_, Some((key, value)), _) => (key, "In", vec![value.to_owned()]),
                (.., Some(key)) => (key, "DoesNotExist", vec![]),
                _ => (*text, "Exists", vec![]),
            };
        LabelRequirementSpec { key: key.to_owned(), operator: operator.to_owned(), values }
    };
    let match_expressions = requirements.iter().map(requirement).collect();
    let spec = LabelSelectorSpec { match_expressions, ..LabelSelectorSpec::default() };
    let mut problems = vec![];
    let selector = LabelSelector::validate(&spec, "selector", &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    selector
}

/// `name:number/protocol` each.
pub(crate) fn named(ports: &[&str]) -> Arc<[NamedPort]> {
    let port = |text: &&str| {
        let (name, port) = text.split_once(':').unwrap();
        let (number, protocol) = port.split_once('/').unwrap();
        NamedPort { name: name.to_owned(), protocol: protocol_of(protocol), number: number.parse().unwrap() }
    };
    ports.iter().map(port).collect()
}

fn protocol_of(name: &str) -> Protocol {
    match name {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Sctp,
    }
}

pub(crate) fn pods(requirements: &[&str]) -> PolicyPeer {
    PolicyPeer::Pods { namespaces: None, pods: Some(selector(requirements)) }
}

pub(crate) fn namespaces(requirements: &[&str]) -> PolicyPeer {
    PolicyPeer::Pods { namespaces: Some(selector(requirements)), pods: None }
}

pub(crate) fn pods_in(namespaces: &[&str], pods: &[&str]) -> PolicyPeer {
    PolicyPeer::Pods { namespaces: Some(selector(namespaces)), pods: Some(selector(pods)) }
}

pub(crate) fn block(cidr: &str, except: &[&str]) -> PolicyPeer {
    let except = except.iter().map(|net| net.parse().unwrap()).collect();
    PolicyPeer::Net { cidr: cidr.parse().unwrap(), except }
}

/// `tcp`, `80/tcp`, `80-90/tcp` or `web/tcp`.
pub(crate) fn port(text: &str) -> PolicyPort {
    let Some((port, protocol)) = text.split_once('/') else {
        return PolicyPort { protocol: protocol_of(text), port: PortMatch::Any };
    };
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    let port = match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => PortMatch::Range(PortRange { first, last }),
        _ => PortMatch::Name(port.to_owned()),
    };
    PolicyPort { protocol: protocol_of(protocol), port }
}

pub(crate) fn rule(peers: &[PolicyPeer], ports: &[&str]) -> PolicyRule {
    PolicyRule { peers: peers.to_vec(), ports: ports.iter().map(|text| port(text)).collect() }
}

/// Of namespace and name, for pods with these labels.
pub(crate) fn policy(
    key: &str,
    subject: &[&str],
    ingress: Option<&[PolicyRule]>,
    egress: Option<&[PolicyRule]>,
) -> NetworkPolicy {
    let (namespace, name) = key.split_once('/').unwrap();
    NetworkPolicy {
        key: PolicyKey { namespace: namespace.to_owned(), name: name.to_owned() },
        subject: selector(subject),
        ingress: ingress.map(<[_]>::to_vec),
        egress: egress.map(<[_]>::to_vec),
    }
}

/// A pod of another node: namespace and name, labels, its own addresses.
pub(crate) fn remote(key: &str, labelled: &[&str], addresses: &[&str]) -> PolicyPod {
    PolicyPod {
        key: PodKey::parse(key).unwrap(),
        labels: labels(labelled),
        ports: named(&[]),
        pod_ips: addresses.iter().map(|address| ip(address)).collect(),
        claimed: vec![],
    }
}

/// A pod of this node, whose link has the name of the pod.
pub(crate) fn local(key: &str, labelled: &[&str], addresses: &[&str]) -> LocalPod {
    let key = PodKey::parse(key).unwrap();
    LocalPod {
        link: link(key.name()),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        anycast: vec![],
        identity: LocalIdentity::Pod { key, labels: labels(labelled), ports: named(&[]), ended: false },
    }
}

/// The same with these named ports.
pub(crate) fn with_ports(mut pod: LocalPod, of: &[&str]) -> LocalPod {
    if let LocalIdentity::Pod { ports, .. } = &mut pod.identity {
        *ports = named(of);
    }
    pod
}

pub(crate) fn view(
    policies: &[NetworkPolicy],
    namespaces: &[(&str, &[&str])],
    pods: &[PolicyPod],
) -> PolicyView {
    let of = |policy: &NetworkPolicy| (policy.key.clone(), Arc::new(policy.clone()));
    let policies: BTreeMap<_, _> = policies.iter().map(of).collect();
    let namespaces = namespaces.iter().map(|(name, pairs)| ((*name).to_owned(), labels(pairs))).collect();
    let pods = pods.iter().map(|pod| (pod.key.clone(), Arc::new(pod.clone()))).collect();
    PolicyView {
        complete: true,
        policies: Arc::new(policies),
        namespaces: Arc::new(namespaces),
        pods: Arc::new(pods),
        ..PolicyView::default()
    }
}

/// Compiled rules, and what they do to packets.
pub(crate) struct Node(pub(crate) Ruleset);

impl Node {
    pub(crate) fn new(view: &PolicyView, pods: &[LocalPod]) -> Self {
        Self(compile(view, pods))
    }

    /// Into a pod of this node, from an address elsewhere: `80/tcp`, or `icmp`.
    pub(crate) fn admits(&self, from: &str, to: &str, service: &str) -> bool {
        self.passes(None, Some(link(to)), from, "2001:db8:ffff::1", service)
    }

    /// Out of a pod of this node, to an address elsewhere.
    pub(crate) fn lets_out(&self, from: &str, to: &str, service: &str) -> bool {
        self.passes(Some(link(from)), None, "2001:db8:ffff::1", to, service)
    }

    fn passes(
        &self,
        from: Option<IfName>,
        to: Option<IfName>,
        source: &str,
        destination: &str,
        on: &str,
    ) -> bool {
        let service =
            on.split_once('/').map(|(port, protocol)| (protocol_of(protocol), port.parse().unwrap()));
        let (source, destination) = (ip(source), ip(destination));
        passes(&self.0, &Packet { from, to, source, destination, service })
    }
}
