use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ipnet::IpNet;

use super::Retry;
use crate::ids::{AttachmentId, IfName, PodKey, PodUid};
use crate::ipam::Addresses;
use crate::route::{ObservedRoute, RouteDiff, RouteProtocol, RouteSet};

/// The kernel's links, addresses, neighbours and routes.
#[async_trait]
pub trait Netlink: Send + Sync {
    /// Makes this attachment exist: the veth pair, addresses, permanent neighbours, the pod's default
    /// routes and the host routes, anycast addresses on the pod's `lo`. The same spec twice is a no-op; a leftover that differs is replaced.
    /// On an error nothing of the attachment is left.
    async fn attach(&self, link: &PodLink) -> Result<LinkState, NetlinkError>;

    /// Takes the attachment out of service: its routes and neighbours are gone, the groups it was in go on
    /// without it (the last member takes the route along) and the link is down when this returns; the link itself may go a moment later. Absent is success.
    async fn detach(&self, attachment: &AttachmentId) -> Result<(), NetlinkError>;

    /// The same for a link that does not say whose it is. When it does by now, or is gone, or another one has
    /// taken its name, nothing happens, and that is success.
    async fn discard(&self, nameless: &HostLink) -> Result<(), NetlinkError>;

    /// What the kernel has of this attachment; the pod's side too where `netns` is given and exists.
    async fn inspect(
        &self,
        attachment: &AttachmentId,
        netns: Option<NetnsPath>,
    ) -> Result<Option<LinkState>, NetlinkError>;

    /// Every attachment, rebuilt from the kernel alone, in the order of their IDs. Host side only. Links
    /// already on their way out (after a detach) are not among them.
    async fn attachments(&self) -> Result<Vec<LinkState>, NetlinkError>;

    /// Gives links back what they lost when somebody set them down and up again, and says which there are, in the
    /// order of their names. Links on their way out are not among them.
    async fn tend_links(&self) -> Result<LinksTended, NetlinkError>;

    /// Which of these lead to no network namespace a pod can be in (any more). Only what is certain: a path that
    /// cannot be followed now may be good again. Takes no longer than a few seconds, on whatever file system they are.
    async fn gone(&self, netns: BTreeSet<NetnsPath>) -> Result<BTreeSet<NetnsPath>, NetlinkError>;

    /// Makes the routes of our protocol numbers what `desired` says, and returns what was changed. The
    /// kernel is read first and `desired` is called after that: a route written in between by an attach
    /// is then wanted, not stale. Ways through a link that is gone are left out: they come back with it.
    ///
    /// One call runs at a time, and a detach that has groups to leave waits for it: `desired` must not wait
    /// for either.
    async fn sync_routes(&self, desired: DesiredRoutes<'_>) -> Result<RouteDiff, NetlinkError>;

    /// Sets the kernel up for forwarding (interfaces.md section 11), idempotent. Returns what an operator should
    /// know: what was repaired, best-effort ones that this kernel refuses; the latter once.
    async fn prepare_node(&self) -> Result<Vec<String>, NetlinkError>;

    /// The node's own addresses and its uplink.
    async fn node(&self) -> Result<NodeFacts, NetlinkError>;
}

/// Asked for the wanted routes once the kernel's have been read. It is told what those are, in the kernel's
/// order for each place, since something is decided by them: a pod that is no longer eligible keeps the
/// membership it has, so that its open flows drain, but does not gain one.
pub type DesiredRoutes<'a> = &'a (dyn Fn(&[ObservedRoute]) -> RouteSet + Send + Sync);

/// Path of a network namespace, such as `/run/netns/x` or `/proc/1/ns/net`. Absolute, at most 4095
/// bytes, no NUL; whether it is one is the kernel's to say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetnsPath(String);

impl NetnsPath {
    /// Parses a path.
    pub fn parse(path: &str) -> Result<Self, String> {
        let reason = if !path.starts_with('/') {
            "must be an absolute path"
        } else if path.len() > 4095 {
            "is longer than the 4095 bytes a path may have"
        } else if path.contains('\0') {
            "may not hold a NUL"
        } else {
            return Ok(Self(path.to_owned()));
        };
        let shown: String = path.chars().take(80).collect();
        Err(format!("network namespace {shown:?} {reason}"))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for NetnsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NetnsPath {
    type Error = String;
    fn try_from(path: String) -> Result<Self, String> {
        Self::parse(&path)
    }
}

impl From<NetnsPath> for String {
    fn from(path: NetnsPath) -> String {
        path.0
    }
}

impl From<NetnsPath> for PathBuf {
    fn from(path: NetnsPath) -> PathBuf {
        path.0.into()
    }
}

/// Whose link it is. Kept in the alias of the host veth, so that an agent without a state file still
/// knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkIdentity {
    /// The attachment.
    pub attachment: AttachmentId,
    /// Namespace and name, where the runtime gave them (and they fit the alias).
    pub pod: Option<PodKey>,
    /// The pod's UID, where the runtime gave it.
    pub uid: Option<PodUid>,
    /// The addresses in the CNI result.
    pub addresses: Addresses,
    /// There are further addresses: the routes of our protocols through the link say which.
    pub more: bool,
}

/// What an attachment should look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// Whose it is, and its addresses.
    pub identity: LinkIdentity,
    /// The pod's network namespace.
    pub netns: NetnsPath,
    /// MTU of both ends in bytes, 1280 (the IPv6 minimum, RFC 8200 section 5) to 65535.
    pub mtu: u32,
    /// Further addresses of the pod's interface.
    pub extra: Vec<IpAddr>,
    /// Addresses on the pod's `lo`, shared with other pods. Their routes are for
    /// [`sync_routes`](Netlink::sync_routes) to write.
    pub anycast: Vec<IpAddr>,
    /// The `loopback` plugin runs at the same time: `lo` has to have no other addresses than its own until it is done.
    pub loopback_runs: bool,
    /// Addresses whose host route is announced; that of any other is quiet.
    pub announced: BTreeSet<IpAddr>,
}

impl PodLink {
    /// Every address of the pod's interface: those of the CNI result, then the extra ones.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.identity.addresses.iter().chain(self.extra.iter().copied())
    }

