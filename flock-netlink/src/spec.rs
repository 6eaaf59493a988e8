//! What the kernel shows of an attachment that is as it should be.

use std::net::IpAddr;

use flock_core::ids::AttachmentId;
use flock_core::ports::{HostSide, LinkState, Mac, PodLink, PodSide};
use flock_core::route::{GATEWAY4, GATEWAY6, NextHop, ObservedRoute, Route, RouteProtocol, host_prefix};

use crate::alias;

/// The hardware addresses of the host's and the pod's end: the same for the same attachment, locally
/// administered, and different in one bit.
pub(crate) fn macs(attachment: &AttachmentId) -> (Mac, Mac) {
    const LOCAL: u8 = 0b010;
    const POD: u8 = 0b100;
    let [_, _, bytes @ ..] = attachment.hash64().to_be_bytes();
    let mac = |bits: u8| {
        let mut mac: Mac = bytes;
        mac[0] = mac[0] & 0b1111_1000 | bits;
        mac
    };
    (mac(LOCAL), mac(LOCAL | POD))
}

/// The gateway of a pod's address.
pub(crate) fn gateway_of(address: IpAddr) -> IpAddr {
    if address.is_ipv6() { GATEWAY6.into() } else { GATEWAY4.into() }
}

/// The host route of a pod's address.
pub(crate) fn host_route(
    attachment: &AttachmentId,
    address: IpAddr,
    protocol: RouteProtocol,
) -> ObservedRoute {
    let next_hop = NextHop::Link(attachment.host_ifname());
    Route { destination: host_prefix(address), protocol, next_hop }.into()
}

/// The state of a link that is exactly as asked for, at this index. Lists are in order.
pub(crate) fn expected(link: &PodLink, ifindex: u32) -> LinkState {
    let attachment = &link.identity.attachment;
    let mut addresses: Vec<IpAddr> = link.addresses().collect();
    addresses.sort_unstable();
    let mut gateways: Vec<IpAddr> = link.identity.addresses.iter().map(gateway_of).collect();
    gateways.sort_unstable();
    let mut anycast = link.anycast.clone();
    anycast.sort_unstable();
    anycast.dedup();
    let (host_mac, pod_mac) = macs(attachment);
    let route = |address: &IpAddr| host_route(attachment, *address, link.protocol_of(*address));
    LinkState {
        // What the alias keeps of it.
        identity: alias::decode(alias::encode(&link.identity).as_bytes()),
        host: HostSide {
            ifname: attachment.host_ifname(),
            ifindex,
            mac: host_mac,
            mtu: link.mtu,
            up: true,
            routes: addresses.iter().map(route).collect(),
            neighbours: addresses.clone(),
            has_gateway: true,
            anycast: anycast.clone(),
        },
        pod: Some(PodSide {
            mac: pod_mac,
            mtu: link.mtu,
            up: true,
            addresses: addresses.iter().copied().map(host_prefix).collect(),
            anycast: anycast.into_iter().map(host_prefix).collect(),
            gateways: gateways.clone(),
            neighbours: gateways,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_local_unicast_stable_and_distinct() {
        let of = |id: &str| macs(&AttachmentId::parse(id).unwrap());
        let mut seen = std::collections::BTreeSet::new();
        for container in 0..1000 {
            let id = format!("{container:064x}/eth0");
            let (host, pod) = of(&id);
            assert_eq!((host, pod), of(&id));
            for mac in [host, pod] {
                assert_eq!(mac[0] & 0b11, 0b10, "locally administered, not multicast: {mac:x?}");
                assert!(seen.insert(mac), "{mac:x?} twice");
            }
        }
    }
}
