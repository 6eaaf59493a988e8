//! A node of the lab: its configuration as an operator would write it, and its two daemons.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::execute::{self, Patience};
use super::process::Daemon;
use super::state::State;
use super::topology::{self, NAMESPACE, NODES, Node, Pod, REFUSED, ROUTER_ASN};

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

    /// Where its manifests are.
    pub(super) fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    /// Writes the manifests of the node and its pods, in the form `kubectl` takes. Pods that share an address
    /// have a file each, since each has a life of its own.
    pub(super) fn write_manifests(&self, node: &Node) -> Result<()> {
        let dir = self.manifests();
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let refused = REFUSED.iter().filter(|_| node.name == NODES[0].name);
        let refused = refused.map(|pod| pod_manifest(pod.name, &[pod.annotation], node));
        let (sharing, others): (Vec<_>, Vec<_>) = node.pods.iter().partition(|pod| pod.shares());
        let others = others.into_iter().map(|pod| pod_manifest(pod.name, pod.annotations, node));
        let pods: Vec<_> = others.chain(refused).collect();
        self.write("node.yaml", &node_config(node))?;
        self.write("pods.yaml", &pods.join("---\n"))?;
        sharing.into_iter().try_for_each(|pod| self.write_pod(node, pod, Life::Ready))
    }

    /// Writes the manifest of a pod that has a file of its own.
    pub(super) fn write_pod(&self, node: &Node, pod: &Pod, life: Life) -> Result<()> {
        let manifest = pod_manifest(pod.name, pod.annotations, node);
        self.write(&format!("{}.yaml", pod.name), &life.told_in(&manifest))
    }

    /// Writes to another name and renames, so that nobody reads half a file.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let (file, fresh) = (self.manifests().join(name), self.manifests().join(format!(".{name}.new")));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Takes one of its manifests away.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let file = self.manifests().join(name);
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    /// Starts BIRD, then the agent, as two containers of one pod would.
    pub(super) fn start(&self, state: &State, node: &'static Node, agent: &Path) -> Result<Vec<Daemon>> {
        let mut bird = Command::new(agent);
        bird.args(["bird", "--node-name", node.name]);
        self.place_bird(&mut bird);
        let bird = Daemon::start(node.name, &mut bird, &state.netns(node.name), &self.0.join("bird.log"))?;
        Ok(vec![bird, self.start_agent(state, node, agent)?])
    }

    /// Starts the agent alone.
    pub(super) fn start_agent(&self, state: &State, node: &'static Node, agent: &Path) -> Result<Daemon> {
        let mut run = Command::new(agent);
        run.args(["run", "--node-name", node.name]);
        self.place_bird(&mut run);
        run.arg("--manifests").arg(self.manifests());
        run.arg("--socket").arg(self.socket()).arg("--state").arg(self.0.join("allocations.json"));
        Daemon::start(node.name, &mut run, &state.netns(node.name), &self.0.join("agent.log"))
    }

    fn place_bird(&self, command: &mut Command) {
        command.arg("--bird-conf").arg(self.0.join("bird.conf"));
        command.arg("--bird-socket").arg(self.0.join("bird.ctl"));
    }

    /// What `flock-agent status -o json` says. Fails until the agent answers.
    pub(super) fn status(&self, agent: &Path) -> Result<Value> {
        self.ask(agent, &["status"])
    }

    /// What another command of the agent says with `-o json`.
    pub(super) fn ask(&self, agent: &Path, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(agent);
        command.args(words).args(["-o", "json", "--socket"]).arg(self.socket());
        let text = execute::succeed(&mut command, "", &Patience::SHORT)?.stdout;
        let shown = || format!("`flock-agent {} -o json` did not print JSON", words.join(" "));
        serde_json::from_str(&text).with_context(shown)
    }
}

/// Where a pod is in its life, as the API server would say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Ready,
    NotReady,
    /// Marked for deletion; its containers still run.
    Terminating,
}

impl Life {
    /// The manifest with what is said of the pod's life put in.
    fn told_in(self, manifest: &str) -> String {
        let ready = if self == Self::NotReady { "False" } else { "True" };
        let status = format!("status:\n  conditions:\n    - {{ type: Ready, status: '{ready}' }}\n");
        let deleted = "metadata:\n  deletionTimestamp: '2026-01-01T00:00:00Z'\n";
        let metadata = if self == Self::Terminating { deleted } else { "metadata:\n" };
        manifest.replacen("metadata:\n", metadata, 1) + &status
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

/// The manifest of a pod, with the label and the named port that policies are about.
pub(super) fn pod_manifest(name: &str, annotations: &[(&str, &str)], node: &Node) -> String {
    let lines = annotations.iter().map(|(key, value)| format!("    flock.fritzlab.net/{key}: '{value}'\n"));
    let annotations = if annotations.is_empty() {
        String::new()
    } else {
        format!("  annotations:\n{}", lines.collect::<String>())
    };
    let ports = topology::http(name).map_or_else(String::new, |port| {
        format!("      ports:\n        - {{ name: http, containerPort: {port} }}\n")
    });
    format!(
        "\
apiVersion: v1
kind: Pod
metadata:
  namespace: {NAMESPACE}
  name: {name}
  labels:
    app: {app}
{annotations}spec:
  nodeName: {node}
  containers:
    - name: main
      image: registry.example/main:1
{ports}",
        app = topology::app(name),
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

    #[test]
    fn life_of_a_pod_is_told_where_the_api_server_tells_it() {
        let manifest = pod_manifest("dns", &[], &NODES[0]);
        for (life, ready, deleted) in
            [(Life::Ready, true, false), (Life::NotReady, false, false), (Life::Terminating, true, true)]
        {
            let told = life.told_in(&manifest);
            assert_eq!(told.ends_with("- { type: Ready, status: 'True' }\n"), ready, "{told}");
            assert_eq!(told.contains("metadata:\n  deletionTimestamp: "), deleted, "{told}");
        }
    }
}
