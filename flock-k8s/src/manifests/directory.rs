//! A directory of manifests and what its files held when last looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flock_core::ids::NodeName;
use flock_core::policy::PolicyView;
use flock_core::ports::{ClusterView, Readiness};
use tracing::warn;

use super::merge::{Content, merge};
use super::read::{Fault, MAX_FILE_BYTES, Manifest, Object, Syntax, parse};

/// The kernel stamps changes with a clock that ticks every few milliseconds. A file that changed less than
/// this before it was read may change once more without another stamp, so it is read again next time.
const STAMP_GRAIN: Duration = Duration::from_millis(100);

/// What the directory holds. Nothing happens but in [`scan`](Self::scan).
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    files: BTreeMap<OsString, Known>,
    /// Why the directory could not be listed; its files are then kept as they were.
    error: Option<io::Error>,
    listed: bool,
    warned: BTreeSet<(String, String)>,
}

#[derive(Debug, Default)]
struct Known {
    display: String,
    stamp: Option<Stamp>,
    content: Content,
}

/// Changes when the file does: every write sets the change time, and a replacement has another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), changed }
    }

    /// Whether a change after `now` is sure to give another stamp.
    fn settled(&self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        changed.and_then(|at| now.duration_since(at).ok()).is_some_and(|age| age > STAMP_GRAIN)
    }
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new(), error: None, listed: false, warned: BTreeSet::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Ready once the directory has been listed; it stays so when the directory goes away.
    pub(super) fn readiness(&self) -> Readiness {
        if self.listed {
            return Readiness::Ready;
        }
        Readiness::Starting(match &self.error {
            Some(error) if gone(error) => "the manifest directory does not exist",
            _ => "the manifest directory cannot be read",
        })
    }

    /// Everything in it, as `node` sees it, with revision 0.
    pub(super) fn views(&self, node: &NodeName) -> (ClusterView, PolicyView) {
        let files = self.files.values().map(|known| (known.display.as_str(), &known.content));
        let (mut view, mut policies) = merge(node, files);
        policies.complete = self.listed;
        if let Some(error) = &self.error {
            let kept = if self.listed { "; its last content stays" } else { "" };
            let problem = format!("cannot read directory {}: {error}{kept}", self.path.display());
            view.problems.insert(0, problem);
        }
        (view, policies)
    }

    /// Looks at the directory and reads the files that changed. True when anything is different.
    pub(super) fn scan(&mut self) -> bool {
        let names = match list(&self.path) {
            Ok(names) => names,
            Err(error) => {
                let news = self.error.as_ref().is_none_or(|old| old.kind() != error.kind());
                self.error = Some(error);
                return news;
            }
        };
        let mut changed = self.error.take().is_some() || !self.listed;
        self.listed = true;
        let before = self.files.len();
        self.files.retain(|name, _| names.contains_key(name));
        changed |= self.files.len() != before;
        for (name, syntax) in names {
            changed |= self.look_at(name, syntax);
        }
        changed
    }

    fn look_at(&mut self, name: OsString, syntax: Syntax) -> bool {
        let path = self.path.join(&name);
        let stamp = match fs::metadata(&path) {
            Ok(meta) => Some(Stamp::of(&meta)),
            // Removed since it was listed. (A dangling link is still there.)
            Err(error) if gone(&error) && fs::symlink_metadata(&path).is_err_and(|error| gone(&error)) => {
                return self.files.remove(&name).is_some();
            }
            Err(_) => None,
        };
        let display = name.to_string_lossy().into_owned();
        let known = self.files.entry(name).or_insert_with(|| Known { display, ..Known::default() });
        if stamp.is_some() && stamp == known.stamp {
            return false;
        }

        let (stamp, parsed) = match read(&path) {
            Ok((stamp, bytes)) => (stamp, parse(syntax, &bytes)),
            Err(error) => (None, Err(vec![Fault::of_file(format!("cannot be read: {error}"))])),
        };
        known.stamp = stamp;
        let content = match parsed {
            Ok(manifests) => Content { manifests, faults: Vec::new() },
            Err(faults) => Content { manifests: known.content.manifests.clone(), faults },
        };
        if content == known.content {
            return false;
        }
        known.content = content;
        for manifest in &known.content.manifests {
            mention(&known.display, manifest, &mut self.warned);
        }
        true
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The manifest files of a directory, by name.
fn list(path: &Path) -> io::Result<BTreeMap<OsString, Syntax>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if let Some(syntax) = Syntax::of(&name) {
            names.insert(name, syntax);
        }
    }
    Ok(names)
}

/// The content of a file and, if a later change is sure to show, its stamp.
fn read(path: &Path) -> io::Result<(Option<Stamp>, Vec<u8>)> {
    // Before it is opened: opening a pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let now = SystemTime::now();
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    // One byte more than allowed is enough for the parser to refuse it.
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((stamp.settled(now).then_some(stamp), bytes))
}

/// Says which objects have no effect, once per kind.
fn mention(file: &str, manifest: &Manifest, warned: &mut BTreeSet<(String, String)>) {
    if let Object::Other { api_version, kind } = &manifest.object
        && warned.insert((api_version.clone(), kind.clone()))
    {
        warn!(file, api_version, kind, "manifests of this kind are ignored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_trusted_once_the_next_change_must_differ() {
        let changed = |seconds, nanos| Stamp { device: 1, inode: 2, size: 3, changed: (seconds, nanos) };
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert!(changed(999, 0).settled(now));
        assert!(changed(999, 899_000_000).settled(now));
        assert!(!changed(999, 901_000_000).settled(now), "within the grain of the clock");
        assert!(!changed(1000, 0).settled(now));
        assert!(!changed(1001, 0).settled(now), "the clock was set back");
        for odd in [(-1, 0), (0, -1), (i64::MAX, 0)] {
            assert!(!changed(odd.0, odd.1).settled(now), "{odd:?}");
        }
    }
}
