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

    /// Puts namespaces and policies: each is for one of the services of namespace `bench`, and admits some services of one
    /// of the namespaces of other nodes' pods.
    pub(super) fn add_policies(&mut self, policies: u32) -> Result<()> {
        if policies == 0 {
            return Ok(());
        }
        for name in (0..NAMESPACES).map(elsewhere).chain(["bench".to_owned()]) {
            self.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
        }
        for number in 0..policies {
            let services: Vec<String> =
                (0..SERVICES / 2).map(|one| service(number / NAMESPACES + 2 * one)).collect();
            self.put(&json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": "bench", "name": format!("policy-{number}")},
                "spec": {
                    "podSelector": {"matchLabels": {"app": service(number)}},
                    "ingress": [{
                        "from": [{
                            "namespaceSelector": {
                                "matchLabels": {"kubernetes.io/metadata.name": elsewhere(number % NAMESPACES)},
                            },
                            "podSelector": {
                                "matchExpressions": [{"key": "app", "operator": "In", "values": services}],
                            },
                        }],
                        "ports": [{"port": 80 + number % 20}],
                    }],
                },
            }))?;
        }
        self.wait()
    }

    /// Gives so many pods of other nodes, the first of which is `first`, another service, one after another.
    pub(super) fn relabel(&mut self, first: u32, pods: u32) -> Result<()> {
        for number in first..first + pods {
            let mut pod = pod(&format!("node-{}", number % 100), number, 0);
            pod["metadata"]["labels"]["app"] = json!(service(number + 1));
            self.put(&pod)?;
            self.wait()?;
            // Each by itself: changes that come together are written together.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
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

/// Namespaces of other nodes' pods.
const NAMESPACES: u32 = 50;

/// Services the pods belong to.
const SERVICES: u32 = 50;

fn elsewhere(number: u32) -> String {
    format!("elsewhere-{}", number % NAMESPACES)
}

fn service(number: u32) -> String {
    format!("service-{}", number % SERVICES)
}

/// A pod as large as they are; with each restart of its container it turns from ready to not ready or back.
fn pod(node: &str, number: u32, restarts: u32) -> Value {
    let variables: Vec<Value> = (0..40)
        .map(|index| json!({"name": format!("VARIABLE_{index}"), "value": "a value of some length"}))
        .collect();
    let image = "registry.example/team/service:1.2.3";
    let ready = restarts.is_multiple_of(2);
    let namespace = if node == NAME { "bench".to_owned() } else { elsewhere(number / SERVICES) };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": format!("pod-{number}"),
            "uid": format!("00000000-0000-4000-8000-{number:012x}"),
            "labels": {"app": service(number), "pod-template-hash": "6d4cf56db6"},
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
            "podIPs": if node == NAME { json!([]) } else { json!([{"ip": format!("2001:db8:ffff::{number:x}")}]) },
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
