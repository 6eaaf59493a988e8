use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::digest::digest;
use super::holders::Profile;
use crate::policy::{Action, ClusterPeer, Labels, NamedPort, PeerId, PolicyPeer, Protocol};
use crate::selector::LabelSelector;

/// The pods that a rule means. Its name stays the same whoever is among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Selection {
    pub(super) among: Among,
    /// Of these only the pods that have the named port.
    pub(super) called: Option<Called>,
    /// How an address that several pods have counts.
    pub(super) quorum: Quorum,
}

/// Which pods that have an address must be selected, so that the address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Quorum {
    /// All: a stranger that claims the address is not let in.
    All,
    /// One, for rules that deny: a stranger that claims the address does not let the others in.
    One,
}

impl Quorum {
    pub(super) const fn of(action: Action) -> Self {
        match action {
            Action::Accept | Action::Pass => Self::All,
            Action::Deny => Self::One,
        }
    }

    /// Whether there are enough: for each pod that has the address, whether it is selected. Without pods there are not.
    pub(super) fn is_met(self, pods: impl IntoIterator<Item = bool>) -> bool {
        let mut pods = pods.into_iter().peekable();
        match self {
            Self::All => pods.peek().is_some() && pods.all(|is_selected| is_selected),
            Self::One => pods.any(|is_selected| is_selected),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Among {
    /// All pods that are known.
    Everybody,
    Pods {
        namespaces: Namespaces,
        pods: LabelSelector,
    },
    /// Pods with an address in the prefix and in none of the exceptions.
    Net {
        cidr: IpNet,
        except: Vec<IpNet>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Namespaces {
    /// That of the policy.
    Own(String),
    Selected(LabelSelector),
}

/// A named port of the destination pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Called {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    /// The number the pods have for it.
    pub(super) number: Option<u16>,
}

/// Numbers of a named port, and how many pods have each.
pub(super) type Numbers = BTreeMap<u16, usize>;

impl Called {
    /// The numbers a pod with these ports has for the name.
    pub(super) fn numbers(&self, ports: &[NamedPort]) -> BTreeSet<u16> {
        let means = |port: &&NamedPort| self.name == port.name && self.protocol == port.protocol;
        ports.iter().filter(means).map(|port| port.number).collect()
    }

    /// Whether a pod with these ports has the name for this number.
    pub(super) fn is_number_in(&self, ports: &[NamedPort]) -> bool {
        self.number.is_some_and(|number| self.numbers(ports).contains(&number))
    }
}

impl Among {
    /// The pods of an entry of `from` or `to`, in a policy of this namespace; without an entry all.
    pub(super) fn new(namespace: &str, peer: Option<&PolicyPeer>) -> Self {
        match peer {
            None => Self::Everybody,
            Some(PolicyPeer::Net { cidr, except }) => Self::Net { cidr: *cidr, except: except.clone() },
            Some(PolicyPeer::Pods { namespaces, pods }) => {
                let own = || Namespaces::Own(namespace.to_owned());
                let namespaces = namespaces.clone().map_or_else(own, Namespaces::Selected);
                Self::Pods { namespaces, pods: pods.clone().unwrap_or_default() }
            }
        }
    }
}

impl From<&ClusterPeer> for Among {
    fn from(peer: &ClusterPeer) -> Self {
        match peer {
            ClusterPeer::Everybody => Self::Everybody,
            ClusterPeer::Net(cidr) => Self::Net { cidr: *cidr, except: Vec::new() },
            ClusterPeer::Pods(pods) => {
                let namespaces = Namespaces::Selected(pods.namespaces.clone());
                Self::Pods { namespaces, pods: pods.pods.clone() }
            }
        }
    }
}

impl Among {
    /// Whether a pod is one of them, whatever its addresses. `namespace` are the labels of its namespace.
    pub(super) fn matches(&self, pod: &Profile<'_>, namespace: &Labels) -> bool {
        match self {
            Self::Everybody | Self::Net { .. } => true,
            Self::Pods { namespaces, pods } => {
                let in_namespace = match namespaces {
                    Namespaces::Own(name) => name == pod.namespace,
                    Namespaces::Selected(selector) => selector.matches(namespace),
                };
                in_namespace && pods.matches(pod.labels)
            }
        }
    }

    /// Whether an address of a pod is meant.
    pub(super) fn reaches(&self, address: IpAddr) -> bool {
        match self {
            Self::Everybody | Self::Pods { .. } => true,
            Self::Net { cidr, except } => {
                cidr.contains(&address) && !except.iter().any(|except| except.contains(&address))
            }
        }
    }
}

impl Selection {
    /// Whether a pod is selected, whatever its addresses.
    pub(super) fn matches(&self, pod: &Profile<'_>, namespace: &Labels) -> bool {
        let is_called = self.called.as_ref().is_none_or(|called| called.is_number_in(pod.ports));
        is_called && self.among.matches(pod, namespace)
    }

    pub(super) fn id(&self) -> PeerId {
        let kind = match self.quorum {
            Quorum::All => "peers",
            Quorum::One => "denied peers",
        };
        PeerId(digest(kind, &(&self.among, &self.called)))
    }
}
