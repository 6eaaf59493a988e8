//! Where the agent learns of the cluster: a directory of manifests, or the API server. Of the latter the last good
//! NodeConfig is kept on disk, so that a node that boots while the API server is away still has one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use flock_core::config::NodeConfig;
use flock_core::ids::NodeName;
use flock_core::ports::{NodeConfigView, PodSource, Readiness, Revision, StatusSink};
use flock_k8s::{KubePodSource, KubeStatus, ManifestPodSource, NODE_CONFIG_VERSION, Pace, SILENCE, Timing};

use crate::args::RunArgs;
use crate::log_status::LogStatus;

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
    let memory = Memory { path: args.state.with_file_name("nodeconfig.json"), node: node.clone() };
    let remembered = memory.recall();
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
}

impl Memory {
    /// What it holds, if that is a good NodeConfig of this node.
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
        view.node_config.filter(is_good)
    }

    /// Keeps the file up to date, for ever. A NodeConfig that is refused changes nothing; one that is deleted is
    /// forgotten.
    pub(crate) async fn follow(self, pods: Arc<dyn PodSource>) {
        let mut kept = self.recall();
        let mut seen: Option<Revision> = None;
        loop {
            if let Some(seen) = seen {
                pods.changed(seen).await;
            }
            // In this order: a readiness that comes late wakes us, and the view is at least as new as it.
            seen = Some(pods.snapshot().revision);
            let ready = pods.ready() == Readiness::Ready;
            let view = pods.snapshot();
            if !ready {
                continue;
            }
            let written = match &view.node_config {
                Some(config) if !is_good(config) || kept.as_ref() == Some(config) => continue,
                Some(config) => self.keep(config),
                None if kept.is_none() => continue,
                None => fs::remove_file(&self.path),
            };
            match written {
                Ok(()) => kept.clone_from(&view.node_config),
                Err(error) => {
                    tracing::warn!(file = %self.path.display(), %error, "the NodeConfig is not kept for the next run");
                }
            }
        }
    }

    fn keep(&self, config: &NodeConfigView) -> io::Result<()> {
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
        File::open(directory)?.sync_all()
    }
}

fn is_good(config: &NodeConfigView) -> bool {
    config.spec.as_ref().is_ok_and(|spec| NodeConfig::validate(spec).is_ok())
}
