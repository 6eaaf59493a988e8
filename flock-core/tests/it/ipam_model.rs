//! Random operation sequences against a naive model of the allocator: pools so small that addresses
//! collide, run out and cool down all the time, and every address can be looked at one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ids::AttachmentId;
use flock_core::iid::{Embedding, Field, Identity};
use flock_core::ipam::{Addresses, Allocation, Ipam, IpamError, Phase, Pools, Request, Snapshot, Want};
use flock_core::ports::Retry;
use flock_core::time::Timestamp;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

/// Pools of which a configuration has some: with reserved identifiers of each kind, one that is all
/// reserved, one with an odd number of host bits, the smallest there are.
const POOLS6: [&str; 5] = [
    "2001:db8::/125",
    "2001:db8::4:0/119",
    "2001:db8:0:1:fdff:ffff:ffff:ff00/120",
    "2001:db8::200:5eff:fe00:0/125",
    "2001:db8::2:2/127",
];
const POOLS4: [&str; 3] = ["192.0.2.0/29", "192.0.2.8/30", "198.51.100.248/29"];

/// What `cidr6` and `cidr4` ask for: pools, parts, pins, more than a pool, none.
const WITHIN6: [&str; 9] = [
    "2001:db8::1/128",
    "2001:db8::4:11/128",
    "2001:db8::4:100/120",
    "2001:db8::/125",
    "2001:db8::4/126",
    "2001:db8::/128",
    "2001:db8::3/128",
    "2001:db8::/32",
    "2001:db8:f::/64",
];
const WITHIN4: [&str; 8] = [
    "192.0.2.2/32",
    "192.0.2.10/32",
    "192.0.2.8/30",
    "192.0.2.4/30",
    "192.0.2.7/32",
    "192.0.2.3/32",
    "192.0.2.0/24",
    "203.0.113.0/24",
];

/// Addresses the node may have; two of them are reserved as well.
const NODE: [&str; 5] = ["2001:db8::5", "2001:db8::", "192.0.2.3", "192.0.2.1", "203.0.113.1"];

#[derive(Debug, Clone)]
enum Op {
    Allocate { who: u8, asked: Asked, entropy: u64 },
    Commit { who: u8 },
    Release { who: u8 },
    Adopt { who: u8, addresses: Addresses, extra: Vec<IpAddr> },
    Wait { millis: u64 },
    Reconfigure(Pools, BTreeSet<IpAddr>),
    Restart,
}

/// What a request asks for.
#[derive(Debug, Clone)]
struct Asked {
    v6: Want<Ipv6Net>,
    v4: Want<Ipv4Net>,
    given: Vec<IpAddr>,
    embed: Option<Embedding>,
}

/// Addresses a pod may bring along: in the pools, reserved there, the node's own, outside.
const GIVEN: [&str; 12] = [
    "2001:db8::1",
    "2001:db8::3",
    "2001:db8::5",
    "2001:db8::",
    "2001:db8::4:11",
    "2001:db8:c606::166",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.5",
    "192.0.2.7",
    "192.0.2.10",
    "203.0.113.166",
];

fn given() -> impl Strategy<Value = Vec<IpAddr>> {
    let some = prop::sample::subsequence(GIVEN.to_vec(), 1..4).prop_shuffle();
    let some =
        (some, prop::option::weighted(0.1, any::<prop::sample::Index>())).prop_map(|(mut texts, again)| {
            texts.extend(again.map(|index| *index.get(&texts)));
            texts.into_iter().map(|text| text.parse().unwrap()).collect()
        });
    prop_oneof![3 => Just(vec![]), 1 => some]
}

fn embed() -> impl Strategy<Value = Option<Embedding>> {
    let embedding = |pod: u8| {
        let pod = format!("pod-{pod}");
        let identity = Identity { namespace: "shop", pod: &pod, image: None };
        Embedding::new(&[Field::Pod], &identity).unwrap()
    };
    prop_oneof![3 => Just(None), 1 => (0_u8..3).prop_map(move |pod| Some(embedding(pod)))]
}

