//! What each kind is watched for: where its objects are kept, whether the source is ready without them, and which
//! views show them.

use std::sync::Arc;

use flock_core::policy::PolicyView;
use flock_core::ports::{ClusterView, Demand};

use crate::collection::Collection;
use crate::index::Index;
use crate::object::{ClusterPolicies, Kind, Namespaces, Others, Own, Pods, Policies, RemotePods};

/// A kind that is watched.
pub(crate) trait Watched: Kind {
    /// What the source waits for until the first list of this kind is in; `None`: it does not wait.
    const AWAITED: Option<&'static str> = None;
    /// The objects show in the [`PolicyView`].
    const IN_POLICIES: bool = false;
    /// A cluster need not know this kind.
    const OPTIONAL: bool = false;

    fn place(index: &mut Index) -> &mut Collection<Self>;

    /// The objects show in the [`ClusterView`].
    fn in_cluster(_demand: Demand) -> bool {
        false
    }

    /// Adds the objects to a view that shows them.
    fn join(_objects: &Collection<Self>, _view: &mut ClusterView) {}

    /// The same for policies.
    fn join_policies(_objects: &Collection<Self>, _view: &mut PolicyView) {}
}

/// The objects of a kind, whichever it is.
pub(crate) trait Part {
    /// What the source waits for.
    fn awaited(&self) -> Option<&'static str>;

    /// Changes whenever the part of the [`ClusterView`] does.
    fn stamp(&self, demand: Demand) -> (u64, u64);

    /// Changes whenever the part of the [`PolicyView`] does.
    fn policy_stamp(&self) -> u64;

    fn join(&self, demand: Demand, view: &mut ClusterView);

    fn join_policies(&self, view: &mut PolicyView);
}

impl<K: Watched> Part for Collection<K> {
    fn awaited(&self) -> Option<&'static str> {
        K::AWAITED.filter(|_| !self.listed())
    }

    fn stamp(&self, demand: Demand) -> (u64, u64) {
        (if K::in_cluster(demand) { self.changes() } else { 0 }, self.faults())
    }

    fn policy_stamp(&self) -> u64 {
        if K::IN_POLICIES { self.changes() } else { 0 }
    }

    fn join(&self, demand: Demand, view: &mut ClusterView) {
        if K::in_cluster(demand) {
            K::join(self, view);
        }
        view.problems.extend(self.problems());
    }

    fn join_policies(&self, view: &mut PolicyView) {
        if K::IN_POLICIES {
            K::join_policies(self, view);
        }
    }
}

impl Watched for Own {
    const AWAITED: Option<&'static str> = Some("the NodeConfig from the API server");

    fn place(index: &mut Index) -> &mut Collection<Self> {
        &mut index.own
    }

    /// The index shows the configuration: what an earlier run knew may stand in for it.
    fn in_cluster(_: Demand) -> bool {
        true
    }
}

impl Watched for Pods {
    const AWAITED: Option<&'static str> = Some("the pods of this node from the API server");

    fn place(index: &mut Index) -> &mut Collection<Self> {
        &mut index.pods
    }

    fn in_cluster(_: Demand) -> bool {
        true
    }

    fn join(pods: &Collection<Self>, view: &mut ClusterView) {
        view.pods = (**pods.objects()).clone();
        view.pods_pending = !pods.listed();
    }
}

impl Watched for Namespaces {
    const IN_POLICIES: bool = true;

    fn place(index: &mut Index) -> &mut Collection<Self> {
        &mut index.namespaces
    }

    fn in_cluster(demand: Demand) -> bool {
        demand.namespaces
    }

    fn join(namespaces: &Collection<Self>, view: &mut ClusterView) {
        let labels = namespaces.objects().iter().map(|(name, labels)| (name.clone(), (**labels).clone()));
        view.namespaces = labels.collect();
    }

    fn join_policies(namespaces: &Collection<Self>, view: &mut PolicyView) {
        view.namespaces = Arc::clone(namespaces.objects());
    }
}

impl Watched for Others {
    fn place(index: &mut Index) -> &mut Collection<Self> {
        &mut index.others
    }

    /// The index shows the pools: it has read the prefixes, and knows which are foreign.
    fn in_cluster(_: Demand) -> bool {
        true
    }
}

impl Watched for Policies {
    const IN_POLICIES: bool = true;

    fn place(index: &mut Index) -> &mut Collection<Self> {
        &mut index.policies
    }

    fn join_policies(policies: &Collection<Self>, view: &mut PolicyView) {
        view.policies = Arc::clone(policies.objects());
    }
}

impl Watched for ClusterPolicies {
    const IN_POLICIES: bool = true;
    /// Its definition is not a part of Kubernetes.
    const OPTIONAL: bool = true;

    fn place(index: &mut Index) -> &mut Collection<Self> {
        &mut index.cluster_policies
    }

    fn join_policies(policies: &Collection<Self>, view: &mut PolicyView) {
        let policies = policies.objects().iter();
        view.cluster = Arc::new(policies.map(|(name, it)| (name.clone(), Arc::clone(&it.policy))).collect());
    }
}

impl Watched for RemotePods {
    const IN_POLICIES: bool = true;

    fn place(index: &mut Index) -> &mut Collection<Self> {
        &mut index.remote_pods
    }

    fn join_policies(pods: &Collection<Self>, view: &mut PolicyView) {
        view.pods = Arc::clone(pods.objects());
    }
}
