//! The loops that keep the kernel and BIRD at what they should be. Level-triggered: a wake only says
//! "look again", and a slow tick looks anyway. Routes, links, the state file, BIRD and the status have a loop each, so
//! that neither a BIRD that does not answer nor a link that takes its time delays a route, nor an API server a peer.

use std::fmt::Display;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use flock_core::app::{Configured, Node, RoutesSynced};
use flock_core::leak::GRACE;
use flock_core::ports::{Applied, PodSource, Retry};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::clock;
use crate::health::{Health, Part};

/// How often everything is looked at without being asked.
const RESYNC: Duration = Duration::from_secs(10);

/// First and last delay before a failed pass is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The loops, until they are stopped.
pub(crate) struct Loops(JoinSet<()>);

impl Loops {
    /// One more loop.
    pub(crate) fn add(
        &mut self,
        stop: &watch::Receiver<bool>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.spawn(until(stop.clone(), work));
    }

    /// Waits until a loop breaks. One that was told to stop has not broken.
    pub(crate) async fn broken(&mut self) -> JoinError {
        loop {
            match self.0.join_next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => return error,
                None => pending().await,
            }
        }
    }

    /// Waits for the loops, which end when the stop signal they were given turns true.
    pub(crate) async fn finish(mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

/// Starts the loops.
pub(crate) fn start(
    node: &Arc<Node>,
    pods: &Arc<dyn PodSource>,
    health: &Arc<Health>,
    stop: &watch::Receiver<bool>,
) -> Loops {
    let mut loops = JoinSet::new();
    // Configuration first, once, so that a runtime that calls at once is not sent away.
    take_config(node);
    let (config, changed) = watch::channel(0_u64);
    loops.spawn(until(stop.clone(), routes(Arc::clone(node), Arc::clone(pods), config, Arc::clone(health))));
    loops.spawn(until(stop.clone(), links(Arc::clone(node), Arc::clone(health), RESYNC)));
    loops.spawn(until(stop.clone(), releases(Arc::clone(node))));
    let (passed, passes) = watch::channel(0_u64);
    loops.spawn(until(stop.clone(), routing(Arc::clone(node), changed, passed, Arc::clone(health))));
    loops.spawn(until(stop.clone(), status(Arc::clone(node), passes)));
    Loops(loops)
}

/// Runs `work` until the signal to stop. A pass that is cut off is safe: the next run starts over.
async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Follows the pod source and local changes: configuration, then routes.
async fn routes(node: Arc<Node>, pods: Arc<dyn PodSource>, config: watch::Sender<u64>, health: Arc<Health>) {
    let mut local = node.changes();
    let (mut backoff, mut failure) = (Backoff::default(), Failure::default());
    // Apart from the wakes: however much changes, the node is looked at in time.
    let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut woken = Instant::now();
    loop {
        let seen = pods.snapshot().revision;
        local.mark_unchanged();
        if take_config(&node) {
            signal(&config);
        }
        let outcome = node.sync_routes().await;
        health.saw(Part::Routes, outcome.as_ref().map(|_| ()).map_err(ToString::to_string));
        if let Some(error) = failure.news(&outcome) {
            tracing::error!(op = "sync_routes", error, "routes may be wrong; trying again");
        }
        let retry = match outcome {
            Ok(outcome) => {
                log_routes(&outcome, woken.elapsed());
                backoff.reset();
                None
            }
            Err(_) => Some(backoff.next()),
        };
        tokio::select! {
            _ = pods.changed(seen) => {}
            _ = local.changed() => {}
            _ = resync.tick() => verify_node(&node).await,
            () = pause(retry) => {}
        }
        woken = Instant::now();
    }
}

/// Keeps the links of pods whole, and removes what is left of pods that are gone.
async fn links(node: Arc<Node>, health: Arc<Health>, every: Duration) {
    let mut resync = tokio::time::interval(every);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        resync.tick().await;
        let outcome = node.sync_links(GRACE, &clock::now).await;
        health.saw(Part::Links, outcome.as_ref().map(|_| ()).map_err(ToString::to_string));
        match outcome {
            Ok(synced) => synced.mended.iter().for_each(|notice| tracing::warn!("{notice}")),
            Err(error) => tracing::error!(op = "sync_links", %error, "links may be broken, and leaks stay"),
        }
    }
}

/// Writes down what a DEL could not. Where the disk hangs this waits for it, and nothing else does: a new agent would
/// have the same disk, and routes would be nobody's until it answers.
async fn releases(node: Arc<Node>) {
    let mut failure = Failure::default();
    loop {
        tokio::time::sleep(RESYNC).await;
        if let Some(error) = failure.news(&node.catch_up().await) {
            tracing::error!(op = "catch_up", error, "pods that went are still in the state file");
        }
    }
}

