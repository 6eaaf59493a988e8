//! Sets of rules to try.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::IfName;
use crate::policy::{
    Action, Chain, ChainId, Direction, End, Gate, Guard, Peer, PeerId, Place, PodRules, PortRange, PortsId,
    Protocol, Rule, Ruleset, Shut, Tier,
};

/// A set of rules, and what is special about it.
#[derive(Debug, Clone)]
pub struct Example {
    pub name: &'static str,
    pub rules: Ruleset,
}

/// A pod by number.
#[derive(Debug, Clone, Copy)]
pub struct Link(u8);

/// The pod of this number.
pub const fn link(number: u8) -> Link {
    Link(number)
}

impl Link {
    /// The host's end of its link.
    pub fn name(self) -> IfName {
        IfName::parse(&format!("flock000000{:02x}", self.0)).unwrap()
    }

    /// Its addresses, of each family one.
    pub fn sources(self) -> [IpAddr; 2] {
        [format!("2001:db8:1::{:x}", self.0), format!("192.0.2.{}", self.0)].map(|text| text.parse().unwrap())
    }

    pub fn rules(self, place: Place) -> PodRules {
        PodRules { sources: self.sources().into(), place }
    }

    pub fn guard(self, shut: bool) -> Guard {
        Guard { link: self.name(), sources: self.sources().into(), shut }
    }
}

fn ranges(id: u64) -> Arc<[PortRange]> {
    let range = |first, last| PortRange { first, last };
    match id {
        0 => Arc::new([range(80, 80)]),
        1 => Arc::new([range(1, 79), range(80, 80), range(8000, 8999), range(65535, 65535)]),
        _ => Arc::new([range(0, 65535)]),
    }
}

/// A chain by number: even ones admit egress, odd ones ingress. From [`CHAINS`] on they are those of the tiers before
/// and after NetworkPolicy.
pub fn chain(number: u64) -> Chain {
    let direction = if number.is_multiple_of(2) { Direction::Egress } else { Direction::Ingress };
    if number >= CHAINS {
        let rule = |action, peer, ports| Rule { peer: Peer::Pods(PeerId(peer)), ports, action };
        let rules = vec![
            rule(Action::Pass, 0, Some((Protocol::Tcp, Some(PortsId(number % 3))))),
            rule(Action::Accept, 1, None),
            rule(Action::Deny, 2, Some((Protocol::Udp, None))),
        ];
        return Chain { direction, rules, end: End::NextTier };
    }
    let rule = |peer, ports| Rule { peer, ports, action: Action::Accept };
    let net = |cidr: &str, except: &[&str]| Peer::Net {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    };
    let some = |protocol, ports| Some((protocol, Some(PortsId(ports))));
    let rules = match number / 2 {
        0 => vec![],
        1 => vec![rule(Peer::Any, None)],
        2 => vec![
            rule(Peer::Pods(PeerId(0)), some(Protocol::Tcp, 0)),
            rule(Peer::Pods(PeerId(1)), some(Protocol::Udp, 1)),
            rule(Peer::Any, some(Protocol::Sctp, 2)),
        ],
        _ => vec![
            rule(Peer::Pods(PeerId(1)), None),
            rule(Peer::Pods(PeerId(2)), Some((Protocol::Tcp, None))),
            rule(net("2001:db8:e::/64", &["2001:db8:e::8/125", "2001:db8:e::1/128"]), some(Protocol::Tcp, 1)),
            rule(net("203.0.113.0/24", &["203.0.113.8/29"]), None),
            rule(net("::/0", &[]), some(Protocol::Udp, 0)),
        ],
    };
    Chain { direction, rules, end: End::Refuse }
}

const CHAINS: u64 = 8;

/// Of these pods and peers, with the chains, peers and ports they need.
fn assemble(
    judging: bool,
    pods: BTreeMap<IfName, PodRules>,
    members: impl Fn(PeerId) -> BTreeSet<IpAddr>,
) -> Ruleset {
    let mut rules = Ruleset { judging, pods, ..Ruleset::default() };
    for pod in rules.pods.values() {
        if let Place::Judged(gates) = &pod.place {
            rules.chains.extend(gates.values().map(|id| (*id, Arc::new(chain(id.0)))));
        }
    }
    for rule in rules.chains.values().flat_map(|chain| &chain.rules) {
        if let Peer::Pods(id) = rule.peer {
            rules.peers.entry(id).or_insert_with(|| Arc::new(members(id)));
        }
        if let Some((_, Some(id))) = rule.ports {
            rules.ports.entry(id).or_insert_with(|| ranges(id.0));
        }
    }
    rules
}

