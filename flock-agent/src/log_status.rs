//! Status and events where there is no API server: the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use flock_core::ports::{NodeStatus, PeerState, PodEvent, StatusError, StatusSink};

/// Writes what changed since the last time to the log.
#[derive(Debug, Default)]
pub(crate) struct LogStatus(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    conditions: BTreeMap<String, (bool, String)>,
    sessions: BTreeMap<IpAddr, PeerState>,
}

#[async_trait]
impl StatusSink for LogStatus {
    async fn publish(&self, status: &NodeStatus) -> Result<(), StatusError> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for condition in &status.conditions {
            let news = (condition.status, condition.message.clone());
            if seen.conditions.get(&condition.kind) != Some(&news) {
                tracing::info!(
                    condition = condition.kind,
                    status = condition.status,
                    reason = condition.reason,
                    "{}",
                    condition.message
                );
                seen.conditions.insert(condition.kind.clone(), news);
            }
        }
        for session in &status.bgp {
            if seen.sessions.insert(session.peer, session.state) != Some(session.state) {
                let error = session.last_error.as_deref();
                tracing::info!(peer = %session.peer, state = ?session.state, error, "BGP session");
            }
        }
        seen.sessions.retain(|peer, _| status.bgp.iter().any(|session| session.peer == *peer));
        Ok(())
    }

    async fn event(&self, event: &PodEvent) -> Result<(), StatusError> {
        tracing::warn!(pod = %event.pod, reason = event.reason, "{}", event.message);
        Ok(())
    }
}
