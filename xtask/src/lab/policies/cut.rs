//! Open connections while a policy is edited: one is denied from then on, another one is still allowed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use super::{OUTSIDE_FILE, attachment, manifests, node_of};
use crate::lab::anycast::{Connection, Each};
use crate::lab::cluster::Cluster;
use crate::lab::node::NodeDir;
use crate::lab::pods::Attached;
use crate::lab::topology::{self, Family};

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(1);

/// Messages that are answered before the edit, and after the other connection is cut.
const MESSAGES: usize = 50;

/// A connection without an answer for so long is cut: TCP has repeated the message by then, after 200 ms or a little
/// more.
const SILENCE: Duration = Duration::from_millis(400);

/// A longer gap means that a packet was lost: TCP repeats none earlier.
const GAP_MS: f64 = 200.0;

/// An edit that shows later than this came to the kernel by chance.
const LATE_MS: f64 = 5000.0;

/// The conversations: from whom, to which pod, and whether the edit denies it. Both servers are on the same node,
/// where the edit makes every open flow be judged again.
const PAIRS: [(&str, &str, bool); 2] = [("client", "given-1", true), ("api-2", "web-1", false)];

/// What became of a connection.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conversation {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) port: u16,
    /// The edit denies it.
    pub(crate) denied: bool,
    /// From the edit to the last answer, in milliseconds, where there was a last one.
    pub(crate) last_answer_ms: Each<Option<f64>>,
    /// The longest time without an answer before the last one, in milliseconds.
    pub(crate) longest_gap_ms: Each<f64>,
    pub(crate) answers: usize,
    pub(crate) ok: bool,
}

impl Conversation {
    /// Whether no answer came any more soon after the edit.
    pub(super) fn has_ended(&self) -> bool {
        Family::ALL.into_iter().all(|family| self.last_answer_ms.get(family).is_some_and(|ms| ms < LATE_MS))
    }

    /// Whether every message was answered, and none had to be repeated.
    pub(super) fn is_untouched(&self) -> bool {
        Family::ALL.into_iter().all(|family| {
            self.last_answer_ms.get(family).is_none() && *self.longest_gap_ms.get(family) < GAP_MS
        })
    }

    /// Denied ones end, and others go on as if nothing had happened.
    fn holds(&self) -> bool {
        if self.denied { self.has_ended() } else { self.is_untouched() }
    }
}

/// One connection, and how it goes.
#[derive(Debug)]
struct Line {
    connection: Connection,
    denied: bool,
}

/// How many messages were answered so far, and whether the connection has gone silent.
#[derive(Debug, Default)]
struct Pulse {
    answers: AtomicUsize,
    silent: AtomicBool,
}

/// Edits the policy under open connections; restores it afterwards.
pub(super) fn converse(lab: &mut Cluster, attached: &[Attached]) -> Result<Vec<Conversation>> {
    let mut lines = Vec::new();
    for (from, to, denied) in PAIRS {
        let port = topology::http(to).with_context(|| format!("{to} has no port"))?;
        for family in Family::ALL {
            let address = attachment(attached, to)?.address(family).context("it has no such address")?;
            let open = || Ok(Connection::to(SocketAddr::new(address, port), SILENCE)?);
            lines.push(Line { connection: lab.state.netns(from).run(open)?, denied });
        }
    }
    let denied: Vec<_> = lines.iter().map(|line| line.denied).collect();
    let pulses: Vec<_> = lines.iter().map(|_| Pulse::default()).collect();
    let stop = AtomicBool::new(false);
    let (edited, times) = thread::scope(|scope| {
        let running: Vec<_> = lines
            .iter_mut()
            .zip(&pulses)
            .map(|(line, pulse)| scope.spawn(|| talk(&mut line.connection, pulse, &stop)))
            .collect();
        let edited = edit(lab, &pulses, &denied);
        stop.store(true, Ordering::Relaxed);
        let times: Result<Vec<_>> = running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a client thread panicked")))
            .collect();
        anyhow::Ok((edited?, times?))
    })?;
    write(lab, manifests::OUTSIDE)?;
    super::wait_until_enforced(lab)?;
    let seen = PAIRS.into_iter().zip(times.chunks(2)).zip(pulses.chunks(2)).map(
        |(((from, to, denied), times), pulses)| {
            let index = |family| usize::from(family == Family::V4);
            let of = |family| times.get(index(family)).map_or(&[][..], Vec::as_slice);
            let silent =
                |family| pulses.get(index(family)).is_some_and(|it| it.silent.load(Ordering::Relaxed));
            let last = |family| of(family).last().filter(|_| silent(family));
            let mut seen = Conversation {
                from,
                to,
                port: topology::http(to).unwrap_or_default(),
                denied,
                last_answer_ms: Each::of(|family| {
                    last(family).map(|last| ms(last.saturating_duration_since(edited)))
                }),
                longest_gap_ms: Each::of(|family| ms(longest_gap(of(family)))),
                answers: times.iter().map(Vec::len).sum(),
                ok: false,
            };
            seen.ok = seen.holds();
            seen
        },
    );
    Ok(seen.collect())
}

