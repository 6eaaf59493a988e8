//! Ctrl-C and its kin, as something the lab looks at between two steps: whatever was started is then taken
//! down the same way as after any other failure.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

/// Remembers the last signal that asked the lab to stop.
#[derive(Debug, Clone)]
pub(super) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP no longer end this process by themselves.
    pub(super) fn watch() -> Result<Self> {
        let seen = Arc::new(AtomicUsize::new(0));
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let number = signal as i32;
            signal_hook::flag::register_usize(number, Arc::clone(&seen), number.unsigned_abs() as usize)
                .with_context(|| format!("cannot listen for {signal}"))?;
        }
        Ok(Self(seen))
    }

    /// Fails with [`Interrupted`] once a signal has come.
    pub(super) fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            number => Err(Interrupted(u8::try_from(number).unwrap_or(u8::MAX)).into()),
        }
    }
}

/// Somebody wants the lab to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupted(u8);

impl Interrupted {
    /// What a shell reports for a process ended by this signal.
    pub(super) fn exit_code(self) -> u8 {
        128_u8.saturating_add(self.0)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::try_from(i32::from(self.0)) {
            Ok(Signal::SIGINT) => f.write_str("interrupted"),
            Ok(signal) => write!(f, "stopped by {signal}"),
            Err(_) => f.write_str("stopped by a signal"),
        }
    }
}

impl std::error::Error for Interrupted {}
