//! The control socket, one typed command at a time.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use flock_core::ports::{PeerStatus, RoutingError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::codec::{Decoder, Reply};
use crate::path::ConfPath;
use crate::protocols;

/// A connection to BIRD. After an error, or a command that was not awaited to its end, it is of no use: the
/// next reply might belong to an earlier command. Every later command then fails; connect again.
#[derive(Debug)]
pub struct Client {
    socket: String,
    stream: UnixStream,
    decoder: Decoder,
    patience: Duration,
    usable: bool,
}

/// The daemon as `show status` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Name and version, such as `BIRD 2.0.12`.
    pub version: String,
    /// What it is doing.
    pub state: DaemonState,
}

/// What BIRD is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonState {
    /// Up and running, with the last configuration it was given.
    Running,
    /// Still on its way to a new configuration. BIRD 3 must not be given another one now: it aborts.
    Reconfiguring,
    /// On its way down.
    ShuttingDown,
}

/// How far BIRD is with a configuration it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configured {
    /// It runs it.
    Done,
    /// It is on its way to it; [`Client::settled`] waits for the end.
    InProgress,
}

#[derive(Clone, Copy)]
enum Command<'a> {
    Greeting,
    Check(&'a ConfPath),
    Configure,
    Status,
    Protocols,
    GracefulRestart,
    Down,
}

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Greeting => f.write_str("greeting"),
            Self::Check(path) => write!(f, "configure check \"{path}\""),
            Self::Configure => f.write_str("configure"),
            Self::Status => f.write_str("show status"),
            Self::Protocols => f.write_str("show protocols all"),
            Self::GracefulRestart => f.write_str("graceful restart"),
            Self::Down => f.write_str("down"),
        }
    }
}

impl Client {
    /// Connects and takes the greeting. `patience` bounds this, and then each command by itself.
    pub async fn connect(socket: &Path, patience: Duration) -> Result<Self, RoutingError> {
        let socket_name = socket.display().to_string();
        let unreachable = |source| RoutingError::Unreachable { socket: socket_name.clone(), source };
        let connected = timeout(patience, UnixStream::connect(socket)).await;
        let stream = connected.map_err(|_| timed_out("connect", patience))?.map_err(unreachable)?;
        let mut client =
            Self { socket: socket_name, stream, decoder: Decoder::default(), patience, usable: true };
        let greeting = client.ask(Command::Greeting).await?;
        match greeting.last.code {
            1 => Ok(client),
            _ => Err(not_understood(Command::Greeting, &greeting)),
        }
    }

    /// Has BIRD parse a file without taking it over. A file it does not take is
    /// [`Refused`](RoutingError::Refused).
    pub async fn check(&mut self, file: &ConfPath) -> Result<(), RoutingError> {
        let command = Command::Check(file);
        let reply = self.ask(command).await?;
        match reply.last.code {
            20 => Ok(()),
            8002 => Err(RoutingError::Refused { message: reply.last.text }),
            _ => Err(not_understood(command, &reply)),
        }
    }

    /// Has BIRD take over the configuration file it was started with. To be called only while it
    /// [runs](DaemonState::Running). A file it does not take is [`Refused`](RoutingError::Refused), and the
    /// configuration before stays in force.
    pub async fn configure(&mut self) -> Result<Configured, RoutingError> {
        let reply = self.ask(Command::Configure).await?;
        match reply.last.code {
            3 => Ok(Configured::Done),
            4 | 5 => Ok(Configured::InProgress),
            6 => Err(self.going_down()),
            8002 => Err(RoutingError::Refused { message: reply.last.text }),
            _ => Err(not_understood(Command::Configure, &reply)),
        }
    }

    /// Version and state of the daemon.
    pub async fn daemon(&mut self) -> Result<Daemon, RoutingError> {
        let reply = self.ask(Command::Status).await?;
        let version = reply.iter().find(|line| line.code == 1000).map(|line| line.text.clone());
        let state = match (reply.last.code, reply.last.text.as_str()) {
            (13, "Daemon is up and running") => Some(DaemonState::Running),
            (13, "Reconfiguration in progress") => Some(DaemonState::Reconfiguring),
            (13, "Shutdown in progress") => Some(DaemonState::ShuttingDown),
            _ => None,
        };
        match (version, state) {
            (Some(version), Some(state)) => Ok(Daemon { version, state }),
            _ => Err(not_understood(Command::Status, &reply)),
        }
    }

