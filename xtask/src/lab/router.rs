//! The upstream router: an ordinary BGP router that takes what the nodes announce and forwards by it.

mod bird;
mod frr;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::netns::Netns;
use super::process::Daemon;
use super::state::State;
use super::topology::{Announced, Family, NODES, Node};

/// What the router runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// BIRD 2.
    Bird,
    /// FRRouting: zebra and bgpd.
    Frr,
}

/// The router of a lab.
#[derive(Debug, Clone)]
pub(super) struct Router {
    kind: Kind,
    netns: Netns,
    dir: PathBuf,
}

/// A BGP session as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    /// The neighbour's address.
    pub(super) neighbour: IpAddr,
    /// Where it is (RFC 4271 section 8.2.2), in the words of the daemon.
    pub(super) state: String,
}

impl Session {
    /// Whether it is up.
    pub(super) fn is_established(&self) -> bool {
        self.state == "Established"
    }
}

/// A route the router's BGP has chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Learned {
    pub(super) prefix: IpNet,
    /// From whom, in the order of their next hops.
    pub(super) paths: Vec<Path>,
    /// The interfaces the router's kernel forwards it to: what counts in the end.
    pub(super) kernel: Vec<String>,
}

/// One of the ways BGP has chosen for a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Path {
    /// As announced, link-local ones left out.
    pub(super) next_hops: Vec<IpAddr>,
    /// The autonomous systems it came through.
    pub(super) as_path: Vec<u32>,
}

impl Path {
    /// Whether it leads to this node.
    pub(super) fn is_to(&self, node: &Node, family: Family) -> bool {
        self.as_path == [node.asn] && self.next_hops == [node.link.neighbour.of(family)]
    }
}

impl Learned {
    /// Whether it is this prefix, from these nodes and nobody else.
    pub(super) fn is(&self, wanted: &Announced) -> bool {
        let family = Family::of(self.prefix.addr());
        self.prefix == wanted.prefix
            && self.paths.len() == wanted.nodes.len()
            && wanted.nodes.iter().all(|node| self.paths.iter().any(|path| path.is_to(node, family)))
            && self.kernel.iter().map(String::as_str).eq(wanted.nodes.iter().map(|node| node.name))
    }
}

impl Router {
    /// The router of this lab.
    pub(super) fn new(state: &State) -> Result<Self> {
        Ok(Self { kind: state.router, netns: state.netns("router"), dir: state.element_dir("router")? })
    }

    /// Writes the configuration and starts the daemons.
    pub(super) fn start(&self) -> Result<Vec<Daemon>> {
        match self.kind {
            Kind::Bird => bird::start(self),
            Kind::Frr => frr::start(self),
        }
    }

    /// Name and version of the daemon. Fails until it answers.
    pub(super) fn version(&self) -> Result<String> {
        match self.kind {
            Kind::Bird => bird::version(self),
            Kind::Frr => frr::version(self),
        }
    }

    /// The sessions that should be there, in the order of the nodes, IPv6 first.
    pub(super) fn sessions(&self) -> Result<Vec<Session>> {
        let states = match self.kind {
            Kind::Bird => bird::session_states(self)?,
            Kind::Frr => frr::session_states(self)?,
        };
        Ok(neighbours()
            .map(|neighbour| Session {
                neighbour,
                state: states.get(&neighbour).map_or("absent", String::as_str).to_owned(),
            })
            .collect())
    }

    /// What BGP has brought, in the order of prefixes.
    pub(super) fn learned(&self) -> Result<Vec<Learned>> {
        let mut learned = match self.kind {
            Kind::Bird => bird::learned(self)?,
            Kind::Frr => frr::learned(self)?,
        };
        let mut kernel = self.netns.show("-6 route show")?;
        kernel.extend(self.netns.show("-4 route show")?);
        for route in &mut learned {
            for path in &mut route.paths {
                path.next_hops.retain(|address| !is_link_local(*address));
            }
            route.paths.sort();
            route.kernel = interfaces(&kernel, route.prefix);
        }
        learned.sort_by_key(|route| (Family::of(route.prefix.addr()), route.prefix));
        Ok(learned)
    }

    /// Commands that show what the router knows, for a person inside its namespace.
    pub(super) fn commands(&self) -> [String; 2] {
        match self.kind {
            Kind::Bird => bird::commands(self),
            Kind::Frr => frr::commands(self),
        }
    }
}

/// The far ends of all sessions.
fn neighbours() -> impl Iterator<Item = IpAddr> {
    NODES.iter().flat_map(|node| Family::ALL.map(|family| node.link.neighbour.of(family)))
}

pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Where the kernel sends a prefix: one interface, or several for several next hops.
fn interfaces(kernel: &[serde_json::Value], prefix: IpNet) -> Vec<String> {
    let mut found = Vec::new();
    // A single address comes without its length.
    let is_host = prefix.prefix_len() == prefix.max_prefix_len();
    let name = if is_host { prefix.addr().to_string() } else { prefix.to_string() };
    for route in kernel.iter().filter(|route| route["dst"] == *name) {
        let hops = route["nexthops"].as_array().map_or(&[][..], Vec::as_slice);
        let devices = std::iter::once(route).chain(hops).filter_map(|hop| hop["dev"].as_str());
        found.extend(devices.map(str::to_owned));
    }
    found.sort();
    found.dedup();
    found
}
