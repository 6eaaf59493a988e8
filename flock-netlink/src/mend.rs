//! Looks after host veths: gives them back what they lose when somebody sets them down and up again. Routes are
//! not among it: they are missed, and written, with all the others.

use std::collections::BTreeSet;

use flock_core::ids::IfName;
use flock_core::ports::{HostLink, LinkIdentity, LinksTended, NetlinkError};
use flock_core::route::GATEWAY6;

use crate::conn::{Conn, Request};
use crate::inspect::{identity, is_dying, is_gateway, is_host_veth};
use crate::reply::{Address, Link};
use crate::{request, spec};

/// Adds the gateway address where it is missing, and the neighbour entries that went with it as far as the
/// alias names them (the others are only a shortcut). Says what it did, and which links there are.
pub(crate) fn tend() -> Result<LinksTended, NetlinkError> {
    let mut conn = Conn::open_for_dumps()?;
    let mut links = conn.dump(&request::dump_links(true), Link::read)?;
    links.retain(|link| is_host_veth(link) && !is_dying(link));
    let with_gateway: BTreeSet<u32> = conn
        .dump(&request::dump_addresses(0), |message| Address::read(message).filter(is_gateway))?
        .into_iter()
        .map(|address| address.ifindex)
        .collect();
    let mut tended = LinksTended::default();
    for link in &links {
        let identity = identity(link);
        // One without an alias is not finished yet.
        if let Some(identity) = &identity
            && link.up
            && !with_gateway.contains(&link.index)
        {
            tended.notices.push(match conn.run_all(requests(link, identity)) {
                Ok(()) => format!("{} had lost its gateway address {GATEWAY6}, added", link.name),
                Err(error) => format!("{} lacks its gateway address {GATEWAY6}: {error}", link.name),
            });
        }
        let attachment = identity.map(|identity| identity.attachment);
        let host = |ifname| HostLink { ifname, ifindex: link.index, attachment };
        tended.links.extend(IfName::parse(&link.name).ok().map(host));
    }
    tended.links.sort_unstable();
    Ok(tended)
}

fn requests(link: &Link, identity: &LinkIdentity) -> Vec<Request> {
    let (_, pod_mac) = spec::macs(&identity.attachment);
    let mut requests = vec![request::add_gateway(link.index)];
    requests.extend(
        identity.addresses.iter().map(|address| request::add_pod_neighbour(link.index, address, pod_mac)),
    );
    requests
}
