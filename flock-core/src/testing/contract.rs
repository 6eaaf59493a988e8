//! Contract suites: what fakes and real adapters alike keep to.

pub mod pod_source;
pub mod routing;
