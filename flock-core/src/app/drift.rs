use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ipam::Allocation;
use crate::ports::LinkState;
use crate::route::{GATEWAY4, GATEWAY6, NextHop, host_prefix};

/// How what the kernel has differs from what the attachment was given, in words. The pod's side is
/// compared where it was looked at; use [`LinkState::pod`] being `None` for "not found".
pub fn drift(allocation: &Allocation, seen: &LinkState) -> Vec<String> {
    let mut drift = Vec::new();
    host_side(allocation, seen, &mut drift);
    pod_side(allocation, seen, &mut drift);
    drift
}

fn host_side(allocation: &Allocation, seen: &LinkState, drift: &mut Vec<String>) {
    let host = &seen.host;
    let name = &host.ifname;
    match &seen.identity {
        None => drift.push(format!("link {name} has lost its alias")),
        Some(identity) if identity.attachment != allocation.attachment => {
            drift.push(format!("link {name} belongs to {}", identity.attachment));
        }
        Some(identity)
            if identity.addresses != allocation.addresses || identity.more == allocation.extra.is_empty() =>
        {
            drift.push(format!("link {name} names other addresses in its alias"));
        }
        Some(_) => {}
    }
    let noted: BTreeSet<_> = host.anycast.iter().collect();
    if noted != allocation.anycast.iter().collect() {
        drift.push(format!("link {name} notes other anycast addresses"));
    }
    if !host.up {
        drift.push(format!("link {name} is down"));
    }
    if allocation.addresses.v6.is_some() && !host.has_gateway {
        drift.push(format!("link {name} lacks the gateway address {GATEWAY6}"));
    }
    for address in allocation.held() {
        let wanted = NextHop::Link(name.clone());
        let routed = host.routes.iter().any(|route| {
            route.destination == host_prefix(address) && route.next_hop.as_ref() == Some(&wanted)
        });
        if !routed {
            drift.push(format!("host route {} dev {name} is missing", host_prefix(address)));
        }
        if !host.neighbours.contains(&address) {
            drift.push(format!("neighbour entry for {address} on {name} is missing"));
        }
    }
}

fn pod_side(allocation: &Allocation, seen: &LinkState, drift: &mut Vec<String>) {
    let name = allocation.attachment.ifname();
    let Some(pod) = &seen.pod else {
        drift.push(format!("interface {name} is missing in the pod"));
        return;
    };
    if !pod.up {
        drift.push(format!("interface {name} is down in the pod"));
    }
    if pod.mtu != seen.host.mtu {
        drift.push(format!("interface {name} has mtu {} in the pod, {} on the host", pod.mtu, seen.host.mtu));
    }
    let wanted: Vec<IpNet> = allocation.held().map(host_prefix).collect();
    for address in wanted.iter().filter(|address| !pod.addresses.contains(address)) {
        drift.push(format!("address {address} is missing on {name} in the pod"));
    }
    for address in pod.addresses.iter().filter(|address| !wanted.contains(address)) {
        drift.push(format!("address {address} on {name} in the pod is not flock's"));
    }
    for address in allocation.anycast.iter().copied().map(host_prefix) {
        if !pod.anycast.contains(&address) {
            drift.push(format!("anycast address {address} is missing on lo in the pod"));
        }
    }
    let gateways = [
        (allocation.addresses.v6.is_some(), IpAddr::V6(GATEWAY6)),
        (allocation.addresses.v4.is_some(), IpAddr::V4(GATEWAY4)),
    ];
    for (_, gateway) in gateways.iter().filter(|(wanted, _)| *wanted) {
        if !pod.gateways.contains(gateway) {
            drift.push(format!("default route via {gateway} is missing in the pod"));
        }
        if !pod.neighbours.contains(gateway) {
            drift.push(format!("neighbour entry for {gateway} is missing in the pod"));
        }
    }
}
