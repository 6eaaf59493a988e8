//! What the Kubernetes API says about one flow, written as its documentation tells it: a loop over the policies, their
//! rules and their peers. Serves people who ask why a flow does not pass, and is what compiled rules are compared with.

mod cluster;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    ClusterTier, Direction, LocalIdentity, LocalPod, NamedPort, NetworkPolicy, PolicyKey, PolicyName,
    PolicyPeer, PolicyPod, PolicyPort, PolicyRule, PolicyView, PortMatch, Protocol, Shut,
};
use crate::selector::LabelSelector;

/// A new flow, as the server's node sees it: addresses and port after DNAT.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// The client.
    pub from: Endpoint<'a>,
    /// The server.
    pub to: Endpoint<'a>,
    /// Protocol and port of the server; `None` for a protocol that policies cannot name, such as ICMP.
    pub service: Option<(Protocol, u16)>,
}

/// One end of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// The pod that is really there: its policies judge the flow.
    pub subject: Subject<'a>,
    /// The address on the wire: the policies of the other end judge the flow by it.
    pub address: IpAddr,
}

/// Who is at one end of a flow.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A pod of this node.
    Local(&'a LocalPod),
    /// A pod of another node, which judges it there.
    Remote(&'a PolicyPod),
    /// No pod.
    Outside,
}

/// Whether a flow passes, and why. It needs the consent of both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// By the policies of the client.
    pub egress: Judgement,
    /// By the policies of the server.
    pub ingress: Judgement,
}

impl Verdict {
    /// Whether the flow passes.
    pub fn passes(&self) -> bool {
        [&self.egress, &self.ingress].iter().all(|end| {
            !matches!(end, Judgement::Shut { .. } | Judgement::Refused { .. } | Judgement::Denied { .. })
        })
    }
}

/// What one end of a flow says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "judgement")]
pub enum Judgement {
    /// Passes: no policy selects this end for this direction.
    NotSelected,
    /// Passes: both ends are the same pod.
    Itself,
    /// Passes: only `ClusterNetworkPolicies` select this end for this direction, and none of them decides.
    Undecided,
    /// Passes, by a policy of this end.
    Admitted {
        /// The first policy that admits it.
        policy: PolicyName,
        /// The index of its first rule that does, in `egress` or `ingress`.
        rule: usize,
    },
    /// Dropped by a rule of a `ClusterNetworkPolicy` of this end.
    Denied {
        /// The policy.
        policy: PolicyName,
        /// The index of the rule, in `egress` or `ingress`.
        rule: usize,
    },
    /// Dropped: no NetworkPolicy that selects this end for this direction admits it, and no `ClusterNetworkPolicy` of the
    /// tier before them does.
    Refused {
        /// These `NetworkPolicies`.
        policies: Vec<PolicyKey>,
    },
    /// Dropped: nothing passes from and to this end.
    Shut {
        /// Why.
        reason: Shut,
    },
}

/// The policies that select a pod, in the order they are asked, each with the directions it judges.
pub fn selecting(view: &PolicyView, subject: Subject<'_>) -> Vec<(PolicyName, Vec<Direction>)> {
    const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];
    let namespaced: Vec<_> = view.policies.values().filter(|policy| selects(policy, subject)).collect();
    let judges = |policy: &NetworkPolicy, direction| match direction {
        Direction::Egress => policy.egress.is_some(),
        Direction::Ingress => policy.ingress.is_some(),
    };
    let is_final = |direction: &Direction| namespaced.iter().any(|policy| judges(policy, *direction));
    let of_tier = |tier| {
        cluster::selecting(view, tier, subject).into_iter().map(move |policy| {
            let mut directions = DIRECTIONS.to_vec();
            directions.retain(|direction| !policy.rules(*direction).is_empty());
            (PolicyName::Cluster(policy.name.clone()), directions)
        })
    };
    let mut told: Vec<_> = of_tier(ClusterTier::Admin).collect();
    told.extend(namespaced.iter().map(|policy| {
        let directions = DIRECTIONS.into_iter().filter(|direction| judges(policy, *direction));
        (PolicyName::Namespaced(policy.key.clone()), directions.collect())
    }));
    told.extend(of_tier(ClusterTier::Baseline).map(|(name, mut directions)| {
        directions.retain(|direction| !is_final(direction));
        (name, directions)
    }));
    told
}

