//! A kernel in memory: [`Netlink`] with state, as strict as the real one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ipnet::IpNet;

use crate::ids::{AttachmentId, IfName};
use crate::ports::{
    DesiredRoutes, HostLink, HostSide, LinkIdentity, LinkState, LinksTended, Netlink, NetlinkError,
    NetnsPath, NodeFacts, PodLink, PodSide,
};
use crate::route::{
    GATEWAY4, GATEWAY6, NextHop, ObservedRoute, Route, RouteDiff, RouteProtocol, host_prefix,
};

/// One call of the [`Netlink`] port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelCall {
    Attach,
    Detach,
    Discard,
    Inspect,
    Attachments,
    TendLinks,
    Gone,
    SyncRoutes,
    PrepareNode,
    Node,
}

/// Links, routes and node facts in memory. Every network namespace path exists until
/// [`remove_netns`](Self::remove_netns) says otherwise.
#[derive(Debug, Default)]
pub struct FakeKernel {
    state: Mutex<State>,
    detaching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<IfName, Link>,
    /// Routes of our protocols. As in the kernel, prefix and metric say where a route belongs, not the
    /// protocol, and the first of several in one place counts.
    routes: BTreeMap<(IpNet, u32), Vec<ObservedRoute>>,
    foreign_routes: BTreeMap<IpNet, u8>,
    /// Interfaces in pods that are none of ours.
    foreign_interfaces: BTreeSet<(NetnsPath, IfName)>,
    missing_netns: BTreeSet<NetnsPath>,
    last_ifindex: u32,
    node: NodeFacts,
    route_writes: usize,
    calls: Vec<KernelCall>,
    fail_next: VecDeque<(KernelCall, io::ErrorKind)>,
    fail_all: BTreeMap<KernelCall, io::ErrorKind>,
}

#[derive(Debug, Clone)]
struct Link {
    attachment: AttachmentId,
    netns: NetnsPath,
    /// Host side without its routes, which live in one place only.
    state: LinkState,
}

impl FakeKernel {
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What [`Netlink::node`] answers from now on.
    pub fn set_node(&self, facts: NodeFacts) {
        self.state().node = facts;
    }

    /// The next such call fails, with an error to be retried later.
    pub fn fail_next(&self, call: KernelCall) {
        self.fail_next_with(call, io::ErrorKind::Other);
    }

    /// The next such call fails with this error; several queue up. `PermissionDenied` is never to be
    /// retried, `Interrupted` at once (see [`NetlinkError::retry`]).
    pub fn fail_next_with(&self, call: KernelCall, kind: io::ErrorKind) {
        self.state().fail_next.push_back((call, kind));
    }

    /// All such calls fail until [`heal`](Self::heal).
    pub fn fail_all(&self, call: KernelCall) {
        self.state().fail_all.insert(call, io::ErrorKind::Other);
    }

    /// No detach is done while this is held; those that are asked for wait.
    pub async fn hold_detaches(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.detaching.lock().await
    }

    /// Forgets every forced failure.
    pub fn heal(&self) {
        let mut state = self.state();
        state.fail_next.clear();
        state.fail_all.clear();
    }

    /// Drift: the route of ours to `destination` vanishes.
    pub fn break_route(&self, destination: &IpNet) {
        self.state().routes.retain(|(prefix, _), _| prefix != destination);
    }

    /// Drift: a route of our protocols appears that nobody asked for, behind what has its prefix and metric.
    pub fn put_route(&self, route: ObservedRoute) {
        self.state().routes.entry((route.destination, route.metric)).or_default().push(route);
    }

    /// A route of somebody else's protocol.
    ///
    /// # Panics
    ///
    /// When the protocol is one of ours.
    pub fn put_foreign_route(&self, destination: IpNet, protocol: u8) {
        assert!(RouteProtocol::from_number(protocol).is_none(), "protocol {protocol} is ours");
        self.state().foreign_routes.insert(destination, protocol);
    }

