use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::Node;
use crate::advertisement::desired_routes;
use crate::anycast::{Shared, Skipped, shared};
use crate::bird;
use crate::config::{NodeConfig, NodeConfigSpec};
use crate::eligibility::served;
use crate::family::Family;
use crate::ipam::Pools;
use crate::ports::{Applied, Demand, NetlinkError, PodEvent, RoutingError, StatusError};
use crate::route::{ObservedRoute, RouteDiff, RouteSet};
use crate::time::Timestamp;

/// What became of the configuration in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Configured {
    /// The one in force is the one that is written (or there is still none).
    Unchanged,
    /// A new one is in force.
    Changed,
    /// The one that is written is refused, for the reason given; the last good one stays.
    Refused(String),
    /// The NodeConfig is gone; the last good one stays.
    Missing,
}

/// What a pass over the routes did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutesSynced {
    /// There is no configuration yet: the routes of an earlier run stay.
    NotConfigured,
    /// The kernel was made to agree; empty when it did already.
    Done(RouteDiff),
}

impl Node {
    /// Takes the configuration of the latest view over, if it is a good one; where it is refused and none is in force
    /// yet, the last good one of an earlier run. Pods keep their addresses.
    pub fn sync_config(&self) -> Configured {
        let configured = self.take_config();
        self.demand();
        configured
    }

    fn take_config(&self) -> Configured {
        let view = self.ports.pods.snapshot();
        let written = view.node_config.as_ref().map(|written| written.spec.clone());
        let verdict = written.map(|spec| spec.and_then(|spec| accept(&spec)));
        let mut state = self.state();
        let had_one = state.config.is_some();
        match verdict {
            None if had_one => {
                let reason = "the NodeConfig was deleted".to_owned();
                let news = state.refused.as_ref() != Some(&reason);
                state.refused = Some(reason);
                if news { Configured::Missing } else { Configured::Unchanged }
            }
            None => Configured::Unchanged,
            Some(Err(reason)) => {
                let news = state.refused.as_ref() != Some(&reason);
                state.refused = Some(reason.clone());
                if !had_one && let Some(config) = view.last_good.as_ref().and_then(|spec| accept(spec).ok()) {
                    state.put_in_force(config);
                }
                if news { Configured::Refused(reason) } else { Configured::Unchanged }
            }
            Some(Ok(config)) => {
                state.refused = None;
                if state.config.as_deref() == Some(&config) {
                    return Configured::Unchanged;
                }
                state.put_in_force(config);
                Configured::Changed
            }
        }
    }

    /// Tells the pod source what is needed beyond the node's own objects.
    pub(super) fn demand(&self) {
        let namespaces = {
            let state = self.state();
            let claims = state.config.iter().flat_map(|config| &config.claims);
            claims.into_iter().any(|claim| !claim.namespaces.selects_all())
        };
        self.ports.pods.demand(Demand { namespaces, policies: self.ports.firewall.is_some() });
    }

    /// Reads the node's own addresses and uplink again.
    pub async fn sync_facts(&self) -> Result<(), NetlinkError> {
        let mut facts = self.ports.netlink.node().await?;
        let mut state = self.state();
        // A default route that is gone, or leads out through another uplink since the first one failed, must not
        // change the router ID, which would reset every session that is left: the address it was taken from is
        // still there.
        let is_own = |address: &Ipv4Addr| facts.addresses.iter().any(|own| own.address.addr() == *address);
        facts.primary4 = state.facts.primary4.filter(is_own).or(facts.primary4);
        if state.facts != facts {
            state.facts = facts;
            state.reserve();
            drop(state);
            self.wake();
        }
        Ok(())
    }

    /// Verifies the node's forwarding settings; returns what had to be repaired.
    pub async fn sync_node(&self) -> Result<Vec<String>, NetlinkError> {
        self.ports.netlink.prepare_node().await
    }

