//! Health: what the agent knows of itself, for whoever restarts it and for whoever waits for it.
//!
//! `/livez` fails when a restart may help: a loop has stopped turning, or BIRD has not answered for long.
//! `/readyz` fails while pods cannot be attached, or the network would not hear of them; a BGP session that is
//! down fails neither, since pods attach and reach each other on the node all the same.

mod http;

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flock_core::ports::Routing;

pub(crate) use self::http::Endpoint;

/// The loops look at everything every 10 s. One that has not turned for this long is stuck.
const STUCK: Duration = Duration::from_mins(2);

/// BIRD restarts within seconds, and its peers keep the routes for two minutes: what is not back by then needs help.
const LOST: Duration = Duration::from_mins(3);

/// How often BIRD is asked whether it is there.
const ASK: Duration = Duration::from_secs(10);

/// The same while it does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The loop that keeps the routes.
    Routes,
    /// The loop that keeps the firewall.
    Firewall,
    /// The loop that keeps the links.
    Links,
    /// The loop that keeps BIRD on its peers.
    Routing,
    /// BIRD itself.
    Bird,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// The component.
    pub(crate) name: &'static str,
    /// Whether it is well, or why not.
    pub(crate) outcome: Result<(), String>,
}

/// What was last seen of each part, shared by those who see and those who ask.
#[derive(Debug)]
pub(crate) struct Health(Mutex<Vitals>);

impl Health {
    /// Nothing seen yet; patience starts now.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vitals::new(Instant::now())))
    }

    /// A part was seen, well or not.
    pub(crate) fn saw(&self, part: Part, outcome: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saw(part, outcome, Instant::now());
    }

    fn livez(&self) -> Vec<Check> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).livez(Instant::now())
    }

    fn readyz(&self) -> Vec<Check> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).readyz()
    }
}

/// Asks BIRD again and again whether it is there.
pub(crate) async fn watch_bird(routing: Arc<dyn Routing>, health: Arc<Health>) {
    loop {
        let answer = routing.status().await;
        let wait = if answer.is_ok() { ASK } else { ASK_AGAIN };
        health.saw(Part::Bird, answer.map(|_| ()).map_err(|error| error.to_string()));
        tokio::time::sleep(wait).await;
    }
}

/// How a part is judged.
struct Rule {
    part: Part,
    name: &'static str,
    /// A pass of a loop is a sign of life however it went; of BIRD only an answer is.
    turns: bool,
    /// New pods wait while it is not well. What a pass leaves undone at the links, a path that hangs say, keeps none waiting.
    ready: bool,
}

const RULES: [Rule; 5] = [
    Rule { part: Part::Routes, name: "routes", turns: true, ready: true },
    Rule { part: Part::Firewall, name: "firewall", turns: true, ready: true },
    Rule { part: Part::Links, name: "links", turns: true, ready: false },
    Rule { part: Part::Routing, name: "routing", turns: true, ready: true },
    Rule { part: Part::Bird, name: "bird", turns: false, ready: true },
];

/// The parts, by value.
#[derive(Debug, Clone)]
struct Vitals([Sign; RULES.len()]);

/// What was last seen of one part.
#[derive(Debug, Clone)]
struct Sign {
    /// The last sign of life: a pass of a loop however it went, an answer of BIRD.
    alive: Instant,
    /// How it went the last time; `None` before the first.
    last: Option<Result<(), String>>,
}

impl Vitals {
    fn new(now: Instant) -> Self {
        Self(RULES.map(|_| Sign { alive: now, last: None }))
    }

    fn saw(&mut self, part: Part, outcome: Result<(), String>, now: Instant) {
        if let Some((rule, sign)) = RULES.iter().zip(&mut self.0).find(|(rule, _)| rule.part == part) {
            if rule.turns || outcome.is_ok() {
                sign.alive = now;
            }
            sign.last = Some(outcome);
        }
    }

    fn livez(&self, now: Instant) -> Vec<Check> {
        let check = |(rule, sign): (&Rule, &Sign)| {
            let silent = now.saturating_duration_since(sign.alive);
            let outcome = match rule.turns {
                true if silent <= STUCK => Ok(()),
                true => Err(format!("has not turned for {} s", silent.as_secs())),
                false if silent <= LOST => Ok(()),
                false => {
                    let last = sign.last.as_ref().and_then(|last| last.as_ref().err());
                    let reason = last.map_or_else(String::new, |reason| format!(": {reason}"));
                    Err(format!("no answer for {} s{reason}", silent.as_secs()))
                }
            };
            Check { name: rule.name, outcome }
        };
        RULES.iter().zip(&self.0).map(check).collect()
    }

