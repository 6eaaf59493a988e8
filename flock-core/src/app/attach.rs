use std::collections::BTreeMap;
use std::net::IpAddr;

use super::drift::drift;
use super::error::AttachError;
use super::lock::AttachmentGuard;
use super::rollback::{Rollback, Undo};
use super::{Node, State};
use crate::advertisement::host_route_protocol;
use crate::config::NodeConfig;
use crate::ids::{PodKey, PodUid};
use crate::ipam::{Addresses, Allocation, Phase};
use crate::ports::{ClusterView, LinkIdentity, LinkState, NetnsPath, PodLink};
use crate::route::RouteProtocol;
use crate::time::Clock;

/// An ADD.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// The pod's network namespace, as the runtime calls it.
    pub netns: NetnsPath,
    /// Where this process enters it, if that path means something to the runtime only.
    pub entrance: Option<NetnsPath>,
    /// The pod, where the runtime names it.
    pub pod: Option<PodKey>,
    /// Its UID, where the runtime names it.
    pub uid: Option<PodUid>,
    /// Its annotations, where the runtime hands them over; else the pod source is asked.
    pub annotations: Option<BTreeMap<String, String>>,
    /// MTU from the network configuration in bytes; wins over the agent's setting and the uplink's.
    pub mtu: Option<u32>,
    /// The runtime runs the `loopback` plugin at the same time.
    pub loopback_runs: bool,
}

impl AttachRequest {
    /// The path by which this process enters the namespace.
    fn entrance(&self) -> NetnsPath {
        self.entrance.as_ref().unwrap_or(&self.netns).clone()
    }
}

/// What an ADD made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The link as the kernel has it.
    pub link: LinkState,
    /// The pod's addresses.
    pub addresses: Addresses,
}

/// MTU where neither the configuration nor the uplink says: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

