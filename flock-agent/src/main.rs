//! The node agent of flock. This binary only assembles: decisions are in `flock-core`, mechanisms in the
//! adapters. What serves a node is for Linux only; the rest needs no more than Unix.

mod args;
#[cfg(target_os = "linux")]
mod bird;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod drops;
#[cfg(target_os = "linux")]
mod entrance;
mod explain;
#[cfg(target_os = "linux")]
mod health;
mod install;
#[cfg(target_os = "linux")]
mod keep;
#[cfg(target_os = "linux")]
mod log_status;
mod plan;
mod print;
#[cfg(target_os = "linux")]
mod reconcile;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod shutdown;
mod status;
#[cfg(target_os = "linux")]
mod store;
mod telemetry;
#[cfg(target_os = "linux")]
mod wire;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, LogFormat};

fn main() -> ExitCode {
    match run_command(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell where standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(cli: Cli) -> anyhow::Result<ExitCode> {
    telemetry::init(match &cli.command {
        #[cfg(target_os = "linux")]
        Command::Run(args) => args.log_format,
        _ => LogFormat::Text,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            #[cfg(target_os = "linux")]
            Command::Run(args) => run::run(args).await,
            #[cfg(target_os = "linux")]
            Command::Bird(args) => bird::run(args).await,
            Command::Install(args) => install::run(&args).await,
            Command::Status(args) => status::run(&args).await,
            Command::Explain(args) => explain::run(&args).await,
            #[cfg(target_os = "linux")]
            Command::Drops(args) => drops::run(&args).await,
            Command::Plan(args) => plan::run(&args),
            Command::Version => status::version(),
        }
    })
}
