//! The packet filter: the contract of its port, and what it does to real packets.

mod bench;
mod contract;
mod drops;
mod flows;
mod frame;
mod judged;
mod spoofed;
mod tiers;
