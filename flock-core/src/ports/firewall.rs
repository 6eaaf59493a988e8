use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use async_trait::async_trait;

use super::Retry;
use crate::ids::IfName;
use crate::policy::{Gate, Guard, Ruleset, Stamp, Update};

/// The packet filter of the node: one table of flock's own.
///
/// Calls may overlap; each is one transaction, an update at most [two](Update::in_two), and the kernel does them one after another. The caller sees to it that an
/// update is the difference to what is there.
#[async_trait]
pub trait Firewall: Send + Sync {
    /// Writes everything, in the place of whatever the table holds.
    async fn replace(&self, wanted: &Ruleset, stamp: Stamp) -> Result<(), FirewallError>;

    /// Makes the table what it has to become. An empty update sends nothing.
    async fn update(&self, update: &Update) -> Result<(), FirewallError>;

    /// Lets a pod send from its addresses, and shuts it where that is asked for, before its link exists. What is there
    /// already is fine. [`FirewallError::Missing`] without a table.
    async fn guard(&self, guard: &Guard) -> Result<(), FirewallError>;

    /// Forgets the flows from and to these addresses, whose pods are gone: the next owner of an address would inherit
    /// them. Returns how many there were.
    async fn forget(&self, addresses: &BTreeSet<IpAddr>) -> Result<usize, FirewallError>;

    /// Takes the stamps off all flows that carry another one than `current`, so that numbers can be used again.
    async fn forget_stamps(&self, current: Stamp) -> Result<(), FirewallError>;

    /// Whether somebody else has changed anything, in a few microseconds.
    async fn fingerprint(&self) -> Result<Fingerprint, FirewallError>;

    /// What the table holds; `None` where there is none.
    async fn observe(&self) -> Result<Option<Observed>, FirewallError>;

    /// What the table holds, as rules again; `None` without a table. Chains and lists of ports are known by their names, which
    /// stand for their content: of a chain that is unknown it is taken that it admits everything.
    async fn read(&self) -> Result<Option<(Ruleset, Option<Stamp>)>, FirewallError>;

    /// What the table says of each link it names, at a cost that grows with the pods of the node only. Empty without a table.
    async fn links(&self) -> Result<BTreeMap<IfName, ObservedLink>, FirewallError>;

    /// Packets dropped since the table was written, by reason.
    async fn counters(&self) -> Result<Counters, FirewallError>;
}

/// Changes when somebody else changes any table of the network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// The table of flock, by the number the kernel gave it; `None` where there is none.
    pub table: Option<u64>,
    /// Transactions of others so far, modulo 2^32.
    pub foreign: u32,
}

/// What the table holds, in numbers that can be compared with what was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The stamp its rules ask for; `None` where flows are not judged.
    pub stamp: Option<Stamp>,
    /// How many rules each chain has.
    pub chains: BTreeMap<String, u32>,
    /// How many elements each set and map has, and the sum of their digests.
    pub sets: BTreeMap<String, Digest>,
}

/// What the table says of one link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedLink {
    /// Addresses packets from the pod may have as their source.
    pub sources: BTreeSet<IpAddr>,
    /// Nothing passes.
    pub shut: bool,
    /// The chains that judge its flows, by name.
    pub chains: BTreeMap<Gate, String>,
}

/// Stands for the elements of a set, whatever their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many there are.
    pub count: u64,
    /// The sum of [`Digest::add`] each, modulo 2^64.
    pub sum: u64,
}

impl Digest {
    /// Takes one more element in, by the bytes of its key (and of the chain its verdict names).
    pub fn add(&mut self, key: &[u8], chain: &[u8]) {
        use std::hash::Hasher;
        let mut hasher = fnv::FnvHasher::default();
        hasher.write(key);
        hasher.write(b"/");
        hasher.write(chain);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// Packets dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// From an address that is not the pod's.
    pub spoofed: u64,
    /// From or to a pod that is shut.
    pub shut: u64,
    /// In the middle of a flow nobody knows, or invalid.
    pub stray: u64,
    /// Refused by a policy.
    pub refused: u64,
    /// Router advertisements, redirects and DHCP answers of a pod.
    pub forbidden: u64,
}

/// Why the firewall could not do it.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// There is no table: somebody has removed it, or it was never written.
    #[error("the nftables table inet flock is not there")]
    Missing,
    /// The kernel refused a step.
    #[error("kernel refused to {step}: {source}")]
    Kernel {
        /// What was asked, such as `add elements`.
        step: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// nft refused a transaction.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// nft cannot be executed.
    #[error("cannot run {program}: {source}: install nftables, or set --firewall off")]
    Program {
        /// Its path or name.
        program: String,
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
}

impl FirewallError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Missing => Retry::Now,
            Self::Kernel { source, .. } if source.kind() == std::io::ErrorKind::Interrupted => Retry::Now,
            _ => Retry::Later,
        }
    }

    /// Metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing => "firewall_missing",
            Self::Kernel { .. } => "firewall_kernel",
            Self::Refused(_) => "firewall_refused",
            Self::Program { .. } => "firewall_program",
            Self::Protocol { .. } => "firewall_protocol",
        }
    }
}
