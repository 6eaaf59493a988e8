//! What is needed to find what is left, and to remove it.

use std::collections::BTreeSet;

use super::{NetlinkWorld, attach, dual, id, inspect, nothing_is_left, sorted, with_extra};
use crate::ids::IfName;
use crate::ports::{HostLink, PodLink};

async fn tended(world: &dyn NetlinkWorld) -> Vec<HostLink> {
    let tended = world.netlink().tend_links().await.unwrap();
    assert_eq!(tended.notices, Vec::<String>::new());
    tended.links
}

/// A link that has lost its alias, as it is seen.
async fn nameless(world: &dyn NetlinkWorld, link: &PodLink) -> HostLink {
    let ifindex = attach(world, link).await.host.ifindex;
    world.remove_alias(id(link)).await;
    HostLink { ifname: id(link).host_ifname(), ifindex, attachment: None }
}

pub async fn tended_links_say_whose_they_are(world: &dyn NetlinkWorld) {
    assert_eq!(tended(world).await, []);
    let pods = [dual(world, "c", 1), dual(world, "a", 2), dual(world, "b", 3)];
    let mut expected = vec![nameless(world, &pods[0]).await];
    for link in &pods[1..] {
        let host = attach(world, link).await.host;
        let attachment = Some(id(link).clone());
        expected.push(HostLink { ifname: host.ifname, ifindex: host.ifindex, attachment });
    }
    assert_eq!(tended(world).await, sorted(expected.clone()));
    world.netlink().detach(id(&pods[2])).await.unwrap();
    expected.pop();
    assert_eq!(tended(world).await, sorted(expected));
}

pub async fn nameless_link_is_discarded(world: &dyn NetlinkWorld) {
    let mut shared = dual(world, "c", 3);
    shared.anycast = vec!["203.0.113.9".parse().unwrap()];
    for link in [dual(world, "a", 1), with_extra(dual(world, "b", 2), &["198.51.100.2"]), shared] {
        let seen = nameless(world, &link).await;
        assert_eq!(tended(world).await, std::slice::from_ref(&seen));
        for _ in 0..2 {
            world.netlink().discard(&seen).await.unwrap();
            nothing_is_left(world, &link).await;
            assert_eq!(tended(world).await, []);
        }
        world.netlink().discard(&seen).await.unwrap();
    }
}

pub async fn only_the_nameless_link_that_was_seen_is_discarded(world: &dyn NetlinkWorld) {
    let link = dual(world, "a", 1);
    let first = nameless(world, &link).await;
    // An ADD puts another in its place.
    let second = nameless(world, &link).await;
    assert_ne!(first, second);
    world.netlink().discard(&first).await.unwrap();
    assert_eq!(tended(world).await, std::slice::from_ref(&second));
    let other = HostLink { ifname: IfName::parse("flock00000000").unwrap(), ..second.clone() };
    world.netlink().discard(&other).await.unwrap();
    assert_eq!(tended(world).await, [second]);
    // And another, that is finished.
    let state = attach(world, &link).await;
    let third = HostLink { ifindex: state.host.ifindex, ..first };
    world.netlink().discard(&third).await.unwrap();
    assert_eq!(inspect(world, &link).await, Some(state));
}

pub async fn deleted_namespaces_are_gone(world: &dyn NetlinkWorld) {
    let (used, unused, deleted) = (dual(world, "a", 1), world.netns(), world.netns());
    attach(world, &used).await;
    let asked = BTreeSet::from([used.netns.clone(), unused, deleted.clone()]);
    let gone = async || world.netlink().gone(asked.clone()).await.unwrap();
    assert_eq!(gone().await, BTreeSet::new());
    world.remove_netns(&deleted).await;
    assert_eq!(gone().await, BTreeSet::from([deleted.clone()]));
    world.remove_netns(&used.netns).await;
    assert_eq!(gone().await, BTreeSet::from([deleted, used.netns]));
    assert_eq!(world.netlink().gone(BTreeSet::new()).await.unwrap(), BTreeSet::new());
}
