//! A real agent in a network namespace of its own, and pods to attach.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flock_cni::rpc::{self, Limits, RpcError};
use flock_cni::wire::{Add, Added, Attachment, Call, Check, Gc, Pod, Reply, Request};
use flock_k8s::testing::FakeApiServer;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{Cluster, Source};
use crate::netns::{Netns, Process, family};
use crate::object::{self, text};

/// One node: a namespace, a directory, a cluster, and an agent that can be killed and started again.
pub(crate) struct TestNode {
    name: &'static str,
    pub(crate) netns: Netns,
    pub(crate) dir: TempDir,
    pub(crate) cluster: Cluster,
    /// Exchanged while others talk to it.
    agent: Mutex<Option<Child>>,
}

impl TestNode {
    /// A node without an agent yet, in an empty cluster.
    pub(crate) fn of(source: Source) -> Self {
        Self::named("n1", source)
    }

    /// The same by another name than n1.
    pub(crate) fn named(name: &'static str, source: Source) -> Self {
        let netns = Netns::new();
        netns.ip("link set lo up");
        // Nodes have an IPv4 address; without one the node itself has no source towards its pods.
        netns.ip("address add 192.0.2.10/32 dev lo");
        let dir = tempfile::tempdir().unwrap();
        let cluster = match source {
            Source::Manifests => Cluster::of_manifests(dir.path()),
            Source::ApiServer => {
                let listener = netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
                Cluster::of_api_server(dir.path(), FakeApiServer::on(listener))
            }
        };
        Self { name, netns, dir, cluster, agent: Mutex::default() }
    }

    /// A node without an agent yet and without Kubernetes.
    pub(crate) fn new() -> Self {
        Self::of(Source::Manifests)
    }

    /// A node without Kubernetes, with an agent that has a configuration.
    pub(crate) fn serving() -> Self {
        let node = Self::new();
        node.serve();
        node
    }

    /// Configures the node and starts its agent.
    pub(crate) fn serve(&self) {
        self.put(&object::node_config());
        self.start();
        self.wait_ready();
    }

    /// Adds or replaces an object of the cluster.
    pub(crate) fn put(&self, object: &Value) {
        self.cluster.put(object);
    }

    /// Removes an object from the cluster.
    pub(crate) fn delete(&self, object: &Value) {
        self.cluster.delete(object);
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.dir.path().join("state/allocations.json")
    }

    pub(crate) fn command(&self) -> Command {
        let (flag, cluster) = self.cluster.flag();
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        self.arguments(&mut command);
        command.arg(flag).arg(cluster);
        command
    }

