//! How much memory the agent needs in a large cluster: idle, with its pods attached, and after their status has
//! changed many times. The API server is a process of its own.

mod cluster;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use self::cluster::Cluster;
use super::Report;
use super::burst::volley;
use super::netns::Netns;
use super::node::Node;
use super::plugin::Pod;
use crate::build::Dist;

/// What flock promises, in bytes.
const LIMIT: u64 = 25_000_000;

/// The agent has come to rest when it takes the same for so many looks, a second apart.
const LOOKS: u32 = 3;

/// Options of `cargo xtask bench memory`.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Pods of the node
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..=250))]
    pods: u32,
    /// Pods of other nodes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    elsewhere: u32,
    /// How often the status of each pod of the node changes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    changes: u32,
}

/// What the agent takes at one point, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Memory {
    when: String,
    resident: u64,
    /// What the program has made itself.
    anonymous: u64,
    /// Pages of the program and its libraries.
    file: u64,
}

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct MemoryReport {
    pods: u32,
    elsewhere: u32,
    limit: u64,
    points: Vec<Memory>,
}

impl Report for MemoryReport {
    fn table(&self) -> String {
        let mut text = format!(
            "Memory of an agent with {} pods, and {} on other nodes, in MB (limit {})\n\n{:<40} {:>8} {:>9} {:>6}\n",
            self.pods,
            self.elsewhere,
            mega(self.limit),
            "",
            "resident",
            "anonymous",
            "file",
        );
        for Memory { when, resident, anonymous, file } in &self.points {
            let (resident, anonymous, file) = (mega(*resident), mega(*anonymous), mega(*file));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{when:<40} {resident:>8} {anonymous:>9} {file:>6}");
        }
        text + if self.holds() { "\nWithin the limit." } else { "\nOver the limit." }
    }

    fn holds(&self) -> bool {
        self.points.iter().all(|point| point.resident < self.limit)
    }
}

/// Runs `cargo xtask bench memory`.
pub(super) fn run(args: &MemoryArgs, dist: &Dist, server: &Path) -> Result<MemoryReport> {
    Netns::new()?.run(|| {
        let home = tempfile::tempdir().context("cannot make a directory")?;
        let kubeconfig = home.path().join("kubeconfig");
        eprintln!("an API server with {} pods", args.pods + args.elsewhere);
        let mut cluster = Cluster::start(server, &kubeconfig)?;
        cluster.fill(args.pods, args.elsewhere)?;
        let node = Node::start_in_cluster(dist, &kubeconfig)?;
        let mut points = vec![at_rest(&node, "idle".to_owned())?];

        let flock = node.plugin(&dist.flock);
        let pods = (0..args.pods as usize).map(Pod::new).collect::<Result<Vec<_>>>()?;
        volley(&flock, "ADD", &pods)?;
        points.push(at_rest(&node, "all pods attached at once".to_owned())?);
        // The first changes fill what the later ones use again.
        let mut done = 0;
        for until in [args.changes / 10, args.changes] {
            eprintln!("{} changes of each pod", until - done);
            for round in done..until {
                cluster.change(args.pods, round)?;
            }
            if until > done {
                points.push(at_rest(&node, format!("after {until} changes of each pod"))?);
            }
            done = until;
        }
        flock.ready().context("the agent does not feel well")?;
        Ok(MemoryReport { pods: args.pods, elsewhere: args.elsewhere, limit: LIMIT, points })
    })
}

/// What the agent takes once it takes the same again and again. One that never comes to rest is measured as it is.
fn at_rest(node: &Node, when: String) -> Result<Memory> {
    let mut last = memory(node, when)?;
    let mut same = 0;
    for _ in 0..10 * LOOKS {
        sleep(Duration::from_secs(1));
        let now = memory(node, last.when.clone())?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == LOOKS {
            break;
        }
    }
    Ok(last)
}

fn memory(node: &Node, when: String) -> Result<Memory> {
    let path = format!("/proc/{}/status", node.pid());
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}: the agent has ended"))?;
    let field = |name: &str| field(&text, name).with_context(|| format!("{path} does not say {name}"));
    Ok(Memory { when, resident: field("VmRSS")?, anonymous: field("RssAnon")?, file: field("RssFile")? })
}

/// A size in `/proc/PID/status`, in bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(|size: u64| size * 1024)
}

/// As text, in megabytes of a million bytes.
fn mega(bytes: u64) -> String {
    format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_bytes() {
        let status = "Name:\tflock-agent\nVmRSSx:\t1 kB\nVmRSS:\t   17836 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS"), Some(17836 * 1024));
        assert_eq!(field(status, "Threads"), None);
        assert_eq!(field(status, "RssAnon"), None);
        assert_eq!(mega(17_961_984), "17.9");
    }

    #[test]
    fn one_point_over_the_limit_is_too_much() {
        let report = |sizes: &[u64]| {
            let points = sizes.iter().map(|size| Memory {
                when: "idle".to_owned(),
                resident: *size,
                anonymous: 0,
                file: 0,
            });
            MemoryReport { pods: 1, elsewhere: 0, limit: LIMIT, points: points.collect() }
        };
        assert!(report(&[24_999_999]).holds());
        assert!(!report(&[1, 25_000_000]).holds());
    }
}