fn attachment(who: u8) -> AttachmentId {
    AttachmentId::parse(&format!("c{who}/eth0")).unwrap()
}

fn want<N: std::str::FromStr<Err: std::fmt::Debug> + Clone + std::fmt::Debug + 'static>(
    nets: &'static [&'static str],
) -> impl Strategy<Value = Want<N>> {
    let parse = |texts: Vec<&str>| Want::Within(texts.iter().map(|text| text.parse().unwrap()).collect());
    prop_oneof![
        2 => Just(Want::No),
        4 => Just(Want::Any),
        3 => prop::collection::vec(prop::sample::select(nets), 1..3).prop_map(parse),
    ]
}

fn pools() -> impl Strategy<Value = (Pools, BTreeSet<IpAddr>)> {
    let some = |texts: &'static [&'static str]| {
        prop::sample::subsequence(texts.to_vec(), 0..=texts.len()).prop_shuffle()
    };
    (some(&POOLS6), some(&POOLS4), some(&NODE)).prop_map(|(v6, v4, node)| {
        let net6 = |text: &&str| text.parse::<Ipv6Net>().unwrap().trunc();
        let net4 = |text: &&str| text.parse::<Ipv4Net>().unwrap().trunc();
        let pools = Pools { v6: v6.iter().map(net6).collect(), v4: v4.iter().map(net4).collect() };
        (pools, node.iter().map(|text| text.parse().unwrap()).collect())
    })
}

fn op() -> impl Strategy<Value = Op> {
    let who = || 0_u8..14;
    let v6 = prop::option::of((0_u128..8).prop_map(|n| Ipv6Addr::from_bits((0x2001_0db8 << 96) + n)));
    let v4 = prop::option::of((0_u32..12).prop_map(|n| Ipv4Addr::from_bits(0xc000_0200 + n)));
    let addresses = (v6, v4).prop_map(|(v6, v4)| Addresses { v6, v4 });
    prop_oneof![
        12 => (who(), want(&WITHIN6), want(&WITHIN4), given(), embed(), any::<u64>()).prop_map(
            |(who, v6, v4, given, embed, entropy)| {
                Op::Allocate { who, asked: Asked { v6, v4, given, embed }, entropy }
            }
        ),
        1 => who().prop_map(|who| Op::Commit { who }),
        6 => who().prop_map(|who| Op::Release { who }),
        2 => (who(), addresses, given())
            .prop_map(|(who, addresses, extra)| Op::Adopt { who, addresses, extra }),
        3 => (0_u64..20_000).prop_map(|millis| Op::Wait { millis }),
        1 => pools().prop_map(|(pools, node)| Op::Reconfigure(pools, node)),
        1 => Just(Op::Restart),
    ]
}

/// Every address of a prefix.
fn all(net: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match net {
        IpNet::V6(net) => {
            let bits = net.network().to_bits()..=net.broadcast().to_bits();
            Box::new(bits.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))))
        }
        IpNet::V4(net) => {
            let bits = net.network().to_bits()..=net.broadcast().to_bits();
            Box::new(bits.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))))
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    addresses: Addresses,
    extra: Vec<IpAddr>,
    phase: Phase,
}

impl Held {
    fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().chain(self.extra.iter().copied())
    }
}

/// The rules of the contract, as slow and as plain as can be.
#[derive(Default)]
struct Model {
    pools: Pools,
    node: BTreeSet<IpAddr>,
    held: BTreeMap<AttachmentId, Held>,
    released: BTreeMap<IpAddr, u64>,
    now: u64,
}

impl Model {
    fn holder(&self, address: IpAddr) -> Option<&AttachmentId> {
        self.held
            .iter()
            .find(|(_, held)| held.all().any(|it| it == address))
            .map(|(attachment, _)| attachment)
    }

