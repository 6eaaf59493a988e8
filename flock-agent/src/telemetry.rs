//! The log: standard error, one event per line.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Without `RUST_LOG`. What becomes of a request is logged where it is handled, not by the client each time it is tried.
const USUAL: &str = "info,kube_client::client::builder=off";

/// Starts the log; `RUST_LOG` sets its level, `info` otherwise.
pub(crate) fn init(format: LogFormat) -> anyhow::Result<()> {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| USUAL.to_owned());
    let filter =
        EnvFilter::try_new(&wanted).with_context(|| format!("RUST_LOG {wanted:?} is no log level"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
