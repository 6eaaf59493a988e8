//! The address several pods share: how flows are spread over them, and what a client notices when one of the
//! pods stops serving.

mod client;
mod serve;
mod watch;
mod withdraw;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::cluster::Cluster;

use super::netns::Netns;
use super::topology::{self, Family, NODES, Node, Pod};

pub(crate) use self::client::Connection;
pub(crate) use self::serve::serve;
pub(crate) use self::watch::{History, Watch};
pub(super) use self::withdraw::{Withdrawal, withdrawals};

/// Flows from which the shares are taken, per family.
pub(super) const FLOWS: u16 = 1000;

/// The first of their ports: below those the kernel gives out by itself.
const FIRST_PORT: u16 = 20_000;

/// How far a share may be from what it should be, in flows of [`FLOWS`]: five standard deviations of a fair
/// coin.
const SPREAD: u16 = 80;

/// One of something for each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Each<T> {
    pub(super) ipv6: T,
    pub(super) ipv4: T,
}

impl<T> Each<T> {
    /// What `make` says of each family.
    pub(super) fn of(mut make: impl FnMut(Family) -> T) -> Self {
        Self { ipv6: make(Family::V6), ipv4: make(Family::V4) }
    }

    /// That of a family.
    pub(super) fn get(&self, family: Family) -> &T {
        match family {
            Family::V6 => &self.ipv6,
            Family::V4 => &self.ipv4,
        }
    }
}

/// How many of [`FLOWS`] flows a pod got.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Share {
    pub(super) pod: &'static str,
    pub(super) node: &'static str,
    pub(super) flows: Each<u16>,
    /// What it should get: the router divides by nodes, each node by its pods.
    pub(super) fair: u16,
}

impl Share {
    /// Whether it is near what it should be.
    pub(super) fn is_fair(&self, family: Family) -> bool {
        self.flows.get(family).abs_diff(self.fair) <= SPREAD
    }
}

/// Whether every flow was answered, and by the right pods in fair shares.
pub(super) fn shares_hold(shares: &[Share]) -> bool {
    Family::ALL.into_iter().all(|family| {
        let answered: u16 = shares.iter().map(|share| share.flows.get(family)).sum();
        answered == FLOWS && shares.iter().all(|share| share.is_fair(family))
    })
}

/// Starts what answers on the shared addresses in every pod that has them.
pub(super) fn start_servers(cluster: &mut Cluster) -> Result<()> {
    topology::sharing().try_for_each(|(_, pod)| start_server(cluster, pod.name))
}

/// Starts what answers on ports of a pod's own addresses, and waits until it does.
pub(super) fn start_own_server(cluster: &mut Cluster, pod: &'static str, ports: &[u16]) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(own);
    command.args(["lab", "serve", pod]).args(ports.iter().map(|port| format!("--port={port}")));
    cluster.start_in_pod(pod, &mut command)?;
    let netns = cluster.state.netns(pod);
    cluster.wait_for("the pod answers itself", || {
        netns.run(|| {
            ports.iter().try_for_each(|port| {
                Connection::to((Ipv6Addr::LOCALHOST, *port).into(), client::PATIENCE).map(drop)?;
                Ok(())
            })
        })
    })
}

/// What a server is called among the daemons.
const SERVER: &str = "xtask lab";

fn start_server(cluster: &mut Cluster, pod: &'static str) -> Result<()> {
    let own = std::env::current_exe().context("cannot find this program")?;
    cluster.start_in_pod(pod, Command::new(own).args(["lab", "serve", pod]))?;
    let netns = cluster.state.netns(pod);
    cluster.wait_for("the pod answers itself", || {
        netns.run(|| {
            Family::ALL
                .into_iter()
                .try_for_each(|family| client::ask(family, 0).map(drop).map_err(Into::into))
        })
    })
}

/// Sends [`FLOWS`] flows of each family, each from a port of its own, and counts who answers.
pub(super) fn shares(cluster: &Cluster) -> Result<Vec<Share>> {
    let answers = |family| ask_many(cluster, family, FIRST_PORT..FIRST_PORT + FLOWS);
    let (v6, v4) = (answers(Family::V6)?, answers(Family::V4)?);
    let share = |(node, pod): (&'static Node, &'static Pod)| {
        let of = |answers: &BTreeMap<String, u16>| answers.get(pod.name).copied().unwrap_or_default();
        Share {
            pod: pod.name,
            node: node.name,
            flows: Each { ipv6: of(&v6), ipv4: of(&v4) },
            fair: fair(node),
        }
    };
    Ok(topology::sharing().map(share).collect())
}

fn fair(node: &Node) -> u16 {
    let sharing = |node: &Node| node.pods.iter().filter(|pod| pod.shares()).count();
    let nodes = NODES.iter().filter(|node| sharing(node) > 0).count();
    let parts = u16::try_from(nodes * sharing(node)).unwrap_or(u16::MAX);
    FLOWS / parts.max(1)
}

/// How many of the flows from these ports each pod answered; those nobody answered are not in it.
fn ask_many(cluster: &Cluster, family: Family, ports: Range<u16>) -> Result<BTreeMap<String, u16>> {
    cluster.state.netns("client").run(|| {
        let mut answers = BTreeMap::new();
        for port in ports {
            cluster.interrupt.check()?;
            if let Ok(pod) = client::ask(family, port) {
                *answers.entry(pod).or_insert(0) += 1;
            }
        }
        Ok(answers)
    })
}

/// The weights in the groups of nexthop objects of a node.
fn weights(node: &Netns) -> Result<Vec<Vec<u64>>> {
    let objects = node.show("nexthop show")?;
    let groups = objects.iter().filter_map(|object| object["group"].as_array());
    // The least weight is not shown.
    Ok(groups
        .map(|group| group.iter().map(|entry| entry["weight"].as_u64().unwrap_or(1)).collect())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_divides_by_nodes_and_each_node_by_its_pods() {
        let fair: Vec<_> = topology::sharing().map(|(node, pod)| (pod.name, fair(node))).collect();
        assert_eq!(fair, [("dns-1", 250), ("dns-2", 250), ("dns-3", 500)]);
    }

    #[test]
    fn shares_hold_only_if_every_flow_was_answered_and_nobody_starves() {
        let holds = |[a, b, c]: [u16; 3]| {
            let share =
                |pod, flows, fair| Share { pod, node: "node", flows: Each { ipv6: flows, ipv4: fair }, fair };
            shares_hold(&[share("a", a, 250), share("b", b, 250), share("c", c, 500)])
        };
        assert!(holds([250, 250, 500]) && holds([200, 290, 510]));
        assert!(!holds([249, 250, 500]), "one was not answered");
        assert!(!holds([0, 500, 500]) && !holds([150, 250, 600]));
        assert!(!shares_hold(&[]));
    }
}
