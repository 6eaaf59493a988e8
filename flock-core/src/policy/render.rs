//! Rules as nftables has them: text for `nft -f`, and typed elements for netlink.
//!
//! ```text
//!   Ruleset --> table  --> text of one transaction: counters, sets, chains, rules, and the elements last
//!   Update  --> update --> elements alone where nothing else changes, and text otherwise
//!   Ruleset --> as_observed --> what the kernel shows of it
//! ```
//!
//! Text is made of single commands, which all fail where the table is missing: half a table would be worse than none.

mod chains;
mod dropped;
mod element;
mod table;
mod update;

#[cfg(test)]
mod tests;

use std::fmt;

use super::{ChainId, Direction, Gate, PeerId, PortsId, Tier};

pub use dropped::{DropReason, LOG_GROUP, LOG_RATE, is_about_log, without_log};
pub use element::{Element, Key, guard, is_compared};
pub use table::table;
pub use update::{ElementChange, Rendered, Verb, update};

/// The table, of family inet.
pub const TABLE: &str = "flock";

/// The set beside the rules that holds the stamp they ask for, so that it can be read without reading rules.
pub const STAMP: &str = "stamp";

/// Bits of the conntrack mark that hold the stamp.
pub(crate) const STAMP_MASK: u32 = 0x3fff_0000;
/// Bits of the conntrack mark that are not flock's.
pub(crate) const FOREIGN_MASK: u32 = 0x0000_ffff;

/// The bit of the conntrack mark that says that a tier has admitted a flow, so that the later ones are not asked. It
/// means something in the middle of a judgement only: the bits are cleared before it and after it.
const fn admitted(direction: Direction) -> u32 {
    match direction {
        Direction::Egress => 1 << 30,
        Direction::Ingress => 1 << 31,
    }
}

/// Names a set or a map; prints as nftables calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// From which link which IPv6 addresses may come.
    Sources6,
    /// From which link which IPv4 addresses may come.
    Sources4,
    /// Links of pods that are not open.
    Guarded,
    /// Links nothing passes.
    Shut,
    /// Guarded links twice each: a pod may talk to itself by way of the node.
    Itself,
    /// The stamp.
    Stamp,
    /// From the link to the chain that judges.
    Gate(Gate),
    /// Ports.
    Ports(PortsId),
    /// IPv6 addresses of peers.
    Peers6(PeerId),
    /// IPv4 addresses of peers.
    Peers4(PeerId),
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sources6 => f.write_str("src6"),
            Self::Sources4 => f.write_str("src4"),
            Self::Guarded => f.write_str("guarded"),
            Self::Shut => f.write_str("shut"),
            Self::Itself => f.write_str("self"),
            Self::Stamp => f.write_str(STAMP),
            Self::Gate(Gate { direction, tier }) => {
                let direction = match direction {
                    Direction::Egress => "out",
                    Direction::Ingress => "in",
                };
                let tier = match tier {
                    Tier::Admin => "admin",
                    Tier::Policy => "np",
                    Tier::Baseline => "base",
                };
                write!(f, "{direction}_{tier}")
            }
            Self::Ports(PortsId(id)) => write!(f, "t_{id:016x}"),
            Self::Peers6(PeerId(id)) => write!(f, "p6_{id:016x}"),
            Self::Peers4(PeerId(id)) => write!(f, "p4_{id:016x}"),
        }
    }
}

/// Reads what an ID prints as.
fn id_of(text: &str) -> Option<u64> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_id = text.len() == 16 && text.bytes().all(is_hex);
    if is_id { u64::from_str_radix(text, 16).ok() } else { None }
}

impl SetName {
    /// Reads a name as it prints.
    pub fn parse(name: &str) -> Option<Self> {
        let gates = Gate::ALL.map(Self::Gate);
        let mut fixed = Self::ALWAYS.into_iter().chain(gates);
        if let Some(fixed) = fixed.find(|set| set.to_string() == name) {
            return Some(fixed);
        }
        let (kind, id) = name.split_once('_')?;
        let id = id_of(id)?;
        match kind {
            "t" => Some(Self::Ports(PortsId(id))),
            "p6" => Some(Self::Peers6(PeerId(id))),
            "p4" => Some(Self::Peers4(PeerId(id))),
            _ => None,
        }
    }

    /// The same for both families, IPv6 first.
    const fn peers(id: PeerId) -> [Self; 2] {
        [Self::Peers6(id), Self::Peers4(id)]
    }

    /// Those that are always there, in the order they are declared: a set is found by walking the list, so the ones
    /// that are written most come first.
    const ALWAYS: [Self; 8] = [
        Self::Sources6,
        Self::Sources4,
        Self::Guarded,
        Self::Shut,
        Self::Itself,
        Self::Stamp,
        Self::Gate(Gate { direction: Direction::Egress, tier: Tier::Policy }),
        Self::Gate(Gate { direction: Direction::Ingress, tier: Tier::Policy }),
    ];

    /// Those that are there once a pod has a gate of these tiers.
    const TIERS: [Self; 4] = [
        Self::Gate(Gate { direction: Direction::Egress, tier: Tier::Admin }),
        Self::Gate(Gate { direction: Direction::Ingress, tier: Tier::Admin }),
        Self::Gate(Gate { direction: Direction::Egress, tier: Tier::Baseline }),
        Self::Gate(Gate { direction: Direction::Ingress, tier: Tier::Baseline }),
    ];

    /// Kind and type, as its declaration says them.
    const fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Sources6 => ("set", "type ifname . ipv6_addr;"),
            Self::Sources4 => ("set", "type ifname . ipv4_addr;"),
            Self::Guarded | Self::Shut => ("set", "type ifname;"),
            Self::Itself => ("set", "type ifname . ifname;"),
            Self::Stamp => ("set", "type mark;"),
            Self::Gate(_) => ("map", "type ifname : verdict;"),
            Self::Ports(_) => ("set", "type inet_service; flags interval;"),
            Self::Peers6(_) => ("set", "type ipv6_addr;"),
            Self::Peers4(_) => ("set", "type ipv4_addr;"),
        }
    }

    fn declaration(self) -> String {
        let (kind, of) = self.kind();
        format!("add {kind} inet {TABLE} {self} {{ {of} }}\n")
    }
}

/// Names a chain that judges; prints as nftables calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName {
    /// The first letter.
    pub direction: Direction,
    /// The rest.
    pub id: ChainId,
}

impl ChainName {
    /// Reads a name as it prints.
    pub fn parse(name: &str) -> Option<Self> {
        let (direction, id) = name.split_once('_')?;
        let direction = match direction {
            "o" => Direction::Egress,
            "i" => Direction::Ingress,
            _ => return None,
        };
        Some(Self { direction, id: ChainId(id_of(id)?) })
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.direction {
            Direction::Egress => 'o',
            Direction::Ingress => 'i',
        };
        write!(f, "{letter}_{:016x}", self.id.0)
    }
}
