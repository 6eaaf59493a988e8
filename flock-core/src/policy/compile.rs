mod admits;
mod chains;
mod compiler;
mod digest;
mod directory;
mod holders;
mod selection;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{
    ChainId, ClusterPolicy, ClusterTier, Direction, Gate, Labels, NamedPort, NetworkPolicy, Place, PodRules,
    PolicyKey, PolicyView, Ruleset, Shut, Tier,
};
use crate::ids::{IfName, PodKey};
use chains::{Asked, Chains};
use directory::Directory;
use holders::namespace_labels;

pub use compiler::Compiler;

/// A pod of this node, as its link is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// The host's end of its link.
    pub link: IfName,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses it shares with other pods.
    pub anycast: Vec<IpAddr>,
    /// Who it is.
    pub identity: LocalIdentity,
}

/// Who a pod of this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalIdentity {
    /// The cluster shows it.
    Pod {
        /// Namespace and name.
        key: PodKey,
        /// Its labels.
        labels: Arc<Labels>,
        /// Its named ports, in order.
        ports: Arc<[NamedPort]>,
        /// It has ended: it is no peer of anybody.
        ended: bool,
    },
    /// The runtime names a pod that the cluster does not show (yet, or any more): its labels are not known.
    Unknown {
        /// Its namespace; `None` where only its UID is known.
        namespace: Option<String>,
    },
    /// The runtime named no pod: no policy can select it.
    Nameless,
}

/// What has to be in the kernel before the link of a pod exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The host's end of its link to be.
    pub link: IfName,
    /// Addresses packets from the pod may have as their source.
    pub sources: Vec<IpAddr>,
    /// Nothing passes until the next update says so.
    pub shut: bool,
}

impl Guard {
    /// Does to `rules` what the transaction does to the kernel: nothing is taken away. A shut pod stays judged by the
    /// chains it had, but nothing reaches them.
    pub fn apply(&self, rules: &mut Ruleset) {
        let open = || PodRules { sources: std::collections::BTreeSet::new(), place: Place::Open };
        let pod = rules.pods.entry(self.link.clone()).or_insert_with(open);
        pod.sources.extend(&self.sources);
        if self.shut {
            pod.place = Place::Shut(Shut::Unknown);
        }
    }
}

/// Everything the firewall has to hold.
///
/// ```
/// use flock_core::policy::{Place, PolicyView, Shut, compile};
/// # use flock_core::policy::{LocalIdentity, LocalPod};
/// # use flock_core::ids::IfName;
/// # let link = IfName::parse("flock1").unwrap();
/// # let identity = LocalIdentity::Nameless;
/// # let pod = LocalPod { link: link.clone(), addresses: vec![], anycast: vec![], identity };
/// let listing = PolicyView::default();
/// assert_eq!(compile(&listing, &[pod.clone()]).pods[&link].place, Place::Shut(Shut::Starting));
///
/// let listed = PolicyView { complete: true, ..listing };
/// assert_eq!(compile(&listed, &[pod]).pods[&link].place, Place::Open);
/// ```
pub fn compile(view: &PolicyView, pods: &[LocalPod]) -> Ruleset {
    from_scratch(view, pods).0
}

fn from_scratch(view: &PolicyView, pods: &[LocalPod]) -> (Ruleset, Asked) {
    let mut ruleset = Ruleset { judging: !view.complete || !view.has_no_policy(), ..Ruleset::default() };
    let cluster = in_order(view);
    let mut chains = None;
    for pod in pods {
        let place = match &pod.identity {
            _ if !view.complete => Place::Shut(Shut::Starting),
            LocalIdentity::Pod { key, labels, ports, .. } => {
                let selected = Selected::new(view, &cluster, key.namespace(), labels);
                if selected.is_empty() {
                    Place::Open
                } else {
                    let chains = chains.get_or_insert_with(|| Chains::new(Directory::new(view, pods)));
                    Place::Judged(selected.gates(ports, chains))
                }
            }
            LocalIdentity::Unknown { namespace } if may_select(view, namespace.as_deref()) => {
                Place::Shut(Shut::Unknown)
            }
            LocalIdentity::Unknown { .. } | LocalIdentity::Nameless => Place::Open,
        };
        ruleset.pods.insert(pod.link.clone(), PodRules { sources: sources(pod).collect(), place });
    }
    let asked = chains.map(|chains| chains.finish(&mut ruleset)).unwrap_or_default();
    (ruleset, asked)
}

/// The policies that select a pod.
struct Selected<'a> {
    admin: Vec<&'a ClusterPolicy>,
    policies: Vec<&'a NetworkPolicy>,
    baseline: Vec<&'a ClusterPolicy>,
}

