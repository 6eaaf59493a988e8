//! Whatever reaches flock from outside, thrown at its parsers.
//!
//! Each module is one target: `run` takes any bytes and panics where a law of the parser does not hold. That no
//! input makes a parser panic is the first of them. The same `run` is called by libFuzzer (`cargo xtask fuzz`)
//! and, over the committed inputs of `corpus/` and small changes to them, by the tests of this crate.
//!
//! | target | bytes | comes from |
//! |---|---|---|
//! | [`annotation`] | annotations, one per line, or one value | whoever may create a pod |
//! | [`node_config`] | a manifest, YAML or JSON | whoever may write to the manifest directory |
//! | [`cni_stdin`] | standard input of the plugin, and its environment | the container runtime |
//! | [`socket_line`] | a line of the agent's socket, either way | plugin and agent of another version |
//! | [`bird_reply`] | what BIRD's control socket answers | BIRD |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a panic is how a target says that something is wrong"
)]

pub mod annotation;
pub mod bird_reply;
pub mod cni_stdin;
pub mod node_config;
mod plugin;
mod pod_plan;
pub mod socket_line;

/// A target: takes any bytes, panics where a law does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its binary and of its directory under `corpus/`.
pub const TARGETS: [(&str, Target); 5] = [
    ("annotation", annotation::run),
    ("bird_reply", bird_reply::run),
    ("cni_stdin", cni_stdin::run),
    ("node_config", node_config::run),
    ("socket_line", socket_line::run),
];
