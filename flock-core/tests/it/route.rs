//! Laws of the route diff, over a kernel that behaves as measured: several routes may share a prefix and a
//! metric, a replace overwrites the first of them, a delete takes exactly one.

use flock_core::ids::IfName;
use flock_core::route::{
    Member, Members, NextHop, ObservedRoute, Route, RouteDiff, RouteProtocol, RouteSet, Weight, aggregate,
};
use ipnet::IpNet;
use proptest::prelude::*;

/// Routes in the order the kernel lists them.
#[derive(Debug, Clone)]
struct Kernel(Vec<ObservedRoute>);

impl Kernel {
    fn apply(&mut self, diff: &RouteDiff) {
        for route in &diff.replace {
            let new = ObservedRoute::from(route.clone());
            let same_place =
                |old: &&mut ObservedRoute| (old.destination, old.metric) == (new.destination, new.metric);
            assert!(
                !self.0.contains(&new),
                "the kernel refuses a replace with a route that is there: {new:?}"
            );
            match self.0.iter_mut().find(same_place) {
                Some(old) => *old = new,
                None => self.0.push(new),
            }
        }
        for route in &diff.remove {
            // One that the replace has overwritten is gone already.
            if let Some(index) = self.0.iter().position(|old| old == route) {
                self.0.remove(index);
            }
        }
    }
}

fn destination() -> impl Strategy<Value = IpNet> {
    let prefixes = ["2001:db8::1/128", "2001:db8::/64", "192.0.2.1/32", "192.0.2.0/24"];
    prop::sample::select(prefixes.map(|text| text.parse().unwrap()).to_vec())
}

fn protocol() -> impl Strategy<Value = RouteProtocol> {
    prop::sample::select(RouteProtocol::ALL.to_vec())
}

fn next_hop() -> impl Strategy<Value = NextHop> {
    let link = |name| NextHop::Link(IfName::parse(name).unwrap());
    let members = |weights: &[Weight]| {
        let member = |(host, weight): (u8, &Weight)| Member {
            gateway: [192, 0, 2, 100 + host].into(),
            link: IfName::parse(&format!("flock0000000{host}")).unwrap(),
            weight: *weight,
        };
        NextHop::Group(Members::new((1..).zip(weights).map(member)).unwrap())
    };
    prop::sample::select(vec![
        NextHop::Unreachable,
        link("flock00000001"),
        link("flock00000002"),
        members(&[Weight::Full]),
        members(&[Weight::Full, Weight::Full]),
        members(&[Weight::Full, Weight::Least]),
    ])
}

fn wanted() -> impl Strategy<Value = RouteSet> {
    let route = (destination(), protocol(), next_hop()).prop_map(|(destination, protocol, next_hop)| Route {
        destination,
        protocol,
        next_hop,
    });
    prop::collection::vec(route, 0..6).prop_map(RouteSet::from_iter)
}

fn observed() -> impl Strategy<Value = Vec<ObservedRoute>> {
    let metric = prop::sample::select(vec![0_u32, 1024, 50]);
    let route = (destination(), protocol(), prop::option::weighted(0.8, next_hop()), metric).prop_map(
        |(destination, protocol, next_hop, metric)| ObservedRoute { destination, protocol, next_hop, metric },
    );
    // The kernel refuses an exact twin.
    prop::collection::vec(route, 0..10).prop_map(|mut routes: Vec<ObservedRoute>| {
        let mut seen = std::collections::BTreeSet::new();
        routes.retain(|route| seen.insert(route.clone()));
        routes
    })
}

proptest! {
    #[test]
    fn applying_the_diff_gives_the_wanted_routes(wanted in wanted(), observed in observed()) {
        let mut kernel = Kernel(observed);
        let diff = wanted.diff(&kernel.0);
        kernel.apply(&diff);
        let mut have = kernel.0.clone();
        have.sort();
        let mut want: Vec<_> = wanted.iter().cloned().map(ObservedRoute::from).collect();
        want.sort();
        prop_assert_eq!(have, want);
        prop_assert!(wanted.diff(&kernel.0).is_empty());
    }

    #[test]
    fn without_links_only_what_needs_none_is_left(wanted in wanted(), there in any::<[bool; 2]>()) {
        let is_there = |link: &IfName| {
            there.iter().enumerate().any(|(n, there)| *there && link.as_str() == format!("flock0000000{}", n + 1))
        };
        let left = wanted.over(is_there);
        for route in wanted.iter() {
            let expected = route.next_hop.over(is_there);
            prop_assert_eq!(left.get(&route.destination).map(|route| route.next_hop.clone()), expected.clone());
            let Some(expected) = expected else { continue };
            prop_assert!(expected.links().all(is_there));
            prop_assert_eq!(expected == route.next_hop, route.next_hop.links().all(is_there));
        }
    }

    #[test]
    fn a_route_that_is_already_right_is_not_touched(wanted in wanted(), observed in observed()) {
        let diff = wanted.diff(&observed);
        for route in wanted.iter().cloned().map(ObservedRoute::from).filter(|route| observed.contains(route)) {
            prop_assert!(!diff.remove.contains(&route));
            prop_assert!(diff.replace.iter().all(|new| new.destination != route.destination));
        }
    }
}

fn observed_route(destination: &str, protocol: RouteProtocol, next_hop: NextHop) -> ObservedRoute {
    ObservedRoute::from(Route { destination: destination.parse().unwrap(), protocol, next_hop })
}

#[test]
fn a_change_of_protocol_is_one_replace() {
    let wanted: RouteSet = [aggregate("192.0.2.0/24".parse().unwrap())].into_iter().collect();
    let quiet = observed_route("192.0.2.0/24", RouteProtocol::Quiet, NextHop::Unreachable);
    let diff = wanted.diff(&[quiet]);
    assert_eq!(diff.replace, wanted.iter().cloned().collect::<Vec<_>>());
    assert_eq!(diff.remove, []);
}

#[test]
fn a_wanted_route_behind_another_is_uncovered_not_replaced() {
    let link = |name| NextHop::Link(IfName::parse(name).unwrap());
    let right = observed_route("2001:db8::1/128", RouteProtocol::Quiet, link("flock00000001"));
    let stale = observed_route("2001:db8::1/128", RouteProtocol::Quiet, link("flock00000002"));
    let wanted: RouteSet =
        [Route { destination: right.destination, protocol: right.protocol, next_hop: link("flock00000001") }]
            .into_iter()
            .collect();
    let diff = wanted.diff(&[stale.clone(), right]);
    assert_eq!((diff.replace, diff.remove), (vec![], vec![stale]));
}