impl<'a> Selected<'a> {
    /// Those of a pod with these labels; `cluster` are all `ClusterNetworkPolicies` in order.
    fn new(view: &'a PolicyView, cluster: &[&'a ClusterPolicy], namespace: &str, labels: &Labels) -> Self {
        let selecting_cluster = selecting_cluster(view, cluster.iter().copied(), namespace, labels);
        let (admin, baseline) = selecting_cluster.partition(|policy| policy.tier == ClusterTier::Admin);
        Self { admin, policies: selecting(view, namespace, labels).collect(), baseline }
    }

    fn is_empty(&self) -> bool {
        self.admin.is_empty() && self.policies.is_empty() && self.baseline.is_empty()
    }

    /// The chains they come to, for a pod with these named ports. What `NetworkPolicies` say of a direction is final, so
    /// the baseline is for directions they say nothing about.
    fn gates(&self, own: &'a [NamedPort], chains: &mut Chains<'a>) -> BTreeMap<Gate, ChainId> {
        let mut gates = BTreeMap::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            let policy = chains.of(direction, &self.policies, own);
            let of_tiers = [
                (Tier::Admin, chains.of_tier(direction, &self.admin, own)),
                (Tier::Policy, policy),
                (
                    Tier::Baseline,
                    match policy {
                        Some(_) => None,
                        None => chains.of_tier(direction, &self.baseline, own),
                    },
                ),
            ];
            gates.extend(of_tiers.into_iter().filter_map(|(tier, id)| Some((Gate { direction, tier }, id?))));
        }
        gates
    }
}

/// What has to be there before the link of this pod is: shut where a policy may select it.
pub fn guard(view: &PolicyView, pod: &LocalPod) -> Guard {
    let selected = match &pod.identity {
        LocalIdentity::Pod { key, labels, .. } => {
            !Selected::new(view, &in_order(view), key.namespace(), labels).is_empty()
        }
        LocalIdentity::Unknown { namespace } => may_select(view, namespace.as_deref()),
        LocalIdentity::Nameless => false,
    };
    Guard { link: pod.link.clone(), sources: sources(pod).collect(), shut: !view.complete || selected }
}

/// Addresses a pod may send from; it answers from those it shares.
fn sources(pod: &LocalPod) -> impl Iterator<Item = IpAddr> {
    pod.addresses.iter().chain(&pod.anycast).copied()
}

/// The `NetworkPolicies` of a namespace; of all where it is not known.
fn policies<'a>(view: &'a PolicyView, namespace: Option<&str>) -> impl Iterator<Item = &'a NetworkPolicy> {
    let first = PolicyKey { namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
    let policies = view.policies.range(first..);
    policies
        .take_while(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
        .map(|(_, policy)| &**policy)
}

/// The `NetworkPolicies` that select a pod.
fn selecting<'a>(
    view: &'a PolicyView,
    namespace: &str,
    labels: &Labels,
) -> impl Iterator<Item = &'a NetworkPolicy> {
    policies(view, Some(namespace)).filter(|policy| policy.subject.matches(labels))
}

/// All `ClusterNetworkPolicies` in the order they are asked within their tier.
fn in_order(view: &PolicyView) -> Vec<&ClusterPolicy> {
    let mut policies: Vec<_> = view.cluster.values().map(|policy| &**policy).collect();
    policies.sort_by_key(|policy| policy.precedence());
    policies
}

/// Those of these `ClusterNetworkPolicies` that select a pod.
fn selecting_cluster<'a>(
    view: &PolicyView,
    policies: impl Iterator<Item = &'a ClusterPolicy>,
    namespace: &str,
    labels: &Labels,
) -> impl Iterator<Item = &'a ClusterPolicy> {
    // Most clusters have no such policy, and then the labels of namespaces are none of our business.
    let mut policies = policies.peekable();
    let namespace = policies.peek().map(|_| namespace_labels(&view.namespaces, namespace));
    policies.filter(move |policy| {
        namespace.as_ref().is_some_and(|namespace| policy.subject.matches(namespace, labels))
    })
}

/// Whether there is a policy that may select a pod with unknown labels.
fn may_select(view: &PolicyView, namespace: Option<&str>) -> bool {
    let mut cluster = view.cluster.values();
    policies(view, namespace).next().is_some()
        || match namespace.and_then(|namespace| view.namespaces.get_key_value(namespace)) {
            // The labels of the namespace are not known either.
            None => cluster.next().is_some(),
            Some((name, _)) => {
                let labels = namespace_labels(&view.namespaces, name);
                cluster.any(|policy| policy.subject.namespaces.matches(&labels))
            }
        }
}
