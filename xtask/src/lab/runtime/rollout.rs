//! Agent and BIRD are replaced while a client counts the packets that a pod returns.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::container::{DAEMONS, Node};
use super::pod::Pod;
use crate::echo::Pinger;
use crate::lab::cluster::Cluster;
use crate::lab::netns::Netns;
use crate::lab::topology;

/// Between two packets of a family: 100 a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// A packet that has not come back after this time is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Packets of each family that go back and forth before anything happens, and after all of it has.
const AROUND: usize = 50;

/// How agent and BIRD end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By the kubelet, which asks first; a new pod has its init container.
    Terminated,
    /// By SIGKILL; the kubelet starts the same containers again.
    Killed,
}

/// What a client has sent, and what has not come back.
#[derive(Debug, Default)]
struct Count {
    /// Of each family.
    sent: AtomicUsize,
    lost: AtomicUsize,
    stop: AtomicBool,
}

/// Ends both containers, waits until they are gone, and starts them again; how many packets that has cost.
pub(super) fn replace(lab: &mut Cluster, node: &Node, pod: &Pod, way: Way) -> Result<String> {
    let client = lab.state.netns("client");
    let count = Count::default();
    let addresses = [pod.v6, pod.v4];
    thread::scope(|scope| {
        let sender = scope.spawn(|| count.send(&client, &addresses));
        let replaced = count.more(lab).and_then(|()| swap(lab, node, way)).and_then(|()| count.more(lab));
        count.stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the thread that sends packets panicked"))?;
        replaced.and(sent)
    })?;
    let (sent, lost) = (count.sent.into_inner() * addresses.len(), count.lost.into_inner());
    ensure!(lost == 0, "{lost} of {sent} packets were lost");
    Ok(format!("{lost} of {sent} packets lost"))
}

fn swap(lab: &mut Cluster, node: &Node, way: Way) -> Result<()> {
    for name in DAEMONS {
        node.containerd.signal(name, if way == Way::Killed { "SIGKILL" } else { "SIGTERM" })?;
    }
    lab.wait_for_end(&DAEMONS)?;
    if way == Way::Terminated {
        node.install()?;
    }
    node.start(lab)?;
    lab.wait_for_sessions()?;
    lab.wait_for_routes(topology::pools())?;
    // Who restarts again before this has to be forgotten by its peers (RFC 4724, section 4.2).
    lab.wait_for("BIRD has recovered from its restart", || node.verify_recovered())
}

impl Count {
    /// Sends one packet to each address every [`INTERVAL`], until told to stop.
    fn send(&self, from: &Netns, addresses: &[IpAddr]) -> Result<()> {
        let pinger = from.run(Pinger::open)?;
        let mut next = Instant::now();
        for sequence in (0..=u16::MAX).cycle() {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let replies = pinger.ping(addresses, sequence, PATIENCE)?;
            self.lost.fetch_add(replies.iter().filter(|reply| reply.is_none()).count(), Ordering::Relaxed);
            self.sent.fetch_add(1, Ordering::Relaxed);
            next += INTERVAL;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Waits for [`AROUND`] more.
    fn more(&self, lab: &mut Cluster) -> Result<()> {
        let enough = self.sent.load(Ordering::Relaxed) + AROUND;
        lab.wait_for("packets go back and forth", || {
            let sent = self.sent.load(Ordering::Relaxed);
            ensure!(sent >= enough, "{sent} of {enough} were sent");
            Ok(())
        })
    }
}
