//! Where the agent learns of the cluster: a directory of manifests, or the API server. Of the latter the last good
//! NodeConfig is kept on disk, so that a node that boots while the API server is away still has one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flock_core::config::NodeConfig;
use flock_core::ids::NodeName;
use flock_core::ports::{NodeConfigView, PodSource, Readiness, Revision, StatusSink};
use flock_k8s::{KubePodSource, KubeStatus, ManifestPodSource, NODE_CONFIG_VERSION, Pace, SILENCE, Timing};

use crate::args::RunArgs;
use crate::log_status::LogStatus;

/// Until a file that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What is known of the cluster, and where the cluster hears of the node.
pub(crate) struct Cluster {
    pub(crate) pods: Arc<dyn PodSource>,
    pub(crate) status: Arc<dyn StatusSink>,
    /// Only with an API server.
    pub(crate) kube: Option<Kube>,
}

/// What an API server takes beyond the ports.
pub(crate) struct Kube {
    pub(crate) status: Arc<KubeStatus>,
    pub(crate) memory: Memory,
}

/// Opens what the arguments name.
pub(crate) async fn open(args: &RunArgs, node: &NodeName) -> anyhow::Result<Cluster> {
    if let Some(directory) = &args.manifests {
        let pods = ManifestPodSource::open(directory.clone(), node.clone())
            .with_context(|| format!("cannot watch {}", directory.display()))?;
        return Ok(Cluster { pods: Arc::new(pods), status: Arc::new(LogStatus::default()), kube: None });
    }
    let client = flock_k8s::connect(args.kubeconfig.as_deref(), SILENCE).await?;
    let path = args.state.with_file_name("nodeconfig.json");
    let memory = Memory::open(path, node, RETRY);
    let remembered = memory.kept.clone();
    if remembered.is_some() {
        tracing::info!(file = %memory.path.display(), "the NodeConfig of the last run is there in case the API server is not");
    }
    let pods = KubePodSource::open(client.clone(), node, remembered, Timing::default());
    let status = Arc::new(KubeStatus::new(client, node, &pods, Pace::default()));
    let kube = Kube { status: Arc::clone(&status), memory };
    Ok(Cluster { pods: Arc::new(pods), status, kube: Some(kube) })
}

/// The file that keeps the last good NodeConfig: a manifest, as `--manifests` would read it.
pub(crate) struct Memory {
    path: PathBuf,
    node: NodeName,
    retry: Duration,
    /// What it holds, if that is a good NodeConfig of this node.
    kept: Option<NodeConfigView>,
}

impl Memory {
    fn open(path: PathBuf, node: &NodeName, retry: Duration) -> Self {
        let mut memory = Self { path, node: node.clone(), retry, kept: None };
        memory.kept = memory.recall();
        memory
    }

    fn recall(&self) -> Option<NodeConfigView> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "the NodeConfig of the last run is lost");
                return None;
            }
        };
        let view = flock_k8s::read_manifests(&self.node, [("nodeconfig.json", bytes.as_slice())]);
        let good = view.node_config.filter(is_good);
        if good.is_none() {
            let error = view.problems.join("; ");
            tracing::warn!(file = %self.path.display(), error, "it holds no good NodeConfig of this node");
        }
        good
    }

    /// Keeps the file up to date, for ever. A NodeConfig that is refused changes nothing; one that is deleted is
    /// forgotten.
    pub(crate) async fn follow(mut self, pods: Arc<dyn PodSource>) {
        let mut seen: Option<Revision> = None;
        let mut failing = false;
        loop {
            if let Some(seen) = seen {
                tokio::select! {
                    _ = pods.changed(seen) => {}
                    () = tokio::time::sleep(self.retry), if failing => {}
                }
            }
            // In this order: a readiness that comes late wakes us, and the view is at least as new as it.
            seen = Some(pods.snapshot().revision);
            let ready = pods.ready() == Readiness::Ready;
            let view = pods.snapshot();
            if !ready {
                continue;
            }
            let written = match &view.node_config {
                // Good, and another one.
                Some(config) if is_good(config) && self.kept.as_ref() != Some(config) => self.keep(config),
                None if self.kept.is_some() => self.forget(),
                _ => Ok(()),
            };
            match written {
                Ok(()) => failing = false,
                Err(error) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!(file = %self.path.display(), %error, "the NodeConfig is not kept for the next run");
                }
                Err(_) => {}
            }
        }
    }

    fn forget(&mut self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.kept = None,
        }
        Ok(())
    }

    fn keep(&mut self, config: &NodeConfigView) -> io::Result<()> {
        let manifest = serde_json::json!({
            "apiVersion": NODE_CONFIG_VERSION,
            "kind": "NodeConfig",
            "metadata": { "name": self.node, "generation": config.generation },
            "spec": config.spec.as_ref().map_err(|reason| io::Error::other(reason.clone()))?,
        });
        let temporary = self.path.with_added_extension("tmp");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(manifest.to_string().as_bytes())?;
        file.sync_data()?;
        fs::rename(&temporary, &self.path)?;
        let directory = self.path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
        self.kept = Some(config.clone());
        Ok(())
    }
}

fn is_good(config: &NodeConfigView) -> bool {
    config.spec.as_ref().is_ok_and(|spec| NodeConfig::validate(spec).is_ok())
}

#[cfg(test)]
mod tests {
    use flock_core::config::{BgpSpec, NodeConfigSpec};
    use flock_core::testing::FakePodSource;

    use super::*;

    #[tokio::test]
    async fn node_config_that_could_not_be_kept_is_kept_once_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/nodeconfig.json");
        let open = || Memory::open(path.clone(), &"n1".parse().unwrap(), Duration::from_millis(1));
        let pods = Arc::new(FakePodSource::default());
        let bgp = BgpSpec { asn: 65101, ..BgpSpec::default() };
        let spec = NodeConfigSpec { bgp, ..NodeConfigSpec::default() };
        let config = NodeConfigView { generation: 1, spec: Ok(spec) };
        pods.set_node_config(Some(config.clone()));
        let following = tokio::spawn(open().follow(pods.clone()));
        tokio::task::yield_now().await;
        // Nothing of the cluster changes from here on.
        fs::create_dir(path.parent().unwrap()).unwrap();
        let kept = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), kept).await.expect("it is tried again");
        following.abort();
        let mut memory = open();
        assert_eq!(memory.kept, Some(config));
        // Somebody was faster.
        fs::remove_file(&path).unwrap();
        memory.forget().unwrap();
        assert_eq!(memory.kept, None);
    }
}
