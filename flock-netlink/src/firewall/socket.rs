//! A netfilter netlink socket. As with routes, the kernel works inside `sendmsg`, and when it returns all answers are
//! in the receive queue, except those of a dump, which the kernel goes on with as they are read.

use std::io;
use std::time::Duration;

use flock_core::ports::FirewallError;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR};
use rtnetlink::sys::SocketAddr;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::wire::{Attributes, Head, Messages};
use crate::conn::explained;
use crate::reply::{Message, messages};

/// The kernel never puts more than 32 KiB into one datagram of a dump.
const ROOM: usize = 64 << 10;

/// A transaction has to be sent in one piece; ten thousands of elements are one of megabytes. The memory is used only
/// while it is sent.
const SEND_BUFFER: usize = 64 << 20;

/// The kernel makes a message for every refused one of a batch.
const RECEIVE_BUFFER: usize = 1 << 20;

/// How often an interrupted dump is started over. One interruption needs a change in the middle of it.
const DUMP_ATTEMPTS: usize = 20;

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    /// Something is different.
    Changed,
    /// Everything was so already, and the generation is the same.
    Unchanged,
}

/// Bytes of the header of netfilter, in front of the attributes.
pub(super) const HEADER: usize = 4;

/// A socket in the network namespace of the thread that opened it.
pub(super) struct Socket {
    inner: rtnetlink::sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> FirewallError {
    move |source| FirewallError::Kernel { step, source }
}

impl Socket {
    pub(super) fn open() -> Result<Self, FirewallError> {
        const STEP: &str = "open a netfilter socket";
        let socket = rtnetlink::sys::Socket::new(NETLINK_NETFILTER).map_err(failed(STEP))?;
        // Kernels before 4.12 do not explain themselves.
        let explained = socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true));
        if let Err(error) = explained {
            tracing::debug!(%error, "no extended netlink errors");
        }
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)
            .and_then(|()| setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER))
            .map_err(|errno| failed(STEP)(errno.into()))?;
        Ok(Self { inner: socket, sequence: 0, buffer: Vec::with_capacity(ROOM) })
    }

    /// Sends one transaction, of which the last message but the end asks for an acknowledgement. The first refusal is
    /// the error; then nothing was done.
    pub(super) fn commit(
        &mut self,
        step: &'static str,
        mut batch: Messages,
    ) -> Result<Committed, FirewallError> {
        let (first, count) = self.number(&mut batch);
        self.send(&batch.bytes, step)?;
        let (mut refusal, mut done, mut committed) = (None, false, Committed::Unchanged);
        self.drain(step, |message| {
            if message.sequence.wrapping_sub(first) >= count {
                return;
            }
            match message.outcome() {
                None if message.kind == super::wire::NEWGEN => committed = Committed::Changed,
                None => {}
                Some(outcome) => match outcome.errno {
                    None => done = true,
                    Some(errno) => {
                        refusal.get_or_insert_with(|| explained(errno, outcome.text));
                    }
                },
            }
        })?;
        match refusal {
            Some(source) => Err(FirewallError::Kernel { step, source }),
            None if done => Ok(committed),
            None => Err(missing(step)),
        }
    }

    /// Sends requests that stand each for itself and answer only when they are refused. What is not there any more is
    /// no error; the first other refusal is. Returns how many were done.
    pub(super) fn run_each(
        &mut self,
        step: &'static str,
        mut requests: Messages,
    ) -> Result<usize, FirewallError> {
        if requests.count == 0 {
            return Ok(0);
        }
        let (first, count) = self.number(&mut requests);
        self.send(&requests.bytes, step)?;
        let (mut refusal, mut refused) = (None, 0);
        self.drain(step, |message| {
            let outcome = message.outcome().filter(|_| message.sequence.wrapping_sub(first) < count);
            let Some((errno, text)) = outcome.and_then(|outcome| Some((outcome.errno?, outcome.text))) else {
                return;
            };
            refused += 1;
            if errno != nix::errno::Errno::ENOENT {
                refusal.get_or_insert_with(|| explained(errno, text));
            }
        })?;
        match refusal {
            Some(source) => Err(FirewallError::Kernel { step, source }),
            None => Ok((count as usize).saturating_sub(refused)),
        }
    }

    /// Asks for one object; `None` when there is none.
    pub(super) fn get<T>(
        &mut self,
        step: &'static str,
        head: Head,
        fill: impl Fn(&mut Attributes),
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, FirewallError> {
        let mut found = None;
        let asked = self.ask(step, Head { flags: NLM_F_ACK, ..head }, &fill, &mut |message| {
            found = read(message).or(found.take());
        });
        match asked {
            Err(error) if super::is_missing(&error) => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(found),
        }
    }

    /// Asks for all objects of a kind and collects what is read of them; starts over when the kernel says that they
    /// changed meanwhile.
    pub(super) fn dump<T: Default>(
        &mut self,
        step: &'static str,
        head: Head,
        fill: impl Fn(&mut Attributes),
        read: impl Fn(&Message<'_>, &mut T),
    ) -> Result<T, FirewallError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = T::default();
            let head = Head { flags: NLM_F_DUMP, ..head };
            if !self.ask(step, head, &fill, &mut |message| read(message, &mut found))? {
                return Ok(found);
            }
        }
        Err(failed(step)(io::Error::from(io::ErrorKind::Interrupted)))
    }

    /// Sends one request and reads up to its end; true when what was read is not consistent.
    fn ask(
        &mut self,
        step: &'static str,
        head: Head,
        fill: &dyn Fn(&mut Attributes),
        read: &mut dyn FnMut(&Message<'_>),
    ) -> Result<bool, FirewallError> {
        let mut request = Messages::default();
        request.push(head, fill);
        let (sequence, _) = self.number(&mut request);
        self.send(&request.bytes, step)?;
        let mut interrupted = false;
        loop {
            let buffer = self.receive(step)?.ok_or_else(|| missing(step))?;
            let mut end = None;
            for message in messages(&buffer).filter(|message| message.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.outcome() {
                    Some(outcome) => end = Some(outcome.errno.map(|errno| explained(errno, outcome.text))),
                    None => read(&message),
                }
            }
            self.buffer = buffer;
            match end {
                None => {}
                Some(None) => return Ok(interrupted),
                Some(Some(source)) => return Err(failed(step)(source)),
            }
        }
    }

    /// Gives numbers to messages; returns the first, and how many there are.
    fn number(&mut self, messages: &mut Messages) -> (u32, u32) {
        let first = self.sequence.wrapping_add(1);
        messages.number(first);
        self.sequence = self.sequence.wrapping_add(messages.count);
        (first, messages.count)
    }

    fn send(&self, bytes: &[u8], step: &'static str) -> Result<(), FirewallError> {
        match self.inner.send(bytes, 0) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(sent) => {
                Err(FirewallError::Protocol { step, detail: format!("{sent} of {} bytes sent", bytes.len()) })
            }
            Err(source) => Err(failed(step)(source)),
        }
    }

    /// Reads everything that is there.
    fn drain(&mut self, step: &'static str, mut read: impl FnMut(&Message<'_>)) -> Result<(), FirewallError> {
        while let Some(buffer) = self.receive(step)? {
            messages(&buffer).for_each(|message| read(&message));
            self.buffer = buffer;
        }
        Ok(())
    }

    /// Sets how long [`wait`](Self::wait) waits.
    pub(super) fn set_patience(&self, patience: Duration) -> Result<(), FirewallError> {
        let patience = TimeVal::microseconds(i64::try_from(patience.as_micros()).unwrap_or(i64::MAX));
        setsockopt(&self.inner, sockopt::ReceiveTimeout, &patience)
            .map_err(|errno| failed("set a timeout")(errno.into()))
    }

    /// Waits for a datagram of the kernel, to be [given back](Self::give_back); `None` when there was none in time.
    pub(super) fn wait(&mut self, step: &'static str) -> Result<Option<Vec<u8>>, FirewallError> {
        self.receive_with(step, MsgFlags::MSG_TRUNC)
    }

    /// Takes a buffer back, to be used again.
    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        self.buffer = buffer;
    }

    /// The next datagram of the kernel, in the own buffer, to be given back; `None` when there is none.
    fn receive(&mut self, step: &'static str) -> Result<Option<Vec<u8>>, FirewallError> {
        self.receive_with(step, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)
    }

    fn receive_with(
        &mut self,
        step: &'static str,
        flags: MsgFlags,
    ) -> Result<Option<Vec<u8>>, FirewallError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.reserve(ROOM);
        loop {
            buffer.clear();
            let (length, from) = match self.inner.recv_from(&mut buffer, flags.bits()) {
                Ok(received) => received,
                // A signal ends a wait too.
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) =>
                {
                    self.buffer = buffer;
                    return Ok(None);
                }
                Err(error) => return Err(failed(step)(error)),
            };
            if length > buffer.len() {
                let detail = format!("{length} bytes in one answer");
                return Err(FirewallError::Protocol { step, detail });
            }
            // Any process may write to a socket, but only the kernel as port 0.
            if from.port_number() == SocketAddr::new(0, 0).port_number() {
                return Ok(Some(buffer));
            }
        }
    }
}

fn missing(step: &'static str) -> FirewallError {
    FirewallError::Protocol { step, detail: "the answer is missing".to_owned() }
}