impl Node {
    /// Gives an attachment its addresses and its link, durably: allocate, write the pending allocation and
    /// program the kernel side by side, write the commit. The same attachment again gets the same answer.
    /// On an error everything is taken back.
    ///
    /// `abandoned` is asked before the commit: when the caller has been answered already, the work
    /// is taken back too. What was there before this call stays then, and this is an error: only what an `Ok` brings
    /// may be the caller's to detach. `entropy` picks the IPv6 interface identifier.
    pub async fn attach(
        &self,
        guard: &AttachmentGuard,
        request: &AttachRequest,
        clock: Clock<'_>,
        entropy: u64,
        abandoned: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<Attached, AttachError> {
        let mut rollback = Rollback::default();
        let result = self.try_attach(guard, request, clock, entropy, abandoned, &mut rollback).await;
        if let Err(error) = &result {
            self.tell_owner(request, error).await;
            for problem in rollback.run(self, guard.attachment(), clock).await {
                tracing::warn!(attachment = %guard.attachment(), op = "add", error = problem, "could not take back");
            }
        }
        result
    }

    async fn try_attach(
        &self,
        guard: &AttachmentGuard,
        request: &AttachRequest,
        clock: Clock<'_>,
        entropy: u64,
        abandoned: &(dyn Fn() -> bool + Send + Sync),
        rollback: &mut Rollback,
    ) -> Result<Attached, AttachError> {
        let config = self.config_in_force()?;
        let held = self.state().ipam.get(guard.attachment()).cloned();
        if let Some(attached) = self.running(held.as_ref(), request).await? {
            if abandoned() {
                return Err(AttachError::Abandoned);
            }
            self.state().ipam.locate(guard.attachment(), &request.netns);
            return Ok(attached);
        }
        let allocation = if let Some(allocation) = held {
            allocation
        } else {
            let asked = self.ask(guard, request, &config).await?;
            self.state().ipam.allocate(&asked, clock(), entropy)?
        };
        // A committed attachment stays as it is when a repeated ADD fails: the pod may be running on it.
        let fresh = allocation.phase == Phase::Pending;
        if fresh {
            rollback.push(Undo::Release);
        }
        let link = self.pod_link(&allocation, request, &config)?;
        if fresh {
            rollback.push(Undo::Detach);
        }
        let program = async {
            // An address is not handed on with the flows of its last owner.
            self.forget_flows_of(&allocation).await?;
            // No link is there for a moment without its rules.
            self.guard(&allocation).await?;
            Ok::<_, AttachError>(self.ports.netlink.attach(&link).await?)
        };
        let (saved, attached) = tokio::join!(self.persist(), program);
        let state = attached?;
        saved?;
        if abandoned() {
            return Err(AttachError::Abandoned);
        }
        {
            let mut state = self.state();
            state.ipam.commit(guard.attachment());
            // It may hold its addresses since an ADD in a namespace that is no more.
            state.ipam.locate(guard.attachment(), &request.netns);
        }
        self.persist().await?;
        if !fresh && abandoned() {
            return Err(AttachError::Abandoned);
        }
        self.look_again_if_outdated(guard, &link);
        self.wake_firewall();
        Ok(Attached { link: state, addresses: allocation.addresses })
    }

    /// The attachment as it is, if it is whole: the pod may be using it, so a repeated ADD does not touch it,
    /// whatever a new one would look like by now.
    async fn running(
        &self,
        held: Option<&Allocation>,
        request: &AttachRequest,
    ) -> Result<Option<Attached>, AttachError> {
        let Some(held) = held.filter(|held| held.phase == Phase::Committed) else { return Ok(None) };
        let seen = self.ports.netlink.inspect(&held.attachment, Some(request.entrance())).await?;
        Ok(seen
            .filter(|seen| drift(held, seen).is_empty())
            .map(|link| Attached { link, addresses: held.addresses }))
    }

    fn config_in_force(&self) -> Result<std::sync::Arc<NodeConfig>, AttachError> {
        let state = self.state();
        state.config.clone().ok_or_else(|| AttachError::NotConfigured {
            node: self.settings.node.clone(),
            refused: state.refused.clone(),
        })
    }

    fn pod_link(
        &self,
        allocation: &Allocation,
        request: &AttachRequest,
        config: &NodeConfig,
    ) -> Result<PodLink, AttachError> {
        let uplink = self.state().facts.uplink_mtu;
        let mtu = request.mtu.or(self.settings.mtu).or(uplink).unwrap_or(DEFAULT_MTU);
        if !(1280..=65535).contains(&mtu) {
            return Err(AttachError::Mtu { mtu });
        }
        let view = self.ports.pods.snapshot();
        let state = self.state();
        let is_announced = |address: &IpAddr| {
            host_route_protocol(*address, allocation, config, state.evidence(&view))
                == RouteProtocol::Announce
        };
        Ok(PodLink {
            identity: LinkIdentity {
                attachment: allocation.attachment.clone(),
                pod: allocation.pod.clone(),
                uid: allocation.uid.clone(),
                addresses: allocation.addresses,
                more: !allocation.extra.is_empty(),
            },
            netns: request.entrance(),
            mtu,
            extra: allocation.extra.clone(),
            anycast: allocation.anycast.clone(),
            loopback_runs: request.loopback_runs,
            announced: allocation.held().filter(is_announced).collect(),
        })
    }

    /// The routes were written for what was known before the commit. Usually nothing has changed since,
    /// and no reconciler needs to wake up for an ADD.
    fn look_again_if_outdated(&self, guard: &AttachmentGuard, link: &PodLink) {
        let view = self.ports.pods.snapshot();
        let outdated = self.state().routes_outdated(guard, link, &view);
        if outdated {
            self.wake();
        }
    }
}

impl State {
    fn routes_outdated(&self, guard: &AttachmentGuard, link: &PodLink, view: &ClusterView) -> bool {
        let (Some(config), Some(allocation)) = (&self.config, self.ipam.get(guard.attachment())) else {
            return true;
        };
        // Groups are the reconciler's to write.
        !allocation.anycast.is_empty()
            || allocation.held().any(|address| {
                host_route_protocol(address, allocation, config, self.evidence(view))
                    != link.protocol_of(address)
            })
    }
}
