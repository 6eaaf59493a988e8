//! As much of rtnetlink as it takes: many requests in one send, one answer.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// One request without its header: what it is for (for the error), type and flags, and its payload.
pub(crate) struct Request {
    pub(crate) step: &'static str,
    pub(crate) kind: u16,
    pub(crate) flags: i32,
    pub(crate) payload: Vec<u8>,
}

/// An attribute: length, type, value, padded to four bytes.
pub(crate) fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    // No value here comes near 64 KiB; if one did, the kernel would refuse the wrong length.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds attributes.
pub(crate) fn nest<const N: usize>(kind: u16, parts: &[Vec<u8>; N]) -> Vec<u8> {
    attr(kind, &parts.concat())
}

/// A connection to the network namespace this thread is in.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?))
    }

    /// Sends all requests at once; the kernel carries them out in order before the call returns. Only the
    /// last one asks for an acknowledgement: errors come unasked.
    pub(crate) fn transact(&self, requests: &[Request]) -> Result<(), String> {
        let mut batch = Vec::with_capacity(2048);
        for (sequence, request) in (0_u32..).zip(requests) {
            let last = sequence as usize + 1 == requests.len();
            let flags = libc::NLM_F_REQUEST | request.flags | if last { libc::NLM_F_ACK } else { 0 };
            let length = u32::try_from(request.payload.len() + 16).unwrap_or(u32::MAX);
            batch.extend(length.to_ne_bytes());
            batch.extend(request.kind.to_ne_bytes());
            batch.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
            batch.extend(sequence.to_ne_bytes());
            batch.extend([0; 4]);
            batch.extend(&request.payload);
        }
        let refused = |step: &str, error: io::Error| format!("kernel refused to {step}: {error}");
        let fd = self.0.as_raw_fd();
        send(fd, &batch, MsgFlags::empty()).map_err(|errno| refused("take the requests", errno.into()))?;
        loop {
            let mut answer = [0; 4096];
            let length =
                recv(fd, &mut answer, MsgFlags::empty()).map_err(|errno| refused("answer", errno.into()))?;
            let answer = answer.get(..length).unwrap_or_default();
            let (sequence, errno) =
                parse(answer).ok_or("kernel gave an answer that is no acknowledgement")?;
            let request = requests.get(sequence as usize).ok_or("kernel answered what was not asked")?;
            if errno != 0 {
                return Err(refused(request.step, io::Error::from_raw_os_error(-errno)));
            }
            if sequence as usize + 1 == requests.len() {
                return Ok(());
            }
        }
    }
}

/// Sequence number and error of an acknowledgement.
fn parse(answer: &[u8]) -> Option<(u32, i32)> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(answer.get(8..12)?.try_into().ok()?);
    let errno = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then_some((sequence, errno))
}
