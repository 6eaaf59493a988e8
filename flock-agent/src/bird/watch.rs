//! How often BIRD is woken. What a timer of BIRD 2 sets off, or the end of a step, BIRD goes on with when something wakes
//! it, or after 3 s. The end of its recovery takes two such steps, and the first announcements of a session may wait for
//! one: peers would hear of a pod seconds late.

use std::time::{Duration, Instant};

use flock_core::ports::{PeerState, PeerStatus};

/// The pause while BIRD has something to do.
const BUSY: Duration = Duration::from_millis(100);

/// The pause while it has not.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// How long its recovery takes: as long as its configuration gives it, 10 s, if not less.
const RECOVERY: Duration = Duration::from_secs(12);

/// How long a session has something to announce once it is up.
const SETTLE: Duration = Duration::from_secs(2);

/// When BIRD has something to do.
#[derive(Debug)]
pub(super) struct Watch {
    busy_until: Instant,
}

impl Watch {
    /// Of a BIRD that is up since now.
    pub(super) fn new(now: Instant) -> Self {
        Self { busy_until: now + RECOVERY }
    }

    /// How long to leave BIRD alone.
    pub(super) fn pause(&mut self, sessions: &[PeerStatus], now: Instant) -> Duration {
        if sessions.iter().any(|session| session.state != PeerState::Established) {
            self.busy_until = self.busy_until.max(now + SETTLE);
        }
        if now < self.busy_until { BUSY } else { QUIET }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(state: PeerState) -> PeerStatus {
        let (peer, since) = ("2001:db8::1".parse().unwrap(), String::new());
        PeerStatus { peer, state, since, last_error: None, imported: 0, exported: 0 }
    }

    #[test]
    fn bird_is_woken_often_while_it_recovers_and_while_a_session_is_on_its_way() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let up = session(PeerState::Established);
        let table = [
            (0, vec![], BUSY),
            (11, vec![up.clone()], BUSY),
            (12, vec![up.clone()], QUIET),
            (13, vec![], QUIET),
            (100, vec![up.clone(), session(PeerState::Connect)], BUSY),
            (200, vec![up.clone(), session(PeerState::Down)], BUSY),
            (201, vec![up.clone(), up.clone()], BUSY),
            (202, vec![up.clone(), up], QUIET),
        ];
        for (seconds, sessions, pause) in table {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(watch.pause(&sessions, now), pause, "after {seconds} s");
        }
    }
}
