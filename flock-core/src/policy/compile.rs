use std::net::IpAddr;
use std::sync::Arc;

use super::{Labels, NamedPort, Place, PodRules, PolicyView, Ruleset, Shut};
use crate::ids::{IfName, PodKey};

/// A pod of this node, as its link is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// The host's end of its link.
    pub link: IfName,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses it shares with other pods.
    pub anycast: Vec<IpAddr>,
    /// Who it is.
    pub identity: LocalIdentity,
}

/// Who a pod of this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalIdentity {
    /// The cluster shows it.
    Pod {
        /// Namespace and name.
        key: PodKey,
        /// Its labels.
        labels: Arc<Labels>,
        /// Its named ports, in order.
        ports: Arc<[NamedPort]>,
        /// It has ended: it is no peer of anybody.
        ended: bool,
    },
    /// The runtime names a pod that the cluster does not show (yet, or any more): its labels are not known.
    Unknown {
        /// Its namespace; `None` where only its UID is known.
        namespace: Option<String>,
    },
    /// The runtime named no pod: no policy can select it.
    Nameless,
}

/// What has to be in the kernel before the link of a pod exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The host's end of its link to be.
    pub link: IfName,
    /// Addresses packets from the pod may have as their source.
    pub sources: Vec<IpAddr>,
    /// Nothing passes until the next update says so.
    pub shut: bool,
}

impl Guard {
    /// Does to `rules` what the transaction does to the kernel: nothing is taken away. A shut pod stays judged by the
    /// chains it had, but nothing reaches them.
    pub fn apply(&self, rules: &mut Ruleset) {
        let open = || PodRules { sources: std::collections::BTreeSet::new(), place: Place::Open };
        let pod = rules.pods.entry(self.link.clone()).or_insert_with(open);
        pod.sources.extend(&self.sources);
        if self.shut {
            pod.place = Place::Shut(Shut::Unknown);
        }
    }
}

/// Everything the firewall has to hold.
pub fn compile(view: &PolicyView, pods: &[LocalPod]) -> Ruleset {
    let _ = (view, pods);
    Ruleset::default()
}

/// What has to be there before the link of this pod is: shut where a policy may select it.
pub fn guard(view: &PolicyView, pod: &LocalPod) -> Guard {
    let _ = view;
    Guard { link: pod.link.clone(), sources: pod.addresses.clone(), shut: true }
}