    /// Waits until BIRD is [running](DaemonState::Running) and not on its way to another configuration, at
    /// most `patience`.
    pub async fn settled(&mut self, patience: Duration) -> Result<Daemon, RoutingError> {
        let running = async {
            let mut pause = Duration::from_millis(2);
            loop {
                let daemon = self.daemon().await?;
                match daemon.state {
                    DaemonState::Running => return Ok(daemon),
                    DaemonState::ShuttingDown => return Err(self.going_down()),
                    DaemonState::Reconfiguring => {}
                }
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        };
        let waited = timeout(patience, running).await;
        waited.unwrap_or_else(|_| Err(timed_out("configure", patience)))
    }

    /// The sessions of flock, in the order of their addresses.
    pub async fn sessions(&mut self) -> Result<Vec<PeerStatus>, RoutingError> {
        let reply = self.ask(Command::Protocols).await?;
        let sessions = if reply.last.code == 0 { protocols::sessions(&reply) } else { None };
        sessions.ok_or_else(|| not_understood(Command::Protocols, &reply))
    }

    /// Has BIRD end so that its peers keep the routes until it is back (RFC 4724). It goes a moment after
    /// it answered.
    pub async fn graceful_restart(&mut self) -> Result<(), RoutingError> {
        self.end(Command::GracefulRestart, 25).await
    }

    /// Has BIRD end for good: its peers drop the routes at once. It goes a moment after it answered.
    pub async fn down(&mut self) -> Result<(), RoutingError> {
        self.end(Command::Down, 7).await
    }

    async fn end(&mut self, command: Command<'_>, granted: u16) -> Result<(), RoutingError> {
        let reply = self.ask(command).await?;
        if reply.last.code == granted { Ok(()) } else { Err(not_understood(command, &reply)) }
    }

    async fn ask(&mut self, command: Command<'_>) -> Result<Reply, RoutingError> {
        if !std::mem::replace(&mut self.usable, false) {
            let reason = "an earlier command on this connection did not end well";
            return Err(self.unreachable(io::Error::new(io::ErrorKind::NotConnected, reason)));
        }
        let patience = self.patience;
        let reply = timeout(patience, self.exchange(command)).await;
        let reply = reply.unwrap_or_else(|_| Err(timed_out(command, patience)))?;
        self.usable = true;
        Ok(reply)
    }

    async fn exchange(&mut self, command: Command<'_>) -> Result<Reply, RoutingError> {
        if !matches!(command, Command::Greeting) {
            let line = format!("{command}\n");
            self.stream.write_all(line.as_bytes()).await.map_err(|source| self.unreachable(source))?;
        }
        let garbage = |reply: String| RoutingError::Protocol { command: command.to_string(), reply };
        let mut buffer = Vec::with_capacity(4096);
        loop {
            if let Some(reply) = self.decoder.pop() {
                let reply = reply.map_err(|error| garbage(error.to_string()))?;
                // One command, one reply: what else came could only be taken for the next one's.
                return if self.decoder.is_empty() {
                    Ok(reply)
                } else {
                    Err(garbage("several replies".to_owned()))
                };
            }
            match self.stream.read_buf(&mut buffer).await {
                Ok(0) => return Err(self.unreachable(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => self.decoder.feed(&buffer),
                Err(source) => return Err(self.unreachable(source)),
            }
            buffer.clear();
        }
    }

    fn going_down(&self) -> RoutingError {
        self.unreachable(io::Error::new(io::ErrorKind::NotConnected, "it is shutting down"))
    }

    fn unreachable(&self, source: io::Error) -> RoutingError {
        RoutingError::Unreachable { socket: self.socket.clone(), source }
    }
}

fn timed_out(command: impl fmt::Display, patience: Duration) -> RoutingError {
    // A person reads it: at least one second, rather than none.
    RoutingError::Timeout { command: command.to_string(), seconds: patience.as_secs().max(1) }
}

fn not_understood(command: Command<'_>, reply: &Reply) -> RoutingError {
    let last = format!("{:04} {}", reply.last.code, reply.last.text);
    RoutingError::Protocol { command: command.to_string(), reply: last.chars().take(200).collect() }
}
