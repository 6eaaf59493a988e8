//! What has been told and what is still to be told. Pure: it has no clock and sends nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flock_core::ids::PodUid;
use k8s_openapi::jiff::Timestamp;

/// What is not repeated for so long is forgotten, and new when it comes again.
const FORGOTTEN: Duration = Duration::from_mins(6);
/// What nobody heard so far is kept for as long as an Event lives.
const KEPT: Duration = Duration::from_hours(1);
/// Events told at once, and how long one takes to be allowed again.
const BUDGET: (u32, Duration) = (25, Duration::from_secs(5));
/// Kinds of happenings remembered at most.
const MOST: usize = 256;

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    /// `None` for an object without a namespace.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) uid: Option<PodUid>,
}

/// The same happening has the same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Happening {
    pub(super) about: About,
    pub(super) reason: &'static str,
    pub(super) note: String,
}

/// What to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tell {
    /// A new Event.
    First { name: String, since: Timestamp, count: i32 },
    /// The Event of this name, happened again.
    Again { name: String, count: i32 },
}

/// What came of telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is there.
    Yes,
    /// It was there, and is no longer.
    Gone,
    /// It will not be taken.
    Refused,
    /// Nobody said anything.
    Silence,
}

#[derive(Debug)]
pub(super) struct Told {
    series: BTreeMap<Happening, Series>,
    quiet: Duration,
    /// Tells the Events of this run from those of others.
    run: String,
    serial: u64,
    budget: u32,
    refilled: Instant,
}

#[derive(Debug)]
struct Series {
    name: String,
    /// The API server has it.
    exists: bool,
    /// There is something to tell.
    due: bool,
    count: i32,
    since: Timestamp,
    tried: Instant,
    seen: Instant,
}

impl Told {
    /// Nothing so far. `quiet`: between two words on the same thing.
    pub(super) fn new(run: String, quiet: Duration, now: Instant) -> Self {
        Self { series: BTreeMap::new(), quiet, run, serial: 0, budget: BUDGET.0, refilled: now }
    }

    /// Takes note; false where there is too much of it.
    pub(super) fn happened(&mut self, what: Happening, now: Instant, time: Timestamp) -> bool {
        self.refill(now);
        self.series.retain(|_, it| now.duration_since(it.seen) < if it.due { KEPT } else { FORGOTTEN });
        if let Some(series) = self.series.get_mut(&what) {
            series.count = series.count.saturating_add(1);
            series.seen = now;
            if !series.due && now.duration_since(series.tried) >= self.quiet && self.budget > 0 {
                self.budget -= 1;
                series.due = true;
            }
            return true;
        }
        if self.budget == 0 || self.series.len() >= MOST {
            return false;
        }
        self.budget -= 1;
        let name = self.name(&what.about);
        let series = Series { name, exists: false, due: true, count: 1, since: time, tried: now, seen: now };
        self.series.insert(what, series);
        true
    }

    /// Something that is to be told, if anything is: what was not tried for longest, so that one Event the API server
    /// cannot take (a webhook that fails, say) keeps no other waiting.
    pub(super) fn next(&self) -> Option<(Happening, Tell)> {
        let due = self.series.iter().filter(|(_, series)| series.due);
        let (what, series) = due.min_by_key(|(_, series)| series.tried)?;
        let (name, count) = (series.name.clone(), series.count);
        let since = series.since;
        let tell =
            if series.exists { Tell::Again { name, count } } else { Tell::First { name, since, count } };
        Some((what.clone(), tell))
    }

    /// Takes note of what came of it.
    pub(super) fn heard(&mut self, what: &Happening, heard: Heard, now: Instant) {
        let fresh = self.name(&what.about);
        let Some(series) = self.series.get_mut(what) else { return };
        match heard {
            Heard::Silence => {
                series.tried = now;
                return;
            }
            // Told anew at once, as a new one.
            Heard::Gone => {
                series.exists = false;
                series.name = fresh;
                return;
            }
            Heard::Yes => series.exists = true,
            // Tried again when it is repeated after the quiet time.
            Heard::Refused => {
                series.exists = false;
                series.name = fresh;
            }
        }
        series.due = false;
        series.tried = now;
    }

    fn refill(&mut self, now: Instant) {
        while self.budget < BUDGET.0 && now.duration_since(self.refilled) >= BUDGET.1 {
            self.budget += 1;
            self.refilled += BUDGET.1;
        }
        if self.budget == BUDGET.0 {
            self.refilled = now;
        }
    }

