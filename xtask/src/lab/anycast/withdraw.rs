//! Pods that stop serving, one after another, while a client keeps asking.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use serde::Serialize;

use super::client::{self, Asked, Connection, Load};
use super::watch::Gone;
use super::{Each, FIRST_PORT, FLOWS, SERVER, ask_many, start_server, weights};
use crate::lab::cluster::Cluster;
use crate::lab::netns;
use crate::lab::node::{Life, NodeDir};
use crate::lab::pods::Attached;
use crate::lab::topology::{self, Family, Node};

/// Requests each worker of the client finishes before something happens, and after it.
const REQUESTS: usize = 50;

/// New flows per family, once it is over.
const AFTERWARDS: u16 = 200;

/// How many of [`AFTERWARDS`] may still go to a pod that drains beside another one. Flows whose bucket somebody
/// used within the last minute go where that one went; with one pod in four it would be fifty.
const STICKY: u16 = 25;

/// How many requests may fail while a next hop goes in good order: those on their way through the router at that
/// very moment. A TCP handshake may begin at one node and go on at the other, which knows nothing of it, and BIRD
/// takes an IPv6 route away before it writes it anew.
const IN_FLIGHT: usize = 3;

/// A next hop that takes longer to go, in milliseconds, went because somebody looked by chance: BIRD looks at all
/// routes every 10 s.
const BY_CHANCE: f64 = 5000.0;

/// A pod that stopped serving, and what a client noticed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Withdrawal {
    pub(crate) pod: &'static str,
    /// What happened to it.
    pub(crate) what: &'static str,
    /// The next hop that has to go at the router; none while another pod of the node serves.
    pub(crate) next_hop: Option<&'static str>,
    /// From what happened to the pod until the router's kernel did not forward to that next hop any more, in
    /// milliseconds.
    pub(crate) gone_ms: Each<Option<f64>>,
    /// Requests that ran meanwhile.
    pub(crate) requests: usize,
    /// Those without an answer.
    pub(crate) failed: usize,
    /// Those of them that were made when the router forwarded elsewhere already.
    pub(crate) failed_afterwards: usize,
    /// How they failed, and how many like that.
    pub(crate) failures: BTreeMap<String, usize>,
    /// Connections that were open all the time.
    pub(crate) connections: usize,
    /// Those that broke.
    pub(crate) broken: usize,
    /// Those of them that did not lead to the node that is out of the way now.
    pub(crate) broken_elsewhere: usize,
    /// New flows afterwards.
    pub(crate) new_flows: u16,
    /// Those of them that the pod got all the same.
    pub(crate) to_pod: u16,
    pub(crate) ok: bool,
}

/// What has to hold of a withdrawal.
#[derive(Debug, Clone, Copy)]
struct Promise {
    /// Requests that may fail.
    failed: usize,
    /// New flows the pod may still get.
    to_pod: u16,
}

impl Withdrawal {
    fn keeps(&self, promise: Promise) -> bool {
        let in_time = |family| self.gone_ms.get(family).is_some_and(|ms| ms < BY_CHANCE);
        let gone = self.next_hop.is_none() || Family::ALL.into_iter().all(in_time);
        gone && self.requests > 0
            && self.failed <= promise.failed
            && self.failed_afterwards == 0
            && self.broken_elsewhere == 0
            && self.to_pod <= promise.to_pod
    }
}

