//! Takes attachments out of service at once, and deletes their links a little later. Deleting a veth
//! waits for the kernel to be sure that nobody uses it any more: 20 to 30 ms for one, and about the same
//! for a whole group.

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use flock_core::ids::{AttachmentId, IfName};
use flock_core::ports::{HostLink, LinkIdentity, LinkState, NetlinkError};
use flock_core::route::{RouteProtocol, host_prefix};
use nix::errno::Errno;

use crate::attach::Attached;
use crate::conn::{Conn, Request, errno};
use crate::inspect::{
    find_index, find_link, identity, is_dying, is_host_veth, is_its_own, noted, routes_through,
};
use crate::reply::Link;
use crate::request;

/// Detaches come in bursts: the links of one burst are deleted together, and the kernel's network lock,
/// which a deletion holds, is free meanwhile.
const GATHER: Duration = Duration::from_millis(50);

/// How long a refused deletion rests.
const RETRY: Duration = Duration::from_secs(5);

/// Routes and neighbours go, the link goes down and waits to be deleted. True when there was a link. `leave`
/// takes it out of the groups it is in, and what it cannot do does not hold up the rest.
pub(crate) fn detach(
    conn: &mut Conn,
    attachment: &AttachmentId,
    leave: impl FnOnce(&mut Conn, &IfName) -> Result<(), NetlinkError>,
) -> Result<bool, NetlinkError> {
    let ifname = attachment.host_ifname();
    let Some(link) = find_link(conn, &ifname)?.filter(|link| !is_dying(link)) else { return Ok(false) };
    match identity(&link) {
        Some(identity) if identity.attachment != *attachment => Ok(false),
        identity => retire(conn, &ifname, &link, identity, leave).map(|()| true),
    }
}

/// The same for a link without an identity, and for that one only, whoever has its name by now.
pub(crate) fn discard(
    conn: &mut Conn,
    nameless: &HostLink,
    leave: impl FnOnce(&mut Conn, &IfName) -> Result<(), NetlinkError>,
) -> Result<bool, NetlinkError> {
    let is_it = |link: &Link| {
        link.name == nameless.ifname.as_str()
            && is_host_veth(link)
            && !is_dying(link)
            && identity(link).is_none()
    };
    match find_index(conn, nameless.ifindex)?.filter(is_it) {
        Some(link) => retire(conn, &nameless.ifname, &link, None, leave).map(|()| true),
        None => Ok(false),
    }
}

fn retire(
    conn: &mut Conn,
    ifname: &IfName,
    link: &Link,
    identity: Option<LinkIdentity>,
    leave: impl FnOnce(&mut Conn, &IfName) -> Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    // Setting the link down takes all of this with it, but the kernel does not tell everybody (BIRD) of
    // IPv4 routes that go that way.
    let mut batch = match identity {
        Some(identity) if !identity.more => {
            identity.addresses.iter().flat_map(|address| forget(link, address)).collect()
        }
        _ => forget_routes(conn, link)?,
    };
    batch.push(request::retire(link.index));
    // Before the link goes down, for the same reason. A pod without anycast addresses has no group to leave.
    let left = if noted(link).is_empty() { Ok(()) } else { leave(conn, ifname) };
    let is_gone = |refusal: &NetlinkError| {
        matches!(errno(refusal), Some(Errno::ESRCH | Errno::ENOENT | Errno::ENODEV | Errno::ENXIO))
    };
    let refusals: Vec<NetlinkError> = match conn.run(batch) {
        Ok(refused) => refused.into_iter().map(|(_, refusal)| refusal).filter(|it| !is_gone(it)).collect(),
        Err(error) => vec![error],
    };
    left.err().into_iter().chain(refusals).reduce(both).map_or(Ok(()), Err)
}

