//! The latest view of a source: written by one, read by everybody.

use std::sync::Arc;

use arc_swap::ArcSwap;
use flock_core::ports::{ClusterView, Readiness, Revision};
use tokio::sync::watch;

/// A view and how far its source has got; whoever waits is woken when either changes.
#[derive(Debug)]
pub(crate) struct Published {
    /// Together, so that nobody sees the one without the other.
    shown: ArcSwap<(Arc<ClusterView>, Readiness)>,
    revision: watch::Sender<Revision>,
}

impl Published {
    /// An empty view.
    pub(crate) fn new(readiness: Readiness) -> Self {
        Self { shown: ArcSwap::from_pointee((Arc::default(), readiness)), revision: watch::Sender::default() }
    }

    /// Puts a view in the place of the last one, unless nothing is different; returns the problems that are new.
    /// One caller at a time.
    pub(crate) fn publish(&self, mut view: ClusterView, readiness: Readiness) -> Vec<String> {
        let shown = self.shown.load();
        let (old, was) = &**shown;
        view.revision = old.revision;
        if view == **old && readiness == *was {
            return Vec::new();
        }
        let is_news = |problem: &&String| !old.problems.contains(problem);
        let news = view.problems.iter().filter(is_news).cloned().collect();
        view.revision.0 = view.revision.0.saturating_add(1);
        let revision = view.revision;
        // The view first: whoever hears of a revision finds it.
        self.shown.store(Arc::new((Arc::new(view), readiness)));
        self.revision.send_replace(revision);
        news
    }

    /// At least as new as any view seen before.
    pub(crate) fn ready(&self) -> Readiness {
        self.shown.load().1
    }

    /// At least as new as any readiness seen before.
    pub(crate) fn snapshot(&self) -> Arc<ClusterView> {
        Arc::clone(&self.shown.load().0)
    }

    pub(crate) async fn changed(&self, seen: Revision) -> Revision {
        let mut revision = self.revision.subscribe();
        // Not merely another one: the view may be there a moment before it is told of.
        let revision = revision.wait_for(|revision| *revision > seen).await.map(|revision| *revision);
        match revision {
            Ok(revision) => revision,
            // The sender lives as long as `self`.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::thread;

    use super::*;

    #[test]
    fn a_view_and_its_readiness_show_together() {
        const LAST: u64 = 50_000;
        let readiness = |revision: u64| match revision % 2 {
            0 => Readiness::Ready,
            _ => Readiness::Starting("the next"),
        };
        let published = Published::new(readiness(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for revision in 1..=LAST {
                    published.publish(ClusterView::default(), readiness(revision));
                }
            });
            loop {
                let before = published.snapshot().revision;
                let ready = published.ready();
                if published.snapshot().revision == before {
                    assert_eq!(ready, readiness(before.0), "{before:?}");
                }
                if before.0 == LAST {
                    break;
                }
            }
        });
    }

    #[test]
    fn who_has_the_view_before_it_is_told_of_is_not_told_of_the_one_before() {
        let published = Published::new(Readiness::Ready);
        let mut context = Context::from_waker(Waker::noop());
        // Between the two halves of `publish`.
        let view = ClusterView { revision: Revision(1), ..ClusterView::default() };
        published.shown.store(Arc::new((Arc::new(view), Readiness::Ready)));
        let seen = published.snapshot().revision;
        let mut changed = pin!(published.changed(seen));
        assert_eq!(changed.as_mut().poll(&mut context), Poll::Pending);
        published.revision.send_replace(Revision(1));
        assert_eq!(changed.as_mut().poll(&mut context), Poll::Pending);
        published.revision.send_replace(Revision(2));
        assert_eq!(changed.as_mut().poll(&mut context), Poll::Ready(Revision(2)));
    }
}