    /// The agent as a pod of a cluster has it: API server by environment, and an account of these files, which nobody
    /// else sees.
    pub(crate) fn command_in_cluster(&self, server: SocketAddr, account: &Path) -> Command {
        const MOUNT: &str = r#"
            run="$(readlink -f /var/run)" && mount -t tmpfs none "$run" && at="$run/secrets/kubernetes.io" &&
            mkdir -p "$at" && cp -r "$1" "$at/serviceaccount" && shift && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MOUNT, "sh"]).arg(account);
        command.arg(env!("CARGO_BIN_EXE_flock-agent"));
        self.arguments(&mut command);
        command.env("KUBERNETES_SERVICE_HOST", server.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", server.port().to_string());
        command
    }

    fn arguments(&self, command: &mut Command) {
        let at = |name: &str| self.dir.path().join(name);
        command.args(["run", "--node-name", self.name]);
        for (flag, path) in [
            ("--socket", self.socket()),
            ("--state", self.state_file()),
            ("--bird-conf", at("bird.conf")),
            ("--bird-socket", at("bird.ctl")),
        ] {
            command.arg(flag).arg(path);
        }
        command.stdin(Stdio::null());
    }

    pub(crate) fn start(&self) {
        self.start_as(self.command());
    }

    /// Starts the agent by another command than [`command`](Self::command).
    pub(crate) fn start_as(&self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        *self.agent() = Some(self.netns.run(|| command.stderr(log).spawn().unwrap()));
    }

    /// Starts `flock-agent bird` beside the agent.
    pub(crate) fn start_bird(&self) -> Process {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        command.args(["bird", "--node-name", self.name]);
        command.arg("--bird-conf").arg(at("bird.conf")).arg("--bird-socket").arg(at("bird.ctl"));
        self.netns.start(&mut command, &at("bird.log"))
    }

    /// What BIRD runs, once it was asked to.
    pub(crate) fn bird_conf(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("bird.conf")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.agent().as_ref().unwrap().id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn agent(&self) -> MutexGuard<'_, Option<Child>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kill(&self) {
        let mut agent = self.agent().take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// SIGTERM, and the status it ends with.
    pub(crate) fn terminate(&self) -> std::process::ExitStatus {
        self.signal(Signal::SIGTERM);
        self.agent().take().unwrap().wait().unwrap()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.agent().as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub(crate) fn wait_ready(&self) {
        eventually("the agent is ready", || self.call(Call::Status).is_ok(), || self.log());
    }

    pub(crate) fn call(&self, call: Call) -> Result<Reply, RpcError> {
        rpc::call(&self.socket(), &Request::new(call), Limits::DEFAULT)
    }

    pub(crate) fn add(&self, container: &str, netns: &Netns) -> Result<Added, RpcError> {
        self.add_with(plain_add(container, &netns.path()))
    }

    /// ADD of a pod, in a container that is named like it. Its annotations are the cluster's to tell.
    pub(crate) fn add_pod(&self, pod: &Value, netns: &Netns) -> Result<Added, RpcError> {
        self.add_with(add_of(pod, netns))
    }

    pub(crate) fn add_with(&self, add: Add) -> Result<Added, RpcError> {
        match self.call(Call::Add(add))? {
            Reply::Added(added) => Ok(added),
            other => panic!("not an answer to ADD: {other:?}"),
        }
    }

    /// Every one of these addresses answers the node.
    pub(crate) fn assert_reached(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            let ping = self.netns.output("ping", &["-c1", "-W5", &address.to_string()]);
            assert!(ping.contains("1 received"), "{ping}");
        }
    }

    pub(crate) fn del(&self, container: &str) -> Result<Reply, RpcError> {
        self.call(Call::Del(attachment(container)))
    }

    /// DEL of what [`add_pod`](Self::add_pod) made.
    pub(crate) fn del_pod(&self, pod: &Value) {
        self.del(text(pod, "name")).unwrap();
    }

    pub(crate) fn check(
        &self,
        container: &str,
        netns: &Netns,
        expected: Vec<IpAddr>,
    ) -> Result<Reply, RpcError> {
        self.call(Call::Check(Check { attachment: attachment(container), netns: netns.path(), expected }))
    }

    pub(crate) fn gc(&self, keep: &[&str]) -> Result<Reply, RpcError> {
        self.call(Call::Gc(Gc { keep: keep.iter().map(|container| attachment(container)).collect() }))
    }

    pub(crate) fn report(&self) -> serde_json::Value {
        match self.call(Call::Report).unwrap() {
            Reply::Report { report } => report,
            other => panic!("not a report: {other:?}"),
        }
    }

    /// What `flock-agent` answers to a person on this node.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        let output = command.args(words).arg("--socket").arg(self.socket()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        String::from_utf8_lossy(&output.stdout).into_owned() + &stderr
    }

    /// A condition of the node.
    pub(crate) fn condition(&self, kind: &str) -> Value {
        let report = self.report();
        let conditions = report["conditions"].as_array().unwrap();
        conditions.iter().find(|it| it["kind"] == kind || it["type"] == kind).unwrap().clone()
    }

    /// What is known of an advertised prefix; null where nothing is.
    pub(crate) fn advertised(&self, prefix: &str) -> Value {
        let report = self.report();
        let advertised = report["advertised"].as_array().unwrap();
        advertised.iter().find(|it| it["prefix"] == prefix).cloned().unwrap_or_default()
    }

    /// Waits until a prefix is not announced for the reason given.
    pub(crate) fn wait_withheld(&self, prefix: &str, reason: &str) {
        let holds = || {
            let told = self.advertised(prefix);
            told["announced"] == false && told["pods"][0]["reason"] == reason
        };
        eventually(&format!("{prefix} is withheld"), holds, || self.advertised(prefix).to_string());
    }

    /// What stands against an ADD of a pod as it is in the cluster now, in words.
    pub(crate) fn refusals(&self, pod: &Value) -> String {
        let named = Pod { uid: None, ..pod_of(pod) };
        match self.call(Call::Explain(named)) {
            Ok(Reply::Report { report }) => report["problems"].to_string(),
            other => format!("{other:?}"),
        }
    }

    /// Waits until an ADD of a pod would be refused with these words, or would not.
    pub(crate) fn wait_refusal(&self, pod: &Value, words: Option<&str>) {
        let holds = || {
            let told = self.refusals(pod);
            words.map_or(told == "[]", |words| told.contains(words))
        };
        eventually(&format!("refused: {words:?}"), holds, || self.refusals(pod));
    }

    /// Protocol number of the route to an address; `None` where there is no route.
    pub(crate) fn protocol_of(&self, address: &str) -> Option<String> {
        let route = self.route_to(address);
        let mut words = route.split_whitespace().skip_while(|word| *word != "proto");
        words.nth(1).map(str::to_owned)
    }

    pub(crate) fn wait_protocol(&self, address: &str, wanted: Option<&str>) {
        let holds = || self.protocol_of(address).as_deref() == wanted;
        let otherwise = || format!("{:?}\n{}", self.protocol_of(address), self.log());
        eventually(&format!("protocol of {address}: {wanted:?}"), holds, otherwise);
    }

    /// The route to an address, whoever may hear of it.
    pub(crate) fn route_to(&self, address: &str) -> String {
        self.netns.output("ip", &[family(address), "route", "show", address])
    }

    /// Destinations of the routes of a protocol number.
    pub(crate) fn routes(&self, protocol: &str) -> Vec<String> {
        let show = |family| self.netns.output("ip", &[family, "route", "show", "proto", protocol]);
        let text = show("-6") + &show("-4");
        let mut routes: Vec<String> = text
            .lines()
            // A route to a group goes on below.
            .filter(|line| !line.starts_with(['\t', ' ']))
            .filter_map(|line| Some(line.trim_start_matches("unreachable ").split(' ').next()?.to_owned()))
            .collect();
        routes.sort();
        routes
    }

    pub(crate) fn wait_routes(&self, protocol: &str, wanted: &[&str]) {
        let mut wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        wanted.sort();
        let holds = || self.routes(protocol) == wanted;
        let otherwise = || format!("{:?} instead of {wanted:?}\n{}", self.routes(protocol), self.log());
        eventually("the routes are as wanted", holds, otherwise);
    }

    /// Waits until no link, no quiet route, no neighbour and no allocation is left.
    pub(crate) fn assert_empty(&self) {
        let left = || {
            let links = self.netns.output("ip", &["-o", "link", "show", "type", "veth"]);
            let routes = self.netns.output("ip", &["-6", "route", "show", "proto", "118"])
                + &self.netns.output("ip", &["-4", "route", "show", "proto", "118"]);
            let neighbours = self.netns.output("ip", &["neigh", "show", "nud", "permanent"]);
            let allocations = self.report()["allocations"].to_string();
            format!("{links}{routes}{neighbours}{allocations}")
        };
        eventually("nothing is left", || left() == "[]", left);
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent().take() {
            drop(agent.kill());
            drop(agent.wait());
        }
        if thread::panicking() {
            println!("--- log of the agent\n{}", self.log());
        }
    }
}

