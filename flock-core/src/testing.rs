//! Fakes with state for every port, and the contract suites that fakes and real adapters both pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    missing_docs
)]

mod cluster;
pub mod contract;
mod firewall;
mod interpreter;
mod kernel;
mod require;
mod routing;
mod status;
mod store;
mod world;

pub use cluster::{FakePodSource, pod_view};
pub use firewall::{FakeFirewall, FirewallCall};
pub use interpreter::{Packet, passes};
pub use kernel::{FakeKernel, KernelCall};
pub use require::require;
pub use routing::{FakeRouting, routing_examples, routing_peer};
pub use status::FakeStatusSink;
pub use store::FakeStore;
pub use world::World;
