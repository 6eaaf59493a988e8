//! The latest view of a source: written by one, read by everybody.

use std::sync::Arc;

use arc_swap::ArcSwap;
use flock_core::ports::{ClusterView, Readiness, Revision};
use tokio::sync::watch;

/// A view and how far its source has got; whoever waits is woken when either changes.
#[derive(Debug)]
pub(crate) struct Published {
    view: ArcSwap<ClusterView>,
    state: watch::Sender<(Revision, Readiness)>,
}

impl Published {
    /// An empty view.
    pub(crate) fn new(readiness: Readiness) -> Self {
        Self { view: ArcSwap::default(), state: watch::Sender::new((Revision::default(), readiness)) }
    }

    /// Puts a view in the place of the last one, unless nothing is different; returns the problems that are new.
    /// One caller at a time.
    pub(crate) fn publish(&self, mut view: ClusterView, readiness: Readiness) -> Vec<String> {
        let old = self.view.load();
        view.revision = old.revision;
        if view == **old && readiness == self.ready() {
            return Vec::new();
        }
        let is_news = |problem: &&String| !old.problems.contains(problem);
        let news = view.problems.iter().filter(is_news).cloned().collect();
        view.revision.0 = view.revision.0.saturating_add(1);
        let revision = view.revision;
        // The view first: whoever hears of a revision finds it.
        self.view.store(Arc::new(view));
        self.state.send_replace((revision, readiness));
        news
    }

    pub(crate) fn ready(&self) -> Readiness {
        self.state.borrow().1
    }

    pub(crate) fn snapshot(&self) -> Arc<ClusterView> {
        self.view.load_full()
    }

    pub(crate) async fn changed(&self, seen: Revision) -> Revision {
        let mut state = self.state.subscribe();
        let revision = state.wait_for(|(revision, _)| *revision != seen).await.map(|state| state.0);
        match revision {
            Ok(revision) => revision,
            // The sender lives as long as `self`.
            Err(_) => std::future::pending().await,
        }
    }
}