pub(crate) fn attachment(container: &str) -> Attachment {
    Attachment { container_id: container.to_owned(), ifname: "eth0".to_owned() }
}

/// An ADD without a pod's name.
pub(crate) fn plain_add(container: &str, netns: &str) -> Add {
    let attachment = attachment(container);
    Add { attachment, netns: netns.to_owned(), pod: None, annotations: None, mtu: None, loopback_runs: false }
}

/// A pod as a container runtime names it.
fn pod_of(object: &Value) -> Pod {
    let (namespace, name) = (text(object, "namespace").to_owned(), text(object, "name").to_owned());
    Pod { namespace, name, uid: object["metadata"]["uid"].as_str().map(str::to_owned) }
}

/// An ADD as a container runtime sends it that does not hand annotations over.
pub(crate) fn add_of(pod: &Value, netns: &Netns) -> Add {
    let pod = pod_of(pod);
    Add { pod: Some(pod.clone()), ..plain_add(&pod.name, &netns.path()) }
}

/// What a runtime hands over.
pub(crate) fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (object::annotation(key), (*value).to_owned())).collect()
}

pub(crate) fn addresses(added: &Added) -> Vec<IpAddr> {
    added.ips.iter().map(|ip| ip.address).collect()
}

/// Waits for a condition; a deadline only keeps a broken test from hanging.
pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool, otherwise: impl FnOnce() -> String) {
    within(Duration::from_secs(30), what, holds, otherwise);
}

/// The same for what takes its time.
pub(crate) fn within(
    patience: Duration,
    what: &str,
    mut holds: impl FnMut() -> bool,
    otherwise: impl FnOnce() -> String,
) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}; {}", otherwise());
        thread::sleep(Duration::from_millis(5));
    }
}
