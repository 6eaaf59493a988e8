//! Pods: network namespaces that get their interface the way a container runtime does it, by executing the
//! plugin with the CNI environment and the network configuration on stdin.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::execute::{self, Done, Patience};
use super::interrupt::Interrupt;
use super::netns::Netns;
use super::node::Host;
use super::random;
use super::state::State;
use super::topology::{Family, NAMESPACE, Node, Pod};

/// "Try again later" (CNI specification, "Error").
const TRY_AGAIN: u64 = 11;

/// How long a runtime would keep trying at the least.
const PATIENCE: Duration = Duration::from_secs(15);

/// A pod before it has a network: what the runtime knows of it.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    pub(super) node: &'static Node,
    pub(super) pod: &'static Pod,
    pub(super) uid: String,
    pub(super) netns: Netns,
    container_id: String,
}

impl Sandbox {
    /// Makes up the identity of a pod.
    pub(super) fn new(state: &State, node: &'static Node, pod: &'static Pod) -> Result<Self> {
        let netns = state.netns(pod.name);
        Ok(Self { node, pod, uid: random::uuid()?, netns, container_id: random::hex(32)? })
    }
}

/// What an ADD brought.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) sandbox: Sandbox,
    pub(super) addresses: Vec<IpAddr>,
    /// From executing the plugin to its result.
    pub(super) took: Duration,
}

impl Attached {
    /// The pod's address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// Executes the plugin in the place of a runtime.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    plugin: PathBuf,
    interrupt: Interrupt,
}

impl Runtime {
    pub(super) fn new(plugin: &Path, interrupt: &Interrupt) -> Self {
        Self { plugin: plugin.to_owned(), interrupt: interrupt.clone() }
    }

    /// Whether the node takes pods: CNI STATUS.
    pub(super) fn status(&self, host: &Host) -> Result<()> {
        let done = self.execute(host, self.command("STATUS"))?;
        if done.status.success() { Ok(()) } else { bail!("{}: {}", host.node.name, refusal(&done)) }
    }

    /// CNI ADD, again while the plugin says that it may help.
    pub(super) fn add(&self, host: &Host, sandbox: &Sandbox) -> Result<Attached> {
        let started = Instant::now();
        loop {
            let done = self.execute(host, self.pod_command("ADD", sandbox))?;
            let what = || format!("ADD of {} on {}", sandbox.pod.name, host.node.name);
            let answer: Value = serde_json::from_str(&done.stdout)
                .with_context(|| format!("{}: the result is not JSON: {:?}", what(), done.stdout))?;
            if done.status.success() {
                let addresses = addresses(&answer).with_context(what)?;
                return Ok(Attached { sandbox: sandbox.clone(), addresses, took: done.took });
            }
            if answer["code"] != TRY_AGAIN || started.elapsed() > PATIENCE {
                bail!("{}: {}", what(), refusal(&done));
            }
            self.interrupt.check()?;
            sleep(Duration::from_millis(100));
        }
    }

    /// CNI DEL. Returns how long it took.
    pub(super) fn del(&self, host: &Host, sandbox: &Sandbox) -> Result<Duration> {
        let done = self.execute(host, self.pod_command("DEL", sandbox))?;
        if !done.status.success() {
            bail!("DEL of {} on {}: {}", sandbox.pod.name, host.node.name, refusal(&done));
        }
        Ok(done.took)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.plugin);
        let dir = self.plugin.parent().unwrap_or(Path::new("/"));
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_PATH", dir);
        command
    }

    fn pod_command(&self, verb: &str, sandbox: &Sandbox) -> Command {
        let mut command = self.command(verb);
        command.env("CNI_CONTAINERID", &sandbox.container_id);
        command.env("CNI_NETNS", sandbox.netns.path()).env("CNI_IFNAME", "eth0");
        let pod = format!("K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={}", sandbox.pod.name);
        command.env("CNI_ARGS", format!("IgnoreUnknown=1;{pod};K8S_POD_UID={}", sandbox.uid));
        command
    }

    fn execute(&self, host: &Host, mut command: Command) -> Result<Done> {
        let config =
            json!({ "cniVersion": "1.1.0", "name": "lab", "type": "flock", "agentSocket": host.socket() });
        // The plugin itself gives up after 47 s, with a better message.
        let patience = Patience::until(Duration::from_secs(60), &self.interrupt);
        execute::run(&mut command, Some(&host.netns), &config.to_string(), &patience)
    }
}

/// The addresses in a CNI result, which must be host prefixes.
fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"].as_array().context("the result has no ips")?;
    ips.iter()
        .map(|ip| {
            let text = ip["address"].as_str().context("an entry of ips has no address")?;
            let prefix: ipnet::IpNet = text.parse().with_context(|| format!("{text:?} is not a prefix"))?;
            if prefix.prefix_len() != prefix.max_prefix_len() {
                bail!("{prefix} is more than one address");
            }
            Ok(prefix.addr())
        })
        .collect()
}

/// A CNI error in one line.
fn refusal(done: &Done) -> String {
    let error: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
    match (&error["code"], error["msg"].as_str(), error["details"].as_str().unwrap_or_default()) {
        (code, Some(msg), "") => format!("{msg} (code {code})"),
        (code, Some(msg), details) => format!("{msg}: {details} (code {code})"),
        (_, None, _) => format!("{}: {} {}", done.status, done.stdout.trim(), done.stderr.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_gives_addresses_and_nothing_wider() {
        let ips = |list: &[&str]| json!({ "ips": list.iter().map(|a| json!({ "address": a })).collect::<Vec<_>>() });
        let good = addresses(&ips(&["2001:db8::1/128", "192.0.2.1/32"])).unwrap();
        assert_eq!(good, ["2001:db8::1".parse::<IpAddr>().unwrap(), "192.0.2.1".parse().unwrap()]);
        for bad in [ips(&["2001:db8::1/64"]), ips(&["192.0.2.1"]), json!({})] {
            assert!(addresses(&bad).is_err(), "{bad}");
        }
    }
}
