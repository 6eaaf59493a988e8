//! A node: a network namespace with a real agent in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::plugin::Plugin;
use crate::build::Dist;
use crate::cmd;

/// How long to wait for something that takes a fraction of a second when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

/// Name of the node.
pub(super) const NAME: &str = "bench";

/// Room for some 600 pods, those whose addresses are cooling down included. No peers: nothing here is announced.
const NODE_CONFIG: &str = "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: { name: bench }
spec:
  cidr6: [2001:db8:f001::/64]
  cidr4: [192.0.2.128/25, 198.51.100.0/24, 203.0.113.0/24]
  bgp: { asn: 64496, routerID: 192.0.2.1 }
";

/// A running agent. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Node {
    agent: Child,
    program: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    // The paths above are in here.
    _runtime: TempDir,
    _state: TempDir,
}

impl Node {
    /// Starts an agent without Kubernetes in the network namespace of this thread, and waits until it is ready.
    pub(super) fn start(dist: &Dist) -> Result<Self> {
        Self::launch(dist, |command, runtime| {
            let manifests = runtime.join("manifests");
            fs::create_dir(&manifests).context("cannot make the manifest directory")?;
            fs::write(manifests.join("node.yaml"), NODE_CONFIG).context("cannot write the manifest")?;
            command.arg("--manifests").arg(manifests);
            Ok(())
        })
    }

    /// The same with an API server, which has the NodeConfig, in the environment that `deploy/daemonset.yaml` gives it.
    pub(super) fn start_in_cluster(dist: &Dist, kubeconfig: &Path) -> Result<Self> {
        Self::launch(dist, |command, _| {
            command.arg("--kubeconfig").arg(kubeconfig).env("MALLOC_ARENA_MAX", "2");
            Ok(())
        })
    }

    /// `cluster` says where the agent learns of it; the directory it is given goes with the node.
    fn launch(dist: &Dist, cluster: impl FnOnce(&mut Command, &Path) -> Result<()>) -> Result<Self> {
        cmd::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let temporary = |parent: &Path| {
            let made = tempfile::Builder::new().prefix("flock-bench-").tempdir_in(parent);
            made.with_context(|| format!("cannot make a directory in {}", parent.display()))
        };
        // Socket paths must be short; the state belongs on a real disk, or making it durable would cost nothing.
        let runtime = temporary(&std::env::temp_dir())?;
        let state = temporary(&cmd::root().join("target"))?;
        let log = runtime.path().join("agent.log");
        let log_file = File::create(&log).context("cannot create the log")?;

        let inside = |name: &str| runtime.path().join(name);
        let socket = inside("agent.sock");
        let mut command = Command::new(&dist.agent);
        command.args(["run", "--node-name", NAME]);
        cluster(&mut command, runtime.path())?;
        command.arg("--socket").arg(&socket);
        command.arg("--state").arg(state.path().join("allocations.json"));
        command.arg("--bird-conf").arg(inside("bird.conf")).arg("--bird-socket").arg(inside("bird.ctl"));
        command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let agent = command.spawn().with_context(|| format!("cannot execute {}", dist.agent.display()))?;
        let mut node =
            Self { agent, program: dist.agent.clone(), socket, log, _runtime: runtime, _state: state };
        let plugin = node.plugin(&dist.flock);
        node.wait("the agent to be ready", |_| plugin.ready())?;
        Ok(node)
    }

    /// `program`, configured to talk to this agent.
    pub(super) fn plugin(&self, program: &Path) -> Plugin {
        Plugin::new(program, &self.socket)
    }

    /// The process of the agent.
    pub(super) fn pid(&self) -> u32 {
        self.agent.id()
    }

    /// What the agent says of itself.
    pub(super) fn report(&self) -> Result<serde_json::Value> {
        let mut status = Command::new(&self.program);
        let text = cmd::output(status.args(["status", "-o", "json", "--socket"]).arg(&self.socket))?;
        serde_json::from_str(&text).context("flock-agent status did not print JSON")
    }

    /// What the agent has logged so far.
    pub(super) fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("cannot read the log of the agent")
    }

    /// Fails, with the end of the log, if the agent is not running any more.
    pub(super) fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.agent.try_wait().context("cannot look after the agent")? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(20).collect();
            bail!(
                "the agent has ended, {status}:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        Ok(())
    }

    /// Waits until `condition` holds while the agent lives.
    pub(super) fn wait(&mut self, what: &str, condition: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.alive()?;
            let Err(error) = condition(self) else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(error.context(format!("waited {PATIENCE:?} for {what}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a link that was detached is gone: the agent deletes it after it has answered.
    pub(super) fn wait_for_link_to_go(&mut self, ifname: &str) -> Result<()> {
        self.wait("a link to go", |_| match nix::net::if_::if_nametoindex(ifname) {
            Ok(_) => bail!("{ifname} is still there"),
            Err(_) => Ok(()),
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.agent.id())
            && let Ok(None) = self.agent.try_wait()
        {
            // If it cannot be signalled it has ended, and that is all that is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let _ = self.agent.wait();
        }
    }
}
