//! The programs the lab, the tests and the fuzzers run, and the Debian packages they come from.
//!
//! Nothing is installed silently: what, why and the exact command are printed first. Where everything is
//! there already, nothing is printed and nothing is run.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cmd;

/// A Debian package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name.
    name: &'static str,
    /// The programs wanted from it: names, or absolute paths where they are outside every `PATH`.
    programs: &'static [&'static str],
    /// What they are for.
    why: &'static str,
    /// systemd units that Debian starts as soon as the package is installed.
    units: &'static [&'static str],
}

/// The routing daemon of the nodes.
pub(crate) const BIRD: Package = Package {
    name: "bird2",
    programs: &["bird", "birdc"],
    why: "the routing daemon each node runs",
    units: &["bird.service"],
};

/// The other routing daemon, for the upstream router.
pub(crate) const FRR: Package = Package {
    name: "frr",
    programs: &["/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "vtysh"],
    why: "an upstream router of another make",
    units: &["frr.service"],
};

/// A container runtime, with the one it runs containers by.
pub(crate) const CONTAINERD: Package = Package {
    name: "containerd",
    programs: &["containerd", "ctr", "runc"],
    why: "a container runtime of the kind nodes have",
    units: &["containerd.service"],
};

/// Interfaces, routes and namespaces by hand.
pub(crate) const IPROUTE: Package = Package {
    name: "iproute2",
    programs: &["ip"],
    why: "builds the namespaces everything runs in",
    units: &[],
};

/// The firewall.
pub(crate) const NFTABLES: Package =
    Package { name: "nftables", programs: &["nft"], why: "programs the firewall", units: &[] };

/// Reachability.
pub(crate) const PING: Package =
    Package { name: "iputils-ping", programs: &["ping"], why: "proves that packets arrive", units: &[] };

/// A C++ compiler, which libFuzzer takes.
pub(crate) const CXX: Package =
    Package { name: "g++", programs: &["c++"], why: "builds libFuzzer", units: &[] };

/// Makes sure the programs of these packages are there, installing what is missing.
///
/// Fails, naming the packages, where it may not or cannot install: without root, on another system than
/// Debian and its kin, or when apt-get fails.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing = missing(packages, |program| cmd::find(program).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let apt = cmd::find("apt-get").is_some() && cfg!(target_os = "linux");
    if let Some(refusal) = refusal(&missing, apt, cmd::is_root()) {
        bail!(refusal);
    }
    eprintln!("This machine lacks a few programs:");
    for package in &missing {
        eprintln!("  {:<14} {}", package.name, package.why);
    }
    install(&missing)?;
    let still = self::missing(&missing, |program| cmd::find(program).is_some());
    if !still.is_empty() {
        bail!("installed, and still missing: {}", programs(&still));
    }
    missing.iter().flat_map(|package| package.units).for_each(|unit| silence(unit));
    Ok(())
}

fn missing(packages: &[Package], there: impl Fn(&str) -> bool) -> Vec<Package> {
    packages
        .iter()
        .filter(|package| !package.programs.iter().all(|program| there(program)))
        .copied()
        .collect()
}

/// Why the missing packages cannot be installed from here, and what the person can do.
fn refusal(missing: &[Package], apt: bool, root: bool) -> Option<String> {
    let lacking = programs(missing);
    if !apt {
        return Some(format!(
            "missing: {lacking}; this is not a Debian system, so please install what provides them (Debian calls it {})",
            names(missing).join(" ")
        ));
    }
    (!root).then(|| {
        format!(
            "missing: {lacking}; installing needs root, so please run: sudo apt-get install --no-install-recommends {}",
            names(missing).join(" ")
        )
    })
}

fn install(packages: &[Package]) -> Result<()> {
    // The index is only fetched where the one at hand is missing or does not know the packages.
    let mut simulate = apt_get("install");
    simulate.arg("--simulate").args(names(packages)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut fetched = false;
    if !simulate.status().context("cannot execute apt-get")?.success() {
        say_and_run(&mut apt_get("update"))?;
        fetched = true;
    }
    let first = say_and_run(apt_get("install").args(names(packages)));
    if first.is_err() && !fetched {
        // An index from last month points at files the mirror has replaced since.
        say_and_run(&mut apt_get("update"))?;
        return say_and_run(apt_get("install").args(names(packages)));
    }
    first
}

/// `apt-get VERB` that never asks, waits for another apt to finish, and leaves our stdout alone.
fn apt_get(verb: &str) -> Command {
    let mut command = Command::new("apt-get");
    command.args([verb, "--yes", "--quiet", "--option=DPkg::Lock::Timeout=300"]);
    if verb == "install" {
        command.args(["--no-install-recommends", "--option=Dpkg::Options::=--force-confold"]);
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    command
}

fn say_and_run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", cmd::show(command));
    cmd::run(command)
}

/// Debian starts a daemon with its package. We only want the program, and a routing daemon nobody asked
/// for has no business on this machine.
fn silence(unit: &str) {
    if !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    eprintln!(
        "The package came with a running {unit}; only the program is wanted, so it is stopped and disabled:"
    );
    let mut command = Command::new("systemctl");
    command.args(["disable", "--now", unit]).stdin(Stdio::null()).stdout(std::io::stderr());
    if let Err(error) = say_and_run(&mut command) {
        eprintln!("warning: {error:#}; you may want to stop it yourself");
    }
}

fn names(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().map(|package| package.name).collect()
}

fn programs(packages: &[Package]) -> String {
    packages.iter().flat_map(|package| package.programs).copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_is_missing_when_one_of_its_programs_is() {
        let all = [BIRD, IPROUTE];
        assert_eq!(missing(&all, |_| true), []);
        assert_eq!(missing(&all, |program| program != "birdc"), [BIRD]);
        assert_eq!(missing(&all, |_| false), all);
    }

    #[test]
    fn refusal_names_the_packages_and_the_way_out() {
        assert_eq!(refusal(&[BIRD], true, true), None);
        let unprivileged = refusal(&[BIRD, NFTABLES], true, false).unwrap();
        assert!(unprivileged.contains("bird, birdc, nft;"), "{unprivileged}");
        assert!(
            unprivileged.ends_with("apt-get install --no-install-recommends bird2 nftables"),
            "{unprivileged}"
        );
        for root in [true, false] {
            let elsewhere = refusal(&[FRR], false, root).unwrap();
            assert!(elsewhere.contains("not a Debian system"), "{elsewhere}");
            assert!(elsewhere.contains("frr"), "{elsewhere}");
        }
    }

    #[test]
    fn apt_never_asks_and_never_brings_what_is_only_recommended() {
        let command = apt_get("install");
        let shown = cmd::show(&command);
        for option in ["--yes", "--no-install-recommends"] {
            assert!(shown.contains(option), "{shown}");
        }
        let environment: Vec<_> = command.get_envs().collect();
        assert_eq!(environment, [("DEBIAN_FRONTEND".as_ref(), Some("noninteractive".as_ref()))]);
    }
}
