//! When to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Turns true once SIGTERM or SIGINT arrives.
pub(crate) fn on_signal() -> std::io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping; routes, links and addresses stay");
        stop.send_replace(true);
    });
    Ok(stopped)
}
