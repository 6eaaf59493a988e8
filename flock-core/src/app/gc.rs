use std::collections::BTreeSet;

use super::Node;
use super::error::GcError;
use crate::ids::AttachmentId;
use crate::time::Timestamp;

impl Node {
    /// Removes every attachment, in the state or in the kernel, that is not in `keep`. Goes on after
    /// errors and returns all of them; returns what was removed otherwise. No ADD or DEL is under way
    /// meanwhile: the runtime sees to that (CNI spec, "Lifecycle & Ordering").
    pub async fn gc(
        &self,
        keep: &BTreeSet<AttachmentId>,
        now: Timestamp,
    ) -> Result<Vec<AttachmentId>, GcError> {
        let mut found: BTreeSet<AttachmentId> =
            self.state().ipam.allocations().map(|allocation| allocation.attachment.clone()).collect();
        let linked = self.ports.netlink.attachments().await?;
        found.extend(linked.into_iter().filter_map(|link| Some(link.identity?.attachment)));
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        for attachment in found.difference(keep) {
            let guard = self.lock(attachment.clone()).await;
            match self.detach(&guard, now).await {
                Ok(_) => removed.push(attachment.clone()),
                Err(error) => failed.push((attachment.clone(), error)),
            }
        }
        if failed.is_empty() { Ok(removed) } else { Err(GcError::Detach(failed)) }
    }
}
