//! Makes an attachment (datapath.md section 1): one message for the veth pair, one batch for the host's
//! side, one for the pod's. Runs on a thread that ends in the pod's namespace.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use flock_core::ids::IfName;
use flock_core::ports::{LinkState, NetlinkError, PodLink};
use flock_core::route::host_prefix;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::alias;
use crate::conn::{Conn, Request, errno, refused};
use crate::inspect::{
    RTN_LOCAL, absent_is_none, find_index, find_link, host_side, identity, is_dying, is_host_ifname,
    our_places, pod_side, taken,
};
use crate::netns::{Netns, NetnsId};
use crate::note;
use crate::reply::{Link, Route};
use crate::request::{self, End, LOOPBACK, Place};
use crate::spec::{self, expected};
use crate::sysctl;

/// How often something in the way is removed before giving up: more than once only in a race.
const ATTEMPTS: usize = 4;

/// How long the kernel may take to settle a new link: it looks at some events only every second.
const SETTLE: Duration = Duration::from_millis(1500);
const SETTLE_POLL: Duration = Duration::from_micros(20);

/// How long a runtime may take to start the `loopback` plugin, and how long that may take from `lo` being up to having
/// looked at its addresses. It takes well under a millisecond for the latter, unless it does not get to run.
const LOOPBACK_STARTS: Duration = Duration::from_millis(500);
const LOOPBACK_LOOKS: Duration = Duration::from_millis(50);
const LOOPBACK_POLL: Duration = Duration::from_millis(1);

/// What an attach came to.
pub(crate) struct Attached {
    pub(crate) state: LinkState,
    /// For one that was not there before: the connection to the host's namespace, which this thread has
    /// left.
    pub(crate) created: Option<Conn>,
}

/// Makes the attachment exist. On an error nothing of it is left.
pub(crate) fn attach(link: &PodLink, own: NetnsId) -> Result<Attached, NetlinkError> {
    let netns = Netns::open(&link.netns, own)?;
    let mut host = Conn::open()?;
    let ifname = link.identity.attachment.host_ifname();
    let mut refusal = None;
    for _ in 0..ATTEMPTS {
        match create(&mut host, link, &ifname, &netns) {
            Ok(()) => {
                return match configure(&mut host, link, &ifname, &netns) {
                    Ok(state) => Ok(Attached { state, created: Some(host) }),
                    Err(error) => {
                        discard(&mut host, &ifname);
                        Err(error)
                    }
                };
            }
            Err(error) if errno(&error) == Some(Errno::EEXIST) => refusal = Some(error),
            Err(error) => return Err(blame_netns(error, &netns)),
        }
        if let Some(state) = make_way(&mut host, link, &ifname, &netns)? {
            return Ok(Attached { state, created: None });
        }
    }
    Err(refusal.unwrap_or_else(|| refused("create the veth pair")(Errno::EEXIST)))
}

/// Deletes a link that did not come about.
fn discard(host: &mut Conn, ifname: &IfName) {
    if let Err(error) = delete(host, ifname) {
        tracing::warn!(%ifname, %error, "a link that did not come about could not be deleted");
    }
}

fn create(host: &mut Conn, link: &PodLink, ifname: &IfName, netns: &Netns) -> Result<(), NetlinkError> {
    let (host_mac, pod_mac) = spec::macs(&link.identity.attachment);
    let host_end = End { ifname, mac: host_mac };
    let pod_end = End { ifname: link.identity.attachment.ifname(), mac: pod_mac };
    host.run_all(vec![request::create_veth(&host_end, &pod_end, link.mtu, netns.as_raw_fd())])
}

/// The kernel says EINVAL both for a file that is no network namespace and for an MTU it does not like.
fn blame_netns(error: NetlinkError, netns: &Netns) -> NetlinkError {
    match errno(&error) {
        Some(Errno::EINVAL | Errno::EBADF) => netns.visit(|| Ok(())).err().unwrap_or(error),
        _ => error,
    }
}

fn configure(
    host: &mut Conn,
    link: &PodLink,
    ifname: &IfName,
    netns: &Netns,
) -> Result<LinkState, NetlinkError> {
    let ifindex = if_nametoindex(ifname.as_str()).map_err(refused("find the new host veth"))?;
    match run_enabling_ipv6(host, || host_batch(link, ifindex), &[ifname.as_str()]) {
        // All that is not to be there before is routes.
        Err(error) if errno(&error) == Some(Errno::EEXIST) => claim_places(host, link, ifindex)?,
        outcome => outcome?,
    }
    note_anycast(host, link, ifname, ifindex)?;
    netns.enter()?;
    let mut pod = Conn::open()?;
    let inner = link.identity.attachment.ifname().as_str();
    let pod_ifindex = if_nametoindex(inner).map_err(refused("find the new pod interface"))?;
    let interfaces = ["all", "default", "lo", inner];
    if link.loopback_runs && !link.anycast.is_empty() {
        run_enabling_ipv6(&mut pod, || pod_batch(link, pod_ifindex), &interfaces)?;
        await_loopback(&mut pod)?;
        run_enabling_ipv6(&mut pod, || loopback_batch(link), &interfaces)?;
    } else {
        let both = || loopback_batch(link).into_iter().chain(pod_batch(link, pod_ifindex)).collect();
        run_enabling_ipv6(&mut pod, both, &interfaces)?;
    }
    await_carrier(host, ifindex)?;
    for address in link.addresses().chain(link.anycast.iter().copied()).filter(IpAddr::is_ipv6) {
        await_address(&mut pod, address)?;
    }
    Ok(expected(link, ifindex))
}