/// Takes one pod after another out of service, and brings them back.
pub(crate) fn withdrawals(cluster: &mut Cluster, attached: &mut [Attached]) -> Result<Vec<Withdrawal>> {
    let mut seen = Vec::new();
    let drains = Promise { failed: 0, to_pod: 2 * STICKY };
    seen.push(withdraw(cluster, ("dns-1", "not Ready"), None, drains, |cluster| {
        turn(cluster, "dns-1", Life::NotReady)
    })?);

    let leaves = Promise { failed: IN_FLIGHT, to_pod: 0 };
    seen.push(withdraw(cluster, ("dns-2", "being deleted"), Some("node1"), leaves, |cluster| {
        turn(cluster, "dns-2", Life::Terminating)
    })?);
    turn(cluster, "dns-1", Life::Ready)?;
    wait_for_both(cluster)?;
    make_again(cluster, attached, "dns-2")?;

    seen.push(withdraw(cluster, ("dns-3", "not Ready"), Some("node2"), leaves, |cluster| {
        turn(cluster, "dns-3", Life::NotReady)
    })?);
    turn(cluster, "dns-3", Life::Ready)?;
    wait_for_both(cluster)?;

    let (node, pod) = find("dns-3")?;
    cluster.kill(node.name, "flock-agent run")?;
    let vanishes = Promise { failed: usize::MAX, to_pod: 0 };
    seen.push(withdraw(cluster, (pod, "gone, agent dead"), Some(node.name), vanishes, |cluster| {
        let since = Instant::now();
        // A namespace stays for as long as somebody is in it.
        cluster.kill(pod, SERVER)?;
        netns::remove(&[cluster.state.netns(pod)])?;
        Ok(since)
    })?);
    cluster.start_agent_again(node)?;
    let fresh = cluster.attach_again(attached, pod)?.pod;
    start_server(cluster, fresh)?;
    wait_for_both(cluster)?;
    Ok(seen)
}

/// Does something to a pod while a client asks, and sees what becomes of it. `act` says when it began.
fn withdraw(
    cluster: &mut Cluster,
    (pod, what): (&'static str, &'static str),
    next_hop: Option<&'static str>,
    promise: Promise,
    act: impl FnOnce(&mut Cluster) -> Result<Instant>,
) -> Result<Withdrawal> {
    let client = cluster.state.netns("client");
    let mut open = client.run(client::open_some)?;
    let load = Load::default();
    let (outcome, asked) = thread::scope(|scope| {
        let running = scope.spawn(|| client.run(|| load.run()));
        let outcome = while_asking(cluster, &load, pod, next_hop, act);
        load.stop();
        let asked = running.join().map_err(|_| anyhow!("the client panicked"))??;
        anyhow::Ok((outcome?, asked))
    })?;
    let (since, gone) = outcome;
    let broken: Vec<_> =
        open.iter_mut().filter_map(|connection| (!connection.works()).then(|| node_of(connection))).collect();
    let failed: Vec<_> = asked.iter().filter(|asked| asked.answer.is_err()).collect();
    let came_late = |asked: &&&Asked| gone.get(asked.family).is_some_and(|gone| asked.started > gone.settled);
    // A flow the node has seen before stays where it was.
    let ports = FIRST_PORT + FLOWS..FIRST_PORT + FLOWS + AFTERWARDS;
    let mut to_pod = 0;
    for family in Family::ALL {
        to_pod += ask_many(cluster, family, ports.clone())?.get(pod).copied().unwrap_or_default();
    }
    let mut seen = Withdrawal {
        pod,
        what,
        next_hop,
        gone_ms: Each::of(|family| gone.get(family).map(|gone| (gone.at - since).as_secs_f64() * 1000.0)),
        requests: asked.len(),
        failed: failed.len(),
        failed_afterwards: failed.iter().filter(came_late).count(),
        failures: failures(&failed),
        connections: open.len(),
        broken: broken.len(),
        broken_elsewhere: broken.iter().filter(|node| **node != next_hop || next_hop.is_none()).count(),
        new_flows: 2 * AFTERWARDS,
        to_pod,
        ok: false,
    };
    seen.ok = seen.keeps(promise);
    Ok(seen)
}

fn failures(failed: &[&Asked]) -> BTreeMap<String, usize> {
    let mut failures = BTreeMap::new();
    for Asked { family, transport, answer, .. } in failed {
        if let Err(error) = answer {
            *failures.entry(format!("{family:?} {transport:?}: {error}")).or_insert(0) += 1;
        }
    }
    failures
}

/// When it began, and when each family's next hop was gone.
type Times = (Instant, Each<Option<Gone>>);

fn while_asking(
    cluster: &mut Cluster,
    load: &Load,
    pod: &str,
    next_hop: Option<&str>,
    act: impl FnOnce(&mut Cluster) -> Result<Instant>,
) -> Result<Times> {
    ask_on(cluster, load)?;
    let since = act(cluster)?;
    let gone = if let Some(device) = next_hop {
        wait_until_gone(cluster, device, since)?
    } else {
        wait_until_draining(cluster, find(pod)?.0)?;
        Each::default()
    };
    ask_on(cluster, load)?;
    Ok((since, gone))
}

