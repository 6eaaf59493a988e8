use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::firewall::local_pod;
use super::{AllocationReport, Node, Standpoint, State};
use crate::advertisement::host_route_protocol;
use crate::annotation::{self, PodIntent};
use crate::anycast::{Holder, Role, Shared};
use crate::config::NodeConfig;
use crate::eligibility::{Evidence, eligibility};
use crate::ids::{IfName, PodKey, PodUid};
use crate::ipam::Allocation;
use crate::pod_plan::PodFacts;
use crate::policy::{
    Direction, FlowEnd, FlowError, FlowExplanation, Gate, LocalPod, PolicyView, Service, Subject, Tier,
    explain_flow, selecting,
};
use crate::ports::{ClusterView, FirewallError, ObservedLink, PodView};
use crate::route::{NextHop, Route, RouteProtocol, Weight, host_prefix};

/// What was decided for a pod, and why: `flock-agent explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The pod asked for.
    pub pod: PodKey,
    /// The pod as the cluster shows it; `None` where it shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<PodObject>,
    /// What an ADD of it would be refused for now.
    pub problems: Vec<String>,
    /// What it holds: one entry per attachment.
    pub allocations: Vec<AllocationReport>,
    /// Each of its addresses.
    pub addresses: Vec<AddressExplanation>,
    /// What network policy does to it.
    pub policy: PolicyExplanation,
}

/// What network policy does to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyExplanation {
    /// What the kernel does with its flows, in words; one entry per attachment.
    pub enforced: Vec<String>,
    /// The policies that select it, in the order they are asked.
    pub selecting: Vec<SelectingPolicy>,
}

/// A policy that selects a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelectingPolicy {
    /// Its name, as `NAMESPACE/NAME` or `ClusterNetworkPolicy/NAME`.
    pub policy: String,
    /// Flows into the pod are judged by it.
    pub ingress: bool,
    /// Flows out of the pod are judged by it.
    pub egress: bool,
}

/// What of a pod matters for its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodObject {
    /// Its UID, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<PodUid>,
    /// Its condition `Ready` is true.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// It uses the network of its node, and flock is never asked.
    pub host_network: bool,
    /// Its annotations that are for flock.
    pub annotations: BTreeMap<String, String>,
}

/// One address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressExplanation {
    /// The address.
    pub address: IpAddr,
    /// Other pods may have it too.
    pub anycast: bool,
    /// What the pod does for it.
    pub standing: Standpoint,
    /// How the network hears of it, and why, in words.
    pub announced: String,
    /// Its route, as `ip route` would write it; `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

impl Node {
    /// Whether policies let flows from one end to the other pass, as things are now, and by which rule.
    pub fn explain_flow(
        &self,
        from: &FlowEnd,
        to: &FlowEnd,
        service: Service,
    ) -> Result<FlowExplanation, FlowError> {
        let (cluster, view) = (self.ports.pods.snapshot(), self.ports.pods.policies());
        explain_flow(&view, &self.local_pods(&cluster), from, to, service)
    }

    /// Explains a pod, as things are now. `None`: neither the cluster nor the node knows it.
    pub async fn explain(&self, pod: &PodKey) -> Option<Explanation> {
        let links = match &self.ports.firewall {
            None => None,
            Some(firewall) => Some(firewall.links().await),
        };
        let view = self.ports.pods.snapshot();
        let state = self.state();
        let object = view.own_pod(pod);
        let held: Vec<&Allocation> =
            state.ipam.allocations().filter(|held| held.pod.as_ref() == Some(pod)).collect();
        if object.is_none() && held.is_empty() {
            return None;
        }
        Some(Explanation {
            pod: pod.clone(),
            object: object.map(|object| PodObject::from(object.as_ref())),
            problems: object.map(|object| state.problems(object, &view)).unwrap_or_default(),
            allocations: held.iter().copied().map(AllocationReport::from).collect(),
            addresses: held.iter().flat_map(|held| state.addresses_of(held, &view)).collect(),
            policy: PolicyExplanation {
                enforced: held.iter().map(|held| enforced(held, links.as_ref())).collect(),
                selecting: selecting_of(
                    held.first().map(|held| local_pod(held, &view)).as_ref(),
                    &self.ports.pods.policies(),
                ),
            },
        })
    }
}

/// What the kernel does with the flows of an attachment.
fn enforced(
    held: &Allocation,
    links: Option<&Result<BTreeMap<IfName, ObservedLink>, FirewallError>>,
) -> String {
    let name = held.attachment.host_ifname();
    let link = match links {
        None => return "the firewall is off: everything passes".to_owned(),
        Some(Err(error)) => return format!("unknown: {error}"),
        Some(Ok(links)) => links.get(&name),
    };
    let Some(link) = link else {
        return format!("the firewall does not know {name}: nothing the pod sends passes");
    };
    let missing: Vec<_> = held
        .held()
        .chain(held.anycast.iter().copied())
        .filter(|address| !link.sources.contains(address))
        .map(|address| address.to_string())
        .collect();
    let words = match (link.shut, link.chains.is_empty()) {
        (true, _) => "shut: nothing passes but from and to its own node".to_owned(),
        (false, true) => "everything passes, from its own addresses".to_owned(),
        (false, false) => {
            let judged = |(gate, chain): (&Gate, &String)| {
                let flows = match gate.direction {
                    Direction::Ingress => "flows into it",
                    Direction::Egress => "flows out of it",
                };
                let tier = match gate.tier {
                    Tier::Admin => " of tier Admin",
                    Tier::Policy => "",
                    Tier::Baseline => " of tier Baseline",
                };
                format!("{flows} are judged by chain {chain}{tier}")
            };
            link.chains.iter().map(judged).collect::<Vec<_>>().join(", ")
        }
    };
    if missing.is_empty() {
        words
    } else {
        format!("{words}; what it sends from {} is dropped", missing.join(" "))
    }
}

