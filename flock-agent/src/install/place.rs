//! Files that are replaced in one step.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::InstallError;

/// A directory that is ours until this goes: another installer waits.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    locked: File,
}

/// What putting a file in place has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// There was none.
    New,
    /// There was another one.
    Replaced,
    /// It was there already.
    Same,
}

/// Makes the directory if missing, and waits until no other installer is at work in it.
pub(super) fn directory(path: &Path) -> Result<Directory, InstallError> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(failed("make the directory", path))?;
    let locked = File::open(path).map_err(failed("open the directory", path))?;
    locked.lock().map_err(failed("lock the directory", path))?;
    Ok(Directory { path: path.to_owned(), locked })
}

impl Directory {
    /// Makes the file `name` hold `content` with this mode, durably and in one step. A file that does already
    /// is left alone.
    pub(super) fn put(&self, name: &str, content: &[u8], mode: u32) -> Result<Placed, InstallError> {
        let path = self.path.join(name);
        let placed = match state(&path, content, mode).map_err(failed("read", &path))? {
            Placed::Same => return Ok(Placed::Same),
            placed => placed,
        };
        // No runtime takes this name for a network list or a plugin.
        let draft = self.path.join(format!(".{name}.flock-new"));
        let replaced = self.replace(&draft, &path, content, mode);
        if replaced.is_err() {
            // As far as possible: the next run truncates it.
            let _ = fs::remove_file(&draft);
        }
        replaced.map(|()| placed)
    }

    fn replace(&self, draft: &Path, path: &Path, content: &[u8], mode: u32) -> Result<(), InstallError> {
        write(draft, content, mode).map_err(failed("write", draft))?;
        // The old file may be executed at this moment: it lives on without a name until that ends.
        fs::rename(draft, path).map_err(failed("replace", path))?;
        self.locked.sync_all().map_err(failed("flush the directory", &self.path))
    }
}

fn state(path: &Path, content: &[u8], mode: u32) -> io::Result<Placed> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Placed::New),
        Err(error) => return Err(error),
    };
    // Before reading: it may be a device.
    let like = found.is_file() && found.len() == content.len() as u64;
    let same = like && found.permissions().mode() & 0o7777 == mode && fs::read(path)? == content;
    Ok(if same { Placed::Same } else { Placed::Replaced })
}

/// Closed when this returns: a file that somebody can still write to cannot be executed.
fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(content)?;
    // Whatever the umask says, and whatever a crash has left.
    file.set_permissions(Permissions::from_mode(mode))?;
    // Before the rename, or a power cut could leave the new name with no content.
    file.sync_all()
}

/// The error of a step.
pub(super) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::Io { step, path, source }
}
