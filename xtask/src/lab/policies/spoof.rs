//! A pod that sends from addresses of others, as root in a pod can.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{attachment, dropped_by, node_of};
use crate::lab::cluster::Cluster;
use crate::lab::netns::Netns;
use crate::lab::pods::Attached;
use crate::lab::topology::{CLIENT, Family};

/// The pod that pretends.
const LIAR: &str = "web-2";

/// What it pretends to be, and what that is to it.
const VICTIMS: [(&str, &str); 3] =
    [("api-2", "a pod beside it"), ("api-1", "a pod of node1"), ("node2", "its node")];

/// Packets per family from each address.
const PACKETS: usize = 10;

/// Where the client receives.
const PORT: u16 = 4000;

const FALSE: &[u8] = b"false";
const TRUE: &[u8] = b"true";

/// Packets from an address of another one.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spoof {
    pub(crate) pod: &'static str,
    pub(crate) pretends_to_be: &'static str,
    pub(crate) who_is: &'static str,
    pub(crate) sent: usize,
    /// How many of them the client got.
    pub(crate) arrived: usize,
    /// How many packets with a false source the node counted meanwhile.
    pub(crate) counted: u64,
    /// How many packets from the pod's own address the client got, sent after the others.
    pub(crate) own_arrived: usize,
    pub(crate) ok: bool,
}

/// Sends to the client from addresses of others, and from its own ones: what comes shows that the others could have.
pub(super) fn attempts(lab: &mut Cluster, attached: &[Attached]) -> Result<Vec<Spoof>> {
    VICTIMS.into_iter().map(|victim| attempt(lab, attached, victim)).collect()
}

fn attempt(lab: &mut Cluster, attached: &[Attached], victim: (&'static str, &'static str)) -> Result<Spoof> {
    let (pretends_to_be, who_is) = victim;
    let node = node_of(LIAR)?;
    let before = dropped_by(lab, node, "spoofed")?;
    let mut got = Got::default();
    for family in Family::ALL {
        let source = if pretends_to_be == node.name {
            node.link.neighbour.of(family)
        } else {
            attachment(attached, pretends_to_be)?.address(family).context("it has no such address")?
        };
        let own = attachment(attached, LIAR)?.address(family).context("it has no such address")?;
        let client = SocketAddr::new(CLIENT.neighbour.of(family), PORT);
        let receiver = lab.state.netns("client").run(|| Ok(UdpSocket::bind(client)?))?;
        receiver.set_nonblocking(true).context("cannot read without waiting")?;
        send_from_both(&lab.state.netns(LIAR), source, own, client)?;
        let mut of_family = Got::default();
        lab.wait_for("packets from the pod's own address arrive", || {
            of_family.receive(&receiver)?;
            match of_family.own {
                PACKETS.. => Ok(()),
                few => bail!("{few} of {PACKETS} are there"),
            }
        })?;
        got = Got { own: got.own + of_family.own, others: got.others + of_family.others };
    }
    let counted = dropped_by(lab, node, "spoofed")? - before;
    let sent = Family::ALL.len() * PACKETS;
    let ok = got.others == 0 && got.own == sent && counted >= u64::try_from(sent)?;
    Ok(Spoof {
        pod: LIAR,
        pretends_to_be,
        who_is,
        sent,
        arrived: got.others,
        counted,
        own_arrived: got.own,
        ok,
    })
}

/// Sends packets from an address the pod has taken, then from its own: they take the same way, one after another.
fn send_from_both(pod: &Netns, taken: IpAddr, own: IpAddr, to: SocketAddr) -> Result<()> {
    let (net, nodad) =
        if taken.is_ipv6() { (format!("{taken}/128"), " nodad") } else { (format!("{taken}/32"), "") };
    pod.batch(&format!("address add {net} dev lo{nodad}\n"))?;
    pod.run(|| {
        for (source, words) in [(taken, FALSE), (own, TRUE)] {
            let socket = UdpSocket::bind((source, 0)).with_context(|| format!("cannot bind {source}"))?;
            for _ in 0..PACKETS {
                socket.send_to(words, to).with_context(|| format!("cannot send from {source}"))?;
            }
        }
        Ok(())
    })?;
    pod.batch(&format!("address del {net} dev lo\n"))
}

/// How many packets came.
#[derive(Debug, Default)]
struct Got {
    own: usize,
    others: usize,
}

impl Got {
    /// Takes what has come.
    fn receive(&mut self, socket: &UdpSocket) -> Result<()> {
        let mut packet = [0; 16];
        loop {
            match socket.recv(&mut packet) {
                Ok(length) if packet.get(..length) == Some(TRUE) => self.own += 1,
                Ok(_) => self.others += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }
}
