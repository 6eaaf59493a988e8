//! What happens to the routes and links of a namespace, as the kernel tells it, and when.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::netns::Netns;

const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
const RTM_DELLINK: u16 = 17;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RT_TABLE_MAIN: u8 = 254;
const RTM_F_CLONED: u32 = 0x200;
const RTA_DST: u16 = 1;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// A route of the main table was written.
    Written(IpNet),
    /// A route of the main table went.
    Removed(IpNet),
    /// A link went.
    LinkGone,
}

/// A listener, on a thread of its own that notes the time as soon as the kernel has spoken.
pub(super) struct Monitor {
    news: Receiver<(Instant, News)>,
    stop: Arc<AtomicBool>,
}

impl Monitor {
    /// Listens in a namespace.
    pub(super) fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.run(open)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (tell, news) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while !stopped.load(Ordering::Relaxed) {
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => {
                        let at = Instant::now();
                        for news in parse(buffer.get(..length).unwrap_or_default()) {
                            let _ = tell.send((at, news));
                        }
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    // Above all ENOBUFS: something was missed, and whoever waits for it will say so.
                    Err(error) => eprintln!("a route monitor: {error}"),
                }
            }
        });
        Ok(Self { news, stop })
    }

    /// Everything that has happened since the last time.
    pub(super) fn drain(&self) -> Vec<News> {
        self.news.try_iter().map(|(_, news)| news).collect()
    }

    /// Waits until all of this has happened; when, in the order given, and what else happened meanwhile.
    pub(super) fn wait<const N: usize>(
        &self,
        wanted: [News; N],
        patience: Duration,
    ) -> Result<([Instant; N], Vec<News>)> {
        let deadline = Instant::now() + patience;
        let mut seen = [None; N];
        let mut others = Vec::new();
        while let Some(missing) = seen.iter().position(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, news) = self.news.recv_timeout(left).map_err(|_| {
                anyhow!("waited {patience:?} for {:?}; heard {others:?}", wanted.get(missing))
            })?;
            match wanted.iter().position(|it| *it == news).and_then(|place| seen.get_mut(place)) {
                Some(first) => {
                    first.get_or_insert(at);
                }
                None => others.push(news),
            }
        }
        Ok((seen.map(|at| at.unwrap_or(deadline)), others))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open() -> Result<OwnedFd> {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .context("cannot open route netlink")?;
    setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20)).context("cannot enlarge the receive buffer")?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(0, 100_000)).context("cannot set a timeout")?;
    let groups = RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).context("cannot listen to route netlink")?;
    Ok(fd)
}

/// The news in a datagram: `struct nlmsghdr`, then `struct rtmsg` and attributes.
fn parse(mut datagram: &[u8]) -> Vec<News> {
    let mut news = Vec::new();
    while let Some(message) = u32_at(datagram, 0).and_then(|length| datagram.get(..length as usize)) {
        if message.len() < 16 {
            break;
        }
        news.extend(u16_at(message, 4).and_then(|kind| read(kind, message.get(16..)?)));
        datagram = datagram.get(message.len().next_multiple_of(4)..).unwrap_or_default();
    }
    news
}

fn read(kind: u16, payload: &[u8]) -> Option<News> {
    let written = match kind {
        RTM_DELLINK => return Some(News::LinkGone),
        RTM_NEWROUTE => true,
        RTM_DELROUTE => false,
        _ => return None,
    };
    let (&[_, length, _, _, table, ..], flags) = (payload.first_chunk::<8>()?, u32_at(payload, 8)?);
    if table != RT_TABLE_MAIN || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut attributes = payload.get(12..)?;
    while let (Some(size), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let value = attributes.get(4..usize::from(size))?;
        if kind == RTA_DST {
            let prefix = IpNet::new(address(value)?, length).ok()?;
            return Some(if written { News::Written(prefix) } else { News::Removed(prefix) });
        }
        attributes = attributes.get(usize::from(size).next_multiple_of(4)..)?;
    }
    None
}

fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
