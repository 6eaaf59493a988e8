//! `cargo xtask lab`: the whole idea on one machine. A router, two nodes, a client and pods, each in a
//! network namespace; real BGP, real veth pairs, real packets. Nothing of the host's own network changes.

mod anycast;
mod cluster;
mod execute;
mod interrupt;
mod netns;
mod node;
mod pods;
mod policies;
mod probe;
mod process;
mod progress;
mod random;
mod report;
mod router;
#[cfg(target_os = "linux")]
pub(crate) mod runtime;
mod state;
mod topology;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use self::cluster::Cluster;
use self::interrupt::{Interrupt, Interrupted};
use self::node::NodeDir;
use self::progress::{Paint, Progress};
use self::report::{Report, Shared};
use self::router::{Kind, Router};
use self::state::State;
use self::topology::{NODES, SHARED};
use crate::packages::{self, BIRD, FRR, IPROUTE, NFTABLES, PING};
use crate::{build, cmd};

/// The name of the lab that `up` leaves standing.
const STANDING: &str = "lab";

/// Options of `cargo xtask lab`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    task: Option<LabTask>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// What the upstream router runs
    #[arg(long, value_enum, default_value = "bird")]
    router: Kind,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum LabTask {
    /// Make the lab, check it, and leave it standing
    Up {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        which: Which,
    },
    /// Run a command in a node, a pod, the router or the client of a standing lab
    Exec {
        #[command(flatten)]
        which: Which,
        /// Where: router, client, node1, node2, or a pod such as web-1. In a node, `flock-agent status` is of
        /// that node
        element: String,
        /// What
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Answer on the shared addresses, or on ports of all addresses; what the pods of the lab run
    #[command(hide = true)]
    Serve {
        /// With this name
        name: String,
        /// On this port of every address, over TCP
        #[arg(long = "port")]
        ports: Vec<u16>,
    },
    /// Take a standing lab down
    Down {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Name of the lab, where there are several
    #[arg(long, default_value = STANDING)]
    name: String,
}

/// Runs `cargo xtask lab`.
pub(crate) fn run(args: LabArgs) -> Result<ExitCode> {
    if !cfg!(target_os = "linux") {
        bail!("the lab is made of Linux network namespaces: please run it on Linux");
    }
    if !cmd::is_root() {
        bail!("network namespaces take root: please run `sudo -E cargo xtask lab`");
    }
    let outcome = match args.task {
        None => make(&args.options, None),
        Some(LabTask::Up { options, which }) => make(&options, Some(&which.name)),
        Some(LabTask::Exec { which, element, command }) => exec(&which.name, &element, &command),
        Some(LabTask::Serve { name, ports }) => anycast::serve(&name, &ports).map(|()| ExitCode::SUCCESS),
        Some(LabTask::Down { which }) => down(&which.name),
    };
    outcome.or_else(|error| {
        let interrupted = error.downcast::<Interrupted>()?;
        Ok(ExitCode::from(interrupted.exit_code()))
    })
}

/// How this program was called, for commands a person can repeat.
fn invocation() -> &'static str {
    if std::env::var_os("SUDO_USER").is_some() { "sudo -E cargo xtask" } else { "cargo xtask" }
}

/// The option that names a lab, where it is needed.
fn name_option(name: &str) -> String {
    if name == STANDING { String::new() } else { format!(" --name {name}") }
}

/// Makes a lab and checks it; leaves it standing under `keep`, or takes it down again.
fn make(options: &Options, keep: Option<&str>) -> Result<ExitCode> {
    let mut needed = vec![BIRD, IPROUTE, PING, NFTABLES];
    if options.router == Kind::Frr {
        needed.push(FRR);
    }
    packages::ensure(&needed)?;
    let dist = build::dist(&cmd::root())?;
    let interrupt = Interrupt::watch()?;
    let progress = Progress::start();
    for name in State::sweep()? {
        Progress::say(&format!("cleaned up after lab {name}, which was killed"));
    }
    let mut lab = Guard::new(Cluster::new(State::create(keep, options.router)?, dist, interrupt));
    progress.title("flock lab: a router, two nodes, a client and thirteen pods in network namespaces");
    let outcome = build_and_check(lab.cluster()?, &progress, keep.is_some());
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            let interrupted = error.is::<Interrupted>();
            progress.failure("lab", &if interrupted { error.to_string() } else { format!("{error:#}") });
            lab.destroy(&progress)?;
            return if interrupted { Err(error) } else { Ok(ExitCode::FAILURE) };
        }
    };
    if options.json {
        print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        let paint = Paint::if_wanted(std::io::IsTerminal::is_terminal(&std::io::stdout()));
        let width = terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        print(&format!("\n{}", report.table(paint, width.unwrap_or(usize::MAX)).trim_end()))?;
    }
    let verdict = if report.ok { "every cell holds" } else { "something does not hold: look for ✗" };
    if let Some(name) = keep {
        let state = lab.leave_standing()?;
        progress.verdict(report.ok, verdict);
        Progress::say(&prompts(&state, name)?);
    } else {
        lab.destroy(&progress)?;
        progress.verdict(report.ok, verdict);
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the outcome. A reader that goes away is an error to clean up after, not a panic.
fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot print")
}