/// Exchanges messages until it is told to stop or an answer does not come; when each came.
fn talk(connection: &mut Connection, pulse: &Pulse, stop: &AtomicBool) -> Vec<Instant> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if !connection.works() {
            pulse.silent.store(true, Ordering::Relaxed);
            break;
        }
        answers.push(Instant::now());
        pulse.answers.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    answers
}

/// Edits the policy once every connection is in use, and waits until it shows; when that was.
fn edit(lab: &mut Cluster, pulses: &[Pulse], denied: &[bool]) -> Result<Instant> {
    let answered = |pulse: &Pulse| pulse.answers.load(Ordering::Relaxed);
    let silent = |pulse: &Pulse| pulse.silent.load(Ordering::Relaxed);
    let go_on = |lab: &mut Cluster, only: Option<bool>| {
        let wanted: Vec<_> = pulses.iter().map(|pulse| answered(pulse) + MESSAGES).collect();
        lab.wait_for("connections are used", || {
            let of = pulses.iter().zip(&wanted).zip(denied);
            let mut of = of.filter(|(_, denied)| only.is_none_or(|only| only == **denied));
            // One that has gone silent will not go on, which is for the report to say.
            if of.all(|((pulse, wanted), _)| answered(pulse) >= *wanted || silent(pulse)) {
                Ok(())
            } else {
                bail!("not all of them have gone on")
            }
        })
    };
    go_on(lab, None)?;
    if pulses.iter().any(silent) {
        bail!("a connection that policies admit gets no answers");
    }
    let since = Instant::now();
    write(lab, manifests::OUTSIDE_WITHOUT_CLIENT)?;
    lab.wait_for("connections that are denied end", || {
        if pulses.iter().zip(denied).all(|(pulse, denied)| silent(pulse) || !denied) {
            Ok(())
        } else {
            bail!("they are still answered")
        }
    })?;
    go_on(lab, Some(false))?;
    Ok(since)
}

/// Writes the policy where it counts, at the node of the pods it selects.
fn write(lab: &Cluster, text: &str) -> Result<()> {
    let (_, to, _) = PAIRS[0];
    NodeDir::new(&lab.state, node_of(to)?)?.write(OUTSIDE_FILE, text)
}

fn longest_gap(times: &[Instant]) -> Duration {
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversation_holds_only_if_it_ends_by_the_edit_or_not_at_all() {
        let seen = |denied, last: Option<f64>, gap| Conversation {
            from: "client",
            to: "given-1",
            port: 8080,
            denied,
            last_answer_ms: Each { ipv6: last, ipv4: last },
            longest_gap_ms: Each { ipv6: 1.0, ipv4: gap },
            answers: 100,
            ok: false,
        };
        assert!(seen(true, Some(9.0), 1.0).holds() && seen(false, None, 9.0).holds());
        assert!(!seen(true, None, 1.0).holds(), "it goes on");
        assert!(!seen(true, Some(9000.0), 1.0).holds(), "it goes on for long");
        assert!(!seen(false, Some(9.0), 1.0).holds(), "it was not denied");
        assert!(!seen(false, None, 250.0).holds(), "a packet was lost");
    }

    #[test]
    fn servers_of_the_conversations_are_on_one_node() {
        assert!(PAIRS.iter().any(|(_, _, denied)| *denied) && PAIRS.iter().any(|(_, _, denied)| !denied));
        let [one, other] = PAIRS.map(|(_, to, _)| node_of(to).unwrap().name);
        assert_eq!(one, other);
    }
}
