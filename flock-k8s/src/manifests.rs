//! A directory of Kubernetes manifests as the cluster (interfaces.md section 10): flock without Kubernetes.
//!
//! ```text
//!   inotify --wake--> watch --look--> directory --bytes--> read --objects--> merge --> ClusterView, PolicyView
//!   timer ----^                       (stamps)             (pure, bounded)   (pure)
//! ```

mod directory;
mod merge;
mod read;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use async_trait::async_trait;
use flock_core::ids::{NodeName, PodKey};
use flock_core::policy::PolicyView;
use flock_core::ports::{ClusterView, Demand, PodSource, PodSourceError, PodView, Readiness, Revision};
use tokio::sync::oneshot;
use tracing::warn;

use self::directory::Directory;
pub use self::merge::{read_manifests, read_objects};
pub(crate) use self::read::decode;
pub use self::read::{MAX_FILE_BYTES, NODE_CONFIG_VERSION, is_manifest};
use self::watch::{Reader, Wake};
use crate::published::{Cluster, Policies};

/// Why a directory cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path is empty, or relative while the working directory is gone.
    #[error("manifest directory {path:?} is not usable: {source}")]
    Path {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thread that reads the files could not be started.
    #[error("cannot start reading manifests: {0}")]
    Thread(#[source] io::Error),
}

/// The [`PodSource`] of a manifest directory: every `*.yaml`, `*.yml` and `*.json` in it, hidden files and
/// subdirectories left out, any number of documents each, `kind: List` included.
///
/// A change shows in the view some 10 ms after the file was closed or renamed; what the kernel does not
/// report (a file behind a symbolic link) within 10 s. A broken file keeps its last good content, as
/// does everything when the directory cannot be listed. Write a file elsewhere and rename it into place:
/// then no half-written state is ever seen.
#[derive(Debug)]
pub struct ManifestPodSource {
    shared: Arc<Shared>,
    wakes: Sender<Wake>,
}

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    policies: Policies,
}

impl Shared {
    fn publish(&self, directory: &Directory, node: &NodeName) {
        let (view, policies) = directory.views(node);
        for problem in self.cluster.publish(view, directory.readiness()) {
            warn!(problem, "manifest refused");
        }
        self.policies.publish(policies, ());
    }
}

impl ManifestPodSource {
    /// Reads the directory, then follows it until the value is dropped. It need not exist yet: the source is
    /// [`Starting`](Readiness::Starting) until it does.
    pub fn open(dir: impl Into<PathBuf>, node: NodeName) -> Result<Self, OpenError> {
        // Events carry absolute paths; and the working directory may change.
        let dir = dir.into();
        let path =
            std::path::absolute(&dir).map_err(|source| OpenError::Path { path: dir.clone(), source })?;
        let directory = Directory::new(path);
        let shared =
            Arc::new(Shared { cluster: Cluster::new(directory.readiness()), policies: Policies::new(()) });
        let (wakes, woken) = mpsc::channel();
        let publish = {
            let shared = Arc::clone(&shared);
            move |directory: &Directory| shared.publish(directory, &node)
        };
        let mut reader = Reader::new(directory, wakes.clone(), publish);
        reader.look();
        let thread = std::thread::Builder::new().name("manifests".to_owned());
        thread.spawn(move || reader.run(&woken)).map_err(OpenError::Thread)?;
        Ok(Self { shared, wakes })
    }

    fn answer(&self, key: &PodKey) -> Result<Option<Arc<PodView>>, PodSourceError> {
        match self.ready() {
            Readiness::Ready => Ok(self.snapshot().pods.get(key).cloned()),
            Readiness::Starting(reason) => Err(unavailable(key, reason)),
        }
    }
}

impl Drop for ManifestPodSource {
    fn drop(&mut self) {
        // Fails only when the reader has ended.
        let _ = self.wakes.send(Wake::Stop);
    }
}

#[async_trait]
impl PodSource for ManifestPodSource {
    fn ready(&self) -> Readiness {
        self.shared.cluster.state()
    }

    fn snapshot(&self) -> Arc<ClusterView> {
        self.shared.cluster.snapshot()
    }

    async fn changed(&self, seen: Revision) -> Revision {
        self.shared.cluster.changed(seen).await
    }

    fn policies(&self) -> Arc<PolicyView> {
        self.shared.policies.snapshot()
    }

    async fn policies_changed(&self, seen: Revision) -> Revision {
        self.shared.policies.changed(seen).await
    }

    /// Everything is in the directory anyway.
    fn demand(&self, _: Demand) {}

    /// Looks at the directory first, so that a manifest written just before is found.
    async fn pod(&self, key: &PodKey) -> Result<Option<Arc<PodView>>, PodSourceError> {
        let (answer, looked) = oneshot::channel();
        let asked = self.wakes.send(Wake::Asked(answer)).is_ok();
        if !asked || looked.await.is_err() {
            return Err(unavailable(key, "the manifest reader has stopped"));
        }
        self.answer(key)
    }
}

fn unavailable(pod: &PodKey, reason: &str) -> PodSourceError {
    PodSourceError::Unavailable { pod: pod.clone(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_reader_ends_with_the_source() {
        let dir = tempfile::TempDir::new().unwrap();
        let source = ManifestPodSource::open(dir.path(), NodeName::parse("node-a").unwrap()).unwrap();
        // The reader's thread holds the other reference.
        let shared = Arc::downgrade(&source.shared);
        assert_eq!(shared.strong_count(), 2);
        drop(source);
        let deadline = Instant::now() + Duration::from_mins(1);
        while shared.strong_count() > 0 {
            assert!(Instant::now() < deadline, "the reader goes on");
            std::thread::yield_now();
        }
    }
}
