//! Asking the agent: one connection, one line each way, bounded in time and size.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use serde::Deserialize;

use crate::error::{CniError, code, shorten};
use crate::wire::{Failure, MAX_REQUEST, MAX_RESPONSE, Outcome, PROTOCOL_VERSION, Reply, Request, Response};

/// How often an agent that is restarting is tried again.
const REDIAL: Duration = Duration::from_millis(10);

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To reach the agent; within this time an absent agent is tried again, for it may be starting.
    pub dial: Duration,
    /// The same where its socket is there and nobody listens: it ran, and may be being replaced.
    pub restart: Duration,
    /// From then on, until the whole answer is in.
    pub answer: Duration,
}

impl Limits {
    /// For everything but STATUS (interfaces.md section 6).
    pub const DEFAULT: Self = Self {
        dial: Duration::from_secs(2),
        restart: Duration::from_secs(2),
        answer: Duration::from_secs(45),
    };

    /// For STATUS: a runtime calls it every few seconds and holds a lock meanwhile, and the agent answers
    /// it from memory. No answer is an answer: not ready. Only an agent that is being replaced is waited for: when
    /// the node is said to be not ready, the cluster takes every pod of it out of service.
    pub const STATUS: Self = Self {
        dial: Duration::from_millis(200),
        restart: Duration::from_secs(10),
        answer: Duration::from_secs(2),
    };
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Nobody listens at the socket, for as long as was waited.
    #[error("flock-agent is not listening at {}: {source}; is it running?", socket.display())]
    Absent {
        /// The agent's socket.
        socket: PathBuf,
        /// What the system said last.
        #[source]
        source: io::Error,
    },
    /// Somebody listens but takes no connection.
    #[error("flock-agent at {} took no connection within {} ms", socket.display(), budget.as_millis())]
    Stuck {
        /// The agent's socket.
        socket: PathBuf,
        /// How long was waited.
        budget: Duration,
    },
    /// The system refuses the connection, and would again.
    #[error("cannot connect to flock-agent at {}: {source}", socket.display())]
    Connect {
        /// The agent's socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The request is longer than the agent accepts.
    #[error("the request to flock-agent has {bytes} bytes, more than the {MAX_REQUEST} it accepts")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The answer was not in on time.
    #[error("flock-agent did not answer within {} ms", budget.as_millis())]
    Timeout {
        /// How long was waited.
        budget: Duration,
    },
    /// The agent closed the connection before its answer was complete.
    #[error("flock-agent closed the connection before it answered; it may be restarting")]
    Gone,
    /// The agent speaks another version of the protocol.
    #[error(
        "flock-agent speaks version {theirs} of the plugin protocol, this plugin version {PROTOCOL_VERSION}; \
         install the plugin that belongs to the agent"
    )]
    Version {
        /// The agent's version.
        theirs: u64,
    },
    /// The answer makes no sense.
    #[error("flock-agent gave an answer that makes no sense: {reason}")]
    Garbage {
        /// What is wrong with it.
        reason: String,
    },
    /// The agent refuses.
    #[error("{}", .0.msg)]
    Refused(Failure),
}

impl RpcError {
    /// The CNI error code, one of [`code`].
    pub fn code(&self) -> u32 {
        match self {
            Self::Absent { .. } | Self::Stuck { .. } | Self::Timeout { .. } | Self::Gone => code::TRY_AGAIN,
            Self::Connect { .. } => code::IO_FAILURE,
            Self::TooLong { .. } => code::INVALID_CONFIG,
            Self::Version { .. } | Self::Garbage { .. } => code::WIRE,
            Self::Refused(failure) => failure.code,
        }
    }
}

impl From<RpcError> for CniError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Refused(failure) => failure.into(),
            other => Self::new(other.code(), &other.to_string()),
        }
    }
}

/// Sends `request` to the agent at `socket` and returns its good answer.
pub fn call(socket: &Path, request: &Request, limits: Limits) -> Result<Reply, RpcError> {
    let mut line =
        serde_json::to_vec(request).map_err(|error| RpcError::Garbage { reason: error.to_string() })?;
    line.push(b'\n');
    if line.len() > MAX_REQUEST {
        return Err(RpcError::TooLong { bytes: line.len() });
    }
    let netns = request.call.netns().and_then(open_netns);
    let stream = dial(socket, limits)?;
    decode(&exchange(&stream, &line, netns.as_ref(), limits.answer)?)
}

