//! A route netlink socket. The kernel executes requests inside `sendmsg` and the answers are in the
//! receive queue when it returns, so nothing here waits: many requests go out in one send, then one
//! acknowledgement per request is read.

use std::io;

use flock_core::ports::NetlinkError;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use rtnetlink::packet_core::{
    Emitable as _, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::nexthop;
use crate::reply::{Message, messages};

/// Room for the description of one object, or for an acknowledgement that quotes the request.
const BUFFER: usize = 8 << 10;

/// The kernel never puts more than 32 KiB into one datagram of a dump.
const DUMP_BUFFER: usize = 64 << 10;

/// The kernel takes some 200 KiB in one send; a batch may have more, if its requests list many next hops.
const SEND_AT_ONCE: usize = 64 << 10;

/// How often an interrupted dump is started over. One interruption needs a change in the middle of it.
const DUMP_ATTEMPTS: usize = 20;

/// One request and what it is called in an error.
#[derive(Debug)]
pub(crate) struct Request {
    /// Completes "kernel refused to ...".
    pub(crate) step: &'static str,
    /// `NLM_F_*` on top of request and acknowledgement.
    pub(crate) flags: u16,
    /// The request.
    pub(crate) message: Body,
}

/// What a request is about.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Everything the netlink library knows.
    Route(Box<RouteNetlinkMessage>),
    /// A nexthop object, which it does not.
    Nexthop(nexthop::Message),
}

impl From<RouteNetlinkMessage> for Body {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(Box::new(message))
    }
}

impl From<Body> for NetlinkPayload<Body> {
    fn from(message: Body) -> Self {
        Self::InnerMessage(message)
    }
}

impl NetlinkSerializable for Body {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::Nexthop(message) => message.kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => NetlinkSerializable::buffer_len(message.as_ref()),
            Self::Nexthop(message) => message.buffer_len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::Nexthop(message) => message.emit(buffer),
        }
    }
}

/// A refusal with the kernel's own words (extended acknowledgement).
#[derive(Debug, thiserror::Error)]
#[error("{}: {text}", errno.desc())]
struct Explained {
    errno: Errno,
    text: String,
}

/// The error number behind a refusal.
pub(crate) fn errno(error: &NetlinkError) -> Option<Errno> {
    let NetlinkError::Kernel { source, .. } = error else { return None };
    let explained = source.get_ref().and_then(|inner| inner.downcast_ref::<Explained>());
    explained.map(|inner| inner.errno).or_else(|| source.raw_os_error().map(Errno::from_raw))
}

