use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::{AddressReport, Announced, FamilyReport, PodReport, Source};
use crate::advertisement::host_route_protocol;
use crate::annotation::PodIntent;
use crate::claims::{Asker, Kind, Surroundings, granting};
use crate::config::NodeConfig;
use crate::family::{Family, wanted};
use crate::ids::AttachmentId;
use crate::ipam::{Addresses, Allocation, Ipam, IpamError, Phase, Pools, Request, Want};
use crate::pod_plan::{PlanError, PodFacts, PodPlan, Refusal, pod_plan};
use crate::ports::{ClusterView, PodView};
use crate::route::{RouteProtocol, host_prefix};
use crate::time::Timestamp;

/// Nothing that is planned takes time.
const NOW: Timestamp = Timestamp::from_millis(0);

/// One node, and what its pods have been given so far.
pub(super) struct Planner {
    config: NodeConfig,
    view: ClusterView,
    ipam: Ipam,
}

impl Planner {
    /// Random addresses keep clear of those that are `named`: where chance would decide whether two pods meet,
    /// a plan must not say that they do.
    pub(super) fn new(config: NodeConfig, view: ClusterView, named: &BTreeSet<Ipv6Addr>) -> Self {
        let mut ipam = Ipam::default();
        let pools = Pools { v6: config.cidr6.clone(), v4: config.cidr4.clone() };
        ipam.reconfigure(pools, BTreeSet::new());
        for address in named {
            // An address that cools down is the last choice, and no obstacle to who asks for it.
            let Some(attachment) = attachment("named", 0) else { continue };
            let _ = ipam.adopt(Allocation {
                attachment: attachment.clone(),
                pod: None,
                uid: None,
                netns: None,
                addresses: Addresses { v6: Some(*address), v4: None },
                extra: Vec::new(),
                anycast: Vec::new(),
                phase: Phase::Pending,
            });
            ipam.release(&attachment, NOW);
        }
        Self { config, view, ipam }
    }

    /// Plans the pod whose turn it is, and holds its addresses.
    pub(super) fn plan(&mut self, turn: usize, pod: &PodView, intent: &PodIntent, report: &mut PodReport) {
        let family = |family| {
            let (on, by) = wanted(family, intent, &self.config);
            Some(FamilyReport { on, by, address: None })
        };
        (report.ipv6, report.ipv4) = (family(Family::V6), family(Family::V4));
        let labels = self.view.namespaces.get(pod.key.namespace());
        let facts = PodFacts { key: Some(&pod.key), image: pod.image.as_deref(), namespace_labels: labels };
        let around = Surroundings {
            node: &[],
            peers: &self.config.bgp.peers,
            foreign_pools: &self.view.foreign_pools,
        };
        let outcome = match pod_plan(intent, facts, &self.config, &around) {
            Ok(plan) => self.grant(turn, pod, intent, &plan, report),
            Err(error) => Err(one_by_one(&error)),
        };
        report.problems.extend(outcome.err().unwrap_or_default());
    }

    fn grant(
        &mut self,
        turn: usize,
        pod: &PodView,
        intent: &PodIntent,
        plan: &PodPlan,
        report: &mut PodReport,
    ) -> Result<(), Vec<String>> {
        let Some(attachment) = attachment("plan", turn) else { return Ok(()) };
        let request = Request {
            attachment,
            pod: Some(pod.key.clone()),
            uid: pod.uid.clone(),
            netns: None,
            v6: plan.v6.clone(),
            v4: plan.v4.clone(),
            given: plan.given.clone(),
            anycast: plan.anycast.clone(),
            embed: plan.embed.clone(),
        };
        let entropy = u64::try_from(turn).unwrap_or_default();
        let mut held = self
            .ipam
            .allocate(&request, NOW, entropy)
            .map_err(|error| self.all_problems(&request, &error))?;
        held.phase = Phase::Committed;
        for address in held.addresses.iter() {
            // Cannot fail where an address was found.
            let ranges = self.ipam.ranges(&request, Family::of(address)).unwrap_or_default();
            let place = self.place(source(address, ranges, plan, intent), address, &held, pod);
            let family = if address.is_ipv6() { &mut report.ipv6 } else { &mut report.ipv4 };
            if let Some(family) = family {
                family.address = Some(place);
            }
        }
        let extra = held.extra.iter();
        report.extra = extra
            .map(|address| self.place(Source::Given { address: *address }, *address, &held, pod))
            .collect();
        report.anycast = plan.anycast.iter().map(|address| self.anycast(*address, pod)).collect();
        Ok(())
    }

    /// An ADD stops at the first problem; a plan tries each part of the request on its own.
    fn all_problems(&self, request: &Request, first: &IpamError) -> Vec<String> {
        let alone = |v6, v4, given| Request { v6, v4, given, ..request.clone() };
        let mut parts: Vec<Request> =
            request.given.iter().map(|address| alone(Want::No, Want::No, vec![*address])).collect();
        parts.push(alone(request.v6.clone(), Want::No, Vec::new()));
        parts.push(alone(Want::No, request.v4.clone(), Vec::new()));
        let errors = parts.iter().filter_map(|part| self.ipam.clone().allocate(part, NOW, 0).err());
        let asks = |error: &IpamError| !matches!(error, IpamError::NoFamily { .. });
        let problems: Vec<String> = errors.filter(asks).map(|error| in_words(&error)).collect();
        if problems.is_empty() { vec![in_words(first)] } else { problems }
    }

