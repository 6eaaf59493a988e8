//! `cargo xtask runtime`: the image of the node as a cluster runs it. A containerd of our own starts what the
//! `DaemonSet` says, exactly as it says, beside a second node, a router and a client of the lab; then a pod, whose
//! network flock makes; then agent and BIRD are replaced, while a client counts packets.

mod container;
mod containerd;
mod enclosure;
mod pod;
mod rollout;
mod template;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::container::Node;
use self::containerd::Containerd;
use self::template::Template;
use super::cluster::Cluster;
use super::interrupt::{Interrupt, Interrupted};
use super::progress::Progress;
use super::router::Kind;
use super::state::State;
use super::topology::{self, NODES};
use crate::build::{self, Dist};
use crate::packages::{self, BIRD, CONTAINERD, IPROUTE, PING};
use crate::{cmd, image};

/// Options of `cargo xtask runtime`.
#[derive(Debug, Args)]
pub(crate) struct RuntimeArgs {
    /// Set for the process in namespaces of its own: the archive of the image
    #[arg(long, hide = true, value_name = "FILE")]
    inside: Option<PathBuf>,
    /// The cgroup of all containers, and their namespace in containerd
    #[arg(long, hide = true, value_name = "NAME", requires = "inside", default_value = "flock-runtime")]
    cgroup: String,
}

/// Runs `cargo xtask runtime`.
pub(crate) fn run(args: &RuntimeArgs) -> Result<ExitCode> {
    let outcome = match &args.inside {
        Some(archive) => inside(archive, &args.cgroup),
        None => outside(),
    };
    outcome.or_else(|error| {
        let interrupted = error.downcast::<Interrupted>()?;
        Ok(ExitCode::from(interrupted.exit_code()))
    })
}

/// Makes sure that there is a container runtime.
pub(crate) fn install() -> Result<()> {
    packages::ensure(&[BIRD, CONTAINERD, IPROUTE, PING])
}

/// Makes the image, then starts this program again where nothing of the machine can be changed.
fn outside() -> Result<ExitCode> {
    if !cmd::is_root() {
        bail!("namespaces and containers take root: please run `sudo -E cargo xtask runtime`");
    }
    install()?;
    let dist = build::dist(&cmd::root())?;
    let archive = image::make(&dist, None)?.archive;
    let interrupt = Interrupt::watch()?;
    let mut again = Command::new(std::env::current_exe().context("this program does not know its path")?);
    let cgroup = format!("flock-runtime-{}", std::process::id());
    again.arg("runtime").arg("--inside").arg(archive).arg("--cgroup").arg(&cgroup);
    let code = enclosure::run(&mut again, &cgroup, &interrupt)?;
    interrupt.check()?;
    Ok(ExitCode::from(code))
}

/// The check itself.
fn inside(archive: &Path, cgroup: &str) -> Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    enclosure::furnish()?;
    let progress = Progress::start();
    let dist = Dist::of(&cmd::root().join("target/dist"));
    let mut lab = Cluster::new(State::create(None, Kind::Bird)?, dist, interrupt);
    progress
        .title("flock runtime: a node whose agent and BIRD are containers of containerd, and a pod on it");
    let outcome = check(&mut lab, &progress, archive, cgroup);
    if let Err(error) = &outcome {
        let interrupted = error.is::<Interrupted>();
        progress.failure("runtime", &if interrupted { error.to_string() } else { format!("{error:#}") });
    }
    progress.step("clean-up", "ending containers and daemons", || {
        lab.destroy()?;
        Ok(((), "containers and daemons ended; their namespaces go with this process".to_owned()))
    })?;
    match outcome {
        Ok(()) => {
            progress.verdict(true, "all of it holds");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(_) => {
            progress.verdict(false, "something does not hold: look for ✗");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn check(lab: &mut Cluster, progress: &Progress, archive: &Path, cgroup: &str) -> Result<()> {
    let template = Template::read(&cmd::root().join("deploy/daemonset.yaml"))?;
    progress.step("wires", "making namespaces and veth pairs", || {
        lab.wire()?;
        Ok(((), "a router, two nodes and a client".to_owned()))
    })?;
    let mut containerd = progress.step("containerd", "starting it", || Containerd::start(lab, cgroup))?;
    progress.step("image", "importing it", || {
        let said = containerd.import(archive, &template.image)?;
        let size = std::fs::metadata(archive)?.len();
        Ok(((), format!("{size} bytes; `flock-agent version` in it prints {said}")))
    })?;
    let node = Node::new(containerd, template, &lab.state)?;
    progress.step("install", "running the init container twice", || {
        let (first, second) = (node.install()?, node.install()?);
        ensure!(
            first.lines().count() == 3 && first.lines().all(|line| line.starts_with("installed")),
            "the first run was to install the plugin, `loopback` and the list: {first}"
        );
        ensure!(
            second.lines().count() == 2 && second.lines().all(|line| line.starts_with("unchanged")),
            "the second run was to change nothing: {second}"
        );
        Ok((
            (),
            "plugin, `loopback` and network list are in place, and a second run changes nothing".to_owned(),
        ))
    })?;
    progress.step("router", "starting the upstream router", || {
        Ok(((), format!("{}, AS {}", lab.start_router()?, topology::ROUTER_ASN)))
    })?;
    progress.step("node2", "starting BIRD and flock-agent", || {
        Ok(((), format!("{} and flock-agent, as processes", lab.start_node(&NODES[1])?)))
    })?;
    progress.step("node1", "starting BIRD and flock-agent", || {
        node.start(lab)?;
        Ok(((), "the containers of the DaemonSet: started, live and ready by its probes".to_owned()))
    })?;
    progress.step("security", "asking the kernel", || Ok(((), node.verify_security()?)))?;
    progress.step("BGP", "waiting for the sessions", || {
        let sessions = lab.wait_for_sessions()?;
        lab.wait_for_routes(topology::pools())?;
        let outcome = format!("{} sessions are up, the router has learned the prefixes", sessions.len());
        Ok(((), outcome))
    })?;
    progress.step("netns", "making a namespace after the agent", || {
        let netns = lab.state.netns("later");
        node.verify_propagation(lab, &netns)?;
        node.verify_first_propagation(lab)?;
        Ok(((), "the agent sees those made after it started, the first one on a host as well".to_owned()))
    })?;
    let pod = progress.step("pod", "ctr run --cni", || {
        let pod = pod::start(lab, &node)?;
        let outcome = format!("{} and {}, as `flock-agent status` says", pod.v6, pod.v4);
        Ok((pod, outcome))
    })?;
    progress.step("reached", "pinging it", || {
        let from = pod.verify_reachable(lab)?;
        Ok(((), format!("answers {from}")))
    })?;
    progress.step("update", "replacing agent and BIRD", || {
        let count = rollout::replace(lab, &node, &pod, rollout::Way::Terminated)?;
        Ok(((), format!("replaced as the kubelet does it: {count}")))
    })?;
    progress.step("crash", "killing agent and BIRD", || {
        let count = rollout::replace(lab, &node, &pod, rollout::Way::Killed)?;
        Ok(((), format!("both killed by SIGKILL and started again: {count}")))
    })?;
    progress.step("gone", "ending the pod", || {
        pod::end(lab, &node)?;
        Ok(((), "no link, route, neighbour or allocation is left of the pod".to_owned()))
    })
}
