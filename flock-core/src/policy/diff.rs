mod narrows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Chain, ChainId, PeerId, PodRules, PortRange, PortsId, Ruleset, Stamp};
use crate::ids::IfName;

/// What makes one set of rules into another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Links that are new, different or gone: what was there, and what is to be.
    pub pods: BTreeMap<IfName, Change<PodRules>>,
    /// Chains that are new or gone. A chain never changes: its name stands for its content.
    pub chains: BTreeMap<ChainId, Change<Arc<Chain>>>,
    /// Peers that are new, different or gone.
    pub peers: BTreeMap<PeerId, PeerChange>,
    /// Lists of ports that are new or gone.
    pub ports: BTreeMap<PortsId, Change<Arc<[PortRange]>>>,
    /// How flows are judged from now on; `None`: as before.
    pub judging: Option<Judging>,
    /// Whether pods have gates of the tiers before and after NetworkPolicy from now on; `None`: as before.
    pub tiers: Option<bool>,
}

/// What was there, and what is to be; not both `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// `None`: it is new.
    pub before: Option<T>,
    /// `None`: it is gone.
    pub after: Option<T>,
}

/// What becomes of the peers of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// They are new.
    New(Arc<BTreeSet<IpAddr>>),
    /// Some came, some went.
    Members {
        /// Those that came.
        added: BTreeSet<IpAddr>,
        /// Those that went.
        removed: BTreeSet<IpAddr>,
    },
    /// No rule names them any more.
    Gone,
}

/// Whether flows are judged, and which of them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judging {
    /// They are tracked and judged; those without this stamp are judged (again).
    On(Stamp),
    /// They are neither tracked nor judged.
    Off,
}

impl Update {
    /// The difference. `judging` is set where that begins or ends; the first stamp is `stamp`.
    pub fn between(written: &Ruleset, wanted: &Ruleset, stamp: Stamp) -> Self {
        let judging = match (written.judging, wanted.judging) {
            (false, true) => Some(Judging::On(stamp)),
            (true, false) => Some(Judging::Off),
            _ => None,
        };
        Self {
            pods: changes(&written.pods, &wanted.pods),
            chains: comings(&written.chains, &wanted.chains),
            peers: peers(&written.peers, &wanted.peers),
            ports: comings(&written.ports, &wanted.ports),
            judging,
            tiers: (written.uses_tiers() != wanted.uses_tiers()).then(|| wanted.uses_tiers()),
        }
    }

    /// The same as two transactions: what is new and nothing leads to yet, then all the rest.
    ///
    /// A packet that is on its way through the rules when a transaction takes effect goes on by the rules it began with, but
    /// finds the new elements of maps. A chain that began with that transaction has no rules for it yet, and what has no
    /// rules refuses nothing.
    #[must_use]
    pub fn in_two(self) -> (Self, Self) {
        let (mut first, mut second) = (Self::default(), self);
        split(&mut second.chains, &mut first.chains, |change| change.before.is_none());
        split(&mut second.ports, &mut first.ports, |change| change.before.is_none());
        split(&mut second.peers, &mut first.peers, |change| matches!(change, PeerChange::New(_)));
        (first, second)
    }

    /// It changes elements of sets and maps that are there, and nothing else.
    pub fn is_of_elements(&self) -> bool {
        let members_only = |change: &PeerChange| matches!(change, PeerChange::Members { .. });
        self.chains.is_empty()
            && self.ports.is_empty()
            && self.judging.is_none()
            && self.tiers.is_none()
            && self.peers.values().all(members_only)
    }

    /// Nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same with all open flows judged again.
    #[must_use]
    pub fn judging_again(self, stamp: Stamp) -> Self {
        Self { judging: Some(Judging::On(stamp)), ..self }
    }

    /// Does to `rules` what the transaction does to the kernel.
    pub fn apply(&self, rules: &mut Ruleset) {
        apply(&self.pods, &mut rules.pods);
        apply(&self.chains, &mut rules.chains);
        apply(&self.ports, &mut rules.ports);
        for (id, change) in &self.peers {
            match change {
                PeerChange::New(members) => {
                    rules.peers.insert(*id, Arc::clone(members));
                }
                PeerChange::Gone => {
                    rules.peers.remove(id);
                }
                PeerChange::Members { added, removed } => {
                    let members = Arc::make_mut(rules.peers.entry(*id).or_default());
                    members.retain(|address| !removed.contains(address));
                    members.extend(added);
                }
            }
        }
        match self.judging {
            Some(Judging::On(_)) => rules.judging = true,
            Some(Judging::Off) => rules.judging = false,
            None => {}
        }
    }
}

fn split<K: Ord, V>(from: &mut BTreeMap<K, V>, to: &mut BTreeMap<K, V>, is_new: impl Fn(&V) -> bool) {
    let (new, rest) = std::mem::take(from).into_iter().partition(|(_, change)| is_new(change));
    (*to, *from) = (new, rest);
}

fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    written: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> BTreeMap<K, Change<V>> {
    let change = |key: &K| {
        let (before, after) = (written.get(key), wanted.get(key));
        let change = Change { before: before.cloned(), after: after.cloned() };
        (before != after).then(|| (key.clone(), change))
    };
    let gone = written.keys().filter(|key| !wanted.contains_key(key));
    wanted.keys().chain(gone).filter_map(change).collect()
}

/// The same for what never changes, since its name stands for its content.
fn comings<K: Ord + Clone, V: Clone>(
    written: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> BTreeMap<K, Change<V>> {
    let gone = written.iter().filter(|(key, _)| !wanted.contains_key(key));
    let new = wanted.iter().filter(|(key, _)| !written.contains_key(key));
    let gone = gone.map(|(key, value)| (key.clone(), Change { before: Some(value.clone()), after: None }));
    let new = new.map(|(key, value)| (key.clone(), Change { before: None, after: Some(value.clone()) }));
    gone.chain(new).collect()
}

fn apply<K: Ord + Clone, V: Clone>(changes: &BTreeMap<K, Change<V>>, to: &mut BTreeMap<K, V>) {
    for (key, change) in changes {
        match &change.after {
            Some(after) => to.insert(key.clone(), after.clone()),
            None => to.remove(key),
        };
    }
}

fn peers(
    written: &BTreeMap<PeerId, Arc<BTreeSet<IpAddr>>>,
    wanted: &BTreeMap<PeerId, Arc<BTreeSet<IpAddr>>>,
) -> BTreeMap<PeerId, PeerChange> {
    let gone = written.keys().filter(|id| !wanted.contains_key(id)).map(|id| (*id, PeerChange::Gone));
    let there = wanted.iter().filter_map(|(id, after)| {
        let change = match written.get(id) {
            None => PeerChange::New(Arc::clone(after)),
            Some(before) if Arc::ptr_eq(before, after) || before == after => return None,
            Some(before) => PeerChange::Members {
                added: after.difference(before).copied().collect(),
                removed: before.difference(after).copied().collect(),
            },
        };
        Some((*id, change))
    });
    gone.chain(there).collect()
}
