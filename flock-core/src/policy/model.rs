use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use super::ClusterPolicy;
use crate::annotation::PodIntent;
use crate::ids::PodKey;
use crate::ports::{PodView, Revision};
use crate::selector::LabelSelector;

/// Labels of a pod or a namespace. Pods of one workload share them.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name of a NetworkPolicy; prints as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PolicyKey {
    /// The namespace, which is also that of the pods it selects.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PolicyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl TryFrom<String> for PolicyKey {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        let (namespace, name) = value.split_once('/').ok_or("a policy must be written as NAMESPACE/NAME")?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// A transport protocol a NetworkPolicy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its name in lower case, as nftables writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Ports from `first` to `last`, both included; `first` is not larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// Which ports of a protocol an entry of `ports` means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// All of them: the entry has no `port`.
    Any,
    /// A number, or `port` to `endPort`.
    Range(PortRange),
    /// The port the destination pod calls so, for the protocol of the entry.
    Name(String),
}

/// An entry of `ports`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: Protocol,
    /// Its ports.
    pub port: PortMatch,
}

/// An entry of `from` or `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyPeer {
    /// Pods: at least one of the selectors is there, and both have to match.
    Pods {
        /// Their namespaces; `None`: that of the policy.
        namespaces: Option<LabelSelector>,
        /// Themselves; `None`: all of these namespaces.
        pods: Option<LabelSelector>,
    },
    /// Addresses on the wire, those of pods too (`ipBlock`).
    Net {
        /// The prefix, without host bits.
        cidr: IpNet,
        /// Parts of it that are not meant, without host bits, in order.
        except: Vec<IpNet>,
    },
}

/// One rule of a direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRule {
    /// Who is admitted; empty: everybody, outside too.
    pub peers: Vec<PolicyPeer>,
    /// For what; empty: everything, whatever the protocol.
    pub ports: Vec<PolicyPort>,
}

/// A NetworkPolicy (`networking.k8s.io/v1`), read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its name.
    pub key: PolicyKey,
    /// The pods of its namespace it is about.
    pub subject: LabelSelector,
    /// What may come in; `None` where it says nothing about that direction, empty where nothing may.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What may go out, in the same manner.
    pub egress: Option<Vec<PolicyRule>>,
}

impl NetworkPolicy {
    /// What stands in for a policy that cannot be read: all pods of its namespace are selected, and nothing is admitted.
    pub fn closed(key: PolicyKey) -> Self {
        Self { key, subject: LabelSelector::default(), ingress: Some(Vec::new()), egress: Some(Vec::new()) }
    }
}

/// A port of a container that has a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number, `containerPort`.
    pub number: u16,
}

/// What policies need to know of a pod of another node. Pods with `hostNetwork` and those that have ended are not
/// kept at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPod {
    /// Namespace and name.
    pub key: PodKey,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Its named ports, in order.
    pub ports: Arc<[NamedPort]>,
    /// `status.podIPs`: its own addresses.
    pub pod_ips: Vec<IpAddr>,
    /// Addresses its annotations `addresses` and `anycast` ask for. They count for nothing until the pod has an address of its own,
    /// and never where they are the own address of another pod.
    pub claimed: Vec<IpAddr>,
}

/// Names a policy of either kind; prints as `NAMESPACE/NAME` or `ClusterNetworkPolicy/NAME`. No namespace has capital
/// letters, so these are never the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum PolicyName {
    /// A NetworkPolicy.
    Namespaced(PolicyKey),
    /// A `ClusterNetworkPolicy`.
    Cluster(String),
}

impl PolicyName {
    const CLUSTER: &str = "ClusterNetworkPolicy";
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespaced(key) => key.fmt(f),
            Self::Cluster(name) => write!(f, "{}/{name}", Self::CLUSTER),
        }
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl TryFrom<String> for PolicyName {
    type Error = &'static str;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        match value.split_once('/') {
            Some((Self::CLUSTER, name)) => Ok(Self::Cluster(name.to_owned())),
            _ => PolicyKey::try_from(value).map(Self::Namespaced),
        }
    }
}

impl PolicyPod {
    /// What policies need to know of a pod of another node; `None` where it is nobody to them: with `hostNetwork` it is its
    /// node, and one that has ended or that no node runs yet sends nothing.
    pub fn of(pod: &PodView) -> Option<Self> {
        if pod.host_network || pod.ended || pod.node.is_none() {
            return None;
        }
        // With a bad annotation its node attaches it to nothing.
        let intent = PodIntent::parse(&pod.annotations).unwrap_or_default();
        Some(Self {
            key: pod.key.clone(),
            labels: Arc::clone(&pod.labels),
            ports: Arc::clone(&pod.ports),
            pod_ips: pod.pod_ips.clone(),
            claimed: intent.addresses.into_iter().chain(intent.anycast).collect(),
        })
    }
}

/// What the cluster says of policies. The maps are shared by views that have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyView {
    /// Of this view; larger is newer.
    pub revision: Revision,
    /// Everything that the policies need has been listed at least once.
    pub complete: bool,
    /// All `NetworkPolicies`.
    pub policies: Arc<BTreeMap<PolicyKey, Arc<NetworkPolicy>>>,
    /// All `ClusterNetworkPolicies`, by name.
    pub cluster: Arc<BTreeMap<String, Arc<ClusterPolicy>>>,
    /// Labels of the namespaces, `kubernetes.io/metadata.name` among them.
    pub namespaces: Arc<BTreeMap<String, Arc<Labels>>>,
    /// Pods of the other nodes.
    pub pods: Arc<BTreeMap<PodKey, Arc<PolicyPod>>>,
}

impl PolicyView {
    /// The cluster has no policy of either kind.
    pub fn has_no_policy(&self) -> bool {
        self.policies.is_empty() && self.cluster.is_empty()
    }
}
