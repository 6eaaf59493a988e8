//! What the lab has seen, and whether it is what should be.

use std::net::IpAddr;

use serde::Serialize;

use super::pod::Attached;
use super::probe::{Ping, Unassigned};
use super::router::{Learned, Session};
use super::topology::{Family, NAMESPACE, NODES, Node, ROUTER_ASN};

/// Everything, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Name of the lab.
    pub(super) lab: String,
    pub(super) router: RouterReport,
    pub(super) pods: Vec<PodReport>,
    pub(super) pings: Vec<Ping>,
    pub(super) unassigned: Vec<Unassigned>,
    /// What was still there after every pod had been detached.
    pub(super) leftovers: Vec<String>,
    /// What does not hold, one sentence each.
    pub(super) failures: Vec<String>,
    /// True when there are none.
    pub(super) holds: bool,
}

/// The upstream router.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouterReport {
    pub(super) daemon: String,
    pub(super) asn: u32,
    pub(super) sessions: Vec<Session>,
    pub(super) learned: Vec<Learned>,
}

/// A pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodReport {
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
    pub(super) node: &'static str,
    pub(super) ipv6: Option<IpAddr>,
    pub(super) ipv4: Option<IpAddr>,
    /// From executing the plugin to its result, in milliseconds.
    pub(super) add_ms: f64,
}

impl PodReport {
    /// Its address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V6 => self.ipv6,
            Family::V4 => self.ipv4,
        }
    }
}

impl From<&Attached> for PodReport {
    fn from(pod: &Attached) -> Self {
        Self {
            namespace: NAMESPACE,
            name: pod.sandbox.pod.name,
            node: pod.sandbox.node.name,
            ipv6: pod.address(Family::V6),
            ipv4: pod.address(Family::V4),
            add_ms: pod.took.as_secs_f64() * 1000.0,
        }
    }
}

impl RouterReport {
    /// What came of a node's pool: the route, or what is wrong with it.
    pub(super) fn pool(&self, node: &Node, family: Family) -> Result<&Learned, String> {
        let prefix = node.pool(family);
        let Some(route) = self.learned.iter().find(|route| route.prefix == prefix) else {
            return Err(format!("the router has not learned {prefix}"));
        };
        if route.next_hops != [node.link.neighbour.of(family)] || route.as_path != [node.asn] {
            return Err(format!("the router has {prefix} via {:?}, AS path {:?}", route.next_hops, route.as_path));
        }
        if route.kernel != [node.name] {
            return Err(format!("the router's kernel sends {prefix} to {:?}", route.kernel));
        }
        Ok(route)
    }

    /// Everything that is wrong with what the router has learned.
    pub(super) fn failures(&self) -> Vec<String> {
        let pools: Vec<_> =
            NODES.iter().flat_map(|node| Family::ALL.map(|family| (node, family))).collect();
        let mut failures: Vec<_> =
            pools.iter().filter_map(|(node, family)| self.pool(node, *family).err()).collect();
        let known = |route: &&Learned| pools.iter().any(|(node, family)| node.pool(*family) == route.prefix);
        let strange = self.learned.iter().filter(|route| !known(route));
        failures.extend(strange.map(|route| format!("the router has learned {}, which nobody should announce", route.prefix)));
        let down = self.sessions.iter().filter(|session| !session.is_established());
        failures.extend(down.map(|session| format!("the session with {} is {}", session.neighbour, session.state)));
        failures
    }
}

impl Report {
    /// Fills `failures` and `holds` in.
    pub(super) fn judge(&mut self) {
        let mut failures = self.router.failures();
        for (node, pod) in super::topology::pods() {
            for family in Family::ALL {
                let found = self.pods.iter().find(|report| report.name == pod.name);
                let address = found.and_then(|report| report.address(family));
                failures.extend(misplaced(node, pod.name, pod.wants(family), family, address));
            }
        }
        for ping in &self.pings {
            if ping.rtt_ms.is_none() {
                let problem = ping.problem.as_deref().unwrap_or("no answer");
                failures.push(format!("{} does not reach {} at {}: {problem}", ping.from, ping.to, ping.address));
            }
        }
        for probe in &self.unassigned {
            if probe.unreachable_says.is_none() {
                let problem = probe.problem.as_deref().unwrap_or("no answer");
                failures.push(format!(
                    "{}, which no pod of {} has, does not answer unreachable at once: {problem}",
                    probe.address, probe.node
                ));
            }
        }
        failures.extend(self.leftovers.iter().map(|left| format!("left over after DEL: {left}")));
        self.holds = failures.is_empty();
        self.failures = failures;
    }
}

/// What is wrong with a pod's address of a family, if anything.
fn misplaced(node: &Node, pod: &str, wanted: bool, family: Family, address: Option<IpAddr>) -> Option<String> {
    let number = family.number();
    match (wanted, address) {
        (true, None) => Some(format!("{pod} has no IPv{number} address")),
        (false, Some(address)) => Some(format!("{pod} has {address}, although its IPv{number} is off")),
        (true, Some(address)) if !node.pool(family).contains(&address) => {
            Some(format!("{pod} has {address}, which is outside {}", node.pool(family)))
        }
        (true, Some(address)) if address == node.unassigned(family) => {
            Some(format!("{pod} has {address}, which the lab wants to be nobody's"))
        }
        _ => None,
    }
}

