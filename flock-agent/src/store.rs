//! The state file: what pods hold, durable before anybody is told (interfaces.md section 1).
//!
//! One thread owns the file. While it writes, snapshots queue up; it then takes the newest and answers for
//! all of them, so that a burst of attachments costs a few writes and not one each.

mod file;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use flock_core::ipam::Snapshot;
use flock_core::ports::{StateStore, StoreError};
use tokio::sync::oneshot;

use self::file::StateFile;
use self::writer::{Answer, Request, Writer};

/// A [`StateStore`] in one file, replaced as a whole. What is found there and is not a state is renamed to
/// `FILE.corrupt-N` before the first save, never overwritten.
#[derive(Debug)]
pub(crate) struct FileStore {
    /// `None` only while it is dropped.
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl FileStore {
    /// Takes the file over. Its directory is made (0700) if missing, what a crash left half-written is removed.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let writer = Writer::new(StateFile::open(path)?)?;
        let (requests, queue) = mpsc::channel();
        let thread = thread::Builder::new().name("state".to_owned()).spawn(move || writer.run(&queue));
        let writer = thread.map_err(|source| StoreError::Io {
            step: "start the writer of",
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self { requests: Some(requests), writer: Some(writer) })
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests.send(request(answer)).map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for FileStore {
    /// Waits for what is queued: afterwards nobody touches the file.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has been reported by its thread.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl StateStore for FileStore {
    async fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        self.ask(Request::Load).await
    }

    async fn save(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.ask(|answer| Request::Save(snapshot, answer)).await
    }
}