    /// Makes the kernel's routes of our protocols what they should be.
    pub async fn sync_routes(&self) -> Result<RoutesSynced, NetlinkError> {
        if self.state().config.is_none() {
            return Ok(RoutesSynced::NotConfigured);
        }
        let desired = |observed: &[ObservedRoute]| {
            let view = self.ports.pods.snapshot();
            let mut state = self.state();
            let Some(config) = state.config.clone() else { return RouteSet::default() };
            if state.served.is_none() {
                state.served = Some(served(state.ipam.allocations(), observed));
            }
            state.shared = shared(state.staying(), state.evidence(&view), observed);
            let mut routes = desired_routes(&config, state.staying(), &state.shared, state.evidence(&view));
            state.own_networks().for_each(|pool| routes.remove(&pool));
            routes
        };
        let diff = self.ports.netlink.sync_routes(&desired).await?;
        self.tell_of_skipped().await;
        match self.state().own_networks().next() {
            Some(pool) => Err(NetlinkError::OwnNetwork { pool }),
            None => Ok(RoutesSynced::Done(diff)),
        }
    }

    /// Tells the owners of pods that cannot serve an anycast address, once each.
    async fn tell_of_skipped(&self) {
        let events = {
            let mut state = self.state();
            let skipped: BTreeSet<_> = state.shared.iter().flat_map(Shared::skipped).collect();
            let news: Vec<_> = skipped.difference(&state.skipped).cloned().collect();
            state.skipped = skipped;
            news
        };
        for Skipped { address, attachment, pod, uid } in events {
            let family = Family::of(address);
            let message = format!(
                "anycast address {address} is not served: the pod has no {family} address of its own"
            );
            tracing::warn!(%attachment, op = "sync_routes", message);
            let Some(pod) = pod else { continue };
            let event = PodEvent { pod, uid, reason: "AddressWithheld", message };
            if let Err(error) = self.ports.status.event(&event).await {
                tracing::warn!(pod = %event.pod, op = "sync_routes", %error, "event is lost");
            }
        }
    }

    /// Makes the routing daemon talk to the configured peers. `None`: there is no configuration yet.
    pub async fn sync_routing(&self) -> Result<Option<Applied>, RoutingError> {
        let wanted = {
            let state = self.state();
            let config = state.config.clone();
            config.map(|config| bird::routing_config(&config, &state.facts, &self.settings.node))
        };
        let Some(wanted) = wanted else { return Ok(None) };
        let outcome = self.ports.routing.apply(&wanted).await;
        self.state().routing = Some(outcome.as_ref().map(|_| ()).map_err(ToString::to_string));
        outcome.map(Some)
    }

    /// Publishes the state of the node.
    pub async fn publish(&self, now: Timestamp) -> Result<(), StatusError> {
        let bgp = self.ports.routing.status().await.map(|status| status.peers).unwrap_or_default();
        self.ports.status.publish(&self.status(bgp, now)).await
    }
}

fn accept(spec: &NodeConfigSpec) -> Result<NodeConfig, String> {
    NodeConfig::validate(spec).map_err(|error| error.to_string())
}

impl super::State {
    fn put_in_force(&mut self, config: NodeConfig) {
        self.config = Some(Arc::new(config));
        self.reserve();
    }

    /// Pools that are a network of the node itself. The route of such a pool comes before the kernel's own one where that
    /// has a higher metric (DHCP gives it one), or was away for a moment with its link. Of IPv6 the kernel's comes first.
    fn own_networks(&self) -> impl Iterator<Item = IpNet> {
        let pools = self.config.iter().flat_map(|config| config.cidr4.iter().copied().map(IpNet::V4));
        pools.filter(|pool| self.facts.addresses.iter().any(|own| own.address.trunc() == *pool))
    }

    /// Tells the allocator which addresses it may hand out: the pools, less what the node itself uses.
    fn reserve(&mut self) {
        let Some(config) = &self.config else { return };
        let pools = Pools { v6: config.cidr6.clone(), v4: config.cidr4.clone() };
        let node: BTreeSet<IpAddr> = self.facts.addresses.iter().map(|own| own.address.addr()).collect();
        self.ipam.reconfigure(pools, node);
    }
}
