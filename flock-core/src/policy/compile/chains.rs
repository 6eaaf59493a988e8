use std::collections::BTreeMap;
use std::sync::Arc;

use super::admits::{Admits, ports_id};
use super::digest::digest;
use super::directory::Directory;
use super::selection::{Among, Called, Numbers, Selection};
use crate::policy::{
    Action, Chain, ChainId, Direction, End, NamedPort, NetworkPolicy, Peer, PeerId, PolicyKey, PolicyPeer,
    PolicyRule, PortMatch, PortRange, PortsId, Protocol, Rule, Ruleset,
};

/// The chains: one for each list of policies that pods have, and what the chains name.
pub(super) struct Chains<'a> {
    directory: Directory<'a>,
    /// The rules of policies in one direction, as far as they were needed.
    pieces: BTreeMap<(&'a PolicyKey, Direction), Arc<[Piece<'a>]>>,
    /// The chain of each list of policies, and of named ports where one of the policies asks for them.
    lists: BTreeMap<(Direction, Vec<&'a PolicyKey>, &'a [NamedPort]), ChainId>,
    selections: BTreeMap<Selection, PeerId>,
    /// What was asked of named ports of other pods, and the answers.
    numbers: BTreeMap<(Among, Called), Numbers>,
    ports: BTreeMap<PortsId, Arc<[PortRange]>>,
    made: BTreeMap<ChainId, Arc<Chain>>,
}

/// A peer, and ports it is admitted for; `None`: for everything.
struct Piece<'a> {
    peer: Peer,
    ports: Option<(Protocol, Ports<'a>)>,
}

enum Ports<'a> {
    All,
    Range(PortRange),
    /// What the pod itself calls so: one policy, another number in each pod.
    Own(&'a str),
}

impl<'a> Chains<'a> {
    pub(super) fn new(directory: Directory<'a>) -> Self {
        Self {
            directory,
            pieces: BTreeMap::new(),
            lists: BTreeMap::new(),
            selections: BTreeMap::new(),
            numbers: BTreeMap::new(),
            ports: BTreeMap::new(),
            made: BTreeMap::new(),
        }
    }