/// Waits until the `loopback` plugin is done: it brings `lo` up, and fails if that has addresses of others then.
/// Where nobody does, the attachment goes on alone.
fn await_loopback(pod: &mut Conn) -> Result<(), NetlinkError> {
    let deadline = Instant::now() + LOOPBACK_STARTS;
    while !find_index(pod, LOOPBACK)?.is_some_and(|lo| lo.up) {
        if Instant::now() > deadline {
            return Ok(());
        }
        std::thread::sleep(LOOPBACK_POLL);
    }
    std::thread::sleep(LOOPBACK_LOOKS);
    Ok(())
}

/// The host's end went up when the pod's was still down. That it carries packets now the kernel notices in
/// the background; until then it drops them, and routes through it count as dead. Looking at the link makes
/// it notice at once (Linux 6.8); older ones take up to a second.
fn await_carrier(host: &mut Conn, ifindex: u32) -> Result<(), NetlinkError> {
    await_kernel("carry packets", || Ok(find_index(host, ifindex)?.is_none_or(|link| link.running)))
}

/// The kernel routes to a new IPv6 address of its own in the background too, even without duplicate
/// address detection. A packet that comes before finds nobody.
fn await_address(pod: &mut Conn, address: IpAddr) -> Result<(), NetlinkError> {
    let lookup = request::get_route(address);
    await_kernel("take packets", || match pod.get(&lookup, Route::read) {
        Ok(route) => Ok(route.is_some_and(|route| route.kind == RTN_LOCAL)),
        // No route at all is an answer too.
        Err(error) if errno(&error).is_some() => Ok(false),
        Err(error) => Err(error),
    })
}

/// Asks again until it is so. Mostly it is at once; what is not so after a second is not waited for, since
/// the attachment is complete and only the kernel is slow.
fn await_kernel(
    what: &'static str,
    mut is_so: impl FnMut() -> Result<bool, NetlinkError>,
) -> Result<(), NetlinkError> {
    let deadline = Instant::now() + SETTLE;
    while !is_so()? {
        if Instant::now() > deadline {
            tracing::warn!("a new link does not {what} yet");
            break;
        }
        std::thread::sleep(SETTLE_POLL);
    }
    Ok(())
}

fn host_batch(link: &PodLink, ifindex: u32) -> Vec<Request> {
    let (_, pod_mac) = spec::macs(&link.identity.attachment);
    let mut batch = vec![
        request::host_settings(ifindex),
        request::alias_and_up(ifindex, &alias::encode(&link.identity)),
        request::add_gateway(ifindex),
    ];
    for address in link.addresses() {
        batch.push(request::add_pod_neighbour(ifindex, address, pod_mac));
    }
    batch.extend(link.addresses().map(|address| host_route(link, ifindex, address, Place::Empty)));
    batch
}

const HOST_ROUTE: &str = "add the host route";

fn host_route(link: &PodLink, ifindex: u32, address: IpAddr, place: Place) -> Request {
    let protocol = link.protocol_of(address);
    request::add_link_route(HOST_ROUTE, host_prefix(address), protocol, ifindex, place)
}

