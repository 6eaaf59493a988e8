//! The kernel data path of flock: links, addresses, neighbours and routes over route netlink, and the packet filter.
//!
//! [`KernelNetlink`] implements [`flock_core::ports::Netlink`]. It decides nothing: it turns an intent into
//! as few batches of requests as the kernel needs, and reads back what is there. [`KernelFirewall`] does the same for
//! [`flock_core::ports::Firewall`] with nftables.
//!
//! ```text
//!   attach ---- thread: create pair | host batch | enter pod | pod batch        attach, spec, alias
//!   detach ---- thread: groups, routes, neighbours, down -> dying -> reaper     detach
//!   sync_routes ---- thread: read | ask | nexthops, groups, routes, leftovers   routes, nexthop, spread
//!   discard ---- the same for a link nobody owns
//!   tend_links ---- veths that were set down                                    mend
//!   gone ---- thread: thread that may hang                                      netns
//!   prepare_node ---- settings                                                  sysctl, spread
//!   inspect, attachments, node ---- filtered dumps                              inspect, node
//!                       \------------ conn, request, reply: netlink itself
//!
//!   guard, update, replace, observe ---- its own thread and socket              firewall
//! ```
//!
//! Every call of [`KernelNetlink`] runs on a short-lived thread of its own, so that a network namespace entered is never left
//! again and no worker of the async runtime ever waits for the kernel's network lock.
#![cfg(target_os = "linux")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod alias;
mod attach;
mod conn;
mod detach;
mod firewall;
mod inspect;
mod mend;
mod netns;
mod nexthop;
mod node;
mod note;
mod reply;
mod request;
mod routes;
mod spec;
mod spread;
mod sysctl;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use async_trait::async_trait;
use flock_core::ids::{AttachmentId, IfName};
use flock_core::ports::{
    DesiredRoutes, HostLink, LinkState, LinksTended, Netlink, NetlinkError, NetnsPath, NodeFacts, PodLink,
};
use flock_core::route::{ObservedRoute, RouteDiff};
use tokio::sync::oneshot;

use crate::conn::Conn;
use crate::detach::{Reaper, Unclaimed};
use crate::netns::{Lookout, Netns, NetnsId, on_thread};
use crate::routes::Routes;

pub use crate::firewall::{DropLog, DropLogError, Dropped, KernelFirewall, Payload};
pub use crate::request::DYING_GROUP;
pub use crate::spread::Spread;

/// The numbers of flock's nexthop objects. One of them is flock's if its protocol is 118 too; what is somebody
/// else's is not touched, and its number not used.
pub const NEXTHOP_IDS: RangeInclusive<u32> = nexthop::IDS;

/// The kernel's own network stack, in the network namespace of the thread that made this (the threads it
/// starts inherit it from whoever polls the calls, which must be in the same one).
#[derive(Debug)]
pub struct KernelNetlink {
    own: NetnsId,
    reaper: Reaper,
    routes: Routes,
    lookout: Lookout,
    /// Settings the kernel refuses, as far as somebody has been told.
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl KernelNetlink {
    /// Looks at the own network namespace and starts to delete what a crash may have left in
    /// [`DYING_GROUP`].
    ///
    /// Fails where /proc is missing or route netlink is not allowed.
    pub fn new() -> Result<Self, NetlinkError> {
        let (own, reaper) = (NetnsId::own()?, Reaper::start()?);
        Ok(Self { own, reaper, routes: Routes::default(), lookout: Lookout::default(), told: Arc::default() })
    }

    /// Like [`new`](Self::new), but spreads flows in this way, without looking what the kernel can do best.
    pub fn with_spread(spread: Spread) -> Result<Self, NetlinkError> {
        Ok(Self { routes: Routes::with_spread(spread), ..Self::new()? })
    }
}

#[async_trait]
impl Netlink for KernelNetlink {
    async fn attach(&self, link: &PodLink) -> Result<LinkState, NetlinkError> {
        let (own, link, reaper) = (self.own, link.clone(), self.reaper.clone());
        let attached = on_thread(move || {
            let attached = attach::attach(&link, own)?;
            Ok(Unclaimed::new(attached, link.identity.attachment, reaper))
        });
        Ok(attached.await?.claim())
    }

    async fn detach(&self, attachment: &AttachmentId) -> Result<(), NetlinkError> {
        let (attachment, routes) = (attachment.clone(), self.routes.clone());
        let leave = move |conn: &mut Conn, link: &IfName| routes.leave(conn, link);
        if on_thread(move || detach::detach(&mut Conn::open()?, &attachment, leave)).await? {
            self.reaper.wake();
        }
        Ok(())
    }

    async fn discard(&self, nameless: &HostLink) -> Result<(), NetlinkError> {
        let (nameless, routes) = (nameless.clone(), self.routes.clone());
        let leave = move |conn: &mut Conn, link: &IfName| routes.leave(conn, link);
        if on_thread(move || detach::discard(&mut Conn::open()?, &nameless, leave)).await? {
            self.reaper.wake();
        }
        Ok(())
    }

    async fn inspect(
        &self,
        attachment: &AttachmentId,
        netns: Option<NetnsPath>,
    ) -> Result<Option<LinkState>, NetlinkError> {
        let (own, attachment) = (self.own, attachment.clone());
        on_thread(move || {
            let netns = netns.and_then(|path| Netns::open(&path, own).ok());
            inspect::inspect(&attachment, netns.as_ref())
        })
        .await
    }

    async fn attachments(&self) -> Result<Vec<LinkState>, NetlinkError> {
        let (links, dying) = on_thread(inspect::attachments).await?;
        if dying {
            self.reaper.wake();
        }
        Ok(links)
    }

    async fn tend_links(&self) -> Result<LinksTended, NetlinkError> {
        on_thread(mend::tend).await
    }

    async fn gone(&self, netns: BTreeSet<NetnsPath>) -> Result<BTreeSet<NetnsPath>, NetlinkError> {
        let (own, lookout) = (self.own, self.lookout.clone());
        on_thread(move || lookout.gone(netns, own)).await
    }

    async fn sync_routes(&self, desired: DesiredRoutes<'_>) -> Result<RouteDiff, NetlinkError> {
        let (ask, asked) = oneshot::channel();
        let (answer, answered) = mpsc::channel();
        let routes = self.routes.clone();
        let done = on_thread(move || {
            routes.sync(|observed: Vec<ObservedRoute>| {
                ask.send(observed).ok()?;
                answered.recv().ok()
            })
        });
        // Unless it failed before it came to that.
        if let Ok(observed) = asked.await {
            // Nobody listens any more if the thread is gone, and then `done` says so.
            let _ = answer.send(desired(&observed));
        }
        done.await
    }

    async fn prepare_node(&self) -> Result<Vec<String>, NetlinkError> {
        let (routes, told) = (self.routes.clone(), Arc::clone(&self.told));
        on_thread(move || {
            routes.learn()?;
            sysctl::prepare(sysctl::root(), &mut told.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
    }

    async fn node(&self) -> Result<NodeFacts, NetlinkError> {
        on_thread(node::facts).await
    }
}
