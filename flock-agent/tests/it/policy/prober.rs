//! Finds out who reaches whom: every packet of a round is sent at once, from sockets of that round.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::linger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{Linger, SocketError};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockopt,
    recv, sendto, setsockopt, socket,
};

use crate::netns::Netns;

/// How a destination is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Tcp,
    Udp,
    /// An echo request.
    Icmp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// Someone with an address of each family.
pub(super) struct Spot<'a> {
    pub(super) name: String,
    pub(super) netns: &'a Netns,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Spot<'_> {
    pub(super) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// One question; `from` and `to` count spots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) kind: Kind,
    /// 0 of ICMP.
    pub(super) port: u16,
    pub(super) family: Family,
}

/// How long to go on after all answers that are expected have come: the questions that are to stay without one were
/// asked before the others.
const SETTLE: Duration = Duration::from_millis(20);

/// Asks all cells, and says which were answered: it returns soon after all that are expected to have answered did, or
/// when its patience ends.
pub(super) fn probe(spots: &[Spot<'_>], cells: &[Cell], expected: &[bool], patience: Duration) -> Vec<bool> {
    // A thread of its own, since it goes from one namespace to the next.
    thread::scope(|scope| {
        let round = scope.spawn(|| {
            let mut round = Round::open(spots, cells);
            for turn in [false, true] {
                (0..cells.len()).filter(|cell| expected[*cell] == turn).for_each(|cell| round.ask(cell));
            }
            round.collect(expected, patience);
            round.seen
        });
        round.join().unwrap()
    })
}

/// Sockets of one round.
struct Round<'a> {
    spots: &'a [Spot<'a>],
    cells: &'a [Cell],
    nonce: u32,
    udp: BTreeMap<(usize, Family), UdpSocket>,
    icmp: BTreeMap<(usize, Family), OwnedFd>,
    /// Of each cell that is still waiting.
    tcp: BTreeMap<usize, OwnedFd>,
    seen: Vec<bool>,
}

