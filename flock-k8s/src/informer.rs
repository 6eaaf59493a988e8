//! The API server as the cluster: watches that keep an [`Index`] up to date.
//!
//! ```text
//!   NodeConfig of this node --+
//!   pods of this node --------+--> Index --> ClusterView
//!   NodeConfigs (pools) ------+
//!   namespaces, while claims --+
//!   select them by label
//! ```
//!
//! A watch that breaks, ends, is told that its version is gone, or falls silent is begun again, after a pause that
//! grows and is never the same on two nodes. What it said last stays in force meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use flock_core::ids::{NodeName, PodKey, PodUid};
use flock_core::ports::{
    ClusterView, NodeConfigView, PodSource, PodSourceError, PodView, Readiness, Revision,
};
use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Error};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::index::{Collection, Index};
use crate::object::{Kind, Namespaces, Others, Own, Pods, Stripped};
use crate::published::Published;

/// Objects of one page of a list: what is read at once is held at once.
const PAGE: u32 = 50;

/// How patient the source is.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A watch is asked for anew after this; one that is silent for 5 s more is given up.
    pub watch: Duration,
    /// Longest direct read of a pod.
    pub read: Duration,
    /// First and longest pause after a failure; up to as much again is added at random.
    pub pause: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch: Duration::from_mins(1),
            read: Duration::from_secs(10),
            pause: (Duration::from_millis(500), Duration::from_secs(15)),
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
    index: Mutex<Index>,
    published: Published,
    by_label: watch::Sender<bool>,
}

impl Shared {
    fn new(index: Index) -> Self {
        let by_label = watch::Sender::new(index.wants_namespaces());
        let published = Published::new(index.readiness());
        let shared = Self { index: Mutex::new(index), published, by_label };
        shared.change(|_| ());
        shared
    }

    /// Changes the index without a change of the view.
    fn prepare(&self, edit: impl FnOnce(&mut Index)) {
        edit(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn change(&self, edit: impl FnOnce(&mut Index)) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut index);
        index.settle();
        // Under the lock, so that views are published in their order.
        for problem in self.published.publish(index.view(), index.readiness()) {
            tracing::warn!(problem, "object refused");
        }
        let by_label = index.wants_namespaces();
        self.by_label.send_if_modified(|wanted| std::mem::replace(wanted, by_label) != by_label);
    }

    /// UID and generation of the node's NodeConfig, where there is one.
    pub(crate) fn identity(&self) -> Option<(Option<PodUid>, i64)> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).identity()
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
        let seconds = u32::try_from(timing.watch.as_secs()).unwrap_or(u32::MAX).max(1);
        let all = watcher::Config::default().timeout(seconds).page_size(PAGE);
        let mut watches = JoinSet::new();
        let follower = Follower { shared: Arc::clone(&shared), client: client.clone(), pause: timing.pause };
        let own = all.clone().fields(&format!("metadata.name={node}"));
        watches.spawn(follower.clone().follow::<Own>(own, |index| &mut index.own));
        let pods = all.clone().fields(&format!("spec.nodeName={node}"));
        watches.spawn(follower.clone().follow::<Pods>(pods, |index| &mut index.pods));
        // Neither is urgent, and an answer from the memory of the API server is cheap for it.
        let all = all.any_semantic();
        watches.spawn(follower.clone().follow::<Others>(all.clone(), |index| &mut index.others));
        watches.spawn(follower.namespaces(all));
        Self { shared, client, timing, _watches: watches }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

#[async_trait]
impl PodSource for KubePodSource {
    fn ready(&self) -> Readiness {
        self.shared.published.ready()
    }

    fn snapshot(&self) -> Arc<ClusterView> {
        self.shared.published.snapshot()
    }

    async fn changed(&self, seen: Revision) -> Revision {
        self.shared.published.changed(seen).await
    }

    /// Asks the API server.
    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<PodView>>, PodSourceError> {
        let unavailable = |reason: String| PodSourceError::Unavailable { pod: key.clone(), reason };
        let api = Api::<Stripped<Pods>>::namespaced(self.client.clone(), key.namespace());
        match tokio::time::timeout(self.timing.read, api.get_opt(key.name())).await {
            Err(_) => Err(unavailable(format!("no answer within {} s", self.timing.read.as_secs()))),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(pod))) => pod.view.map(Arc::new).map(Some).map_err(unavailable),
        }
    }
}

