//! Who reaches whom, by real connections, and who should.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::lab::anycast::Connection;
use crate::lab::cluster::Cluster;
use crate::lab::execute;
use crate::lab::pods::Attached;
use crate::lab::topology::{self, Family};

/// Where connections go: a pod and a port. Only 9090 is not the port `http` of its pod.
pub(crate) const PORTS: [(&str, u16); 5] =
    [("web-1", 8080), ("web-1", 9090), ("web-2", 8081), ("given-1", 8080), ("pinned-2", 8080)];

const YES: bool = true;
const NO: bool = false;

/// Where connections come from, and which of [`PORTS`] each should reach. The client is outside of the cluster and the
/// router is not, as `given-from-outside` has it; a node always reaches its own pods; the pods `api` may open
/// connections to `web` only, at the port `http`; no policy selects `pinned-2`.
pub(crate) const REACH: [(&str, [bool; PORTS.len()]); 8] = [
    ("client", [NO, NO, NO, YES, YES]),
    ("router", [NO, NO, NO, NO, YES]),
    ("node1", [YES, YES, NO, YES, YES]),
    ("node2", [NO, NO, YES, NO, YES]),
    ("api-1", [YES, NO, YES, NO, NO]),
    ("api-2", [YES, NO, YES, NO, NO]),
    ("six-1", [NO, NO, NO, NO, YES]),
    ("four-2", [NO, NO, NO, NO, YES]),
];

/// How many connections that makes: in both families, but for two pods that have one.
pub(crate) const CELLS: usize = 2 * PORTS.len() * REACH.len() - 2 * PORTS.len();

/// How long an answer may take that should come.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long no answer may come where none should. Answers take less than a millisecond.
const SILENCE: Duration = Duration::from_millis(400);

/// What is said of a connection the pod answered, and of one that got no answer.
const ANSWERED: &str = "yes";
const SILENT: &str = "no";

/// A connection that was tried.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reach {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// Policies admit it.
    pub(crate) expected: bool,
    /// "yes" where the pod answered, "no" where nothing did, or what else happened.
    pub(crate) outcome: String,
    pub(crate) ok: bool,
}

impl Reach {
    /// Whether nothing came back.
    pub(super) fn is_silent(&self) -> bool {
        self.outcome == SILENT
    }
}

/// The pods that have to serve, with their ports.
pub(super) fn servers() -> BTreeMap<&'static str, Vec<u16>> {
    let mut servers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (pod, port) in PORTS {
        servers.entry(pod).or_default().push(port);
    }
    servers
}

/// Tries every connection, all at the same time: most of them wait for an answer that does not come.
pub(super) fn matrix(cluster: &Cluster, attached: &[Attached]) -> Result<Vec<Reach>> {
    let mut wanted = Vec::new();
    for (from, expected) in REACH {
        for ((to, port), expected) in PORTS.into_iter().zip(expected) {
            let address_of = super::attachment(attached, to)?;
            for family in Family::ALL.into_iter().filter(|family| has(from, *family)) {
                wanted.extend(address_of.address(family).map(|address| (from, to, address, port, expected)));
            }
        }
    }
    execute::in_parallel(&wanted, wanted.len(), |(from, to, address, port, expected)| {
        cluster.interrupt.check()?;
        let outcome = cluster.state.netns(from).run(|| Ok(connect(to, *address, *port, *expected)))?;
        let ok = outcome == if *expected { ANSWERED } else { SILENT };
        Ok(Reach { from, to, address: *address, port: *port, expected: *expected, outcome, ok })
    })
}

/// Whether an element of the lab has addresses of a family; what is not a pod has both.
fn has(element: &str, family: Family) -> bool {
    topology::pod(element).is_none_or(|(_, pod)| pod.asks(family) != topology::Asks::Nothing)
}

fn connect(to: &str, address: IpAddr, port: u16, expected: bool) -> String {
    let patience = if expected { PATIENCE } else { SILENCE };
    match Connection::to(SocketAddr::new(address, port), patience) {
        Ok(connection) if connection.pod == to => ANSWERED.to_owned(),
        Ok(connection) => format!("{} answers", connection.pod),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
            SILENT.to_owned()
        }
        Err(error) => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_of_the_lab_and_every_port_is_reached_and_denied() {
        for (from, _) in REACH {
            assert!(topology::elements().any(|element| element == from), "{from}");
        }
        for (index, (pod, port)) in PORTS.into_iter().enumerate() {
            assert!(topology::http(pod).is_some());
            for expected in [YES, NO] {
                assert!(REACH.iter().any(|(_, row)| row[index] == expected), "{pod}:{port} {expected}");
            }
        }
        let families = REACH.iter().map(|(from, _)| Family::ALL.iter().filter(|it| has(from, **it)).count());
        assert_eq!(families.sum::<usize>() * PORTS.len(), CELLS);
    }
}
