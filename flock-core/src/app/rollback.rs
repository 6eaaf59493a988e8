use super::Node;
use crate::ids::AttachmentId;
use crate::time::Clock;

/// What an ADD has done so far and has to take back if it fails, last step first.
#[derive(Default)]
pub(super) struct Rollback(Vec<Undo>);

/// One step to take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undo {
    /// Release the addresses, in memory and on disk.
    Release,
    /// Remove the link and its routes.
    Detach,
}

impl Rollback {
    pub(super) fn push(&mut self, step: Undo) {
        self.0.push(step);
    }

    /// Takes everything back. Goes on after errors and returns them: what could not be taken back is left
    /// to the DEL that the runtime sends after a failed ADD.
    pub(super) async fn run(self, node: &Node, attachment: &AttachmentId, clock: Clock<'_>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut detached = true;
        for step in self.0.into_iter().rev() {
            match step {
                Undo::Detach => {
                    if let Err(error) = node.ports.netlink.detach(attachment).await {
                        detached = false;
                        problems.push(error.to_string());
                    }
                }
                // Addresses of a link that is still there are not free.
                Undo::Release if detached => {
                    node.state().ipam.release(attachment, clock());
                    node.wake_firewall();
                    // Written later where it cannot be now, as with a DEL; `catch_up` says so if that takes long.
                    let _ = node.persist().await;
                }
                Undo::Release => {}
            }
        }
        problems
    }
}
