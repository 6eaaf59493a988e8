//! `cargo xtask bench`: what a pod's network costs, and how soon it works.
//!
//! Everything runs in network namespaces made for it, with a real agent and the real plugin, both as they are
//! released. The host's own network is neither used nor changed.

mod add;
mod burst;
mod fabric;
mod first_ping;
mod memory;
mod monitor;
mod netns;
mod node;
mod plugin;
mod spread;
mod stats;
mod withdraw;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use crate::build;
use crate::cmd;
use crate::packages::{self, IPROUTE, PING};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
    /// Print the figures as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Time an ADD from exec to result, beside the least it can cost on this machine in the same minute
    Add(add::AddArgs),
    /// Time from an ADD returning to the first ping answered across a node, both families
    FirstPing(first_ping::FirstPingArgs),
    /// Many ADDs at once, then many DELs at once: how long, and whether anything is shared or left behind
    Burst(burst::BurstArgs),
    /// Time from a pod that is ready, not ready or gone to the route at a real router, with BIRD or FRR
    Withdraw(withdraw::WithdrawArgs),
    /// Memory of the agent in a large cluster: idle, with its pods attached, and after their status changed and changed
    Memory(memory::MemoryArgs),
    /// Share of flows per pod of an anycast address, and what becomes of open ones when a pod leaves and comes
    Spread(spread::SpreadArgs),
}

/// Runs `cargo xtask bench`.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    ensure!(cmd::is_root(), "network namespaces take root: please run this as root");
    packages::ensure(&[IPROUTE, PING])?;
    raise_file_limit()?;
    let root = cmd::root();
    let dist = build::dist(&root)?;
    match &args.bench {
        Bench::Add(options) => {
            let floor = build::static_binary(&root, "xtask", "add-floor")?;
            add::run(options, &dist, &floor).and_then(|report| args.show(&report))
        }
        Bench::FirstPing(options) => first_ping::run(options, &dist).and_then(|report| args.show(&report)),
        Bench::Burst(options) => burst::run(options, &dist).and_then(|report| args.show(&report)),
        Bench::Memory(options) => {
            let server = build::api_server()?;
            memory::run(options, &dist, &server).and_then(|report| args.show(&report))
        }
        Bench::Spread(options) => {
            packages::ensure(options.packages())?;
            spread::run(options, &dist).and_then(|report| args.show(&report))
        }
        Bench::Withdraw(options) => {
            packages::ensure(options.packages())?;
            withdraw::run(options, &dist).and_then(|report| args.show(&report))
        }
    }
}

impl BenchArgs {
    fn show<R: Report>(&self, report: &R) -> Result<ExitCode> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(report)?);
        } else {
            println!("\n{}", report.table());
        }
        Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The outcome of a benchmark.
trait Report: Serialize {
    /// For a person.
    fn table(&self) -> String;
    /// Whether everything worked, and stayed within what flock promises. Being slow is not a failure: that is for the
    /// reader to judge.
    fn holds(&self) -> bool;
}

/// Every namespace is held by an open file; the usual soft limit of 1024 would be in the way.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}
