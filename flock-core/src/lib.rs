//! Every decision flock takes, and none of its I/O.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod advertisement;
pub mod annotation;
pub mod anycast;
pub mod app;
pub mod bird;
pub mod claims;
pub mod config;
pub mod eligibility;
pub mod family;
pub mod ids;
pub mod iid;
pub mod ipam;
pub mod leak;
pub mod plan;
pub mod pod_plan;
pub mod policy;
pub mod ports;
pub mod prefix;
pub mod problem;
pub mod route;
pub mod selector;
mod special;
pub mod time;

#[cfg(any(test, feature = "test-util"))]
pub mod testing;