    /// Protocol of the host route to `address`.
    pub fn protocol_of(&self, address: IpAddr) -> RouteProtocol {
        if self.announced.contains(&address) { RouteProtocol::Announce } else { RouteProtocol::Quiet }
    }
}

/// A hardware address.
pub type Mac = [u8; 6];

/// The host's end of the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSide {
    /// Name of the veth.
    pub ifname: IfName,
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Routes of our protocol numbers that lead through it; those of groups are not among them. In the answers of
    /// `attachments` only where there are more addresses than the identity names: it would have to look at
    /// every route.
    pub routes: Vec<ObservedRoute>,
    /// Addresses with a permanent neighbour entry on it. Filled by `inspect` and `attach`.
    pub neighbours: Vec<IpAddr>,
    /// Has `fe80::1`, the pods' gateway.
    pub has_gateway: bool,
    /// The anycast addresses flock put on the pod's `lo`, in order. They are noted on the host's end, since
    /// whoever is root in a pod can put what they like on its `lo`.
    pub anycast: Vec<IpAddr>,
}

/// The pod's end of the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSide {
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Addresses on it, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// Addresses on the pod's `lo`, its own and link-local ones left out.
    pub anycast: Vec<IpNet>,
    /// Gateways of the default routes through it.
    pub gateways: Vec<IpAddr>,
    /// Addresses with a permanent neighbour entry on it.
    pub neighbours: Vec<IpAddr>,
}

/// An attachment as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// From the alias; `None` when it is missing or unreadable (a crash between two messages).
    pub identity: Option<LinkIdentity>,
    /// The host's end.
    pub host: HostSide,
    /// The pod's end, where it was looked at and found.
    pub pod: Option<PodSide>,
}

/// A host veth, as far as its name and its alias tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostLink {
    /// Its name.
    pub ifname: IfName,
    /// Its index: another link that takes the name has another.
    pub ifindex: u32,
    /// Whose it is; `None` when the alias is missing or unreadable.
    pub attachment: Option<AttachmentId>,
}

/// A look at the links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinksTended {
    /// Those there are.
    pub links: Vec<HostLink>,
    /// What was repaired, or could not be.
    pub notices: Vec<String>,
}

/// An address of the node itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The interface.
    pub ifname: IfName,
    /// Address and prefix length.
    pub address: IpNet,
    /// Not there to stay: temporary or deprecated (IPv6), or secondary (IPv4), as one that moves between nodes is.
    pub passing: bool,
}

/// What flock wants to know of the node it runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Global addresses of all interfaces but the pods' (loopback's own and link-local left out).
    pub addresses: Vec<InterfaceAddress>,
    /// The preferred source address towards the IPv4 default route, if there is one.
    pub primary4: Option<Ipv4Addr>,
    /// MTU in bytes of the interface of the default route (IPv6 first), if there is one.
    pub uplink_mtu: Option<u32>,
    /// kube-proxy runs in IPVS mode, which its interface `kube-ipvs0` shows.
    pub ipvs: bool,
}

/// Why the kernel could not do it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The pod's network namespace is gone or is not one.
    #[error("network namespace {path} cannot be entered: {source}")]
    Netns {
        /// The namespace.
        path: NetnsPath,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The pod already has an interface of that name that is not ours to replace.
    #[error("interface {ifname} already exists in network namespace {path}")]
    InterfaceExists {
        /// The interface asked for.
        ifname: IfName,
        /// The namespace.
        path: NetnsPath,
    },
    /// The host veth of this name belongs to another attachment (two IDs with one 32-bit hash).
    #[error("link {ifname} belongs to attachment {other}: the names of both hash to the same link name")]
    NameTaken {
        /// The link.
        ifname: IfName,
        /// Its owner.
        other: AttachmentId,
    },
    /// The kernel refused a step.
    #[error("kernel refused to {step}: {source}")]
    Kernel {
        /// What was asked, such as `create veth pair`.
        step: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel's answer was not understood.
    #[error("kernel gave an answer to {step} that flock does not understand: {detail}")]
    Protocol {
        /// What was asked.
        step: &'static str,
        /// What is wrong with the answer.
        detail: String,
    },
    /// A pool is a network the node is on itself.
    #[error(
        "{pool} is a network of the node itself, and the route of a pool would take the node off it: use another prefix"
    )]
    OwnNetwork {
        /// The pool.
        pool: IpNet,
    },
}

impl NetlinkError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        use std::io::ErrorKind;
        match self {
            Self::Netns { .. } | Self::InterfaceExists { .. } | Self::NameTaken { .. } => Retry::Never,
            Self::Kernel { source, .. } => match source.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock => Retry::Now,
                ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported => {
                    Retry::Never
                }
                _ => Retry::Later,
            },
            Self::Protocol { .. } | Self::OwnNetwork { .. } => Retry::Later,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Netns { .. } => "netns",
            Self::InterfaceExists { .. } => "interface_exists",
            Self::NameTaken { .. } => "name_taken",
            Self::Kernel { .. } => "kernel",
            Self::Protocol { .. } => "netlink_protocol",
            Self::OwnNetwork { .. } => "own_network",
        }
    }
}
