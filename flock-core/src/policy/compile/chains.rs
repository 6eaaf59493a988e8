use std::collections::BTreeMap;
use std::sync::Arc;

use super::admits::{Admits, ports_id};
use super::digest::digest;
use super::directory::Directory;
use super::selection::{Among, Called, Numbers, Quorum, Selection};
use crate::policy::{
    Action, Chain, ChainId, ClusterPolicy, ClusterPort, ClusterRule, Direction, End, NamedPort,
    NetworkPolicy, Peer, PeerId, PolicyKey, PolicyRule, PortMatch, PortRange, PortsId, Protocol, Rule,
    Ruleset,
};

/// The chains: one for each list of policies that pods have, and what the chains name.
pub(super) struct Chains<'a> {
    directory: Directory<'a>,
    /// The rules of policies in one direction, as far as they were needed.
    blocks: BTreeMap<(Policy<'a>, Direction), Arc<[Block<'a>]>>,
    /// The chain of each list of policies, and of named ports where one of the policies asks for them.
    lists: BTreeMap<(Direction, Vec<Policy<'a>>, &'a [NamedPort]), ChainId>,
    selections: BTreeMap<Selection, PeerId>,
    /// What was asked of named ports of other pods, and the answers.
    numbers: BTreeMap<(Among, Called), Numbers>,
    ports: BTreeMap<PortsId, Arc<[PortRange]>>,
    made: BTreeMap<ChainId, Arc<Chain>>,
}

/// Names a policy of either kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Policy<'a> {
    Namespaced(&'a PolicyKey),
    Cluster(&'a str),
}

/// Rules whose order means nothing: they do the same. All rules of a NetworkPolicy, or one of a `ClusterNetworkPolicy`.
struct Block<'a> {
    action: Action,
    pieces: Vec<Piece<'a>>,
}

/// A peer, and ports it is meant for; `None`: for everything.
struct Piece<'a> {
    peer: Peer,
    ports: Option<(Protocol, Ports<'a>)>,
}

enum Ports<'a> {
    All,
    Range(PortRange),
    /// What the destination pod calls so. In a piece it is the pod itself: one policy, another number in each pod.
    Named(&'a str),
}

