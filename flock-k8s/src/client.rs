//! The way to the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use kube::Client;
use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// To find out that nobody is there.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest silence of a connection, unless told otherwise: somewhat longer than a watch lasts, so that a half-open one
/// is given up.
pub const SILENCE: Duration = Duration::from_secs(75);

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("cannot use kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig was given, and this is no pod with a service account.
    #[error("this is not a pod with a service account ({0}): give --kubeconfig or --manifests")]
    InCluster(#[source] InClusterError),
    /// TLS or credentials cannot be set up.
    #[error("cannot set up the connection to the API server: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// A client for the API server of a kubeconfig, or of the cluster this is a pod of. Does not connect yet. A connection
/// that is silent for longer than `silence` is given up.
pub async fn connect(kubeconfig: Option<&Path>, silence: Duration) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(ConnectError::InCluster)?,
        Some(path) => {
            let refused =
                |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(refused)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(refused)?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(silence);
    // A connection that nobody used for a while is not silent: the time begins with the question.
    config.reset_reader_on_write = true;
    // Whoever asks decides when to ask again.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}
