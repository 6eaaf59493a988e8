//! One loop: look, do what is to be done, wait for a reason to look again. A wake only says "look again", and a slow
//! tick looks anyway.

use std::fmt::Display;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::ports::{PodSource, Retry, Revision};
use tokio::sync::watch;
use tracing::Level;

use crate::health::{Health, Part};

/// First and last delay before a failed pass is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A loop that keeps something at what it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// What it is called in the log.
    pub(crate) op: &'static str,
    /// What is wrong while it fails, for an operator, and how bad that is.
    pub(crate) failing: (Level, &'static str),
    /// Where its health shows.
    pub(crate) part: Option<Part>,
    /// Longest pause between two passes.
    pub(crate) every: Duration,
}

impl Keep {
    /// Passes for ever: at once, when something wakes it, after a pause that grows while passes fail, and every now and
    /// then. The same failure is said once. `pass` is told when the reason for it came up.
    pub(crate) async fn run<E, Pass, Passing>(
        self,
        health: Arc<Health>,
        mut wakes: impl Wakes,
        retry: fn(&E) -> Retry,
        mut pass: Pass,
    ) where
        E: Display,
        Pass: FnMut(Instant) -> Passing,
        Passing: Future<Output = Result<(), E>>,
    {
        let (mut backoff, mut failure) = (Backoff::default(), Failure::default());
        let mut woken = Instant::now();
        loop {
            wakes.arm();
            let outcome = pass(woken).await;
            if let Some(part) = self.part {
                health.saw(part, outcome.as_ref().copied().map_err(ToString::to_string));
            }
            if let Some(error) = failure.news(&outcome) {
                let (op, (level, failing)) = (self.op, self.failing);
                if level == Level::ERROR {
                    tracing::error!(op, error, "{failing}");
                } else {
                    tracing::warn!(op, error, "{failing}");
                }
            }
            let pause = match outcome {
                Ok(()) => {
                    backoff.reset();
                    self.every
                }
                // What is refused is refused again; the tick still looks.
                Err(error) if retry(&error) == Retry::Never => self.every,
                Err(_) => backoff.next().min(self.every),
            };
            tokio::select! {
                () = wakes.woken() => {}
                () = tokio::time::sleep(pause) => {}
            }
            woken = Instant::now();
        }
    }
}

/// What wakes a loop.
pub(crate) trait Wakes: Send {
    /// Everything up to now is about to be looked at.
    fn arm(&mut self);

    /// Returns once something has changed since. May be cancelled.
    fn woken(&mut self) -> impl Future<Output = ()> + Send;
}

/// Nothing does, only the tick.
impl Wakes for () {
    fn arm(&mut self) {}

    async fn woken(&mut self) {
        pending::<()>().await;
    }
}

/// Counts changes.
impl Wakes for watch::Receiver<u64> {
    fn arm(&mut self) {
        self.mark_unchanged();
    }

    async fn woken(&mut self) {
        // Who would tell is gone; the loop goes on by its tick until it is stopped too.
        if self.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

/// One or the other.
impl<A: Wakes, B: Wakes> Wakes for (A, B) {
    fn arm(&mut self) {
        self.0.arm();
        self.1.arm();
    }

    async fn woken(&mut self) {
        tokio::select! {
            () = self.0.woken() => {}
            () = self.1.woken() => {}
        }
    }
}

/// Changes of the node's own objects.
pub(crate) struct OwnObjects(pub(crate) Arc<dyn PodSource>, Revision);

impl OwnObjects {
    pub(crate) fn of(pods: &Arc<dyn PodSource>) -> Self {
        Self(Arc::clone(pods), Revision::default())
    }
}

impl Wakes for OwnObjects {
    fn arm(&mut self) {
        self.1 = self.0.snapshot().revision;
    }

    async fn woken(&mut self) {
        self.0.changed(self.1).await;
    }
}

/// Changes of what policies need.
pub(crate) struct Policies(pub(crate) Arc<dyn PodSource>, Revision);

impl Policies {
    pub(crate) fn of(pods: &Arc<dyn PodSource>) -> Self {
        Self(Arc::clone(pods), Revision::default())
    }
}

impl Wakes for Policies {
    fn arm(&mut self) {
        self.1 = self.0.policies().revision;
    }

    async fn woken(&mut self) {
        self.0.policies_changed(self.1).await;
    }
}

/// How the last pass failed, if it did.
#[derive(Default)]
struct Failure(Option<String>);

impl Failure {
    /// What is to be said: a failure that is not the one of the last pass again.
    fn news<T>(&mut self, outcome: &Result<T, impl Display>) -> Option<&str> {
        let failure = outcome.as_ref().err().map(ToString::to_string);
        let again = failure == self.0;
        self.0 = failure;
        self.0.as_deref().filter(|_| !again)
    }
}

/// Doubles from the first delay to the last.
#[derive(Default)]
struct Backoff(Option<Duration>);

impl Backoff {
    fn next(&mut self) -> Duration {
        let next = self.0.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
        self.0 = Some(next);
        next
    }

    fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const KEEP: Keep =
        Keep { op: "test", failing: (Level::ERROR, "it fails"), part: None, every: Duration::from_hours(1) };

    /// Runs until `passes` have been made; what was between them, in milliseconds of the paused clock.
    async fn pauses(keep: Keep, passes: usize, outcome: fn(usize) -> Result<(), &'static str>) -> Vec<u128> {
        let at = Arc::new(Mutex::new(Vec::new()));
        let made = Arc::clone(&at);
        let pass = move |_| {
            let mut made = made.lock().unwrap();
            made.push(tokio::time::Instant::now());
            std::future::ready(outcome(made.len()))
        };
        let running = keep.run(Arc::new(Health::new()), (), |_| Retry::Later, pass);
        let enough = async {
            while at.lock().unwrap().len() < passes {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = running => {}
            () = enough => {}
        }
        let at = at.lock().unwrap();
        at.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn failed_pass_is_tried_again_after_a_pause_that_grows() {
        let made = pauses(KEEP, 8, |_| Err("no")).await;
        assert_eq!(made, [200, 400, 800, 1600, 3200, 5000, 5000]);
        let healed = pauses(KEEP, 4, |made| if made == 2 { Ok(()) } else { Err("no") }).await;
        assert_eq!(healed, [200, 3_600_000, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn wake_that_comes_during_a_pass_is_not_lost() {
        let changes = watch::Sender::new(0_u64);
        let wakes = changes.subscribe();
        let made = Arc::new(Mutex::new(0));
        let count = Arc::clone(&made);
        let pass = move |_| {
            *count.lock().unwrap() += 1;
            if *count.lock().unwrap() == 1 {
                changes.send_modify(|count| *count += 1);
            }
            std::future::ready(Ok::<(), &str>(()))
        };
        let running = KEEP.run(Arc::new(Health::new()), wakes, |_| Retry::Later, pass);
        let _ = tokio::time::timeout(Duration::from_mins(1), running).await;
        assert_eq!(*made.lock().unwrap(), 2);
    }
}
