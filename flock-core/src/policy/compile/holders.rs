use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{LocalIdentity, LocalPod};
use crate::policy::{Labels, NamedPort, PolicyPod};

/// The label that the API server sets on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// How a pod has an address. The order matters: pods that own an address come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Title {
    Own,
    Claim,
}

/// What selectors and named ports ask of a pod.
#[derive(Clone, Copy)]
pub(super) struct Profile<'a> {
    pub(super) namespace: &'a str,
    pub(super) labels: &'a Arc<Labels>,
    pub(super) ports: &'a Arc<[NamedPort]>,
}

/// A pod and its addresses.
pub(super) struct Holder<'a> {
    /// `None` where its labels are not known: no selector matches it, but it may send from its addresses, so they are
    /// no other pod's alone.
    pub(super) profile: Option<Profile<'a>>,
    own: &'a [IpAddr],
    claimed: &'a [IpAddr],
}

impl<'a> Holder<'a> {
    /// A pod of another node; `None` as long as it has no address of its own. It does not run yet, so what it asks for
    /// is not its own yet either.
    pub(super) fn remote(pod: &'a PolicyPod) -> Option<Self> {
        let profile = Profile { namespace: pod.key.namespace(), labels: &pod.labels, ports: &pod.ports };
        let holder = Self { profile: Some(profile), own: &pod.pod_ips, claimed: &pod.claimed };
        (!pod.pod_ips.is_empty()).then_some(holder)
    }

    /// A pod of this node; `None` where it has ended.
    pub(super) fn local(pod: &'a LocalPod) -> Option<Self> {
        let profile = match &pod.identity {
            LocalIdentity::Pod { ended: true, .. } => return None,
            LocalIdentity::Pod { key, labels, ports, .. } => {
                Some(Profile { namespace: key.namespace(), labels, ports })
            }
            LocalIdentity::Unknown { .. } | LocalIdentity::Nameless => None,
        };
        Some(Self { profile, own: &pod.addresses, claimed: &pod.anycast })
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, Title)> + use<'a> {
        let own = self.own.iter().map(|address| (*address, Title::Own));
        own.chain(self.claimed.iter().map(|address| (*address, Title::Claim)))
    }
}

/// The labels of a namespace, its name among them even where the view does not show it.
pub(super) fn namespace_labels<'a>(view: &'a BTreeMap<String, Arc<Labels>>, name: &str) -> Cow<'a, Labels> {
    let named = |mut labels: Labels| {
        labels.insert(NAMESPACE_NAME.to_owned(), name.to_owned());
        Cow::Owned(labels)
    };
    match view.get(name) {
        Some(labels) if labels.contains_key(NAMESPACE_NAME) => Cow::Borrowed(labels),
        Some(labels) => named((**labels).clone()),
        None => named(Labels::new()),
    }
}
