//! `cargo xtask fuzz`: whatever comes from outside, thrown at its parsers by libFuzzer.
//!
//! The targets, what must hold for them and their committed inputs are in the crate `fuzz`. libFuzzer starts from
//! those inputs and changes them wherever that reaches new code. What it finds stays below `target/fuzz/`, and the
//! next run goes on from there: only a person adds to the committed inputs.

mod build;
mod engine;
mod log;
mod report;
mod targets;

use std::num::{NonZeroU32, NonZeroUsize};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::Result;

use crate::cmd;
use crate::packages::{self, CXX};
use build::Binaries;
use engine::{Run, Workshop, transcript};

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// What to fuzz; everything where nothing is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long, for each target
    #[arg(long, value_name = "N", default_value = "60")]
    seconds: NonZeroU32,
    /// How many targets at a time, one process each
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Check every memory access as well, at half the speed: for dependencies with code that is not safe Rust
    #[arg(long)]
    address_sanitizer: bool,
}

/// Runs `cargo xtask fuzz`.
pub(crate) fn run(args: &FuzzArgs) -> Result<ExitCode> {
    let root = cmd::root();
    let targets = targets::select(targets::all(&root)?, &args.targets)?;
    let nightly = build::nightly()?;
    packages::ensure(&[CXX])?;
    let binaries = build::build(&root, &nightly, &targets, args.address_sanitizer)?;
    let workshop = Workshop::new(&root, args.seconds)?;
    let runs = all(&workshop, &binaries, &targets, args.jobs)?;
    for run in &runs {
        print!("{}", report::fault(run));
    }
    print!("\n{}", report::table(&runs));
    Ok(if runs.iter().all(Run::is_clean) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every target, so many at a time, and returns the runs in the order of the targets.
fn all(workshop: &Workshop, binaries: &Binaries, targets: &[String], jobs: NonZeroUsize) -> Result<Vec<Run>> {
    let waiting = Mutex::new(targets.iter().enumerate());
    let next = || waiting.lock().ok()?.next();
    let worker = || {
        let mut done = Vec::new();
        while let Some((index, target)) = next() {
            println!(
                "==> {target} for {} s; what it says: {}",
                workshop.seconds(),
                transcript(target).display()
            );
            let run = workshop.run(&binaries.of(target), target)?;
            println!("    {target}: {}", report::line(&run));
            done.push((index, run));
        }
        Ok(done)
    };
    let mut done: Vec<(usize, Run)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.get().min(targets.len())).map(|_| scope.spawn(worker)).collect();
        let results = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.collect::<Result<Vec<_>>>().map(|done| done.concat())
    })?;
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, run)| run).collect())
}
