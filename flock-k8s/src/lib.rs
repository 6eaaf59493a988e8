//! Where flock's pods come from: a directory of manifests ([`ManifestPodSource`]) or the API server
//! ([`KubePodSource`]), the objects read into the plain types of [`flock_core::ports`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod client;
mod collection;
mod convert;
pub mod crd;
mod events;
mod follow;
mod index;
mod informer;
mod manifests;
mod object;
mod pause;
mod pool;
mod published;
mod status;
#[cfg(feature = "test-util")]
pub mod testing;
mod watched;

pub use client::{Client, ConnectError, SILENCE, connect};
pub use convert::{ConvertError, pod_view};
pub use informer::{KubePodSource, Timing};
pub use manifests::{
    MAX_FILE_BYTES, ManifestPodSource, NODE_CONFIG_VERSION, OpenError, is_manifest, read_manifests,
    read_objects,
};
pub use status::{KubeStatus, Pace};