/// A namespace that cannot be opened is for the agent to complain about.
fn open_netns(path: &str) -> Option<File> {
    // Non-blocking, so that a path to a pipe does not hang.
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()
}

/// Connects, and tries again for as long as a restart of the agent may explain the failure.
fn dial(socket: &Path, limits: Limits) -> Result<UnixStream, RpcError> {
    let start = Instant::now();
    let mut ran = false;
    loop {
        let errno = match connect_at_once(socket) {
            Ok(stream) => return Ok(stream),
            Err(errno) => errno,
        };
        // When it is back it makes its socket anew: for a moment there is none.
        ran |= errno == Errno::ECONNREFUSED;
        let budget = if ran { limits.restart } else { limits.dial };
        let passing = matches!(errno, Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN | Errno::EINTR);
        if passing && start.elapsed() + REDIAL < budget {
            thread::sleep(REDIAL);
            continue;
        }
        let socket = socket.to_owned();
        return Err(match errno {
            Errno::EAGAIN => RpcError::Stuck { socket, budget },
            _ if passing => RpcError::Absent { socket, source: errno.into() },
            _ => RpcError::Connect { socket, source: errno.into() },
        });
    }
}

/// Connects without waiting: `EAGAIN` when the backlog is full. The standard library can only connect with
/// waiting, and waits without end for an agent that is stopped.
fn connect_at_once(path: &Path) -> nix::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let stream: UnixStream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None)?.into();
    let set_nonblocking = |on| stream.set_nonblocking(on).map_err(|_| Errno::EIO);
    set_nonblocking(true)?;
    connect(stream.as_raw_fd(), &address)?;
    set_nonblocking(false)?;
    Ok(stream)
}

/// Writes the request, the open file with its first bytes, and reads one line, without its end.
fn exchange(
    mut stream: &UnixStream,
    line: &[u8],
    mut file: Option<&File>,
    budget: Duration,
) -> Result<Vec<u8>, RpcError> {
    let start = Instant::now();
    // A peer that takes or gives a byte now and then must not stretch the budget, so each call gets what is
    // left of it. Zero would mean "for ever" to the system.
    let left = || match budget.saturating_sub(start.elapsed()) {
        Duration::ZERO => Err(RpcError::Timeout { budget }),
        left => Ok(Some(left)),
    };
    let mut rest = line;
    while !rest.is_empty() {
        stream.set_write_timeout(left()?).map_err(|_| RpcError::Gone)?;
        match write(stream, rest, file) {
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                file = None;
            }
            Err(error) if passing(&error) => {}
            // An agent that has heard enough may have said why before it hung up.
            Err(_) => break,
        }
    }
    let mut answer = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        stream.set_read_timeout(left()?).map_err(|_| RpcError::Gone)?;
        let read = match stream.read(&mut chunk) {
            Ok(0) => return Err(RpcError::Gone),
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(error) if passing(&error) => continue,
            Err(_) => return Err(RpcError::Gone),
        };
        let end = read.iter().position(|byte| *byte == b'\n');
        answer.extend_from_slice(read.get(..end.unwrap_or(read.len())).unwrap_or_default());
        if answer.len() >= MAX_RESPONSE {
            return Err(RpcError::Garbage { reason: format!("it has more than {MAX_RESPONSE} bytes") });
        }
        if end.is_some() {
            return Ok(answer);
        }
    }
}

/// Writes some of it, and a file along with that.
fn write(mut stream: &UnixStream, bytes: &[u8], file: Option<&File>) -> io::Result<usize> {
    let Some(file) = file else { return stream.write(bytes) };
    let file = [file.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&file)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &control, flags, None)?)
}

/// Nothing happened yet; the budget decides how often to go on.
fn passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Reads the answer. The version comes first: another version may have another form.
fn decode(line: &[u8]) -> Result<Reply, RpcError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let garbage = |error: serde_json::Error| RpcError::Garbage { reason: shorten(&error.to_string()) };
    let Versioned { version: theirs } = serde_json::from_slice(line).map_err(garbage)?;
    if theirs != u64::from(PROTOCOL_VERSION) {
        return Err(RpcError::Version { theirs });
    }
    match serde_json::from_slice::<Response>(line).map_err(garbage)?.outcome {
        Outcome::Ok(reply) => Ok(reply),
        Outcome::Error(failure) => Err(RpcError::Refused(failure)),
    }
}
