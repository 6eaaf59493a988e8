use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::selection::{Among, Called, Namespaces, Selection};
use super::{LocalIdentity, LocalPod};
use crate::policy::{Labels, NamedPort, PolicyView};
use crate::selector::LabelSelector;

/// The label that the API server sets on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Which pods have which addresses. Pods that no selector and no named port can tell apart are one class, so each
/// selector is asked once for each class.
pub(super) struct Directory<'a> {
    classes: Vec<Class<'a>>,
    namespaces: BTreeMap<&'a str, Namespace<'a>>,
    /// Addresses that pods of several classes have, and the classes.
    shared: Vec<(IpAddr, Vec<usize>)>,
    /// The namespaces each `namespaceSelector` selects, as far as it was asked.
    selected: BTreeMap<LabelSelector, Vec<&'a str>>,
}

struct Class<'a> {
    labels: &'a Labels,
    ports: &'a [NamedPort],
    /// Addresses that only pods of this class have, in order.
    addresses: Vec<IpAddr>,
}

struct Namespace<'a> {
    labels: Cow<'a, Labels>,
    classes: Vec<usize>,
}

/// How a pod has an address. The order matters: who owns an address comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Title {
    Own,
    Claim,
}

impl<'a> Directory<'a> {
    pub(super) fn new(view: &'a PolicyView, pods: &'a [LocalPod]) -> Self {
        let mut classes = Classes::new(&view.namespaces);
        let mut holders = Vec::with_capacity(2 * (view.pods.len() + pods.len()));
        for pod in view.pods.values() {
            // A pod without an address of its own does not run yet, so what it asks for is not its own yet either.
            if pod.pod_ips.is_empty() {
                continue;
            }
            let class = Some(classes.of(pod.key.namespace(), &pod.labels, &pod.ports));
            holders.extend(pod.pod_ips.iter().map(|address| (*address, Title::Own, class)));
            holders.extend(pod.claimed.iter().map(|address| (*address, Title::Claim, class)));
        }
        for pod in pods {
            let class = match &pod.identity {
                LocalIdentity::Pod { ended: true, .. } => continue,
                LocalIdentity::Pod { key, labels, ports, .. } => {
                    Some(classes.of(key.namespace(), labels, ports))
                }
                // No selector matches it, but it may send from its addresses, so they are no other pod's alone.
                LocalIdentity::Unknown { .. } | LocalIdentity::Nameless => None,
            };
            holders.extend(pod.addresses.iter().map(|address| (*address, Title::Own, class)));
            holders.extend(pod.anycast.iter().map(|address| (*address, Title::Claim, class)));
        }
        classes.into_directory(holders)
    }

    /// Addresses of which every holder is selected.
    pub(super) fn members(&mut self, selection: &Selection) -> BTreeSet<IpAddr> {
        let matching = self.matching(&selection.among, selection.called.as_ref());
        let meant = |address: &IpAddr| match &selection.among {
            Among::Net { cidr, except } => {
                cidr.contains(address) && !except.iter().any(|except| except.contains(address))
            }
            Among::Everybody | Among::Pods { .. } => true,
        };
        let matches = |class: &usize| matching.binary_search(class).is_ok();
        let sole = matching.iter().flat_map(|class| &self.classes[*class].addresses);
        let shared = self.shared.iter().filter(|(_, classes)| classes.iter().all(matches));
        sole.chain(shared.map(|(address, _)| address)).filter(|address| meant(address)).copied().collect()
    }

    /// The numbers that pods among these have for the named port.
    pub(super) fn numbers(&mut self, among: &Among, called: &Called) -> BTreeSet<u16> {
        let matching = self.matching(among, None);
        let ports = matching.iter().flat_map(|class| self.classes[*class].ports);
        ports.filter(|port| called.means(port)).map(|port| port.number).collect()
    }