/// What every watch needs.
#[derive(Clone)]
struct Follower {
    shared: Arc<Shared>,
    client: Client,
    pause: (Duration, Duration),
}

impl Follower {
    /// Keeps one collection up to date, for ever.
    async fn follow<K: Kind>(
        self,
        config: watcher::Config,
        collection: fn(&mut Index) -> &mut Collection<K::View>,
    ) where
        Stripped<K>: kube::Resource<DynamicType = ()>,
    {
        let mut pause = Pause::new(self.pause);
        let mut failing = false;
        loop {
            let api = Api::<Stripped<K>>::all(self.client.clone());
            let mut events = std::pin::pin!(watcher(api, config.clone()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        if self.take(event, collection) {
                            pause.reset();
                            if std::mem::take(&mut failing) {
                                tracing::info!(kind = K::KIND, "the API server answers again");
                            }
                        }
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            let kind = K::KIND;
                            tracing::warn!(kind, %error, "watch interrupted; what it said last stays in force");
                        }
                        if !answered(&error) {
                            self.shared.change(|index| index.set_away(true));
                        }
                        tokio::time::sleep(pause.next()).await;
                        if is_gone(&error) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Takes an event over; true if it comes from the API server.
    fn take<K: Kind>(
        &self,
        event: Event<Stripped<K>>,
        collection: fn(&mut Index) -> &mut Collection<K::View>,
    ) -> bool {
        match event {
            Event::Init => {
                self.shared.prepare(|index| collection(index).begin());
                return false;
            }
            Event::InitApply(object) => {
                self.shared.prepare(|index| collection(index).list(object.key(), object.view));
            }
            Event::InitDone => self.shared.change(|index| {
                index.set_away(false);
                collection(index).end();
            }),
            Event::Apply(object) => {
                self.shared.change(|index| collection(index).apply(object.key(), object.view));
            }
            Event::Delete(object) => self.shared.change(|index| collection(index).delete(&object.key())),
        }
        true
    }

    /// Watches namespaces while they are wanted.
    async fn namespaces(self, config: watcher::Config) {
        let mut wanted = self.shared.by_label.subscribe();
        loop {
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                return;
            }
            let watching = self.clone().follow::<Namespaces>(config.clone(), |index| &mut index.namespaces);
            tokio::select! {
                () = watching => {}
                _ = wanted.wait_for(|wanted| !*wanted) => {}
            }
        }
    }
}

/// Whether the API server itself said so, and not the silence or something in its place.
fn answered(error: &watcher::Error) -> bool {
    match cause(error) {
        Some(Error::Api(status)) => status.code < 500,
        Some(_) => false,
        None => true,
    }
}

/// Whether the version a watch wanted to go on from is gone: only a new list helps.
fn is_gone(error: &watcher::Error) -> bool {
    matches!(cause(error), Some(Error::Api(status)) if status.code == 410)
}

fn cause(error: &watcher::Error) -> Option<&Error> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
    }
}

/// How long to wait after a failure: twice as long each time, with chance added, from the start again when things
/// went well for a while.
struct Pause {
    range: (Duration, Duration),
    next: ExponentialBackoff,
    last: Option<Instant>,
}

impl Pause {
    /// A failure after this is the first of its kind.
    const CALM: Duration = Duration::from_mins(2);

    fn new(range: (Duration, Duration)) -> Self {
        Self { range, next: Self::series(range), last: None }
    }

    fn series((first, longest): (Duration, Duration)) -> ExponentialBackoff {
        let series = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
        series.with_jitter().without_max_times().build()
    }

    fn reset(&mut self) {
        self.next = Self::series(self.range);
    }

    fn next(&mut self) -> Duration {
        if self.last.replace(Instant::now()).is_some_and(|last| last.elapsed() > Self::CALM) {
            self.reset();
        }
        self.next.next().unwrap_or(self.range.1)
    }
}
