//! Where flock's pods come from: a directory of manifests ([`ManifestPodSource`]), the objects read into
//! the plain types of [`flock_core::ports`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod convert;
pub mod crd;
mod manifests;

pub use convert::{ConvertError, pod_view};
pub use manifests::{
    MAX_FILE_BYTES, ManifestPodSource, NODE_CONFIG_VERSION, OpenError, is_manifest, read_manifests,
    read_objects,
};
