//! Network namespaces and the threads that visit them. A thread that has entered a pod's namespace is
//! never used for anything else: it ends, and nothing has to be restored.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use flock_core::ports::{NetlinkError, NetnsPath};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// What makes a namespace the same: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetnsId(u64, u64);

impl NetnsId {
    /// Of the calling thread.
    pub(crate) fn own() -> Result<Self, NetlinkError> {
        let own = std::fs::metadata("/proc/thread-self/ns/net")
            .map_err(|source| NetlinkError::Kernel { step: "show its own network namespace", source })?;
        Ok(Self(own.dev(), own.ino()))
    }
}

/// An open namespace: it stays while this lives, whatever happens to the path.
#[derive(Debug)]
pub(crate) struct Netns {
    path: NetnsPath,
    file: File,
}

impl Netns {
    /// Opens a pod's namespace. The node's own is refused: a pod's default route would replace the node's.
    pub(crate) fn open(path: &NetnsPath, own: NetnsId) -> Result<Self, NetlinkError> {
        let error = |source| NetlinkError::Netns { path: path.clone(), source };
        // Non-blocking, so that a path to a pipe is an error and not a hanging thread.
        let options = OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new().read(true).custom_flags(options).open(path.as_path()).map_err(error)?;
        let metadata = file.metadata().map_err(error)?;
        if NetnsId(metadata.dev(), metadata.ino()) == own {
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, "it is the node's own")));
        }
        Ok(Self { path: path.clone(), file })
    }

    pub(crate) fn path(&self) -> &NetnsPath {
        &self.path
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Moves the calling thread, for good.
    pub(crate) fn enter(&self) -> Result<(), NetlinkError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetlinkError::Netns { path: self.path.clone(), source: errno.into() })
    }

    /// Does something in the namespace while the calling thread stays where it is.
    pub(crate) fn visit<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetlinkError> + Send,
    ) -> Result<T, NetlinkError> {
        std::thread::scope(|scope| {
            let visitor = std::thread::Builder::new()
                .name("flock-netns".to_owned())
                .spawn_scoped(scope, || {
                    self.enter()?;
                    work()
                })
                .map_err(no_thread)?;
            visitor.join().unwrap_or_else(|_| Err(lost()))
        })
    }
}

/// How long a look at namespaces may take. Mostly it is microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at namespaces from outside. A path may lie on a file system that is dead, and whoever follows it hangs
/// with it: so that is done on a thread nobody needs, and by one at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lookout(Arc<Mutex<()>>);

impl Lookout {
    /// Those that are certain to be no namespaces of pods.
    pub(crate) fn gone(
        &self,
        mut paths: BTreeSet<NetnsPath>,
        own: NetnsId,
    ) -> Result<BTreeSet<NetnsPath>, NetlinkError> {
        let (answer, answered) = mpsc::channel();
        let turn = Arc::clone(&self.0);
        std::thread::Builder::new()
            .name("flock-lookout".to_owned())
            .spawn(move || {
                let Ok(turn) = turn.try_lock() else { return };
                paths.retain(|path| is_gone(path, own));
                // Before the answer: who has it may ask again at once.
                drop(turn);
                // Too late for somebody who has given up.
                let _ = answer.send(paths);
            })
            .map_err(no_thread)?;
        answered.recv_timeout(PATIENCE).map_err(|_| NetlinkError::Kernel {
            step: "look at network namespaces",
            source: io::Error::new(io::ErrorKind::TimedOut, "a path does not answer"),
        })
    }
}

/// A path that cannot be followed for another reason than that nothing is there may be good again later.
fn is_gone(path: &NetnsPath, own: NetnsId) -> bool {
    match std::fs::metadata(path.as_path()) {
        // All namespaces are files of one file system, which has nothing else.
        Ok(file) => file.dev() != own.0 || NetnsId(file.dev(), file.ino()) == own,
        Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// Runs `work` on a thread of its own in the namespace of the caller, from now on and not only when somebody
/// waits for it. It runs to its end even when the caller goes away; then the result is dropped.
pub(crate) fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetlinkError> + Send + 'static,
) -> impl Future<Output = Result<T, NetlinkError>> + Send {
    let (reply, answer) = oneshot::channel();
    let started = std::thread::Builder::new()
        .name("flock-netlink".to_owned())
        .spawn(move || drop(reply.send(work())))
        .map_err(no_thread);
    async move {
        started?;
        answer.await.unwrap_or_else(|_| Err(lost()))
    }
}

fn no_thread(source: io::Error) -> NetlinkError {
    NetlinkError::Kernel { step: "start a thread", source }
}

fn lost() -> NetlinkError {
    let source = io::Error::other("the thread ended without a result");
    NetlinkError::Kernel { step: "finish a thread", source }
}
