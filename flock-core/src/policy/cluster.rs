use std::fmt;

use ipnet::IpNet;

use super::{Action, Direction, Labels, PortRange, Protocol, Tier};
use crate::selector::LabelSelector;

/// A `ClusterNetworkPolicy` (`policy.networking.k8s.io/v1alpha2`), read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Its name.
    pub name: String,
    /// Whether its rules come before those of `NetworkPolicies` or after them.
    pub tier: ClusterTier,
    /// Its place among the policies of its tier. Policies of the same priority are asked by name.
    pub priority: Priority,
    /// The pods its rules are about.
    pub subject: ClusterPods,
    /// Rules for flows into these pods; the first that matches decides.
    pub ingress: Vec<ClusterRule>,
    /// Rules for flows out of these pods, in the same manner.
    pub egress: Vec<ClusterRule>,
}

impl ClusterPolicy {
    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[ClusterRule] {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }

    /// What the policies of a tier are asked by, first things first.
    pub(super) fn precedence(&self) -> (Priority, &str) {
        (self.priority, &self.name)
    }
}

/// A tier that `ClusterNetworkPolicies` can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterTier {
    /// Before `NetworkPolicies`, which cannot overrule it.
    Admin,
    /// For the flows in a direction that no NetworkPolicy selects the pod for.
    Baseline,
}

impl From<ClusterTier> for Tier {
    fn from(tier: ClusterTier) -> Self {
        match tier {
            ClusterTier::Admin => Self::Admin,
            ClusterTier::Baseline => Self::Baseline,
        }
    }
}

/// The priority of a policy within its tier, 0 to 1000. The smallest number is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u16);

impl Priority {
    /// The largest number.
    pub const MAX: u16 = 1000;

    /// `None` for a number that is no priority.
    ///
    /// ```
    /// use flock_core::policy::Priority;
    ///
    /// assert!(Priority::new(0) < Priority::new(1000));
    /// assert_eq!((Priority::new(-1), Priority::new(1001)), (None, None));
    /// ```
    pub fn new(number: i32) -> Option<Self> {
        u16::try_from(number).ok().filter(|number| *number <= Self::MAX).map(Self)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Pods by the labels of their namespaces and their own; both selectors have to match. `namespaces: SELECTOR` of the
/// API is [`ClusterPods::of_namespaces`]. Pods with `hostNetwork` are not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterPods {
    /// Their namespaces.
    pub namespaces: LabelSelector,
    /// Themselves.
    pub pods: LabelSelector,
}

impl ClusterPods {
    /// All pods of these namespaces.
    pub fn of_namespaces(namespaces: LabelSelector) -> Self {
        Self { namespaces, pods: LabelSelector::default() }
    }

    /// Whether a pod with these labels in a namespace with these is one of them.
    pub fn matches(&self, namespace: &Labels, pod: &Labels) -> bool {
        self.namespaces.matches(namespace) && self.pods.matches(pod)
    }
}

/// One rule of a direction. A rule that holds something flock does not know or cannot enforce fails closed as a whole,
/// as the API asks for: [`ClusterRule::closed`] takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRule {
    /// Its name, for people; it need not have one.
    pub name: Option<String>,
    /// What happens to the flows that match.
    pub action: Action,
    /// The other end. A rule without peers matches nothing.
    pub peers: Vec<ClusterPeer>,
    /// The server's ports; empty: everything, whatever the protocol.
    pub ports: Vec<ClusterPort>,
}

impl ClusterRule {
    /// What stands in for a rule that cannot be enforced as it is written, such as one with a peer of an unknown kind:
    /// an Accept rule matches nothing, and a Deny or Pass rule denies everything. The rules after it keep their index.
    pub fn closed(name: Option<String>, action: Action) -> Self {
        let (action, peers) = match action {
            Action::Accept => (Action::Accept, Vec::new()),
            Action::Deny | Action::Pass => (Action::Deny, vec![ClusterPeer::Everybody]),
        };
        Self { name, action, peers, ports: Vec::new() }
    }
}

/// An entry of `from` or `to`. An entry with several `networks` is several of these. Nodes and domain names are not
/// among them: a rule with such an entry is [closed](ClusterRule::closed).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterPeer {
    /// Whatever has an address. The API knows no such entry; rules that are closed do.
    Everybody,
    /// Pods. An address that several pods have is theirs for an Accept or Pass rule where all of them are meant, and
    /// for a Deny rule where one of them is.
    Pods(ClusterPods),
    /// Addresses on the wire, those of pods too; without host bits.
    Net(IpNet),
}

/// An entry of `protocols`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterPort {
    /// All ports of a protocol.
    All(Protocol),
    /// Ports of a protocol.
    Range(Protocol, PortRange),
    /// The port the destination pod calls so, with the protocol it has there (`destinationNamedPort`).
    Name(String),
}
