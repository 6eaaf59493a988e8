use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;

use super::Retry;

/// The routing daemon: told who its peers are, asked how they do. What it announces it reads from the
/// kernel's routes.
#[async_trait]
pub trait Routing: Send + Sync {
    /// Makes the daemon run this configuration. Unchanged means nothing is written and nobody is asked.
    /// Safe to call again after any error.
    async fn apply(&self, config: &RoutingConfig) -> Result<Applied, RoutingError>;

    /// Sessions as the daemon reports them.
    async fn status(&self) -> Result<RoutingStatus, RoutingError>;
}

/// What the daemon should run: everything that ends up in bird.conf and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingConfig {
    /// BGP identifier (RFC 4271 section 4.2), never 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// Our autonomous system number, 1 to 4294967294 (RFC 6793).
    pub asn: u32,
    /// The peers; order does not matter.
    pub peers: Vec<RoutingPeer>,
    /// Whether the node has IPv6 pools, and so anything to announce in that family.
    pub ipv6: bool,
    /// The same for IPv4.
    pub ipv4: bool,
}

/// One BGP neighbour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingPeer {
    /// Its address; unique among the peers.
    pub address: IpAddr,
    /// Its autonomous system number.
    pub asn: u32,
    /// Our end of the session: an address of ours on the peer's subnet. `None` leaves it to the daemon.
    pub local: Option<IpAddr>,
}

/// What an [`apply`](Routing::apply) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The daemon already runs this text.
    Unchanged,
    /// The daemon has taken a new text over.
    Reconfigured,
}

/// The daemon and its sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoutingStatus {
    /// Name and version, such as `BIRD 2.0.12`.
    pub daemon: String,
    /// One per configured peer, in the order of their addresses.
    pub peers: Vec<PeerStatus>,
}

/// State of a BGP session (RFC 4271 section 8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum PeerState {
    /// Not trying.
    Idle,
    /// Waiting for the transport connection.
    Connect,
    /// Listening for the peer to connect.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN received and good.
    OpenConfirm,
    /// Up.
    Established,
    /// Administratively or otherwise down, or a word flock does not know.
    Down,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeerStatus {
    /// The neighbour.
    pub peer: IpAddr,
    /// Where the session is.
    pub state: PeerState,
    /// When it got there, as the daemon prints it.
    pub since: String,
    /// The last error the daemon reports, if any.
    pub last_error: Option<String>,
    /// Routes taken from the peer, all families.
    pub imported: u64,
    /// Routes announced to the peer, all families.
    pub exported: u64,
}

impl PeerStatus {
    /// Of a peer nothing is known of.
    pub(crate) fn unknown(peer: IpAddr) -> Self {
        let since = String::new();
        Self { peer, state: PeerState::Down, since, last_error: None, imported: 0, exported: 0 }
    }
}

/// Why the daemon does not do as told.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The control socket does not answer.
    #[error("routing daemon is not reachable at {socket}: {source}")]
    Unreachable {
        /// The control socket.
        socket: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The daemon did not answer in time.
    #[error("routing daemon did not answer {command:?} within {seconds} s")]
    Timeout {
        /// What was asked.
        command: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The daemon refuses the configuration; the one it runs stays in force.
    #[error("routing daemon refuses the configuration: {message}")]
    Refused {
        /// File, line and reason as the daemon prints them.
        message: String,
    },
    /// The configuration cannot be rendered.
    #[error("routing configuration is not possible: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// The configuration file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The daemon says something flock does not understand.
    #[error("routing daemon gave an answer to {command:?} that flock does not understand: {reply:?}")]
    Protocol {
        /// What was asked.
        command: String,
        /// The answer, shortened.
        reply: String,
    },
}

impl RoutingError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { .. } | Self::Invalid { .. } => Retry::Never,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Write { .. } | Self::Protocol { .. } => {
                Retry::Later
            }
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "bird_unreachable",
            Self::Timeout { .. } => "bird_timeout",
            Self::Refused { .. } => "bird_refused",
            Self::Invalid { .. } => "bird_invalid",
            Self::Write { .. } => "bird_write",
            Self::Protocol { .. } => "bird_protocol",
        }
    }
}
