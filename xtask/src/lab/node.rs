//! A node of the lab: its configuration as an operator would write it, and its two daemons.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::execute::{self, Patience};
use super::process::Daemon;
use super::state::State;
use super::topology::{NAMESPACE, NODES, Node, REFUSED, ROUTER_ASN};

/// Where a node keeps its things.
#[derive(Debug, Clone)]
pub(super) struct NodeDir(PathBuf);

impl NodeDir {
    /// The directory of this node.
    pub(super) fn new(state: &State, node: &Node) -> Result<Self> {
        Ok(Self(state.element_dir(node.name)?))
    }

    /// The agent's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// What makes commands of flock talk to this node.
    pub(super) fn environment(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("FLOCK_SOCKET", self.socket()),
            ("FLOCK_BIRD_CONF", self.0.join("bird.conf")),
            ("FLOCK_BIRD_SOCKET", self.0.join("bird.ctl")),
        ]
    }

    fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    /// Writes the manifests of the node and its pods, in the form `kubectl` takes.
    pub(super) fn write_manifests(&self, node: &Node) -> Result<()> {
        let dir = self.manifests();
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let refused = REFUSED.iter().filter(|_| node.name == NODES[0].name);
        let refused = refused.map(|pod| pod_manifest(pod.name, &[pod.annotation], node));
        let pods = node.pods.iter().map(|pod| pod_manifest(pod.name, pod.annotations, node));
        let pods: Vec<_> = pods.chain(refused).collect();
        for (name, text) in [("node.yaml", node_config(node)), ("pods.yaml", pods.join("---\n"))] {
            let (file, fresh) = (dir.join(name), dir.join(format!(".{name}.new")));
            fs::write(&fresh, text)
                .and_then(|()| fs::rename(&fresh, &file))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// Starts BIRD, then the agent, as two containers of one pod would.
    pub(super) fn start(&self, state: &State, node: &'static Node, agent: &Path) -> Result<Vec<Daemon>> {
        let netns = state.netns(node.name);
        let mut bird = Command::new(agent);
        bird.args(["bird", "--node-name", node.name]);
        let mut run = Command::new(agent);
        run.args(["run", "--node-name", node.name]);
        for command in [&mut bird, &mut run] {
            command.arg("--bird-conf").arg(self.0.join("bird.conf"));
            command.arg("--bird-socket").arg(self.0.join("bird.ctl"));
        }
        run.arg("--manifests").arg(self.manifests());
        run.arg("--socket").arg(self.socket()).arg("--state").arg(self.0.join("allocations.json"));
        Ok(vec![
            Daemon::start(node.name, &mut bird, &netns, &self.0.join("bird.log"))?,
            Daemon::start(node.name, &mut run, &netns, &self.0.join("agent.log"))?,
        ])
    }

    /// What `flock-agent status -o json` says. Fails until the agent answers.
    pub(super) fn status(&self, agent: &Path) -> Result<Value> {
        let mut command = Command::new(agent);
        command.args(["status", "-o", "json", "--socket"]).arg(self.socket());
        let text = execute::succeed(&mut command, "", &Patience::SHORT)?.stdout;
        serde_json::from_str(&text).context("`flock-agent status -o json` did not print JSON")
    }
}

fn node_config(node: &Node) -> String {
    let router = node.link.router;
    format!(
        "\
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata:
  name: {name}
spec:
  cidr6: ['{pool6}']
  cidr4: ['{pool4}']
  bgp:
    asn: {asn}
    peers:
      - {{ address: '{v6}', asn: {ROUTER_ASN} }}
      - {{ address: '{v4}', asn: {ROUTER_ASN} }}
",
        name = node.name,
        pool6 = node.pool6,
        pool4 = node.pool4,
        asn = node.asn,
        v6 = router.v6,
        v4 = router.v4,
    )
}

fn pod_manifest(name: &str, annotations: &[(&str, &str)], node: &Node) -> String {
    let lines = annotations.iter().map(|(key, value)| format!("    flock.fritzlab.net/{key}: '{value}'\n"));
    let annotations = if annotations.is_empty() {
        String::new()
    } else {
        format!("  annotations:\n{}", lines.collect::<String>())
    };
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  namespace: {NAMESPACE}
  name: {name}
{annotations}spec:
  nodeName: {node}
  containers:
    - name: main
      image: registry.example/main:1
",
        node = node.name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_written_as_an_operator_would() {
        let manifest = pod_manifest("web", &[("ipv4", "no"), ("cidr6", "2001:db8::/64")], &NODES[0]);
        assert!(manifest.contains("\n  annotations:\n    flock.fritzlab.net/ipv4: 'no'\n"), "{manifest}");
        assert!(!pod_manifest("web", &[], &NODES[0]).contains("annotations"));
    }
}
