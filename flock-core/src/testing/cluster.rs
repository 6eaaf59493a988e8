//! A cluster in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::config::NodeConfigSpec;
use crate::ids::PodKey;
use crate::policy::PolicyView;
use crate::ports::{
    ClusterView, Demand, NodeConfigView, PodSource, PodSourceError, PodView, Readiness, Revision,
};

/// A ready pod named `namespace/name` without annotations, labels, UID or node.
///
/// # Panics
///
/// When the name does not parse.
pub fn pod_view(key: &str) -> PodView {
    PodView {
        key: PodKey::parse(key).unwrap(),
        uid: None,
        node: None,
        annotations: BTreeMap::new(),
        labels: Arc::default(),
        ready: true,
        terminating: false,
        host_network: false,
        ended: false,
        ports: Arc::default(),
        image: None,
        pod_ips: Vec::new(),
        reported: Vec::new(),
    }
}

/// A [`PodSource`] that holds what it is told. Every change bumps the revision and wakes
/// [`changed`](PodSource::changed); telling it what it already holds is no change.
#[derive(Debug)]
pub struct FakePodSource {
    state: Mutex<State>,
    revision: watch::Sender<Revision>,
    policies: watch::Sender<Arc<PolicyView>>,
    demand: watch::Sender<Demand>,
}

#[derive(Debug)]
struct State {
    view: Arc<ClusterView>,
    readiness: Readiness,
    ahead: BTreeMap<PodKey, Option<Arc<PodView>>>,
    failure: Option<String>,
}

impl Default for FakePodSource {
    /// Ready, and empty; policies are complete, and there are none.
    fn default() -> Self {
        let state = State {
            view: Arc::default(),
            readiness: Readiness::Ready,
            ahead: BTreeMap::new(),
            failure: None,
        };
        let policies = PolicyView { complete: true, ..PolicyView::default() };
        Self {
            state: Mutex::new(state),
            revision: watch::Sender::default(),
            policies: watch::Sender::new(Arc::new(policies)),
            demand: watch::Sender::default(),
        }
    }
}

impl FakePodSource {
    /// Adds a pod, or replaces the one of the same name.
    pub fn set_pod(&self, pod: PodView) {
        self.change(|state, view| {
            state.ahead.remove(&pod.key);
            view.pods.insert(pod.key.clone(), Arc::new(pod));
        });
    }

    /// Changes a pod in place, for instance its readiness.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    pub fn edit_pod(&self, key: &PodKey, edit: impl FnOnce(&mut PodView)) {
        self.change(|_, view| edit(Arc::make_mut(view.pods.get_mut(key).expect("no such pod"))));
    }

    /// Removes a pod; an unknown one is no change.
    pub fn remove_pod(&self, key: &PodKey) {
        self.change(|state, view| {
            state.ahead.remove(key);
            view.pods.remove(key);
        });
    }

    /// From now on a direct read of `key` gives `pod` while the view lags behind, until the pod is set or
    /// removed.
    pub fn set_ahead_of_view(&self, key: PodKey, pod: Option<PodView>) {
        self.state().ahead.insert(key, pod.map(Arc::new));
    }

    /// Sets or removes the node's configuration.
    pub fn set_node_config(&self, config: Option<NodeConfigView>) {
        self.change(|_, view| view.node_config = config);
    }

    /// Sets the last good configuration of an earlier run.
    pub fn set_last_good(&self, spec: Option<NodeConfigSpec>) {
        self.change(|_, view| view.last_good = spec.map(Arc::new));
    }

    /// Sets whether the first list of pods is still to come.
    pub fn set_pods_pending(&self, pending: bool) {
        self.change(|_, view| view.pods_pending = pending);
    }

    /// Sets the labels of a namespace.
    pub fn set_namespace(&self, name: &str, labels: BTreeMap<String, String>) {
        self.change(|_, view| {
            view.namespaces.insert(name.to_owned(), labels);
        });
    }

    /// Sets what could not be read.
    pub fn set_problems(&self, problems: Vec<String>) {
        self.change(|_, view| view.problems = problems);
    }

    /// Sets how far the source has got.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.change(|state, _| state.readiness = readiness);
    }

    /// Makes every [`pod`](PodSource::pod) fail with this reason; `None` heals it.
    pub fn fail_pod(&self, reason: Option<&str>) {
        self.state().failure = reason.map(str::to_owned);
    }

    /// Changes what the cluster says of policies.
    pub fn edit_policies(&self, edit: impl FnOnce(&mut PolicyView)) {
        self.policies.send_if_modified(|now| {
            let mut view = (**now).clone();
            edit(&mut view);
            if view == **now {
                return false;
            }
            keep(&mut view.policies, &now.policies);
            keep(&mut view.cluster, &now.cluster);
            keep(&mut view.namespaces, &now.namespaces);
            keep(&mut view.pods, &now.pods);
            view.revision.0 += 1;
            *now = Arc::new(view);
            true
        });
    }

    /// What was last said to be needed.
    pub fn demanded(&self) -> Demand {
        *self.demand.borrow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, edit: impl FnOnce(&mut State, &mut ClusterView)) {
        let mut state = self.state();
        let mut view = (*state.view).clone();
        let readiness = state.readiness;
        edit(&mut state, &mut view);
        if view == *state.view && readiness == state.readiness {
            return;
        }
        view.revision.0 += 1;
        let revision = view.revision;
        state.view = Arc::new(view);
        // Under the lock, so that revisions are sent in their order.
        self.revision.send_replace(revision);
    }
}

/// What did not change is shared.
fn keep<T: Eq>(now: &mut Arc<T>, last: &Arc<T>) {
    if now == last {
        *now = Arc::clone(last);
    }
}

#[async_trait]
impl PodSource for FakePodSource {
    fn ready(&self) -> Readiness {
        self.state().readiness
    }

    fn snapshot(&self) -> Arc<ClusterView> {
        Arc::clone(&self.state().view)
    }

    async fn changed(&self, seen: Revision) -> Revision {
        let mut revision = self.revision.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        *revision.wait_for(|now| *now != seen).await.unwrap()
    }

    fn policies(&self) -> Arc<PolicyView> {
        Arc::clone(&self.policies.borrow())
    }

    async fn policies_changed(&self, seen: Revision) -> Revision {
        let mut policies = self.policies.subscribe();
        policies.wait_for(|now| now.revision != seen).await.unwrap().revision
    }

    fn demand(&self, demand: Demand) {
        self.demand.send_replace(demand);
    }

    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<PodView>>, PodSourceError> {
        let state = self.state();
        if let Some(reason) = &state.failure {
            return Err(PodSourceError::Unavailable { pod: key.clone(), reason: reason.clone() });
        }
        Ok(state.ahead.get(key).cloned().unwrap_or_else(|| state.view.pods.get(key).cloned()))
    }
}