/// The first of two errors, which also says the other one.
#[allow(clippy::needless_pass_by_value)]
fn both(first: NetlinkError, second: NetlinkError) -> NetlinkError {
    match first {
        NetlinkError::Kernel { step, source } => {
            let source = io::Error::new(source.kind(), format!("{source}; and {second}"));
            NetlinkError::Kernel { step, source }
        }
        other => other,
    }
}

fn forget(link: &Link, address: IpAddr) -> Vec<Request> {
    let route = |protocol| request::delete_route_through(link.index, host_prefix(address), protocol);
    let mut requests: Vec<Request> = RouteProtocol::ALL.map(route).into();
    requests.push(request::delete_neighbour(link.index, address));
    requests
}

/// For a link that does not say which addresses it has, or not all of them.
fn forget_routes(conn: &mut Conn, link: &Link) -> Result<Vec<Request>, NetlinkError> {
    conn.prepare_for_dumps()?;
    Ok(routes_through(conn, link.index, is_its_own)?.iter().map(request::delete_route).collect())
}

/// An attachment for somebody who may have given up and rolled back meanwhile, perhaps before there was
/// anything: unless it is claimed, what was made for it is taken out of service again.
pub(crate) struct Unclaimed {
    attached: Attached,
    attachment: AttachmentId,
    reaper: Reaper,
}

impl Unclaimed {
    pub(crate) fn new(attached: Attached, attachment: AttachmentId, reaper: Reaper) -> Self {
        Self { attached, attachment, reaper }
    }

    /// Somebody has it.
    pub(crate) fn claim(mut self) -> LinkState {
        self.attached.created = None;
        self.attached.state.clone()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let Some(mut host) = self.attached.created.take() else { return };
        // Nobody puts a pod into a group before its ADD is done.
        match detach(&mut host, &self.attachment, |_, _| Ok(())) {
            Ok(true) => self.reaper.wake(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(attachment = %self.attachment, %error, "a link nobody waits for stays");
            }
        }
    }
}

/// Deletes retired links in the background, on a thread that ends with the last of these.
#[derive(Debug, Clone)]
pub(crate) struct Reaper(Sender<()>);

impl Reaper {
    /// Starts the thread, in the namespace of the caller. It looks for links left by a crash at once.
    pub(crate) fn start() -> Result<Self, NetlinkError> {
        let conn = Conn::open()?;
        let (wake, woken) = channel();
        std::thread::Builder::new()
            .name("flock-reaper".to_owned())
            .spawn(move || reap(conn, &woken))
            .map_err(|source| NetlinkError::Kernel { step: "start a thread", source })?;
        let reaper = Self(wake);
        reaper.wake();
        Ok(reaper)
    }

    /// There is something to delete.
    pub(crate) fn wake(&self) {
        if self.0.send(()).is_err() {
            tracing::error!("the thread that deletes retired links is gone");
        }
    }
}

fn reap(mut conn: Conn, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        std::thread::sleep(GATHER);
        while woken.try_recv().is_ok() {}
        // One answer says that there were some; a detach may have added another since.
        loop {
            match conn.run_all(vec![request::delete_dying()]) {
                Ok(()) => {}
                Err(error) if errno(&error) == Some(Errno::ENODEV) => break,
                Err(error) => {
                    tracing::warn!(%error, "retired links could not be deleted, trying again");
                    if woken.recv_timeout(RETRY) == Err(RecvTimeoutError::Disconnected) {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_a_detach_says_all_that_went_wrong() {
        let refusal = |step, kind| NetlinkError::Kernel { step, source: io::Error::from(kind) };
        let all = [
            refusal("leave a group", io::ErrorKind::PermissionDenied),
            refusal("remove a route", io::ErrorKind::ResourceBusy),
            refusal("set the link down", io::ErrorKind::OutOfMemory),
        ];
        let error = all.into_iter().reduce(both).unwrap();
        assert_eq!(
            error.to_string(),
            "kernel refused to leave a group: permission denied; and kernel refused to remove a route: resource busy; \
             and kernel refused to set the link down: out of memory"
        );
    }
}
