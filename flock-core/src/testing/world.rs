//! All ports of a node, as fakes.

use std::sync::Arc;

use super::{FakeFirewall, FakeKernel, FakePodSource, FakeRouting, FakeStatusSink, FakeStore};
use crate::app::{Node, Ports, Settings};
use crate::ids::NodeName;
use crate::time::Timestamp;

/// The world around a node, which outlives the node. A test that needs a port of its own puts it into what
/// [`ports`](Self::ports) returns.
#[derive(Debug, Clone)]
pub struct World {
    pub kernel: Arc<FakeKernel>,
    pub firewall: Arc<FakeFirewall>,
    pub pods: Arc<FakePodSource>,
    pub routing: Arc<FakeRouting>,
    pub status: Arc<FakeStatusSink>,
    pub store: Arc<FakeStore>,
}

impl Default for World {
    /// An empty one, without a NodeConfig.
    fn default() -> Self {
        Self {
            kernel: Arc::new(FakeKernel::new()),
            firewall: Arc::default(),
            pods: Arc::default(),
            routing: Arc::default(),
            status: Arc::default(),
            store: Arc::default(),
        }
    }
}

impl World {
    /// The fakes as ports.
    pub fn ports(&self) -> Ports {
        Ports {
            netlink: self.kernel.clone(),
            firewall: Some(self.firewall.clone()),
            pods: self.pods.clone(),
            routing: self.routing.clone(),
            status: self.status.clone(),
            store: self.store.clone(),
        }
    }

    /// What is fixed for the life of the node `n1`, in this boot.
    pub fn settings(boot_id: &str) -> Settings {
        Settings { node: NodeName::parse("n1").unwrap(), boot_id: boot_id.to_owned(), mtu: None }
    }

    /// Starts a node in this world, in this boot.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start(&self, boot_id: &str, now: Timestamp) -> (Node, Vec<String>) {
        Node::start(Self::settings(boot_id), self.ports(), now).await.unwrap()
    }
}
