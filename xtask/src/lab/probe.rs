//! Real packets: who reaches whom, and what an address that nobody has answers.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Serialize, Serializer};

use super::execute::{self, Done, Patience, in_parallel};
use super::interrupt::Interrupt;
use super::netns::Netns;
use super::node::Host;
use super::pod::Attached;
use super::topology::{CLIENT, Family};

/// Packets per ping. All of them have to come back.
const PACKETS: &str = "3";

/// Pings at a time: they mostly wait.
const AT_A_TIME: usize = 12;

/// An unassigned address has to answer within this time. Silence would take longer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Which way a ping goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Direction {
    ClientToPod,
    PodToClient,
    SameNode,
    OtherNode,
}

/// A ping from one element to an address of another.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ping {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) direction: Direction,
    #[serde(serialize_with = "number")]
    pub(super) family: Family,
    pub(super) address: IpAddr,
    /// Round trip in milliseconds; `None` unless every packet came back.
    pub(super) rtt_ms: Option<f64>,
    /// What `ping` said when not.
    pub(super) problem: Option<String>,
}

/// What came of a packet to an address of the pool that no pod has.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Unassigned {
    pub(super) node: &'static str,
    #[serde(serialize_with = "number")]
    pub(super) family: Family,
    pub(super) address: IpAddr,
    /// Who says that it is unreachable; `None` unless somebody says so at once.
    pub(super) unreachable_says: Option<IpAddr>,
    /// What happened instead.
    pub(super) problem: Option<String>,
}

fn number<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(family.number())
}

/// Every ping of the matrix, not sent yet, with the namespace it starts from.
fn matrix(client: &Netns, pods: &[Attached]) -> Vec<(Netns, Ping)> {
    let mut pings = Vec::new();
    for family in Family::ALL {
        let mut push = |netns: &Netns, from, to, direction, address| {
            let ping = Ping { from, to, direction, family, address, rtt_ms: None, problem: None };
            pings.push((netns.clone(), ping));
        };
        let with = |pod: &'_ Attached| pod.address(family);
        for pod in pods {
            let Some(address) = with(pod) else { continue };
            let sandbox = &pod.sandbox;
            push(client, "client", sandbox.pod.name, Direction::ClientToPod, address);
            let of_client = CLIENT.neighbour.of(family);
            push(&sandbox.netns, sandbox.pod.name, "client", Direction::PodToClient, of_client);
            for other in pods.iter().filter(|other| other.sandbox.pod.name != sandbox.pod.name) {
                let Some(address) = with(other) else { continue };
                let same = other.sandbox.node.name == sandbox.node.name;
                let direction = if same { Direction::SameNode } else { Direction::OtherNode };
                push(&sandbox.netns, sandbox.pod.name, other.sandbox.pod.name, direction, address);
            }
        }
    }
    pings
}

/// Pings everybody from everywhere.
pub(super) fn pings(client: &Netns, pods: &[Attached], interrupt: &Interrupt) -> Result<Vec<Ping>> {
    in_parallel(&matrix(client, pods), AT_A_TIME, |(netns, ping)| {
        let done = execute_ping(netns, ping.address, PACKETS, interrupt)?;
        let mut ping = ping.clone();
        match round_trip(&done.stdout) {
            Some(rtt) if done.status.success() => ping.rtt_ms = Some(rtt),
            _ => ping.problem = Some(last_words(&done)),
        }
        Ok(ping)
    })
}

/// Sends a packet to an unassigned address of every pool.
pub(super) fn unassigned(client: &Netns, hosts: &[Host], interrupt: &Interrupt) -> Result<Vec<Unassigned>> {
    let targets: Vec<_> =
        hosts.iter().flat_map(|host| Family::ALL.map(|family| (host.node, family))).collect();
    in_parallel(&targets, AT_A_TIME, |(node, family)| {
        let address = node.unassigned(*family);
        let done = execute_ping(client, address, "1", interrupt)?;
        // The node may speak with any address of its own; it has one of each family.
        let mut seen =
            Unassigned { node: node.name, family: *family, address, unreachable_says: None, problem: None };
        match refusal(&done.stdout) {
            Some(says) if says == node.link.neighbour.of(*family) && done.took < AT_ONCE => {
                seen.unreachable_says = Some(says);
            }
            _ => seen.problem = Some(last_words(&done)),
        }
        Ok(seen)
    })
}

fn execute_ping(netns: &Netns, address: IpAddr, packets: &str, interrupt: &Interrupt) -> Result<Done> {
    let mut ping = Command::new("ping");
    ping.args([Family::of(address).option(), "-n", "-c", packets, "-i", "0.01", "-W", "2"]);
    ping.arg(address.to_string()).env("LC_ALL", "C");
    let done = execute::run(&mut ping, Some(netns), "", &Patience::until(Duration::from_secs(10), interrupt))?;
    // 0: answers; 1: none; anything else says that there was no ping at all.
    match done.status.code() {
        Some(0 | 1) => Ok(done),
        _ => bail!("`{}` failed: {}: {}", crate::cmd::show(&ping), done.status, done.stderr.trim()),
    }
}

/// The average round trip, if nothing was lost.
fn round_trip(text: &str) -> Option<f64> {
    if !text.contains(" 0% packet loss") {
        return None;
    }
    let line = text.lines().find(|line| line.starts_with("rtt "))?;
    line.split(" = ").nth(1)?.split('/').nth(1)?.parse().ok()
}

/// Who says that the destination is unreachable. Time exceeded, which is a loop, is another message.
fn refusal(text: &str) -> Option<IpAddr> {
    let line = text.lines().find(|line| line.starts_with("From "))?;
    if !line.contains("estination") || !line.to_lowercase().contains("unreachable") {
        return None;
    }
    line.split_whitespace().nth(1)?.trim_end_matches(':').parse().ok()
}

/// What a person should see of a ping that went wrong.
fn last_words(done: &Done) -> String {
    let text = format!("{}\n{}", done.stdout, done.stderr);
    let mut lines = text.lines().filter(|line| line.starts_with("From ") || line.contains("packet loss"));
    lines.next().map_or_else(|| format!("ping: {} {}", done.status, done.stderr.trim()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_is_read_only_when_nothing_was_lost() {
        let text = |loss| {
            format!(
                "3 packets transmitted, 3 received, {loss}% packet loss, time 20ms\n\
                 rtt min/avg/max/mdev = 0.045/0.051/0.061/0.007 ms\n"
            )
        };
        assert_eq!(round_trip(&text("0")), Some(0.051));
        assert_eq!(round_trip(&text("33.3333")), None);
        assert_eq!(round_trip(&text("100")), None);
        assert_eq!(round_trip(""), None);
    }

    #[test]
    fn only_unreachable_is_a_refusal() {
        for (line, says) in [
            ("From 2001:db8:0:1::2 icmp_seq=1 Destination unreachable: Address unreachable", Some("2001:db8:0:1::2")),
            ("From 192.0.2.2 icmp_seq=1 Destination Host Unreachable", Some("192.0.2.2")),
            ("From 2001:db8:0:1::2 icmp_seq=1 Time exceeded: Hop limit", None),
            ("From 192.0.2.2 icmp_seq=1 Time to live exceeded", None),
            ("64 bytes from 192.0.2.2: icmp_seq=1 ttl=64 time=0.1 ms", None),
            ("", None),
        ] {
            assert_eq!(refusal(line), says.map(|says| says.parse().unwrap()), "{line}");
        }
    }
}
