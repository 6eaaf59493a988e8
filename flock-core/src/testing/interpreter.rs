//! Judges packets by rules as the kernel does.

use std::net::IpAddr;

use crate::ids::IfName;
use crate::policy::{Action, Chain, Direction, End, Gate, Peer, Place, Protocol, Rule, Ruleset, Tier};

/// The first packet of a flow, after DNAT.
#[derive(Debug, Clone)]
pub struct Packet {
    /// The link it comes from; `None`: not from a pod of this node.
    pub from: Option<IfName>,
    /// The link it goes to; `None`: not to a pod of this node.
    pub to: Option<IfName>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// `None`: neither TCP nor UDP nor SCTP.
    pub service: Option<(Protocol, u16)>,
}

/// Whether the packet passes. That it may have this source is checked elsewhere.
pub fn passes(rules: &Ruleset, packet: &Packet) -> bool {
    if !rules.judging {
        return true;
    }
    let place =
        |link: &Option<IfName>| link.as_ref().and_then(|link| rules.pods.get(link)).map(|pod| &pod.place);
    let (from, to) = (place(&packet.from), place(&packet.to));
    if [from, to].iter().any(|place| matches!(place, Some(Place::Shut(_)))) {
        return false;
    }
    if packet.from.is_some() && packet.from == packet.to {
        return true;
    }
    consents(rules, from, Direction::Egress, packet) && consents(rules, to, Direction::Ingress, packet)
}

/// Asks the gates of one end in the order of their tiers.
fn consents(rules: &Ruleset, place: Option<&Place>, direction: Direction, packet: &Packet) -> bool {
    let Some(Place::Judged(gates)) = place else { return true };
    for tier in [Tier::Admin, Tier::Policy, Tier::Baseline] {
        let Some(id) = gates.get(&Gate { direction, tier }) else { continue };
        match decide(rules, &rules.chains[id], packet) {
            Action::Accept => return true,
            Action::Deny => return false,
            Action::Pass => {}
        }
    }
    true
}

fn decide(rules: &Ruleset, chain: &Chain, packet: &Packet) -> Action {
    let other = match chain.direction {
        Direction::Egress => packet.destination,
        Direction::Ingress => packet.source,
    };
    match chain.rules.iter().find(|rule| matches(rules, rule, other, packet.service)) {
        Some(rule) => rule.action,
        None if chain.end == End::Refuse => Action::Deny,
        None => Action::Pass,
    }
}

fn matches(rules: &Ruleset, rule: &Rule, other: IpAddr, service: Option<(Protocol, u16)>) -> bool {
    let is_peer = match &rule.peer {
        Peer::Any => true,
        Peer::Pods(id) => rules.peers[id].contains(&other),
        Peer::Net { cidr, except } => cidr.contains(&other) && !except.iter().any(|net| net.contains(&other)),
    };
    let is_port = rule.ports.is_none_or(|(protocol, list)| {
        service.is_some_and(|(used, port)| {
            let listed = |id| rules.ports[&id].iter().any(|range| range.first <= port && port <= range.last);
            used == protocol && list.is_none_or(listed)
        })
    });
    is_peer && is_port
}