/// The steps. Where the lab does not stay, its pods are detached again, and that is a check as well.
fn build_and_check(lab: &mut Cluster, progress: &Progress, stays: bool) -> Result<Report> {
    progress.step("wires", "making namespaces and veth pairs", || {
        lab.wire()?;
        let (namespaces, wires) = (topology::elements().count(), topology::links().count());
        Ok(((), format!("{namespaces} namespaces, {wires} wires, addresses and default routes")))
    })?;
    let router = progress.step("router", "starting the upstream router", || {
        let version = lab.start_router()?;
        Ok((version.clone(), format!("{version}, AS {}", topology::ROUTER_ASN)))
    })?;
    for node in &NODES {
        progress.step(node.name, "starting BIRD and flock-agent", || {
            let version = lab.start_node(node)?;
            Ok(((), format!("{version} and flock-agent, AS {}, {} and {}", node.asn, node.pool6, node.pool4)))
        })?;
    }
    let sessions = progress.step("BGP", "waiting for the sessions", || {
        let sessions = lab.wait_for_sessions()?;
        let outcome = format!("{} sessions are up", sessions.len());
        Ok((sessions, outcome))
    })?;
    progress.step("routes", "waiting for the prefixes at the router", || {
        let learned = lab.wait_for_routes(topology::pools())?;
        Ok(((), format!("the router has learned {} prefixes", learned.len())))
    })?;
    let mut attached = progress.step("pods", "executing the plugin", || {
        let attached = lab.attach()?;
        let outcome = format!("{} pods attached by the flock plugin", attached.len());
        Ok((attached, outcome))
    })?;
    let learned = progress.step("announced", "waiting for single addresses at the router", || {
        let learned = lab.wait_for_routes(topology::announced())?;
        let single = learned.len() - topology::pools().count();
        let outcome = format!("the router has learned {single} single addresses and nothing else");
        Ok((learned, outcome))
    })?;
    progress.step("pinned", "deleting a pod and making it again", || {
        let again = lab.attach_again(&mut attached, topology::PINNED)?;
        let address = again.v4.context("the pinned pod has no IPv4 address")?;
        Ok(((), format!("{} has {address} again", topology::PINNED)))
    })?;
    progress.step("refused", "attaching pods with typing mistakes", || {
        let told = lab.attach_refused()?;
        Ok(((), format!("{} pods are told what to write instead", told.len())))
    })?;
    progress.step("runtime", "executing the plugin again", || {
        lab.verify(&attached)?;
        Ok(((), "CHECK agrees and ADD repeats itself, in CNI 0.4.0, 1.0.0 and 1.1.0".to_owned()))
    })?;
    let pings = progress.step("pings", "pinging everybody from everywhere", || {
        let pings = probe::matrix(&lab.state, &attached, &lab.interrupt)?;
        let good = pings.iter().filter(|ping| ping.ok).count();
        let outcome = format!("{good} of {} pairs reach each other", pings.len());
        Ok((pings, outcome))
    })?;
    let unassigned = progress.step("unassigned", "asking for addresses no pod has", || {
        let probes = probe::unassigned(&lab.state, &lab.interrupt)?;
        let good = probes.iter().filter(|probe| probe.ok).count();
        let outcome = format!("{good} of {} answer \"unreachable\", none loops", probes.len());
        Ok((probes, outcome))
    })?;
    let shares = progress.step("shares", "asking the shared addresses", || {
        anycast::start_servers(lab)?;
        let shares = anycast::shares(lab)?;
        let outcome = format!("{} pods share {} flows to {}", shares.len(), anycast::FLOWS, SHARED);
        Ok((shares, outcome))
    })?;
    let withdrawals = progress.step("withdrawn", "taking pods away while a client asks", || {
        let withdrawals = anycast::withdrawals(lab, &mut attached)?;
        let requests: usize = withdrawals.iter().map(|it| it.requests).sum();
        let failed: usize = withdrawals.iter().map(|it| it.failed).sum();
        let outcome =
            format!("{} times a pod stops serving: {failed} of {requests} requests fail", withdrawals.len());
        Ok((withdrawals, outcome))
    })?;
    let policies = policies::show(lab, progress, &attached)?;
    if !stays {
        policies::remove(lab)?;
        progress.step("detach", "executing the plugin", || {
            lab.detach()?;
            Ok(((), "no link, route, nexthop object, neighbour or allocation is left".to_owned()))
        })?;
    }
    let anycast = Shared { shares, withdrawals };
    Ok(Report::new(router, sessions, learned, &attached, pings, unassigned, anycast, policies))
}

