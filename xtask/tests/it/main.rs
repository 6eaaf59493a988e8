//! Rules of the repository that no compiler checks.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod files;
mod layers;
