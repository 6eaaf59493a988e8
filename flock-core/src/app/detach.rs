use super::Node;
use super::lock::AttachmentGuard;
use crate::ids::AttachmentId;
use crate::ports::{NetlinkError, StoreError};
use crate::time::Timestamp;

impl Node {
    /// Takes an attachment out of service and gives its addresses back; whether it had any. Whatever is gone already is
    /// fine: a runtime says DEL several times for most pods.
    ///
    /// When the kernel cannot let go, the addresses stay held: handing them to another pod would send it
    /// somebody else's packets. The runtime repeats a failed DEL. That the release cannot be written is no failure: on a full
    /// disk nothing would ever be freed if pods could not go, and a crash before it is written leaves a leak to sweep.
    pub async fn detach(&self, guard: &AttachmentGuard, now: Timestamp) -> Result<bool, NetlinkError> {
        let _leaving = self.leaving(guard.attachment());
        self.ports.netlink.detach(guard.attachment()).await?;
        let released = {
            let mut state = self.state();
            let released = state.ipam.release(guard.attachment(), now);
            if let Some(released) = &released {
                state.free(released);
            }
            released
        };
        if released.is_some() {
            self.wake_firewall();
        }
        // Those who are left may be all that there is now.
        if released.as_ref().is_some_and(|released| !released.anycast.is_empty()) {
            self.wake();
        }
        if let Err(error) = self.persist().await {
            tracing::warn!(op = "del", label = error.label(), %error, "the release is written later");
        }
        Ok(released.is_some())
    }

    /// Writes what a DEL could not. To be called every few seconds.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        self.persist().await
    }

    /// No pass over the routes that asks from now on wants any of this attachment. It holds its addresses until the
    /// kernel has let go, and would come back into a group it has left; with its link the kernel then removes the
    /// route of the last member, which of an IPv4 route it tells nobody.
    fn leaving(&self, attachment: &AttachmentId) -> Leaving<'_> {
        self.state().leaving.insert(attachment.clone());
        Leaving { node: self, attachment: attachment.clone() }
    }
}

/// Until the addresses are released, or stay held.
struct Leaving<'a> {
    node: &'a Node,
    attachment: AttachmentId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.node.state().leaving.remove(&self.attachment);
    }
}
