//! A bound on calls that have none of their own.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `work` on a thread of its own and waits for it at most `budget`: `None` when it is not done by then.
/// The thread is left to itself; this is for a process that is about to end anyway.
pub(crate) fn within<T: Send + 'static>(
    budget: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, result) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        // Nobody listens any more when the budget is spent.
        let _ = done.send(work());
    })?;
    Ok(result.recv_timeout(budget).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_waited_for() {
        assert_eq!(within(Duration::from_mins(1), || 7).unwrap(), Some(7));
    }

    #[test]
    fn work_that_never_ends_is_left() {
        let forever = || loop {
            thread::park();
        };
        assert_eq!(within(Duration::from_millis(1), forever).unwrap(), None::<()>);
    }
}
