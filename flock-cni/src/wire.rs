//! What the plugin and `flock-agent`'s own subcommands say to the agent: one connection per request, one
//! line of JSON each way (interfaces.md section 7). Plain types only; the agent validates.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Version of this protocol; an agent refuses any other with a clear error.
pub const PROTOCOL_VERSION: u32 = 1;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/flock/agent.sock";

/// Longest request line accepted, in bytes, newline included.
pub const MAX_REQUEST: usize = 1 << 20;

/// Longest response line read, in bytes, newline included: a report on thousands of pods fits.
pub const MAX_RESPONSE: usize = 8 << 20;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

impl Request {
    /// A request in today's version.
    pub fn new(call: Call) -> Self {
        Self { version: PROTOCOL_VERSION, call }
    }
}

/// What is asked, under the key `call`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase")]
pub enum Call {
    /// CNI ADD; answered with [`Reply::Added`].
    Add(Add),
    /// CNI DEL; answered with [`Reply::Done`].
    Del(Attachment),
    /// CNI CHECK; answered with [`Reply::Done`].
    Check(Check),
    /// CNI GC; answered with [`Reply::Done`].
    Gc(Gc),
    /// CNI STATUS; answered with [`Reply::Done`].
    Status,
    /// What the agent knows, for `flock-agent status`; answered with [`Reply::Report`].
    Report,
    /// What was decided for a pod, for `flock-agent explain`; answered with [`Reply::Report`].
    Explain(Pod),
    /// Whether policies let a flow pass, for `flock-agent explain --from --to`; answered with [`Reply::Report`].
    Flow(Flow),
}

impl Call {
    /// Path of the network namespace it is about. The open namespace goes with the request where the path can be
    /// opened: it may mean nothing to the agent, whose mounts and processes are those of its container.
    pub fn netns(&self) -> Option<&str> {
        match self {
            Self::Add(Add { netns, .. }) | Self::Check(Check { netns, .. }) => Some(netns),
            Self::Del(_) | Self::Gc(_) | Self::Status | Self::Report | Self::Explain(_) | Self::Flow(_) => {
                None
            }
        }
    }
}

/// Which interface of which container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// An ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Which interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// `CNI_NETNS`.
    pub netns: String,
    /// From `CNI_ARGS`, where the runtime gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The pod's annotations, where the runtime hands them over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// `mtu` of the network configuration, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The runtime runs the `loopback` plugin at the same time, which fails where `lo` has other addresses than its own.
    #[serde(default)]
    pub loopback_runs: bool,
}

/// Identity of a pod as in `CNI_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; older runtimes leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// A CHECK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Which interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// `CNI_NETNS`.
    pub netns: String,
    /// Addresses of `prevResult.ips`, in its order.
    pub expected: Vec<IpAddr>,
}

/// A GC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gc {
    /// `cni.dev/valid-attachments`: what to keep.
    pub keep: Vec<Attachment>,
}

/// A flow somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The client: `NAMESPACE/POD` or an address.
    pub from: String,
    /// The server, in the same manner.
    pub to: String,
    /// `tcp/PORT`, `udp/PORT`, `sctp/PORT` or `icmp`.
    pub service: String,
}

/// The one line that comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub version: u32,
    /// The outcome, under `ok` or `error`.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Response {
    /// A response in today's version.
    pub fn new(outcome: Outcome) -> Self {
        Self { version: PROTOCOL_VERSION, outcome }
    }
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Well.
    Ok(Reply),
    /// Not well.
    Error(Failure),
}

/// A good answer, told apart by `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// The attachment.
    Added(Added),
    /// What the agent knows: a JSON document of its own.
    Report {
        /// The document `flock-agent status -o json` or `explain -o json` prints.
        report: serde_json::Value,
    },
}

/// What an ADD made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Added {
    /// Name of the host veth.
    pub host_ifname: String,
    /// Its hardware address, `02:00:...`.
    pub host_mac: String,
    /// Hardware address of the pod's interface.
    pub pod_mac: String,
    /// MTU of both, bytes.
    pub mtu: u32,
    /// The primary address of each family, IPv6 first.
    pub ips: Vec<AddedIp>,
}

/// One address of an ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedIp {
    /// The pod's address, a /128 or /32.
    pub address: IpAddr,
    /// Gateway of its default route.
    pub gateway: IpAddr,
}

/// A refusal, in the terms of CNI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// CNI error code.
    pub code: u32,
    /// One sentence.
    pub msg: String,
    /// More, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}
