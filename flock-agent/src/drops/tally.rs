//! How many lines are shown, and how many packets are not.

use std::time::Duration;

use tokio::time::Instant;

/// Lines in each second.
#[derive(Debug)]
pub(super) struct Budget {
    lines: u32,
    window: Option<Instant>,
    left: u32,
}

impl Budget {
    pub(super) fn new(lines: u32) -> Self {
        Self { lines, window: None, left: 0 }
    }

    /// Takes a line, if there is one left.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        if self.window.is_none_or(|start| now.duration_since(start) >= Duration::from_secs(1)) {
            (self.window, self.left) = (Some(now), self.lines);
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

/// Compares what was shown with what the counters say. Whatever is in between, a limit of the rules, a buffer of the
/// kernel or a queue, no dropped packet is kept back in silence.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The counters as last read; they start over with each table.
    counter: Option<u64>,
    /// Dropped since the start.
    dropped: u64,
    shown: u64,
    /// Told not to have been shown.
    told: u64,
}

impl Tally {
    /// A packet is shown.
    pub(super) fn shown(&mut self) {
        self.shown += 1;
    }

    /// Takes the counters of now. Returns how many packets were dropped before they were read the last time, so that
    /// they would have been shown by now, and were neither shown nor told of.
    pub(super) fn count(&mut self, counter: u64) -> u64 {
        let unseen = self.dropped.saturating_sub(self.shown + self.told);
        self.told += unseen;
        let new = self.counter.map_or(0, |last| counter.checked_sub(last).unwrap_or(counter));
        self.dropped += new;
        self.counter = Some(counter);
        unseen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_has_so_many_lines_and_the_next_one_again() {
        let (mut budget, start) = (Budget::new(2), Instant::now());
        let mut spend = |millis| budget.spend(start + Duration::from_millis(millis));
        assert_eq!(
            [0, 1, 2, 999, 1000, 1500, 1999].map(&mut spend),
            [true, true, false, false, true, true, false]
        );
    }

    #[test]
    fn packet_that_is_not_shown_is_told_of_once() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(1000), 0, "dropped before the start");
        tally.shown();
        assert_eq!(tally.count(1001), 0, "shown before it was counted");
        assert_eq!(tally.count(1011), 0, "those may still be on their way");
        tally.shown();
        assert_eq!(tally.count(1011), 9);
        assert_eq!(tally.count(1011), 0);
        assert_eq!(tally.count(5), 0, "a new table");
        assert_eq!(tally.count(5), 5);
    }
}