/// The router's part, from what it says of itself.
pub(super) fn router(daemon: String, sessions: Vec<Session>, learned: Vec<Learned>) -> RouterReport {
    RouterReport { daemon, asn: ROUTER_ASN, sessions, learned }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::probe::Direction;
    use super::super::topology;
    use super::*;

    /// The report of a lab in which everything is as it should be, with a ping of each kind per pod.
    pub(in super::super) fn good() -> Report {
        let mut report = Report {
            lab: "test".to_owned(),
            router: router("BIRD 2.0.12".to_owned(), Vec::new(), Vec::new()),
            pods: Vec::new(),
            pings: Vec::new(),
            unassigned: Vec::new(),
            leftovers: Vec::new(),
            failures: Vec::new(),
            holds: false,
        };
        for (node, pod) in topology::pods() {
            let address = |family| pod.wants(family).then(|| (node.pool(family).addr(), family));
            let host = |(network, _): (IpAddr, Family)| match network {
                IpAddr::V6(network) => IpAddr::from(std::net::Ipv6Addr::from_bits(network.to_bits() | 7)),
                IpAddr::V4(network) => IpAddr::from(std::net::Ipv4Addr::from_bits(network.to_bits() | 7)),
            };
            let (ipv6, ipv4) = (address(Family::V6).map(host), address(Family::V4).map(host));
            report.pods.push(PodReport {
                namespace: NAMESPACE,
                name: pod.name,
                node: node.name,
                ipv6,
                ipv4,
                add_ms: 1.0,
            });
            for address in ipv6.into_iter().chain(ipv4) {
                for direction in
                    [Direction::ClientToPod, Direction::PodToClient, Direction::SameNode, Direction::OtherNode]
                {
                    let (from, to) = match direction {
                        Direction::ClientToPod => ("client", pod.name),
                        _ => (pod.name, "client"),
                    };
                    let family = Family::of(address);
                    let ping = Ping { from, to, direction, family, address, rtt_ms: Some(0.084), problem: None };
                    report.pings.push(ping);
                }
            }
        }
        for node in &NODES {
            for family in Family::ALL {
                let neighbour = node.link.neighbour.of(family);
                report.router.sessions.push(Session { neighbour, state: "Established".to_owned() });
                report.router.learned.push(Learned {
                    prefix: node.pool(family),
                    next_hops: vec![neighbour],
                    as_path: vec![node.asn],
                    kernel: vec![node.name.to_owned()],
                });
                report.unassigned.push(Unassigned {
                    node: node.name,
                    family,
                    address: node.unassigned(family),
                    unreachable_says: Some(neighbour),
                    problem: None,
                });
            }
        }
        report.judge();
        report
    }

    fn failure(spoil: impl FnOnce(&mut Report)) -> String {
        let mut report = good();
        spoil(&mut report);
        report.judge();
        assert!(!report.holds);
        report.failures.join("\n")
    }

    #[test]
    fn good_lab_holds() {
        assert!(good().holds, "{:?}", good().failures);
    }

    #[test]
    fn every_cell_that_does_not_hold_fails_the_lab_and_is_named() {
        assert!(failure(|r| r.pings[0].rtt_ms = None).contains("client does not reach web-1"));
        assert!(failure(|r| r.pods[0].ipv6 = None).contains("web-1 has no IPv6 address"));
        assert!(failure(|r| r.pods[0].ipv6 = r.pods[4].ipv6).contains("outside 2001:db8:f001::/64"));
        assert!(failure(|r| r.pods[3].ipv6 = r.pods[0].ipv6).contains("although its IPv6 is off"));
        assert!(failure(|r| r.pods.clear()).contains("four-2 has no IPv4 address"));
        assert!(failure(|r| r.unassigned[0].unreachable_says = None).contains("unreachable at once"));
        assert!(failure(|r| r.leftovers.push("node1: link x".to_owned())).contains("link x"));
        assert!(failure(|r| r.router.sessions[1].state = "Active".to_owned()).contains("192.0.2.2 is Active"));
    }

    #[test]
    fn router_must_have_learned_exactly_the_pools_from_the_right_neighbours() {
        assert!(failure(|r| r.router.learned.truncate(3)).contains("has not learned 198.51.100.64/26"));
        assert!(failure(|r| r.router.learned[0].as_path.push(1)).contains("AS path"));
        assert!(failure(|r| r.router.learned[0].next_hops.clear()).contains("via []"));
        assert!(failure(|r| r.router.learned[0].kernel.clear()).contains("kernel"));
        let mut stranger = good().router.learned.remove(0);
        stranger.prefix = "2001:db8:f001::7/128".parse().unwrap();
        assert!(failure(|r| r.router.learned.push(stranger)).contains("nobody should announce"));
    }
}
