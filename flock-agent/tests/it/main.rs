//! The agent as a process: what it serves, what it survives, what it leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod adversity;
mod anycast;
mod away;
mod bird;
mod chaos;
mod cluster;
mod drops;
mod harness;
mod health;
mod install;
mod kube;
mod leaks;
mod netns;
mod object;
mod plan;
mod policy;
mod serve;
mod site;
mod suite;
