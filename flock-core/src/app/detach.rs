use super::Node;
use super::error::DetachError;
use super::lock::AttachmentGuard;
use crate::time::Timestamp;

impl Node {
    /// Takes an attachment out of service and gives its addresses back. Whatever is gone already is fine.
    ///
    /// When the kernel cannot let go, the addresses stay held: handing them to another pod would send it
    /// somebody else's packets. The runtime repeats a failed DEL.
    pub async fn detach(&self, guard: &AttachmentGuard, now: Timestamp) -> Result<(), DetachError> {
        self.ports.netlink.detach(guard.attachment()).await?;
        let released = self.state().ipam.release(guard.attachment(), now);
        // Those who are left may be all that there is now.
        if released.is_some_and(|released| !released.anycast.is_empty()) {
            self.wake();
        }
        // Also when this call released nothing: an earlier one may have failed to write.
        self.persist().await?;
        Ok(())
    }
}
