//! How soon the router stops to send packets to a pod that is not ready any more, and how soon it starts.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::Report;
use super::fabric::{Fabric, RouterKind, Standing};
use super::monitor::{Monitor, News};
use super::stats::Summary;
use crate::build::Dist;
use crate::packages::{BIRD, FRR, Package};

/// What takes longer than this does not happen at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the pod serves.
const ANYCAST: &str = "2001:db8:a::53, 203.0.113.53";

/// Options of `cargo xtask bench withdraw`.
#[derive(Debug, Args)]
pub(crate) struct WithdrawArgs {
    /// What the router runs
    #[arg(long, value_enum, default_value = "bird")]
    router: RouterKind,
    /// How often each is done
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
}

impl WithdrawArgs {
    /// What has to be installed.
    pub(super) fn packages(&self) -> &'static [Package] {
        if self.router == RouterKind::Frr { &[BIRD, FRR] } else { &[BIRD] }
    }
}

/// The figures of one thing in one family.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    ip: u8,
    times: Summary,
}

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct WithdrawReport {
    router: RouterKind,
    runs: u32,
    rows: Vec<Row>,
    /// Changes at the router to routes that had nothing to do with it.
    unrelated: usize,
}

impl Report for WithdrawReport {
    fn table(&self) -> String {
        let mut text = format!(
            "until the router's kernel has followed ({:?}), {} runs, in ms\n\n{:<46}{}\n",
            self.router, self.runs, "", "  median      p95    worst"
        );
        for Row { what, ip, times } in &self.rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {what:<36}  IPv{ip}  {times}");
        }
        let _ = write!(text, "\nchanges to unrelated routes of the router: {}", self.unrelated);
        text
    }

    fn holds(&self) -> bool {
        self.unrelated == 0
    }
}

/// Times of one thing in both families.
#[derive(Default)]
struct Series([Vec<Duration>; 2]);

impl Series {
    fn push(&mut self, since: Instant, until: [Instant; 2]) {
        for (times, at) in self.0.iter_mut().zip(until) {
            times.push(at.saturating_duration_since(since));
        }
    }

    fn rows(self, what: &'static str) -> impl Iterator<Item = Row> {
        let families = [6, 4].into_iter().zip(self.0);
        families.filter_map(move |(ip, times)| Some(Row { what, ip, times: Summary::of(times)? }))
    }
}

/// Runs `cargo xtask bench withdraw`.
pub(super) fn run(args: &WithdrawArgs, dist: &Dist) -> Result<WithdrawReport> {
    let mut fabric = Fabric::start(dist, args.router, 1)?;
    let prefixes: [IpNet; 2] =
        [IpNet::new("2001:db8:a::53".parse()?, 128)?, IpNet::new("203.0.113.53".parse()?, 32)?];
    let (written, removed) = (prefixes.map(News::Written), prefixes.map(News::Removed));
    let monitor = Monitor::start(&fabric.router)?;
    let mut unrelated = 0;
    let mut count = |others: Vec<News>| {
        let ours = |news: &News| written.contains(news) || removed.contains(news);
        unrelated += others.iter().filter(|news| !ours(news) && **news != News::LinkGone).count();
    };

    let node = fabric.nodes.first().context("there is no node")?;
    let pod = node.add(0, ANYCAST, Standing::Ready)?;
    count(monitor.wait(written, PATIENCE)?.1);
    let (mut withdraw, mut announce) = (Series::default(), Series::default());
    for run in 0..args.runs {
        for (standing, wanted, series) in
            [(Standing::NotReady, removed, &mut withdraw), (Standing::Ready, written, &mut announce)]
        {
            pause(run);
            count(monitor.drain());
            let change = node.change(&pod, standing)?;
            let since = Instant::now();
            change();
            let (until, others) = monitor.wait(wanted, PATIENCE)?;
            series.push(since, until);
            count(others);
        }
    }
    node.del(&pod)?;
    count(monitor.wait(removed, PATIENCE)?.1);

    let (mut vanish, mut after_link) = (Series::default(), Series::default());
    for run in 0..args.runs {
        let node = fabric.nodes.first_mut().context("there is no node")?;
        let mut pod = node.add(run as usize + 1, ANYCAST, Standing::Ready)?;
        count(monitor.wait(written, PATIENCE)?.1);
        pause(run);
        node.kill_agent()?;
        let links = Monitor::start(node.netns())?;
        count(monitor.drain());
        let since = Instant::now();
        pod.sandbox.close();
        let (until, others) = monitor.wait(removed, PATIENCE)?;
        let ([link], _) = links.wait([News::LinkGone], PATIENCE)?;
        vanish.push(since, until);
        after_link.push(link, until);
        count(others);
        node.start_agent()?;
        node.del(&pod)?;
    }
    let rows = withdraw
        .rows("not ready to withdrawn")
        .chain(announce.rows("ready to announced"))
        .chain(vanish.rows("agent dead, netns closed to withdrawn"))
        .chain(after_link.rows("agent dead, veth gone to withdrawn"))
        .collect();
    Ok(WithdrawReport { router: args.router, runs: args.runs, rows, unrelated })
}

/// Nothing of the run before is under way any more, and timers are met at different moments.
fn pause(run: u32) {
    std::thread::sleep(Duration::from_millis(60 + u64::from(run * 37 % 50)));
}
