//! One file that is always whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flock_core::ipam::{Ipam, Snapshot};
use flock_core::ports::StoreError;

/// Largest state read, in bytes: a quarter of a million pods on one node.
const MAX_BYTES: u64 = 64 << 20;

/// The file, its directory and the temporary file beside it.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    directory: PathBuf,
    temporary: PathBuf,
    buffer: Vec<u8>,
    /// The directory, locked: for one agent at a time, until this goes or the process ends, however it ends.
    _lock: File,
}

impl StateFile {
    /// Makes the directory if missing, locks it, and removes what a crash left of an unfinished write. Refused
    /// while another agent has the directory: the unfinished write would be its own.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = match path.parent() {
            Some(parent) if path.file_name().is_some() && parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) if path.file_name().is_some() => parent,
            _ => return Err(failed("use", path)(io::ErrorKind::InvalidFilename.into())),
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed("create directory", directory))?;
        let lock = lock(directory)?;
        let temporary = path.with_added_extension("tmp");
        // As far as possible: on a disk that takes nothing the agent starts all the same, and writes say what is wrong.
        let _ = fs::remove_file(&temporary);
        let (path, directory) = (path.to_owned(), directory.to_owned());
        Ok(Self { path, directory, temporary, buffer: Vec::new(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds; `None` when there is no file. What is read and is no state is corrupt; a file that cannot
    /// be read may be a good one.
    pub(super) fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let corrupt = |reason| StoreError::Corrupt { path: self.path.display().to_string(), reason };
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &self.path)(error)),
            Ok(_) if bytes.len() as u64 > MAX_BYTES => {
                return Err(corrupt(format!("larger than {} MiB", MAX_BYTES >> 20)));
            }
            Ok(_) => {}
        }
        let snapshot: Snapshot =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if snapshot.version != Snapshot::VERSION {
            let known = Snapshot::VERSION;
            return Err(corrupt(format!("version is {}, this flock knows {known}", snapshot.version)));
        }
        // One that contradicts itself would be refused at every start, and nobody but a person could help.
        Ipam::restore(snapshot.clone()).map_err(|error| corrupt(error.to_string()))?;
        Ok(Some(snapshot))
    }

    /// Puts the snapshot in the place of the file in one step; on disk after [`sync`](Self::sync). An error
    /// leaves the file as it was.
    pub(super) fn replace(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, snapshot)
            .map_err(|error| failed("encode", &self.path)(error.into()))?;
        self.buffer.push(b'\n');
        let replaced = self
            .write_temporary()
            .and_then(|()| fs::rename(&self.temporary, &self.path).map_err(failed("replace", &self.path)));
        if replaced.is_err() {
            // As far as possible: the next write truncates it, the next start removes it.
            let _ = fs::remove_file(&self.temporary);
        }
        replaced
    }

    fn write_temporary(&self) -> Result<(), StoreError> {
        let path = &self.temporary;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).map_err(failed("create", path))?;
        file.write_all(&self.buffer).map_err(failed("write", path))?;
        // Before the rename, or a power cut could leave the new name with old or no content.
        file.sync_data().map_err(failed("flush", path))
    }

    /// Makes the last [`replace`](Self::replace) survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("flush directory", &self.directory))
    }

    /// Renames the file to the first free `FILE.corrupt-N`, which it returns.
    pub(super) fn set_aside(&self) -> Result<PathBuf, StoreError> {
        let mut names = (1_u32..).map(|n| self.path.with_added_extension(format!("corrupt-{n}")));
        let free = names.find(|name| {
            fs::symlink_metadata(name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        });
        let kept =
            free.ok_or_else(|| failed("set aside", &self.path)(io::ErrorKind::AlreadyExists.into()))?;
        fs::rename(&self.path, &kept).map_err(failed("set aside", &self.path))?;
        Ok(kept)
    }
}

/// The directory and not the file, which every write replaces.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let file = File::open(directory).map_err(failed("open directory", directory))?;
    let refusal = match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            io::Error::new(io::ErrorKind::ResourceBusy, "another agent keeps its state there: stop it first")
        }
        Err(TryLockError::Error(error)) => error,
    };
    Err(failed("lock directory", directory)(refusal))
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::Io { step, path, source }
}
