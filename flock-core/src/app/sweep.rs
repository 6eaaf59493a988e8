use std::collections::BTreeSet;
use std::time::Duration;

use super::Node;
use crate::ids::AttachmentId;
use crate::ipam::Allocation;
use crate::leak::{Leak, leaks, unlinked};
use crate::ports::{HostLink, NetlinkError, NetnsPath};
use crate::time::Clock;

/// What a look at the links came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinksSynced {
    /// What was repaired, or could not be, in words.
    pub mended: Vec<String>,
    /// What was removed.
    pub swept: Vec<Leak>,
}

impl Node {
    /// Gives links back what they lost, and removes what has looked like a leak for `grace`
    /// ([`GRACE`](crate::leak::GRACE)) at every call. To be called every few seconds. Neither kubelet nor API server is asked:
    /// they may be away, or late.
    pub async fn sync_links(&self, grace: Duration, clock: Clock<'_>) -> Result<LinksSynced, NetlinkError> {
        let tended = self.ports.netlink.tend_links().await?;
        let gone = self.gone_namespaces(&tended.links).await;
        let now = clock();
        let ripe = {
            let mut state = self.state();
            let allocations: Vec<&Allocation> = state.ipam.allocations().collect();
            let seen = leaks(&allocations, &tended.links, &gone);
            state.suspects.look(seen, now, grace)
        };
        let mut swept = Vec::new();
        for leak in ripe {
            match self.sweep(&leak, clock).await {
                Ok(true) => swept.push(leak),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(op = "sweep", label = error.label(), %error, "not removed: {leak}");
                }
            }
        }
        Ok(LinksSynced { mended: tended.notices, swept })
    }

    /// Of the network namespaces of allocations without a link, those that are no more.
    async fn gone_namespaces(&self, links: &[HostLink]) -> BTreeSet<NetnsPath> {
        let doubtful: BTreeSet<NetnsPath> = {
            let state = self.state();
            let allocations: Vec<&Allocation> = state.ipam.allocations().collect();
            unlinked(&allocations, links).into_iter().filter_map(|held| held.netns.clone()).collect()
        };
        if doubtful.is_empty() {
            return doubtful;
        }
        self.ports.netlink.gone(doubtful).await.unwrap_or_else(|error| {
            tracing::warn!(op = "sweep", label = error.label(), %error, "addresses of pods that are gone may stay");
            BTreeSet::new()
        })
    }

    /// Removes one leak, if it still is one; true when it was. Something that is just happening to the attachment
    /// is a reason to leave it alone.
    async fn sweep(&self, leak: &Leak, clock: Clock<'_>) -> Result<bool, NetlinkError> {
        let attachment = match leak {
            Leak::Allocation(attachment) | Leak::Link(HostLink { attachment: Some(attachment), .. }) => {
                attachment
            }
            Leak::Link(nameless) => {
                self.ports.netlink.discard(nameless).await?;
                tracing::info!(op = "sweep", "removed {leak}");
                return Ok(true);
            }
        };
        let Some(guard) = self.locks.try_lock(attachment) else { return Ok(false) };
        if !self.is_still(leak, attachment).await? {
            return Ok(false);
        }
        let held = self.state().ipam.get(attachment).cloned();
        self.detach(&guard, clock()).await?;
        let (pod, addresses) = held.map(|held| (held.pod.clone(), shown(&held))).unwrap_or_default();
        let (pod, container_id) = (pod.map(|pod| pod.to_string()), attachment.container());
        tracing::info!(pod, %container_id, op = "sweep", addresses, "removed {leak}");
        Ok(true)
    }

    /// Looks again. The attachment is locked: what is so now stays so.
    async fn is_still(&self, leak: &Leak, attachment: &AttachmentId) -> Result<bool, NetlinkError> {
        let held = self.state().ipam.get(attachment).cloned();
        let seen = self.ports.netlink.inspect(attachment, None).await?;
        match (leak, held, seen) {
            (Leak::Allocation(_), Some(Allocation { netns: Some(netns), .. }), None) => {
                Ok(!self.ports.netlink.gone(BTreeSet::from([netns])).await?.is_empty())
            }
            (Leak::Allocation(_), Some(_), None) => Ok(true),
            (Leak::Link(link), None, Some(seen)) => Ok(seen.host.ifindex == link.ifindex),
            _ => Ok(false),
        }
    }
}

fn shown(held: &Allocation) -> String {
    let addresses: Vec<String> =
        held.held().chain(held.anycast.iter().copied()).map(|address| address.to_string()).collect();
    addresses.join(" ")
}
