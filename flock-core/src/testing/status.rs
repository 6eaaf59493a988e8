//! A place to publish to that only remembers.

use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;

use crate::ports::{NodeStatus, PodEvent, StatusError, StatusSink};

/// A [`StatusSink`] that records. As the port asks, the same state twice is recorded once.
#[derive(Debug, Default)]
pub struct FakeStatusSink {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    published: Vec<NodeStatus>,
    events: Vec<PodEvent>,
    failure: Option<String>,
}

impl FakeStatusSink {
    /// Every state published, oldest first, no two neighbours alike.
    pub fn published(&self) -> Vec<NodeStatus> {
        self.state().published.clone()
    }

    /// Every event, oldest first.
    pub fn events(&self) -> Vec<PodEvent> {
        self.state().events.clone()
    }

    /// Makes every call fail with this reason; `None` heals it.
    pub fn fail(&self, reason: Option<&str>) {
        self.state().failure = reason.map(str::to_owned);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn healthy(&self) -> Result<MutexGuard<'_, State>, StatusError> {
        let state = self.state();
        match &state.failure {
            Some(reason) => Err(StatusError::Unavailable { reason: reason.clone() }),
            None => Ok(state),
        }
    }
}

#[async_trait]
impl StatusSink for FakeStatusSink {
    async fn publish(&self, status: &NodeStatus) -> Result<(), StatusError> {
        let mut state = self.healthy()?;
        if state.published.last() != Some(status) {
            state.published.push(status.clone());
        }
        Ok(())
    }

    async fn event(&self, event: &PodEvent) -> Result<(), StatusError> {
        self.healthy()?.events.push(event.clone());
        Ok(())
    }
}
