//! The command line (interfaces.md section 12). Every flag also reads an environment variable.

#[cfg(target_os = "linux")]
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flock_core::ids::{NodeName, PodKey};

#[cfg(target_os = "linux")]
use crate::bird::BirdArgs;
use crate::install::{self, InstallArgs};

/// The node agent of flock: gives pods addresses and links, and tells the network where they are.
#[derive(Debug, Parser)]
#[command(name = "flock-agent", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit status: 0 success; 1 the command failed; 2 the command line is wrong.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[cfg(target_os = "linux")]
    /// Serve the plugin on this node until SIGTERM; routes, links and addresses stay when it ends.
    Run(RunArgs),
    #[cfg(target_os = "linux")]
    /// Run BIRD: bootstrap configuration, graceful restart on SIGTERM, exit when BIRD exits.
    Bird(BirdArgs),
    /// Put the plugin and its network list where the container runtime looks; safe to repeat, and at any time.
    #[command(after_help = install::EXIT_STATUS)]
    Install(InstallArgs),
    /// Show what the agent of this node knows: sessions, pools, pods.
    Status(StatusArgs),
    /// Say what was decided for a pod of this node, and why: annotations, addresses, eligibility, routes, policies.
    ///
    /// With --from and --to: whether policies let a flow pass, and by which rule.
    Explain(ExplainArgs),
    #[cfg(target_os = "linux")]
    /// Follow the packets the firewall of this node drops, in words, until SIGINT or SIGTERM.
    ///
    /// A line for each packet: when, why, from and to which pod, for what, and which policies refuse it. Of a flood
    /// only a part is shown, and then how many were not. One process can follow at a time.
    Drops(DropsArgs),
    /// Say what flock would do with manifests: offline, without privileges, touching nothing.
    ///
    /// For each pod: the families and what decides them, where each address would come from, how the network
    /// would hear of it, and which claim grants it. Pods are planned in the order written, each node starting
    /// empty; IPv6 addresses that are left to chance show as the prefix they come from.
    #[command(after_help = PLAN_HELP)]
    Plan(PlanArgs),
    /// Print the version.
    Version,
}

const PLAN_HELP: &str = "Exit status: 0 all of it holds; 1 a pod, a NodeConfig or another object has a problem; \
     2 the command line is wrong, or a file cannot be read.";

