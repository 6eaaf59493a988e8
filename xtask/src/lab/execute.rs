//! Running a program to its end, but not for ever, and not past a Ctrl-C.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::interrupt::Interrupt;
use super::netns::Netns;
use crate::cmd;

/// How long to wait for a program, and what ends the wait early.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    limit: Duration,
    interrupt: Option<Interrupt>,
}

impl Patience {
    /// For programs that only talk to the kernel or to a daemon beside them; used while cleaning up too, so
    /// no signal ends it.
    pub(super) const SHORT: Self = Self { limit: Duration::from_secs(10), interrupt: None };

    /// Up to `limit`, or until a signal comes.
    pub(super) fn until(limit: Duration, interrupt: &Interrupt) -> Self {
        Self { limit, interrupt: Some(interrupt.clone()) }
    }
}

/// What a program did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) took: Duration,
}

/// Runs a program, in a namespace where one is given, feeding it `input`.
pub(super) fn run(
    command: &mut Command,
    netns: Option<&Netns>,
    input: &str,
    patience: &Patience,
) -> Result<Done> {
    let shown = cmd::show(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = match netns {
        Some(netns) => netns.spawn(command)?,
        None => command.spawn().with_context(|| format!("cannot execute {shown}"))?,
    };
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        bail!("{shown} has lost its pipes");
    };
    let (ended, end) = mpsc::channel();
    thread::scope(|scope| {
        // A program that does not read its input closes the pipe: its own business.
        scope.spawn(move || {
            let _ = stdin.write_all(input.as_bytes());
        });
        let stderr = scope.spawn(move || text(stderr));
        let stdout = scope.spawn(move || {
            let text = text(stdout);
            let _ = ended.send(());
            text
        });
        let stopped = wait(&end, patience, started);
        if stopped.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().with_context(|| format!("cannot wait for {shown}"));
        let took = started.elapsed();
        let panicked = |_| anyhow!("a thread reading from {shown} panicked");
        let (stdout, stderr) = (stdout.join().map_err(panicked)?, stderr.join().map_err(panicked)?);
        stopped.with_context(|| format!("`{shown}`: {}", last_line(&stderr)))?;
        Ok(Done { status: status?, stdout, stderr, took })
    })
}

/// Runs a program and fails unless it succeeds.
pub(super) fn succeed(command: &mut Command, input: &str, patience: &Patience) -> Result<Done> {
    let done = run(command, None, input, patience)?;
    if !done.status.success() {
        bail!("`{}` failed: {}: {}", cmd::show(command), done.status, done.stderr.trim());
    }
    Ok(done)
}

/// Waits until the program has closed its output.
fn wait(end: &mpsc::Receiver<()>, patience: &Patience, started: Instant) -> Result<()> {
    loop {
        match end.recv_timeout(Duration::from_millis(20)) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        patience.interrupt.as_ref().map_or(Ok(()), Interrupt::check)?;
        if started.elapsed() > patience.limit {
            bail!("no answer within {} s", patience.limit.as_secs());
        }
    }
}

fn text(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before a read error still helps to understand it.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

/// Does `work` on every item, several at a time, and returns the results in the order of the items.
pub(super) fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    threads: usize,
    work: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut results = thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(item) = items.get(index) else { return done };
                done.push((index, work(item)));
            }
        };
        let workers: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(worker)).collect();
        let mut results = Vec::with_capacity(items.len());
        for worker in workers {
            results.extend(worker.join().map_err(|_| anyhow!("a worker thread panicked"))?);
        }
        anyhow::Ok(results)
    })?;
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Done> {
        let patience = Patience { limit, interrupt: None };
        run(Command::new("sh").args(["-c", script]), None, "in\n", &patience)
    }

    #[test]
    fn input_both_outputs_and_status_come_through() {
        let done = shell("cat; echo err >&2; exit 3", Duration::from_secs(30)).unwrap();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("in\n", "err\n"));
        assert_eq!(done.status.code(), Some(3));
    }

    #[test]
    fn program_that_does_not_end_is_killed_and_its_last_words_are_kept() {
        let error = shell("echo stuck >&2; exec sleep 600", Duration::from_millis(200)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("stuck") && text.contains("no answer"), "{text}");
    }

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u64> = (0..40).collect();
        assert_eq!(
            in_parallel(&items, 7, |item| Ok(item * 2)).unwrap(),
            items.iter().map(|i| i * 2).collect::<Vec<_>>()
        );
        assert!(in_parallel(&items, 7, |item| if *item == 39 { bail!("last") } else { Ok(()) }).is_err());
    }
}
