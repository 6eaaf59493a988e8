//! `cargo xtask test`: everything that must hold before a change goes in, as one command.

mod steps;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::cmd;
use crate::packages::{self, BIRD, IPROUTE, NFTABLES, PING};
use steps::{Outcome, Steps};

/// Crates that only make sense on Linux: the kernel's data path, and the agent that drives it.
const LINUX_ONLY: [&str; 2] = ["flock-netlink", "flock-agent"];

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Carry on after a step that failed, and report all of them
    #[arg(long)]
    keep_going: bool,
    /// Run only the tests these words select, and no other step: a part of a test's name, or after `--` any
    /// option of `cargo nextest run` (of `cargo test`, where nextest is not installed)
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

/// Runs `cargo xtask test`.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let machine = Machine::look();
    println!("{}", machine.plan(args));
    let mut steps = Steps::new(args.keep_going);
    if machine.linux {
        steps.run("packages", || install(machine.root));
    }
    if args.filter.is_empty() {
        static_checks(&mut steps, machine);
        steps.run("tests", || cargo(&mut machine.tests(&args.filter)));
        steps.run("doc tests", || cargo(machine.cargo("test").args(["--quiet", "--doc"])));
        #[cfg(target_os = "linux")]
        if machine.root {
            steps.run("runtime", runtime);
        }
    } else {
        steps.run("tests", || cargo(&mut machine.tests(&args.filter)));
    }
    steps.report(&machine.limits(), &mut std::io::stdout())?;
    Ok(if steps.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn static_checks(steps: &mut Steps, machine: Machine) {
    steps.run("format", || cargo(cmd::cargo().args(["fmt", "--all", "--check"])));
    steps.run("clippy", || {
        cargo(machine.cargo("clippy").args(["--quiet", "--all-targets", "--", "--deny", "warnings"]))
    });
    steps.run("docs", || {
        cargo(machine.cargo("doc").args(["--quiet", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings"))
    });
    steps.run("licences", || {
        if !machine.deny {
            return Ok(Outcome::Skipped("cargo-deny is not installed".to_owned()));
        }
        cargo(cmd::cargo().args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))
    });
}

/// The programs the tests drive. Without root they cannot be installed, but much can be tested without them.
fn install(root: bool) -> Result<Outcome> {
    match packages::ensure(&[BIRD, IPROUTE, NFTABLES, PING]) {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if !root => Ok(Outcome::Skipped(format!("{error:#}"))),
        Err(error) => Err(error),
    }
}

/// The image under a container runtime. Where there is none and none can be installed, everything else still counts,
/// but not where a green run is to have skipped nothing.
#[cfg(target_os = "linux")]
fn runtime() -> Result<Outcome> {
    match crate::lab::runtime::install() {
        Err(error) if std::env::var_os("FLOCK_REQUIRE_NETNS").is_none_or(|value| value != "1") => {
            return Ok(Outcome::Skipped(format!("{error:#}")));
        }
        installed => installed?,
    }
    cargo(cmd::cargo().args(["xtask", "runtime"]))
}

fn cargo(command: &mut Command) -> Result<Outcome> {
    cmd::run(command.stdin(std::process::Stdio::null())).map(|()| Outcome::Done)
}

/// What this machine can run.
#[derive(Debug, Clone, Copy)]
struct Machine {
    linux: bool,
    root: bool,
    nextest: bool,
    deny: bool,
}

impl Machine {
    fn look() -> Self {
        let has = |subcommand| cmd::output(cmd::cargo().args([subcommand, "--version"])).is_ok();
        Self {
            linux: cfg!(target_os = "linux"),
            root: cmd::is_root(),
            nextest: has("nextest"),
            deny: has("deny"),
        }
    }

    /// Whether tests can make network namespaces and run routing daemons in them.
    fn privileged(self) -> bool {
        self.linux && self.root
    }

    /// A cargo command over every crate that builds here.
    fn cargo(self, verb: &str) -> Command {
        let mut command = cmd::cargo();
        command.args(verb.split(' ')).arg("--workspace");
        if !self.linux {
            command.args(LINUX_ONLY.iter().flat_map(|name| ["--exclude", name]));
        }
        command
    }

    fn tests(self, filter: &[String]) -> Command {
        let mut command = if self.nextest { self.cargo("nextest run") } else { self.cargo("test") };
        if !self.nextest {
            command.args(["--quiet", "--tests"]);
        }
        command.args(filter);
        if self.privileged() {
            // A test that cannot run is then a failure: a green run has skipped nothing.
            command.env("FLOCK_REQUIRE_NETNS", "1");
        }
        command
    }

    fn plan(self, args: &TestArgs) -> String {
        let runner = if self.nextest { "cargo nextest" } else { "cargo test" };
        let kernel =
            if self.privileged() { "in network namespaces, with a live BIRD" } else { "without root" };
        let runtime = if self.privileged() { ", and the image under containerd" } else { "" };
        if args.filter.is_empty() {
            format!(
                "Packages, format, clippy, docs, licences, then every test ({runner}, {kernel}), the doc tests{runtime}."
            )
        } else {
            format!("The tests selected by `{}` ({runner}, {kernel}).", args.filter.join(" "))
        }
    }

    /// What could not be tested on this machine, and why.
    fn limits(self) -> Vec<String> {
        let mut limits = Vec::new();
        if !self.linux {
            limits.push(format!(
                "not Linux: {} were left out, and so was everything in network namespaces",
                LINUX_ONLY.join(" and ")
            ));
        } else if !self.root {
            limits.push("not root: tests in network namespaces and with a live BIRD said why and returned; run this as root for those".to_owned());
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CI: Machine = Machine { linux: true, root: true, nextest: true, deny: true };

    fn shown(machine: Machine, filter: &[&str]) -> String {
        let filter: Vec<_> = filter.iter().map(ToString::to_string).collect();
        let command = machine.tests(&filter);
        let required = command.get_envs().any(|(name, _)| name == "FLOCK_REQUIRE_NETNS");
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        format!("{}{}", if required { "all: " } else { "" }, words.join(" "))
    }

    #[test]
    fn root_on_linux_skips_nothing() {
        assert_eq!(shown(CI, &[]), "all: nextest run --workspace");
        assert!(CI.limits().is_empty());
    }

    #[test]
    fn what_cannot_run_is_left_out_and_named() {
        let user = Machine { root: false, ..CI };
        assert_eq!(shown(user, &[]), "nextest run --workspace");
        assert!(user.limits().concat().contains("not root"));
        let mac = Machine { linux: false, ..CI };
        assert_eq!(shown(mac, &[]), "nextest run --workspace --exclude flock-netlink --exclude flock-agent");
        assert!(mac.limits().concat().contains("flock-netlink"));
    }

    #[test]
    fn filter_and_options_reach_the_runner() {
        assert_eq!(shown(CI, &["bird", "--no-capture"]), "all: nextest run --workspace bird --no-capture");
        let bare = Machine { nextest: false, ..CI };
        assert_eq!(shown(bare, &["bird"]), "all: test --workspace --quiet --tests bird");
    }
}
