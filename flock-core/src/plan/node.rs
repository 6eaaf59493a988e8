use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::pod::Planner;
use super::{NodeReport, Objects, PodReport, Report};
use crate::annotation::{AnnotationError, PodIntent};
use crate::config::NodeConfig;
use crate::ids::NodeName;
use crate::ports::{ClusterView, NodeConfigView, PodView};
use crate::problem::Problem;

/// Decides for every pod, in the order written, what flock would do on its node: on `node` if one is named, else
/// on the node the pod names, else on the only one there is.
///
/// The node's own addresses are not known here, so that an IPv4 address may come out that is one of them.
pub fn plan(objects: &Objects, node: Option<&NodeName>) -> Report {
    let configs: BTreeMap<&NodeName, Result<NodeConfig, Vec<String>>> =
        objects.nodes.iter().map(|(name, view)| (name, config(view))).collect();
    let asking: Vec<Asking<'_>> = objects
        .pods
        .iter()
        .map(|pod| Asking {
            pod,
            intent: PodIntent::parse(&pod.annotations),
            node: place(pod, node, objects),
        })
        .collect();
    let mut planners: BTreeMap<&NodeName, Planner> = configs
        .iter()
        .filter_map(|(name, config)| Some((*name, config.as_ref().ok()?)))
        .map(|(name, config)| {
            let planner = Planner::new(config.clone(), view(objects, name), &named(&asking, name));
            (name, planner)
        })
        .collect();

    let nodes = configs.iter().map(|(name, config)| node_report(name, config)).collect();
    let pods =
        asking.iter().enumerate().map(|(turn, asking)| pod_report(turn, asking, &mut planners, objects));
    Report {
        nodes,
        pods: pods.collect(),
        ignored: objects.ignored.clone(),
        problems: objects.problems.clone(),
    }
}

/// A pod, what it asks for, and the node it is for or why that is not known.
struct Asking<'a> {
    pod: &'a Arc<PodView>,
    intent: Result<PodIntent, AnnotationError>,
    node: Result<NodeName, String>,
}

fn config(view: &NodeConfigView) -> Result<NodeConfig, Vec<String>> {
    let spec = view.spec.as_ref().map_err(|reason| vec![reason.clone()])?;
    NodeConfig::validate(spec).map_err(|error| error.problems().iter().map(Problem::to_string).collect())
}

fn place(pod: &PodView, node: Option<&NodeName>, objects: &Objects) -> Result<NodeName, String> {
    if let Some(node) = node.or(pod.node.as_ref()) {
        return Ok(node.clone());
    }
    let mut names = objects.nodes.keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err("there is no NodeConfig: add that of its node".to_owned()),
        (Some(_), Some(_)) => {
            let names: Vec<_> = objects.nodes.keys().map(NodeName::as_str).collect();
            Err(format!(
                "it names no node, and there are {}: set spec.nodeName or --node-name",
                names.join(", ")
            ))
        }
    }
}

/// What `node` sees of the objects.
fn view(objects: &Objects, node: &NodeName) -> ClusterView {
    let mut view = ClusterView {
        pods: objects.pods.iter().map(|pod| (pod.key.clone(), Arc::clone(pod))).collect(),
        namespaces: objects.namespaces.clone(),
        ..ClusterView::default()
    };
    for (name, other) in objects.nodes.iter().filter(|(name, _)| *name != node) {
        if let Ok(spec) = &other.spec {
            view.add_foreign_pools(name.clone(), spec);
        }
    }
    view
}

/// IPv6 addresses that pods of this node ask for one by one.
fn named(asking: &[Asking<'_>], node: &NodeName) -> BTreeSet<Ipv6Addr> {
    let here = asking.iter().filter(|asking| asking.node.as_ref() == Ok(node));
    let mut named = BTreeSet::new();
    for intent in here.filter_map(|asking| asking.intent.as_ref().ok()) {
        let given = intent.addresses.iter().chain(&intent.anycast).filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        });
        named.extend(given);
        named.extend(intent.cidr6.iter().filter(|net| net.prefix_len() == 128).map(ipnet::Ipv6Net::addr));
    }
    named
}

fn node_report(name: &NodeName, config: &Result<NodeConfig, Vec<String>>) -> NodeReport {
    let (announces, peers, claims) = match config {
        Ok(config) => {
            let pools = config.cidr6.iter().copied().map(IpNet::V6);
            (
                pools.chain(config.cidr4.iter().copied().map(IpNet::V4)).collect(),
                config.bgp.peers.iter().map(|peer| peer.address).collect(),
                config.claims.len(),
            )
        }
        Err(_) => (Vec::new(), Vec::new(), 0),
    };
    let problems = config.as_ref().err().cloned().unwrap_or_default();
    NodeReport { node: name.clone(), announces, peers, claims, problems }
}

fn pod_report(
    turn: usize,
    asking: &Asking<'_>,
    planners: &mut BTreeMap<&NodeName, Planner>,
    objects: &Objects,
) -> PodReport {
    let mut report = PodReport::of(asking.pod);
    report.node = asking.node.as_ref().ok().cloned();
    if report.host_network {
        return report;
    }
    if let Err(error) = &asking.intent {
        report.problems = error.problems().iter().map(Problem::to_string).collect();
    }
    let planner = match &asking.node {
        Err(reason) => Err(reason.clone()),
        Ok(node) => planners.get_mut(node).ok_or_else(|| match objects.nodes.get(node) {
            Some(_) => format!("the NodeConfig of {node} is refused"),
            None => format!("there is no NodeConfig of {node}"),
        }),
    };
    match (planner, &asking.intent) {
        (Err(reason), _) => report.unplanned = Some(reason),
        (Ok(planner), Ok(intent)) => planner.plan(turn, asking.pod, intent, &mut report),
        (Ok(_), Err(_)) => {}
    }
    report
}