fn selecting_of(pod: Option<&LocalPod>, view: &PolicyView) -> Vec<SelectingPolicy> {
    let Some(pod) = pod else { return Vec::new() };
    let told = selecting(view, Subject::Local(pod)).into_iter();
    told.map(|(policy, directions)| SelectingPolicy {
        policy: policy.to_string(),
        ingress: directions.contains(&Direction::Ingress),
        egress: directions.contains(&Direction::Egress),
    })
    .collect()
}

impl From<&PodView> for PodObject {
    fn from(pod: &PodView) -> Self {
        let annotations = pod.annotations.iter().filter(|(key, _)| annotation::is_ours(key));
        Self {
            uid: pod.uid.clone(),
            ready: pod.ready,
            terminating: pod.terminating,
            host_network: pod.host_network,
            annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}

impl State {
    fn problems(&self, pod: &PodView, view: &ClusterView) -> Vec<String> {
        let intent = match PodIntent::parse(&pod.annotations) {
            Ok(intent) => intent,
            Err(error) => return error.problems().iter().map(ToString::to_string).collect(),
        };
        let Some(config) = &self.config else { return vec!["the node has no NodeConfig yet".to_owned()] };
        let facts = PodFacts {
            key: Some(&pod.key),
            image: pod.image.as_deref(),
            namespace_labels: view.namespaces.get(pod.key.namespace()),
        };
        match self.plan(&intent, facts, config, view) {
            Ok(_) => Vec::new(),
            Err(error) => error.refusals().iter().map(ToString::to_string).collect(),
        }
    }

    fn addresses_of(&self, held: &Allocation, view: &ClusterView) -> Vec<AddressExplanation> {
        let Some(config) = &self.config else { return Vec::new() };
        let own = held.held().map(|address| alone(address, held, config, self.evidence(view)));
        let anycast = self.shared.iter().filter_map(|shared| {
            let holder = shared.holders.iter().find(|holder| holder.attachment == held.attachment)?;
            Some(in_group(shared, holder))
        });
        own.chain(anycast).collect()
    }
}

fn alone(
    address: IpAddr,
    held: &Allocation,
    config: &NodeConfig,
    evidence: Evidence<'_>,
) -> AddressExplanation {
    let prefix = host_prefix(address);
    let six = config.cidr6.iter().copied().map(IpNet::V6);
    let mut pools = six.chain(config.cidr4.iter().copied().map(IpNet::V4));
    let pool = pools.find(|pool| pool.contains(&address));
    let (standing, announced) = match (pool, eligibility(held, evidence)) {
        (Some(pool), _) => (Standpoint::Serving, format!("as a part of the pool {pool}")),
        (None, Ok(())) => (Standpoint::Serving, "on its own: the pod is eligible".to_owned()),
        (None, Err(why)) => (Standpoint::Draining, format!("no: {why}")),
    };
    let protocol = host_route_protocol(address, held, config, evidence);
    let route =
        Route { destination: prefix, protocol, next_hop: NextHop::Link(held.attachment.host_ifname()) };
    AddressExplanation { address, anycast: false, standing, announced, route: Some(shown(&route)) }
}

fn in_group(shared: &Shared, holder: &Holder) -> AddressExplanation {
    let serving = shared.holders.iter().filter(|holder| holder.role == Role::Serving).count();
    let (standing, announced) = match &holder.role {
        Role::Serving => (Standpoint::Serving, format!("on its own, for {serving} pods of this node")),
        Role::Draining(why) if serving > 0 => {
            (Standpoint::Draining, format!("for {serving} other pods of this node, not for this one: {why}"))
        }
        Role::Draining(why) => (Standpoint::Draining, format!("no: {why}")),
        Role::Withheld(why) => (Standpoint::Withheld, format!("not for this pod: {why}")),
    };
    let route = shared.route().map(|route| shown(&route));
    AddressExplanation { address: shared.address, anycast: true, standing, announced, route }
}

/// A route in the manner of `ip route`.
fn shown(route: &Route) -> String {
    let Route { destination, protocol, next_hop } = route;
    let number = protocol.number();
    let said = match protocol {
        RouteProtocol::Announce => "announced",
        RouteProtocol::Quiet => "quiet",
    };
    let way = match next_hop {
        NextHop::Unreachable => "unreachable".to_owned(),
        NextHop::Link(link) => format!("dev {link}"),
        NextHop::Group(members) => {
            let way = |gateway: IpAddr, link: &IfName, weight: Weight| {
                format!("nexthop via {gateway} dev {link} weight {}", weight.number())
            };
            let ways = members.iter().map(|member| way(member.gateway, &member.link, member.weight));
            ways.collect::<Vec<_>>().join(" ")
        }
    };
    format!("{destination} {way} proto {number} ({said})")
}
