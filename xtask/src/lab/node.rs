//! A node: BIRD and the agent in a namespace, with a directory of manifests in the place of a cluster.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::execute::{self, Patience};
use super::netns::Netns;
use super::pod::Sandbox;
use super::process::Daemon;
use super::state::State;
use super::topology::{Family, NAMESPACE, Node, ROUTER_ASN};

/// Route protocols of flock: announced, and not.
const PROTOCOLS: [u8; 2] = [117, 118];

/// Where a node keeps its things.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) node: &'static Node,
    pub(super) netns: Netns,
    agent: PathBuf,
    dir: PathBuf,
}

impl Host {
    /// The node's end of things in this lab; `agent` is the program.
    pub(super) fn new(state: &State, node: &'static Node, agent: &Path) -> Result<Self> {
        let dir = state.element_dir(node.name)?;
        Ok(Self { node, netns: state.netns(node.name), agent: agent.to_owned(), dir })
    }

    /// The socket the plugin talks to.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// What tells the commands of flock which node they are on.
    pub(super) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("NODE_NAME", self.node.name.into()),
            ("FLOCK_SOCKET", self.socket()),
            ("FLOCK_STATE", self.dir.join("allocations.json")),
            ("FLOCK_MANIFESTS", self.manifests()),
            ("FLOCK_BIRD_CONF", self.dir.join("bird.conf")),
            ("FLOCK_BIRD_SOCKET", self.bird_socket()),
        ]
    }

    /// The control socket of the node's BIRD.
    pub(super) fn bird_socket(&self) -> PathBuf {
        self.dir.join("bird.ctl")
    }

    /// The directory the agent reads its configuration and its pods from.
    pub(super) fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// What the agent says.
    pub(super) fn agent_log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Writes what `kubectl` would otherwise have applied.
    pub(super) fn write_manifests(&self, pods: &[&Sandbox]) -> Result<()> {
        let dir = self.manifests();
        let pods: Vec<_> = pods.iter().map(|pod| pod_manifest(self.node, pod)).collect();
        let write = || {
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("node.yaml"), node_manifest(self.node))?;
            fs::write(dir.join("pods.yaml"), pods.join("---\n"))
        };
        write().with_context(|| format!("cannot write manifests into {}", dir.display()))
    }

    /// Starts BIRD and the agent.
    pub(super) fn start(&self) -> Result<[Daemon; 2]> {
        let conf = self.dir.join("bird.conf");
        let mut bird = Command::new(&self.agent);
        bird.args(["bird", "--node-name", self.node.name]);
        bird.arg("--bird-conf").arg(&conf).arg("--bird-socket").arg(self.bird_socket());
        let mut run = Command::new(&self.agent);
        run.args(["run", "--node-name", self.node.name]);
        run.arg("--manifests").arg(self.manifests()).arg("--socket").arg(self.socket());
        run.arg("--state").arg(self.dir.join("allocations.json"));
        run.arg("--bird-conf").arg(&conf).arg("--bird-socket").arg(self.bird_socket());
        let name = self.node.name;
        Ok([
            Daemon::start(name, &mut bird, &self.netns, &self.dir.join("bird.log"))?,
            Daemon::start(name, &mut run, &self.netns, &self.agent_log())?,
        ])
    }

    /// Traces of pods on this node: links, routes other than the aggregates, allocations.
    pub(super) fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for link in self.netns.show("link show")? {
            let name = link["ifname"].as_str().unwrap_or("?");
            if !["lo", "eth0"].contains(&name) {
                found.push(format!("{}: link {name}", self.node.name));
            }
        }
        for family in Family::ALL {
            for protocol in PROTOCOLS {
                for route in self.netns.show(&format!("{} route show proto {protocol}", family.option()))? {
                    let destination = route["dst"].as_str().unwrap_or("?");
                    let aggregate = protocol == PROTOCOLS[0]
                        && destination == self.node.pool(family).to_string()
                        && route["type"] == "unreachable";
                    if !aggregate {
                        found.push(format!("{}: route to {destination}", self.node.name));
                    }
                }
            }
        }
        for allocation in self.status()?["allocations"].as_array().context("the agent lists no allocations")? {
            found.push(format!("{}: allocation {}", self.node.name, allocation["attachment"]));
        }
        Ok(found)
    }

    /// The document `flock-agent status -o json` prints.
    fn status(&self) -> Result<serde_json::Value> {
        let mut status = Command::new(&self.agent);
        status.args(["status", "-o", "json", "--socket"]).arg(self.socket());
        let text = execute::succeed(&mut status, "", &Patience::SHORT)?.stdout;
        serde_json::from_str(&text).context("`flock-agent status -o json` did not print JSON")
    }
}

fn node_manifest(node: &Node) -> String {
    let router = node.link.router;
    format!(
        "\
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata:
  name: {name}
spec:
  cidr6: [\"{pool6}\"]
  cidr4: [\"{pool4}\"]
  bgp:
    asn: {asn}
    peers:
      - address: \"{v6}\"
        asn: {ROUTER_ASN}
      - address: \"{v4}\"
        asn: {ROUTER_ASN}
",
        name = node.name,
        pool6 = node.pool6,
        pool4 = node.pool4,
        asn = node.asn,
        v6 = router.v6,
        v4 = router.v4,
    )
}

fn pod_manifest(node: &Node, sandbox: &Sandbox) -> String {
    let off: Vec<_> = Family::ALL.into_iter().filter(|family| !sandbox.pod.wants(*family)).collect();
    let mut annotations = String::new();
    if !off.is_empty() {
        annotations.push_str("  annotations:\n");
    }
    for family in off {
        // Writing into a string cannot fail.
        let _ = writeln!(annotations, "    flock.fritzlab.net/ipv{}: \"false\"", family.number());
    }
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  namespace: {NAMESPACE}
  name: {name}
  uid: {uid}
{annotations}spec:
  nodeName: {node}
  containers:
    - name: main
      image: registry.example/{name}:1
",
        name = sandbox.pod.name,
        uid = sandbox.uid,
        node = node.name,
    )
}
