use ipnet::IpNet;

use super::digest::digest;
use crate::policy::{NamedPort, PeerId, PolicyPeer, Protocol};
use crate::selector::LabelSelector;

/// The pods that a rule means. Its name stays the same whoever is among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Selection {
    pub(super) among: Among,
    /// Of these only the pods that have the named port.
    pub(super) called: Option<Called>,
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

impl Called {
    /// Whether a port has this name, whatever its number.
    pub(super) fn means(&self, port: &NamedPort) -> bool {
        self.name == port.name && self.protocol == port.protocol
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

impl Selection {
    pub(super) fn id(&self) -> PeerId {
        PeerId(digest("peers", self))
    }
}
