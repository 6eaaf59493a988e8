//! What `ClusterNetworkPolicies` say.

use std::net::IpAddr;

use super::{Flow, Holder, Judgement, Pod, Subject, holders, pod, selects_namespace};
use crate::policy::{
    Action, ClusterPeer, ClusterPods, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, Direction,
    LocalPod, PolicyName, PolicyView, Protocol,
};

/// The policies of a tier that select a pod, smallest number first; those of the same priority by name.
pub(super) fn selecting<'a>(
    view: &'a PolicyView,
    tier: ClusterTier,
    subject: Subject<'_>,
) -> Vec<&'a ClusterPolicy> {
    let selects = |policy: &&ClusterPolicy| {
        policy.tier == tier && pod(subject).is_some_and(|pod| is_one(view, pod, &policy.subject))
    };
    let mut policies: Vec<_> = view.cluster.values().map(|policy| &**policy).filter(selects).collect();
    policies.sort_by(|a, b| a.priority.cmp(&b.priority).then(a.name.cmp(&b.name)));
    policies
}

/// What the policies of a tier decide: the first rule that matches does. `None`: the next tier is asked.
pub(super) fn decision(
    view: &PolicyView,
    pods: &[LocalPod],
    flow: &Flow<'_>,
    direction: Direction,
    tier: ClusterTier,
) -> Option<Judgement> {
    let subject = match direction {
        Direction::Egress => flow.from.subject,
        Direction::Ingress => flow.to.subject,
    };
    for policy in selecting(view, tier, subject) {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            if matches(view, pods, flow, rule, direction) {
                let policy = PolicyName::Cluster(policy.name.clone());
                return match rule.action {
                    Action::Accept => Some(Judgement::Admitted { policy, rule: index }),
                    Action::Deny => Some(Judgement::Denied { policy, rule: index }),
                    Action::Pass => None,
                };
            }
        }
    }
    None
}

fn matches(
    view: &PolicyView,
    pods: &[LocalPod],
    flow: &Flow<'_>,
    rule: &ClusterRule,
    direction: Direction,
) -> bool {
    let other = match direction {
        Direction::Egress => flow.to.address,
        Direction::Ingress => flow.from.address,
    };
    let holders = holders(view, pods, other);
    let is_peer = |peer: &ClusterPeer| is_peer(view, &holders, other, rule.action, peer, |_| true);
    let by_port = |peer: &ClusterPeer, port: &ClusterPort| match (port, flow.service) {
        (_, None) => false,
        (ClusterPort::All(protocol), Some((used, _))) => used == *protocol && is_peer(peer),
        (ClusterPort::Range(protocol, range), Some((used, number))) => {
            used == *protocol && (range.first..=range.last).contains(&number) && is_peer(peer)
        }
        (ClusterPort::Name(name), Some(service)) => match direction {
            Direction::Ingress => {
                pod(flow.to.subject).is_some_and(|pod| calls(pod, name, service)) && is_peer(peer)
            }
            // The port is that of a pod at the other end, and the same pod has to be the peer.
            Direction::Egress => is_called(view, &holders, other, rule.action, peer, (name, service)),
        },
    };
    let by_peer = |peer: &ClusterPeer| {
        if rule.ports.is_empty() { is_peer(peer) } else { rule.ports.iter().any(|port| by_port(peer, port)) }
    };
    rule.peers.iter().any(by_peer)
}

/// Whether the other end of the flow is a pod that is meant and has this name for this service.
fn is_called(
    view: &PolicyView,
    holders: &[Holder<'_>],
    address: IpAddr,
    action: Action,
    peer: &ClusterPeer,
    (name, service): (&str, (Protocol, u16)),
) -> bool {
    is_peer(view, holders, address, action, peer, |pod| calls(pod, name, service))
        && is_enough(
            action,
            holders,
            |holder| matches!(holder, Holder::Pod(pod) if calls(*pod, name, service)),
        )
}

/// Whether the other end of the flow is meant by an entry of `from` or `to`, as a pod for which `also` holds.
fn is_peer(
    view: &PolicyView,
    holders: &[Holder<'_>],
    address: IpAddr,
    action: Action,
    peer: &ClusterPeer,
    also: impl Fn(Pod<'_>) -> bool,
) -> bool {
    match peer {
        ClusterPeer::Everybody => true,
        ClusterPeer::Net(cidr) => cidr.contains(&address),
        ClusterPeer::Pods(selected) => is_enough(
            action,
            holders,
            |holder| matches!(holder, Holder::Pod(pod) if is_one(view, *pod, selected) && also(*pod)),
        ),
    }
}

/// Several pods can have an address. What is admitted must be meant for all of them, and for a denial one is enough.
fn is_enough(action: Action, holders: &[Holder<'_>], meant: impl Fn(&Holder<'_>) -> bool) -> bool {
    match action {
        Action::Accept | Action::Pass => !holders.is_empty() && holders.iter().all(meant),
        Action::Deny => holders.iter().any(meant),
    }
}

fn is_one(view: &PolicyView, pod: Pod<'_>, selected: &ClusterPods) -> bool {
    selects_namespace(view, &selected.namespaces, pod.namespace) && selected.pods.matches(pod.labels)
}

/// Whether a pod has this name for a service; the name says nothing about the protocol.
fn calls(pod: Pod<'_>, name: &str, (protocol, number): (Protocol, u16)) -> bool {
    pod.ports.iter().any(|port| port.name == name && port.protocol == protocol && port.number == number)
}
