//! When to look at the directory again: soon after the kernel reports a change, and every few seconds
//! whatever it reports.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::oneshot;
use tracing::warn;

use super::directory::Directory;

/// After a finished change: time for the other files of the same change to arrive, too short to matter for
/// a pod that is to be withdrawn.
const SETTLED: Duration = Duration::from_millis(10);
/// After an unfinished one: the writer usually closes the file before that, and then it is settled.
const WRITING: Duration = Duration::from_millis(100);
/// Between looks without any event. Finds what events do not show: files behind links, lost events.
const RESCAN: Duration = Duration::from_secs(10);
/// The same while there is nothing to watch.
const RETRY: Duration = Duration::from_millis(500);

/// A reason to look at the directory.
#[derive(Debug)]
pub(super) enum Wake {
    /// Something changed completely: renamed, removed, closed after writing.
    Settled,
    /// A file has been created or written to and may not be complete yet.
    Writing,
    /// The directory itself moved, or the watch failed: it has to be watched anew.
    Blind,
    /// Somebody wants to be told when it has been looked at.
    Asked(oneshot::Sender<()>),
    /// Nobody is interested any more.
    Stop,
}

impl Wake {
    /// What a file system event is a reason for; reading, our own above all, is none.
    fn from_event(event: &notify::Result<Event>, directory: &Path) -> Option<Self> {
        let Ok(event) = event else { return Some(Self::Blind) };
        let itself = || event.paths.iter().any(|path| path == directory);
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Self::Settled),
            EventKind::Access(_) => None,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) if itself() => Some(Self::Blind),
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => Some(Self::Writing),
            _ => Some(Self::Settled),
        }
    }

    fn delay(&self) -> Duration {
        match self {
            Self::Settled | Self::Blind => SETTLED,
            Self::Writing => WRITING,
            Self::Asked(_) | Self::Stop => Duration::ZERO,
        }
    }
}

/// A kernel watch on one directory, which is what its path named when the watch was made.
struct Watch {
    _watcher: RecommendedWatcher,
    directory: (u64, u64),
}

/// Keeps a [`Directory`] up to date and hands it over whenever it changed.
pub(super) struct Reader<Publish> {
    directory: Directory,
    publish: Publish,
    watch: Option<Watch>,
    wakes: Sender<Wake>,
    /// Said once that the kernel refuses to watch.
    complained: bool,
}

impl<Publish: FnMut(&Directory)> Reader<Publish> {
    /// `wakes` is the other end of what [`run`](Self::run) gets.
    pub(super) fn new(directory: Directory, wakes: Sender<Wake>, publish: Publish) -> Self {
        Self { directory, publish, watch: None, wakes, complained: false }
    }

    /// Looks once.
    pub(super) fn look(&mut self) {
        // The watch first: a change after it is reported, one before it is seen.
        self.keep_watching();
        if self.directory.scan() {
            (self.publish)(&self.directory);
        }
    }

    /// Looks whenever there is a reason to, until told to stop.
    pub(super) fn run(mut self, wakes: &Receiver<Wake>) {
        loop {
            let pause = if self.watch.is_some() { RESCAN } else { RETRY };
            let Some(asked) = self.wait(wakes, pause) else { return };
            self.look();
            for answer in asked {
                // Whoever asked may have given up.
                let _ = answer.send(());
            }
        }
    }

    /// Waits for a reason to look, and a little longer for more; the longest after `pause`. `None`: stop.
    fn wait(&mut self, wakes: &Receiver<Wake>, pause: Duration) -> Option<Vec<oneshot::Sender<()>>> {
        let mut due = Instant::now() + pause;
        let mut asked = Vec::new();
        loop {
            let wake = match wakes.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(wake) => wake,
                Err(RecvTimeoutError::Timeout) => return Some(asked),
                Err(RecvTimeoutError::Disconnected) => return None,
            };
            due = due.min(Instant::now() + wake.delay());
            match wake {
                Wake::Settled | Wake::Writing => {}
                Wake::Blind => self.watch = None,
                Wake::Asked(answer) => asked.push(answer),
                Wake::Stop => return None,
            }
        }
    }

    fn keep_watching(&mut self) {
        let path = self.directory.path();
        let identity = fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        if self.watch.as_ref().map(|watch| watch.directory) == identity {
            return;
        }
        self.watch = None;
        let Some(directory) = identity else { return };
        match watcher(path, self.wakes.clone()) {
            Ok(watcher) => self.watch = Some(Watch { _watcher: watcher, directory }),
            Err(error) if !self.complained => {
                self.complained = true;
                warn!(%error, path = %path.display(), "cannot watch the manifests, looking twice a second instead");
            }
            Err(_) => {}
        }
    }
}

fn watcher(path: &Path, wakes: Sender<Wake>) -> notify::Result<RecommendedWatcher> {
    let directory = path.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if let Some(wake) = Wake::from_event(&event, &directory) {
            // Fails only when the reader has ended.
            let _ = wakes.send(wake);
        }
    })?;
    watcher.watch(path, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn an_event_is_a_reason_to_look_as_soon_as_the_file_is_complete() {
        let directory = Path::new("/manifests");
        let check = |kind: EventKind, path: &str, expected: Option<Duration>| {
            let event = Ok(Event::new(kind).add_path(path.into()));
            let delay = Wake::from_event(&event, directory).map(|wake| wake.delay());
            assert_eq!(delay, expected, "{event:?}");
        };
        let file = "/manifests/a.yaml";
        check(EventKind::Create(CreateKind::File), file, Some(WRITING));
        check(EventKind::Modify(ModifyKind::Data(DataChange::Any)), file, Some(WRITING));
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), file, Some(SETTLED));
        check(EventKind::Modify(ModifyKind::Name(RenameMode::To)), file, Some(SETTLED));
        check(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), file, Some(SETTLED));
        check(EventKind::Remove(RemoveKind::File), file, Some(SETTLED));
        check(EventKind::Access(AccessKind::Open(AccessMode::Any)), file, None);
        check(EventKind::Access(AccessKind::Close(AccessMode::Read)), file, None);
    }

    #[test]
    fn a_watch_that_may_be_lost_is_made_anew() {
        let directory = Path::new("/manifests");
        let blind = |event| matches!(Wake::from_event(&event, directory), Some(Wake::Blind));
        let itself = |kind: EventKind| blind(Ok(Event::new(kind).add_path(directory.to_owned())));
        assert!(itself(EventKind::Remove(RemoveKind::Folder)));
        assert!(itself(EventKind::Modify(ModifyKind::Name(RenameMode::From))));
        assert!(!itself(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any))));
        assert!(blind(Err(notify::Error::generic("gone"))));
        let overflow = Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert!(matches!(Wake::from_event(&overflow, directory), Some(Wake::Settled)));
    }
}
