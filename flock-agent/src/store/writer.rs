//! The one who writes.

use std::io;
use std::iter::once;
use std::sync::mpsc::Receiver;

use flock_core::ipam::Snapshot;
use flock_core::ports::StoreError;
use tokio::sync::oneshot;
use tracing::warn;

use super::file::StateFile;

/// Where the outcome goes. Whoever asked may be gone.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Request {
    /// What the file holds.
    Load(Answer<Option<Snapshot>>),
    /// To make this, or something newer, durable.
    Save(Snapshot, Answer<()>),
}

/// What is in the file.
#[derive(Debug)]
enum Held {
    Nothing,
    Snapshot {
        boot_id: String,
        generation: u64,
    },
    /// Something that must be kept, and is no state.
    Foreign,
}

impl Held {
    fn from(snapshot: &Snapshot) -> Self {
        Self::Snapshot { boot_id: snapshot.boot_id.clone(), generation: snapshot.generation }
    }

    fn covers(&self, snapshot: &Snapshot) -> bool {
        matches!(self, Self::Snapshot { boot_id, generation } if covers(boot_id, *generation, snapshot))
    }
}

/// Whether a state makes this snapshot superfluous. Generations count within a boot only.
fn covers(boot_id: &str, generation: u64, snapshot: &Snapshot) -> bool {
    boot_id == snapshot.boot_id && generation >= snapshot.generation
}

/// Owner of the file.
#[derive(Debug)]
pub(super) struct Writer {
    file: StateFile,
    held: Held,
    /// Whether what is held would survive a power cut.
    durable: bool,
}

impl Writer {
    pub(super) fn new(file: StateFile) -> Result<Self, StoreError> {
        let held = match file.load() {
            Ok(None) => Held::Nothing,
            Ok(Some(snapshot)) => Held::from(&snapshot),
            Err(StoreError::Corrupt { .. }) => Held::Foreign,
            Err(error) => return Err(error),
        };
        // The process before may have ended between the last two steps of a write.
        Ok(Self { file, held, durable: false })
    }

    /// Serves until every sender is gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut saves = Vec::new();
            for request in once(first).chain(requests.try_iter()) {
                match request {
                    Request::Load(answer) => drop(answer.send(self.file.load())),
                    Request::Save(snapshot, answer) => saves.push((snapshot, answer)),
                }
            }
            self.serve(saves);
        }
    }

    /// Writes the newest and answers all.
    fn serve(&mut self, saves: Vec<(Snapshot, Answer<()>)>) {
        fn newer<'a>(a: &'a Snapshot, b: &'a Snapshot) -> &'a Snapshot {
            if covers(&a.boot_id, a.generation, b) { a } else { b }
        }
        let Some(newest) = saves.iter().map(|(snapshot, _)| snapshot).reduce(newer) else { return };
        let outcome = self.save(newest);
        for (_, answer) in saves {
            drop(answer.send(outcome.as_ref().copied().map_err(again)));
        }
    }

    fn save(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        if !self.held.covers(snapshot) {
            if matches!(self.held, Held::Foreign) {
                let kept = self.file.set_aside()?;
                self.held = Held::Nothing;
                warn!(file = %self.file.path().display(), kept = %kept.display(), "kept what was no state");
            }
            self.file.replace(snapshot)?;
            self.held = Held::from(snapshot);
            self.durable = false;
        }
        if !self.durable {
            self.file.sync()?;
            self.durable = true;
        }
        Ok(())
    }
}

/// The same error for one more caller: what the system said cannot be cloned.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Io { step, path, source } => {
            let source = match source.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(source.kind(), source.to_string()),
            };
            StoreError::Io { step, path: path.clone(), source }
        }
        StoreError::Corrupt { path, reason } => {
            StoreError::Corrupt { path: path.clone(), reason: reason.clone() }
        }
        StoreError::Closed => StoreError::Closed,
    }
}
