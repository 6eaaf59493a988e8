use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::{ChainName, SetName};
use crate::ids::{AttachmentId, IfName};
use crate::policy::{Gate, Guard, PeerId, Place, PodRules, Tier};

/// Room the kernel has for the name of an interface.
const IFNAMSIZ: usize = 16;

/// What an element of a set or map is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A link.
    Link(IfName),
    /// A link and an address.
    Source(IfName, IpAddr),
    /// A link twice.
    Itself(IfName),
    /// An address.
    Address(IpAddr),
}

impl Key {
    /// As the kernel has it: names filled up with zeros, addresses in network order.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 * IFNAMSIZ);
        match self {
            Self::Link(link) => put_name(&mut bytes, link),
            Self::Source(link, address) => {
                put_name(&mut bytes, link);
                put_address(&mut bytes, *address);
            }
            Self::Itself(link) => {
                put_name(&mut bytes, link);
                put_name(&mut bytes, link);
            }
            Self::Address(address) => put_address(&mut bytes, *address),
        }
        bytes
    }
}

fn put_name(bytes: &mut Vec<u8>, link: &IfName) {
    let end = bytes.len() + IFNAMSIZ;
    bytes.extend(link.as_str().as_bytes());
    bytes.resize(end, 0);
}

fn put_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V6(v6) => bytes.extend(v6.octets()),
        IpAddr::V4(v4) => bytes.extend(v4.octets()),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => write!(f, "\"{link}\""),
            Self::Source(link, address) => write!(f, "\"{link}\" . {address}"),
            Self::Itself(link) => write!(f, "\"{link}\" . \"{link}\""),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// An element of a set, or of a map that leads to a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// What it is found by.
    pub key: Key,
    /// The chain it jumps to; `None` in a set.
    pub jump: Option<ChainName>,
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)?;
        self.jump.iter().try_for_each(|chain| write!(f, " : jump {chain}"))
    }
}

/// Whether the elements of a set are compared with what was written. The kernel splits the ranges of port lists, and
/// their names stand for their content.
pub fn is_compared(set: &str) -> bool {
    !set.starts_with("t_") && set != super::STAMP
}

const fn plain(key: Key) -> Element {
    Element { key, jump: None }
}

/// The rules match links by the start of their name and text cannot quote every name, so a link that is not flock's
/// has no elements.
fn is_ours(link: &IfName) -> bool {
    let rest = link.as_str().strip_prefix(AttachmentId::HOST_IFNAME_PREFIX);
    rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn sources<'a>(
    link: &'a IfName,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) -> impl Iterator<Item = (SetName, Element)> {
    addresses.into_iter().map(|address| {
        let set = if address.is_ipv6() { SetName::Sources6 } else { SetName::Sources4 };
        (set, plain(Key::Source(link.clone(), *address)))
    })
}

fn guarded(link: &IfName) -> [(SetName, Element); 2] {
    [(SetName::Guarded, plain(Key::Link(link.clone()))), (SetName::Itself, plain(Key::Itself(link.clone())))]
}

/// What has to be there before a link is.
pub fn guard(guard: &Guard) -> Vec<(SetName, Element)> {
    if !is_ours(&guard.link) {
        return Vec::new();
    }
    let mut elements: Vec<_> = sources(&guard.link, &guard.sources).collect();
    if guard.shut {
        elements.extend(guarded(&guard.link));
        elements.push((SetName::Shut, plain(Key::Link(guard.link.clone()))));
    }
    elements
}

/// Everything that stands for a pod.
pub(super) fn of_pod(link: &IfName, rules: &PodRules) -> BTreeSet<(SetName, Element)> {
    if !is_ours(link) {
        return BTreeSet::new();
    }
    let mut elements: BTreeSet<_> = sources(link, &rules.sources).collect();
    match &rules.place {
        Place::Open => return elements,
        Place::Shut(_) => {
            elements.insert((SetName::Shut, plain(Key::Link(link.clone()))));
        }
        Place::Judged(gates) => {
            // What NetworkPolicy says of a direction is final: the baseline is not asked then.
            let is_final = |gate: &Gate| gates.contains_key(&Gate { tier: Tier::Policy, ..*gate });
            let asked = gates.iter().filter(|(gate, _)| gate.tier != Tier::Baseline || !is_final(gate));
            elements.extend(asked.map(|(gate, id)| {
                let jump = Some(ChainName { direction: gate.direction, id: *id });
                (SetName::Gate(*gate), Element { key: Key::Link(link.clone()), jump })
            }));
        }
    }
    elements.extend(guarded(link));
    elements
}

/// One address of a peer.
pub(super) fn of_peer(id: PeerId, address: IpAddr) -> (SetName, Element) {
    let [six, four] = SetName::peers(id);
    (if address.is_ipv6() { six } else { four }, plain(Key::Address(address)))
}
