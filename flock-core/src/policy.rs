//! NetworkPolicy and `ClusterNetworkPolicy`: what the cluster asks for, compiled into what the firewall holds.
//!
//! ```text
//!   PolicyView (policies, namespaces, pods of other nodes) --+
//!   LocalPod  (links of this node and their addresses) ------+--> compile --> Ruleset
//!                                                                               |
//!   Ruleset as last written ---------------------------------------> Update::between --> render --> nftables
//! ```
//!
//! [`Compiler`] is [`compile()`] for views that follow each other. [`verdict()`] says the same of one flow in the words of
//! the Kubernetes API, and names the policy that decides.
//!
//! Everything here is pure. [`Firewall`](crate::ports::Firewall) is the port that writes it.

mod cluster;
mod compile;
mod diff;
mod flow;
mod model;
pub mod render;
mod ruleset;
mod verdict;

pub use cluster::{ClusterPeer, ClusterPods, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, Priority};
pub use compile::{Compiler, Guard, LocalIdentity, LocalPod, compile, guard};
pub use diff::{Change, Judging, PeerChange, Update};
pub use flow::{ExplainedFlow, FlowEnd, FlowError, FlowExplanation, Service, explain_flow};
pub use model::{
    Labels, NamedPort, NetworkPolicy, PolicyKey, PolicyName, PolicyPeer, PolicyPod, PolicyPort, PolicyRule,
    PolicyView, PortMatch, PortRange, Protocol,
};
pub use ruleset::{
    Action, Chain, ChainId, Direction, End, Gate, Peer, PeerId, Place, PodRules, PortsId, Rule, Ruleset,
    Shut, Stamp, Tier,
};
pub use verdict::{Endpoint, Flow, Judgement, Subject, Verdict, selecting, verdict};
