use proptest::collection::btree_set;
use proptest::prelude::*;

use super::*;
use crate::ipam::{Addresses, Phase};

fn attachment(container: &str) -> AttachmentId {
    AttachmentId::parse(&format!("{container}/eth0")).unwrap()
}

fn netns(container: &str) -> NetnsPath {
    NetnsPath::parse(&format!("/run/netns/{container}")).unwrap()
}

fn held(container: &str) -> Allocation {
    Allocation {
        attachment: attachment(container),
        pod: None,
        uid: None,
        netns: Some(netns(container)),
        addresses: Addresses { v6: "2001:db8::1".parse().ok(), v4: None },
        extra: Vec::new(),
        anycast: Vec::new(),
        phase: Phase::Committed,
    }
}

fn link(container: &str, owner: Option<&str>) -> HostLink {
    HostLink { ifname: attachment(container).host_ifname(), ifindex: 7, attachment: owner.map(attachment) }
}

/// What it is about; an allocation, a link, whose namespaces are gone; what of it is a leak.
type Case<'a> = (&'a str, Option<Allocation>, Option<HostLink>, &'a [&'a str], Option<Leak>);

#[test]
fn leak_is_what_no_pod_can_be_using() {
    let without_path = Allocation { netns: None, ..held("a") };
    let unfinished = Allocation { phase: Phase::Pending, ..held("a") };
    let collided = (held("c23923"), link("c79018", Some("c79018")));
    assert_eq!(collided.0.attachment.host_ifname(), collided.1.ifname);
    let addresses = |container| Leak::Allocation(attachment(container));
    let table: [Case; 14] = [
        ("whole", Some(held("a")), Some(link("a", Some("a"))), &[], None),
        ("link deleted by hand", Some(held("a")), None, &[], None),
        ("somebody else's namespace is gone", Some(held("a")), None, &["b"], None),
        ("link and namespace are gone", Some(held("a")), None, &["a", "b"], Some(addresses("a"))),
        ("link is not gone", Some(held("a")), Some(link("a", Some("a"))), &["a"], None),
        ("no path, link deleted", Some(without_path.clone()), None, &[], Some(addresses("a"))),
        ("no path, whole", Some(without_path), Some(link("a", Some("a"))), &[], None),
        (
            "what a failed ADD could not take back",
            Some(unfinished.clone()),
            None,
            &["a"],
            Some(addresses("a")),
        ),
        ("an ADD under way", Some(unfinished), None, &[], None),
        ("alias taken off a running pod", Some(held("a")), Some(link("a", None)), &["a"], None),
        ("nothing holds", None, Some(link("a", Some("a"))), &[], Some(Leak::Link(link("a", Some("a"))))),
        ("nobody's", None, Some(link("a", None)), &[], Some(Leak::Link(link("a", None)))),
        (
            "nobody's, beside a pod",
            Some(held("b")),
            Some(link("a", None)),
            &[],
            Some(Leak::Link(link("a", None))),
        ),
        (
            "the name is another's",
            Some(collided.0.clone()),
            Some(collided.1.clone()),
            &[],
            Some(Leak::Link(collided.1.clone())),
        ),
    ];
    for (case, allocation, link, gone, leak) in table {
        let allocations: Vec<&Allocation> = allocation.iter().collect();
        let links: Vec<HostLink> = link.into_iter().collect();
        let gone = gone.iter().map(|container| netns(container)).collect();
        assert_eq!(leaks(&allocations, &links, &gone), leak.into_iter().collect(), "{case}");
    }
    let (allocation, other) = collided;
    let gone = BTreeSet::from([netns("c23923")]);
    assert!(leaks(&[&allocation, &held("c79018")], &[other], &gone).contains(&addresses("c23923")));
}

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Timestamp {
    Timestamp::from_millis(0).after(SECOND * seconds)
}