/// Something the system refused outside of netlink.
pub(crate) fn refused(step: &'static str) -> impl Fn(Errno) -> NetlinkError {
    move |errno| NetlinkError::Kernel { step, source: errno.into() }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> NetlinkError {
    move |source| NetlinkError::Kernel { step, source }
}

/// A socket in the network namespace of the thread that opened it, wherever that thread goes later.
pub(crate) struct Conn {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
    room: usize,
}

impl Conn {
    /// For single requests and batches of at most a few dozen.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        const STEP: &str = "open a netlink socket";
        let socket = Socket::new(NETLINK_ROUTE).map_err(failed(STEP))?;
        // Kernels before 4.12 do not explain themselves.
        if let Err(error) = socket.set_ext_ack(true) {
            tracing::debug!(%error, "no extended netlink errors");
        }
        Ok(Self { socket, sequence: 0, buffer: Vec::new(), room: BUFFER })
    }

    /// Also for dumps with filters and batches of up to [`BATCH`](Self::BATCH).
    pub(crate) fn open_for_dumps() -> Result<Self, NetlinkError> {
        let mut conn = Self::open()?;
        conn.prepare_for_dumps()?;
        Ok(conn)
    }

    /// Makes a connection do for dumps. The kernel filters since 4.20; before, it sends everything and the
    /// reader sorts it out.
    pub(crate) fn prepare_for_dumps(&mut self) -> Result<(), NetlinkError> {
        if let Err(error) = self.socket.set_netlink_get_strict_chk(true) {
            tracing::debug!(%error, "no filtered netlink dumps");
        }
        self.room = DUMP_BUFFER;
        // One refusal per request of a full batch must fit; an answer that does not would be lost. So it
        // does not quote the request either (Linux 4.3).
        if let Err(error) = self.socket.set_cap_ack(true) {
            tracing::debug!(%error, "netlink errors quote requests");
        }
        setsockopt(&self.socket, sockopt::RcvBufForce, &(1 << 20))
            .map_err(refused("enlarge the buffer of a netlink socket"))
    }

    /// Most requests in one [`run`](Self::run).
    pub(crate) const BATCH: usize = 256;

    /// Sends all requests; returns those that were refused, by position. The kernel goes on
    /// after a refused one.
    pub(crate) fn run(&mut self, batch: Vec<Request>) -> Result<Vec<(usize, NetlinkError)>, NetlinkError> {
        let steps: Vec<&'static str> = batch.iter().map(|request| request.step).collect();
        let Some(first_step) = steps.first() else { return Ok(Vec::new()) };
        let mut bytes = Vec::with_capacity(128 * batch.len());
        let first = self.sequence.wrapping_add(1);
        for request in batch {
            self.sequence = self.sequence.wrapping_add(1);
            serialise(&mut bytes, self.sequence, request.flags | NLM_F_ACK, request.message);
            if bytes.len() > SEND_AT_ONCE {
                self.send(&bytes, first_step)?;
                bytes.clear();
            }
        }
        if !bytes.is_empty() {
            self.send(&bytes, first_step)?;
        }
        let mut refusals = Vec::new();
        let mut answered = 0;
        while let Some(awaited) = steps.get(answered) {
            let buffer = self.receive(awaited)?;
            for message in messages(&buffer) {
                let at = message.sequence.wrapping_sub(first) as usize;
                let (Some(step), Some(outcome)) = (steps.get(at), message.outcome()) else { continue };
                answered += 1;
                if let Some(errno) = outcome.errno {
                    refusals.push((at, explain(step, errno, outcome.text)));
                }
            }
            self.buffer = buffer;
        }
        Ok(refusals)
    }

    /// Sends all requests at once; the first refusal is the error.
    pub(crate) fn run_all(&mut self, batch: Vec<Request>) -> Result<(), NetlinkError> {
        self.run(batch)?.into_iter().next().map_or(Ok(()), |(_, refusal)| Err(refusal))
    }

    /// Asks for one object.
    pub(crate) fn get<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut found = None;
        self.ask(request, NLM_F_ACK, &mut |message| found = read(message).or(found.take()))?;
        Ok(found)
    }

    /// Asks for all objects of a kind; starts over when the kernel says that they changed meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        read: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if !self.ask(request, NLM_F_DUMP, &mut |message| found.extend(read(message)))? {
                return Ok(found);
            }
        }
        Err(failed(request.step)(io::Error::from(io::ErrorKind::Interrupted)))
    }

    /// Sends one request and reads up to its end; true when what was read is not consistent.
    fn ask(
        &mut self,
        request: &Request,
        flags: u16,
        read: &mut dyn FnMut(&Message<'_>),
    ) -> Result<bool, NetlinkError> {
        let mut bytes = Vec::with_capacity(128);
        self.sequence = self.sequence.wrapping_add(1);
        serialise(&mut bytes, self.sequence, request.flags | flags, request.message.clone());
        self.send(&bytes, request.step)?;
        let mut interrupted = false;
        loop {
            let buffer = self.receive(request.step)?;
            let mut end = None;
            for message in messages(&buffer).filter(|message| message.sequence == self.sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.outcome() {
                    Some(outcome) => end = Some(outcome),
                    None => read(&message),
                }
            }
            let outcome = end.map(|outcome| (outcome.errno, outcome.text.map(str::to_owned)));
            self.buffer = buffer;
            match outcome {
                None => {}
                Some((None, _)) => return Ok(interrupted),
                Some((Some(errno), text)) => return Err(explain(request.step, errno, text.as_deref())),
            }
        }
    }

    fn send(&self, bytes: &[u8], step: &'static str) -> Result<(), NetlinkError> {
        match self.socket.send(bytes, 0) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(sent) => {
                Err(NetlinkError::Protocol { step, detail: format!("{sent} of {} bytes sent", bytes.len()) })
            }
            Err(source) => Err(failed(step)(source)),
        }
    }

    /// The next datagram of the kernel, in the connection's own buffer, to be given back.
    fn receive(&mut self, step: &'static str) -> Result<Vec<u8>, NetlinkError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.reserve(self.room);
        let flags = (MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC).bits();
        loop {
            buffer.clear();
            let (length, from) = self.socket.recv_from(&mut buffer, flags).map_err(|error| {
                if error.kind() == io::ErrorKind::WouldBlock {
                    return NetlinkError::Protocol { step, detail: "the answer is missing".to_owned() };
                }
                failed(step)(error)
            })?;
            if length > buffer.len() {
                return Err(NetlinkError::Protocol { step, detail: format!("{length} bytes in one answer") });
            }
            // Whoever is root in a pod may write to a socket there, but not as port 0, the kernel.
            if from.port_number() == SocketAddr::new(0, 0).port_number() {
                return Ok(buffer);
            }
        }
    }
}

fn serialise(bytes: &mut Vec<u8>, sequence: u32, flags: u16, message: Body) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.header.length as usize, 0);
    let (_, space) = bytes.split_at_mut(start);
    message.serialize(space);
}

fn explain(step: &'static str, errno: Errno, text: Option<&str>) -> NetlinkError {
    NetlinkError::Kernel { step, source: explained(errno, text) }
}

/// A refusal, with the kernel's own words where it has any.
pub(crate) fn explained(errno: Errno, text: Option<&str>) -> io::Error {
    match text {
        None => io::Error::from(errno),
        Some(text) => {
            io::Error::new(io::Error::from(errno).kind(), Explained { errno, text: text.to_owned() })
        }
    }
}