    /// The classes that are selected, in order.
    fn matching(&mut self, among: &Among, called: Option<&Called>) -> Vec<usize> {
        let is_called = |class: &Class<'_>| {
            called.is_none_or(|called| {
                class.ports.iter().any(|port| called.means(port) && called.number == Some(port.number))
            })
        };
        let (namespaces, pods) = match among {
            Among::Everybody | Among::Net { .. } => {
                let matching = self.classes.iter().enumerate().filter(|(_, class)| is_called(class));
                return matching.map(|(index, _)| index).collect();
            }
            Among::Pods { namespaces, pods } => (namespaces, pods),
        };
        let namespaces = match namespaces {
            Namespaces::Own(name) => vec![name.as_str()],
            Namespaces::Selected(selector) => self.selected(selector),
        };
        let in_namespace = namespaces.iter().filter_map(|name| self.namespaces.get(name));
        let candidates = in_namespace.flat_map(|namespace| &namespace.classes).copied();
        let matches = |class: &Class<'_>| is_called(class) && pods.matches(class.labels);
        let mut matching: Vec<_> = candidates.filter(|class| matches(&self.classes[*class])).collect();
        matching.sort_unstable();
        matching
    }

    fn selected(&mut self, selector: &LabelSelector) -> Vec<&'a str> {
        if let Some(known) = self.selected.get(selector) {
            return known.clone();
        }
        let matching = self.namespaces.iter().filter(|(_, namespace)| selector.matches(&namespace.labels));
        let matching: Vec<_> = matching.map(|(name, _)| *name).collect();
        self.selected.insert(selector.clone(), matching.clone());
        matching
    }
}

/// Puts pods into classes: by the addresses of what they share, and only then by content.
struct Classes<'a> {
    view: &'a BTreeMap<String, Arc<Labels>>,
    made: Vec<Class<'a>>,
    namespaces: BTreeMap<&'a str, Namespace<'a>>,
    by_pointer: BTreeMap<(&'a str, usize, usize), usize>,
    by_content: BTreeMap<(&'a str, &'a Labels, &'a [NamedPort]), usize>,
}

impl<'a> Classes<'a> {
    fn new(view: &'a BTreeMap<String, Arc<Labels>>) -> Self {
        Self {
            view,
            made: Vec::new(),
            namespaces: BTreeMap::new(),
            by_pointer: BTreeMap::new(),
            by_content: BTreeMap::new(),
        }
    }

    fn of(&mut self, namespace: &'a str, labels: &'a Arc<Labels>, ports: &'a Arc<[NamedPort]>) -> usize {
        // An empty list has no storage that would tell it from another one.
        let ports_at = if ports.is_empty() { 0 } else { ports.as_ptr().addr() };
        let pointer = (namespace, Arc::as_ptr(labels).addr(), ports_at);
        if let Some(class) = self.by_pointer.get(&pointer) {
            return *class;
        }
        let content = (namespace, &**labels, &**ports);
        let class = *self.by_content.entry(content).or_insert(self.made.len());
        self.by_pointer.insert(pointer, class);
        if class == self.made.len() {
            self.made.push(Class { labels, ports, addresses: Vec::new() });
            let view = self.view;
            let namespace = self.namespaces.entry(namespace).or_insert_with(|| Namespace {
                labels: namespace_labels(view, namespace),
                classes: Vec::new(),
            });
            namespace.classes.push(class);
        }
        class
    }

    fn into_directory(self, mut holders: Vec<(IpAddr, Title, Option<usize>)>) -> Directory<'a> {
        let mut classes = self.made;
        let mut shared = Vec::new();
        holders.sort_unstable();
        holders.dedup();
        for same in holders.chunk_by(|(a, ..), (b, ..)| a == b) {
            let [(address, title, _), ..] = same else { continue };
            // Nobody else has a claim to the own address of a pod.
            let entitled = same.iter().filter(|(_, other, _)| other == title);
            let Some(holders) = entitled.map(|(_, _, class)| *class).collect::<Option<Vec<_>>>() else {
                continue;
            };
            match holders.as_slice() {
                [sole] => classes[*sole].addresses.push(*address),
                _ => shared.push((*address, holders)),
            }
        }
        Directory { classes, namespaces: self.namespaces, shared, selected: BTreeMap::new() }
    }
}

/// The labels of a namespace, its name among them even where the view does not show it.
fn namespace_labels<'a>(view: &'a BTreeMap<String, Arc<Labels>>, name: &str) -> Cow<'a, Labels> {
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
