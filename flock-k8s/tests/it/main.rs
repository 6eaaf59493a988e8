#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bench;
mod contract;
mod directory;
mod manifests;
mod schema;
