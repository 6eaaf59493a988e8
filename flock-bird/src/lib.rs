//! BIRD as flock's routing daemon: its configuration file and its control socket.
//!
//! [`BirdSocket`] implements the port [`Routing`](flock_core::ports::Routing): it renders a configuration
//! through [`flock_core::bird`], has BIRD check it, puts it in place and has BIRD take it over.
//! [`Client`] speaks the control socket one typed command at a time, and [`codec`] takes its replies
//! apart. What to announce is not said here at all: BIRD reads it from marked kernel routes.

mod apply;
mod client;
pub mod codec;
mod path;
mod protocols;

pub use apply::{BirdSocket, Timing};
pub use client::{Client, Configured, Daemon, DaemonState};
pub use path::{ConfPath, PathError};
pub use protocols::sessions;
