use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::{AddressReport, Announced, FamilyReport, PodReport, Source};
use crate::annotation::PodIntent;
use crate::claims::{Asker, Kind, Surroundings, granting};
use crate::config::NodeConfig;
use crate::eligibility::{Evidence, eligibility};
use crate::family::{Family, wanted};
use crate::ids::AttachmentId;
use crate::ipam::{Addresses, Allocation, Holder, Ipam, IpamError, Phase, Pools, Request, Want};
use crate::pod_plan::{PlanError, PodFacts, PodPlan, Refusal, pod_plan};
use crate::ports::{ClusterView, PodView};
use crate::route::host_prefix;
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
        let request =
            Request { pod: Some(pod.key.clone()), uid: pod.uid.clone(), ..plan.request(attachment) };
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
        report.anycast = held.anycast.iter().map(|address| self.anycast(*address, &held, pod)).collect();
        Ok(())
    }

    /// An ADD stops at the first problem; a plan tries each part of the request on its own.
    fn all_problems(&self, request: &Request, first: &IpamError) -> Vec<String> {
        let nothing =
            Request { v6: Want::No, v4: Want::No, given: Vec::new(), anycast: Vec::new(), ..request.clone() };
        let given = request.given.iter().map(|it| Request { given: vec![*it], ..nothing.clone() });
        let anycast = request.anycast.iter().map(|it| Request { anycast: vec![*it], ..nothing.clone() });
        // What is chosen keeps clear of the pod's own anycast addresses.
        let anycast_too = Request { anycast: request.anycast.clone(), ..nothing.clone() };
        let v6 = Request { v6: request.v6.clone(), ..anycast_too.clone() };
        let v4 = Request { v4: request.v4.clone(), ..anycast_too };
        let mut problems: Vec<String> = Vec::new();
        for part in given.chain(anycast).chain([v6, v4]) {
            match self.ipam.clone().allocate(&part, NOW, 0) {
                // Nothing stands against a part that asks for nothing to choose.
                Ok(_) | Err(IpamError::NoFamily { .. }) => {}
                Err(error) => problems.push(in_words(&error)),
            }
        }
        let mut seen = BTreeSet::new();
        problems.retain(|problem| seen.insert(problem.clone()));
        if problems.is_empty() { vec![in_words(first)] } else { problems }
    }

    fn place(&self, source: Source, address: IpAddr, held: &Allocation, pod: &PodView) -> AddressReport {
        let given = matches!(source, Source::Given { .. });
        let pools = self.config.cidr6.iter().copied().map(IpNet::V6);
        let mut pools = pools.chain(self.config.cidr4.iter().copied().map(IpNet::V4));
        let announced = match pools.find(|pool| pool.contains(&address)) {
            Some(prefix) => Announced::Pool { prefix },
            None => self.by_itself(address, held),
        };
        let claim = if given { self.claim(Kind::Addresses, address, pod) } else { None };
        AddressReport { source, claim, announced }
    }

    /// By itself even where a pool covers it: other nodes may have it too.
    fn anycast(&self, address: IpAddr, held: &Allocation, pod: &PodView) -> AddressReport {
        let claim = self.claim(Kind::Anycast, address, pod);
        AddressReport { source: Source::Given { address }, claim, announced: self.by_itself(address, held) }
    }

    fn by_itself(&self, address: IpAddr, held: &Allocation) -> Announced {
        match eligibility(held, Evidence::from(&self.view)) {
            Ok(()) => Announced::Itself { prefix: host_prefix(address) },
            Err(reason) => Announced::Nothing { reason },
        }
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
        IpamError::Held { address, holder: Holder { pod: Some(pod), .. } } => {
            format!("address {address} is held by pod {pod}")
        }
        IpamError::Anycast { address, holder: Holder { pod: Some(pod), .. } } => {
            format!("address {address} is an anycast address of pod {pod}")
        }
        _ => error.to_string(),
    }
}
