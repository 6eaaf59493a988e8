//! What nobody will ask flock to remove: runtimes call DEL late, twice or never, and a crash or a refusal can
//! leave a step half done. Pure: what was seen and the time go in, what may be removed now comes out.
//!
//! ```
//! use std::collections::BTreeSet;
//! use flock_core::leak::{GRACE, Leak, Suspects, leaks};
//! use flock_core::ports::HostLink;
//! use flock_core::time::Timestamp;
//!
//! // A link that names an attachment, which holds no addresses.
//! let attachment = Some("c0ffee/eth0".parse()?);
//! let link = HostLink { ifname: "flock01234567".parse()?, ifindex: 7, attachment };
//! let seen = leaks(&[], &[link.clone()], &BTreeSet::new());
//!
//! let mut suspects = Suspects::default();
//! let first = Timestamp::from_millis(0);
//! assert_eq!(suspects.look(seen.clone(), first, GRACE), []);
//! assert_eq!(suspects.look(seen, first.after(GRACE), GRACE), [Leak::Link(link)]);
//! # Ok::<(), flock_core::ids::IdError>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::ids::{AttachmentId, IfName};
use crate::ipam::Allocation;
use crate::ports::{HostLink, NetnsPath};
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// How long something has to look like a leak: longer than an ADD or a DEL takes.
pub const GRACE: Duration = Duration::from_mins(1);

/// Most that is removed after one look.
pub const AT_ONCE: usize = 32;

/// Something that is left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leak {
    /// Addresses of a pod that is gone: the attachment has no link, and its network namespace is no more. Where
    /// only the link is missing the pod may still run, and CHECK says so.
    Allocation(AttachmentId),
    /// A link of an attachment that holds no addresses, or that does not say whose it is.
    Link(HostLink),
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocation(attachment) => {
                write!(f, "addresses of {attachment}: its link and its network namespace are gone")
            }
            Self::Link(HostLink { ifname, attachment: Some(attachment), .. }) => {
                write!(f, "link {ifname}: {attachment}, which it belongs to, holds no addresses")
            }
            Self::Link(HostLink { ifname, attachment: None, .. }) => {
                write!(f, "link {ifname}: it does not say whose it is")
            }
        }
    }
}

/// Allocations that none of these links belongs to.
pub fn unlinked<'a>(allocations: &[&'a Allocation], links: &[HostLink]) -> Vec<&'a Allocation> {
    let owners: BTreeMap<&IfName, Option<&AttachmentId>> =
        links.iter().map(|link| (&link.ifname, link.attachment.as_ref())).collect();
    let is_linked = |held: &Allocation| {
        let owner = owners.get(&held.attachment.host_ifname());
        owner.is_some_and(|owner| owner.is_none_or(|owner| *owner == held.attachment))
    };
    allocations.iter().copied().filter(|held| !is_linked(held)).collect()
}

/// What looks like a leak. `gone`: of the network namespaces of [`unlinked`] allocations, those that are no more.
pub fn leaks(allocations: &[&Allocation], links: &[HostLink], gone: &BTreeSet<NetnsPath>) -> BTreeSet<Leak> {
    let attachments: BTreeSet<&AttachmentId> = allocations.iter().map(|held| &held.attachment).collect();
    let is_stray = |link: &&HostLink| match &link.attachment {
        Some(attachment) => !attachments.contains(attachment),
        // It may be the link of a running pod, that somebody took the alias of.
        None => allocations.iter().all(|held| held.attachment.host_ifname() != link.ifname),
    };
    let is_deserted = |held: &&Allocation| held.netns.as_ref().is_none_or(|netns| gone.contains(netns));
    let deserted = unlinked(allocations, links).into_iter().filter(is_deserted);
    let allocations = deserted.map(|held| Leak::Allocation(held.attachment.clone()));
    allocations.chain(links.iter().filter(is_stray).cloned().map(Leak::Link)).collect()
}

/// What looked like a leak at the last look, and since when it has at every one.
#[derive(Debug, Clone, Default)]
pub struct Suspects(BTreeMap<Leak, Timestamp>);

impl Suspects {
    /// Takes note of what looks like a leak now, and returns what may be removed: what was seen before too, for the
    /// first time at least `grace` ago; oldest first, and at most [`AT_ONCE`]. Whatever is returned is new when it
    /// is seen again, so that what cannot be removed does not keep the others from their turn.
    pub fn look(&mut self, seen: BTreeSet<Leak>, now: Timestamp, grace: Duration) -> Vec<Leak> {
        self.0.retain(|leak, _| seen.contains(leak));
        let mut ripe: Vec<(Timestamp, Leak)> = self
            .0
            .iter()
            .filter(|(_, since)| since.after(grace) <= now)
            .map(|(leak, since)| (*since, leak.clone()))
            .collect();
        ripe.sort_unstable();
        ripe.truncate(AT_ONCE);
        for leak in seen {
            self.0.entry(leak).or_insert(now);
        }
        for (_, leak) in &ripe {
            self.0.remove(leak);
        }
        ripe.into_iter().map(|(_, leak)| leak).collect()
    }
}