/// Keeps BIRD on its peers.
async fn routing(
    node: Arc<Node>,
    mut config: watch::Receiver<u64>,
    passed: watch::Sender<u64>,
    health: Arc<Health>,
) {
    let (mut backoff, mut failure) = (Backoff::default(), Failure::default());
    loop {
        config.mark_unchanged();
        let outcome = node.sync_routing().await;
        health.saw(Part::Routing, outcome.as_ref().map(|_| ()).map_err(ToString::to_string));
        if let Some(error) = failure.news(&outcome) {
            tracing::warn!(op = "sync_routing", error, "BIRD does not run the configured peers yet");
        }
        let wait = match outcome {
            Ok(applied) => {
                if applied == Some(Applied::Reconfigured) {
                    tracing::info!("BIRD runs the configured peers");
                }
                backoff.reset();
                RESYNC
            }
            // What is refused is refused again; the resync still looks.
            Err(error) if error.retry() == Retry::Never => RESYNC,
            Err(_) => backoff.next(),
        };
        signal(&passed);
        tokio::select! {
            changed = config.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Publishes the state of the node after each look at BIRD.
async fn status(node: Arc<Node>, mut passes: watch::Receiver<u64>) {
    let mut failure = Failure::default();
    while passes.changed().await.is_ok() {
        if let Some(error) = failure.news(&node.publish(clock::now()).await) {
            tracing::warn!(op = "publish", error, "the status is out of date");
        }
    }
}

/// Wakes the loop at the other end, once however often it is told before it looks.
fn signal(other: &watch::Sender<u64>) {
    other.send_modify(|count| *count = count.wrapping_add(1));
}

/// Sleeps, or for ever where there is nothing to wait for.
async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => pending().await,
    }
}

/// Takes over the configuration of the latest view; true if there is something to tell of.
fn take_config(node: &Node) -> bool {
    match node.sync_config() {
        Configured::Unchanged => false,
        Configured::Changed => {
            tracing::info!("the NodeConfig is in force");
            if node.is_open() {
                tracing::warn!("spec.claims is empty: any pod may take any address by annotation");
            }
            true
        }
        Configured::Refused(reason) => {
            tracing::error!(reason, "the NodeConfig is refused; the last good one stays in force");
            true
        }
        Configured::Missing => {
            tracing::error!("the NodeConfig is gone; the last good one stays in force");
            true
        }
    }
}

async fn verify_node(node: &Node) {
    match node.sync_node().await {
        Ok(notices) => notices.iter().for_each(|notice| tracing::warn!("{notice}")),
        Err(error) => tracing::error!(op = "verify_node", %error, "forwarding may be off"),
    }
    if let Err(error) = node.sync_facts().await {
        tracing::warn!(op = "read_node", %error, "addresses of the node may be out of date");
    }
}

/// `took`: from the change that was seen to the kernel having it, which is when BIRD hears of it.
fn log_routes(outcome: &RoutesSynced, took: Duration) {
    if let RoutesSynced::Done(diff) = outcome
        && !diff.is_empty()
    {
        let (written, removed, withdrawn) = (diff.replace.len(), diff.remove.len(), diff.withdrawn());
        tracing::info!(written, removed, withdrawn, took_us = took.as_micros(), "routes changed");
    }
}

/// How the last pass failed, if it did.
#[derive(Default)]
struct Failure(Option<String>);

impl Failure {
    /// What is to be said: a failure that is not the one of the last pass again.
    fn news<T>(&mut self, outcome: &Result<T, impl Display>) -> Option<&str> {
        let failure = outcome.as_ref().err().map(ToString::to_string);
        let again = failure == self.0;
        self.0 = failure;
        self.0.as_deref().filter(|_| !again)
    }
}

/// Doubles from the first delay to the last.
#[derive(Default)]
struct Backoff(Option<Duration>);

impl Backoff {
    fn next(&mut self) -> Duration {
        let next = self.0.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
        self.0 = Some(next);
        next
    }

    fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use flock_core::app::{AttachRequest, Ports};
    use flock_core::config::{BgpSpec, NodeConfigSpec};
    use flock_core::ids::AttachmentId;
    use flock_core::ipam::Snapshot;
    use flock_core::ports::{NetnsPath, NodeConfigView, StateStore, StoreError};
    use flock_core::testing::{FakeStore, KernelCall, World};

    use super::*;

    /// A disk that hangs when told to.
    #[derive(Default)]
    struct Disk(FakeStore, AtomicBool);

    #[async_trait]
    impl StateStore for Disk {
        async fn load(&self) -> Result<Option<Snapshot>, StoreError> {
            self.0.load().await
        }

        async fn save(&self, snapshot: Snapshot) -> Result<(), StoreError> {
            if self.1.load(Ordering::Relaxed) { pending().await } else { self.0.save(snapshot).await }
        }
    }

    #[tokio::test]
    async fn links_are_looked_at_while_the_disk_hangs() {
        let (world, disk) = (World::default(), Arc::new(Disk::default()));
        let bgp = BgpSpec { asn: 65101, ..BgpSpec::default() };
        let spec =
            NodeConfigSpec { cidr6: vec!["2001:db8:1::/64".to_owned()], bgp, ..NodeConfigSpec::default() };
        world.pods.set_node_config(Some(NodeConfigView { generation: 1, spec: Ok(spec) }));
        let ports = Ports { store: disk.clone(), ..world.ports() };
        let node = Arc::new(Node::start(World::settings("boot"), ports, clock::now()).await.unwrap().0);
        node.sync_config();
        let guard = node.lock(AttachmentId::parse("c1/eth0").unwrap()).await;
        let request = AttachRequest {
            netns: NetnsPath::parse("/run/netns/c1").unwrap(),
            entrance: None,
            pod: None,
            uid: None,
            annotations: None,
            mtu: None,
            loopback_runs: false,
        };
        node.attach(&guard, &request, &clock::now, 7, &|| false).await.unwrap();
        disk.1.store(true, Ordering::Relaxed);
        let short = Duration::from_millis(1);
        tokio::time::timeout(short, node.detach(&guard, clock::now())).await.unwrap_err();
        let looks = || world.kernel.calls().into_iter().filter(|call| *call == KernelCall::TendLinks).count();
        let looking = async {
            while looks() < 3 {
                tokio::time::sleep(short).await;
            }
        };
        tokio::select! {
            () = links(Arc::clone(&node), Arc::new(Health::new()), short) => {}
            looked = tokio::time::timeout(Duration::from_mins(1), looking) => looked.expect("it goes on"),
        }
    }
}