fn judged(gates: &[(Direction, u64)]) -> Place {
    by_tiers(&gates.iter().map(|(direction, id)| (*direction, Tier::Policy, *id)).collect::<Vec<_>>())
}

fn by_tiers(gates: &[(Direction, Tier, u64)]) -> Place {
    let gate = |(direction, tier, id): &(Direction, Tier, u64)| {
        (Gate { direction: *direction, tier: *tier }, ChainId(*id))
    };
    Place::Judged(gates.iter().map(gate).collect())
}

fn example(name: &'static str, judging: bool, pods: &[(u8, Place)], members: &[u8]) -> Example {
    let pods = pods.iter().map(|(number, place)| (link(*number).name(), link(*number).rules(place.clone())));
    let members: BTreeSet<IpAddr> = members.iter().flat_map(|number| link(*number).sources()).collect();
    Example { name, rules: assemble(judging, pods.collect(), |_| members.clone()) }
}

/// Each differs from the others in what the firewall has to do.
pub fn examples() -> Vec<Example> {
    use Direction::{Egress, Ingress};
    let open = Place::Open;
    let both = judged(&[(Egress, 4), (Ingress, 5)]);
    let tiers = [(Egress, Tier::Admin, 8), (Egress, Tier::Policy, 4), (Ingress, Tier::Baseline, 9)];
    let tiers = by_tiers(&tiers);
    vec![
        example("nothing", false, &[], &[]),
        example("judged", true, &[(1, open.clone()), (2, both.clone())], &[1, 2]),
        example("open", false, &[(1, open.clone()), (2, open.clone())], &[]),
        example("judging nobody", true, &[(1, open.clone()), (2, open.clone())], &[]),
        example("shut", true, &[(1, Place::Shut(Shut::Starting)), (2, Place::Shut(Shut::Starting))], &[]),
        example("other members", true, &[(1, open.clone()), (2, both.clone())], &[2, 3]),
        example("other chains", true, &[(1, judged(&[(Egress, 0)])), (2, judged(&[(Egress, 6)]))], &[1]),
        example("same chain", true, &[(1, judged(&[(Ingress, 5)])), (2, judged(&[(Ingress, 5)]))], &[]),
        example("tiers", true, &[(1, open.clone()), (2, tiers)], &[1, 2]),
        example("another tier", true, &[(1, by_tiers(&[(Egress, Tier::Admin, 8)])), (2, both)], &[1]),
        example("everything is refused", true, &[(1, judged(&[(Egress, 0), (Ingress, 1)])), (3, open)], &[]),
    ]
}

/// Any of a few thousand small ones.
pub fn ruleset(seed: &mut u64) -> Ruleset {
    let mut dice = |sides: u64| {
        // xorshift64
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed % sides
    };
    let judging = dice(8) > 0;
    let tiers = dice(2) > 0;
    let mut pods = BTreeMap::new();
    for number in 1..=4 {
        let mut gates = Vec::new();
        for (direction, odd) in [(Direction::Egress, 0), (Direction::Ingress, 1)] {
            if dice(2) > 0 {
                gates.push((direction, Tier::Policy, dice(CHAINS / 2) * 2 + odd));
            }
            for tier in [Tier::Admin, Tier::Baseline] {
                let final_before = tier == Tier::Baseline
                    && gates.iter().any(|(of, tier, _)| *of == direction && *tier == Tier::Policy);
                if tiers && !final_before && dice(3) == 0 {
                    gates.push((direction, tier, CHAINS + dice(2) * 2 + odd));
                }
            }
        }
        let place = match dice(6) {
            0 => continue,
            1 => Place::Shut(Shut::Unknown),
            2..=4 if judging => by_tiers(&gates),
            _ => Place::Open,
        };
        let mut rules = link(number).rules(place);
        if dice(3) == 0 {
            rules.sources.pop_first();
        }
        pods.insert(link(number).name(), rules);
    }
    let members: Vec<BTreeSet<IpAddr>> = (0..3)
        .map(|_| (1..=6).filter(|_| dice(2) > 0).flat_map(|number| link(number).sources()).collect())
        .collect();
    assemble(judging, pods, |id| members.get(usize::try_from(id.0).unwrap()).cloned().unwrap_or_default())
}
