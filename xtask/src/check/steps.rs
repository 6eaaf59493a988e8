//! A sequence of steps with one table at the end.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

/// How a step that did not fail went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It holds.
    Done,
    /// It could not be looked at here, for this reason.
    Skipped(String),
}

#[derive(Debug)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed,
    NotReached,
}

/// The steps so far.
#[derive(Debug)]
pub(super) struct Steps {
    keep_going: bool,
    done: Vec<(&'static str, Verdict, Duration)>,
}

impl Steps {
    /// No step yet. Unless told to keep going, the first failure is the last step that runs.
    pub(super) fn new(keep_going: bool) -> Self {
        Self { keep_going, done: Vec::new() }
    }

    /// Announces a step, runs it and says how it went.
    pub(super) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<Outcome>) {
        if self.failed() && !self.keep_going {
            self.done.push((name, Verdict::NotReached, Duration::ZERO));
            return;
        }
        println!("\n==> {name}");
        let start = Instant::now();
        let verdict = match step() {
            Ok(Outcome::Done) => Verdict::Passed,
            Ok(Outcome::Skipped(why)) => Verdict::Skipped(why),
            Err(error) => {
                eprintln!("error: {error:#}");
                Verdict::Failed
            }
        };
        let took = start.elapsed();
        println!("    {} in {}", word(&verdict), human(took));
        self.done.push((name, verdict, took));
    }

    /// Whether a step failed.
    pub(super) fn failed(&self) -> bool {
        self.done.iter().any(|(_, verdict, _)| matches!(verdict, Verdict::Failed))
    }

    /// Writes the table: one line per step, then what was skipped, by a step or as `limits` of this machine.
    pub(super) fn report(&self, limits: &[String], to: &mut impl Write) -> io::Result<()> {
        writeln!(to)?;
        for (name, verdict, took) in &self.done {
            writeln!(to, "{name:<10} {:<12} {:>12}", word(verdict), human(*took))?;
        }
        let skipped = self.done.iter().filter_map(|(name, verdict, _)| match verdict {
            Verdict::Skipped(why) => Some(format!("{name}: {why}")),
            _ => None,
        });
        for line in skipped.chain(limits.iter().cloned()) {
            writeln!(to, "skipped: {line}")?;
        }
        writeln!(to, "\n{}", if self.failed() { "FAILED" } else { "All good." })
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "ok",
        Verdict::Skipped(_) => "skipped",
        Verdict::Failed => "FAILED",
        Verdict::NotReached => "not reached",
    }
}

/// A duration for people: `0.4 s`, `1 min 5 s`.
fn human(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 60.. => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a passing, a failing, a skipped and a passing step; returns the names that ran.
    fn run(keep_going: bool) -> (Steps, Vec<&'static str>) {
        let mut ran = Vec::new();
        let mut steps = Steps::new(keep_going);
        let mut step = |name, outcome: fn() -> Result<Outcome>| {
            steps.run(name, || {
                ran.push(name);
                outcome()
            });
        };
        step("one", || Ok(Outcome::Done));
        step("two", || anyhow::bail!("broken"));
        step("three", || Ok(Outcome::Skipped("no root".to_owned())));
        step("four", || Ok(Outcome::Done));
        (steps, ran)
    }

    fn report(steps: &Steps) -> String {
        let mut text = Vec::new();
        steps.report(&["not Linux".to_owned()], &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn first_failure_is_the_last_step() {
        let (steps, ran) = run(false);
        assert_eq!(ran, ["one", "two"]);
        assert!(steps.failed());
        assert_eq!(report(&steps).matches("not reached").count(), 2);
    }

    #[test]
    fn keep_going_runs_the_rest_and_still_fails() {
        let (steps, ran) = run(true);
        assert_eq!(ran, ["one", "two", "three", "four"]);
        assert!(steps.failed());
    }

    #[test]
    fn report_says_what_was_skipped_and_why() {
        let text = report(&run(true).0);
        assert!(text.contains("skipped: three: no root\n"), "{text}");
        assert!(text.contains("skipped: not Linux\n"), "{text}");
        assert!(text.ends_with("FAILED\n"), "{text}");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(440)), "0.4 s");
        assert_eq!(human(Duration::from_secs(65)), "1 min 5 s");
    }
}
