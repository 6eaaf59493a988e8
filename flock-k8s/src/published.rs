//! The latest view of a source: written by one, read by everybody.

use std::sync::Arc;

use arc_swap::ArcSwap;
use flock_core::policy::PolicyView;
use flock_core::ports::{ClusterView, Readiness, Revision};
use tokio::sync::watch;

/// A view that counts its changes.
pub(crate) trait View: PartialEq + Default {
    fn revision(&mut self) -> &mut Revision;

    /// Objects that could not be read.
    fn problems(&self) -> &[String] {
        &[]
    }

    /// Takes over the parts of the last view that are the same, so that both share them.
    fn share(&mut self, _last: &Self) {}
}

impl View for ClusterView {
    fn revision(&mut self) -> &mut Revision {
        &mut self.revision
    }

    fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl View for PolicyView {
    fn revision(&mut self) -> &mut Revision {
        &mut self.revision
    }

    fn share(&mut self, last: &Self) {
        fn keep<T: Eq>(now: &mut Arc<T>, last: &Arc<T>) {
            if now == last {
                *now = Arc::clone(last);
            }
        }
        keep(&mut self.policies, &last.policies);
        keep(&mut self.cluster, &last.cluster);
        keep(&mut self.namespaces, &last.namespaces);
        keep(&mut self.pods, &last.pods);
    }
}

/// A view, and something small that changes with it, such as how far its source has got; whoever waits is woken when
/// either changes.
#[derive(Debug)]
pub(crate) struct Published<V, S = ()> {
    /// Together, so that nobody sees the one without the other.
    shown: ArcSwap<(Arc<V>, S)>,
    revision: watch::Sender<Revision>,
}

/// How far a source has got, and what it has seen.
pub(crate) type Cluster = Published<ClusterView, Readiness>;

/// What a source has seen of policies.
pub(crate) type Policies = Published<PolicyView>;

impl<V: View, S: PartialEq + Copy> Published<V, S> {
    /// An empty view.
    pub(crate) fn new(state: S) -> Self {
        Self { shown: ArcSwap::from_pointee((Arc::default(), state)), revision: watch::Sender::default() }
    }

    /// Puts a view in the place of the last one, unless nothing is different; returns the problems that are new.
    /// One caller at a time.
    pub(crate) fn publish(&self, mut view: V, state: S) -> Vec<String> {
        let shown = self.shown.load();
        let (old, was) = &**shown;
        let mut revision = *self.revision.borrow();
        *view.revision() = revision;
        if view == **old && state == *was {
            return Vec::new();
        }
        let is_news = |problem: &&String| !old.problems().contains(problem);
        let news = view.problems().iter().filter(is_news).cloned().collect();
        revision.0 = revision.0.saturating_add(1);
        *view.revision() = revision;
        view.share(old);
        // The view first: whoever hears of a revision finds it.
        self.shown.store(Arc::new((Arc::new(view), state)));
        self.revision.send_replace(revision);
        news
    }

    /// At least as new as any view seen before.
    pub(crate) fn state(&self) -> S {
        self.shown.load().1
    }

    /// At least as new as any state seen before.
    pub(crate) fn snapshot(&self) -> Arc<V> {
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
        let published = Cluster::new(readiness(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for revision in 1..=LAST {
                    published.publish(ClusterView::default(), readiness(revision));
                }
            });
            loop {
                let before = published.snapshot().revision;
                let ready = published.state();
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
        let published = Cluster::new(Readiness::Ready);
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
