//! The log: standard error, one event per line.

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Starts the log; `RUST_LOG` sets its level, `info` otherwise.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
