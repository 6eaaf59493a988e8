//! Time as a value: the core has no clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the node booted, suspended time included (`CLOCK_BOOTTIME`): it never jumps, and
/// it starts over exactly when links and allocations do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A point in time, in milliseconds since boot.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since boot.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This point in time and `duration` more; stays at the end of time rather than wrapping.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Tells the time; for work that takes a while and needs to know when it ended.
pub type Clock<'a> = &'a (dyn Fn() -> Timestamp + Send + Sync);
