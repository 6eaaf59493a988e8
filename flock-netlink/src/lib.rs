//! The kernel data path of flock: links, addresses, neighbours and routes over route netlink.
//!
//! [`KernelNetlink`] implements [`flock_core::ports::Netlink`]. It decides nothing: it turns an intent into
//! as few batches of requests as the kernel needs, and reads back what is there.
//!
//! ```text
//!   attach ---- thread: create pair | host batch | enter pod | pod batch        attach, spec, alias
//!   detach ---- thread: routes, neighbours, down -> dying group -> reaper       detach
//!   inspect, attachments, node, sync_routes ---- filtered dumps                 inspect, node, routes
//!                       \------------ conn, request, reply: netlink itself
//! ```
//!
//! Every call runs on a short-lived thread of its own, so that a network namespace entered is never left
//! again and no worker of the async runtime ever waits for the kernel's network lock.
#![cfg(target_os = "linux")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod alias;
mod attach;
mod conn;
mod detach;
mod inspect;
mod netns;
mod node;
mod reply;
mod request;
mod routes;
mod spec;
mod sysctl;

use std::path::Path;

use async_trait::async_trait;
use flock_core::ids::AttachmentId;
use flock_core::ports::{DesiredRoutes, LinkState, Netlink, NetlinkError, NetnsPath, NodeFacts, PodLink};
use flock_core::route::RouteDiff;

use crate::conn::Conn;
use crate::detach::{Reaper, Unclaimed};
use crate::netns::{Netns, NetnsId, on_thread};

pub use crate::request::DYING_GROUP;

/// The kernel's own network stack, in the network namespace of the thread that made this (the threads it
/// starts inherit it from whoever polls the calls, which must be in the same one).
#[derive(Debug)]
pub struct KernelNetlink {
    own: NetnsId,
    reaper: Reaper,
}

impl KernelNetlink {
    /// Looks at the own network namespace and starts to delete what a crash may have left in
    /// [`DYING_GROUP`].
    ///
    /// Fails where /proc is missing or route netlink is not allowed.
    pub fn new() -> Result<Self, NetlinkError> {
        Ok(Self { own: NetnsId::own()?, reaper: Reaper::start()? })
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
        let attachment = attachment.clone();
        if on_thread(move || detach::detach(&mut Conn::open()?, &attachment)).await? {
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

    async fn sync_routes(&self, desired: DesiredRoutes<'_>) -> Result<RouteDiff, NetlinkError> {
        let seen = on_thread(routes::read).await?;
        let plan = routes::plan(&desired(), seen);
        if plan.is_empty() {
            return Ok(RouteDiff::default());
        }
        on_thread(move || routes::apply(plan)).await
    }

    async fn prepare_node(&self) -> Result<Vec<String>, NetlinkError> {
        on_thread(|| sysctl::prepare(Path::new("/proc/sys/net"))).await
    }

    async fn node(&self) -> Result<NodeFacts, NetlinkError> {
        on_thread(node::facts).await
    }
}
