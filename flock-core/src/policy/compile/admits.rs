use std::collections::BTreeMap;

use super::digest::digest;
use crate::policy::{Peer, PortRange, PortsId, Protocol};

/// What rules that do the same match, whatever their order and their number: for each peer the union of its ports.
#[derive(Default)]
pub(super) struct Admits(BTreeMap<Peer, Admitted>);

/// Ports of one protocol; a list that is `None` means all of them.
pub(super) type PortList = (Protocol, Option<Vec<PortRange>>);

/// What a peer is admitted for.
enum Admitted {
    Everything,
    /// `None`: all ports of the protocol.
    Ports(BTreeMap<Protocol, Option<Vec<PortRange>>>),
}

impl Admits {
    /// The peer is admitted for everything.
    pub(super) fn everything(&mut self, peer: &Peer) {
        self.0.insert(peer.clone(), Admitted::Everything);
    }

    /// The peer is admitted for ports of the protocol, or all of them.
    pub(super) fn ports(&mut self, peer: &Peer, protocol: Protocol, range: Option<PortRange>) {
        let admitted = self.0.entry(peer.clone()).or_insert_with(|| Admitted::Ports(BTreeMap::new()));
        let Admitted::Ports(ports) = admitted else { return };
        let list = ports.entry(protocol).or_insert_with(|| Some(Vec::new()));
        match (range, list.as_mut()) {
            (Some(range), Some(list)) => list.push(range),
            (Some(_), None) => {}
            (None, _) => *list = None,
        }
    }

    /// Each peer with what it is admitted for, in order: once with `None`, or once for each protocol. Where everybody
    /// is admitted for everything, nobody else is named.
    pub(super) fn finish(self) -> Vec<(Peer, Option<PortList>)> {
        if let Some(Admitted::Everything) = self.0.get(&Peer::Any) {
            return vec![(Peer::Any, None)];
        }
        let mut rules = Vec::new();
        for (peer, admitted) in self.0 {
            match admitted {
                Admitted::Everything => rules.push((peer, None)),
                Admitted::Ports(ports) => rules.extend(ports.into_iter().map(|(protocol, list)| {
                    let ports = Some((protocol, list.map(union)));
                    (peer.clone(), ports)
                })),
            }
        }
        rules
    }
}

/// The same ports in order, without overlap, in as few ranges as possible.
fn union(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let joins = u32::from(next.first) <= u32::from(range.last) + 1;
        if joins {
            range.last = range.last.max(next.last);
        }
        joins
    });
    ranges
}

pub(super) fn ports_id(ranges: &[PortRange]) -> PortsId {
    PortsId(digest("ports", &ranges))
}