    fn cools(&self, address: IpAddr) -> bool {
        self.released.get(&address).is_some_and(|since| since + 30_000 > self.now)
    }

    fn reserved(pool: IpNet, address: IpAddr) -> bool {
        let network_or_last = address == pool.network() || address == pool.broadcast();
        match address {
            IpAddr::V4(v4) => {
                network_or_last || pool.network() == IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() - 1))
            }
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.segments();
                address == pool.network()
                    || [a, b, c, d] == [0; 4]
                    || (a, b, c >> 8) == (0x0200, 0x5eff, 0x00fe)
                    || (a, b, c) == (0xfdff, 0xffff, 0xffff) && d >= 0xff80
            }
        }
    }

    /// The pools and ranges a request may use, in order; `None` when nothing matches.
    fn ranges<N: Copy + Into<IpNet>>(pools: &[N], want: &Want<N>) -> Option<Vec<(IpNet, IpNet)>> {
        let pools: Vec<IpNet> = pools.iter().map(|net| (*net).into()).collect();
        match want {
            Want::No => Some(vec![]),
            Want::Any => (!pools.is_empty()).then(|| pools.iter().map(|pool| (*pool, *pool)).collect()),
            Want::Within(nets) => {
                for net in nets {
                    let net: IpNet = (*net).into();
                    for pool in &pools {
                        if net == *pool || net.contains(pool) {
                            return Some(vec![(*pool, *pool)]);
                        }
                        if pool.contains(&net) {
                            return Some(vec![(*pool, net)]);
                        }
                    }
                }
                None
            }
        }
    }

    /// The first given address of each family, and the rest, each once; or the label of the refusal.
    fn expect_given(&self, given: &[IpAddr]) -> Result<(Addresses, Vec<IpAddr>), &'static str> {
        let (mut addresses, mut extra) = (Addresses::default(), vec![]);
        for address in given {
            let v6 = self.pools.v6.iter().map(|net| IpNet::V6(*net));
            let v4 = self.pools.v4.iter().map(|net| IpNet::V4(*net));
            let mut pools = v6.chain(v4).filter(|pool| pool.contains(address));
            if pools.any(|pool| Self::reserved(pool, *address)) || self.node.contains(address) {
                return Err("address_reserved");
            }
            if self.holder(*address).is_some() {
                return Err("address_held");
            }
            match address {
                _ if addresses.contains(*address) || extra.contains(address) => {}
                IpAddr::V6(v6) if addresses.v6.is_none() => addresses.v6 = Some(*v6),
                IpAddr::V4(v4) if addresses.v4.is_none() => addresses.v4 = Some(*v4),
                _ => extra.push(*address),
            }
        }
        Ok((addresses, extra))
    }

    /// What the allocator may answer for one family, or the label of its refusal.
    fn expect<N: Copy + Into<IpNet>>(
        &self,
        pools: &[N],
        want: &Want<N>,
        embed: Option<&Embedding>,
    ) -> Result<Option<Choice>, &'static str> {
        if matches!(want, Want::No) {
            return Ok(None);
        }
        let none = if pools.is_empty() { "no_pool" } else { "no_pool_matches" };
        let ranges = Self::ranges(pools, want).ok_or(none)?;
        let pinned = ranges.iter().all(|(_, range)| range.prefix_len() == range.max_prefix_len());
        let carries = |range: IpNet, address: IpAddr| match (embed, range, address) {
            (Some(embed), IpNet::V6(range), IpAddr::V6(address)) => embed.matches(address, range).ok(),
            _ => Some(true),
        };
        if ranges.iter().all(|(_, range)| carries(*range, range.addr()).is_none()) {
            return Err("no_room_to_embed");
        }
        let usable = |(pool, range): &(IpNet, IpNet)| -> Vec<IpAddr> {
            let fits = |it: &IpAddr| {
                !Self::reserved(*pool, *it) && !self.node.contains(it) && carries(*range, *it) == Some(true)
            };
            all(*range).filter(fits).collect()
        };
        let usable: Vec<Vec<IpAddr>> = ranges.iter().map(usable).collect();
        if usable.iter().all(Vec::is_empty) {
            return Err(if pinned { "address_reserved" } else { "pool_unusable" });
        }
        let free = |addresses: &Vec<IpAddr>| -> BTreeSet<IpAddr> {
            addresses.iter().copied().filter(|it| self.holder(*it).is_none() && !self.cools(*it)).collect()
        };
        if let Some(free) = usable.iter().map(free).find(|free| !free.is_empty()) {
            return Ok(Some(match free.first() {
                Some(lowest @ IpAddr::V4(_)) => Choice::Exactly(*lowest),
                _ => Choice::OneOf(free),
            }));
        }
        let unheld = usable.iter().flatten().filter(|it| self.holder(**it).is_none());
        let oldest = unheld.min_by_key(|it| (self.released[*it], **it));
        oldest.map(|it| Some(Choice::Exactly(*it))).ok_or(if pinned {
            "address_held"
        } else {
            "pool_exhausted"
        })
    }

    fn usage(&self) -> Vec<(IpNet, u64, u64, u64)> {
        let v6 = self.pools.v6.iter().map(|net| IpNet::V6(*net));
        let v4 = self.pools.v4.iter().map(|net| IpNet::V4(*net));
        let count = |it: usize| u64::try_from(it).unwrap();
        v6.chain(v4)
            .map(|pool| {
                let held = self.held.values().flat_map(Held::all);
                let held = held.filter(|it| pool.contains(it)).collect::<BTreeSet<_>>().len();
                let cooling =
                    self.released.keys().filter(|it| pool.contains(*it) && self.cools(**it)).count();
                let capacity = all(pool).filter(|it| !Self::reserved(pool, *it) && !self.node.contains(it));
                let capacity = capacity.count();
                (pool, count(held), count(cooling), count(capacity))
            })
            .collect()
    }
}

