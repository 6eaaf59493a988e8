//! Pauses between tries.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How long to wait after a failure: twice as long each time, with chance added, from the start again when things went
/// well.
pub(crate) struct Pause {
    range: (Duration, Duration),
    next: ExponentialBackoff,
}

impl Pause {
    pub(crate) fn new(range: (Duration, Duration)) -> Self {
        Self { range, next: Self::series(range) }
    }

    fn series((first, longest): (Duration, Duration)) -> ExponentialBackoff {
        let series = ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest);
        series.with_jitter().without_max_times().build()
    }

    pub(crate) fn reset(&mut self) {
        self.next = Self::series(self.range);
    }

    pub(crate) fn next(&mut self) -> Duration {
        self.next.next().unwrap_or(self.range.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_are_never_the_same() {
        let (first, longest) = (Duration::from_millis(500), Duration::from_secs(15));
        let series = || {
            let mut pause = Pause::new((first, longest));
            (0..10).map(|_| pause.next()).collect::<Vec<_>>()
        };
        let (one, two) = (series(), series());
        assert!(one.iter().all(|pause| (first..=longest * 2).contains(pause)), "{one:?}");
        assert!(one[0] <= first * 2 && one[9] >= longest, "{one:?}");
        assert_ne!(one, two);
        let mut pause = Pause::new((first, longest));
        for _ in 0..10 {
            pause.next();
        }
        pause.reset();
        assert!(pause.next() <= first * 2);
    }
}
