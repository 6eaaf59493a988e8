//! The use cases: what happens when a runtime, an operator or the cluster asks for something. They
//! decide with the pure modules and act through [`ports`](crate::ports).
//!
//! ```text
//!   lock(attachment) -> attach | detach | check        one at a time per attachment
//!   gc, readiness, report                              any time
//!   sync_config -> sync_routes, sync_routing           level-triggered, safe to repeat
//!   sync_links                                         the same; locks the attachments it sweeps away
//!   sync_firewall                                      the same; one writer, whose turn an ADD waits for
//! ```
//!
//! The state (allocations, the configuration in force) sits behind one mutex that is held for
//! computation only, never over an await.

mod advertised;
mod ask;
mod attach;
mod check;
mod detach;
mod drift;
mod error;
mod explain;
mod firewall;
mod gc;
mod lock;
mod reconcile;
mod rollback;
mod start;
mod status;
mod sweep;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use advertised::{Advertised, Standing, Standpoint};
pub use attach::{AttachRequest, Attached};
pub use check::CheckRequest;
pub use drift::drift;
pub use error::{AttachError, CheckError, GcError, StartError};
pub use explain::{AddressExplanation, Explanation, PodObject, PolicyExplanation, SelectingPolicy};
pub use firewall::FirewallSynced;
pub use lock::AttachmentGuard;
pub use reconcile::{Configured, RoutesSynced};
pub use status::{AllocationReport, Report};
pub use sweep::LinksSynced;

use crate::anycast::{Shared, Skipped};
use crate::config::NodeConfig;
use crate::eligibility::Evidence;
use crate::ids::{AttachmentId, NodeName};
use crate::ipam::{Allocation, Ipam};
use crate::leak::Suspects;
use crate::ports::{
    ClusterView, Firewall, Netlink, NodeFacts, PodSource, Routing, StateStore, StatusSink, StoreError,
};

/// The world, as the use cases see it.
#[derive(Clone)]
pub struct Ports {
    /// Links and routes.
    pub netlink: Arc<dyn Netlink>,
    /// The packet filter; `None`: every packet passes.
    pub firewall: Option<Arc<dyn Firewall>>,
    /// Configuration and pods.
    pub pods: Arc<dyn PodSource>,
    /// The routing daemon.
    pub routing: Arc<dyn Routing>,
    /// Where people look.
    pub status: Arc<dyn StatusSink>,
    /// What survives a crash.
    pub store: Arc<dyn StateStore>,
}

/// What is fixed for the life of the process.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node flock runs on.
    pub node: NodeName,
    /// Identifies this boot of the node (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// MTU of pods in bytes; `None` takes the uplink's.
    pub mtu: Option<u32>,
}

/// One node of flock, ready to serve. Made by [`Node::start`].
pub struct Node {
    settings: Settings,
    ports: Ports,
    locks: lock::AttachmentLocks,
    state: Mutex<State>,
    /// Counts local changes the reconcilers should look at.
    changes: watch::Sender<u64>,
    /// The same for the firewall.
    firewall_changes: watch::Sender<u64>,
    /// The firewall's table. Held over an await: its writer waits for the kernel.
    table: tokio::sync::Mutex<firewall::Table>,
}

/// Everything that changes.
#[derive(Default)]
struct State {
    ipam: Ipam,
    /// Generation of the allocations that are on disk.
    saved: u64,
    /// The last good configuration.
    config: Option<Arc<NodeConfig>>,
    /// Why the configuration that is written is not the one in force.
    refused: Option<String>,
    facts: NodeFacts,
    /// Whom an earlier run served, as its routes said at the first look.
    served: Option<BTreeSet<AttachmentId>>,
    /// Who stands behind which anycast address, as last decided.
    shared: Vec<Shared>,
    /// Of those, who can never serve it; their owners have been told.
    skipped: BTreeSet<Skipped>,
    /// What the routing daemon said to the configuration in force; `None` before it was first asked.
    routing: Option<Result<(), String>>,
    /// What the firewall said to the last pass; `None` before the first.
    firewall: Option<Result<(), String>>,
    /// Addresses that were released and whose flows are still known.
    freed: BTreeSet<IpAddr>,
    /// A pod that shared an address has gone: flows to it may reach another one.
    rejudge: bool,
    /// What looks like a leak.
    suspects: Suspects,
    /// What is being detached.
    leaving: BTreeSet<AttachmentId>,
}

impl State {
    /// Allocations that are to be reached.
    fn staying(&self) -> impl Iterator<Item = &Allocation> {
        self.ipam.allocations().filter(|held| !self.leaving.contains(&held.attachment))
    }

    fn evidence<'a>(&'a self, view: &'a ClusterView) -> Evidence<'a> {
        match &self.served {
            Some(served) => Evidence { view, served },
            None => view.into(),
        }
    }
}

impl Node {
    /// The name of this node.
    pub fn name(&self) -> &NodeName {
        &self.settings.node
    }

    /// Whether a configuration is in force that lets any pod take any address.
    pub fn is_open(&self) -> bool {
        self.state().config.as_ref().is_some_and(|config| config.claims.is_empty())
    }

    /// Wakes when a local change asks for another look at the routes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits for every other operation on this attachment to end and keeps new ones out until the guard
    /// is dropped. Fair: first come, first served.
    pub async fn lock(&self, attachment: AttachmentId) -> AttachmentGuard {
        self.locks.lock(attachment).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the mutex was held cannot leave half a change behind that matters more than going
        // on: every reader validates what it takes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Makes the allocations durable, if they changed since they last were.
    async fn persist(&self) -> Result<(), StoreError> {
        let snapshot = {
            let state = self.state();
            if state.ipam.generation() <= state.saved {
                return Ok(());
            }
            state.ipam.snapshot(&self.settings.boot_id)
        };
        let generation = snapshot.generation;
        self.ports.store.save(snapshot).await?;
        let mut state = self.state();
        state.saved = state.saved.max(generation);
        Ok(())
    }
}