#[derive(Debug)]
enum Choice {
    Exactly(IpAddr),
    OneOf(BTreeSet<IpAddr>),
}

impl Choice {
    fn allows(choice: Option<&Self>, given: Option<IpAddr>) -> bool {
        match (choice, given) {
            (None, None) => true,
            (Some(Self::Exactly(expected)), Some(given)) => *expected == given,
            (Some(Self::OneOf(free)), Some(given)) => free.contains(&given),
            _ => false,
        }
    }
}

/// Through the state file and back.
fn reload(ipam: &Ipam) -> Ipam {
    let snapshot = ipam.snapshot("boot");
    let text = serde_json::to_string(&snapshot).unwrap();
    let read: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(read, snapshot);
    let restored = Ipam::restore(read).unwrap();
    assert_eq!(restored.snapshot("boot"), snapshot);
    restored
}

fn request(who: u8, asked: Asked) -> Request {
    let Asked { v6, v4, given, embed } = asked;
    Request {
        attachment: attachment(who),
        pod: None,
        uid: None,
        netns: None,
        v6,
        v4,
        given,
        anycast: vec![],
        embed,
    }
}

fn adopted(who: u8, addresses: Addresses, extra: Vec<IpAddr>) -> Allocation {
    Allocation {
        attachment: attachment(who),
        pod: None,
        uid: None,
        netns: None,
        addresses,
        extra,
        anycast: vec![],
        phase: Phase::Committed,
    }
}

/// Holds a refusal to its label, and to what follows for who tries again: only what pods hold comes back.
fn refused(answer: Result<Allocation, IpamError>, label: &str) -> Result<(), TestCaseError> {
    let refusal = answer.unwrap_err();
    prop_assert_eq!(refusal.label(), label);
    let later = ["address_held", "pool_exhausted"].contains(&label);
    prop_assert_eq!(refusal.retry(), if later { Retry::Later } else { Retry::Never });
    Ok(())
}

