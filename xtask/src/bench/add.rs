//! How long an ADD takes, from exec to result, and how long it would have to take at least.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::Report;
use super::netns::Netns;
use super::node::Node;
use super::plugin::{Plugin, Pod};
use super::stats::Summary;
use crate::build::Dist;

/// Rounds whose figures are thrown away: files come into the page cache, the agent into its stride.
const WARM_UP: usize = 5;

/// Options of `cargo xtask bench add`.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Rounds; in each, the floor and the plugin add one pod, in turns
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// How many other pods the node has meanwhile; several counts are measured one after another
    #[arg(long, value_delimiter = ',', default_values_t = [0, 250], value_parser = clap::value_parser!(u32).range(0..=400))]
    pods: Vec<u32>,
}

/// Figures for one number of pods.
#[derive(Debug, Serialize)]
struct Series {
    pods: usize,
    floor: Summary,
    flock: Summary,
    /// Median of flock over median of the floor.
    ratio: f64,
}

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct AddReport {
    rounds: u32,
    /// Load average of the last minute before the measurement: on a busy machine two processes that talk to
    /// each other lose more than one that does not.
    load: f64,
    series: Vec<Series>,
}

impl Report for AddReport {
    fn table(&self) -> String {
        let mut text = format!(
            "ADD, exec to result, {} rounds, in ms\n\n{:>6}   {:<26}   {:<26}   flock / floor\n{:>6}  {columns}  {columns}   (medians)\n",
            self.rounds,
            "other",
            "floor",
            "flock",
            "pods",
            columns = "  median      p95    worst"
        );
        for Series { pods, floor, flock, ratio } in &self.series {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{pods:>6}  {floor}  {flock}   {ratio:.2}");
        }
        let _ = write!(text, "\nLoad average before: {:.2}.", self.load);
        text
    }

    fn holds(&self) -> bool {
        true
    }
}

/// Runs `cargo xtask bench add`.
pub(super) fn run(args: &AddArgs, dist: &Dist, floor: &Path) -> Result<AddReport> {
    let mut counts: Vec<_> = args.pods.iter().map(|pods| *pods as usize).collect();
    counts.sort_unstable();
    counts.dedup();
    let load = load()?;
    Netns::new()?.run(|| {
        let node = Node::start(dist)?;
        let mut bench = Bench {
            flock: node.plugin(&dist.flock),
            floor: node.plugin(floor),
            node,
            neighbours: Vec::new(),
            spent: Vec::new(),
        };
        let mut series = Vec::new();
        for pods in counts {
            bench.grow(pods)?;
            eprintln!("{} rounds beside {pods} pods", args.count);
            series.push(bench.measure(args.count as usize)?);
        }
        Ok(AddReport { rounds: args.count, load, series })
    })
}

struct Bench {
    node: Node,
    flock: Plugin,
    floor: Plugin,
    /// Pods that stay.
    neighbours: Vec<Pod>,
    /// Pods that were measured. Their namespaces are kept: the kernel would tear them down in the background,
    /// and so in the middle of the next round.
    spent: Vec<Pod>,
}

impl Bench {
    /// A pod with a number of its own.
    fn pod(&self, ahead: usize) -> Result<Pod> {
        Pod::new(self.neighbours.len() + self.spent.len() + ahead)
    }

    /// Attaches pods until there are that many beside the measured ones.
    fn grow(&mut self, pods: usize) -> Result<()> {
        while self.neighbours.len() < pods {
            let pod = self.pod(0)?;
            self.flock.execute("ADD", &pod, &[])?;
            self.neighbours.push(pod);
        }
        Ok(())
    }

    fn measure(&mut self, rounds: usize) -> Result<Series> {
        let fresh = (0..2 * (rounds + WARM_UP)).map(|ahead| self.pod(ahead)).collect::<Result<Vec<_>>>()?;
        let mut floor = Vec::with_capacity(rounds + WARM_UP);
        let mut flock = Vec::with_capacity(rounds + WARM_UP);
        for (round, pods) in fresh.chunks_exact(2).enumerate() {
            let [for_floor, for_flock] = pods else { continue };
            // Whoever comes second finds warmer caches, so they take turns.
            let host_ifname = if round % 2 == 0 {
                floor.push(self.add_floor(for_floor)?);
                self.add_flock(for_flock, &mut flock)?
            } else {
                let host_ifname = self.add_flock(for_flock, &mut flock)?;
                floor.push(self.add_floor(for_floor)?);
                host_ifname
            };
            self.floor.execute("DEL", for_floor, &floor_arguments())?;
            self.flock.execute("DEL", for_flock, &[])?;
            self.node.wait_for_link_to_go(&host_ifname)?;
        }
        self.spent.extend(fresh);
        let summary = |series: Vec<Duration>| {
            Summary::of(series.into_iter().skip(WARM_UP).collect()).context("nothing was measured")
        };
        let (floor, flock) = (summary(floor)?, summary(flock)?);
        Ok(Series { pods: self.neighbours.len(), floor, flock, ratio: flock.median / floor.median })
    }

    fn add_floor(&self, pod: &Pod) -> Result<Duration> {
        Ok(self.floor.execute("ADD", pod, &floor_arguments())?.took())
    }

    fn add_flock(&self, pod: &Pod, times: &mut Vec<Duration>) -> Result<String> {
        let answer = self.flock.execute("ADD", pod, &[])?;
        times.push(answer.took());
        Ok(answer.result()?.host_ifname)
    }
}

fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read the load average")?;
    text.split(' ').next().and_then(|first| first.parse().ok()).context("cannot read the load average")
}

/// The floor allocates nothing: it is told. Both addresses are outside the node's pools.
fn floor_arguments() -> [String; 3] {
    ["floor0", "2001:db8:f002::1", "192.0.2.1"].map(str::to_owned)
}
