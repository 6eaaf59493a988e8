//! Pods, attached the way a container runtime does it: by executing the plugin.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::execute::{self, Patience};
use super::netns::Netns;
use super::random;
use super::router::is_link_local;
use super::state::State;
use super::topology::{self, Family, NAMESPACE, Node, Pod};

/// Versions of the CNI specification a runtime may speak; the pods take turns.
const CNI_VERSIONS: [&str; 3] = ["1.0.0", "0.4.0", "1.1.0"];

/// The file, in a pod's directory, that says how it was attached.
const RECORD: &str = "attachment.json";

/// A pod and what the runtime knows of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sandbox {
    container_id: String,
    uid: String,
    pod: String,
    netns: PathBuf,
    socket: PathBuf,
    cni_version: String,
}

/// What ADD gave a pod.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) pod: &'static str,
    pub(super) node: &'static str,
    pub(super) v6: Option<IpAddr>,
    pub(super) v4: Option<IpAddr>,
    /// From exec to result.
    pub(super) took: Duration,
    sandbox: Sandbox,
    result: Value,
}

impl Attached {
    /// The pod's address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V6 => self.v6,
            Family::V4 => self.v4,
        }
    }
}

impl Sandbox {
    /// A container of a pod that does not exist yet, written down so that another process can end it.
    pub(super) fn create(state: &State, pod: &str, socket: PathBuf) -> Result<Self> {
        let sandbox = Self {
            container_id: random::hex(32)?,
            uid: random::uuid()?,
            pod: pod.to_owned(),
            netns: state.netns(pod).path(),
            socket,
            cni_version: version_of(pod).to_owned(),
        };
        let file = state.element_dir(pod)?.join(RECORD);
        std::fs::write(&file, serde_json::to_vec(&sandbox)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(sandbox)
    }

    /// The one that was written down.
    pub(super) fn read(state: &State, pod: &Pod) -> Result<Self> {
        let file = state.element_dir(pod.name)?.join(RECORD);
        let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} makes no sense", file.display()))
    }

    fn execute(
        &self,
        plugin: &Path,
        verb: &str,
        previous: Option<&Value>,
        patience: &Patience,
    ) -> Result<execute::Done> {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={};K8S_POD_UID={}",
            self.pod, self.uid
        );
        let mut command = Command::new(plugin);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &self.container_id);
        command.env("CNI_NETNS", &self.netns).env("CNI_IFNAME", "eth0");
        command.env("CNI_ARGS", args).env("CNI_PATH", plugin.parent().unwrap_or(Path::new("/")));
        let mut config = json!({
            "cniVersion": self.cni_version, "name": "lab", "type": "flock", "agentSocket": self.socket,
        });
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let done = execute::run(&mut command, None, &config.to_string(), patience)?;
        if !done.status.success() {
            // The error of a plugin is its standard output.
            let answer: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
            let said = answer["msg"].as_str().unwrap_or_else(|| done.stdout.trim());
            bail!("{verb} of {NAMESPACE}/{}: code {}: {said}", self.pod, answer["code"]);
        }
        Ok(done)
    }

    /// ADD.
    pub(super) fn add(
        self,
        plugin: &Path,
        node: &Node,
        pod: &'static Pod,
        patience: &Patience,
    ) -> Result<Attached> {
        let done = self.execute(plugin, "ADD", None, patience)?;
        let result: Value = serde_json::from_str(&done.stdout).context("ADD did not print JSON")?;
        let ips = result["ips"].as_array().map_or(&[][..], Vec::as_slice);
        let addresses: Vec<IpAddr> =
            ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
        let of = |family| addresses.iter().copied().find(|address| Family::of(*address) == family);
        let (v6, v4) = (of(Family::V6), of(Family::V4));
        let (pod_name, took) = (pod.name, done.took);
        let attached = Attached { pod: pod_name, node: node.name, v6, v4, took, sandbox: self, result };
        for family in Family::ALL {
            let asks = pod.asks(family);
            if !asks.is_met_by(attached.address(family), node.pool(family)) {
                let given = done.stdout.trim();
                bail!("ADD of {NAMESPACE}/{pod_name} was to give {asks:?} of {family:?}, and gave {given}");
            }
        }
        Ok(attached)
    }

    /// ADD of a pod that cannot have what it asks for: the error, for people.
    pub(super) fn add_refused(&self, plugin: &Path, patience: &Patience) -> Result<String> {
        match self.execute(plugin, "ADD", None, patience) {
            Ok(done) => {
                bail!("ADD of {NAMESPACE}/{} should be refused, and gave {}", self.pod, done.stdout.trim())
            }
            Err(error) => Ok(error.to_string()),
        }
    }

    /// DEL.
    pub(super) fn del(&self, plugin: &Path) -> Result<()> {
        self.execute(plugin, "DEL", None, &Patience::SHORT).map(drop)
    }
}

impl Attached {
    /// What a runtime relies on: CHECK agrees with the result, and the same ADD again gives it again. And the
    /// pod has these addresses and no other.
    pub(super) fn verify(&self, netns: &Netns, plugin: &Path, patience: &Patience) -> Result<()> {
        let mut own = addresses_of_eth0(netns)?;
        own.retain(|address| !is_link_local(*address));
        let expected: Vec<_> = Family::ALL.iter().filter_map(|family| self.address(*family)).collect();
        if own.len() != expected.len() || expected.iter().any(|address| !own.contains(address)) {
            bail!("{NAMESPACE}/{} has {own:?} on eth0, and should have {expected:?}", self.pod);
        }
        self.sandbox.execute(plugin, "CHECK", Some(&self.result), patience)?;
        let again = self.sandbox.execute(plugin, "ADD", None, patience)?;
        if serde_json::from_str::<Value>(&again.stdout).ok().as_ref() != Some(&self.result) {
            bail!("the second ADD of {NAMESPACE}/{} gave another result: {}", self.pod, again.stdout.trim());
        }
        Ok(())
    }
}

/// What is on the pod's end of its link.
pub(super) fn addresses_of_eth0(netns: &Netns) -> Result<Vec<IpAddr>> {
    let shown = netns.show("address show dev eth0")?;
    let addresses = shown.iter().flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
    Ok(addresses.filter_map(|address| address["local"].as_str()?.parse().ok()).collect())
}

/// The version of the specification that is spoken for a pod.
fn version_of(pod: &str) -> &'static str {
    let index = topology::pods().position(|(_, other)| other.name == pod).unwrap_or(0);
    CNI_VERSIONS.into_iter().cycle().nth(index).unwrap_or("1.0.0")
}
