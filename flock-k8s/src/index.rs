//! What the watches have said so far, as the views of a source. Pure: fed by events, tested without an API server.

use std::sync::Arc;

use flock_core::config::NodeConfigSpec;
use flock_core::ids::NodeName;
use flock_core::policy::PolicyView;
use flock_core::ports::{ClusterView, Demand, ForeignPools, NodeConfigView, Readiness};

use crate::collection::Collection;
use crate::object::{ClusterPolicies, Namespaces, Others, Own, OwnView, Pods, Policies, RemotePods};
use crate::watched::Part;

/// Everything that is watched.
#[derive(Debug)]
pub(crate) struct Index {
    node: NodeName,
    /// What an earlier run knew; counts until the API server has spoken.
    remembered: Option<NodeConfigView>,
    /// The same; counts where what the API server says is refused, until it says that there is none.
    last_good: Option<Arc<NodeConfigSpec>>,
    /// The API server does not answer.
    away: bool,
    /// It did not answer, or not in time, while there was a NodeConfig: the node serves, and goes on when some lists are in.
    alone: bool,
    demand: Demand,
    pub(crate) own: Collection<Own>,
    pub(crate) pods: Collection<Pods>,
    pub(crate) namespaces: Collection<Namespaces>,
    pub(crate) others: Collection<Others>,
    pub(crate) policies: Collection<Policies>,
    pub(crate) cluster_policies: Collection<ClusterPolicies>,
    pub(crate) remote_pods: Collection<RemotePods>,
    /// What `others` say, and after how many changes of it.
    foreign: (u64, ForeignPools),
}

/// Kinds that are watched.
const PARTS: usize = 7;

/// Differs from the last one where the [`ClusterView`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    alone: bool,
    demand: Demand,
    parts: [(u64, u64); PARTS],
}

/// Differs from the last one where the [`PolicyView`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyStamp {
    complete: bool,
    parts: [u64; PARTS],
}

/// Which of the kinds that not every node needs have to be watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) policies: bool,
    pub(crate) namespaces: bool,
    pub(crate) remote_pods: bool,
}

impl Index {
    pub(crate) fn new(node: NodeName, remembered: Option<NodeConfigView>) -> Self {
        let last_good = remembered.as_ref().and_then(|config| config.spec.clone().ok()).map(Arc::new);
        let mut index = Self {
            node,
            remembered,
            last_good,
            away: false,
            alone: false,
            demand: Demand::default(),
            own: Collection::default(),
            pods: Collection::default(),
            namespaces: Collection::default(),
            others: Collection::default(),
            policies: Collection::default(),
            cluster_policies: Collection::default(),
            remote_pods: Collection::default(),
            foreign: (0, ForeignPools::default()),
        };
        index.settle();
        index
    }

    fn parts(&self) -> [&dyn Part; PARTS] {
        let Self { own, pods, namespaces, others, policies, cluster_policies, remote_pods, .. } = self;
        [own, pods, namespaces, others, policies, cluster_policies, remote_pods]
    }

    /// Takes note of whether the API server answers.
    pub(crate) fn set_away(&mut self, away: bool) {
        self.away = away;
    }

    /// Takes note of what is needed.
    pub(crate) fn set_demand(&mut self, demand: Demand) {
        self.demand = demand;
    }

    /// Waits no longer for the first lists, if there is a NodeConfig to go on with.
    pub(crate) fn go_on_alone(&mut self) {
        self.alone |= self.config().is_some();
    }

    /// Draws the conclusions of a change; to be called after each.
    pub(crate) fn settle(&mut self) {
        if self.away {
            self.go_on_alone();
        }
        // Who deletes it does not want it back: its pools may be another node's by now.
        if self.config().is_none() {
            self.last_good = None;
        }
        // Thousands of nodes: not for each thing that happens here.
        if self.foreign.0 != self.others.changes() {
            self.foreign = (self.others.changes(), self.foreign_pools());
        }
    }

    fn foreign_pools(&self) -> ForeignPools {
        let mut view = ClusterView::default();
        for (name, pools) in self.others.objects().iter() {
            let Ok(name) = NodeName::parse(name) else { continue };
            if name != self.node {
                let (cidr6, cidr4) = (pools.cidr6.clone(), pools.cidr4.clone());
                view.add_foreign_pools(name, &NodeConfigSpec { cidr6, cidr4, ..NodeConfigSpec::default() });
            }
        }
        view.foreign_pools
    }

    pub(crate) fn wanted(&self) -> Wanted {
        let policies = self.demand.policies;
        // Most clusters have no policy at all.
        let is_any = !self.policies.objects().is_empty() || !self.cluster_policies.objects().is_empty();
        let remote_pods = policies && is_any;
        Wanted { policies, namespaces: self.demand.namespaces || remote_pods, remote_pods }
    }

    /// The NodeConfig as last seen.
    pub(crate) fn own(&self) -> Option<Arc<OwnView>> {
        self.own.objects().values().next().map(Arc::clone)
    }

    fn config(&self) -> Option<&NodeConfigView> {
        if self.own.listed() {
            self.own.objects().values().next().map(|own| &own.config)
        } else {
            self.remembered.as_ref()
        }
    }

    /// Ready once what is awaited has been listed. While the API server is away a NodeConfig is enough, or no static pod
    /// would start on a node that boots without it.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut awaited = self.parts().into_iter().filter_map(Part::awaited);
        match awaited.next().filter(|_| !self.alone) {
            Some(awaited) => Readiness::Starting(awaited),
            None => Readiness::Ready,
        }
    }

    pub(crate) fn stamp(&self) -> Stamp {
        let (alone, demand) = (self.alone, self.demand);
        Stamp { alone, demand, parts: self.parts().map(|part| part.stamp(demand)) }
    }

    pub(crate) fn policy_stamp(&self) -> PolicyStamp {
        PolicyStamp { complete: self.is_complete(), parts: self.parts().map(Part::policy_stamp) }
    }

    /// Whether everything that policies need has been listed.
    fn is_complete(&self) -> bool {
        let wanted = self.wanted();
        let is_known = !wanted.remote_pods || (self.namespaces.listed() && self.remote_pods.listed());
        wanted.policies && self.policies.listed() && self.cluster_policies.listed() && is_known
    }

    /// What policies need, with revision 0.
    pub(crate) fn policies(&self) -> PolicyView {
        let mut view = PolicyView { complete: self.is_complete(), ..PolicyView::default() };
        for part in self.parts() {
            part.join_policies(&mut view);
        }
        view
    }

    /// Everything but policies, with revision 0. Without a NodeConfig until the source is ready: routes made of half a
    /// list of pods would withdraw addresses whose pods are well.
    pub(crate) fn view(&self) -> ClusterView {
        let mut view = ClusterView {
            node: Some(self.node.clone()),
            node_config: self.config().filter(|_| self.readiness() == Readiness::Ready).cloned(),
            last_good: self.last_good.clone(),
            foreign_pools: Arc::clone(&self.foreign.1),
            ..ClusterView::default()
        };
        for part in self.parts() {
            part.join(self.demand, &mut view);
        }
        // Of ones own the core speaks.
        let own = format!("NodeConfig {}:", self.node);
        view.problems.retain(|problem| !problem.starts_with(&own));
        view
    }
}

#[cfg(test)]
mod tests;