    /// Drift: the link vanishes, and its routes with it.
    pub fn remove_link(&self, attachment: &AttachmentId) {
        self.state().remove_link(&attachment.host_ifname());
    }

    /// Drift: the alias is lost, as after a crash right behind the creation of the link.
    pub fn remove_alias(&self, attachment: &AttachmentId) {
        if let Some(link) = self.state().links.get_mut(&attachment.host_ifname()) {
            link.state.identity = None;
        }
    }

    /// Drift: somebody sets the host side down and up again; the gateway address, the routes and the
    /// neighbours are gone.
    pub fn bounce_link(&self, attachment: &AttachmentId) {
        let mut state = self.state();
        let ifname = attachment.host_ifname();
        if let Some(link) = state.links.get_mut(&ifname) {
            link.state.host.has_gateway = false;
            link.state.host.neighbours.clear();
            let writes = state.route_writes;
            state.remove_routes_of(&ifname);
            state.route_writes = writes;
        }
    }

    /// Drift: somebody takes an anycast address off the `lo` of the pod.
    pub fn remove_anycast(&self, attachment: &AttachmentId, address: IpAddr) {
        if let Some(link) = self.state().links.get_mut(&attachment.host_ifname())
            && let Some(pod) = &mut link.state.pod
        {
            pod.anycast.retain(|there| *there != host_prefix(address));
        }
    }

    /// The namespace goes, and the links into it with it.
    pub fn remove_netns(&self, netns: &NetnsPath) {
        let mut state = self.state();
        state.missing_netns.insert(netns.clone());
        state.foreign_interfaces.retain(|(path, _)| path != netns);
        let inside = state.links.iter().filter(|(_, link)| link.netns == *netns);
        let names: Vec<_> = inside.map(|(name, _)| name.clone()).collect();
        for name in &names {
            state.remove_link(name);
        }
    }

    /// The namespace is there again, without links.
    pub fn restore_netns(&self, netns: &NetnsPath) {
        self.state().missing_netns.remove(netns);
    }

    /// The pod gets an interface from somebody else.
    pub fn put_foreign_interface(&self, netns: &NetnsPath, ifname: &IfName) {
        self.state().foreign_interfaces.insert((netns.clone(), ifname.clone()));
    }

    /// The attachment as the kernel has it, both sides.
    pub fn link(&self, attachment: &AttachmentId) -> Option<LinkState> {
        let state = self.state();
        state.links.get(&attachment.host_ifname()).map(|link| state.full(link))
    }

    /// Every attachment, both sides, in the order of IDs.
    pub fn links(&self) -> Vec<LinkState> {
        let state = self.state();
        let mut links: Vec<_> = state.links.values().collect();
        links.sort_by(|a, b| a.attachment.cmp(&b.attachment));
        links.into_iter().map(|link| state.full(link)).collect()
    }

    /// Routes of our protocols, in order.
    pub fn routes(&self) -> Vec<ObservedRoute> {
        self.state().routes.values().flatten().cloned().collect()
    }

    /// Routes of others with their protocols, in order.
    pub fn foreign_routes(&self) -> Vec<(IpNet, u8)> {
        self.state().foreign_routes.iter().map(|(prefix, protocol)| (*prefix, *protocol)).collect()
    }

    /// How many routes have been written or removed since the start.
    pub fn route_writes(&self) -> usize {
        self.state().route_writes
    }

    /// Every call so far, refused ones too.
    pub fn calls(&self) -> Vec<KernelCall> {
        self.state().calls.clone()
    }
}

impl State {
    /// Notes a call; refuses it where the test wants that.
    fn enter(&mut self, call: KernelCall) -> Result<(), NetlinkError> {
        self.calls.push(call);
        let queued = self.fail_next.iter().position(|(at, _)| *at == call);
        let once = queued.and_then(|at| self.fail_next.remove(at)).map(|(_, kind)| kind);
        match once.or_else(|| self.fail_all.get(&call).copied()) {
            Some(kind) => Err(kernel_error("obey the test", kind)),
            None => Ok(()),
        }
    }

