//! The CNI protocol and the wire to the agent.

pub mod wire;
