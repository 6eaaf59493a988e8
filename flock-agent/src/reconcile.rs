//! The loops that keep the kernel, BIRD and the status at what they should be. Routes, links, the firewall, the state file,
//! BIRD and the status have a loop each, so that neither a BIRD that does not answer nor a link that takes its time
//! delays a route, nor an API server a peer. How a loop turns is in [`keep`](crate::keep).

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::app::{Configured, FirewallSynced, Node, RoutesSynced};
use flock_core::leak::GRACE;
use flock_core::ports::{
    Applied, FirewallError, NetlinkError, PodSource, RoutingError, StatusError, StoreError,
};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tracing::Level;

use crate::clock;
use crate::health::{Health, Part};
use crate::keep::{Keep, OwnObjects, Policies};

/// How often everything is looked at without being asked.
const RESYNC: Duration = Duration::from_secs(10);

/// How often it is asked whether somebody else has changed the firewall, which takes microseconds.
const WATCH: Duration = Duration::from_secs(1);

/// How often the firewall's table is read as a whole, and what nft refused is tried again.
const THOROUGHLY: Duration = Duration::from_mins(10);

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
    let mut loops = Loops(JoinSet::new());
    // Configuration first, once, so that a runtime that calls at once is not sent away.
    take_config(node);
    let (config, changed) = watch::channel(0_u64);
    loops.add(stop, routes(Arc::clone(node), Arc::clone(pods), config, Arc::clone(health)));
    loops.add(stop, firewall(Arc::clone(node), Arc::clone(pods), Arc::clone(health)));
    loops.add(stop, firewall_watch(Arc::clone(node), Arc::clone(health)));
    loops.add(stop, forwarding(Arc::clone(node), Arc::clone(health)));
    loops.add(stop, links(Arc::clone(node), Arc::clone(health), RESYNC));
    loops.add(stop, releases(Arc::clone(node), Arc::clone(health)));
    let (passed, passes) = watch::channel(0_u64);
    loops.add(stop, routing(Arc::clone(node), changed, passed, Arc::clone(health)));
    loops.add(stop, status(Arc::clone(node), passes, Arc::clone(health)));
    loops
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
    let failing = (Level::ERROR, "routes may be wrong; trying again");
    let keep = Keep { op: "sync_routes", failing, part: Some(Part::Routes), every: RESYNC };
    let wakes = (OwnObjects::of(&pods), node.changes());
    let (node, config) = (&node, &config);
    let pass = |woken: Instant| async move {
        if take_config(node) {
            signal(config);
        }
        node.sync_routes().await.map(|outcome| log_routes(&outcome, woken.elapsed()))
    };
    keep.run(health, wakes, NetlinkError::retry, pass).await;
}

/// Follows policies, pods and local changes with the firewall.
async fn firewall(node: Arc<Node>, pods: Arc<dyn PodSource>, health: Arc<Health>) {
    let failing = (Level::ERROR, "policies may not be enforced as written; trying again");
    let keep = Keep { op: "sync_firewall", failing, part: Some(Part::Firewall), every: RESYNC };
    let wakes = ((OwnObjects::of(&pods), Policies::of(&pods)), node.firewall_changes());
    let node = &node;
    let pass = |woken: Instant| async move {
        node.sync_firewall().await.map(|outcome| log_firewall(&outcome, woken.elapsed()))
    };
    keep.run(health, wakes, FirewallError::retry, pass).await;
}

/// Looks whether somebody else has changed the firewall. The loop that keeps it then writes it anew.
async fn firewall_watch(node: Arc<Node>, health: Arc<Health>) {
    let failing = (Level::WARN, "whether the firewall is still in force is not known");
    let keep = Keep { op: "watch_firewall", failing, part: None, every: WATCH };
    let mut read = Instant::now();
    let node = &node;
    let pass = |now: Instant| {
        let thoroughly = now.saturating_duration_since(read) > THOROUGHLY;
        if thoroughly {
            read = now;
        }
        async move {
            if thoroughly {
                node.retry_firewall().await;
            }
            let found = node.watch_firewall(thoroughly).await?;
            if let Some(found) = found {
                tracing::error!(op = "watch_firewall", found, "the firewall is written anew");
            }
            Ok::<_, FirewallError>(())
        }
    };
    keep.run(health, (), FirewallError::retry, pass).await;
}

