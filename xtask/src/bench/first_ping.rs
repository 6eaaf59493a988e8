//! How soon after its ADD a pod answers a client on the other side of its node.

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use super::Report;
use super::netns::Netns;
use super::node::Node;
use super::plugin::Pod;
use super::stats::Summary;
use crate::build::Dist;
use crate::cmd;
use crate::echo::Pinger;

/// An echo that is not answered within this time is lost. Each pod is asked once per family.
const PATIENCE: Duration = Duration::from_secs(2);

/// Options of `cargo xtask bench first-ping`.
#[derive(Debug, Args)]
pub(crate) struct FirstPingArgs {
    /// How many pods to add and ping, one after another
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    count: u32,
}

/// Figures of one family.
#[derive(Debug, Serialize)]
struct Family {
    /// IP version, 6 or 4.
    ip: u8,
    /// Of the echoes that were answered.
    answered: Option<Summary>,
    lost: usize,
}

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct FirstPingReport {
    pods: u32,
    families: Vec<Family>,
}

impl Report for FirstPingReport {
    fn table(&self) -> String {
        let mut text = format!(
            "ADD returned to first echo answered, client to pod, {} pods, one echo each, in ms\n\n        {}   lost\n",
            self.pods, "  median      p95    worst"
        );
        for Family { ip, answered, lost } in &self.families {
            let answered =
                answered.map_or_else(|| format!("{:>26}", "none answered"), |times| times.to_string());
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  IPv{ip}  {answered}   {lost}");
        }
        text
    }

    fn holds(&self) -> bool {
        self.families.iter().all(|family| family.lost == 0)
    }
}

/// Runs `cargo xtask bench first-ping`.
pub(super) fn run(args: &FirstPingArgs, dist: &Dist) -> Result<FirstPingReport> {
    let client = Netns::new()?;
    Netns::new()?.run(|| {
        let node = Node::start(dist)?;
        connect(&client)?;
        let pinger = client.run(Pinger::open)?;
        let flock = node.plugin(&dist.flock);
        let mut series: [Vec<Option<Duration>>; 2] = [Vec::new(), Vec::new()];
        let mut attached = Vec::new();
        for number in 0..args.count {
            let pod = Pod::new(number as usize)?;
            let answer = flock.execute("ADD", &pod, &[])?;
            let addresses = answer.result()?.addresses;
            let replies = pinger.ping(&addresses, u16::try_from(number)?, PATIENCE)?;
            for (address, reply) in addresses.iter().zip(replies) {
                let took = reply.map(|at: Instant| at.duration_since(answer.returned));
                let [v6, v4] = &mut series;
                if address.is_ipv6() { v6.push(took) } else { v4.push(took) }
            }
            attached.push(pod);
        }
        let [v6, v4] = series;
        ensure!(
            v6.len() == attached.len() && v4.len() == attached.len(),
            "a pod lacks an address of one family"
        );
        let family = |ip, series: Vec<Option<Duration>>| Family {
            ip,
            lost: series.iter().filter(|reply| reply.is_none()).count(),
            answered: Summary::of(series.into_iter().flatten().collect()),
        };
        Ok(FirstPingReport { pods: args.count, families: vec![family(6, v6), family(4, v4)] })
    })
}

/// Joins the client to the node of this thread, with the node as its way to everything.
fn connect(client: &Netns) -> Result<()> {
    let ip = |arguments: &str| {
        cmd::run(Command::new("ip").args(arguments.split(' '))).context("cannot join client and node")
    };
    ip(&format!("link add uplink type veth peer name eth0 netns {}", client.path().display()))?;
    ip("address add 2001:db8:c::1/64 dev uplink nodad")?;
    ip("address add 192.0.2.1/30 dev uplink")?;
    ip("link set uplink up")?;
    client.run(|| {
        ip("address add 2001:db8:c::2/64 dev eth0 nodad")?;
        ip("address add 192.0.2.2/30 dev eth0")?;
        ip("link set eth0 up")?;
        ip("-6 route add default via 2001:db8:c::1")?;
        ip("-4 route add default via 192.0.2.1")?;
        // Client and node know each other's hardware address from here on, as neighbouring routers do.
        for gateway in ["2001:db8:c::1", "192.0.2.1"] {
            cmd::output(Command::new("ping").args(["-c", "1", "-W", "5", gateway]))
                .context("the node does not answer")?;
        }
        Ok(())
    })
}
