//! Network namespaces that leave nothing behind: an open file holds them, no mount and no process.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace of our own; it goes when this is dropped and nobody is in it any more.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    /// A fresh one, with nothing but a loopback interface that is down.
    pub(crate) fn new() -> Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace, which takes root")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the network namespace just made")
        });
        Ok(Self(made.join().map_err(|_| anyhow!("the thread that makes a namespace panicked"))??))
    }

    /// A path other processes can open it by, for as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs `work` inside, on a thread of its own: the threads and processes it starts are inside too.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread inside the namespace panicked"))?
        })
    }
}