impl<'a> Round<'a> {
    fn open(spots: &'a [Spot<'a>], cells: &'a [Cell]) -> Self {
        static ROUNDS: AtomicU32 = AtomicU32::new(1);
        let nonce = ROUNDS.fetch_add(1, Ordering::Relaxed);
        let (udp, icmp, tcp) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut round = Self { spots, cells, nonce, udp, icmp, tcp, seen: vec![false; cells.len()] };
        for (from, spot) in spots.iter().enumerate() {
            spot.netns.enter();
            for (index, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.from == from) {
                let (key, address) = ((from, cell.family), spot.address(cell.family));
                match cell.kind {
                    Kind::Tcp => drop(round.tcp.insert(index, tcp_socket(address))),
                    Kind::Udp => drop(round.udp.entry(key).or_insert_with(|| {
                        let socket = UdpSocket::bind((address, 0)).unwrap();
                        socket.set_nonblocking(true).unwrap();
                        socket
                    })),
                    Kind::Icmp => drop(round.icmp.entry(key).or_insert_with(|| icmp_socket(address))),
                }
            }
        }
        round
    }

    /// What cannot even be sent stays without an answer.
    fn ask(&mut self, index: usize) {
        let Cell { from, to, kind, port, family } = self.cells[index];
        let target = SocketAddr::new(self.spots[to].address(family), port);
        match kind {
            Kind::Tcp => {
                let result = connect(self.tcp[&index].as_raw_fd(), &SockaddrStorage::from(target));
                if !matches!(result, Ok(()) | Err(Errno::EINPROGRESS)) {
                    self.tcp.remove(&index);
                }
            }
            Kind::Udp => {
                let mut question = self.nonce.to_be_bytes().to_vec();
                question.extend(u32::try_from(index).unwrap().to_be_bytes());
                drop(self.udp[&(from, family)].send_to(&question, target));
            }
            Kind::Icmp => {
                let message = echo_request(family, self.nonce, index);
                let fd = self.icmp[&(from, family)].as_raw_fd();
                let _ = sendto(fd, &message, &SockaddrStorage::from(target), MsgFlags::empty());
            }
        }
    }

    fn collect(&mut self, expected: &[bool], patience: Duration) {
        let mut deadline = Instant::now() + patience;
        let mut complete = false;
        loop {
            if !complete && self.seen.iter().zip(expected).all(|(seen, expected)| *seen || !expected) {
                complete = true;
                deadline = deadline.min(Instant::now() + SETTLE);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.wait(left);
        }
    }

    /// Waits for answers, and takes all there are.
    fn wait(&mut self, longest: Duration) {
        let timeout = PollTimeout::try_from(longest.as_millis() + 1).unwrap();
        let written = self.tcp.values().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT));
        let read = self.udp.values().map(AsFd::as_fd).chain(self.icmp.values().map(AsFd::as_fd));
        let mut fds: Vec<PollFd<'_>> =
            written.chain(read.map(|fd| PollFd::new(fd, PollFlags::POLLIN))).collect();
        poll(&mut fds, timeout).unwrap();
        let answered = self.tcp.keys().zip(&fds).filter(|(_, fd)| fd.any() == Some(true));
        let answered: Vec<usize> = answered.map(|(index, _)| *index).collect();
        for index in answered {
            let error = getsockopt(&self.tcp.remove(&index).unwrap(), SocketError).unwrap();
            // A refusal comes from there as well.
            self.seen[index] = error == 0 || Errno::from_raw(error) == Errno::ECONNREFUSED;
        }
        self.read_udp();
        self.read_icmp();
    }

    fn read_udp(&mut self) {
        for socket in self.udp.values() {
            let mut buffer = [0; 64];
            loop {
                let length = match socket.recv(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                };
                let words: Vec<usize> =
                    buffer[..length].chunks_exact(4).map(|it| word(it).try_into().unwrap()).collect();
                let [nonce, index, spot, port] = words[..] else { panic!("{words:?}") };
                if nonce != self.nonce as usize {
                    continue;
                }
                let cell = self.cells[index];
                assert_eq!((spot, port), (cell.to, cell.port.into()), "{cell:?} was answered by another");
                self.seen[index] = true;
            }
        }
    }

    fn read_icmp(&mut self) {
        for ((from, family), socket) in &self.icmp {
            let mut buffer = [0; 128];
            while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // IPv4 shows the header of the packet.
                let at = if *family == Family::V4 { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
                let Some(echo) = buffer[..length].get(at..at + 8) else { continue };
                let kind = if *family == Family::V4 { 0 } else { 129 };
                let index = usize::from(u16::from_be_bytes([echo[6], echo[7]]));
                if echo[0] == kind && echo[4..6] == identifier(self.nonce) {
                    assert_eq!(self.cells[index].from, *from);
                    self.seen[index] = true;
                }
            }
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

fn address_family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A socket that leaves no connection behind: the next round may find no port of this one in use, neither at its
/// peer nor in conntrack.
fn tcp_socket(address: IpAddr) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(address_family(address), SockType::Stream, flags, None).unwrap();
    setsockopt(&fd, Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0))).unwrap();
    fd
}

fn icmp_socket(address: IpAddr) -> OwnedFd {
    let protocol = if address.is_ipv4() { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(address_family(address), SockType::Raw, flags, protocol).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0))).unwrap();
    fd
}

fn identifier(nonce: u32) -> [u8; 2] {
    let [_, _, identifier @ ..] = nonce.to_be_bytes();
    identifier
}

fn echo_request(family: Family, nonce: u32, index: usize) -> [u8; 8] {
    let kind = if family == Family::V4 { 8 } else { 128 };
    let [first, second] = identifier(nonce);
    let [third, fourth] = u16::try_from(index).unwrap().to_be_bytes();
    let mut message = [kind, 0, 0, 0, first, second, third, fourth];
    if family == Family::V4 {
        // The kernel fills in the checksum of ICMPv6 only.
        let sum: u32 = message.chunks_exact(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]]))).sum();
        let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        message[2..4].copy_from_slice(&(!folded).to_be_bytes());
    }
    message
}
