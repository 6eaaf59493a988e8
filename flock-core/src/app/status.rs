use serde::{Deserialize, Serialize};

use super::{Advertised, Node, State};
use crate::bird;
use crate::ids::{AttachmentId, NodeName, PodKey};
use crate::ipam::{Allocation, Phase};
use crate::ports::{Condition, Counters, NodeStatus, PeerStatus, Readiness};
use crate::time::Timestamp;

/// What `flock-agent status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The node.
    pub node: NodeName,
    /// Conditions, BGP sessions, pools.
    #[serde(flatten)]
    pub status: NodeStatus,
    /// Name and version of the routing daemon, or why it does not answer.
    pub routing: String,
    /// Packets of pods that the firewall has dropped since its table was written; `None` where it is off or does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Counters>,
    /// Every prefix that is announced, or would be if its pods were eligible, in order.
    pub advertised: Vec<Advertised>,
    /// Every allocation, in the order of attachment IDs.
    pub allocations: Vec<AllocationReport>,
    /// Objects of the cluster that cannot be read.
    pub problems: Vec<String>,
}

/// One line of [`Report::allocations`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllocationReport {
    /// The pod, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodKey>,
    /// The attachment.
    pub attachment: AttachmentId,
    /// The host veth.
    pub link: String,
    /// The addresses, IPv6 first.
    pub addresses: Vec<std::net::IpAddr>,
    /// Further addresses the pod brought along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<std::net::IpAddr>,
    /// Addresses it shares with other pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anycast: Vec<std::net::IpAddr>,
    /// How far it has got.
    pub phase: Phase,
}

impl From<&Allocation> for AllocationReport {
    fn from(allocation: &Allocation) -> Self {
        Self {
            pod: allocation.pod.clone(),
            attachment: allocation.attachment.clone(),
            link: allocation.attachment.host_ifname().to_string(),
            addresses: allocation.addresses.iter().collect(),
            extra: allocation.extra.clone(),
            anycast: allocation.anycast.clone(),
            phase: allocation.phase,
        }
    }
}

impl Node {
    /// Can an ADD succeed? From memory alone; a BGP session that is down does not matter here. The error is
    /// the reason it cannot.
    pub fn readiness(&self) -> Result<(), String> {
        if let Readiness::Starting(waiting_for) = self.ports.pods.ready() {
            return Err(format!("waiting for {waiting_for}"));
        }
        let state = self.state();
        match (&state.config, &state.refused) {
            (Some(_), _) => Ok(()),
            (None, Some(reason)) => Err(format!("the NodeConfig is refused: {reason}")),
            (None, None) => Err(format!("there is no NodeConfig named {}", self.settings.node)),
        }
    }

    /// The state of the node; `bgp` comes from the routing daemon.
    pub(super) fn status(&self, bgp: Vec<PeerStatus>, now: Timestamp) -> NodeStatus {
        let ready = self.readiness();
        let state = self.state();
        let ready = match ready {
            Ok(()) => condition("Ready", true, "Configured", "pods can be attached"),
            Err(reason) => condition("Ready", false, "NotConfigured", &reason),
        };
        let bgp = state.sessions(bgp);
        let conditions = vec![
            ready,
            state.config_condition(&self.settings.node),
            state.routing_condition(),
            state.policy_condition(self.ports.firewall.is_some()),
        ];
        let pods = state.ipam.allocations().count() as u64;
        NodeStatus { conditions, bgp, pools: state.ipam.usage(now), pods }
    }

    /// Everything `flock-agent status` shows. Asks the routing daemon.
    pub async fn report(&self, now: Timestamp) -> Report {
        let (routing, bgp) = match self.ports.routing.status().await {
            Ok(status) => (status.daemon, status.peers),
            Err(error) => (error.to_string(), Vec::new()),
        };
        let dropped = match &self.ports.firewall {
            Some(firewall) => firewall.counters().await.ok(),
            None => None,
        };
        let status = self.status(bgp, now);
        let view = self.ports.pods.snapshot();
        let state = self.state();
        Report {
            node: self.settings.node.clone(),
            status,
            routing,
            dropped,
            advertised: state.advertised(&view),
            allocations: state.ipam.allocations().map(AllocationReport::from).collect(),
            problems: view.problems.clone(),
        }
    }
}

impl State {
    /// A session for each configured peer, down where the routing daemon says nothing of it.
    fn sessions(&self, mut told: Vec<PeerStatus>) -> Vec<PeerStatus> {
        let configured = self.config.iter().flat_map(|config| &config.bgp.peers).map(|peer| peer.address);
        let silent: Vec<_> =
            configured.filter(|peer| told.iter().all(|session| session.peer != *peer)).collect();
        told.extend(silent.into_iter().map(PeerStatus::unknown));
        told.sort_by_key(|session| session.peer);
        told
    }

    fn config_condition(&self, node: &NodeName) -> Condition {
        const KIND: &str = "ConfigAccepted";
        match (&self.refused, &self.config) {
            (None, Some(_)) => condition(KIND, true, "Accepted", "the NodeConfig is in force"),
            (None, None) => condition(KIND, false, "Missing", &format!("create a NodeConfig named {node}")),
            (Some(reason), None) => condition(KIND, false, "Refused", reason),
            (Some(reason), Some(_)) => {
                let message = format!("the last good configuration stays in force: {reason}");
                condition(KIND, false, "Refused", &message)
            }
        }
    }

    fn policy_condition(&self, is_on: bool) -> Condition {
        const KIND: &str = "PolicyEnforced";
        match &self.firewall {
            _ if !is_on => condition(KIND, false, "FirewallOff", "the firewall is off: every packet passes"),
            None => condition(KIND, false, "Pending", "policies have not been looked at yet"),
            Some(Ok(())) if self.facts.ipvs => condition(
                KIND,
                false,
                "IPVS",
                "kube-proxy runs in IPVS mode, and packets to a Service do not pass where flows are judged: set its mode to \
                 iptables or nftables, and remove interface kube-ipvs0",
            ),
            Some(Ok(())) => condition(KIND, true, "Enforced", "policies are enforced as written"),
            Some(Err(problem)) => condition(KIND, false, "Failed", problem),
        }
    }

    fn routing_condition(&self) -> Condition {
        const KIND: &str = "RoutingConfigured";
        let Some(config) = &self.config else {
            return condition(KIND, false, "NotConfigured", "there is no configuration to work from yet");
        };
        match &self.routing {
            None => return condition(KIND, false, "Pending", "the routing daemon has not been asked yet"),
            Some(Err(problem)) => return condition(KIND, false, "Failed", problem),
            Some(Ok(())) => {}
        }
        let unheard: Vec<_> = bird::unheard_pools(config).iter().map(ToString::to_string).collect();
        if unheard.is_empty() {
            condition(KIND, true, "Applied", "the routing daemon runs the configured peers")
        } else {
            condition(KIND, false, "PoolsUnannounced", &unheard.join("; "))
        }
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Condition {
    Condition { kind: kind.to_owned(), status, reason: reason.to_owned(), message: message.to_owned() }
}