    /// A DNS subdomain of at most 253 characters, whatever the object is called.
    fn name(&mut self, about: &About) -> String {
        const LONGEST: usize = 200;
        self.serial += 1;
        let object = about.name.get(..LONGEST).unwrap_or(&about.name).trim_end_matches(['-', '.']);
        format!("{object}.{}.{:x}", self.run, self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(name: &str) -> Happening {
        let about = About {
            api_version: "v1",
            kind: "Pod",
            namespace: Some("a".to_owned()),
            name: name.to_owned(),
            uid: None,
        };
        Happening { about, reason: "R", note: "note".to_owned() }
    }

    fn told(now: Instant) -> Told {
        Told::new("run".to_owned(), Duration::from_mins(1), now)
    }

    /// Everything that is to be told, as told.
    fn tell_all(told: &mut Told, heard: Heard, now: Instant) -> Vec<Tell> {
        let mut tells = Vec::new();
        while let Some((what, tell)) = told.next() {
            tells.push(tell);
            told.heard(&what, heard, now);
        }
        tells
    }

    fn first(name: &str, count: i32) -> Tell {
        Tell::First { name: name.to_owned(), since: Timestamp::UNIX_EPOCH, count }
    }

    #[test]
    fn what_is_never_heard_keeps_nothing_else_waiting() {
        let start = Instant::now();
        let mut told = told(start);
        for name in ["a", "b", "c"] {
            assert!(told.happened(happening(name), start, Timestamp::UNIX_EPOCH));
        }
        let mut tried = Vec::new();
        for seconds in 1..=5 {
            let (what, _) = told.next().unwrap();
            let heard = if what.about.name == "a" { Heard::Silence } else { Heard::Yes };
            told.heard(&what, heard, start + Duration::from_secs(seconds));
            tried.push(what.about.name);
        }
        assert_eq!(tried, ["a", "b", "c", "a", "a"]);
    }

    #[test]
    fn repetitions_are_counted_and_told_now_and_then() {
        let start = Instant::now();
        let mut told = told(start);
        let mut at = |seconds| {
            let now = start + Duration::from_secs(seconds);
            assert!(told.happened(happening("b"), now, Timestamp::UNIX_EPOCH));
            tell_all(&mut told, Heard::Yes, now)
        };
        assert_eq!(at(0), [first("b.run.1", 1)]);
        assert_eq!(at(1), []);
        assert_eq!(at(59), []);
        assert_eq!(at(60), [Tell::Again { name: "b.run.1".to_owned(), count: 4 }]);
        assert_eq!(at(61), []);
        assert!(matches!(&at(61 + 360)[..], [Tell::First { count: 1, .. }]), "forgotten meanwhile");
    }

    #[test]
    fn what_nobody_heard_is_told_later_and_with_everything_since() {
        let start = Instant::now();
        let mut told = told(start);
        told.happened(happening("b"), start, Timestamp::UNIX_EPOCH);
        told.happened(happening("b"), start, Timestamp::UNIX_EPOCH);
        let (what, _) = told.next().unwrap();
        told.heard(&what, Heard::Silence, start);
        let later = start + Duration::from_mins(10);
        told.happened(happening("c"), later, Timestamp::UNIX_EPOCH);
        let tells = tell_all(&mut told, Heard::Yes, later);
        assert_eq!(tells[0], first("b.run.1", 2), "the same name: the first try may have got through");
        assert_eq!(tells.len(), 2);
    }

    #[test]
    fn an_event_that_is_gone_is_told_as_a_new_one_and_what_is_refused_waits_for_its_repetition() {
        let start = Instant::now();
        let mut told = told(start);
        let mut at = |seconds, heard: &[Heard]| {
            let now = start + Duration::from_secs(seconds);
            told.happened(happening("b"), now, Timestamp::UNIX_EPOCH);
            let mut tells = Vec::new();
            for heard in heard {
                let Some((what, tell)) = told.next() else { break };
                told.heard(&what, *heard, now);
                tells.push(tell);
            }
            assert_eq!(told.next(), None);
            tells
        };
        assert_eq!(at(0, &[Heard::Refused]).len(), 1);
        assert_eq!(at(30, &[Heard::Yes]).len(), 0, "quiet");
        assert!(matches!(&at(60, &[Heard::Yes])[..], [Tell::First { count: 3, .. }]));
        let tells = at(120, &[Heard::Gone, Heard::Yes]);
        assert!(
            matches!(&tells[..], [Tell::Again { name: old, .. }, Tell::First { name, .. }] if name != old)
        );
    }

    #[test]
    fn a_flood_is_cut_off_and_ends() {
        let start = Instant::now();
        let mut told = told(start);
        let mut firsts = |from: u32, at: Instant| {
            for n in from..from + 1000 {
                told.happened(happening(&n.to_string()), at, Timestamp::UNIX_EPOCH);
            }
            tell_all(&mut told, Heard::Yes, at).len()
        };
        assert_eq!(firsts(0, start), 25);
        assert_eq!(firsts(1000, start + Duration::from_secs(10)), 2);
    }

    #[test]
    fn what_nobody_hears_does_not_pile_up() {
        let start = Instant::now();
        let mut told = told(start);
        for n in 0..2000 {
            told.happened(happening(&n.to_string()), start + Duration::from_secs(n), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(told.series.len(), MOST);
    }

    #[test]
    fn an_event_has_a_good_name_whatever_its_pod_is_called() {
        let mut told = Told::new("f".repeat(16), Duration::from_mins(1), Instant::now());
        let dashed = format!("{}{}", "a".repeat(190), "-".repeat(30));
        for name in
            ["b".to_owned(), "a".repeat(253), format!("{}.{}", "a".repeat(199), "b".repeat(50)), dashed]
        {
            let name = told.name(&happening(&name).about);
            assert!(flock_core::ids::PodKey::new("default", &name).is_ok(), "{name}");
        }
    }
}
