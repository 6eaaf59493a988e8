//! Gives host veths back what they lose when somebody sets them down and up again. Routes are not among it:
//! they are missed, and written, with all the others.

use std::collections::BTreeSet;

use flock_core::ports::NetlinkError;
use flock_core::route::GATEWAY6;

use crate::conn::{Conn, Request};
use crate::inspect::{identity, is_dying, is_gateway, is_host_ifname};
use crate::reply::{Address, Link};
use crate::{request, spec};

/// Adds the gateway address where it is missing, and the neighbour entries that went with it as far as the
/// alias names them (the others are only a shortcut). Says what it did.
pub(crate) fn mend() -> Result<Vec<String>, NetlinkError> {
    let mut conn = Conn::open_for_dumps()?;
    let links = conn.dump(&request::dump_links(true), Link::read)?;
    let with_gateway: BTreeSet<u32> = conn
        .dump(&request::dump_addresses(0), |message| Address::read(message).filter(is_gateway))?
        .into_iter()
        .map(|address| address.ifindex)
        .collect();
    let lacks_it = |link: &&Link| {
        is_host_ifname(&link.name) && link.up && !is_dying(link) && !with_gateway.contains(&link.index)
    };
    let mut notices = Vec::new();
    for link in links.iter().filter(lacks_it) {
        // One without an alias is not finished yet.
        let Some(requests) = requests(link) else { continue };
        notices.push(match conn.run_all(requests) {
            Ok(()) => format!("{} had lost its gateway address {GATEWAY6}, added", link.name),
            Err(error) => format!("{} lacks its gateway address {GATEWAY6}: {error}", link.name),
        });
    }
    Ok(notices)
}

fn requests(link: &Link) -> Option<Vec<Request>> {
    let identity = identity(link)?;
    let (_, pod_mac) = spec::macs(&identity.attachment);
    let mut requests = vec![request::add_gateway(link.index)];
    requests.extend(
        identity.addresses.iter().map(|address| request::add_pod_neighbour(link.index, address, pod_mac)),
    );
    Some(requests)
}