    fn remove_link(&mut self, ifname: &IfName) {
        self.links.remove(ifname);
        self.remove_routes_of(ifname);
    }

    fn remove_routes_of(&mut self, ifname: &IfName) {
        let mut writes = 0;
        for place in self.routes.values_mut() {
            place.retain_mut(|route| {
                let Some(next_hop) = &route.next_hop else { return true };
                let left = next_hop.over(|link| link != ifname);
                writes += usize::from(left != route.next_hop);
                route.next_hop = left;
                route.next_hop.is_some()
            });
        }
        self.route_writes += writes;
    }

    /// Whether somebody else's route is where one of ours would go; two of the fake's are never in one place.
    fn is_taken(&self, destination: &IpNet) -> bool {
        self.foreign_routes.contains_key(destination)
    }

    /// Overwrites the first route in its place.
    fn replace_route(&mut self, route: ObservedRoute) {
        let place = self.routes.entry((route.destination, route.metric)).or_default();
        match place.first_mut() {
            Some(first) => *first = route,
            None => place.push(route),
        }
        self.route_writes += 1;
    }

    fn delete_route(&mut self, route: &ObservedRoute) {
        let Some(place) = self.routes.get_mut(&(route.destination, route.metric)) else { return };
        if let Some(at) = place.iter().position(|there| there == route) {
            place.remove(at);
            self.route_writes += 1;
        }
    }

    fn full(&self, link: &Link) -> LinkState {
        let mut state = link.state.clone();
        let through = Some(NextHop::Link(state.host.ifname.clone()));
        state.host.routes =
            self.routes.values().flatten().filter(|r| r.next_hop == through).cloned().collect();
        state
    }

    fn attach(&mut self, link: &PodLink) -> Result<LinkState, NetlinkError> {
        if self.missing_netns.contains(&link.netns) {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(NetlinkError::Netns { path: link.netns.clone(), source });
        }
        let ifname = link.identity.attachment.host_ifname();
        if let Some(there) = self.links.get(&ifname) {
            if there.state.identity.is_some() && there.attachment != link.identity.attachment {
                return Err(NetlinkError::NameTaken { ifname, other: there.attachment.clone() });
            }
            let wanted = wanted_state(link, there.state.host.ifindex);
            let current = self.full(there);
            if there.netns == link.netns && current == wanted {
                return Ok(current);
            }
            self.remove_link(&ifname);
        }
        let inner = link.identity.attachment.ifname();
        let of_ours = |there: &Link| there.netns == link.netns && there.attachment.ifname() == inner;
        if self.foreign_interfaces.contains(&(link.netns.clone(), inner.clone()))
            || self.links.values().any(of_ours)
        {
            return Err(NetlinkError::InterfaceExists { ifname: inner.clone(), path: link.netns.clone() });
        }
        if !(68..=65535).contains(&link.mtu) {
            return Err(kernel_error("create veth pair", io::ErrorKind::InvalidInput));
        }
        // Below its minimum MTU the kernel takes IPv6 off an interface.
        if link.mtu < 1280 {
            return Err(kernel_error("add gateway address", io::ErrorKind::InvalidInput));
        }
        self.last_ifindex += 1;
        let state = wanted_state(link, self.last_ifindex);
        if state.host.routes.iter().any(|route| self.is_taken(&route.destination)) {
            return Err(kernel_error("add the host route", io::ErrorKind::AlreadyExists));
        }
        for route in &state.host.routes {
            self.replace_route(route.clone());
        }
        let mut kept = state.clone();
        kept.host.routes.clear();
        let attachment = link.identity.attachment.clone();
        self.links.insert(ifname, Link { attachment, netns: link.netns.clone(), state: kept });
        Ok(state)
    }