/// A link for each number.
fn seen(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<Leak> {
    let link = |ifindex| Leak::Link(HostLink { ifindex, ..link("a", None) });
    numbers.into_iter().map(link).collect()
}

fn look(suspects: &mut Suspects, numbers: impl IntoIterator<Item = u32>, seconds: u32) -> Vec<u32> {
    let ripe = suspects.look(seen(numbers), at(seconds), GRACE);
    ripe.iter()
        .map(|leak| match leak {
            Leak::Link(link) => link.ifindex,
            Leak::Allocation(attachment) => panic!("{attachment}"),
        })
        .collect()
}

#[test]
fn leak_is_removed_when_it_was_one_at_every_look_for_the_grace_period() {
    let mut suspects = Suspects::default();
    assert_eq!(look(&mut suspects, [1], 0), []);
    assert_eq!(look(&mut suspects, [1, 2], 10), []);
    assert_eq!(look(&mut suspects, [1], 20), [], "2 is none after all");
    assert_eq!(look(&mut suspects, [1, 2], 59), []);
    assert_eq!(look(&mut suspects, [1, 2], 60), [1]);
    assert_eq!(look(&mut suspects, [1, 2], 118), [], "what is still there waits again");
    assert_eq!(look(&mut suspects, [1, 2], 119), [2]);
    assert_eq!(look(&mut suspects, [1], 178), [1]);
}

#[test]
fn one_look_is_not_enough_however_long_ago_the_one_before_was() {
    let mut suspects = Suspects::default();
    assert_eq!(suspects.look(seen([1]), at(0), Duration::ZERO), []);
    assert_eq!(suspects.look(seen([1]), at(0), Duration::ZERO).len(), 1);
    assert_eq!(look(&mut suspects, [2], 3600), []);
}

#[test]
fn oldest_go_first_and_what_cannot_be_removed_keeps_nobody_from_its_turn() {
    let mut suspects = Suspects::default();
    let stuck = 0..32;
    assert_eq!(look(&mut suspects, stuck.clone().rev(), 0), []);
    assert_eq!(look(&mut suspects, 0..40, 10), []);
    assert_eq!(look(&mut suspects, 0..40, 70), stuck.clone().collect::<Vec<_>>());
    assert_eq!(look(&mut suspects, 0..40, 80), (32..40).collect::<Vec<_>>());
    assert_eq!(look(&mut suspects, stuck.clone(), 139), []);
    assert_eq!(look(&mut suspects, stuck.clone(), 140), stuck.collect::<Vec<_>>());
}

proptest! {
    /// Against every look so far, kept in a list.
    #[test]
    fn only_old_and_constant_suspects_are_handed_out(
        steps in prop::collection::vec((btree_set(0_u32..60, 0..60), 0_u32..40), 1..30)
    ) {
        let mut suspects = Suspects::default();
        let (mut now, mut looks) = (0, Vec::<(u32, BTreeSet<u32>)>::new());
        // By number, how many looks there had been.
        let mut handed_out: BTreeMap<u32, usize> = BTreeMap::new();
        for (numbers, passed) in steps {
            now += passed;
            let since = |number: u32| {
                let fresh = &looks[handed_out.get(&number).copied().unwrap_or_default()..];
                let row = fresh.iter().rev().take_while(|(_, seen)| seen.contains(&number));
                row.last().map(|(at, _)| *at)
            };
            let mut due: Vec<(u32, u32)> = numbers
                .iter()
                .filter_map(|number| Some((since(*number)?, *number)))
                .filter(|(since, _)| now - since >= 60)
                .collect();
            due.sort_unstable();
            due.truncate(AT_ONCE);
            let due: Vec<u32> = due.into_iter().map(|(_, number)| number).collect();
            prop_assert_eq!(look(&mut suspects, numbers.iter().copied(), now), due.clone());
            looks.push((now, numbers));
            handed_out.extend(due.into_iter().map(|number| (number, looks.len())));
        }
    }
}