/// Arguments of `flock-agent run`.
#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of this node, as in `metadata.name` of its NodeConfig.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: String,
    /// Directory of NodeConfig, Pod and Namespace manifests (*.yaml, *.yml, *.json), watched for changes: flock
    /// without Kubernetes.
    #[arg(long, env = "FLOCK_MANIFESTS", value_name = "DIR", conflicts_with = "kubeconfig")]
    pub(crate) manifests: Option<PathBuf>,
    /// Kubeconfig that leads to the API server; with neither this nor --manifests the service account of the pod
    /// does.
    #[arg(long, env = "FLOCK_KUBECONFIG", value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Unix socket the plugin connects to; root only.
    #[arg(long, env = "FLOCK_SOCKET", value_name = "PATH", default_value = flock_cni::wire::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// File that keeps the allocations over a crash.
    #[arg(long, env = "FLOCK_STATE", value_name = "PATH", default_value = "/var/lib/flock/allocations.json")]
    pub(crate) state: PathBuf,
    /// Configuration file of BIRD, written here.
    #[arg(long, env = "FLOCK_BIRD_CONF", value_name = "PATH", default_value = "/run/flock/bird.conf")]
    pub(crate) bird_conf: PathBuf,
    /// Control socket of BIRD.
    #[arg(long, env = "FLOCK_BIRD_SOCKET", value_name = "PATH", default_value = "/run/flock/bird.ctl")]
    pub(crate) bird_socket: PathBuf,
    /// Address on which /livez and /readyz are answered, plain HTTP.
    #[arg(long, env = "FLOCK_METRICS_ADDR", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9474")]
    pub(crate) metrics_addr: SocketAddr,
    /// MTU of pods in bytes; the uplink's where not given.
    #[arg(long, env = "FLOCK_MTU", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub(crate) mtu: Option<u32>,
    /// What enforces NetworkPolicy and keeps pods to their own addresses.
    #[arg(long, env = "FLOCK_FIREWALL", value_name = "KIND", default_value = "nftables")]
    pub(crate) firewall: FirewallKind,
    /// Form of the log on standard error; `RUST_LOG` sets its level.
    #[arg(long, env = "FLOCK_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// What enforces policies.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FirewallKind {
    /// The nftables table `inet flock`.
    Nftables,
    /// Nothing: every packet passes, from whatever address. The table of an earlier run is removed.
    Off,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Arguments of `flock-agent status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Socket of the agent.
    #[arg(long, env = "FLOCK_SOCKET", value_name = "PATH", default_value = flock_cni::wire::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Form of the output.
    #[arg(short, long, env = "FLOCK_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
}

/// Arguments of `flock-agent plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Manifests (`NodeConfig`, `Pod`, `Namespace`, `NetworkPolicy`): a file, a directory (its *.yaml, *.yml, *.json), or - for
    /// standard input; may be given several times.
    #[arg(
        short,
        long = "filename",
        env = "FLOCK_PLAN_FILES",
        value_name = "FILE",
        required = true,
        num_args = 1..
    )]
    pub(crate) files: Vec<PathBuf>,
    /// Plan every pod on this node; where not given on the node it names, else on the only one configured.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<NodeName>,
    /// Say whether policies let a flow of this client pass, a pod or an address, instead of planning the pods.
    #[arg(long, env = "FLOCK_FROM", value_name = "NAMESPACE/POD|ADDRESS", requires = "to")]
    pub(crate) from: Option<String>,
    /// Server of the flow, a pod or an address.
    #[arg(long, env = "FLOCK_TO", value_name = "NAMESPACE/POD|ADDRESS", requires = "from")]
    pub(crate) to: Option<String>,
    /// Protocol and port of the server: tcp/PORT, udp/PORT, sctp/PORT; icmp for what policies cannot name.
    #[arg(long, env = "FLOCK_PORT", value_name = "PROTOCOL/PORT", default_value = "icmp")]
    pub(crate) port: String,
    /// Form of the output.
    #[arg(short, long, env = "FLOCK_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
}

/// Arguments of `flock-agent explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The pod.
    #[arg(env = "FLOCK_POD", value_name = "NAMESPACE/POD", value_parser = PodKey::parse)]
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub(crate) pod: Option<PodKey>,
    /// Client of a flow, a pod or an address.
    #[arg(long, env = "FLOCK_FROM", value_name = "NAMESPACE/POD|ADDRESS", requires = "to")]
    pub(crate) from: Option<String>,
    /// Server of the flow, a pod or an address.
    #[arg(long, env = "FLOCK_TO", value_name = "NAMESPACE/POD|ADDRESS", requires = "from")]
    pub(crate) to: Option<String>,
    /// Protocol and port of the server: tcp/PORT, udp/PORT, sctp/PORT; icmp for what policies cannot name.
    #[arg(long, env = "FLOCK_PORT", value_name = "PROTOCOL/PORT", default_value = "icmp")]
    pub(crate) port: String,
    /// Socket of the agent.
    #[arg(long, env = "FLOCK_SOCKET", value_name = "PATH", default_value = flock_cni::wire::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Form of the output.
    #[arg(short, long, env = "FLOCK_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
}

/// Arguments of `flock-agent drops`.
#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub(crate) struct DropsArgs {
    /// Socket of the agent, which knows pods and policies; without an agent lines show addresses only.
    #[arg(long, env = "FLOCK_SOCKET", value_name = "PATH", default_value = flock_cni::wire::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Form of the output; JSON is one object per line.
    #[arg(short, long, env = "FLOCK_OUTPUT", value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Lines or aligned columns for people.
    Table,
    /// JSON.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_reads_the_environment_and_has_help() {
        for command in Cli::command().get_subcommands() {
            for argument in
                command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str()))
            {
                assert!(argument.get_env().is_some(), "{} {}", command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
