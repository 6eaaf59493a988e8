//! A real agent in a network namespace of its own, and pods to attach. Namespaces are held by open
//! files only, so that nothing is left when a test ends, however it ends.

use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flock_cni::rpc::{self, Limits, RpcError};
use flock_cni::wire::{Add, Added, Attachment, Call, Check, Gc, Pod, Reply, Request};
use flock_k8s::testing::FakeApiServer;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

/// A network namespace.
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    /// A path that stays good as long as this value does.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` inside, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            worker.join().unwrap()
        })
    }

    /// Output of a command inside.
    pub(crate) fn output(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(|| Command::new(program).args(args).output().unwrap());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// One node: a namespace, a directory, and an agent that can be killed and started again.
pub(crate) struct TestNode {
    pub(crate) netns: Netns,
    pub(crate) dir: TempDir,
    /// Exchanged while others talk to it.
    agent: Mutex<Option<Child>>,
}

/// What most tests configure.
pub(crate) const NODE_CONFIG: &str = r#"
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: { name: n1 }
spec:
  cidr6: ["2001:db8:f001::/64"]
  cidr4: [198.51.100.0/24]
  bgp: { asn: 64500 }
"#;

impl TestNode {
    /// A node without an agent yet.
    pub(crate) fn new() -> Self {
        let netns = Netns::new();
        netns.output("ip", &["link", "set", "lo", "up"]);
        // Nodes have an IPv4 address; without one the node itself has no source towards its pods.
        netns.output("ip", &["address", "add", "192.0.2.10/32", "dev", "lo"]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        Self { netns, dir, agent: Mutex::default() }
    }

    /// A node with an agent that has a configuration.
    pub(crate) fn serving() -> Self {
        let node = Self::new();
        node.manifest("node.yaml", NODE_CONFIG);
        node.start();
        node.wait_ready();
        node
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.dir.path().join("state/allocations.json")
    }

    pub(crate) fn manifest(&self, name: &str, text: &str) {
        let path = self.dir.path().join("manifests").join(name);
        let fresh = path.with_extension("tmp");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// An API server in the node's namespace, which the agent is started with from now on.
    pub(crate) fn api_server(&self) -> FakeApiServer {
        let listener = self.netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let api = FakeApiServer::on(listener);
        api.kubeconfig(&self.dir.path().join("kubeconfig"));
        api
    }

    pub(crate) fn command(&self) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let cluster = if at("kubeconfig").exists() { "kubeconfig" } else { "manifests" };
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        command.args(["run", "--node-name", "n1"]);
        for (flag, path) in [
            (&*format!("--{cluster}"), at(cluster)),
            ("--socket", self.socket()),
            ("--state", self.state_file()),
            ("--bird-conf", at("bird.conf")),
            ("--bird-socket", at("bird.ctl")),
        ] {
            command.arg(flag).arg(path);
        }
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self) {
        self.start_as(self.command());
    }

    /// Starts the agent by another command than [`command`](Self::command).
    pub(crate) fn start_as(&self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        *self.agent() = Some(self.netns.run(|| command.stderr(log).spawn().unwrap()));
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
        self.add_pod(container, netns, None)
    }

    pub(crate) fn add_pod(
        &self,
        container: &str,
        netns: &Netns,
        pod: Option<&str>,
    ) -> Result<Added, RpcError> {
        let pod = pod.map(|name| Pod { namespace: "default".to_owned(), name: name.to_owned(), uid: None });
        self.add_with(Add { pod, ..plain_add(container, &netns.path()) })
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

pub(crate) fn addresses(added: &Added) -> Vec<IpAddr> {
    added.ips.iter().map(|ip| ip.address).collect()
}

/// Waits for a condition; a deadline only keeps a broken test from hanging.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool, otherwise: impl FnOnce() -> String) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s; {}", otherwise());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the machine lets us make network namespaces; says so when not.
pub(crate) fn netns_available() -> bool {
    let able = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap();
    flock_core::testing::require("root with network namespaces", able)
}
