//! The plugins of other projects that may follow flock in the network list.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use flock_cni::version::SpecVersion;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// A plugin that may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// `hostPort`.
    Portmap,
    /// The annotations `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`.
    Bandwidth,
}

/// Why a plugin cannot be in the list.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// There is no such plugin.
    #[error("{} is not there", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be executed.
    #[error("cannot execute {}: {source}", path.display())]
    Execute {
        /// The plugin.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("{} did not answer VERSION within {} s", path.display(), PATIENCE.as_secs())]
    Silent {
        /// The plugin.
        path: PathBuf,
    },
    /// It answers something else than CNI asks for.
    #[error("the answer of {} to VERSION is not understood: {source}", path.display())]
    Answer {
        /// The plugin.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// How long a plugin may take for its answer: VERSION takes no I/O.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answer to VERSION (CNI specification, "Version Success").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    supported_versions: Vec<String>,
}

impl Link {
    /// Its `type`, and the name of its file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Portmap => "portmap",
            Self::Bandwidth => "bandwidth",
        }
    }

    /// The capability for which a runtime hands it what it needs.
    pub(super) const fn capability(self) -> &'static str {
        match self {
            Self::Portmap => "portMappings",
            Self::Bandwidth => "bandwidth",
        }
    }

    /// Asks the plugin in this directory which of our versions it speaks. A list that offers one more would
    /// fail every pod.
    pub(super) async fn versions(self, directory: &Path) -> Result<Vec<SpecVersion>, LinkError> {
        let path = directory.join(self.name());
        if !path.exists() {
            return Err(LinkError::Absent { path });
        }
        let stdout = match timeout(PATIENCE, ask(&path)).await {
            Ok(Ok(stdout)) => stdout,
            Ok(Err(source)) => return Err(LinkError::Execute { path, source }),
            Err(_) => return Err(LinkError::Silent { path }),
        };
        let answer: VersionAnswer =
            serde_json::from_slice(&stdout).map_err(|source| LinkError::Answer { path, source })?;
        Ok(answer.supported_versions.iter().filter_map(|version| SpecVersion::parse(version)).collect())
    }
}

async fn ask(path: &Path) -> io::Result<Vec<u8>> {
    let mut command = Command::new(path);
    command.env_clear().env("CNI_COMMAND", "VERSION").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that answers without listening has answered all the same.
        let _ = stdin.write_all(br#"{"cniVersion":"1.0.0"}"#).await;
    }
    Ok(child.wait_with_output().await?.stdout)
}
