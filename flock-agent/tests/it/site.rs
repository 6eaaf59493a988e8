//! A node with a real BIRD, behind a router with a real BIRD.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Netns, TestNode, addresses, eventually, netns_available};

/// The node's NodeConfig: both families, and the router as a peer in each.
const SITE_CONFIG: &str = r#"
apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: { name: n1 }
spec:
  cidr6: ["2001:db8:f001::/64"]
  cidr4: [198.51.100.0/24]
  bgp:
    asn: 65101
    peers:
      - { address: "2001:db8:0:1::1", asn: 65000 }
      - { address: 192.0.2.17, asn: 65000 }
"#;

const ROUTER_CONFIG: &str = "
log stderr all;
router id 192.0.2.17;
protocol device { }
protocol kernel kernel6 { merge paths on; ipv6 { import none; export all; }; }
protocol kernel kernel4 { merge paths on; ipv4 { import none; export all; }; }
protocol bgp node_v6 { passive yes; local 2001:db8:0:1::1 as 65000; neighbor 2001:db8:0:1::2 as 65101;
  ipv6 { import all; export none; }; }
protocol bgp node_v4 { passive yes; local 192.0.2.17 as 65000; neighbor 192.0.2.18 as 65101;
  ipv4 { import all; export none; }; }
";

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn start(netns: &Netns, command: &mut Command, output: &PathBuf) -> Self {
        let log = File::create(output).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(netns.run(|| command.spawn().unwrap()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The node, the router, and whatever runs in them.
pub(crate) struct Site {
    pub(crate) node: TestNode,
    router: Netns,
    _processes: Vec<Process>,
}

/// A pod of the node, and its namespace.
pub(crate) struct SitePod {
    name: String,
    anycast: String,
    pub(crate) netns: Netns,
    pub(crate) addresses: Vec<IpAddr>,
}

/// What a pod's object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    Ready,
    NotReady,
    Terminating,
}

impl Site {
    /// `None` where this machine cannot; says so.
    pub(crate) fn start() -> Option<Self> {
        let bird = Command::new("bird").arg("--version").output().is_ok_and(|done| done.status.success());
        if !netns_available() || !flock_core::testing::require("bird", bird) {
            return None;
        }
        let (node, router) = (TestNode::new(), Netns::new());
        let wire = format!("link add node type veth peer name uplink netns {}", node.netns.path());
        ip(&router, "link set lo up");
        ip(&router, &wire);
        for address in ["2001:db8:0:1::1/64", "192.0.2.17/28"] {
            ip(&router, &format!("address add {address} dev node nodad"));
        }
        ip(&router, "link set node up");
        for address in ["2001:db8:0:1::2/64", "192.0.2.18/28"] {
            ip(&node.netns, &format!("address add {address} dev uplink nodad"));
        }
        ip(&node.netns, "link set uplink up");
        ip(&node.netns, "-6 route add default via 2001:db8:0:1::1");
        ip(&node.netns, "-4 route add default via 192.0.2.17");

        let at = |name: &str| node.dir.path().join(name);
        fs::write(at("router.conf"), ROUTER_CONFIG).unwrap();
        let mut there = Command::new("bird");
        there.arg("-f").arg("-c").arg(at("router.conf")).arg("-s").arg(at("router.ctl"));
        let mut here = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        here.args(["bird", "--node-name", "n1", "--bird-conf"]).arg(at("bird.conf"));
        here.arg("--bird-socket").arg(at("bird.ctl"));
        let processes = vec![
            Process::start(&router, &mut there, &at("router.log")),
            Process::start(&node.netns, &mut here, &at("bird.log")),
        ];
        node.manifest("node.yaml", SITE_CONFIG);
        node.start();
        node.wait_ready();
        let site = Self { node, router, _processes: processes };
        site.wait_announced(&["2001:db8:f001::/64", "198.51.100.0/24"]);
        Some(site)
    }

    /// Makes a ready pod that has these anycast addresses.
    pub(crate) fn pod(&self, name: &str, anycast: &str) -> SitePod {
        let mut pod = SitePod {
            name: name.to_owned(),
            anycast: anycast.to_owned(),
            netns: Netns::new(),
            addresses: vec![],
        };
        self.say(&pod, Says::Ready);
        pod.addresses = addresses(&self.node.add_pod(name, &pod.netns, Some(name)).unwrap());
        pod
    }

    /// Changes the pod's object.
    pub(crate) fn say(&self, pod: &SitePod, says: Says) {
        self.node.manifest(&format!("{}.yaml", pod.name), &manifest(&pod.name, &pod.anycast, says));
    }

    /// Deletes the pod's object; its containers run on until their DEL.
    pub(crate) fn forget(&self, pod: &SitePod) {
        fs::remove_file(self.node.dir.path().join("manifests").join(format!("{}.yaml", pod.name))).unwrap();
    }

    pub(crate) fn del(&self, pod: &SitePod) {
        self.node.del(&pod.name).unwrap();
    }

    fn at_router(&self, prefix: &str) -> String {
        self.router.output("ip", &[family(prefix), "route", "show", "exact", prefix])
    }

    pub(crate) fn is_announced(&self, prefix: &str) -> bool {
        !self.at_router(prefix).is_empty()
    }

    pub(crate) fn wait_announced(&self, prefixes: &[&str]) {
        let what = format!("{prefixes:?} are announced");
        let is_so = || prefixes.iter().all(|prefix| self.is_announced(prefix));
        eventually(&what, is_so, || self.node.log());
    }

    pub(crate) fn wait_withdrawn(&self, prefixes: &[&str]) {
        let what = format!("{prefixes:?} are withdrawn");
        let is_so = || prefixes.iter().all(|prefix| !self.is_announced(prefix));
        eventually(&what, is_so, || self.node.log());
    }

    /// Follows the router's routes from now on.
    pub(crate) fn watch(&self) -> Watch {
        let log = self.node.dir.path().join("router-routes.log");
        let monitor = Process::start(&self.router, Command::new("ip").args(["-o", "monitor", "route"]), &log);
        let watch = Watch { log, _monitor: monitor };
        let listens = || {
            for verb in ["add", "del"] {
                ip(&self.router, &format!("route {verb} unreachable 203.0.113.255"));
            }
            watch.text().contains("203.0.113.255")
        };
        eventually("the monitor listens", listens, String::new);
        watch
    }
}

/// What has happened to the router's routes.
pub(crate) struct Watch {
    log: PathBuf,
    _monitor: Process,
}

impl Watch {
    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Of this prefix, as `ip` writes it.
    pub(crate) fn of(&self, prefix: &str) -> Vec<String> {
        self.text()
            .lines()
            .filter(|line| line.split(' ').any(|word| word == prefix))
            .map(str::to_owned)
            .collect()
    }
}

/// A pod's manifest.
pub(crate) fn manifest(name: &str, anycast: &str, says: Says) -> String {
    let terminating = match says {
        Says::Terminating => "\n  deletionTimestamp: '2024-06-07T08:09:10Z'",
        _ => "",
    };
    let ready = if says == Says::NotReady { "False" } else { "True" };
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  namespace: default
  name: {name}{terminating}
  annotations: {{ flock.fritzlab.net/anycast: '{anycast}' }}
spec:
  nodeName: n1
  containers: [{{ name: main, image: registry.example/main:1 }}]
status:
  conditions: [{{ type: Ready, status: '{ready}' }}]
"
    )
}

/// `-6` or `-4`.
pub(crate) fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "-6" } else { "-4" }
}

/// Runs `ip`, which must succeed.
pub(crate) fn ip(netns: &Netns, arguments: &str) -> String {
    let output = netns.run(|| Command::new("ip").args(arguments.split(' ')).output().unwrap());
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
