use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    Endpoint, Flow, LocalIdentity, LocalPod, PolicyPod, PolicyView, Protocol, Subject, Verdict, verdict,
};
use crate::ids::PodKey;

/// One end of a flow somebody asks about: `NAMESPACE/POD` or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowEnd {
    /// A pod, with all its addresses.
    Pod(PodKey),
    /// An address; the pod whose own it is, if there is one.
    Address(IpAddr),
}

impl FromStr for FlowEnd {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        PodKey::parse(text).map(Self::Pod).map_err(|error| FlowError::End { reason: error.to_string() })
    }
}

impl fmt::Display for FlowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => key.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What a flow is for: `tcp/80`, `udp/53`, `sctp/9999`, or `icmp` for whatever policies cannot name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service(pub Option<(Protocol, u16)>);

impl FromStr for Service {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let refused = || FlowError::Service { value: text.chars().take(40).collect() };
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Self(None));
        }
        let (protocol, port) = text.split_once('/').ok_or_else(refused)?;
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(refused()),
        };
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self(Some((protocol, port)))),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("icmp"),
            Some((protocol, port)) => write!(f, "{}/{port}", protocol.as_str()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Neither a pod nor an address.
    #[error("{reason}: write NAMESPACE/POD or an address")]
    End {
        /// What is wrong.
        reason: String,
    },
    /// No protocol and port.
    #[error("{value:?} is no protocol and port: write tcp/PORT, udp/PORT, sctp/PORT or icmp")]
    Service {
        /// As written.
        value: String,
    },
    /// The agent knows no such pod.
    #[error(
        "pod {0} is not known here: it has no address, uses the network of its node, or no policy makes this node know it"
    )]
    Unknown(PodKey),
    /// The ends have no family in common.
    #[error("{from} and {to} have no address of the same family")]
    NoFamily {
        /// The client.
        from: String,
        /// The server.
        to: String,
    },
}

/// Whether flows from one end to another pass, by pair of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowExplanation {
    /// The client, as asked for.
    pub from: String,
    /// The server, as asked for.
    pub to: String,
    /// Protocol and port, as asked for.
    pub service: String,
    /// Each pair of addresses of one family.
    pub flows: Vec<ExplainedFlow>,
}

/// One pair of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedFlow {
    /// The client's.
    pub from: IpAddr,
    /// The server's.
    pub to: IpAddr,
    /// The client, where it is a pod that is known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_pod: Option<PodKey>,
    /// The server, where it is a pod that is known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_pod: Option<PodKey>,
    /// Whether it passes, as policies say.
    pub passes: bool,
    /// What each end says.
    pub verdict: Verdict,
}

/// Whether policies let flows from one end to the other pass, and by which rule. A node and its own pods always reach each
/// other.
pub fn explain_flow(
    view: &PolicyView,
    pods: &[LocalPod],
    from: &FlowEnd,
    to: &FlowEnd,
    service: Service,
) -> Result<FlowExplanation, FlowError> {
    let pairs = pairs(&resolve(from, pods, view)?, &resolve(to, pods, view)?);
    if pairs.is_empty() {
        return Err(FlowError::NoFamily { from: from.to_string(), to: to.to_string() });
    }
    let explain = |(from, to): (Endpoint<'_>, Endpoint<'_>)| {
        let verdict = verdict(view, pods, &Flow { from, to, service: service.0 });
        ExplainedFlow {
            from: from.address,
            to: to.address,
            from_pod: pod_of(from.subject),
            to_pod: pod_of(to.subject),
            passes: verdict.passes(),
            verdict,
        }
    };
    Ok(FlowExplanation {
        from: from.to_string(),
        to: to.to_string(),
        service: service.to_string(),
        flows: pairs.into_iter().map(explain).collect(),
    })
}

fn pod_of(subject: Subject<'_>) -> Option<PodKey> {
    match subject {
        Subject::Local(LocalPod { identity: LocalIdentity::Pod { key, .. }, .. }) => Some(key.clone()),
        Subject::Remote(pod) => Some(pod.key.clone()),
        Subject::Local(_) | Subject::Outside => None,
    }
}

/// Who it is, once for each address.
fn resolve<'a>(
    end: &FlowEnd,
    pods: &'a [LocalPod],
    view: &'a PolicyView,
) -> Result<Vec<Endpoint<'a>>, FlowError> {
    let at = |subject: Subject<'a>| move |address: &IpAddr| Endpoint { subject, address: *address };
    let local = |key: &PodKey| {
        let is = |pod: &&LocalPod| matches!(&pod.identity, LocalIdentity::Pod { key: own, .. } if own == key);
        pods.iter().find(is)
    };
    match end {
        FlowEnd::Pod(key) => {
            let found: Vec<_> = if let Some(pod) = local(key) {
                pod.addresses.iter().map(at(Subject::Local(pod))).collect()
            } else if let Some(pod) = view.pods.get(key) {
                pod.pod_ips.iter().map(at(Subject::Remote(pod))).collect()
            } else {
                Vec::new()
            };
            if found.is_empty() { Err(FlowError::Unknown(key.clone())) } else { Ok(found) }
        }
        FlowEnd::Address(address) => {
            let own = pods.iter().find(|pod| pod.addresses.contains(address)).map(Subject::Local);
            let remote = |pod: &&std::sync::Arc<PolicyPod>| pod.pod_ips.contains(address);
            let subject = own.or_else(|| view.pods.values().find(remote).map(|pod| Subject::Remote(pod)));
            Ok(vec![at(subject.unwrap_or(Subject::Outside))(address)])
        }
    }
}

fn pairs<'a>(from: &[Endpoint<'a>], to: &[Endpoint<'a>]) -> Vec<(Endpoint<'a>, Endpoint<'a>)> {
    let alike = |one: &Endpoint<'_>, other: &Endpoint<'_>| one.address.is_ipv6() == other.address.is_ipv6();
    from.iter()
        .flat_map(|one| to.iter().filter(|other| alike(one, other)).map(|other| (*one, *other)))
        .collect()
}