/// Writes the host routes where others are: flock's own (after the deletion of a namespace its veth's name is gone
/// before its routes are, and a pass over the routes may have been faster) are overwritten.
fn claim_places(host: &mut Conn, link: &PodLink, ifindex: u32) -> Result<(), NetlinkError> {
    let ours = our_places(&mut Conn::open_for_dumps()?)?;
    for address in link.addresses() {
        let destination = host_prefix(address);
        let place = if ours.contains(&destination) { Place::Ours } else { Place::Empty };
        match host.run_all(vec![host_route(link, ifindex, address, place)]) {
            Err(error) if errno(&error) == Some(Errno::EEXIST) => return Err(taken(HOST_ROUTE, destination)),
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Only pods that have some pay for the message. Unlike a batch it cannot be sent twice.
fn note_anycast(host: &mut Conn, link: &PodLink, ifname: &IfName, ifindex: u32) -> Result<(), NetlinkError> {
    let addresses: BTreeSet<IpAddr> = link.anycast.iter().copied().collect();
    if addresses.is_empty() {
        return Ok(());
    }
    let names = addresses.into_iter().map(|address| note::encode(ifname, address));
    host.run_all(vec![request::add_names(ifindex, names)])
}

fn loopback_batch(link: &PodLink) -> Vec<Request> {
    let mut batch = vec![request::up("bring up lo in the pod", LOOPBACK)];
    for address in &link.anycast {
        let (step, net) = ("add an anycast address to the pod", host_prefix(*address));
        batch.push(request::add_address(step, LOOPBACK, net));
    }
    batch
}

fn pod_batch(link: &PodLink, ifindex: u32) -> Vec<Request> {
    let (host_mac, _) = spec::macs(&link.identity.attachment);
    let mut batch = vec![request::pod_settings(ifindex), request::up("bring up the pod interface", ifindex)];
    for address in link.addresses() {
        batch.push(request::add_address("add an address to the pod", ifindex, host_prefix(address)));
    }
    for address in link.identity.addresses.iter() {
        let gateway = spec::gateway_of(address);
        batch.push(request::add_neighbour(
            "add the pod's gateway as a neighbour",
            ifindex,
            gateway,
            host_mac,
        ));
        batch.extend(request::pod_routes(ifindex, address));
    }
    batch
}

/// Sends a batch. Where IPv6 is switched off in the namespace (the kernel refuses an address with EACCES)
/// it is switched on for `interfaces`, and the batch is sent again: all of it may be repeated.
fn run_enabling_ipv6(
    conn: &mut Conn,
    batch: impl Fn() -> Vec<Request>,
    interfaces: &[&str],
) -> Result<(), NetlinkError> {
    let refusals = conn.run(batch())?;
    if refusals.iter().any(|(_, refusal)| errno(refusal) == Some(Errno::EACCES)) {
        for interface in interfaces {
            let path = sysctl::root().join("ipv6/conf").join(interface).join("disable_ipv6");
            std::fs::write(&path, "0").map_err(|error| NetlinkError::Kernel {
                step: "switch IPv6 on for a pod",
                source: io::Error::new(error.kind(), format!("{}: {error}", path.display())),
            })?;
        }
        return conn.run_all(batch());
    }
    refusals.into_iter().next().map_or(Ok(()), |(_, refusal)| Err(refusal))
}

/// The kernel refused to create the pair because one of the names is taken. Answers the state when the
/// link there is exactly what is wanted; removes what may be removed, to try again; else the error.
fn make_way(
    host: &mut Conn,
    link: &PodLink,
    ifname: &IfName,
    netns: &Netns,
) -> Result<Option<LinkState>, NetlinkError> {
    let Some(there) = find_link(host, ifname)? else {
        return make_way_in_pod(host, link, netns).map(|()| None);
    };
    let identity = identity(&there);
    let owner = identity.as_ref().map(|identity| &identity.attachment);
    if let Some(other) = owner.filter(|owner| **owner != link.identity.attachment) {
        return Err(NetlinkError::NameTaken { ifname: ifname.clone(), other: other.clone() });
    }
    if !is_dying(&there) && identity.is_some() {
        let pod = pod_side(netns, link.identity.attachment.ifname(), &there)?;
        let host = host_side(&mut Conn::open_for_dumps()?, ifname, &there).map(Some);
        let state = absent_is_none(host)?.map(|host| LinkState { identity, host, pod });
        if state.as_ref() == Some(&expected(link, there.index)) {
            return Ok(state);
        }
    }
    tracing::info!(%ifname, "replacing what is left of an earlier attachment");
    delete(host, ifname)?;
    Ok(None)
}

/// The pod has an interface of that name. Only the other end of a link that has been detached, and waits
/// to be deleted, is ours to remove.
fn make_way_in_pod(host: &mut Conn, link: &PodLink, netns: &Netns) -> Result<(), NetlinkError> {
    let inner = link.identity.attachment.ifname();
    let look = || netns.visit(|| find_link(&mut Conn::open()?, inner));
    let Some(there) = look()? else { return Ok(()) };
    let is_other_end = |found: &Link| found.peer == Some(there.index) && is_host_ifname(&found.name);
    let other_end = match there.peer {
        Some(index) => find_index(host, index)?.filter(|found| is_dying(found) && is_other_end(found)),
        None => None,
    };
    match other_end.and_then(|found| IfName::parse(&found.name).ok()) {
        Some(retired) => delete(host, &retired),
        // Deleted between the two looks: it waited for its turn just as the second look did.
        None if look()?.is_none_or(|now| now.index != there.index) => Ok(()),
        None => Err(NetlinkError::InterfaceExists { ifname: inner.clone(), path: netns.path().clone() }),
    }
}

fn delete(host: &mut Conn, ifname: &IfName) -> Result<(), NetlinkError> {
    match host.run_all(vec![request::delete_link(ifname)]) {
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(()),
        outcome => outcome,
    }
}
