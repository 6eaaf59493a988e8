//! The port [`Routing`] on BIRD: write, check, rename, configure.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use flock_core::bird;
use flock_core::ports::{Applied, Routing, RoutingConfig, RoutingError, RoutingStatus};
use tokio::fs;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::client::{Client, Configured};
use crate::path::{ConfPath, PathError};

/// How long BIRD is waited for, and how often it is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For a connection, and for each reply. BIRD 2.0.12 started with `-R` may answer nothing for 7 s.
    pub reply: Duration,
    /// For a configuration BIRD accepted to be in force.
    pub reconfigure: Duration,
    /// From one change to the next. Changes that come faster wait, and only the newest is made.
    pub spacing: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            reply: Duration::from_secs(10),
            reconfigure: Duration::from_secs(30),
            spacing: Duration::from_millis(500),
        }
    }
}

/// BIRD behind its control socket.
///
/// Any number of tasks may [`apply`](Routing::apply); one after another they make sure that the newest
/// configuration asked for is in force. The lock they queue for is never seen outside, and a task that is
/// dropped half-way only leaves the next one more to do: what BIRD runs is then unknown until it is
/// configured again.
#[derive(Debug)]
pub struct BirdSocket {
    conf: ConfPath,
    /// Beside `conf`: where a new text waits until BIRD has checked it.
    candidate: ConfPath,
    socket: PathBuf,
    timing: Timing,
    /// The newest text anybody asked for.
    newest: std::sync::Mutex<String>,
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    /// The text BIRD is known to run; unknown at first and after anything went wrong.
    running: Option<String>,
    last_change: Option<Instant>,
}

impl BirdSocket {
    /// An adapter for the BIRD that was started with the configuration file `conf` and the control socket
    /// `socket`, with the default [`Timing`]. Nothing is touched before the first call.
    pub fn new(conf: &Path, socket: &Path) -> Result<Self, PathError> {
        let mut candidate = conf.as_os_str().to_owned();
        candidate.push(".new");
        Ok(Self {
            conf: ConfPath::parse(conf)?,
            candidate: ConfPath::parse(Path::new(&candidate))?,
            socket: socket.to_owned(),
            timing: Timing::default(),
            newest: std::sync::Mutex::default(),
            writer: Mutex::default(),
        })
    }

    /// The same with another timing.
    #[must_use]
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, String> {
        // A text is replaced whole, so a panic elsewhere cannot have left half of one.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether BIRD runs this text and would come back with it. The file is looked at too: somebody may
    /// have removed or changed it, and BIRD may have been started anew on that.
    async fn runs(&self, writer: &Writer, text: &str) -> bool {
        writer.running.as_deref() == Some(text) && self.is_in_place(text).await
    }

    async fn is_in_place(&self, text: &str) -> bool {
        fs::read(self.conf.as_path()).await.is_ok_and(|file| file == text.as_bytes())
    }

    async fn change(&self, writer: &mut Writer, text: String) -> Result<(), RoutingError> {
        let mut client = match Client::connect(&self.socket, self.timing.reply).await {
            Ok(client) => client,
            Err(error) => {
                // No BIRD to check it; it will start with it.
                if matches!(error, RoutingError::Unreachable { .. }) {
                    writer.running = None;
                    if !self.is_in_place(&text).await {
                        self.write_candidate(text.as_bytes()).await?;
                        self.put_in_place().await?;
                    }
                }
                return Err(error);
            }
        };
        self.write_candidate(text.as_bytes()).await?;
        client.settled(self.timing.reconfigure).await?;
        if let Err(error) = client.check(&self.candidate).await {
            // Best effort: a stale candidate is overwritten by the next one.
            let _ = fs::remove_file(self.candidate.as_path()).await;
            return Err(error);
        }

        let before = fs::read(self.conf.as_path()).await.ok();
        writer.running = None;
        self.put_in_place().await?;
        match client.configure().await {
            Ok(Configured::Done) => {}
            Ok(Configured::InProgress) => drop(client.settled(self.timing.reconfigure).await?),
            Err(error) => {
                if let (RoutingError::Refused { .. }, Some(before)) = (&error, before) {
                    self.restore(&before).await;
                }
                return Err(error);
            }
        }
        writer.running = Some(text);
        Ok(())
    }

    /// Puts the text back that BIRD goes on with, so that it can start with it too.
    async fn restore(&self, text: &[u8]) {
        let written = self.write_candidate(text).await;
        let restored = if written.is_ok() { self.put_in_place().await } else { written };
        if let Err(error) = restored {
            warn!(%error, "BIRD refused a configuration, and the one before could not be put back");
        }
    }

    async fn write_candidate(&self, text: &[u8]) -> Result<(), RoutingError> {
        let write = async {
            let mut options = fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o640)
                .open(self.candidate.as_path())
                .await?;
            file.write_all(text).await?;
            file.sync_all().await
        };
        write.await.map_err(|source| not_written(&self.candidate, source))
    }

    async fn put_in_place(&self) -> Result<(), RoutingError> {
        let renamed = fs::rename(self.candidate.as_path(), self.conf.as_path()).await;
        renamed.map_err(|source| not_written(&self.conf, source))
    }
}

fn not_written(path: &ConfPath, source: io::Error) -> RoutingError {
    RoutingError::Write { path: path.to_string(), source }
}

#[async_trait]
impl Routing for BirdSocket {
    async fn apply(&self, config: &RoutingConfig) -> Result<Applied, RoutingError> {
        let text = bird::render(config)?;
        self.newest().clone_from(&text);
        let mut writer = self.writer.lock().await;
        let newest = self.newest().clone();
        if self.runs(&writer, &newest).await {
            return Ok(Applied::Unchanged);
        }
        if let Some(last) = writer.last_change {
            sleep_until(last + self.timing.spacing).await;
        }
        // A newer one may have come while this one waited.
        let newest = self.newest().clone();
        if self.runs(&writer, &newest).await {
            return Ok(Applied::Unchanged);
        }
        let started = Instant::now();
        let outcome = self.change(&mut writer, newest).await;
        // A BIRD that is not there was not disturbed, and should be configured as soon as it is.
        if !matches!(outcome, Err(RoutingError::Unreachable { .. })) {
            writer.last_change = Some(started);
        }
        outcome.map(|()| Applied::Reconfigured)
    }

    async fn status(&self) -> Result<RoutingStatus, RoutingError> {
        let mut client = Client::connect(&self.socket, self.timing.reply).await?;
        let daemon = client.daemon().await?.version;
        Ok(RoutingStatus { daemon, peers: client.sessions().await? })
    }
}