    fn readyz(&self) -> Vec<Check> {
        let well = |sign: &Sign| sign.last.clone().unwrap_or_else(|| Err("not looked at yet".to_owned()));
        let counted = RULES.iter().zip(&self.0).filter(|(rule, _)| rule.ready);
        counted.map(|(rule, sign)| Check { name: rule.name, outcome: well(sign) }).collect()
    }
}

/// The answer in words, and whether everything that is asked for is well. `excluded`: shown, and not counted.
fn answer(checks: &[Check], excluded: &[&str]) -> (bool, String) {
    let mut text = String::new();
    let mut well = true;
    for Check { name, outcome } in checks {
        let counts = !excluded.contains(name);
        let note = if counts { "" } else { "excluded: " };
        // Writing to a string cannot fail.
        let _ = match outcome {
            Ok(()) => writeln!(text, "[+] {name} {note}ok"),
            Err(reason) => writeln!(text, "[-] {name} {note}{}", reason.replace(['\n', '\r'], " ")),
        };
        well &= outcome.is_ok() || !counts;
    }
    (well, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failing(checks: &[Check]) -> Vec<&'static str> {
        checks.iter().filter(|check| check.outcome.is_err()).map(|check| check.name).collect()
    }

    #[test]
    fn loop_is_alive_as_long_as_it_turns_however_its_passes_go() {
        let start = Instant::now();
        let mut vitals = Vitals::new(start);
        for seconds in (0..600).step_by(60) {
            let now = start + seconds * SECOND;
            for part in [Part::Routes, Part::Firewall, Part::Links, Part::Routing] {
                vitals.saw(part, Err("the kernel is busy".to_owned()), now);
            }
            vitals.saw(Part::Bird, Ok(()), now);
            assert_eq!(failing(&vitals.livez(now + STUCK)), [""; 0]);
            assert_eq!(
                failing(&vitals.livez(now + STUCK + SECOND)),
                ["routes", "firewall", "links", "routing"]
            );
            assert_eq!(failing(&vitals.readyz()), ["routes", "firewall", "routing"]);
        }
    }

    #[test]
    fn bird_is_lost_when_it_has_not_answered_for_long_and_not_before() {
        let start = Instant::now();
        let mut vitals = Vitals::new(start);
        let refused = || Err("connection refused".to_owned());
        let look = |vitals: &mut Vitals, bird, now| {
            for part in [Part::Routes, Part::Firewall, Part::Links, Part::Routing] {
                vitals.saw(part, Ok(()), now);
            }
            vitals.saw(Part::Bird, bird, now);
            (failing(&vitals.livez(now)), failing(&vitals.readyz()))
        };
        let none = Vec::new();
        let lost = vec!["bird"];
        assert_eq!(look(&mut vitals, refused(), start + LOST), (none.clone(), lost.clone()));
        assert_eq!(look(&mut vitals, refused(), start + LOST + SECOND), (lost.clone(), lost.clone()));
        let back = start + LOST * 2;
        assert_eq!(look(&mut vitals, Ok(()), back), (none.clone(), none.clone()));
        assert_eq!(look(&mut vitals, refused(), back + LOST), (none, lost.clone()));
        let livez = {
            look(&mut vitals, refused(), back + LOST + SECOND);
            vitals.livez(back + LOST + SECOND)
        };
        assert_eq!(livez[4].outcome, Err("no answer for 181 s: connection refused".to_owned()));
    }

    #[test]
    fn nothing_is_ready_before_it_was_looked_at() {
        let vitals = Vitals::new(Instant::now());
        assert_eq!(failing(&vitals.readyz()), ["routes", "firewall", "routing", "bird"]);
        assert_eq!(failing(&vitals.livez(Instant::now())), [""; 0]);
    }

    #[test]
    fn answer_has_one_line_per_component_and_excluded_ones_do_not_count() {
        let checks = [
            Check { name: "routes", outcome: Ok(()) },
            Check { name: "bird", outcome: Err("gone\nfor good".to_owned()) },
        ];
        let table: [(&[&str], bool, &str); 3] = [
            (&[], false, "[+] routes ok\n[-] bird gone for good\n"),
            (&["bird"], true, "[+] routes ok\n[-] bird excluded: gone for good\n"),
            (&["routes", "other"], false, "[+] routes excluded: ok\n[-] bird gone for good\n"),
        ];
        for (excluded, well, text) in table {
            assert_eq!(answer(&checks, excluded), (well, text.to_owned()), "{excluded:?}");
        }
    }
}
