//! Many pods at once: how long it takes, whether two share an address, and what is left afterwards.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::Report;
use super::netns::Netns;
use super::node::Node;
use super::plugin::{Answer, Plugin, Pod};
use super::stats::Summary;
use crate::build::Dist;
use crate::cmd;

/// Options of `cargo xtask bench burst`.
#[derive(Debug, Args)]
pub(crate) struct BurstArgs {
    /// How many pods come and go at the same time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=400))]
    count: u32,
}

/// One volley.
#[derive(Debug, Serialize)]
pub(super) struct Volley {
    /// From the first exec to the last result.
    wall_ms: f64,
    each: Summary,
}

/// The figures. That they exist means that no address was shared and nothing was left.
#[derive(Debug, Serialize)]
pub(super) struct BurstReport {
    pods: u32,
    addresses: usize,
    add: Volley,
    del: Volley,
    /// From the last DEL's answer until the last link was gone.
    links_gone_ms: f64,
}

impl Report for BurstReport {
    fn table(&self) -> String {
        let line = |verb, volley: &Volley| format!("  {verb}  {:>8.1}   {}\n", volley.wall_ms, volley.each);
        format!(
            "{} pods at once, in ms\n\n       {:>8}   {}\n{}{}\n\
             {} addresses, all different. Links gone {:.0} ms after the last DEL answered;\n\
             no link, route, neighbour or allocation left, agent alive.",
            self.pods,
            "all",
            "  median      p95    worst",
            line("ADD", &self.add),
            line("DEL", &self.del),
            self.addresses,
            self.links_gone_ms
        )
    }

    fn holds(&self) -> bool {
        true
    }
}

/// Runs `cargo xtask bench burst`. An address given twice, anything left behind, a failed ADD or DEL and an
/// agent that dies are errors.
pub(super) fn run(args: &BurstArgs, dist: &Dist) -> Result<BurstReport> {
    Netns::new()?.run(|| {
        let mut node = Node::start(dist)?;
        let flock = node.plugin(&dist.flock);
        let pods = (0..args.count as usize).map(Pod::new).collect::<Result<Vec<_>>>()?;
        // The first ADD of an agent's life is not what a burst is about.
        let first = Pod::new(pods.len())?;
        flock.execute("ADD", &first, &[])?;
        flock.execute("DEL", &first, &[])?;
        nothing_left(&mut node)?;

        let (add, answers) = volley(&flock, "ADD", &pods)?;
        let mut addresses = BTreeSet::new();
        for answer in &answers {
            let attached = answer.result()?;
            ensure!(attached.addresses.len() == 2, "a pod lacks an address: {attached:?}");
            for address in attached.addresses {
                ensure!(addresses.insert(address), "{address} was given to two pods");
            }
        }
        let (del, _) = volley(&flock, "DEL", &pods)?;
        let answered = Instant::now();
        nothing_left(&mut node)?;
        let links_gone_ms = millis(answered.elapsed());
        flock.ready().context("the agent does not feel well after the burst")?;
        Ok(BurstReport { pods: args.count, addresses: addresses.len(), add, del, links_gone_ms })
    })
}

/// Executes `verb` for all pods at the same time.
pub(super) fn volley(plugin: &Plugin, verb: &str, pods: &[Pod]) -> Result<(Volley, Vec<Answer>)> {
    let start = Barrier::new(pods.len());
    let outcomes: Vec<Result<Answer>> = thread::scope(|scope| {
        let shots = pods.iter().map(|pod| {
            scope.spawn(|| {
                start.wait();
                plugin.execute(verb, pod, &[])
            })
        });
        // All threads have to be there before the first is waited for.
        let shots: Vec<_> = shots.collect();
        let joined = shots.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|shot| shot.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))).collect()
    });
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let answers = outcomes
        .into_iter()
        .collect::<Result<Vec<_>>>()
        .with_context(|| format!("{failed} of {} failed, the first of them", pods.len()))?;
    let first = answers.iter().map(|answer| answer.began).min().context("no pods")?;
    let last = answers.iter().map(|answer| answer.returned).max().context("no pods")?;
    let each = Summary::of(answers.iter().map(Answer::took).collect()).context("no pods")?;
    Ok((Volley { wall_ms: millis(last.duration_since(first)), each }, answers))
}

/// Waits until kernel and agent have forgotten every pod.
fn nothing_left(node: &mut Node) -> Result<()> {
    node.wait("every trace of the pods to go", |node| {
        let links = ip("-json link show")?;
        absent("link", &links, |link| link["ifname"].as_str().is_some_and(|name| name.starts_with("flock")))?;
        for family in ["-4", "-6"] {
            for protocol in ["117", "118"] {
                let routes = ip(&format!("-json -details {family} route show table all proto {protocol}"))?;
                // The aggregates of the pools stay: they belong to the node.
                absent("route", &routes, |route| route["type"] != "unreachable")?;
            }
            let neighbours = ip(&format!("-json {family} neighbour show nud permanent"))?;
            absent("neighbour", &neighbours, |_| true)?;
        }
        let report = node.report()?;
        ensure!(report["allocations"].is_array(), "the agent's report has no list of allocations: {report}");
        absent("allocation", &report["allocations"], |_| true)
    })
}

fn absent(what: &str, list: &Value, left: impl Fn(&Value) -> bool) -> Result<()> {
    let entries = list.as_array().into_iter().flatten();
    let left: Vec<_> = entries.filter(|entry| left(entry)).map(Value::to_string).collect();
    match left.first() {
        Some(first) => bail!("{} left, such as {what} {first}", left.len()),
        None => Ok(()),
    }
}

/// Output of an `ip -json` command; it prints nothing at all where the list is empty.
fn ip(arguments: &str) -> Result<Value> {
    let text = cmd::output(Command::new("ip").args(arguments.split(' ')))?;
    if text.trim().is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).with_context(|| format!("`ip {arguments}` did not print JSON"))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
