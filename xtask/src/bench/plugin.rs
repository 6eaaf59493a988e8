//! Executing a plugin as a container runtime does.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::netns::Netns;

/// A pod that may be attached.
#[derive(Debug)]
pub(super) struct Pod {
    /// `None` once it is gone.
    netns: Option<Netns>,
    /// Different for every pod of a run.
    pub(super) number: usize,
}

impl Pod {
    pub(super) fn new(number: usize) -> Result<Self> {
        Ok(Self { netns: Some(Netns::new()?), number })
    }

    /// Its network namespace, while it has one.
    pub(super) fn netns(&self) -> Option<&Netns> {
        self.netns.as_ref()
    }

    /// The kernel takes the namespace away, and all links in it, as soon as nothing is in it any more.
    pub(super) fn close(&mut self) {
        self.netns = None;
    }

    /// The environment of `verb` for this pod, in the form containerd gives it.
    fn environment(&self, verb: &str, command: &mut Command) {
        let number = self.number;
        let identity = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod-{number};K8S_POD_INFRA_CONTAINER_ID={number:064x};\
             K8S_POD_UID=00000000-0000-4000-8000-{number:012x}"
        );
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", format!("{number:064x}"));
        command
            .env("CNI_NETNS", self.netns.as_ref().map_or_else(PathBuf::new, Netns::path))
            .env("CNI_IFNAME", "eth0");
        command.env("CNI_ARGS", identity).env("CNI_PATH", "/opt/cni/bin");
    }
}

/// A plugin, and the configuration it is given.
#[derive(Debug, Clone)]
pub(super) struct Plugin {
    program: PathBuf,
    config: String,
}

impl Plugin {
    pub(super) fn new(program: &Path, agent_socket: &Path) -> Self {
        let config = json!({
            "cniVersion": "1.1.0", "name": "flock", "type": "flock", "agentSocket": agent_socket,
        });
        Self { program: program.to_owned(), config: config.to_string() }
    }

    /// Executes `verb` for `pod`, with arguments a plugin normally does not have.
    pub(super) fn execute(&self, verb: &str, pod: &Pod, arguments: &[String]) -> Result<Answer> {
        let mut command = Command::new(&self.program);
        pod.environment(verb, &mut command);
        self.finish(command.args(arguments)).with_context(|| format!("{verb} of pod {}", pod.number))
    }

    /// Whether the agent behind the plugin says it is ready.
    pub(super) fn ready(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        self.finish(command.env("CNI_COMMAND", "STATUS").env("CNI_PATH", "/opt/cni/bin")).map(drop)
    }

    fn finish(&self, command: &mut Command) -> Result<Answer> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut text = String::new();
        let began = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot execute {}", self.program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.config.as_bytes()).context("the plugin does not read its configuration")?;
        }
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut text).context("the plugin does not print text")?;
        }
        let status = child.wait()?;
        let returned = Instant::now();
        if !status.success() {
            bail!("{status}: {}", text.trim());
        }
        Ok(Answer { began, returned, text })
    }
}

/// What a successful execution gave.
#[derive(Debug)]
pub(super) struct Answer {
    /// Just before exec.
    pub(super) began: Instant,
    /// The end of the process.
    pub(super) returned: Instant,
    text: String,
}

impl Answer {
    /// From exec to the end of the process.
    pub(super) fn took(&self) -> Duration {
        self.returned.duration_since(self.began)
    }

    /// The result of an ADD.
    pub(super) fn result(&self) -> Result<Attached> {
        let result: Value = serde_json::from_str(&self.text).context("the plugin's result is not JSON")?;
        let host_ifname =
            result["interfaces"][0]["name"].as_str().context("the result names no interface")?;
        let ips = result["ips"].as_array().context("the result has no addresses")?;
        let address = |ip: &Value| {
            let (address, _) = ip["address"].as_str()?.split_once('/')?;
            address.parse().ok()
        };
        let addresses = ips.iter().map(address).collect::<Option<Vec<IpAddr>>>();
        Ok(Attached {
            host_ifname: host_ifname.to_owned(),
            addresses: addresses.with_context(|| format!("cannot read the addresses of {result}"))?,
        })
    }
}

/// What an ADD made.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) host_ifname: String,
    pub(super) addresses: Vec<IpAddr>,
}
