//! The adapter against a scripted socket, and against real BIRDs in network namespaces of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client;
mod contract;
mod live;
mod script;
mod support;
mod writer;
