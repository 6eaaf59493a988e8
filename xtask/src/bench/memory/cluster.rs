//! A cluster with many pods, behind an API server that is a process of its own.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::node::NAME;

/// The API server, fed line by line. It ends with this value.
pub(super) struct Cluster {
    server: Child,
    objects: BufWriter<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts a server that writes the way to it into a file.
    pub(super) fn start(server: &Path, kubeconfig: &Path) -> Result<Self> {
        let mut command = Command::new(server);
        command.arg(kubeconfig).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().with_context(|| format!("cannot execute {}", server.display()))?;
        let objects = BufWriter::new(server.stdin.take().context("the API server has no standard input")?);
        let answers = BufReader::new(server.stdout.take().context("the API server has no standard output")?);
        Ok(Self { server, objects, answers })
    }

    /// Puts the node, its pods and the pods of others.
    pub(super) fn fill(&mut self, pods: u32, elsewhere: u32) -> Result<()> {
        self.put(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}))?;
        self.put(&json!({
            "apiVersion": "flock.fritzlab.net/v1alpha1",
            "kind": "NodeConfig",
            "metadata": {"name": NAME, "uid": "00000000-0000-4000-9000-000000000000", "generation": 1},
            "spec": {
                "cidr6": ["2001:db8:f001::/64"],
                "cidr4": ["198.51.100.0/24"],
                "bgp": {"asn": 64496, "routerID": "192.0.2.1"},
            },
        }))?;
        for number in 0..pods {
            self.put(&pod(NAME, number, 0))?;
        }
        for number in pods..pods + elsewhere {
            self.put(&pod(&format!("node-{}", number % 100), number, 0))?;
        }
        self.wait()
    }

    /// Changes the status of each pod of the node, and waits until the agent has been sent it.
    pub(super) fn change(&mut self, pods: u32, round: u32) -> Result<()> {
        for number in 0..pods {
            self.put(&pod(NAME, number, round + 1))?;
        }
        self.wait()
    }

    fn put(&mut self, object: &Value) -> Result<()> {
        writeln!(self.objects, "{object}").context("the API server has ended")
    }

    fn wait(&mut self) -> Result<()> {
        writeln!(self.objects).and_then(|()| self.objects.flush()).context("the API server has ended")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the API server does not answer")?;
        ensure!(line == "\n", "the API server has ended");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // If it cannot be ended it has ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A pod as large as they are; with each restart of its container it turns from ready to not ready or back.
fn pod(node: &str, number: u32, restarts: u32) -> Value {
    let variables: Vec<Value> = (0..40)
        .map(|index| json!({"name": format!("VARIABLE_{index}"), "value": "a value of some length"}))
        .collect();
    let image = "registry.example/team/service:1.2.3";
    let ready = restarts.is_multiple_of(2);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "bench",
            "name": format!("pod-{number}"),
            "uid": format!("00000000-0000-4000-8000-{number:012x}"),
            "labels": {"app": format!("service-{}", number % 50), "pod-template-hash": "6d4cf56db6"},
            "annotations": {"example.com/configuration": "x".repeat(1000)},
        },
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "main",
                "image": image,
                "env": variables,
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10},
            }],
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": if ready { "True" } else { "False" }},
            ],
            "containerStatuses": [
                {"name": "main", "image": image, "imageID": "sha256:0123456789abcdef", "restartCount": restarts},
            ],
        },
    })
}
