//! A node over fakes, for the tests of the use cases.

use std::net::IpAddr;
use std::ops::Deref;

use flock_core::app::{AttachError, AttachRequest, Attached, CheckError, CheckRequest, Node};
use flock_core::config::{BgpSpec, NodeConfigSpec, PeerSpec};
use flock_core::ids::AttachmentId;
use flock_core::ipam::Phase;
use flock_core::ports::{NetlinkError, NetnsPath, NodeConfigView, StateStore};
use flock_core::route::RouteProtocol;
use flock_core::time::Timestamp;

/// The fakes around a node that has a NodeConfig.
pub(crate) struct World(flock_core::testing::World);

impl Deref for World {
    type Target = flock_core::testing::World;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_000_000);

pub(crate) fn spec(cidr6: &[&str], cidr4: &[&str]) -> NodeConfigSpec {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    NodeConfigSpec {
        cidr6: owned(cidr6),
        cidr4: owned(cidr4),
        bgp: BgpSpec {
            asn: 64500,
            peers: vec![PeerSpec { address: "2001:db8:ffff::1".to_owned(), asn: 64501 }],
            ..BgpSpec::default()
        },
        ..NodeConfigSpec::default()
    }
}

pub(crate) fn id(container: &str) -> AttachmentId {
    AttachmentId::parse(&format!("{container}/eth0")).unwrap()
}

pub(crate) fn request(pod: Option<&str>) -> AttachRequest {
    AttachRequest {
        netns: netns("p"),
        entrance: None,
        pod: pod.map(|key| key.parse().unwrap()),
        uid: None,
        annotations: None,
        mtu: None,
        loopback_runs: false,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self(flock_core::testing::World::default());
        world.configure(&["2001:db8:1::/64"], &["192.0.2.0/24"]);
        world
    }

    /// The same after the state file was lost.
    pub(crate) fn without_state(mut self) -> Self {
        self.0.store = std::sync::Arc::default();
        self
    }

    pub(crate) fn configure(&self, cidr6: &[&str], cidr4: &[&str]) {
        self.pods.set_node_config(Some(NodeConfigView { generation: 1, spec: Ok(spec(cidr6, cidr4)) }));
    }

    pub(crate) async fn start_in(&self, boot: &str) -> (Node, Vec<String>) {
        let (node, notices) = self.0.start(boot, NOW).await;
        node.sync_config();
        (node, notices)
    }

    pub(crate) async fn start(&self) -> Node {
        self.start_in("boot-1").await.0
    }

    pub(crate) async fn saved(&self) -> Vec<(String, Phase)> {
        let snapshot = self.store.load().await.unwrap().unwrap_or_default();
        snapshot.allocations.iter().map(|held| (held.attachment.to_string(), held.phase)).collect()
    }

    /// Nothing of any attachment anywhere: kernel, file, memory.
    pub(crate) async fn assert_empty(&self, node: &Node) {
        assert_eq!(self.kernel.links(), vec![]);
        assert_eq!(self.saved().await, vec![]);
        assert_eq!(node.report(NOW).await.allocations, vec![]);
        let announced = |protocol| self.kernel.routes().iter().filter(|r| r.protocol == protocol).count();
        assert_eq!(announced(RouteProtocol::Quiet), 0);
    }
}

pub(crate) fn netns(container: &str) -> NetnsPath {
    NetnsPath::parse(&format!("/run/netns/{container}")).unwrap()
}

/// Every container has a network namespace of its own.
pub(crate) async fn add(
    node: &Node,
    container: &str,
    request: &AttachRequest,
) -> Result<Attached, AttachError> {
    let guard = node.lock(id(container)).await;
    let request = AttachRequest { netns: netns(container), ..request.clone() };
    node.attach(&guard, &request, &|| NOW, 7, &|| false).await
}

pub(crate) async fn del(node: &Node, container: &str) -> Result<(), NetlinkError> {
    let guard = node.lock(id(container)).await;
    node.detach(&guard, NOW).await.map(|_| ())
}

pub(crate) async fn check(node: &Node, container: &str, expected: Vec<IpAddr>) -> Result<(), CheckError> {
    let guard = node.lock(id(container)).await;
    node.check(&guard, &CheckRequest { netns: netns(container), expected }).await
}
