//! The API server as the cluster: watches that keep an [`Index`] up to date.
//!
//! ```text
//!   NodeConfig of this node ------------+
//!   pods of this node ------------------+--> Index --> ClusterView
//!   NodeConfigs (pools) ----------------+      |
//!   namespaces, on demand --------------+      +-----> PolicyView
//!   policies, on demand ----------------+
//!   pods of other nodes, while there ---+
//!   are policies, and namespaces, too
//! ```
//!
//! How each is followed is in [`follow`](crate::follow).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use flock_core::ids::{NodeName, PodKey};
use flock_core::policy::PolicyView;
use flock_core::ports::{
    ClusterView, Demand, NodeConfigView, PodSource, PodSourceError, PodView, Readiness, Revision,
};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::follow::{Follower, causes};
use crate::index::{Index, PolicyStamp, Stamp, Wanted};
use crate::object::{
    ClusterPolicies, Namespaces, Others, Own, OwnView, Pods, Policies, RemotePods, Stripped,
};
use crate::published::{self, Cluster};
use crate::watched::Watched;

/// How patient the source is.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long the first lists may take before a node that knows its NodeConfig serves without them.
    pub first: Duration,
    /// A watch is asked for anew after this, or somewhat sooner; one that is silent for 5 s more is given up.
    pub watch: Duration,
    /// Longest read of one page of a list.
    pub page: Duration,
    /// Longest direct read of a pod.
    pub read: Duration,
    /// First and longest pause after a failure; up to as much again is added at random.
    pub pause: (Duration, Duration),
    /// A kind that the cluster need not know, and does not, is looked for again after this, or somewhat sooner.
    pub absent: Duration,
}

impl Timing {
    /// How long the next watch is to last: never the same on two nodes for long, or all those whose watches an API server
    /// cut when it was restarted would ask it for new ones at the same moment ever after.
    pub(crate) fn watch_seconds(&self) -> u32 {
        let longest = u32::try_from(self.watch.as_secs()).unwrap_or(u32::MAX).max(1);
        rand::random_range(longest - longest / 4..=longest)
    }

    /// How long a kind that is absent is not looked for: not the same on two nodes either.
    pub(crate) fn absent_pause(&self) -> Duration {
        self.absent.mul_f64(rand::random_range(0.75..=1.0))
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            watch: Duration::from_mins(1),
            page: Duration::from_secs(30),
            read: Duration::from_secs(10),
            pause: (Duration::from_millis(500), Duration::from_secs(15)),
            absent: Duration::from_mins(1),
        }
    }
}

/// The [`PodSource`] of a cluster: the NodeConfig and the pods of one node, and what its claims need to know.
pub struct KubePodSource {
    shared: Arc<Shared>,
    client: Client,
    timing: Timing,
    /// Ends with the source.
    _watches: JoinSet<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    published: Cluster,
    policies: published::Policies,
    wanted: watch::Sender<Wanted>,
}

/// The index, and what of it is published.
#[derive(Debug)]
struct State {
    index: Index,
    shown: Option<(Stamp, PolicyStamp)>,
}

impl Shared {
    fn new(index: Index) -> Self {
        let published = Cluster::new(index.readiness());
        let state = Mutex::new(State { index, shown: None });
        let policies = published::Policies::new(());
        let shared = Self { state, published, policies, wanted: watch::Sender::default() };
        shared.change(|_| ());
        shared
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index without a change of the view.
    pub(crate) fn prepare(&self, edit: impl FnOnce(&mut Index)) {
        edit(&mut self.state().index);
    }

    /// Changes the index and publishes the views that are different.
    pub(crate) fn change(&self, edit: impl FnOnce(&mut Index)) {
        // Locked to the end, so that views are published in their order.
        let mut state = self.state();
        let State { index, shown } = &mut *state;
        edit(index);
        index.settle();
        let stamps = (index.stamp(), index.policy_stamp());
        let before = shown.replace(stamps);
        if before.is_none_or(|before| before.0 != stamps.0) {
            for problem in self.published.publish(index.view(), index.readiness()) {
                tracing::warn!(problem, "object refused");
            }
        }
        if before.is_none_or(|before| before.1 != stamps.1) {
            self.policies.publish(index.policies(), ());
        }
        let wanted = index.wanted();
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
    }

    /// The node's NodeConfig, where there is one.
    pub(crate) fn own(&self) -> Option<Arc<OwnView>> {
        self.state().index.own()
    }

    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.published.snapshot()
    }
}

