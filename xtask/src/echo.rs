//! Echo requests without a process per ping: the sockets are open before there is anybody to ask.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv, sendto, socket,
};

/// Identifies our echoes (RFC 792, RFC 4443): nobody else is in our network namespace.
const IDENTIFIER: u16 = 0x666c;

/// ICMP types.
const REQUEST4: u8 = 8;
const REPLY4: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

/// Raw sockets of both families in the network namespace they were opened in.
#[derive(Debug)]
pub(crate) struct Pinger {
    v6: OwnedFd,
    v4: OwnedFd,
}

impl Pinger {
    /// Opens them.
    pub(crate) fn open() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let open = |family, protocol| {
            socket(family, SockType::Raw, flags, protocol)
                .context("cannot open a raw socket, which takes root")
        };
        Ok(Self {
            v6: open(AddressFamily::Inet6, SockProtocol::IcmpV6)?,
            v4: open(AddressFamily::Inet, SockProtocol::Icmp)?,
        })
    }

    /// Sends one echo request to each address and returns when each reply came, in the same order; `None` for
    /// one that has not come within `patience`.
    pub(crate) fn ping(
        &self,
        addresses: &[IpAddr],
        sequence: u16,
        patience: Duration,
    ) -> Result<Vec<Option<Instant>>> {
        for address in addresses {
            self.send(*address, sequence).with_context(|| format!("cannot send to {address}"))?;
        }
        let deadline = Instant::now() + patience;
        let mut replies = vec![None; addresses.len()];
        while replies.contains(&None) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut sockets =
                [&self.v6, &self.v4].map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            poll(&mut sockets, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
            let now = Instant::now();
            for (address, reply) in addresses.iter().zip(&mut replies) {
                if reply.is_none() && self.received(address.is_ipv6(), sequence) {
                    *reply = Some(now);
                }
            }
        }
        Ok(replies)
    }

    fn send(&self, to: IpAddr, sequence: u16) -> nix::Result<usize> {
        let flags = MsgFlags::empty();
        match to {
            // The kernel computes the checksum of ICMPv6, and only of that.
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(self.v6.as_raw_fd(), &echo(REQUEST6, sequence, 0), &to, flags)
            }
            IpAddr::V4(to) => {
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                let sum = checksum(echo(REQUEST4, sequence, 0));
                sendto(self.v4.as_raw_fd(), &echo(REQUEST4, sequence, sum), &to, flags)
            }
        }
    }

    /// Whether the reply with this number is among the packets that wait.
    fn received(&self, v6: bool, sequence: u16) -> bool {
        let socket = if v6 { &self.v6 } else { &self.v4 };
        let mut packet = [0; 1500];
        while let Ok(length) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            let packet = packet.get(..length).unwrap_or_default();
            // A raw IPv4 socket hands out the IP header too; its length is in its first byte.
            let header = if v6 { 0 } else { packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4) };
            let reply = echo(if v6 { REPLY6 } else { REPLY4 }, sequence, 0);
            let [kind, code, _, _, rest @ ..] = reply;
            if let Some([k, c, _, _, r @ ..]) = packet.get(header..)
                && (*k, *c) == (kind, code)
                && r.starts_with(&rest)
            {
                return true;
            }
        }
        false
    }
}

/// Type and code, checksum, identifier, sequence number: 16 bits each.
fn echo(kind: u8, sequence: u16, checksum: u16) -> [u8; 8] {
    let words = [u16::from(kind) << 8, checksum, IDENTIFIER, sequence];
    words.iter().fold(0, |message, word| message << 16 | u64::from(*word)).to_be_bytes()
}

/// RFC 1071.
fn checksum(message: [u8; 8]) -> u16 {
    let message = u64::from_be_bytes(message);
    let sum: u64 = [48, 32, 16, 0].iter().map(|shift| message >> shift & 0xffff).sum();
    let fold = |sum: u64| (sum & 0xffff) + (sum >> 16);
    !u16::try_from(fold(fold(sum))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_with_its_checksum_sums_to_zero() {
        for sequence in [0, 1, 19, u16::MAX] {
            let sum = checksum(echo(REQUEST4, sequence, 0));
            assert_eq!(checksum(echo(REQUEST4, sequence, sum)), 0, "{sequence}");
        }
    }
}
