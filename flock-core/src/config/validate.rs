use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::claims::claims;
use super::{Bgp, Defaults, NodeConfig, NodeConfigSpec, Peer, PeerSpec};
use crate::family::{Family, pools_field};
use crate::ipam::capacity;
use crate::prefix;
use crate::problem::Problem;
use crate::special::{LINK_LOCAL, MAPPED, overlap, special_range_of, special_ranges};

pub(super) fn validate(spec: &NodeConfigSpec) -> Result<NodeConfig, Vec<Problem>> {
    let mut problems = Vec::new();
    let cidr6 = pools(Family::V6, &spec.cidr6, &mut problems);
    let cidr4 = pools(Family::V4, &spec.cidr4, &mut problems);
    let pools: Vec<&Pool> = cidr6.iter().chain(&cidr4).collect();
    let bgp = Bgp {
        asn: asn("spec.bgp.asn", spec.bgp.asn, &mut problems),
        router_id: spec.bgp.router_id.as_deref().and_then(|text| router_id(text, &mut problems)),
        peers: peers(&spec.bgp.peers, &pools, &mut problems),
    };
    let claims = claims(&spec.claims, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(NodeConfig {
        cidr6: cidr6.iter().filter_map(Pool::v6).collect(),
        cidr4: cidr4.iter().filter_map(Pool::v4).collect(),
        defaults: Defaults { ipv6: spec.defaults.ipv6, ipv4: spec.defaults.ipv4 },
        bgp,
        claims,
    })
}

/// A pool that could be read; with its field, for what is said about it later.
struct Pool {
    field: String,
    net: IpNet,
}

impl Pool {
    fn v6(&self) -> Option<Ipv6Net> {
        if let IpNet::V6(net) = self.net { Some(net) } else { None }
    }

    fn v4(&self) -> Option<Ipv4Net> {
        if let IpNet::V4(net) = self.net { Some(net) } else { None }
    }
}

fn pools(family: Family, texts: &[String], problems: &mut Vec<Problem>) -> Vec<Pool> {
    // Reserved addresses are never handed out: one of each IPv6 pool at least, three of each IPv4 pool.
    let smallest = match family {
        Family::V6 => "/127",
        Family::V4 => "/30",
    };
    let mut pools: Vec<Pool> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let field = format!("{}[{index}]", pools_field(family));
        let mut refuse =
            |reason: String, fix: String| problems.push(Problem::text(&field, text, reason, fix));
        let Some(net) = read_pool(family, text, &mut refuse) else { continue };
        if let Some((what, range)) = special_ranges(family).find(|(_, range)| overlap(range, &net)) {
            let fix = match what {
                MAPPED => "write the IPv4 prefix in spec.cidr4".to_owned(),
                _ => "use unicast addresses that nobody else has".to_owned(),
            };
            refuse(format!("overlaps the {what} range {range}"), fix);
        } else if capacity(net) == 0 {
            let fix = format!("use a {smallest} or larger");
            refuse("has no address for a pod".to_owned(), fix);
        }
        for earlier in pools.iter().filter(|earlier| overlap(&earlier.net, &net)) {
            let fix = "keep one of them, or make them disjoint".to_owned();
            refuse(format!("overlaps {} {}", earlier.field, earlier.net), fix);
        }
        pools.push(Pool { field, net });
    }
    pools
}

