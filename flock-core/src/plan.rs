//! What flock would do with manifests, decided offline: `flock-agent plan`. The same decisions as an ADD takes,
//! for all pods of all nodes at once, each node with an allocator of its own that starts empty.
//!
//! The outcome is a value: it prints as text for people, and serialises.
//!
//! ```
//! use std::sync::Arc;
//! use flock_core::config::{BgpSpec, NodeConfigSpec};
//! use flock_core::ids::NodeName;
//! use flock_core::plan::{Objects, Source, plan};
//! use flock_core::ports::NodeConfigView;
//! # use flock_core::testing::pod_view;
//!
//! let spec = NodeConfigSpec {
//!     cidr6: vec!["2001:db8:f001::/64".to_owned()],
//!     bgp: BgpSpec { asn: 65101, ..BgpSpec::default() },
//!     ..NodeConfigSpec::default()
//! };
//! let mut objects = Objects::default();
//! objects.nodes.insert(NodeName::parse("node1")?, NodeConfigView { generation: 1, spec: Ok(spec) });
//! objects.pods.push(Arc::new(pod_view("shop/web-0")));
//!
//! let report = plan(&objects, None);
//! assert!(report.is_fine());
//! let address = report.pods[0].ipv6.as_ref().and_then(|ipv6| ipv6.address.as_ref());
//! let ranges = vec!["2001:db8:f001::/64".parse()?];
//! assert_eq!(address.map(|address| &address.source), Some(&Source::Random { ranges }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::eligibility::Withheld;
use crate::family::{DecidedBy, Family};
use crate::ids::{NodeName, PodKey};
use crate::iid::Field;
use crate::policy::{ClusterPolicy, NetworkPolicy};
use crate::ports::{NodeConfigView, PodView};

mod flow;
mod node;
mod pod;
mod text;

pub use self::flow::{flow, is_stand_in};
pub use self::node::plan;

/// What manifests hold, whichever node they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// The configurations of nodes, not yet validated.
    pub nodes: BTreeMap<NodeName, NodeConfigView>,
    /// Pods in the order written, no two of the same name.
    pub pods: Vec<Arc<PodView>>,
    /// Labels of the namespaces that are there.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The policies, no two of the same name.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// The `ClusterNetworkPolicies`, no two of the same name.
    pub cluster_policies: Vec<Arc<ClusterPolicy>>,
    /// How many objects there are of each kind that flock has no use for, by `apiVersion` and kind.
    pub ignored: BTreeMap<String, usize>,
    /// Objects that could not be read, each with what is wrong.
    pub problems: Vec<String>,
}

/// What flock would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Every node that has a configuration, by name.
    pub nodes: Vec<NodeReport>,
    /// Every pod, in the order written.
    pub pods: Vec<PodReport>,
    /// Objects that have no effect, counted by `apiVersion` and kind.
    pub ignored: BTreeMap<String, usize>,
    /// Objects that cannot be read, each with what is wrong.
    pub problems: Vec<String>,
}

impl Report {
    /// Nothing in the manifests is refused.
    pub fn is_fine(&self) -> bool {
        self.problems.is_empty()
            && self.nodes.iter().all(|node| node.problems.is_empty())
            && self.pods.iter().all(PodReport::is_fine)
    }
}

/// What a node would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The node.
    pub node: NodeName,
    /// The pools, which are announced whatever pods there are.
    pub announces: Vec<IpNet>,
    /// The routers they are announced to.
    pub peers: Vec<IpAddr>,
    /// How many claims say who may take which address; 0: any pod, any address.
    pub claims: usize,
    /// What is wrong with the configuration. With one problem all of it is refused.
    pub problems: Vec<String>,
}

/// What a pod would get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// The pod.
    pub pod: PodKey,
    /// The node it is planned on, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// It uses the network of its node, and flock is never asked.
    pub host_network: bool,
    /// Why nothing can be said of it beside its own problems: there is no good configuration of its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unplanned: Option<String>,
    /// IPv6, where the pod is planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<FamilyReport>,
    /// IPv4, where the pod is planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<FamilyReport>,
    /// Further addresses on `eth0`.
    pub extra: Vec<AddressReport>,
    /// Anycast addresses on `lo`.
    pub anycast: Vec<AddressReport>,
    /// What is refused. With one problem the pod gets no address at all.
    pub problems: Vec<String>,
}

impl PodReport {
    /// Nothing has been said of this pod yet.
    fn of(pod: &PodView) -> Self {
        Self {
            pod: pod.key.clone(),
            node: None,
            host_network: pod.host_network,
            unplanned: None,
            ipv6: None,
            ipv4: None,
            extra: Vec::new(),
            anycast: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The pod would get what it asks for.
    pub fn is_fine(&self) -> bool {
        self.unplanned.is_none() && self.problems.is_empty()
    }

    /// The report of a family.
    pub fn family(&self, family: Family) -> Option<&FamilyReport> {
        match family {
            Family::V6 => self.ipv6.as_ref(),
            Family::V4 => self.ipv4.as_ref(),
        }
    }
}

/// Whether a pod gets a family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyReport {
    /// It is to have an address.
    pub on: bool,
    /// What says so.
    pub by: DecidedBy,
    /// The address, unless the family is off or the pod is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressReport>,
}

/// One address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressReport {
    /// Where it comes from.
    #[serde(flatten)]
    pub source: Source,
    /// Index of the first claim that grants it; `None` also where it needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<usize>,
    /// How the network hears of it.
    pub announced: Announced,
}

/// Where an address comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "camelCase")]
pub enum Source {
    /// The pod brings it along.
    Given {
        /// The address.
        address: IpAddr,
    },
    /// The pod asks for a prefix of one address.
    Pinned {
        /// The address.
        address: IpAddr,
    },
    /// The lowest free one, beside the pods before it in the manifests.
    Lowest {
        /// The address.
        address: IpAddr,
        /// Where it is looked for, in this order.
        ranges: Vec<IpNet>,
    },
    /// A random one.
    Random {
        /// Where it is looked for, in this order.
        ranges: Vec<IpNet>,
    },
    /// One that carries the pod's identity, random in what is left.
    Embedded {
        /// What is embedded, from the top.
        #[serde(serialize_with = "words")]
        fields: Vec<Field>,
        /// All addresses that carry it.
        ranges: Vec<IpNet>,
    },
}

/// How the network hears of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "camelCase")]
pub enum Announced {
    /// As a part of a pool of the node.
    Pool {
        /// The pool.
        prefix: IpNet,
    },
    /// On its own, while the pod is Ready.
    Itself {
        /// The /128 or /32.
        prefix: IpNet,
    },
    /// Not at all as things are.
    Nothing {
        /// Why.
        reason: Withheld,
    },
}

fn words<S: Serializer>(fields: &[Field], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(fields.iter().map(|field| field.as_str()))
}