/// Does one operation to both, and compares what they answer.
fn step(ipam: &mut Ipam, model: &mut Model, op: Op) -> Result<(), TestCaseError> {
    let now = Timestamp::from_millis(model.now);
    match op {
        Op::Allocate { who, asked, entropy } => {
            let answer = ipam.allocate(&request(who, asked.clone()), now, entropy);
            if let Some(held) = model.held.get(&attachment(who)) {
                let answer = answer.unwrap();
                let again = Held { addresses: answer.addresses, extra: answer.extra, phase: answer.phase };
                prop_assert_eq!(&again, held);
                return Ok(());
            }
            let (given, extra) = match model.expect_given(&asked.given) {
                Ok(given) => given,
                Err(label) => return refused(answer, label),
            };
            let exactly = |address| Ok(Some(Choice::Exactly(address)));
            let expected6 = match given.v6 {
                Some(v6) => exactly(v6.into()),
                None => model.expect(&model.pools.v6, &asked.v6, asked.embed.as_ref()),
            };
            let expected4 = match given.v4 {
                Some(v4) => exactly(v4.into()),
                None => model.expect(&model.pools.v4, &asked.v4, None),
            };
            match (expected6, expected4) {
                (Ok(None), Ok(None)) => return refused(answer, "no_family"),
                (Ok(expected6), Ok(expected4)) => {
                    let answer = answer.unwrap();
                    let Addresses { v6, v4 } = answer.addresses;
                    let fits = Choice::allows(expected6.as_ref(), v6.map(IpAddr::V6));
                    prop_assert!(fits, "{:?} {:?}", expected6, v6);
                    let fits = Choice::allows(expected4.as_ref(), v4.map(IpAddr::V4));
                    prop_assert!(fits, "{:?} {:?}", expected4, v4);
                    prop_assert_eq!(&answer.extra, &extra);
                    for address in answer.held() {
                        model.released.remove(&address);
                    }
                    let held = Held { addresses: answer.addresses, extra, phase: Phase::Pending };
                    model.held.insert(attachment(who), held);
                }
                (Err(label), _) | (_, Err(label)) => return refused(answer, label),
            }
        }
        Op::Commit { who } => {
            let held = model.held.get_mut(&attachment(who));
            prop_assert_eq!(ipam.commit(&attachment(who)), held.is_some());
            if let Some(held) = held {
                held.phase = Phase::Committed;
            }
        }
        Op::Release { who } => {
            let released = ipam.release(&attachment(who), now);
            let expected = model.held.remove(&attachment(who));
            let released =
                released.map(|it| Held { addresses: it.addresses, extra: it.extra, phase: it.phase });
            prop_assert_eq!(&released, &expected);
            for address in released.iter().flat_map(Held::all) {
                model.released.insert(address, model.now);
            }
        }
        Op::Adopt { who, addresses, extra } => {
            let record = Held { addresses, extra, phase: Phase::Committed };
            let taken = |address| model.holder(address).is_some_and(|holder| *holder != attachment(who));
            let good = !addresses.is_empty() && !record.all().any(taken);
            prop_assert_eq!(ipam.adopt(adopted(who, addresses, record.extra.clone())).is_ok(), good);
            if good {
                for address in record.all() {
                    model.released.remove(&address);
                }
                model.held.insert(attachment(who), record);
            }
        }
        Op::Wait { millis } => model.now += millis,
        Op::Reconfigure(pools, node) => {
            ipam.reconfigure(pools.clone(), node.clone());
            (model.pools, model.node) = (pools, node);
        }
        Op::Restart => {
            *ipam = reload(ipam);
            ipam.reconfigure(model.pools.clone(), model.node.clone());
        }
    }
    Ok(())
}