    fn detach(&mut self, attachment: &AttachmentId) {
        let ifname = attachment.host_ifname();
        let is_of_other = |link: &Link| link.state.identity.is_some() && link.attachment != *attachment;
        if !self.links.get(&ifname).is_some_and(is_of_other) {
            self.remove_link(&ifname);
        }
    }

    fn write(&mut self, diff: &RouteDiff) {
        for route in &diff.replace {
            self.replace_route(ObservedRoute::from(route.clone()));
        }
        for route in &diff.remove {
            self.delete_route(route);
        }
    }
}

#[async_trait]
impl Netlink for FakeKernel {
    async fn attach(&self, link: &PodLink) -> Result<LinkState, NetlinkError> {
        let mut state = self.state();
        if let Err(error) = state.enter(KernelCall::Attach) {
            state.detach(&link.identity.attachment);
            return Err(error);
        }
        state.attach(link)
    }

    async fn detach(&self, attachment: &AttachmentId) -> Result<(), NetlinkError> {
        let _turn = self.detaching.lock().await;
        let mut state = self.state();
        state.enter(KernelCall::Detach)?;
        state.detach(attachment);
        Ok(())
    }

    async fn discard(&self, nameless: &HostLink) -> Result<(), NetlinkError> {
        let mut state = self.state();
        state.enter(KernelCall::Discard)?;
        let is_it =
            |link: &Link| link.state.identity.is_none() && link.state.host.ifindex == nameless.ifindex;
        if state.links.get(&nameless.ifname).is_some_and(is_it) {
            state.remove_link(&nameless.ifname);
        }
        Ok(())
    }

    async fn inspect(
        &self,
        attachment: &AttachmentId,
        netns: Option<NetnsPath>,
    ) -> Result<Option<LinkState>, NetlinkError> {
        let mut state = self.state();
        state.enter(KernelCall::Inspect)?;
        let Some(link) = state.links.get(&attachment.host_ifname()) else { return Ok(None) };
        if link.state.identity.is_some() && link.attachment != *attachment {
            return Ok(None);
        }
        let mut found = state.full(link);
        if netns.as_ref() != Some(&link.netns) {
            found.pod = None;
        }
        Ok(Some(found))
    }

    async fn attachments(&self) -> Result<Vec<LinkState>, NetlinkError> {
        let mut state = self.state();
        state.enter(KernelCall::Attachments)?;
        let mut links: Vec<_> = state.links.values().map(|link| state.full(link)).collect();
        for link in &mut links {
            link.pod = None;
            link.host.neighbours.clear();
            if !link.identity.as_ref().is_some_and(|identity| identity.more) {
                link.host.routes.clear();
            }
        }
        links.sort_by(|a, b| key(a).cmp(&key(b)));
        Ok(links)
    }

    async fn tend_links(&self) -> Result<LinksTended, NetlinkError> {
        let mut state = self.state();
        state.enter(KernelCall::TendLinks)?;
        let mut tended = LinksTended::default();
        for (ifname, link) in &mut state.links {
            let (identity, host) = (&link.state.identity, &mut link.state.host);
            if let Some(identity) = identity.as_ref().filter(|_| !host.has_gateway) {
                host.has_gateway = true;
                host.neighbours = identity.addresses.iter().collect();
                tended.notices.push(format!("{ifname} had lost its gateway address {GATEWAY6}, added"));
            }
            let attachment = identity.as_ref().map(|identity| identity.attachment.clone());
            tended.links.push(HostLink { ifname: ifname.clone(), ifindex: host.ifindex, attachment });
        }
        Ok(tended)
    }

    async fn gone(&self, netns: BTreeSet<NetnsPath>) -> Result<BTreeSet<NetnsPath>, NetlinkError> {
        let mut state = self.state();
        state.enter(KernelCall::Gone)?;
        Ok(netns.intersection(&state.missing_netns).cloned().collect())
    }

