//! Reads the table back as what it was made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use flock_core::ids::IfName;
use flock_core::policy::render::{ChainName, SetName};
use flock_core::policy::{Chain, Gate, Place, PodRules, Ruleset, Shut, Stamp};
use flock_core::ports::{FirewallError, ObservedLink};

use super::observe::{chains, elements, sets, stamp, table, text};
use super::socket::Socket;

/// Room the kernel has for the name of an interface.
const IFNAMSIZ: usize = 16;

/// What the table holds, as rules.
pub(super) fn read(socket: &mut Socket) -> Result<Option<(Ruleset, Option<Stamp>)>, FirewallError> {
    if table(socket)?.is_none() {
        return Ok(None);
    }
    let stamp = stamp(socket)?;
    let mut rules = Ruleset { judging: stamp.is_some(), ..Ruleset::default() };
    for (link, seen) in links(socket)? {
        let ObservedLink { sources, shut, chains } = seen;
        let chains: BTreeMap<_, _> =
            chains.iter().filter_map(|(gate, chain)| Some((*gate, ChainName::parse(chain)?.id))).collect();
        let place = match (shut, chains.is_empty()) {
            (true, _) => Place::Shut(Shut::Unknown),
            (false, true) => Place::Open,
            (false, false) => Place::Judged(chains),
        };
        rules.pods.insert(link, PodRules { sources, place });
    }
    for name in chains(socket)?.keys() {
        if let Some(ChainName { direction, id }) = ChainName::parse(name) {
            rules.chains.insert(id, Arc::new(Chain::unknown(direction)));
        }
    }
    let mut peers = BTreeMap::<_, BTreeSet<IpAddr>>::new();
    for name in sets(socket)?.keys() {
        match SetName::parse(name) {
            Some(SetName::Ports(id)) => drop(rules.ports.insert(id, Arc::from([]))),
            Some(set @ (SetName::Peers6(id) | SetName::Peers4(id))) => {
                let members = elements(socket, &set.to_string(), |members: &mut Vec<IpAddr>, key, _| {
                    members.extend(address(key));
                })?;
                peers.entry(id).or_default().extend(members);
            }
            _ => {}
        }
    }
    rules.peers = peers.into_iter().map(|(id, members)| (id, Arc::new(members))).collect();
    Ok(Some((rules, stamp)))
}

/// What the table says of each link.
pub(super) fn links(socket: &mut Socket) -> Result<BTreeMap<IfName, ObservedLink>, FirewallError> {
    let mut links = BTreeMap::<IfName, ObservedLink>::new();
    if table(socket)?.is_none() {
        return Ok(links);
    }
    for set in [SetName::Sources6, SetName::Sources4] {
        for (key, _) in keys(socket, set)? {
            let (name, rest) = key.split_at_checked(IFNAMSIZ).unwrap_or_default();
            if let (Some(link), Some(address)) = (link(name), address(rest)) {
                links.entry(link).or_default().sources.insert(address);
            }
        }
    }
    for (key, _) in keys(socket, SetName::Shut)? {
        if let Some(link) = link(&key) {
            links.entry(link).or_default().shut = true;
        }
    }
    let there = sets(socket)?;
    for gate in Gate::ALL.into_iter().filter(|gate| there.contains_key(&SetName::Gate(*gate).to_string())) {
        for (key, chain) in keys(socket, SetName::Gate(gate))? {
            if let (Some(link), Some(chain)) = (link(&key), text(&chain)) {
                links.entry(link).or_default().chains.insert(gate, chain.to_owned());
            }
        }
    }
    Ok(links)
}

type KeyAndChain = (Vec<u8>, Vec<u8>);

/// The elements of a set: keys, and the chains their verdicts name.
fn keys(socket: &mut Socket, set: SetName) -> Result<Vec<KeyAndChain>, FirewallError> {
    elements(socket, &set.to_string(), |keys: &mut Vec<_>, key, chain| {
        keys.push((key.to_vec(), chain.to_vec()));
    })
}

/// The name of a link, filled up with zeros.
fn link(name: &[u8]) -> Option<IfName> {
    let name = name.split(|byte| *byte == 0).next()?;
    IfName::parse(std::str::from_utf8(name).ok()?).ok()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|raw| IpAddr::from(*raw)),
        16 => bytes.first_chunk::<16>().map(|raw| IpAddr::from(*raw)),
        _ => None,
    }
}