/// Sees to it that the node forwards, and that what is known of it is up to date.
async fn forwarding(node: Arc<Node>, health: Arc<Health>) {
    let failing = (Level::WARN, "forwarding may be off, or addresses of the node out of date");
    let keep = Keep { op: "verify_node", failing, part: None, every: RESYNC };
    let node = &node;
    let pass = |_| async move {
        node.sync_node().await?.iter().for_each(|notice| tracing::warn!("{notice}"));
        node.sync_facts().await
    };
    keep.run(health, (), NetlinkError::retry, pass).await;
}

/// Keeps the links of pods whole, and removes what is left of pods that are gone.
async fn links(node: Arc<Node>, health: Arc<Health>, every: Duration) {
    let failing = (Level::ERROR, "links may be broken, and leaks stay");
    let keep = Keep { op: "sync_links", failing, part: Some(Part::Links), every };
    let node = &node;
    let pass = |_| async move {
        let synced = node.sync_links(GRACE, &clock::now).await?;
        synced.mended.iter().for_each(|notice| tracing::warn!("{notice}"));
        Ok(())
    };
    keep.run(health, (), NetlinkError::retry, pass).await;
}

/// Writes down what a DEL could not. Where the disk hangs this waits for it, and nothing else does: a new agent would
/// have the same disk, and routes would be nobody's until it answers.
async fn releases(node: Arc<Node>, health: Arc<Health>) {
    let failing = (Level::ERROR, "pods that went are still in the state file");
    let keep = Keep { op: "catch_up", failing, part: None, every: RESYNC };
    let node = &node;
    keep.run(health, (), StoreError::retry, |_| async move { node.catch_up().await }).await;
}

/// Keeps BIRD on its peers.
async fn routing(
    node: Arc<Node>,
    config: watch::Receiver<u64>,
    passed: watch::Sender<u64>,
    health: Arc<Health>,
) {
    let failing = (Level::WARN, "BIRD does not run the configured peers yet");
    let keep = Keep { op: "sync_routing", failing, part: Some(Part::Routing), every: RESYNC };
    let (node, passed) = (&node, &passed);
    let pass = |_| async move {
        let outcome = node.sync_routing().await;
        if matches!(outcome, Ok(Some(Applied::Reconfigured))) {
            tracing::info!("BIRD runs the configured peers");
        }
        signal(passed);
        outcome.map(drop)
    };
    keep.run(health, config, RoutingError::retry, pass).await;
}

/// Publishes the state of the node after each look at BIRD.
async fn status(node: Arc<Node>, passes: watch::Receiver<u64>, health: Arc<Health>) {
    let keep = Keep {
        op: "publish",
        failing: (Level::WARN, "the status is out of date"),
        part: None,
        every: RESYNC,
    };
    let node = &node;
    let pass = |_| async move { node.publish(clock::now()).await };
    keep.run(health, passes, StatusError::retry, pass).await;
}

/// Wakes the loop at the other end, once however often it is told before it looks.
fn signal(other: &watch::Sender<u64>) {
    other.send_modify(|count| *count = count.wrapping_add(1));
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

/// `took`: from the change that was seen to the kernel having it, which is when BIRD hears of it.
fn log_routes(outcome: &RoutesSynced, took: Duration) {
    if let RoutesSynced::Done(diff) = outcome
        && !diff.is_empty()
    {
        let (written, removed, withdrawn) = (diff.replace.len(), diff.remove.len(), diff.withdrawn());
        tracing::info!(written, removed, withdrawn, took_us = took.as_micros(), "routes changed");
    }
}

fn log_firewall(outcome: &FirewallSynced, took: Duration) {
    let took_us = took.as_micros();
    match outcome {
        FirewallSynced::Off | FirewallSynced::Unchanged => {}
        FirewallSynced::Replaced => tracing::info!(took_us, "firewall written"),
        FirewallSynced::Updated(update) => {
            let (pods, chains, peers) = (update.pods.len(), update.chains.len(), update.peers.len());
            let judged_again = update.judging.is_some();
            tracing::info!(pods, chains, peers, judged_again, took_us, "firewall changed");
        }
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
