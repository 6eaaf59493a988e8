//! Contract suites: what fakes and real adapters alike keep to.

pub mod firewall;
pub mod netlink;
pub mod pod_policies;
pub mod pod_source;
pub mod routing;
pub mod store;