impl KubePodSource {
    /// Begins to watch; ready when the first lists are in. `remembered` is the NodeConfig an earlier run knew, which is
    /// in force until the API server has spoken. To be called within a Tokio runtime.
    pub fn open(client: Client, node: &NodeName, remembered: Option<NodeConfigView>, timing: Timing) -> Self {
        let shared = Arc::new(Shared::new(Index::new(node.clone(), remembered)));
        let mut watches = JoinSet::new();
        let follower = Follower { shared: Arc::clone(&shared), client: client.clone(), timing };
        let own = Some(format!("metadata.name={node}"));
        watches.spawn(follower.clone().follow::<Own>(own));
        let pods = Some(format!("spec.nodeName={node}"));
        watches.spawn(follower.clone().follow::<Pods>(pods));
        watches.spawn(follower.clone().follow::<Others>(None));
        let followed = || follower.clone();
        watches.spawn(while_wanted::<Namespaces>(followed(), None, |wanted| wanted.namespaces));
        watches.spawn(while_wanted::<Policies>(followed(), None, |wanted| wanted.policies));
        watches.spawn(while_wanted::<ClusterPolicies>(followed(), None, |wanted| wanted.policies));
        let elsewhere = Some(format!("spec.nodeName!={node}"));
        watches.spawn(while_wanted::<RemotePods>(followed(), elsewhere, |wanted| wanted.remote_pods));
        watches.spawn(first_lists(Arc::clone(&shared), timing.first));
        Self { shared, client, timing, _watches: watches }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

#[async_trait]
impl PodSource for KubePodSource {
    fn ready(&self) -> Readiness {
        self.shared.published.state()
    }

    fn snapshot(&self) -> Arc<ClusterView> {
        self.shared.published.snapshot()
    }

    async fn changed(&self, seen: Revision) -> Revision {
        self.shared.published.changed(seen).await
    }

    fn policies(&self) -> Arc<PolicyView> {
        self.shared.policies.snapshot()
    }

    async fn policies_changed(&self, seen: Revision) -> Revision {
        self.shared.policies.changed(seen).await
    }

    fn demand(&self, demand: Demand) {
        self.shared.change(|index| index.set_demand(demand));
    }

    /// Asks the API server.
    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<PodView>>, PodSourceError> {
        let unavailable = |reason: String| PodSourceError::Unavailable { pod: key.clone(), reason };
        let api = Api::<Stripped<Pods>>::namespaced(self.client.clone(), key.namespace());
        match tokio::time::timeout(self.timing.read, api.get_opt(key.name())).await {
            Err(_) => Err(unavailable(format!("no answer within {} s", self.timing.read.as_secs()))),
            Ok(Err(error)) => Err(unavailable(causes(&error))),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(pod))) => pod.view.map(|pod| pod.map(Arc::new)).map_err(unavailable),
        }
    }
}

/// An API server that takes its time is as good as none to a node that was restarted: not ready for half a minute,
/// it would have its pods taken out of service.
async fn first_lists(shared: Arc<Shared>, longest: Duration) {
    tokio::time::sleep(longest).await;
    shared.change(Index::go_on_alone);
}

/// Watches a kind while it is wanted. Whoever watches forgets: were the objects forgotten where they are found to be
/// unwanted, and wanted again before that is noticed here, nobody would list them.
async fn while_wanted<K: Watched>(
    follower: Follower,
    fields: Option<String>,
    is_wanted: impl Fn(&Wanted) -> bool + Send,
) where
    Stripped<K>: Resource<DynamicType = ()>,
{
    let mut wanted = follower.shared.wanted.subscribe();
    loop {
        if wanted.wait_for(&is_wanted).await.is_err() {
            return;
        }
        let watching = follower.clone().follow::<K>(fields.clone());
        tokio::select! {
            () = watching => {}
            _ = wanted.wait_for(|wanted| !is_wanted(wanted)) => {}
        }
        follower.shared.change(|index| K::place(index).forget());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn watches_that_begin_together_do_not_end_together() {
        let seconds: BTreeSet<_> = (0..200).map(|_| Timing::default().watch_seconds()).collect();
        assert!(seconds.len() > 8 && seconds.iter().all(|it| (45..=60).contains(it)), "{seconds:?}");
        let shortest = Timing { watch: Duration::from_millis(1), ..Timing::default() };
        assert_eq!(shortest.watch_seconds(), 1);
    }

    #[test]
    fn namespaces_that_are_wanted_again_before_anybody_noticed_are_still_known() {
        let node = NodeName::parse("node-a").unwrap();
        let shared = Shared::new(Index::new(node, None));
        let demand = |namespaces| {
            shared.change(|index| index.set_demand(Demand { namespaces, ..Demand::default() }));
        };
        demand(true);
        shared.change(|index| index.namespaces.apply("dns".to_owned(), Ok(Some([].into()))));
        demand(false);
        assert!(shared.view().namespaces.is_empty());
        demand(true);
        assert!(shared.wanted.borrow().namespaces && shared.view().namespaces.contains_key("dns"));
    }
}
