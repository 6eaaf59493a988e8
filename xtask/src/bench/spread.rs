//! How evenly flows are spread over the pods of an anycast address, and what becomes of them when a pod leaves.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::Report;
use super::fabric::{Fabric, FabricNode, Pod, RouterKind, Standing, eventually};
use crate::build::Dist;
use crate::cmd;
use crate::packages::{BIRD, FRR, Package};
use flows::{PerPod, Running, Server};

mod flows;

/// Pods that share an address.
const PODS: u8 = 4;

/// Options of `cargo xtask bench spread`.
#[derive(Debug, Args)]
pub(crate) struct SpreadArgs {
    /// What the router runs
    #[arg(long, value_enum, default_value = "bird")]
    router: RouterKind,
    /// Flows of each kind
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    flows: u32,
}

impl SpreadArgs {
    /// What has to be installed.
    pub(super) fn packages(&self) -> &'static [Package] {
        if self.router == RouterKind::Frr { &[BIRD, FRR] } else { &[BIRD] }
    }
}

/// Where the flows of one kind went.
#[derive(Debug, Serialize)]
struct Share {
    ip: u8,
    transport: &'static str,
    per_pod: PerPod,
}

/// What became of running connections when one of four pods of a node left and another came.
#[derive(Debug, Serialize)]
struct Churn {
    ip: u8,
    /// Connections to the three pods that stayed, and how many of them broke or moved.
    others: usize,
    others_broken: usize,
    /// Connections to the pod that left, and how many of them broke before it ended.
    draining: usize,
    draining_broken: usize,
    /// New flows while it drained, and how many of them it got.
    fresh: usize,
    fresh_to_draining: usize,
    /// New flows after another pod had come, and how many of them it got.
    after: usize,
    after_to_new: usize,
}

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct SpreadReport {
    router: RouterKind,
    shares: Vec<Share>,
    churn: Vec<Churn>,
}

impl Report for SpreadReport {
    // Writing to a String cannot fail.
    fn table(&self) -> String {
        let mut text =
            format!("4 pods on 2 nodes behind a router ({:?}), share of flows in %\n\n", self.router);
        for Share { ip, transport, per_pod } in &self.shares {
            let all = per_pod.values().sum();
            let shares: Vec<_> =
                (0..PODS).map(|pod| percent(per_pod.get(&pod).copied().unwrap_or(0), all)).collect();
            let _ = writeln!(text, "  IPv{ip} {transport}   {}   of {all}", shares.join(" "));
        }
        text.push_str("\n4 pods on 1 node, one leaves and another comes, running TCP connections\n\n");
        for it in &self.churn {
            let _ = writeln!(
                text,
                "  IPv{}  of the others {}, broken or moved {}; of the one that leaves {}, broken before it ended {}\n        \
                 new flows to it while it drains {} of {}; new flows to the one that came {} of {}",
                it.ip,
                it.others,
                it.others_broken,
                it.draining,
                it.draining_broken,
                percent(it.fresh_to_draining, it.fresh).trim(),
                it.fresh,
                percent(it.after_to_new, it.after).trim(),
                it.after,
            );
        }
        text.trim_end().to_owned()
    }

    fn holds(&self) -> bool {
        self.churn.iter().all(|it| it.others_broken == 0 && it.draining_broken == 0)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a few thousand")]
fn percent(part: usize, all: usize) -> String {
    format!("{:5.1} %", 100.0 * part as f64 / all.max(1) as f64)
}

/// Runs `cargo xtask bench spread`.
pub(super) fn run(args: &SpreadArgs, dist: &Dist) -> Result<SpreadReport> {
    let fabric = Fabric::start(dist, args.router, 2)?;
    let flows = args.flows as usize;
    let mut numbers = 0..;
    let mut shares = Vec::new();
    let addresses: [IpAddr; 2] = ["2001:db8:a::1".parse()?, "203.0.113.1".parse()?];
    // Nodes take turns, so that the router has to have learned of both.
    let both = fabric.nodes.iter().cycle().take(PODS.into());
    let pods = Pods::start(&fabric, both, &addresses, &mut numbers)?;
    eventually(|| both_nodes(&fabric, &addresses))?;
    for address in addresses {
        let ip = if address.is_ipv6() { 6 } else { 4 };
        let tcp = flows::per_pod(&flows::connections(&fabric.client, address, flows)?);
        shares.push(Share { ip, transport: "TCP", per_pod: tcp });
        let udp = flows::datagrams(&fabric.client, address, flows)?;
        shares.push(Share { ip, transport: "UDP", per_pod: udp });
    }
    drop(pods);
    let mut churns = Vec::new();
    for address in ["2001:db8:a::2", "203.0.113.2"] {
        churns.push(churn(&fabric, address.parse()?, flows, &mut numbers)?);
    }
    Ok(SpreadReport { router: args.router, shares, churn: churns })
}

/// Pods that share addresses, each with what answers in it.
struct Pods<'a>(Vec<(&'a FabricNode, Pod, Option<Server>)>);

