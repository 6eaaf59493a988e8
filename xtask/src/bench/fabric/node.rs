//! A node: `flock-agent bird`, `flock-agent run`, and a directory of manifests.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::{Daemon, eventually, settle, wire};
use crate::bench::netns::Netns;
use crate::bench::plugin::{self, Plugin};
use crate::build::Dist;

/// Whether a pod is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Standing {
    /// It says it is ready.
    Ready,
    /// It says it is not.
    NotReady,
}

/// The pools of a node.
pub(super) fn pools(number: u8) -> [IpNet; 2] {
    let low = 64 * (number - 1);
    let v4 = std::net::Ipv4Addr::new(198, 51, 100, low);
    let v6 = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xf000 + u16::from(number), 0, 0, 0, 0, 0);
    [IpNet::new_assert(v6.into(), 64), IpNet::new_assert(v4.into(), 26)]
}

/// Both ends of the wire to a node, the router's first; IPv6 before IPv4.
pub(super) fn link(number: u8) -> [[String; 2]; 2] {
    let [router, own] = [1, 2].map(|end| {
        [format!("2001:db8:0:{number}::{end}"), format!("192.0.2.{}", 16 * u16::from(number) + end)]
    });
    [router, own]
}

/// A pod on a node.
pub(in crate::bench) struct Pod {
    pub(in crate::bench) sandbox: plugin::Pod,
    anycast: String,
}

/// A node with a running BIRD and, most of the time, a running agent.
pub(in crate::bench) struct FabricNode {
    name: String,
    netns: Netns,
    dir: PathBuf,
    plugin: Plugin,
    agent_program: PathBuf,
    // The agent first: it is the first to go.
    agent: Option<Daemon>,
    _bird: Daemon,
}

impl FabricNode {
    pub(super) fn start(dist: &Dist, router: &Netns, dir: &Path, number: u8) -> Result<Self> {
        let name = format!("node{number}");
        let (dir, netns) = (dir.join(&name), Netns::new()?);
        fs::create_dir_all(dir.join("manifests")).context("cannot make the manifest directory")?;
        netns.run(|| settle(&name))?;
        let [gateways, own] = link(number);
        let [gateway6, gateway4] = gateways;
        let gateways = [format!("{gateway6}/64"), format!("{gateway4}/28")];
        wire(
            router,
            &netns,
            &name,
            gateways.each_ref().map(String::as_str),
            own.each_ref().map(String::as_str),
        )?;
        let mut bird = Command::new(&dist.agent);
        bird.args(["bird", "--node-name", &name]);
        bird.arg("--bird-conf").arg(dir.join("bird.conf")).arg("--bird-socket").arg(dir.join("bird.ctl"));
        let bird = Daemon::start(&mut bird, &netns, &dir.join("bird.log"))?;
        let plugin = Plugin::new(&dist.flock, &dir.join("agent.sock"));
        let agent_program = dist.agent.clone();
        let mut node = Self { name, netns, dir, plugin, agent_program, agent: None, _bird: bird };
        node.place("node.yaml", &node.config(number))?();
        node.start_agent()?;
        Ok(node)
    }

    fn config(&self, number: u8) -> String {
        let [pool6, pool4] = pools(number);
        let [[peer6, peer4], _] = link(number);
        let name = &self.name;
        format!(
            "
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {{ name: {name} }}
spec:
  cidr6: ['{pool6}']
  cidr4: ['{pool4}']
  bgp:
    asn: {asn}
    peers:
      - {{ address: '{peer6}', asn: {router} }}
      - {{ address: '{peer4}', asn: {router} }}
",
            asn = super::router::node_asn(number),
            router = super::router::ASN,
        )
    }

    /// Starts the agent and waits until it serves.
    pub(in crate::bench) fn start_agent(&mut self) -> Result<()> {
        let mut run = Command::new(&self.agent_program);
        run.args(["run", "--node-name", &self.name]);
        for (flag, file) in [
            ("--manifests", "manifests"),
            ("--socket", "agent.sock"),
            ("--state", "allocations.json"),
            ("--bird-conf", "bird.conf"),
            ("--bird-socket", "bird.ctl"),
        ] {
            run.arg(flag).arg(self.dir.join(file));
        }
        self.agent = Some(Daemon::start(&mut run, &self.netns, &self.dir.join("agent.log"))?);
        eventually(|| self.plugin.ready()).context("the agent is not ready")
    }

    /// Kills the agent, and it alone.
    pub(in crate::bench) fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().context("there is no agent")?.kill()
    }

    /// The namespace of the node.
    pub(in crate::bench) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Makes a pod that has these anycast addresses.
    pub(in crate::bench) fn add(&self, number: usize, anycast: &str, standing: Standing) -> Result<Pod> {
        let pod = Pod { sandbox: plugin::Pod::new(number)?, anycast: anycast.to_owned() };
        self.change(&pod, standing)?();
        self.plugin.execute("ADD", &pod.sandbox, &[])?;
        Ok(pod)
    }

    /// Prepares a change of a pod's manifest; calling what this returns makes it.
    pub(in crate::bench) fn change(&self, pod: &Pod, standing: Standing) -> Result<impl FnOnce() + use<>> {
        let number = pod.sandbox.number;
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "
apiVersion: v1
kind: Pod
metadata:
  namespace: bench
  name: pod-{number}
  annotations: {{ flock.fritzlab.net/anycast: '{anycast}' }}
spec:
  nodeName: {node}
  containers: [{{ name: main, image: registry.example/main:1 }}]
status:
  conditions: [{{ type: Ready, status: '{ready}' }}]
",
            anycast = pod.anycast,
            node = self.name,
            ready = if standing == Standing::Ready { "True" } else { "False" },
        );
        self.place(&format!("pod-{number}.yaml"), &text)
    }

    /// Detaches a pod and takes its manifest away.
    pub(in crate::bench) fn del(&self, pod: &Pod) -> Result<()> {
        self.plugin.execute("DEL", &pod.sandbox, &[])?;
        let manifest = self.dir.join("manifests").join(format!("pod-{}.yaml", pod.sandbox.number));
        fs::remove_file(manifest).context("cannot remove a manifest")
    }

    /// Writes a manifest beside its place; calling what this returns moves it there.
    fn place(&self, name: &str, text: &str) -> Result<impl FnOnce() + use<>> {
        let place = self.dir.join("manifests").join(name);
        let fresh = self.dir.join(format!("{name}.new"));
        fs::write(&fresh, text).context("cannot write a manifest")?;
        Ok(move || {
            if let Err(error) = fs::rename(&fresh, &place) {
                eprintln!("cannot move a manifest into place: {error}");
            }
        })
    }
}
