//! Random operation sequences against a naive model of the allocator: pools so small that addresses
//! collide, run out and cool down all the time, and every address can be looked at one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use flock_core::ipam::{Addresses, Allocation, Ipam, IpamError, Phase, Request, Snapshot};
use flock_core::ports::Retry;
use flock_core::time::Timestamp;
use proptest::prelude::*;

mod ops;
mod rules;

use ops::{Asked, Op, attachment, op, pools};
use rules::{Choice, Held, Model};

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
    let Asked { v6, v4, given, anycast, embed } = asked;
    Request { attachment: attachment(who), pod: None, uid: None, netns: None, v6, v4, given, anycast, embed }
}

fn adopted(who: u8, addresses: Addresses, extra: Vec<IpAddr>, anycast: Vec<IpAddr>) -> Allocation {
    Allocation {
        attachment: attachment(who),
        pod: None,
        uid: None,
        netns: None,
        addresses,
        extra,
        anycast,
        phase: Phase::Committed,
    }
}

/// Holds a refusal to its label, and to what follows for who tries again: only what pods hold comes back.
fn refused(answer: Result<Allocation, IpamError>, label: &str) -> Result<(), TestCaseError> {
    let refusal = answer.unwrap_err();
    prop_assert_eq!(refusal.label(), label);
    let later = ["address_held", "address_shared", "pool_exhausted"].contains(&label);
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
                prop_assert_eq!(&Held::of(&answer), held);
                return Ok(());
            }
            let (given, extra) = match model.expect_given(&asked.given) {
                Ok(given) => given,
                Err(label) => return refused(answer, label),
            };
            let own: Vec<IpAddr> = given.iter().chain(extra.iter().copied()).collect();
            let anycast = match model.expect_anycast(&asked.anycast, &own) {
                Ok(anycast) => anycast,
                Err(label) => return refused(answer, label),
            };
            let exactly = |address| Ok(Some(Choice::Exactly(address)));
            let expected6 = match given.v6 {
                Some(v6) => exactly(v6.into()),
                None => model.expect(&model.pools.v6, &asked.v6, asked.embed.as_ref(), &anycast),
            };
            let expected4 = match given.v4 {
                Some(v4) => exactly(v4.into()),
                None => model.expect(&model.pools.v4, &asked.v4, None, &anycast),
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
                    prop_assert_eq!(&answer.anycast, &anycast);
                    for address in answer.held().chain(anycast.iter().copied()) {
                        model.released.remove(&address);
                    }
                    let held = Held { addresses: answer.addresses, extra, anycast, phase: Phase::Pending };
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
            let released = released.as_ref().map(Held::of);
            prop_assert_eq!(&released, &expected);
            if let Some(held) = &released {
                let anycast = held.anycast.iter().copied().filter(|it| !model.shared(*it));
                let free: Vec<IpAddr> = held.all().chain(anycast).collect();
                model.released.extend(free.into_iter().map(|address| (address, model.now)));
            }
        }
        Op::Adopt { who, addresses, extra, anycast } => {
            let adopted = adopted(who, addresses, extra.clone(), anycast.clone());
            let mut record = Held { addresses, extra, anycast, phase: Phase::Committed };
            let own: Vec<IpAddr> = record.all().collect();
            record.anycast.retain(|it| !own.contains(it));
            let others = || model.held.iter().filter(|(id, _)| **id != attachment(who));
            let taken = |it| others().any(|(_, held)| held.all().any(|other| other == it));
            let shared = |it| others().any(|(_, held)| held.anycast.contains(&it));
            let good = !addresses.is_empty()
                && !record.all().any(|it| taken(it) || shared(it))
                && !record.anycast.iter().any(|it| taken(*it));
            prop_assert_eq!(ipam.adopt(adopted).is_ok(), good);
            if good {
                for address in record.all().chain(record.anycast.iter().copied()) {
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
    let seen: Vec<_> = ipam.allocations().map(|it| (it.attachment.clone(), Held::of(it))).collect();
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
                Op::Adopt { who, addresses, extra, anycast } => {
                    let record = adopted(who, addresses, extra, anycast);
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
