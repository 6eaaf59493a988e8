use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::route::RouteSet;
use crate::testing::contract::netlink::{Law, NetlinkWorld};

#[derive(Default)]
struct FakeWorld {
    kernel: FakeKernel,
    namespaces: AtomicUsize,
}

fn run(law: Law) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(law(&FakeWorld::default()));
}

crate::netlink_contract!(run);

#[async_trait(?Send)]
impl NetlinkWorld for FakeWorld {
    fn netlink(&self) -> &dyn Netlink {
        &self.kernel
    }

    fn netns(&self) -> NetnsPath {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        NetnsPath::parse(&format!("/run/netns/{number}")).unwrap()
    }

    async fn remove_netns(&self, netns: &NetnsPath) {
        self.kernel.remove_netns(netns);
    }

    async fn put_interface(&self, netns: &NetnsPath, ifname: &IfName) {
        self.kernel.put_foreign_interface(netns, ifname);
    }

    async fn remove_alias(&self, attachment: &AttachmentId) {
        self.kernel.remove_alias(attachment);
    }

    async fn put_route(&self, destination: IpNet, protocol: u8, metric: u32) {
        let Some(protocol) = RouteProtocol::from_number(protocol) else {
            self.kernel.put_foreign_route(destination, protocol);
            return;
        };
        let metric = if metric == 0 { ObservedRoute::default_metric(&destination) } else { metric };
        let next_hop = Some(NextHop::Unreachable);
        self.kernel.put_route(ObservedRoute { destination, protocol, next_hop, metric });
    }

    async fn routes(&self) -> BTreeSet<(IpNet, u8, u32)> {
        let foreign = self.kernel.foreign_routes().into_iter();
        let foreign =
            foreign.map(|(prefix, number)| (prefix, number, ObservedRoute::default_metric(&prefix)));
        let ours = self.kernel.routes().into_iter();
        foreign.chain(ours.map(|route| (route.destination, route.protocol.number(), route.metric))).collect()
    }

    async fn link_is_gone(&self, ifname: &IfName) {
        assert!(self.kernel.links().iter().all(|link| link.host.ifname != *ifname));
    }

    fn attach_now(&self, link: &PodLink) -> Result<LinkState, NetlinkError> {
        self.kernel.state().attach(link)
    }
}

fn link() -> PodLink {
    PodLink {
        identity: LinkIdentity {
            attachment: AttachmentId::parse("a/eth0").unwrap(),
            pod: None,
            uid: None,
            addresses: crate::ipam::Addresses { v6: "2001:db8::1".parse().ok(), v4: None },
            more: false,
        },
        netns: NetnsPath::parse("/run/netns/a").unwrap(),
        mtu: 1500,
        extra: Vec::new(),
        anycast: vec!["198.51.100.9".parse().unwrap()],
        loopback_runs: false,
        announced: ["2001:db8::1".parse().unwrap()].into(),
    }
}

#[tokio::test]
async fn forced_failures_queue_up_and_leave_nothing() {
    let kernel = FakeKernel::new();
    kernel.attach(&link()).await.unwrap();
    kernel.fail_next_with(KernelCall::Attach, io::ErrorKind::PermissionDenied);
    kernel.fail_next(KernelCall::Attach);
    let retries = [
        kernel.attach(&link()).await.unwrap_err().retry(),
        kernel.attach(&link()).await.unwrap_err().retry(),
    ];
    assert_eq!(retries, [crate::ports::Retry::Never, crate::ports::Retry::Later]);
    assert_eq!((kernel.links(), kernel.routes()), (vec![], vec![]));
    kernel.attach(&link()).await.unwrap();

    kernel.fail_all(KernelCall::SyncRoutes);
    for _ in 0..2 {
        assert!(kernel.sync_routes(&|_| RouteSet::default()).await.is_err());
    }
    assert_eq!(kernel.routes().len(), 1, "a refused sync changes nothing");
    kernel.heal();
    assert_eq!(kernel.sync_routes(&|_| RouteSet::default()).await.unwrap().remove.len(), 1);
    assert_eq!(kernel.calls().len(), 7);
}

#[tokio::test]
async fn drift_shows() {
    let kernel = FakeKernel::new();
    let link = link();
    let id = &link.identity.attachment;
    let state = kernel.attach(&link).await.unwrap();
    let writes = kernel.route_writes();

    kernel.break_route(&state.host.routes[0].destination);
    assert_eq!(kernel.link(id).unwrap().host.routes, []);
    kernel.remove_anycast(id, link.anycast[0]);
    let drifted = kernel.link(id).unwrap();
    assert_eq!((drifted.host.anycast, drifted.pod.unwrap().anycast), (link.anycast.clone(), vec![]));
    assert_eq!(kernel.route_writes(), writes, "drift is not a write");
    let repaired = kernel.attach(&link).await.unwrap();
    assert_ne!(repaired, state, "a link that differs is replaced");

    kernel.bounce_link(id);
    let bounced = kernel.link(id).unwrap().host;
    assert!(!bounced.has_gateway && bounced.routes.is_empty() && bounced.neighbours.is_empty());

    kernel.remove_link(id);
    assert_eq!(kernel.link(id), None);
}