/// Whether a flow passes, and why.
pub fn verdict(view: &PolicyView, pods: &[LocalPod], flow: &Flow<'_>) -> Verdict {
    let end = |direction| judgement(view, pods, flow, direction);
    Verdict { egress: end(Direction::Egress), ingress: end(Direction::Ingress) }
}

fn judgement(view: &PolicyView, pods: &[LocalPod], flow: &Flow<'_>, direction: Direction) -> Judgement {
    let (own, other) = match direction {
        Direction::Egress => (flow.from, flow.to),
        Direction::Ingress => (flow.to, flow.from),
    };
    if let Subject::Local(pod) = own.subject
        && let Some(reason) = shut(view, pod)
    {
        return Judgement::Shut { reason };
    }
    if is_same(own.subject, other.subject) {
        return Judgement::Itself;
    }
    let decide = |tier| cluster::decision(view, pods, flow, direction, tier);
    if let Some(decided) = decide(ClusterTier::Admin) {
        return decided;
    }
    let mut refusing = Vec::new();
    for policy in view.policies.values().filter(|policy| selects(policy, own.subject)) {
        let rules = match direction {
            Direction::Egress => &policy.egress,
            Direction::Ingress => &policy.ingress,
        };
        let Some(rules) = rules else { continue };
        for (index, rule) in rules.iter().enumerate() {
            if admits(view, pods, flow, &policy.key.namespace, rule, direction) {
                let policy = PolicyName::Namespaced(policy.key.clone());
                return Judgement::Admitted { policy, rule: index };
            }
        }
        refusing.push(policy.key.clone());
    }
    if !refusing.is_empty() {
        return Judgement::Refused { policies: refusing };
    }
    let judges = |tier| {
        cluster::selecting(view, tier, own.subject).iter().any(|policy| !policy.rules(direction).is_empty())
    };
    let undecided = || {
        let is_judged = judges(ClusterTier::Admin) || judges(ClusterTier::Baseline);
        if is_judged { Judgement::Undecided } else { Judgement::NotSelected }
    };
    decide(ClusterTier::Baseline).unwrap_or_else(undecided)
}

fn shut(view: &PolicyView, pod: &LocalPod) -> Option<Shut> {
    if !view.complete {
        return Some(Shut::Starting);
    }
    match &pod.identity {
        LocalIdentity::Unknown { namespace: None } if !view.has_no_policy() => Some(Shut::Unknown),
        LocalIdentity::Unknown { namespace: Some(namespace) } => {
            let by_namespaced = view.policies.keys().any(|key| key.namespace == *namespace);
            let by_cluster = view.cluster.values().any(|policy| {
                !view.namespaces.contains_key(namespace)
                    || selects_namespace(view, &policy.subject.namespaces, namespace)
            });
            (by_namespaced || by_cluster).then_some(Shut::Unknown)
        }
        _ => None,
    }
}

fn is_same(one: Subject<'_>, other: Subject<'_>) -> bool {
    match (one, other) {
        (Subject::Local(one), Subject::Local(other)) => one.link == other.link,
        (Subject::Remote(one), Subject::Remote(other)) => one.key == other.key,
        _ => false,
    }
}

fn selects(policy: &NetworkPolicy, subject: Subject<'_>) -> bool {
    pod(subject)
        .is_some_and(|pod| policy.key.namespace == pod.namespace && policy.subject.matches(pod.labels))
}

