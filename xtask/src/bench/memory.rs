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

/// What flock promises, in bytes: without policies, and with a thousand of them.
const LIMIT: u64 = 25_000_000;
const LIMIT_WITH_POLICIES: u64 = 60_000_000;

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
    /// `NetworkPolicies`, each with a selector of its own for 100 pods of other nodes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2000))]
    policies: u32,
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
    /// How long the firewall took, by what it did; from the change that was seen to the kernel having it.
    firewall: Vec<Took>,
}

/// Passes over the firewall of one kind, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Took {
    what: String,
    passes: usize,
    median_us: u64,
    p95_us: u64,
    worst_us: u64,
}

/// What the log of the agent says of its firewall.
fn firewall_times(log: &str) -> Vec<Took> {
    let of = |what: &str| {
        let lines = log.lines().filter(|line| line.contains(what));
        let took = |line: &str| line.split_once("took_us=")?.1.split_whitespace().next()?.parse().ok();
        let mut times: Vec<u64> = lines.filter_map(took).collect();
        times.sort_unstable();
        let at =
            |part: usize| times.get(times.len().saturating_sub(1) * part / 100).copied().unwrap_or_default();
        let (median_us, p95_us, worst_us) = (at(50), at(95), at(100));
        Took { what: what.to_owned(), passes: times.len(), median_us, p95_us, worst_us }
    };
    ["firewall written", "firewall changed"].map(of).into_iter().filter(|took| took.passes > 0).collect()
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
        for Took { what, passes, median_us, p95_us, worst_us } in &self.firewall {
            let _ = writeln!(
                text,
                "\n{what}, {passes} times: {median_us} us median, {p95_us} us p95, {worst_us} us worst"
            );
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
        cluster.add_policies(args.policies)?;
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
        if args.policies > 0 && args.elsewhere > 0 {
            eprintln!("200 pods of other nodes come into selectors or leave them");
            cluster.relabel(args.pods, 200)?;
            points.push(at_rest(&node, "after 200 changes elsewhere".to_owned())?);
        }
        flock.ready().context("the agent does not feel well")?;
        let limit = if args.policies == 0 { LIMIT } else { LIMIT_WITH_POLICIES };
        let firewall = firewall_times(&node.log()?);
        Ok(MemoryReport { pods: args.pods, elsewhere: args.elsewhere, limit, points, firewall })
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
    fn times_of_the_firewall_are_read_from_the_log() {
        let log = "INFO firewall written took_us=900\nINFO firewall changed pods=0 took_us=30 x=1\n\
                   INFO firewall changed pods=1 took_us=10\nINFO routes changed took_us=5\n";
        let took = |what: &str, passes, median_us, worst_us| Took {
            what: what.to_owned(),
            passes,
            median_us,
            p95_us: median_us,
            worst_us,
        };
        assert_eq!(
            firewall_times(log),
            [took("firewall written", 1, 900, 900), took("firewall changed", 2, 10, 30)]
        );
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
            MemoryReport {
                pods: 1,
                elsewhere: 0,
                limit: LIMIT,
                points: points.collect(),
                firewall: Vec::new(),
            }
        };
        assert!(report(&[24_999_999]).holds());
        assert!(!report(&[1, 25_000_000]).holds());
    }
}