/// The blocks of some policies in one direction.
type Listed<'a> = Vec<(Policy<'a>, Arc<[Block<'a>]>)>;

impl<'a> Chains<'a> {
    pub(super) fn new(directory: Directory<'a>) -> Self {
        Self {
            directory,
            blocks: BTreeMap::new(),
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
        let listed: Listed<'a> = of_direction
            .map(|(policy, rules)| {
                let blocks = |chains: &mut Self| vec![chains.block(&policy.key.namespace, direction, rules)];
                self.blocks(Policy::Namespaced(&policy.key), direction, blocks)
            })
            .collect();
        self.chain(direction, &listed, own, |chains| {
            let mut admits = Admits::default();
            listed.iter().flat_map(|(_, blocks)| &**blocks).for_each(|block| block.admit(own, &mut admits));
            Chain { direction, rules: chains.rules(Action::Accept, admits), end: End::Refuse }
        })
    }

    /// The same for policies of one tier in the order they are asked: the rules stay in their order. `None` where they
    /// have none for the direction.
    pub(super) fn of_tier(
        &mut self,
        direction: Direction,
        policies: &[&'a ClusterPolicy],
        own: &'a [NamedPort],
    ) -> Option<ChainId> {
        let of_direction = policies.iter().filter(|policy| !policy.rules(direction).is_empty());
        let listed: Listed<'a> = of_direction
            .map(|policy| {
                let rules = policy.rules(direction).iter();
                let blocks =
                    |chains: &mut Self| rules.map(|rule| chains.cluster_block(direction, rule)).collect();
                self.blocks(Policy::Cluster(&policy.name), direction, blocks)
            })
            .collect();
        self.chain(direction, &listed, own, |chains| {
            let mut rules = Vec::new();
            for block in listed.iter().flat_map(|(_, blocks)| &**blocks) {
                let mut admits = Admits::default();
                block.admit(own, &mut admits);
                rules.extend(chains.rules(block.action, admits));
            }
            Chain { direction, rules, end: End::NextTier }
        })
    }

    /// The chain of a list of policies, made where it is not known yet.
    fn chain(
        &mut self,
        direction: Direction,
        listed: &Listed<'a>,
        own: &'a [NamedPort],
        make: impl FnOnce(&mut Self) -> Chain,
    ) -> Option<ChainId> {
        if listed.is_empty() {
            return None;
        }
        let asks = |piece: &Piece<'_>| matches!(piece.ports, Some((_, Ports::Named(_))));
        let mut blocks = listed.iter().flat_map(|(_, blocks)| &**blocks);
        let named = blocks.any(|block| block.pieces.iter().any(asks));
        let list =
            (direction, listed.iter().map(|(policy, _)| *policy).collect(), if named { own } else { &[] });
        if let Some(id) = self.lists.get(&list) {
            return Some(*id);
        }
        let chain = make(self);
        let id = ChainId(digest("chain", &chain));
        self.made.entry(id).or_insert_with(|| Arc::new(chain));
        self.lists.insert(list, id);
        Some(id)
    }

    fn rules(&mut self, action: Action, admits: Admits) -> Vec<Rule> {
        let rules = admits.finish().into_iter().map(|(peer, ports)| {
            let ports = ports.map(|(protocol, list)| (protocol, list.map(|list| self.list(list))));
            Rule { peer, ports, action }
        });
        rules.collect()
    }

    fn list(&mut self, ranges: Vec<PortRange>) -> PortsId {
        let id = ports_id(&ranges);
        self.ports.entry(id).or_insert_with(|| ranges.into());
        id
    }

    /// The blocks of a policy, made where they are not known yet.
    fn blocks(
        &mut self,
        policy: Policy<'a>,
        direction: Direction,
        make: impl FnOnce(&mut Self) -> Vec<Block<'a>>,
    ) -> (Policy<'a>, Arc<[Block<'a>]>) {
        if let Some(known) = self.blocks.get(&(policy, direction)) {
            return (policy, Arc::clone(known));
        }
        let blocks: Arc<[Block<'a>]> = make(self).into();
        self.blocks.insert((policy, direction), Arc::clone(&blocks));
        (policy, blocks)
    }

    /// The rules of a NetworkPolicy.
    fn block(&mut self, namespace: &str, direction: Direction, rules: &'a [PolicyRule]) -> Block<'a> {
        let action = Action::Accept;
        let mut pieces = Vec::new();
        for rule in rules {
            let peers = rule.peers.iter().map(Some);
            let everybody = rule.peers.is_empty().then_some(None);
            for peer in peers.chain(everybody) {
                let among = Among::new(namespace, peer);
                let ports = rule.ports.iter().map(|port| (port.protocol, Ports::from(&port.port)));
                self.pieces(direction, action, among, ports, &mut pieces);
            }
        }
        Block { action, pieces }
    }

    /// One rule of a `ClusterNetworkPolicy`.
    fn cluster_block(&mut self, direction: Direction, rule: &'a ClusterRule) -> Block<'a> {
        let mut pieces = Vec::new();
        for peer in &rule.peers {
            let ports = rule.ports.iter().flat_map(|port| match port {
                ClusterPort::All(protocol) => vec![(*protocol, Ports::All)],
                ClusterPort::Range(protocol, range) => vec![(*protocol, Ports::Range(*range))],
                ClusterPort::Name(name) => {
                    Protocol::ALL.map(|protocol| (protocol, Ports::Named(name))).into()
                }
            });
            self.pieces(direction, rule.action, Among::from(peer), ports, &mut pieces);
        }
        Block { action: rule.action, pieces }
    }

    /// One peer of a rule, with all its ports; without ports for everything.
    fn pieces(
        &mut self,
        direction: Direction,
        action: Action,
        among: Among,
        ports: impl Iterator<Item = (Protocol, Ports<'a>)>,
        pieces: &mut Vec<Piece<'a>>,
    ) {
        let selection = Selection { among, called: None, quorum: Quorum::of(action) };
        let mut ports = ports.peekable();
        if ports.peek().is_none() {
            pieces.push(Piece { peer: self.peer(&selection), ports: None });
        }
        let mut plain = None;
        for (protocol, ports) in ports {
            match ports {
                Ports::Named(name) if direction == Direction::Egress => {
                    self.called(&selection, name, protocol, pieces);
                }
                ports => {
                    let peer = plain.get_or_insert_with(|| self.peer(&selection)).clone();
                    pieces.push(Piece { peer, ports: Some((protocol, ports)) });
                }
            }
        }
    }

    /// A named port of the pods at the other end: as many peers as there are numbers for it.
    fn called(&mut self, selection: &Selection, name: &str, protocol: Protocol, pieces: &mut Vec<Piece<'a>>) {
        let called = Called { name: name.to_owned(), protocol, number: None };
        let query = (selection.among.clone(), called.clone());
        let ask = || self.directory.numbers(&selection.among, &called);
        let numbers = self.numbers.entry(query).or_insert_with(ask);
        for number in numbers.keys().copied().collect::<Vec<_>>() {
            let called = Some(Called { number: Some(number), ..called.clone() });
            let peer = self.pods(Selection { called, ..selection.clone() });
            pieces.push(Piece { peer, ports: Some((protocol, Ports::Range(single(number)))) });
        }
    }

    fn peer(&mut self, selection: &Selection) -> Peer {
        match &selection.among {
            Among::Everybody => Peer::Any,
            Among::Net { cidr, except } => Peer::Net { cidr: *cidr, except: except.clone() },
            Among::Pods { .. } => self.pods(selection.clone()),
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

impl Block<'_> {
    /// Puts the pieces together, for a pod with these named ports.
    fn admit(&self, own: &[NamedPort], admits: &mut Admits) {
        for Piece { peer, ports } in &self.pieces {
            match ports {
                None => admits.everything(peer),
                Some((protocol, Ports::All)) => admits.ports(peer, *protocol, None),
                Some((protocol, Ports::Range(range))) => admits.ports(peer, *protocol, Some(*range)),
                Some((protocol, Ports::Named(name))) => {
                    for port in own.iter().filter(|port| port.name == *name && port.protocol == *protocol) {
                        admits.ports(peer, *protocol, Some(single(port.number)));
                    }
                }
            }
        }
    }
}

impl<'a> From<&'a PortMatch> for Ports<'a> {
    fn from(port: &'a PortMatch) -> Self {
        match port {
            PortMatch::Any => Self::All,
            PortMatch::Range(range) => Self::Range(*range),
            PortMatch::Name(name) => Self::Named(name),
        }
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