impl<'a> Pods<'a> {
    fn start(
        fabric: &Fabric,
        nodes: impl Iterator<Item = &'a FabricNode>,
        addresses: &[IpAddr],
        numbers: &mut impl Iterator<Item = usize>,
    ) -> Result<Self> {
        let mut pods = Self(Vec::new());
        for (node, name) in nodes.zip(0..) {
            pods.add(node, addresses, name, numbers)?;
        }
        for address in addresses {
            fabric.wait_for_route(IpNet::from(*address))?;
        }
        Ok(pods)
    }

    /// Adds one that is ready, and waits until its node sends packets to it.
    fn add(
        &mut self,
        node: &'a FabricNode,
        addresses: &[IpAddr],
        name: u8,
        numbers: &mut impl Iterator<Item = usize>,
    ) -> Result<()> {
        let number = numbers.next().context("no numbers left")?;
        let anycast: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let members = members(node)?;
        let pod = node.add(number, &anycast.join(", "), Standing::Ready)?;
        let netns = pod.sandbox.netns().context("the pod has no namespace")?;
        let server = Server::start(netns, addresses, name)?;
        wait_for_other_members(node, &members, addresses.len())?;
        self.0.push((node, pod, Some(server)));
        Ok(())
    }
}

/// Whether the router sends packets to both nodes.
fn both_nodes(fabric: &Fabric, addresses: &[IpAddr]) -> Result<()> {
    for address in addresses {
        let family = if address.is_ipv6() { "-6" } else { "-4" };
        let show = format!("{family} route show {address}");
        let shown = fabric.router.run(|| cmd::output(Command::new("ip").args(show.split(' '))))?;
        if !(shown.contains("node1") && shown.contains("node2")) {
            bail!("the router does not send {address} to both nodes, but: {shown}");
        }
    }
    Ok(())
}

/// The groups of a node and their members, as text.
fn members(node: &FabricNode) -> Result<BTreeSet<String>> {
    let shown = node.netns().run(|| cmd::output(Command::new("ip").args(["nexthop", "show"])))?;
    Ok(shown.lines().filter(|line| line.contains(" group ")).map(str::to_owned).collect())
}

/// Waits until that many groups are there that were not before.
fn wait_for_other_members(node: &FabricNode, before: &BTreeSet<String>, count: usize) -> Result<()> {
    eventually(|| {
        let now = members(node)?;
        ensure!(now.difference(before).count() >= count, "the members are still {now:?}");
        Ok(())
    })
}

/// One of the pods of a node leaves, another comes.
fn churn(
    fabric: &Fabric,
    address: IpAddr,
    count: usize,
    numbers: &mut impl Iterator<Item = usize>,
) -> Result<Churn> {
    let node = fabric.nodes.first().context("there is no node")?;
    let mut pods = Pods::start(fabric, std::iter::repeat_n(node, PODS.into()), &[address], numbers)?;
    let running = flows::connections(&fabric.client, address, count)?;
    let leaving = 0;
    let all = flows::per_pod(&running);
    let draining = all.get(&leaving).copied().unwrap_or(0);

    let running = Running::start(running);
    let before = members(node)?;
    let (_, pod, server) = pods.0.first_mut().context("there is no pod")?;
    node.change(pod, Standing::NotReady)?();
    wait_for_other_members(node, &before, 1)?;
    let fresh = flows::per_pod(&flows::connections(&fabric.client, address, count)?);
    let (mut running, mut broken) = running.stop()?;
    let before_it_ended = broken.len();
    broken.retain(|pod| *pod != leaving);
    let draining_broken = before_it_ended - broken.len();

    running.retain(|connection| connection.pod != leaving);
    let running = Running::start(running);
    let before = members(node)?;
    *server = None;
    node.del(pod)?;
    pod.sandbox.close();
    wait_for_other_members(node, &before, 1)?;
    pods.add(node, &[address], PODS, numbers)?;
    let after = flows::per_pod(&flows::connections(&fabric.client, address, count)?);
    broken.extend(running.stop()?.1);
    Ok(Churn {
        ip: if address.is_ipv6() { 6 } else { 4 },
        others: count - draining,
        others_broken: broken.len(),
        draining,
        draining_broken,
        fresh: count,
        fresh_to_draining: fresh.get(&leaving).copied().unwrap_or(0),
        after: count,
        after_to_new: after.get(&PODS).copied().unwrap_or(0),
    })
}
