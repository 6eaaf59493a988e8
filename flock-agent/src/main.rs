//! The node agent of flock. This binary only assembles: decisions are in `flock-core`, mechanisms in the
//! adapters.

mod args;
mod bird;
mod clock;
mod log_status;
mod reconcile;
mod run;
mod server;
mod shutdown;
mod status;
mod store;
mod telemetry;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, LogFormat};

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    telemetry::init(match &cli.command {
        Command::Run(args) => args.log_format,
        _ => LogFormat::Text,
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args).await,
            Command::Bird(args) => bird::run(args).await,
            Command::Status(args) => status::run(&args).await,
            Command::Version => status::version(),
        }
    })
}
