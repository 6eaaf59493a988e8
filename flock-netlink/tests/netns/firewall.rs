//! The packet filter.

mod contract;
