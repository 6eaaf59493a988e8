#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bench;
mod cluster;
mod cluster_policies;
mod contract;
mod directory;
mod events;
mod informer;
mod manifests;
mod policies;
mod policy;
mod rights;
mod schema;
mod telling;
mod tiers;
mod tls;
mod trouble;