/// Waits until every worker has finished some more requests.
fn ask_on(cluster: &mut Cluster, load: &Load) -> Result<()> {
    let wanted = load.done().map(|done| done + REQUESTS);
    cluster.wait_for("the client has asked some more", || {
        if load.done().iter().zip(&wanted).all(|(done, wanted)| done >= wanted) {
            Ok(())
        } else {
            bail!("{:?} requests are done, and not yet {wanted:?}", load.done())
        }
    })
}

fn wait_until_gone(cluster: &mut Cluster, device: &str, since: Instant) -> Result<Each<Option<Gone>>> {
    let history = cluster.history()?;
    cluster.wait_for("the router forwards elsewhere", || {
        let gone = Each::of(|family| history.gone(family, device, since));
        if Family::ALL.into_iter().all(|family| gone.get(family).is_some()) {
            Ok(gone)
        } else {
            bail!("it still forwards to {device}: {gone:?}")
        }
    })
}

/// Waits until the groups of a node give one of their two pods as little as they can. Who is alone in a group of
/// IPv4 is there once more with the least weight, so the least weight alone says nothing.
fn wait_until_draining(cluster: &mut Cluster, node: &Node) -> Result<()> {
    let netns = cluster.state.netns(node.name);
    cluster.wait_for("the pod's share goes to the other one", || {
        let groups = weights(&netns)?;
        if groups.iter().all(|group| group.iter().filter(|weight| **weight > 1).count() == 1) {
            Ok(())
        } else {
            bail!("{}: {groups:?}", node.name)
        }
    })
}

/// Waits until the router forwards to every node again.
fn wait_for_both(cluster: &mut Cluster) -> Result<()> {
    cluster.wait_for_routes(topology::announced()).map(drop)
}

/// Tells the agent of another turn in a pod's life; when that was.
fn turn(cluster: &Cluster, pod: &str, life: Life) -> Result<Instant> {
    let Some((node, pod)) = topology::pod(pod) else { bail!("there is no pod {pod}") };
    let dir = NodeDir::new(&cluster.state, node)?;
    let since = Instant::now();
    dir.write_pod(node, pod, life)?;
    Ok(since)
}

/// What a Deployment does: another pod in the place of one that is being deleted.
fn make_again(cluster: &mut Cluster, attached: &mut [Attached], pod: &'static str) -> Result<()> {
    cluster.kill(pod, SERVER)?;
    turn(cluster, pod, Life::Ready)?;
    cluster.attach_again(attached, pod)?;
    start_server(cluster, pod)
}

fn find(pod: &str) -> Result<(&'static Node, &'static str)> {
    topology::pod(pod).map(|(node, pod)| (node, pod.name)).ok_or_else(|| anyhow!("there is no pod {pod}"))
}

fn node_of(connection: &Connection) -> Option<&'static str> {
    topology::pod(&connection.pod).map(|(node, _)| node.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn withdrawal_holds_only_if_the_router_knows_and_nobody_else_suffers() {
        let good = Withdrawal {
            pod: "dns-3",
            what: "not Ready",
            next_hop: Some("node2"),
            gone_ms: Each { ipv6: Some(12.0), ipv4: Some(12.0) },
            requests: 600,
            failed: 1,
            failed_afterwards: 0,
            failures: BTreeMap::new(),
            connections: 32,
            broken: 16,
            broken_elsewhere: 0,
            new_flows: 400,
            to_pod: 2,
            ok: false,
        };
        let promise = Promise { failed: 1, to_pod: 2 };
        assert!(good.keeps(promise));
        let bad: [fn(&mut Withdrawal); 7] = [
            |it| it.gone_ms.ipv6 = Some(9000.0),
            |it| it.gone_ms.ipv4 = None,
            |it| it.requests = 0,
            |it| it.failed = 2,
            |it| it.failed_afterwards = 1,
            |it| it.broken_elsewhere = 1,
            |it| it.to_pod = 3,
        ];
        for (index, spoil) in bad.into_iter().enumerate() {
            let mut spoiled = good.clone();
            spoil(&mut spoiled);
            assert!(!spoiled.keeps(promise), "{index}");
        }
    }
}
