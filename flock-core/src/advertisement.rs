//! Which routes the node should have, and which of them BIRD announces.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::anycast::Shared;
use crate::config::NodeConfig;
use crate::eligibility::{Evidence, eligibility};
use crate::ipam::Allocation;
use crate::route::{NextHop, Route, RouteProtocol, RouteSet, aggregate, host_prefix, in_pools};

/// Every route the node should have: the aggregate of each pool, a host route for each address a pod has to
/// itself, a group for each anycast address.
///
/// An address inside a pool is covered by the aggregate, so its host route stays quiet. One outside every
/// pool (the pod brought it, or the pools were changed under a running pod) is announced on its own while its
/// pod is eligible. An anycast address is announced on its own wherever it lies: other nodes have it too.
pub fn desired_routes<'a>(
    config: &NodeConfig,
    allocations: impl IntoIterator<Item = &'a Allocation>,
    shared: &[Shared],
    evidence: Evidence<'_>,
) -> RouteSet {
    let pools =
        config.cidr6.iter().copied().map(IpNet::V6).chain(config.cidr4.iter().copied().map(IpNet::V4));
    let mut routes: RouteSet = pools.map(aggregate).collect();
    for allocation in allocations {
        for address in allocation.held() {
            routes.insert(Route {
                destination: host_prefix(address),
                protocol: host_route_protocol(address, allocation, config, evidence),
                next_hop: NextHop::Link(allocation.attachment.host_ifname()),
            });
        }
    }
    shared.iter().filter_map(Shared::route).for_each(|route| routes.insert(route));
    routes
}

/// Whether the host route of one address that a pod has to itself is announced.
pub fn host_route_protocol(
    address: IpAddr,
    allocation: &Allocation,
    config: &NodeConfig,
    evidence: Evidence<'_>,
) -> RouteProtocol {
    let covered = in_pools(address, &config.cidr6, &config.cidr4);
    if !covered && eligibility(allocation, evidence).is_ok() {
        RouteProtocol::Announce
    } else {
        RouteProtocol::Quiet
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::config::{BgpSpec, NodeConfigSpec};
    use crate::ids::AttachmentId;
    use crate::ipam::{Addresses, Phase};
    use crate::ports::ClusterView;
    use crate::testing::pod_view;

    fn config(cidr6: &str, cidr4: &str) -> NodeConfig {
        NodeConfig::validate(&NodeConfigSpec {
            cidr6: vec![cidr6.to_owned()],
            cidr4: vec![cidr4.to_owned()],
            bgp: BgpSpec { asn: 64500, ..BgpSpec::default() },
            ..NodeConfigSpec::default()
        })
        .unwrap()
    }

    fn allocation(pod: Option<&str>, phase: Phase) -> Allocation {
        Allocation {
            attachment: AttachmentId::parse("c1/eth0").unwrap(),
            pod: pod.map(|key| key.parse().unwrap()),
            uid: None,
            netns: None,
            addresses: Addresses {
                v6: Some("2001:db8:1::5".parse().unwrap()),
                v4: Some("192.0.2.5".parse().unwrap()),
            },
            extra: vec![],
            anycast: vec![],
            phase,
        }
    }

    fn announced(config: &NodeConfig, allocation: &Allocation, view: &ClusterView) -> BTreeSet<String> {
        desired_routes(config, [allocation], &[], view.into())
            .iter()
            .filter(|route| route.protocol == RouteProtocol::Announce)
            .map(|route| route.destination.to_string())
            .collect()
    }

    #[test]
    fn the_aggregates_are_announced_and_cover_the_pods() {
        let config = config("2001:db8:1::/64", "192.0.2.0/24");
        let seen = announced(&config, &allocation(None, Phase::Committed), &ClusterView::default());
        assert_eq!(seen, ["192.0.2.0/24", "2001:db8:1::/64"].map(String::from).into());
    }

    #[test]
    fn an_address_outside_the_pools_is_announced_while_its_pod_is_eligible() {
        let config = config("2001:db8:2::/64", "198.51.100.0/24");
        let pools: BTreeSet<_> = ["198.51.100.0/24", "2001:db8:2::/64"].map(String::from).into();
        let mut all = pools.clone();
        all.extend(["192.0.2.5/32", "2001:db8:1::5/128"].map(String::from));
        let view_with = |edit: fn(&mut crate::ports::PodView)| {
            let mut pod = pod_view("ns/p");
            edit(&mut pod);
            let mut view = ClusterView::default();
            view.pods.insert(pod.key.clone(), Arc::new(pod));
            view
        };
        let held = allocation(Some("ns/p"), Phase::Committed);
        assert_eq!(announced(&config, &held, &view_with(|_| ())), all);
        assert_eq!(announced(&config, &held, &view_with(|pod| pod.ready = false)), pools);
        assert_eq!(announced(&config, &held, &view_with(|pod| pod.terminating = true)), pools);
        assert_eq!(announced(&config, &held, &ClusterView::default()), pools, "no such pod");
        let mut moved = view_with(|pod| pod.node = Some("node-b".parse().unwrap()));
        assert_eq!(announced(&config, &held, &moved), all, "the view says for no node");
        moved.node = Some("node-a".parse().unwrap());
        assert_eq!(announced(&config, &held, &moved), pools, "a pod of another node");
        assert_eq!(announced(&config, &allocation(Some("ns/p"), Phase::Pending), &view_with(|_| ())), pools);
        assert_eq!(announced(&config, &allocation(None, Phase::Committed), &ClusterView::default()), all);
        let mut reused = held;
        reused.uid = Some("uid-of-the-pod-before".parse().unwrap());
        let other = view_with(|pod| pod.uid = Some("uid-of-the-pod-now".parse().unwrap()));
        assert_eq!(announced(&config, &reused, &other), pools, "a name taken over by another pod");
    }
}
