use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::ids::AttachmentId;

type Held = Arc<Mutex<BTreeMap<AttachmentId, Arc<AsyncMutex<()>>>>>;

/// One lock per attachment that something is happening to; none for the others.
#[derive(Default)]
pub(super) struct AttachmentLocks(Held);

/// Proof that nothing else happens to this attachment.
pub struct AttachmentGuard {
    attachment: AttachmentId,
    held: Held,
    guard: Option<OwnedMutexGuard<()>>,
}

impl AttachmentLocks {
    pub(super) async fn lock(&self, attachment: AttachmentId) -> AttachmentGuard {
        let mutex = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(held.entry(attachment.clone()).or_default())
        };
        // Made before the wait: a caller that gives up waiting drops it and so cleans up its entry.
        let mut guard = AttachmentGuard { attachment, held: Arc::clone(&self.0), guard: None };
        guard.guard = Some(mutex.lock_owned().await);
        guard
    }

    /// The lock, if nobody has it or waits for it.
    pub(super) fn try_lock(&self, attachment: &AttachmentId) -> Option<AttachmentGuard> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(attachment) {
            return None;
        }
        let mutex = Arc::<AsyncMutex<()>>::default();
        let guard = Some(Arc::clone(&mutex).try_lock_owned().ok()?);
        held.insert(attachment.clone(), mutex);
        Some(AttachmentGuard { attachment: attachment.clone(), held: Arc::clone(&self.0), guard })
    }
}

impl AttachmentGuard {
    /// What is locked.
    pub fn attachment(&self) -> &AttachmentId {
        &self.attachment
    }
}

impl Drop for AttachmentGuard {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Everyone who waits or holds has a clone of the mutex, taken under the lock of the map.
        if held.get(&self.attachment).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            held.remove(&self.attachment);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn id(text: &str) -> AttachmentId {
        AttachmentId::parse(text).unwrap()
    }

    #[tokio::test]
    async fn one_attachment_at_a_time_and_nothing_is_kept() {
        let locks = AttachmentLocks::default();
        let first = locks.lock(id("a/eth0")).await;
        let other = locks.lock(id("b/eth0")).await;
        let mut second = pin!(locks.lock(id("a/eth0")));
        let mut context = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(first);
        let Poll::Ready(second) = second.as_mut().poll(&mut context) else { panic!("still locked") };
        assert_eq!(second.attachment(), &id("a/eth0"));
        drop((second, other));
        assert!(locks.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_lock_is_only_tried_for_where_nobody_has_it_or_waits_for_it() {
        let locks = AttachmentLocks::default();
        let first = locks.try_lock(&id("a/eth0")).unwrap();
        assert!(locks.try_lock(&id("a/eth0")).is_none());
        let other = locks.try_lock(&id("b/eth0"));
        assert!(other.is_some());
        let mut waiter = pin!(locks.lock(id("a/eth0")));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(locks.try_lock(&id("a/eth0")).is_none(), "it is the waiter's turn");
        let Poll::Ready(second) = waiter.as_mut().poll(&mut context) else { panic!("still locked") };
        drop((second, other));
        assert!(locks.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing() {
        let locks = AttachmentLocks::default();
        let first = locks.lock(id("a/eth0")).await;
        {
            let mut second = pin!(locks.lock(id("a/eth0")));
            assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(first);
        assert!(locks.0.lock().unwrap().is_empty());
    }
}
