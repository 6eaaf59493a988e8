//! The built plugin against a scripted agent, its documents against the CNI specification.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests fail by panicking")]

mod agent;
mod concurrency;
mod errors;
mod golden;
mod hostile;
mod rpc;
mod run;
mod schema;
mod verbs;
