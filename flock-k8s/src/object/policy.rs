//! What policies are made of.

use flock_core::ids::PodKey;
use flock_core::policy::{NetworkPolicy, PolicyKey, PolicyPod};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use serde_json::Value;

use super::{Kind, Pods};
use crate::convert::{ClusterPolicyView, cluster_policy, network_policy};
use crate::pool::PodPool;

/// The policies of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Policies;

impl Kind for Policies {
    type View = NetworkPolicy;
    type Key = PolicyKey;
    type Pool = ();
    type Scope = NamespaceResourceScope;
    const GROUP: &'static str = "networking.k8s.io";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "NetworkPolicy";
    const PLURAL: &'static str = "networkpolicies";

    fn key(name: &str) -> Option<PolicyKey> {
        let (namespace, name) = name.split_once('/')?;
        Some(PolicyKey { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn view(object: Value) -> Result<Option<NetworkPolicy>, String> {
        network_policy(object).map(Some)
    }

    /// Without it, what it closes would be open.
    fn stand_in(key: &PolicyKey) -> Option<(NetworkPolicy, &'static str)> {
        let meaning = "until it can be read nothing passes to and from the pods of its namespace";
        Some((NetworkPolicy::closed(key.clone()), meaning))
    }
}

/// The policies that are about all namespaces.
#[derive(Debug, Clone)]
pub(crate) struct ClusterPolicies;

impl Kind for ClusterPolicies {
    type View = ClusterPolicyView;
    type Key = String;
    type Pool = ();
    type Scope = ClusterResourceScope;
    const GROUP: &'static str = "policy.networking.k8s.io";
    const VERSION: &'static str = "v1alpha2";
    const KIND: &'static str = "ClusterNetworkPolicy";
    const PLURAL: &'static str = "clusternetworkpolicies";

    fn key(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn view(object: Value) -> Result<Option<ClusterPolicyView>, String> {
        cluster_policy(object).map(Some)
    }

    fn remark(view: &ClusterPolicyView) -> Option<String> {
        view.unenforced.clone()
    }
}

/// Pods of other nodes, of which little is kept: there may be tens of thousands.
#[derive(Debug, Clone)]
pub(crate) struct RemotePods;

impl Kind for RemotePods {
    type View = PolicyPod;
    type Key = PodKey;
    type Pool = PodPool;
    type Scope = NamespaceResourceScope;
    const GROUP: &'static str = Pods::GROUP;
    const VERSION: &'static str = Pods::VERSION;
    const KIND: &'static str = Pods::KIND;
    const PLURAL: &'static str = Pods::PLURAL;
    /// Until Kubernetes 1.34 the API server reads all pods of the cluster for each page but the first.
    const PAGE: u32 = 500;

    fn key(name: &str) -> Option<PodKey> {
        Pods::key(name)
    }

    fn view(object: Value) -> Result<Option<PolicyPod>, String> {
        Ok(Pods::view(object)?.as_ref().and_then(PolicyPod::of))
    }

    fn share(pod: &mut PolicyPod, pool: &mut PodPool) {
        pool.share(pod);
    }
}
