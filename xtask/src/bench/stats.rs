//! Figures out of many measurements.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// Median, 95th percentile and worst of a series, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    #[serde(rename = "median_ms")]
    pub(super) median: f64,
    #[serde(rename = "p95_ms")]
    pub(super) p95: f64,
    #[serde(rename = "worst_ms")]
    pub(super) worst: f64,
}

impl Summary {
    /// Of at least one measurement; `None` of none.
    pub(super) fn of(mut series: Vec<Duration>) -> Option<Self> {
        series.sort_unstable();
        Some(Self { median: rank(&series, 50)?, p95: rank(&series, 95)?, worst: rank(&series, 100)? })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.2} {:>8.2} {:>8.2}", self.median, self.p95, self.worst)
    }
}

/// The smallest measurement that `percent` of all do not exceed (nearest rank), in milliseconds.
fn rank(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).map(|time| time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements_by_nearest_rank() {
        let series = |range: std::ops::RangeInclusive<u64>| range.rev().map(Duration::from_millis).collect();
        let of = |range| Summary::of(series(range)).map(|s| [s.median, s.p95, s.worst]);
        assert_eq!(of(1..=100), Some([50.0, 95.0, 100.0]));
        assert_eq!(of(1..=5), Some([3.0, 5.0, 5.0]));
        assert_eq!(of(7..=7), Some([7.0, 7.0, 7.0]));
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