    async fn sync_routes(&self, desired: DesiredRoutes<'_>) -> Result<RouteDiff, NetlinkError> {
        let observed: Vec<_> = {
            let mut state = self.state();
            state.enter(KernelCall::SyncRoutes)?;
            state.routes.values().flatten().cloned().collect()
        };
        // Not under the lock: a test may attach a pod in here.
        let desired = desired(&observed);
        let mut state = self.state();
        let mut diff = desired.over(|link| state.links.contains_key(link)).diff(&observed);
        let wanted = diff.replace.len();
        diff.replace.retain(|route| !state.is_taken(&route.destination));
        state.write(&diff);
        if diff.replace.len() < wanted {
            return Err(kernel_error("write a route", io::ErrorKind::AlreadyExists));
        }
        Ok(diff)
    }

    async fn prepare_node(&self) -> Result<Vec<String>, NetlinkError> {
        self.state().enter(KernelCall::PrepareNode).map(|()| Vec::new())
    }

    async fn node(&self) -> Result<NodeFacts, NetlinkError> {
        let mut state = self.state();
        state.enter(KernelCall::Node)?;
        Ok(state.node.clone())
    }
}

fn key(link: &LinkState) -> (Option<&AttachmentId>, &IfName) {
    (link.identity.as_ref().map(|identity| &identity.attachment), &link.host.ifname)
}

fn kernel_error(step: &'static str, kind: io::ErrorKind) -> NetlinkError {
    NetlinkError::Kernel { step, source: io::Error::new(kind, "refused by the fake kernel") }
}

/// The state right after an attach.
fn wanted_state(link: &PodLink, ifindex: u32) -> LinkState {
    let addresses = link.identity.addresses;
    let mut own: Vec<IpAddr> = link.addresses().collect();
    own.sort();
    let mut anycast = link.anycast.clone();
    anycast.sort();
    let mut gateways: Vec<IpAddr> = addresses.v4.map(|_| GATEWAY4.into()).into_iter().collect();
    gateways.extend(addresses.v6.map(|_| IpAddr::V6(GATEWAY6)));
    let route = |address: &IpAddr| {
        ObservedRoute::from(Route {
            destination: host_prefix(*address),
            protocol: link.protocol_of(*address),
            next_hop: NextHop::Link(link.identity.attachment.host_ifname()),
        })
    };
    let hash = link.identity.attachment.hash64().to_be_bytes();
    LinkState {
        identity: Some(as_alias_keeps(&link.identity)),
        host: HostSide {
            ifname: link.identity.attachment.host_ifname(),
            ifindex,
            mac: [0x02, 0, hash[0], hash[1], hash[2], hash[3]],
            mtu: link.mtu,
            up: true,
            routes: own.iter().map(route).collect(),
            neighbours: own.clone(),
            has_gateway: true,
            anycast: anycast.clone(),
        },
        pod: Some(PodSide {
            mac: [0x02, 1, hash[0], hash[1], hash[2], hash[3]],
            mtu: link.mtu,
            up: true,
            addresses: own.iter().copied().map(host_prefix).collect(),
            anycast: anycast.into_iter().map(host_prefix).collect(),
            gateways: gateways.clone(),
            neighbours: gateways,
        }),
    }
}

/// An alias has 255 bytes; the pod's name is what is left out.
fn as_alias_keeps(identity: &LinkIdentity) -> LinkIdentity {
    let mut kept = identity.clone();
    let text = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
    let alias = format!(
        "flock1 {} {} {} {} {} {}{}",
        identity.attachment.container(),
        identity.attachment.ifname(),
        text(identity.uid.as_ref().map(ToString::to_string)),
        text(identity.addresses.v6.map(|address| address.to_string())),
        text(identity.addresses.v4.map(|address| address.to_string())),
        text(identity.pod.as_ref().map(ToString::to_string)),
        if identity.more { " +" } else { "" },
    );
    if alias.len() > 255 {
        kept.pod = None;
    }
    kept
}

#[cfg(test)]
mod tests;
