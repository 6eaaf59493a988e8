//! Rules of the repository that no compiler checks, and the yardstick of `cargo xtask bench`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod files;
mod floor;
mod layers;
mod manifests;
