//! Real packets: who reaches whom.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::execute::{self, Patience};
use super::interrupt::Interrupt;
use super::pods::Attached;
use super::state::State;
use super::topology::{CLIENT, Family, NODES};

/// A ping: from whom, to whom, in which family, and how it went.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ping {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) address: IpAddr,
    /// Every echo was answered.
    pub(super) ok: bool,
}

/// An address of a pool that no pod has.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Unassigned {
    pub(super) node: &'static str,
    pub(super) address: IpAddr,
    /// The node itself said "unreachable".
    pub(super) ok: bool,
    /// What the client heard.
    pub(super) heard: String,
}

/// Echoes per ping, and between them, in seconds.
const COUNT: &str = "2";
const INTERVAL: &str = "0.05";

/// Seconds to wait for an answer that does not come.
const DEADLINE: &str = "2";

/// An unassigned address has to be refused within this time; silence takes longer.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How many at a time; the machine has other things to do.
const PARALLEL: usize = 8;

/// Pings between the client and every pod, both ways, and from every pod to every other, in each family
/// that both ends have.
pub(super) fn matrix(state: &State, pods: &[Attached], interrupt: &Interrupt) -> Result<Vec<Ping>> {
    let mut wanted = Vec::new();
    for family in Family::ALL {
        for pod in pods.iter().filter(|pod| pod.address(family).is_some()) {
            wanted.push(("client", pod.pod, pod.address(family)));
            wanted.push((pod.pod, "client", Some(CLIENT.neighbour.of(family))));
            for other in pods.iter().filter(|other| other.pod != pod.pod) {
                wanted.push((pod.pod, other.pod, other.address(family)));
            }
        }
    }
    let wanted: Vec<_> =
        wanted.into_iter().filter_map(|(from, to, address)| Some((from, to, address?))).collect();
    execute::in_parallel(&wanted, PARALLEL, |(from, to, address)| {
        let done = ping(state, from, *address, interrupt)?;
        Ok(Ping {
            from,
            to,
            address: *address,
            // ping is content with one answer; a path that loses every other packet is not.
            ok: done.status.success() && done.stdout.contains(" 0% packet loss"),
        })
    })
}

/// Asks for an unassigned address of each pool. The node that owns the pool has to say so at once: silence
/// means the packet was lost, "time exceeded" that it went round in circles.
pub(super) fn unassigned(state: &State, interrupt: &Interrupt) -> Result<Vec<Unassigned>> {
    let wanted: Vec<_> = NODES.iter().flat_map(|node| Family::ALL.map(|family| (node, family))).collect();
    execute::in_parallel(&wanted, PARALLEL, |(node, family)| {
        let address = node.unassigned(*family);
        let done = ping(state, "client", address, interrupt)?;
        let heard = heard(&done.stdout);
        let from_node = Family::ALL.map(|family| node.link.neighbour.of(family).to_string());
        let ok = !done.status.success()
            && done.took < AT_ONCE
            && heard.as_deref().is_some_and(|line| {
                line.to_lowercase().contains("unreachable")
                    && from_node.iter().any(|own| line.to_lowercase().contains(&format!("from {own} ")))
            });
        Ok(Unassigned { node: node.name, address, ok, heard: heard.unwrap_or_else(|| "nothing".to_owned()) })
    })
}

fn ping(state: &State, from: &str, address: IpAddr, interrupt: &Interrupt) -> Result<execute::Done> {
    let mut command = Command::new("ping");
    command.args([Family::of(address).option(), "-n", "-c", COUNT, "-i", INTERVAL, "-W", DEADLINE]);
    command.arg(address.to_string()).env("LC_ALL", "C");
    execute::run(
        &mut command,
        Some(&state.netns(from)),
        "",
        &Patience::until(Duration::from_secs(20), interrupt),
    )
}

/// The first line in which somebody else than the target speaks.
fn heard(output: &str) -> Option<String> {
    output.lines().find(|line| line.starts_with("From ")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_answers_is_found_in_the_output_of_ping() {
        let text = "\
PING 2001:db8:f001::dead(2001:db8:f001::dead) 56 data bytes
From 2001:db8:0:1::2 icmp_seq=1 Destination unreachable: No route

--- 2001:db8:f001::dead ping statistics ---
2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 50ms
";
        assert_eq!(heard(text).unwrap(), "From 2001:db8:0:1::2 icmp_seq=1 Destination unreachable: No route");
        assert_eq!(heard("PING x\n\n--- x ping statistics ---\n"), None);
    }
}