/// Compares all there is to see.
fn compare(ipam: &Ipam, model: &Model) -> Result<(), TestCaseError> {
    let held = |it: &Allocation| Held { addresses: it.addresses, extra: it.extra.clone(), phase: it.phase };
    let seen: Vec<_> = ipam.allocations().map(|it| (it.attachment.clone(), held(it))).collect();
    let expected: Vec<_> = model.held.iter().map(|(id, held)| (id.clone(), held.clone())).collect();
    prop_assert_eq!(seen, expected);
    let mut holders = BTreeSet::new();
    for allocation in ipam.allocations() {
        // A record may name an address twice.
        for address in allocation.held().collect::<BTreeSet<_>>() {
            prop_assert!(holders.insert(address), "{} is held twice", address);
            prop_assert_eq!(ipam.holder(address), Some(allocation));
        }
    }
    for address in model.released.keys() {
        prop_assert_eq!(ipam.holder(*address), None);
    }
    let cooling = ipam.snapshot("boot").cooling.into_iter();
    let cooling = cooling.map(|it| (it.address, it.since.as_millis())).filter(|(it, _)| model.cools(*it));
    let expected = model.released.iter().map(|(address, since)| (*address, *since));
    prop_assert_eq!(
        cooling.collect::<BTreeMap<_, _>>(),
        expected.filter(|(it, _)| model.cools(*it)).collect::<BTreeMap<_, _>>()
    );
    let usage = ipam.usage(Timestamp::from_millis(model.now));
    let usage: Vec<_> =
        usage.into_iter().map(|it| (it.cidr, it.allocated, it.cooling, it.capacity)).collect();
    prop_assert_eq!(usage, model.usage());
    Ok(())
}

proptest! {
    #[test]
    fn the_allocator_keeps_the_rules_of_the_contract(
        (pools, node) in pools(),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let mut ipam = Ipam::default();
        let mut model = Model { now: 1_000_000, ..Model::default() };
        step(&mut ipam, &mut model, Op::Reconfigure(pools, node))?;
        for op in ops {
            let before = ipam.snapshot("boot");
            step(&mut ipam, &mut model, op)?;
            compare(&ipam, &model)?;
            let after = ipam.snapshot("boot");
            let same = before.allocations == after.allocations;
            prop_assert_eq!(before.generation == after.generation, same);
            prop_assert!(before.generation <= after.generation);
        }
    }

    #[test]
    fn a_reloaded_allocator_decides_as_the_one_that_was_saved(
        (pools, node) in pools(),
        before in prop::collection::vec(op(), 1..60),
        after in prop::collection::vec(op(), 1..40),
    ) {
        let mut ipam = Ipam::default();
        let mut model = Model { now: 1_000_000, ..Model::default() };
        for op in [Op::Reconfigure(pools, node)].into_iter().chain(before) {
            step(&mut ipam, &mut model, op)?;
        }
        let mut restored = reload(&ipam);
        restored.reconfigure(model.pools.clone(), model.node.clone());
        let mut now = model.now;
        for op in after {
            let at = Timestamp::from_millis(now);
            match op {
                Op::Allocate { who, asked, entropy } => {
                    let request = request(who, asked);
                    prop_assert_eq!(
                        ipam.allocate(&request, at, entropy),
                        restored.allocate(&request, at, entropy)
                    );
                }
                Op::Commit { who } => {
                    prop_assert_eq!(ipam.commit(&attachment(who)), restored.commit(&attachment(who)));
                }
                Op::Release { who } => {
                    prop_assert_eq!(ipam.release(&attachment(who), at), restored.release(&attachment(who), at));
                }
                Op::Adopt { who, addresses, extra } => {
                    let record = adopted(who, addresses, extra);
                    prop_assert_eq!(ipam.adopt(record.clone()), restored.adopt(record));
                }
                Op::Wait { millis } => now += millis,
                Op::Reconfigure(pools, node) => {
                    ipam.reconfigure(pools.clone(), node.clone());
                    restored.reconfigure(pools, node);
                }
                Op::Restart => {}
            }
            prop_assert_eq!(ipam.snapshot("boot"), restored.snapshot("boot"));
        }
    }
}