    /// The chain of a pod with these named ports that is selected by these policies; `None` where none of them says
    /// anything about the direction.
    pub(super) fn of(
        &mut self,
        direction: Direction,
        policies: &[&'a NetworkPolicy],
        own: &'a [NamedPort],
    ) -> Option<ChainId> {
        let of_direction = policies.iter().filter_map(|policy| Some((*policy, rules(policy, direction)?)));
        let pieces: Vec<_> = of_direction
            .map(|(policy, rules)| (&policy.key, self.pieces(&policy.key, direction, rules)))
            .collect();
        if pieces.is_empty() {
            return None;
        }
        let asks = |piece: &Piece<'_>| matches!(piece.ports, Some((_, Ports::Own(_))));
        let named = pieces.iter().any(|(_, pieces)| pieces.iter().any(asks));
        let list = (direction, pieces.iter().map(|(key, _)| *key).collect(), if named { own } else { &[] });
        if let Some(id) = self.lists.get(&list) {
            return Some(*id);
        }
        let mut admits = Admits::default();
        for piece in pieces.iter().flat_map(|(_, pieces)| &**pieces) {
            match &piece.ports {
                None => admits.everything(&piece.peer),
                Some((protocol, Ports::All)) => admits.ports(&piece.peer, *protocol, None),
                Some((protocol, Ports::Range(range))) => admits.ports(&piece.peer, *protocol, Some(*range)),
                Some((protocol, Ports::Own(name))) => {
                    for port in own.iter().filter(|port| port.name == *name && port.protocol == *protocol) {
                        admits.ports(&piece.peer, *protocol, Some(single(port.number)));
                    }
                }
            }
        }
        let id = self.chain(direction, admits);
        self.lists.insert(list, id);
        Some(id)
    }

    fn chain(&mut self, direction: Direction, admits: Admits) -> ChainId {
        let rules = admits.finish().into_iter().map(|(peer, ports)| {
            let ports = ports.map(|(protocol, list)| (protocol, list.map(|list| self.list(list))));
            Rule { peer, ports, action: Action::Accept }
        });
        let chain = Chain { direction, rules: rules.collect(), end: End::Refuse };
        let id = ChainId(digest("chain", &chain));
        self.made.entry(id).or_insert_with(|| Arc::new(chain));
        id
    }

    fn list(&mut self, ranges: Vec<PortRange>) -> PortsId {
        let id = ports_id(&ranges);
        self.ports.entry(id).or_insert_with(|| ranges.into());
        id
    }

    fn pieces(
        &mut self,
        key: &'a PolicyKey,
        direction: Direction,
        rules: &'a [PolicyRule],
    ) -> Arc<[Piece<'a>]> {
        if let Some(known) = self.pieces.get(&(key, direction)) {
            return Arc::clone(known);
        }
        let mut pieces = Vec::new();
        for rule in rules {
            let peers = rule.peers.iter().map(Some);
            let everybody = rule.peers.is_empty().then_some(None);
            for peer in peers.chain(everybody) {
                self.rule(&key.namespace, direction, peer, rule, &mut pieces);
            }
        }
        let pieces: Arc<[Piece<'a>]> = pieces.into();
        self.pieces.insert((key, direction), Arc::clone(&pieces));
        pieces
    }

    /// One peer of a rule, with all its ports.
    fn rule(
        &mut self,
        namespace: &str,
        direction: Direction,
        peer: Option<&PolicyPeer>,
        rule: &'a PolicyRule,
        pieces: &mut Vec<Piece<'a>>,
    ) {
        let among = Among::new(namespace, peer);
        let mut plain = None;
        if rule.ports.is_empty() {
            pieces.push(Piece { peer: self.peer(&among), ports: None });
        }
        for port in &rule.ports {
            let ports = match &port.port {
                PortMatch::Any => Ports::All,
                PortMatch::Range(range) => Ports::Range(*range),
                PortMatch::Name(name) if direction == Direction::Ingress => Ports::Own(name),
                PortMatch::Name(name) => {
                    self.called(&among, name, port.protocol, pieces);
                    continue;
                }
            };
            let peer = plain.get_or_insert_with(|| self.peer(&among)).clone();
            pieces.push(Piece { peer, ports: Some((port.protocol, ports)) });
        }
    }

    /// A named port of the pods at the other end: as many peers as there are numbers for it.
    fn called(&mut self, among: &Among, name: &str, protocol: Protocol, pieces: &mut Vec<Piece<'a>>) {
        let called = Called { name: name.to_owned(), protocol, number: None };
        let query = (among.clone(), called.clone());
        let numbers = self.numbers.entry(query).or_insert_with(|| self.directory.numbers(among, &called));
        for number in numbers.keys().copied().collect::<Vec<_>>() {
            let called = Some(Called { number: Some(number), ..called.clone() });
            let peer = self.pods(Selection { among: among.clone(), called });
            pieces.push(Piece { peer, ports: Some((protocol, Ports::Range(single(number)))) });
        }
    }

    fn peer(&mut self, among: &Among) -> Peer {
        match among {
            Among::Everybody => Peer::Any,
            Among::Net { cidr, except } => Peer::Net { cidr: *cidr, except: except.clone() },
            Among::Pods { .. } => self.pods(Selection { among: among.clone(), called: None }),
        }
    }

    fn pods(&mut self, selection: Selection) -> Peer {
        Peer::Pods(*self.selections.entry(selection).or_insert_with_key(Selection::id))
    }

    /// Adds the chains to the rules, and what they name. Returns what the outcome depends on beside the policies.
    pub(super) fn finish(mut self, ruleset: &mut Ruleset) -> Asked {
        let known: BTreeMap<_, _> =
            self.selections.into_iter().map(|(selection, id)| (id, selection)).collect();
        let mut selections = BTreeMap::new();
        for rule in self.made.values().flat_map(|chain| &chain.rules) {
            if let Peer::Pods(id) = rule.peer
                && let Some(selection) = known.get(&id)
            {
                selections.entry(id).or_insert_with(|| {
                    ruleset.peers.insert(id, Arc::new(self.directory.members(selection)));
                    selection.clone()
                });
            }
        }
        ruleset.chains = self.made;
        ruleset.ports = self.ports;
        Asked { selections, numbers: self.numbers }
    }
}

/// What was asked of the pods of the cluster.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Who is among the peers.
    pub(super) selections: BTreeMap<PeerId, Selection>,
    /// Which numbers pods have for a named port, and the answers.
    pub(super) numbers: BTreeMap<(Among, Called), Numbers>,
}

/// The rules of a policy in one direction; `None` where it says nothing about it.
fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&[PolicyRule]> {
    match direction {
        Direction::Egress => policy.egress.as_deref(),
        Direction::Ingress => policy.ingress.as_deref(),
    }
}

fn single(number: u16) -> PortRange {
    PortRange { first: number, last: number }
}
