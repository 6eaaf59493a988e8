//! Reads the log of dropped packets (`NFLOG`), which nothing but the kernel writes, but which holds what pods send.

use std::net::IpAddr;
use std::time::Duration;

use flock_core::policy::render::{DropReason, LOG_GROUP};
use flock_core::ports::FirewallError;
use nix::errno::Errno;

use super::headers::{Payload, headers};
use super::observe::text;
use super::socket::{HEADER, Socket};
use super::wire::{Head, ulog};
use crate::reply::{Message, attributes, messages};

const PACKET: u16 = ulog(0);
const CONFIG: u16 = ulog(1);

const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_TIMEOUT: u16 = 4;
const COMMAND_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;

const IN_LINK: u16 = 4;
const OUT_LINK: u16 = 5;
const BYTES: u16 = 9;
const PREFIX: u16 = 10;

/// Bytes of a packet that are sent here. The rules say less.
const COPIED: u32 = 256;

/// How long the kernel may keep packets to send several at once, in hundredths of a second.
const FLUSH: u32 = 1;

/// How long [`DropLog::wait`] waits.
const PATIENCE: Duration = Duration::from_millis(200);

/// A packet the firewall dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// The link it came from; `None` where it is gone.
    pub in_link: Option<String>,
    /// The link it would have left by; `None` where that was not decided yet.
    pub out_link: Option<String>,
    /// The sender, as the packet says.
    pub from: IpAddr,
    /// The receiver.
    pub to: IpAddr,
    /// What is in it.
    pub payload: Payload,
}

/// Why dropped packets cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum DropLogError {
    /// Another process does, and the kernel tells one only.
    #[error(
        "another process follows the dropped packets of this node (NFLOG group {LOG_GROUP}), and only one can: end it first"
    )]
    Held,
    /// The kernel refused.
    #[error("{0}; CAP_NET_ADMIN in the network of the node is needed")]
    Kernel(#[from] FirewallError),
}

/// Follows what the firewall drops, in the network namespace of the thread that opened this. At most
/// [`LOG_RATE`](flock_core::policy::render::LOG_RATE) packets a second are logged for each reason.
pub struct DropLog {
    socket: Socket,
}

impl std::fmt::Debug for DropLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DropLog").finish_non_exhaustive()
    }
}

impl DropLog {
    /// From now on. Needs `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, DropLogError> {
        let mut socket = Socket::open()?;
        socket.set_patience(PATIENCE)?;
        let head = Head { kind: CONFIG, flags: 0, family: 0, resource: LOG_GROUP };
        let fill = |request: &mut super::wire::Attributes| {
            request.put(CONFIG_COMMAND, &[COMMAND_BIND]);
            let [a, b, c, d] = COPIED.to_be_bytes();
            request.put(CONFIG_MODE, &[a, b, c, d, COPY_PACKET, 0]);
            request.put(CONFIG_TIMEOUT, &FLUSH.to_be_bytes());
        };
        match socket.get("follow dropped packets", head, fill, |_| None::<()>) {
            // Whoever may open the socket may follow a group that is free.
            Err(FirewallError::Kernel { source, .. }) if is_held(&source) => Err(DropLogError::Held),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(Self { socket }),
        }
    }

    /// Waits a moment for packets that were dropped; there may be none. Of more than can be read in time, the kernel
    /// forgets some.
    pub fn wait(&mut self) -> Result<Vec<Dropped>, FirewallError> {
        match self.socket.wait("read the dropped packets") {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(datagram)) => {
                let name = |index| nix::net::if_::if_indextoname(index).ok()?.into_string().ok();
                let dropped = read(&datagram, name);
                self.socket.give_back(datagram);
                Ok(dropped)
            }
            Err(FirewallError::Kernel { source, .. }) if is_overrun(&source) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn is_held(error: &std::io::Error) -> bool {
    [Errno::EPERM, Errno::EBUSY].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn is_overrun(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// The packets of a datagram. What has no reason of flock's is passed over.
fn read(datagram: &[u8], name: impl Fn(u32) -> Option<String>) -> Vec<Dropped> {
    messages(datagram).filter_map(|message| packet(&message, &name)).collect()
}

fn packet(message: &Message<'_>, name: impl Fn(u32) -> Option<String>) -> Option<Dropped> {
    if message.kind != PACKET {
        return None;
    }
    let (mut reason, mut bytes, mut links) = (None, None, [None, None]);
    for (kind, value) in attributes(message.payload, HEADER) {
        let index = || value.first_chunk().map(|raw| u32::from_be_bytes(*raw));
        match kind {
            IN_LINK => links[0] = index(),
            OUT_LINK => links[1] = index(),
            BYTES => bytes = headers(value),
            PREFIX => reason = text(value).and_then(DropReason::parse),
            _ => {}
        }
    }
    let (reason, headers) = (reason?, bytes?);
    let [in_link, out_link] = links.map(|index| index.and_then(&name));
    Some(Dropped { reason, in_link, out_link, from: headers.from, to: headers.to, payload: headers.payload })
}

#[cfg(test)]
mod tests {
    use flock_core::policy::Protocol;
    use proptest::prelude::*;

    use super::super::wire::Messages;
    use super::*;

    const SYN: &[u8] =
        &[0x45, 0, 0, 24, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0x0f, 0xa0, 0, 80];

    fn log(prefix: &str, bytes: &[u8]) -> Vec<u8> {
        let mut messages = Messages::default();
        messages.push(Head { kind: PACKET, flags: 0, family: 2, resource: LOG_GROUP }, |packet| {
            packet.put(1, &[8, 0, 2, 0]);
            packet.name(PREFIX, prefix);
            packet.put(IN_LINK, &7_u32.to_be_bytes());
            packet.put(OUT_LINK, &8_u32.to_be_bytes());
            packet.put(BYTES, bytes);
        });
        messages.bytes
    }

    fn name(index: u32) -> Option<String> {
        (index == 7).then(|| "flock00000007".to_owned())
    }

    #[test]
    fn packets_are_told_with_reason_links_and_headers() {
        let datagram =
            [log("refused", SYN), log("sombody", SYN), log("shut", &[]), log("shut", SYN)].concat();
        let dropped = |reason| Dropped {
            reason,
            in_link: name(7),
            out_link: None,
            from: "192.0.2.1".parse().unwrap(),
            to: "192.0.2.2".parse().unwrap(),
            payload: Payload::Ports { protocol: Protocol::Tcp, from: 4000, to: 80 },
        };
        assert_eq!(read(&datagram, name), [dropped(DropReason::Refused), dropped(DropReason::Shut)]);
    }

    proptest! {
        #[test]
        fn no_log_is_too_odd_to_be_read(garbage: Vec<u8>, flips in prop::collection::vec((0..200_usize, any::<u8>()), 0..4), cut in 0..200_usize) {
            prop_assert_eq!(read(&garbage, name).len() * 32 <= garbage.len(), true);
            let mut datagram = [log("spoofed", &garbage), log("stray", SYN)].concat();
            for (at, bits) in flips {
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= bits;
                }
            }
            prop_assert!(read(&datagram, name).len() <= 2);
            let _ = read(datagram.get(..cut).unwrap_or_default(), name);
        }
    }
}
