//! A node with a real BIRD, behind a router with a real BIRD.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{TestNode, eventually};
use crate::netns::{Netns, Process, RouteLog, family, netns_available};
use crate::object::{self, Says, node_config, saying};

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

/// The node, the router, and whatever runs in them.
pub(crate) struct Site {
    pub(crate) node: TestNode,
    router: Netns,
    _processes: Vec<Process>,
}

/// A pod of the node, and its namespace.
pub(crate) struct SitePod {
    object: Value,
    pub(crate) netns: Netns,
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
        router.ip("link set lo up");
        router.ip(&wire);
        for address in ["2001:db8:0:1::1/64", "192.0.2.17/28"] {
            router.ip(&format!("address add {address} dev node nodad"));
        }
        router.ip("link set node up");
        for address in ["2001:db8:0:1::2/64", "192.0.2.18/28"] {
            node.netns.ip(&format!("address add {address} dev uplink nodad"));
        }
        node.netns.ip("link set uplink up");
        node.netns.ip("-6 route add default via 2001:db8:0:1::1");
        node.netns.ip("-4 route add default via 192.0.2.17");

        let at = |name: &str| node.dir.path().join(name);
        fs::write(at("router.conf"), ROUTER_CONFIG).unwrap();
        let mut there = Command::new("bird");
        there.arg("-f").arg("-c").arg(at("router.conf")).arg("-s").arg(at("router.ctl"));
        let processes = vec![router.start(&mut there, &at("router.log")), node.start_bird()];
        let mut config = node_config();
        let peers =
            ["2001:db8:0:1::1", "192.0.2.17"].map(|address| json!({"address": address, "asn": 65000}));
        config["spec"]["bgp"] = json!({"asn": 65101, "peers": peers});
        node.put(&config);
        node.start();
        node.wait_ready();
        let site = Self { node, router, _processes: processes };
        site.wait_announced(&["2001:db8:f001::/64", "198.51.100.0/24"]);
        Some(site)
    }

    /// Makes a ready pod that has these anycast addresses.
    pub(crate) fn pod(&self, name: &str, anycast: &str) -> SitePod {
        let object = object::pod(name, &[("anycast", anycast)]);
        let netns = Netns::new();
        self.node.put(&object);
        self.node.add_pod(&object, &netns).unwrap();
        SitePod { object, netns }
    }

    /// Changes the pod's object.
    pub(crate) fn say(&self, pod: &SitePod, says: Says) {
        self.node.put(&saying(&pod.object, says));
    }

    /// Deletes the pod's object; its containers run on until their DEL.
    pub(crate) fn forget(&self, pod: &SitePod) {
        self.node.delete(&pod.object);
    }

    pub(crate) fn del(&self, pod: &SitePod) {
        self.node.del(object::text(&pod.object, "name")).unwrap();
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
    pub(crate) fn watch(&self) -> RouteLog {
        RouteLog::start(&self.router, self.node.dir.path().join("router-routes.log"))
    }
}