/// Reads one pool. Host bits are a problem, but not one that hides others: the network meant is known.
fn read_pool(family: Family, text: &str, refuse: &mut dyn FnMut(String, String)) -> Option<IpNet> {
    let example = match family {
        Family::V6 => "2001:db8:f001::/64",
        Family::V4 => "192.0.2.0/24",
    };
    let Some(net) = prefix::parse(text) else {
        if text.parse::<IpAddr>().is_ok() {
            refuse("has no prefix length".to_owned(), format!("add one, as in {example}"));
        } else if let Some((reason, fix)) = prefix::near_miss(text) {
            refuse(reason, fix);
        } else {
            refuse(format!("is not an {family} prefix"), format!("write ADDRESS/LENGTH, as in {example}"));
        }
        return None;
    };
    if Family::of(net.addr()) != family {
        let other = Family::of(net.addr());
        refuse(format!("is an {other} prefix"), format!("move it to {}", pools_field(other)));
        return None;
    }
    if net != net.trunc() {
        refuse("has host bits set".to_owned(), format!("write {}", net.trunc()));
    }
    Some(net.trunc())
}

fn peers(specs: &[PeerSpec], pools: &[&Pool], problems: &mut Vec<Problem>) -> Vec<Peer> {
    let mut peers: Vec<(String, Peer)> = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let field = format!("spec.bgp.peers[{index}].address");
        let mut refuse = |reason: String, fix: &str| {
            problems.push(Problem::text(&field, &spec.address, reason, fix));
        };
        let address = peer_address(&spec.address, &mut refuse);
        if let Some(address) = address {
            for pool in pools.iter().filter(|pool| pool.net.contains(&address)) {
                refuse(
                    format!("lies in the pool {} {}", pool.field, pool.net),
                    "use an address outside every pool of this node",
                );
            }
            for (earlier, _) in peers.iter().filter(|(_, peer)| peer.address == address) {
                refuse(format!("is the same as {earlier}"), "keep one of them");
            }
        }
        let asn = asn(&format!("spec.bgp.peers[{index}].asn"), spec.asn, problems);
        peers.extend(address.map(|address| (field, Peer { address, asn })));
    }
    peers.into_iter().map(|(_, peer)| peer).collect()
}

fn peer_address(text: &str, refuse: &mut dyn FnMut(String, &str)) -> Option<IpAddr> {
    // A zone (`fe80::1%eth0`) says which interface a link-local address is behind.
    let (plain, zone) = text.split_once('%').map_or((text, None), |(plain, zone)| (plain, Some(zone)));
    let Ok(address) = plain.parse::<IpAddr>() else {
        refuse(
            "is not an IP address".to_owned(),
            "write it without prefix length or port, as in 2001:db8::1",
        );
        return None;
    };
    match special_range_of(address) {
        Some((LINK_LOCAL, _)) => refuse(
            "is link-local, and flock has no field yet to say behind which interface".to_owned(),
            "use another address of the router",
        ),
        Some((what, range)) => {
            refuse(format!("lies in the {what} range {range}"), "use a unicast address of the router");
        }
        None if zone.is_some() => {
            refuse("has a zone".to_owned(), "write the address without what follows the '%'");
        }
        None => return Some(address),
    }
    None
}

fn router_id(text: &str, problems: &mut Vec<Problem>) -> Option<Ipv4Addr> {
    let fix = "write an IPv4 address such as 192.0.2.10, or leave the field out";
    match text.parse() {
        Ok(Ipv4Addr::UNSPECIFIED) => {
            problems.push(Problem::text("spec.bgp.routerID", text, "is reserved (RFC 6286)", fix));
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            problems.push(Problem::text("spec.bgp.routerID", text, "is not an IPv4 address", fix));
            None
        }
    }
}

/// The number, or 0 beside a problem.
fn asn(field: &str, value: u64, problems: &mut Vec<Problem>) -> u32 {
    let reason = match (value, u32::try_from(value)) {
        (0, _) => "is reserved (RFC 7607)",
        (23_456, _) => "is AS_TRANS, a stand-in that no network has (RFC 6793)",
        (65_535 | 4_294_967_295, _) => "is reserved (RFC 7300)",
        (_, Err(_)) => "does not fit in 32 bits",
        (_, Ok(asn)) => return asn,
    };
    let value: &dyn Display = &value;
    problems.push(Problem::new(field, value, reason, "use another number from 1 to 4294967294"));
    0
}
