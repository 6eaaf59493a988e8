use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{PortRange, Protocol};
use crate::ids::IfName;

/// Everything the firewall of a node holds: the intermediate form between policies and nftables. Holds what
/// `ClusterNetworkPolicies` ask for too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Flows are tracked and judged: the cluster has a policy, or it is not known yet whether it has. Without it only the
    /// source addresses are checked.
    pub judging: bool,
    /// The pods of this node, by the host's end of their link.
    pub pods: BTreeMap<IfName, PodRules>,
    /// Chains that places lead to, each used at least once.
    pub chains: BTreeMap<ChainId, Arc<Chain>>,
    /// Addresses of the peers that rules name, both families together; each is used at least once.
    pub peers: BTreeMap<PeerId, Arc<BTreeSet<IpAddr>>>,
    /// Lists of ports that rules name, in order, without overlap; each is used at least once.
    pub ports: BTreeMap<PortsId, Arc<[PortRange]>>,
}

impl Ruleset {
    /// Whether flows of a pod are judged by a tier other than NetworkPolicy's.
    pub(super) fn uses_tiers(&self) -> bool {
        let has_tier = |place: &Place| matches!(place, Place::Judged(gates) if gates.keys().any(|gate| gate.tier != Tier::Policy));
        self.judging && self.pods.values().any(|pod| has_tier(&pod.place))
    }

    /// Takes out what no pod needs any more: chains, then the peers and ports they named.
    pub fn prune(&mut self) {
        let used: BTreeSet<ChainId> = self
            .pods
            .values()
            .flat_map(|pod| match &pod.place {
                Place::Judged(chains) => chains.values().copied().collect(),
                Place::Open | Place::Shut(_) => Vec::new(),
            })
            .collect();
        self.chains.retain(|chain, _| used.contains(chain));
        let rules = || self.chains.values().flat_map(|chain| &chain.rules);
        let peers: BTreeSet<PeerId> =
            rules().filter_map(|rule| if let Peer::Pods(id) = rule.peer { Some(id) } else { None }).collect();
        let ports: BTreeSet<PortsId> = rules().filter_map(|rule| rule.ports?.1).collect();
        self.peers.retain(|id, _| peers.contains(id));
        self.ports.retain(|id, _| ports.contains(id));
    }
}

/// What holds for one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRules {
    /// Addresses packets from the pod may have as their source.
    pub sources: BTreeSet<IpAddr>,
    /// How its flows are judged.
    pub place: Place,
}

/// How the flows of a pod are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// No policy selects it: everything passes.
    Open,
    /// Nothing passes but from and to its own node.
    Shut(Shut),
    /// By these chains; a gate that is not there admits. With a gate of NetworkPolicy none of the baseline is asked in
    /// the same direction.
    Judged(BTreeMap<Gate, ChainId>),
}

/// Why nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shut {
    /// Policies have not been listed completely yet.
    Starting,
    /// The labels of the pod are not known, and a policy may select it.
    Unknown,
    /// A policy that selects it could not be written.
    Failed,
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "policies are not known yet",
            Self::Unknown => "the labels of the pod are not known, and a policy may select it",
            Self::Failed => "a policy that selects the pod cannot be written",
        })
    }
}

/// Where a flow is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gate {
    /// On its way out of a pod, or into one.
    pub direction: Direction,
    /// By which policies.
    pub tier: Tier,
}

impl Gate {
    /// All there are, in the order they are asked.
    pub const ALL: [Self; 6] = [
        Self { direction: Direction::Egress, tier: Tier::Admin },
        Self { direction: Direction::Ingress, tier: Tier::Admin },
        Self { direction: Direction::Egress, tier: Tier::Policy },
        Self { direction: Direction::Ingress, tier: Tier::Policy },
        Self { direction: Direction::Egress, tier: Tier::Baseline },
        Self { direction: Direction::Ingress, tier: Tier::Baseline },
    ];
}

/// Seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Out of the pod.
    Egress,
    /// Into the pod.
    Ingress,
}

/// Tiers in the order they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// `ClusterNetworkPolicy` of tier Admin.
    Admin,
    /// NetworkPolicy.
    Policy,
    /// `ClusterNetworkPolicy` of tier Baseline.
    Baseline,
}

/// Rules in their order. The first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Which direction the peers of the rules are seen from.
    pub direction: Direction,
    /// The rules.
    pub rules: Vec<Rule>,
    /// What happens where none matches.
    pub end: End,
}

impl Chain {
    /// Stands for a chain of which nothing but the name is known. Nothing is wider.
    pub fn unknown(direction: Direction) -> Self {
        let all = Rule { peer: Peer::Any, ports: None, action: Action::Accept };
        Self { direction, rules: vec![all], end: End::Refuse }
    }
}

/// What happens at the end of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The packet is dropped (NetworkPolicy).
    Refuse,
    /// The next tier is asked (Admin and Baseline).
    NextTier,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The other end of the flow.
    pub peer: Peer,
    /// Ports at the server's end, after DNAT; `None`: every protocol and port. A list that is `None`: all ports of the protocol.
    pub ports: Option<(Protocol, Option<PortsId>)>,
    /// What to do.
    pub action: Action,
}

/// The other end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Anybody.
    Any,
    /// One of these addresses.
    Pods(PeerId),
    /// An address of the prefix and of none of the exceptions; of one family.
    Net {
        /// The prefix.
        cidr: IpNet,
        /// The exceptions.
        except: Vec<IpNet>,
    },
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Admits the flow; of NetworkPolicy the only one.
    Accept,
    /// Drops the packet.
    Deny,
    /// Asks the next tier.
    Pass,
}

/// Names a chain by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub u64);

/// Names the peers that one selector means, by the selector and not by who is among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// Names a list of ports by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortsId(pub u64);

/// What flows that were judged carry in the upper half of their conntrack mark, bits 16 to 29. A flow with an older stamp is
/// judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u16);

impl Stamp {
    /// The first one; 0 is that of flows that were never judged.
    pub const FIRST: Self = Self(1);
    /// The last one before the numbers start again.
    pub const LAST: Self = Self(0x3fff);

    /// From bits 16 to 29 of a conntrack mark; `None` for a flow that was never judged.
    pub const fn from_mark(mark: u32) -> Option<Self> {
        match (mark >> 16 & 0x3fff) as u16 {
            0 => None,
            stamp => Some(Self(stamp)),
        }
    }

    /// As bits 16 to 29 of a conntrack mark.
    pub const fn mark(self) -> u32 {
        (self.0 as u32) << 16
    }

    /// The one after it, and whether flows with any stamp but the present one have to lose theirs before it is used: an
    /// idle flow may have carried its stamp since the number was used last. Twice a round, so that the present one, which stays,
    /// is gone too when its turn comes again.
    #[must_use]
    pub const fn next(self) -> (Self, bool) {
        const HALF: u16 = Stamp::LAST.0 / 2;
        match self.0 {
            HALF => (Self(HALF + 1), true),
            stamp if stamp >= Self::LAST.0 => (Self::FIRST, true),
            stamp => (Self(stamp + 1), false),
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
