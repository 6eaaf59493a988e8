//! The kernel adapter in real network namespaces. Every test unshares a node of its own, so nothing of it
//! is left when its threads have ended.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod contract;
mod firewall;
mod flows;
mod groups;
mod leftovers;
mod loopback;
mod monitor;
mod node;
mod packets;
mod routes;
mod world;
