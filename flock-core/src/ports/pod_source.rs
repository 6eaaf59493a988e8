use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;

use super::Retry;
use crate::config::NodeConfigSpec;
use crate::family::Family;
use crate::ids::{NodeName, PodKey, PodUid};
use crate::policy::{Labels, NamedPort, PolicyView};
use crate::prefix;
use crate::special::{overlap, special_ranges};

/// What the cluster says: the node's configuration, pods, namespaces.
#[async_trait]
pub trait PodSource: Send + Sync {
    /// Whether the initial lists are in.
    fn ready(&self) -> Readiness;

    /// The latest view; cheap, never blocks, never changes under the caller.
    fn snapshot(&self) -> Arc<ClusterView>;

    /// Waits until the view's revision differs from `seen` and returns the new one. Level-triggered:
    /// many changes may show as one, none is missed.
    async fn changed(&self, seen: Revision) -> Revision;

    /// The latest view of what policies need, apart from the rest: pods of other nodes come and go all the time, and only
    /// policies care.
    fn policies(&self) -> Arc<PolicyView>;

    /// Waits until the revision of that view differs from `seen` and returns the new one.
    async fn policies_changed(&self, seen: Revision) -> Revision;

    /// Says what is needed from now on beyond the node's own objects. What is not needed is not kept.
    fn demand(&self, demand: Demand);

    /// Reads one pod directly, for an ADD that is ahead of the view. `None`: there is no such pod.
    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<PodView>>, PodSourceError>;
}

/// What a node needs to know of the cluster beyond its own objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Labels of namespaces, in [`ClusterView::namespaces`]: the claims in force select by them.
    pub namespaces: bool,
    /// Policies and, where there are any, namespaces and pods of other nodes, in the [`PolicyView`].
    pub policies: bool,
}

/// Counts views; a larger one is newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// How far the source has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The first lists are not in yet; the text says which.
    Starting(&'static str),
    /// Node configuration and pods have been read at least once.
    Ready,
}

/// The pools of each other node. Shared by the views that have the same: there may be thousands of nodes.
pub type ForeignPools = Arc<BTreeMap<NodeName, Vec<IpNet>>>;

/// One consistent look at the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Of this view.
    pub revision: Revision,
    /// The node whose view it is; where it is not said every pod is taken for one of its own.
    pub node: Option<NodeName>,
    /// The configuration of this node, not yet validated; `None` when there is none.
    pub node_config: Option<NodeConfigView>,
    /// The last good configuration an earlier run knew: in force where this one has had none, and the one that is
    /// written is refused.
    pub last_good: Option<Arc<NodeConfigSpec>>,
    /// Pods by name.
    pub pods: BTreeMap<PodKey, Arc<PodView>>,
    /// The first list of pods is not in: one that is missing may be there and well.
    pub pods_pending: bool,
    /// Labels of the namespaces that are known.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pools of other nodes, where known: no pod of this node may take an address of one.
    pub foreign_pools: ForeignPools,
    /// Objects that could not be read, each with what is wrong; their last good state stays in force.
    pub problems: Vec<String>,
}

impl ClusterView {
    /// The pod of this name, if it is one of this node.
    pub fn own_pod(&self, key: &PodKey) -> Option<&Arc<PodView>> {
        self.pods.get(key).filter(|pod| self.is_own(pod))
    }

    /// Whether a pod is one of this node. A pod that names no node belongs to whoever reads it.
    pub fn is_own(&self, pod: &PodView) -> bool {
        match (&self.node, &pod.node) {
            (Some(here), Some(named)) => here == named,
            _ => true,
        }
    }

    /// Notes the pools of another node. What cannot be one is for that node to complain about: a `::/0` there
    /// takes no address from the pods here.
    pub fn add_foreign_pools(&mut self, node: NodeName, spec: &NodeConfigSpec) {
        let special = |net: &IpNet| special_ranges(Family::of(net.addr())).any(|(_, it)| overlap(&it, net));
        let written = spec.cidr6.iter().chain(&spec.cidr4);
        let pools = written.filter_map(|text| prefix::parse(text)).map(|net| net.trunc());
        let pools = pools.filter(|net| !special(net));
        Arc::make_mut(&mut self.foreign_pools).insert(node, pools.collect());
    }
}

/// A NodeConfig as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfigView {
    /// `metadata.generation`, 0 where there is none.
    pub generation: i64,
    /// The specification, or why the object cannot be read as one.
    pub spec: Result<NodeConfigSpec, String>,
}

/// What flock wants to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`; a manifest may lack one.
    pub uid: Option<PodUid>,
    /// `spec.nodeName`; a manifest without one belongs to the node that reads it.
    pub node: Option<NodeName>,
    /// All annotations.
    pub annotations: BTreeMap<String, String>,
    /// All labels.
    pub labels: Arc<Labels>,
    /// Condition `Ready` is true, or the object carries no conditions (a manifest).
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Uses the node's own network namespace.
    pub host_network: bool,
    /// Its phase is `Succeeded` or `Failed`: its processes have ended for good.
    pub ended: bool,
    /// Its ports that have a name, in order.
    pub ports: Arc<[NamedPort]>,
    /// `image` of the first container, as written.
    pub image: Option<String>,
    /// `status.podIPs`: how a pod of another node is reached. Never a source of truth for a local one.
    pub pod_ips: Vec<IpAddr>,
    /// Addresses of the sandbox that the kubelet speaks of when it says `ready`; empty where it names none, and in a
    /// manifest, whose status nobody keeps.
    pub reported: Vec<IpAddr>,
}

impl PodView {
    /// Is this the pod the runtime means? The UID decides (a `StatefulSet` reuses names); where either side has
    /// none, the name has to do.
    pub fn is(&self, uid: Option<&PodUid>) -> bool {
        match (&self.uid, uid) {
            (Some(seen), Some(asked)) => seen == asked,
            _ => true,
        }
    }

    /// May its advertised addresses be announced (interfaces.md section 9)? The allocation being committed
    /// is the caller's to know.
    pub fn eligible(&self) -> bool {
        self.ready && !self.terminating
    }
}

/// Why a pod could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PodSourceError {
    /// The source does not answer.
    #[error("cannot read pod {pod}: {reason}")]
    Unavailable {
        /// The pod asked for.
        pod: PodKey,
        /// What the source said.
        reason: String,
    },
}

impl PodSourceError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable { .. } => Retry::Later,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "pod_source",
        }
    }
}
