//! A containerd beside that of the machine, if it has one, and its client `ctr`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::cluster::Cluster;
use crate::lab::execute::{self, Done, Patience};
use crate::lab::netns::Netns;
use crate::lab::topology::NODES;

/// How long `ctr` may take for one thing.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

/// A containerd that runs.
#[derive(Debug)]
pub(super) struct Containerd {
    socket: PathBuf,
    /// In containerd's sense; containers are in a cgroup of this name, too.
    namespace: String,
    /// Containers of the host's network are in the network containerd is in.
    netns: Netns,
    patience: Patience,
    /// False where runc can do nothing with the cgroups of this machine.
    cgroups: bool,
}

impl Containerd {
    /// Starts it on the first node and waits until it answers; its version.
    pub(super) fn start(lab: &mut Cluster, namespace: &str) -> Result<(Self, String)> {
        // Not in the lab's directory: what is mounted below it goes with the mount namespace only.
        let dir = Path::new("/run/containerd");
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let config = dir.join("config.toml");
        // Only the kubelet speaks to the part that is left out.
        fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
            .with_context(|| format!("cannot write {}", config.display()))?;
        let containerd = Self {
            socket: dir.join("containerd.sock"),
            namespace: namespace.to_owned(),
            netns: lab.state.netns(NODES[0].name),
            patience: Patience::until(LIMIT, &lab.interrupt),
            cgroups: true,
        };
        let mut daemon = Command::new("containerd");
        daemon.arg("--config").arg(&config).arg("--address").arg(&containerd.socket);
        daemon.arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
        lab.start_daemon("containerd", NODES[0].name, &mut daemon)?;
        let version = lab.wait_for("containerd answers", || containerd.succeed(&["version"]))?;
        let version = version.lines().rev().find_map(|line| line.trim().strip_prefix("Version:"));
        let version = format!("containerd {}", version.context("containerd has no version")?.trim());
        Ok((containerd, version))
    }

    /// Imports the image and runs it; what `flock-agent version` says.
    pub(super) fn import(&mut self, archive: &Path, image: &str) -> Result<String> {
        self.succeed(&["image", "import", &archive.display().to_string()])?;
        let images = self.succeed(&["image", "list", "--quiet"])?;
        if images.trim() != image {
            bail!("the manifests name the image {image}, the archive {}", images.trim());
        }
        let version = |containerd: &Self| {
            // With a limit, as the containers of the DaemonSet have.
            let limit = ["--memory-limit", "67108864"].into_iter().filter(|_| containerd.cgroups);
            let options: Vec<_> = ["--rm"].into_iter().chain(limit).map(str::to_owned).collect();
            let mut run = containerd.run("version", &options, image);
            containerd.succeed_in(run.args(["flock-agent", "version"]))
        };
        let done = version(self).or_else(|error| {
            if !format!("{error:#}").contains("cgroup") {
                return Err(error);
            }
            self.cgroups = false;
            version(self)
        })?;
        Ok(done.stdout.trim().to_owned())
    }

    /// Whether containers have cgroups.
    pub(super) fn cgroups(&self) -> bool {
        self.cgroups
    }

    /// `ctr run` of a container of this image, without a command yet.
    pub(super) fn run(&self, id: &str, options: &[String], image: &str) -> Command {
        let mut ctr = self.ctr();
        ctr.arg("run").args(options);
        if !self.cgroups {
            ctr.args(["--cgroup", "", "--cpu-shares", "0"]);
        }
        ctr.args([image, id]);
        ctr
    }

    /// `ctr` with these arguments: what it prints, once it has succeeded.
    pub(super) fn succeed(&self, arguments: &[&str]) -> Result<String> {
        self.succeed_in(self.ctr().args(arguments)).map(|done| done.stdout)
    }

    /// Runs a command where the node is.
    pub(super) fn succeed_in(&self, command: &mut Command) -> Result<Done> {
        let done = execute::run(command, Some(&self.netns), "", &self.patience)?;
        if !done.status.success() {
            bail!("`{}` failed: {}: {}", crate::cmd::show(command), done.status, done.stderr.trim());
        }
        Ok(done)
    }

    /// Runs a command in a container; what it prints.
    pub(super) fn exec(&self, id: &str, command: &[&str]) -> Result<String> {
        let exec = format!("exec-{}", crate::lab::random::hex(4)?);
        let mut ctr = self.ctr();
        ctr.args(["task", "exec", "--exec-id", &exec, id]).args(command);
        self.succeed_in(&mut ctr).map(|done| done.stdout)
    }

    /// Sends a signal to the first process of a container.
    pub(super) fn signal(&self, id: &str, signal: &str) -> Result<()> {
        self.succeed(&["task", "kill", "--signal", signal, id]).map(drop)
    }

    /// The first process of a container.
    pub(super) fn pid(&self, id: &str) -> Result<i32> {
        let tasks = self.succeed(&["task", "list"])?;
        let mut rows = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.first() == Some(&id)).with_context(|| format!("no task {id}"))?;
        row.get(1).and_then(|pid| pid.parse().ok()).with_context(|| format!("task {id} has no process"))
    }

    /// The capabilities a container has where nothing is said about them.
    pub(super) fn default_capabilities(&self) -> Result<Vec<String>> {
        let spec = self.succeed(&["oci", "spec"])?;
        let spec: Value = serde_json::from_str(&spec).context("`ctr oci spec` did not print JSON")?;
        serde_json::from_value(spec["process"]["capabilities"]["bounding"].clone())
            .context("the default specification has no capabilities")
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.env("CONTAINERD_ADDRESS", &self.socket).env("CONTAINERD_NAMESPACE", &self.namespace);
        ctr
    }
}