    fn place(&self, source: Source, address: IpAddr, held: &Allocation, pod: &PodView) -> AddressReport {
        let given = matches!(source, Source::Given { .. });
        let pools = self.config.cidr6.iter().copied().map(IpNet::V6);
        let mut pools = pools.chain(self.config.cidr4.iter().copied().map(IpNet::V4));
        let announced = match pools.find(|pool| pool.contains(&address)) {
            Some(prefix) => Announced::Pool { prefix },
            None => match host_route_protocol(address, held, &self.config, &self.view) {
                RouteProtocol::Announce => Announced::Itself { prefix: host_prefix(address) },
                RouteProtocol::Quiet => Announced::Nothing { reason: withheld(pod) },
            },
        };
        let claim = if given { self.claim(Kind::Addresses, address, pod) } else { None };
        AddressReport { source, claim, announced }
    }

    /// On its own even where a pool covers it: it may be on other nodes too.
    fn anycast(&self, address: IpAddr, pod: &PodView) -> AddressReport {
        let announced = if pod.eligible() {
            Announced::Itself { prefix: host_prefix(address) }
        } else {
            Announced::Nothing { reason: withheld(pod) }
        };
        let claim = self.claim(Kind::Anycast, address, pod);
        AddressReport { source: Source::Given { address }, claim, announced }
    }

    fn claim(&self, kind: Kind, address: IpAddr, pod: &PodView) -> Option<usize> {
        let namespace = pod.key.namespace();
        let asker = Asker { namespace, labels: self.view.namespaces.get(namespace) };
        granting(&self.config.claims, &asker, kind, address)
    }
}

fn attachment(kind: &str, number: usize) -> Option<AttachmentId> {
    AttachmentId::parse(&format!("{kind}-{number}/eth0")).ok()
}

/// How the address of a family came about, from where it was looked for.
fn source(address: IpAddr, ranges: Vec<IpNet>, plan: &PodPlan, intent: &PodIntent) -> Source {
    match (ranges.as_slice(), address) {
        ([], _) => Source::Given { address },
        ([only], _) if only.prefix_len() == only.max_prefix_len() => Source::Pinned { address },
        (_, IpAddr::V4(_)) => Source::Lowest { address, ranges },
        (_, IpAddr::V6(_)) if plan.embed.is_some() => {
            Source::Embedded { fields: intent.ip_algo.clone(), ranges }
        }
        (_, IpAddr::V6(_)) => Source::Random { ranges },
    }
}

fn withheld(pod: &PodView) -> &'static str {
    if pod.terminating { "the pod is being deleted" } else { "the pod is not Ready" }
}

fn one_by_one(error: &PlanError) -> Vec<String> {
    let texts = |refusal: &Refusal| match refusal {
        Refusal::Family(error) => error.problems().iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    };
    error.refusals().iter().flat_map(texts).collect()
}

/// There are no attachments yet whose IDs would help anybody.
fn in_words(error: &IpamError) -> String {
    match error {
        IpamError::Held { address, holder } => match &holder.pod {
            Some(pod) => format!("address {address} is held by pod {pod}"),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{BgpSpec, ClaimSpec, NodeConfigSpec};
    use crate::family::Families;
    use crate::testing::pod_view;

    #[test]
    fn anycast_is_announced_by_itself_even_inside_a_pool_while_the_pod_is_ready() {
        let node = NodeConfig::validate(&NodeConfigSpec {
            cidr6: vec!["2001:db8:f001::/64".to_owned()],
            bgp: BgpSpec { asn: 65101, ..BgpSpec::default() },
            claims: vec![
                ClaimSpec { cidrs: vec!["2001:db8:a::/64".to_owned()], ..ClaimSpec::default() },
                ClaimSpec {
                    cidrs: vec!["::/0".to_owned()],
                    kinds: vec!["anycast".to_owned()],
                    ..ClaimSpec::default()
                },
            ],
            ..NodeConfigSpec::default()
        })
        .unwrap();
        let plan = PodPlan {
            families: Families { ipv6: true, ipv4: false },
            v6: Want::Any,
            v4: Want::No,
            given: vec![],
            embed: None,
            anycast: vec!["2001:db8:a::53".parse().unwrap(), "2001:db8:f001::53".parse().unwrap()],
        };
        for ready in [true, false] {
            let pod = PodView { ready, ..pod_view("dns/resolver") };
            let mut view = ClusterView::default();
            view.pods.insert(pod.key.clone(), Arc::new(pod.clone()));
            let mut planner = Planner::new(node.clone(), view, &BTreeSet::new());
            let mut report = PodReport::of(&pod);
            planner.grant(0, &pod, &PodIntent::default(), &plan, &mut report).unwrap();
            let seen: Vec<String> = report.anycast.iter().map(ToString::to_string).collect();
            let expected = if ready {
                [
                    "2001:db8:a::53, granted by spec.claims[0], announced as 2001:db8:a::53/128",
                    "2001:db8:f001::53, granted by spec.claims[1], announced as 2001:db8:f001::53/128",
                ]
            } else {
                [
                    "2001:db8:a::53, granted by spec.claims[0], not announced: the pod is not Ready",
                    "2001:db8:f001::53, granted by spec.claims[1], not announced: the pod is not Ready",
                ]
            };
            assert_eq!(seen, expected);
        }
    }
}