/// Takes the lab down when it goes out of scope, also when something panics.
struct Guard(Option<Cluster>);

impl Guard {
    fn new(cluster: Cluster) -> Self {
        Self(Some(cluster))
    }

    fn cluster(&mut self) -> Result<&mut Cluster> {
        self.0.as_mut().context("the lab is gone already")
    }

    fn destroy(mut self, progress: &Progress) -> Result<()> {
        let Some(cluster) = self.0.take() else { return Ok(()) };
        progress.step("clean-up", "ending daemons, removing namespaces", || {
            cluster.destroy()?;
            Ok(((), "daemons ended, namespaces removed".to_owned()))
        })
    }

    fn leave_standing(mut self) -> Result<State> {
        self.0.take().context("the lab is gone already")?.leave_standing()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(cluster) = self.0.take()
            && let Err(error) = cluster.destroy()
        {
            eprintln!("the lab could not be taken down: {error:#}");
        }
    }
}

/// What to try in a lab that stands.
fn prompts(state: &State, name: &str) -> Result<String> {
    let run = format!("{} lab exec{}", invocation(), name_option(name));
    let mut lines = vec!["It stands. Try:".to_owned()];
    lines.push(format!("  {run} node1 -- ip -6 route show proto 117"));
    lines.push(format!("  {run} web-1 -- ip address"));
    lines.push(format!("  {run} web-1 -- ping -c 3 {}", topology::CLIENT.neighbour.v6));
    lines.push(format!("  {run} node1 -- flock-agent status"));
    lines.push(format!("  {run} node1 -- ip nexthop show"));
    lines.push(format!("  {run} node1 -- {}", policies::QUESTION.join(" ")));
    let service = topology::SHARED.v6;
    lines.push(format!("  {run} client -- bash -c 'head -1 < /dev/tcp/{service}/53'"));
    for command in Router::new(state)?.commands() {
        lines.push(format!("  {run} router -- {command}"));
    }
    lines.push(format!("  {} lab down{}", invocation(), name_option(name)));
    Ok(lines.join("\n"))
}

fn standing(name: &str) -> Result<State> {
    State::open(name)?.with_context(|| {
        format!("there is no lab named {name}: make one with `{} lab up{}`", invocation(), name_option(name))
    })
}

/// Becomes a command in an element: its terminal, its signals and its exit status are its own.
fn exec(name: &str, element: &str, command: &[String]) -> Result<ExitCode> {
    let state = standing(name)?;
    // As the agent writes it, too.
    let element = element.strip_prefix(&format!("{}/", topology::NAMESPACE)).unwrap_or(element);
    if !topology::elements().any(|known| known == element) {
        let known: Vec<_> = topology::elements().collect();
        bail!("there is no {element:?} in the lab; there are {}", known.join(", "));
    }
    // Unlike entering the namespace alone, `ip netns exec` shows its /sys too, not the host's.
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", state.netns(element).name()]).args(command);
    inside.env("PATH", path_with_agent()?);
    if let Some(node) = NODES.iter().find(|node| node.name == element) {
        inside.envs(NodeDir::new(&state, node)?.environment());
    }
    Err(inside.exec()).context("cannot execute ip")
}

/// `PATH`, with our own `flock-agent` first.
fn path_with_agent() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ours = cmd::root().join("target/dist");
    std::env::join_paths(std::iter::once(ours).chain(std::env::split_paths(&path)))
        .context("PATH cannot be extended")
}

fn down(name: &str) -> Result<ExitCode> {
    let Some(state) = State::open(name)? else {
        eprintln!("there is no lab named {name}: nothing to do");
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(pid) = state.busy() {
        bail!("process {pid} is making the lab {name} right now: let it finish, or stop it first");
    }
    let progress = Progress::start();
    progress.step("clean-up", "ending daemons, removing namespaces", || {
        state.destroy()?;
        Ok(((), format!("lab {name} is gone")))
    })?;
    Ok(ExitCode::SUCCESS)
}
