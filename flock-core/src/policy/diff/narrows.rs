use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, PeerChange, Update};
use crate::policy::{
    Action, Chain, ChainId, End, Gate, Peer, PeerId, Place, PodRules, PortRange, PortsId, Protocol, Rule,
    Ruleset, Tier,
};

impl Update {
    /// Whether an open flow may not be admitted any more, so that open flows have to be judged again. True where that
    /// cannot be told from the update by itself. A pod that is gone narrows nothing: its flows are forgotten.
    ///
    /// `wanted` are the rules it leads to: a peer that joins those of a rule that denies or passes on narrows too, and the
    /// chains that stay are not part of the update.
    pub fn narrows(&self, wanted: &Ruleset) -> bool {
        let loses = |change: &PeerChange| matches!(change, PeerChange::Members { removed, .. } if !removed.is_empty());
        self.peers.values().any(loses)
            || self.pods.values().any(|change| self.pod_narrows(change))
            || self.grows_denied(wanted)
    }

    /// Whether peers join those of a rule that does not accept. Chains that are gone do not count: their pods change.
    fn grows_denied(&self, wanted: &Ruleset) -> bool {
        let grows = |id: &PeerId| {
            let change = self.peers.get(id);
            matches!(change, Some(PeerChange::Members { added, .. }) if !added.is_empty())
        };
        let rules = wanted.chains.values().flat_map(|chain| &chain.rules);
        rules.filter(|rule| rule.action != Action::Accept).any(|rule| match &rule.peer {
            Peer::Pods(id) => grows(id),
            Peer::Any | Peer::Net { .. } => false,
        })
    }

    fn pod_narrows(&self, change: &Change<PodRules>) -> bool {
        let Some(after) = &change.after else { return false };
        match (change.before.as_ref().map(|before| &before.place), &after.place) {
            (_, Place::Open) | (Some(Place::Shut(_)), _) => false,
            (Some(Place::Judged(before)), Place::Judged(after)) => {
                before != after && self.gates_narrow(before, after)
            }
            (None | Some(Place::Open), Place::Shut(_) | Place::Judged(_))
            | (Some(Place::Judged(_)), Place::Shut(_)) => true,
        }
    }

    fn gates_narrow(&self, before: &BTreeMap<Gate, ChainId>, after: &BTreeMap<Gate, ChainId>) -> bool {
        // Where tiers hand flows on to each other, a gate less or a rule more may refuse.
        if before.keys().chain(after.keys()).any(|gate| gate.tier != Tier::Policy) {
            return true;
        }
        after.iter().any(|(gate, after)| match before.get(gate) {
            None => true,
            Some(before) => before != after && !self.includes(*after, *before),
        })
    }

    /// Whether everything that the chain before admits is admitted by the chain after it, as far as the update shows
    /// both: chains that stay are not part of it.
    fn includes(&self, after: ChainId, before: ChainId) -> bool {
        let before = self.chains.get(&before).and_then(|change| change.before.as_ref());
        let after = self.chains.get(&after).and_then(|change| change.after.as_ref());
        let (Some(before), Some(after)) = (before, after) else { return false };
        let only_accepts = |chain: &Arc<Chain>| {
            chain.end == End::Refuse && chain.rules.iter().all(|rule| rule.action == Action::Accept)
        };
        let is_covered = |old: &Rule| after.rules.iter().any(|new| self.covers(new, old));
        only_accepts(before) && only_accepts(after) && before.rules.iter().all(is_covered)
    }

    fn covers(&self, new: &Rule, old: &Rule) -> bool {
        let covers_peer = match (&new.peer, &old.peer) {
            (Peer::Any, _) => true,
            (Peer::Net { cidr: new, except: newer }, Peer::Net { cidr: old, except: older }) => {
                new.contains(old) && newer.iter().all(|new| older.iter().any(|old| old.contains(new)))
            }
            (new, old) => new == old,
        };
        covers_peer
            && match (new.ports, old.ports) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(new), Some(old)) => self.covers_ports(new, old),
            }
    }

    fn covers_ports(&self, new: (Protocol, Option<PortsId>), old: (Protocol, Option<PortsId>)) -> bool {
        let ((protocol, new), (of, old)) = (new, old);
        protocol == of
            && match (new, old) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(new), Some(old)) if new == old => true,
                (Some(new), Some(old)) => match (self.list(new), self.list(old)) {
                    (Some(new), Some(old)) => old
                        .iter()
                        .all(|old| new.iter().any(|new| new.first <= old.first && old.last <= new.last)),
                    _ => false,
                },
            }
    }

    /// The ports of a list; `None` where it stays, and so is not part of the update.
    fn list(&self, id: PortsId) -> Option<&[PortRange]> {
        let change = self.ports.get(&id)?;
        change.after.as_deref().or(change.before.as_deref())
    }
}
