//! The habits of the project as commands: `cargo xtask lab`, `test`, `build`, `runtime`, `bench`, `fuzz`, `crd`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to a person is what these commands are for"
)]

#[cfg(target_os = "linux")]
mod bench;
mod build;
mod check;
mod cmd;
mod crd;
#[cfg(target_os = "linux")]
mod echo;
mod fuzz;
mod image;
mod lab;
mod manifests;
mod packages;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The habits of the project as commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show the whole idea: a router, two nodes, a client and pods with real BGP and real packets (needs root)
    Lab(lab::LabArgs),
    /// Run every check and test this machine can run, installing missing packages first
    Test(check::TestArgs),
    /// Build the release binaries into target/dist: the static plugin `flock`, and `flock-agent`
    Build(build::BuildArgs),
    /// Measure what a pod's network costs and how soon it works, in namespaces of its own (needs root)
    #[cfg(target_os = "linux")]
    Bench(bench::BenchArgs),
    /// Run the image under containerd as a cluster would, and a pod beside it, in namespaces of its own (needs root)
    #[cfg(target_os = "linux")]
    Runtime(lab::runtime::RuntimeArgs),
    /// Make the image of the node as an OCI archive, without a container engine
    Image(image::ImageArgs),
    /// Write deploy/install.yaml from its parts
    Manifests(manifests::ManifestsArgs),
    /// Throw changed inputs at every parser of what comes from outside, for a while (needs a nightly compiler)
    Fuzz(fuzz::FuzzArgs),
    /// Write the definition of NodeConfig into deploy/crd.yaml
    Crd,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Lab(args) => lab::run(args),
        Task::Test(args) => check::run(&args),
        #[cfg(target_os = "linux")]
        Task::Bench(args) => bench::run(&args),
        #[cfg(target_os = "linux")]
        Task::Runtime(args) => lab::runtime::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Crd => crd::run().map(|()| ExitCode::SUCCESS),
        Task::Image(args) => image::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Manifests(args) => manifests::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Build(args) => build::run(&args).map(|()| ExitCode::SUCCESS),
    }
}