/// The pod a subject is, if its labels are known.
fn pod(subject: Subject<'_>) -> Option<Pod<'_>> {
    let (key, labels, ports) = match subject {
        Subject::Local(LocalPod { identity: LocalIdentity::Pod { key, labels, ports, .. }, .. }) => {
            (key, labels, ports)
        }
        Subject::Remote(pod) => (&pod.key, &pod.labels, &pod.ports),
        _ => return None,
    };
    Some(Pod { namespace: key.namespace(), labels, ports })
}

fn admits(
    view: &PolicyView,
    pods: &[LocalPod],
    flow: &Flow<'_>,
    namespace: &str,
    rule: &PolicyRule,
    direction: Direction,
) -> bool {
    let other = match direction {
        Direction::Egress => flow.to.address,
        Direction::Ingress => flow.from.address,
    };
    // Several pods can have an address. It counts as theirs only in what holds for all of them.
    let holders = holders(view, pods, other);
    let all = |holds: &dyn Fn(&Holder<'_>) -> bool| !holders.is_empty() && holders.iter().all(holds);
    let is_peer = |peer: &PolicyPeer| match peer {
        PolicyPeer::Net { cidr, except } => in_block(other, cidr, except),
        PolicyPeer::Pods { namespaces, pods } => all(&|holder| {
            let Holder::Pod(pod) = holder else { return false };
            let in_namespace = match namespaces {
                Some(selector) => selects_namespace(view, selector, pod.namespace),
                None => pod.namespace == namespace,
            };
            in_namespace && pods.as_ref().is_none_or(|selector| selector.matches(pod.labels))
        }),
    };
    let is_port = |port: &PolicyPort| {
        let Some((protocol, number)) = flow.service else { return false };
        let has = |ports: &[NamedPort], name: &str| {
            ports.iter().any(|port| port.name == name && port.protocol == protocol && port.number == number)
        };
        protocol == port.protocol
            && match (&port.port, direction) {
                (PortMatch::Any, _) => true,
                (PortMatch::Range(range), _) => (range.first..=range.last).contains(&number),
                (PortMatch::Name(name), Direction::Egress) => {
                    all(&|holder| matches!(holder, Holder::Pod(pod) if has(pod.ports, name)))
                }
                (PortMatch::Name(name), Direction::Ingress) => {
                    pod(flow.to.subject).is_some_and(|pod| has(pod.ports, name))
                }
            }
    };
    (rule.peers.is_empty() || rule.peers.iter().any(is_peer))
        && (rule.ports.is_empty() || rule.ports.iter().any(is_port))
}

fn in_block(address: IpAddr, cidr: &IpNet, except: &[IpNet]) -> bool {
    cidr.contains(&address) && !except.iter().any(|except| except.contains(&address))
}

/// The API server sets `kubernetes.io/metadata.name` on every namespace, so it is there even where it is not shown.
fn selects_namespace(view: &PolicyView, selector: &LabelSelector, name: &str) -> bool {
    let mut labels = view.namespaces.get(name).map(|labels| (**labels).clone()).unwrap_or_default();
    labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert_with(|| name.to_owned());
    selector.matches(&labels)
}

enum Holder<'a> {
    Pod(Pod<'a>),
    /// A pod whose labels are not known: no selector matches it.
    Unknown,
}

#[derive(Clone, Copy)]
struct Pod<'a> {
    namespace: &'a str,
    labels: &'a super::Labels,
    ports: &'a [NamedPort],
}

/// Who has an address: those whose own it is, or else those that share or claim it.
fn holders<'a>(view: &'a PolicyView, pods: &'a [LocalPod], address: IpAddr) -> Vec<Holder<'a>> {
    let (mut owners, mut sharers) = (Vec::new(), Vec::new());
    for pod in view.pods.values() {
        let holder =
            || Holder::Pod(Pod { namespace: pod.key.namespace(), labels: &pod.labels, ports: &pod.ports });
        if pod.pod_ips.contains(&address) {
            owners.push(holder());
        } else if pod.claimed.contains(&address) && !pod.pod_ips.is_empty() {
            sharers.push(holder());
        }
    }
    for pod in pods {
        let holder = || match &pod.identity {
            LocalIdentity::Pod { key, labels, ports, .. } => {
                Holder::Pod(Pod { namespace: key.namespace(), labels, ports })
            }
            LocalIdentity::Unknown { .. } | LocalIdentity::Nameless => Holder::Unknown,
        };
        if matches!(pod.identity, LocalIdentity::Pod { ended: true, .. }) {
            // It has ended, so it is nobody.
        } else if pod.addresses.contains(&address) {
            owners.push(holder());
        } else if pod.anycast.contains(&address) {
            sharers.push(holder());
        }
    }
    if owners.is_empty() { sharers } else { owners }
}
