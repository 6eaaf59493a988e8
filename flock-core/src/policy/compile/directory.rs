use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::LocalPod;
use super::holders::{Holder, Profile, Title, namespace_labels};
use super::selection::{Among, Called, Namespaces, Numbers, Selection};
use crate::policy::{Labels, NamedPort, PolicyView};
use crate::selector::LabelSelector;

/// Which pods have which addresses. Pods that no selector and no named port can tell apart are one class, so each
/// selector is asked once for each class.
pub(super) struct Directory<'a> {
    classes: Vec<Class<'a>>,
    namespaces: BTreeMap<&'a str, Namespace<'a>>,
    /// Addresses that pods of several classes have, and the classes; `None` for pods whose labels are not known.
    shared: Vec<(IpAddr, Vec<Option<usize>>)>,
    /// The namespaces each `namespaceSelector` selects, as far as it was asked.
    selected: BTreeMap<LabelSelector, Vec<&'a str>>,
}

struct Class<'a> {
    labels: &'a Labels,
    ports: &'a [NamedPort],
    /// How many there are.
    pods: usize,
    /// Addresses that only pods of this class have, in order.
    addresses: Vec<IpAddr>,
}

struct Namespace<'a> {
    labels: Cow<'a, Labels>,
    classes: Vec<usize>,
}

impl<'a> Directory<'a> {
    pub(super) fn new(view: &'a PolicyView, pods: &'a [LocalPod]) -> Self {
        let mut classes = Classes::new(&view.namespaces);
        let mut entries = Vec::with_capacity(2 * (view.pods.len() + pods.len()));
        let remote = view.pods.values().filter_map(|pod| Holder::remote(pod));
        for holder in remote.chain(pods.iter().filter_map(Holder::local)) {
            let class = holder.profile.map(|profile| classes.of(profile));
            entries.extend(holder.addresses().map(|(address, title)| (address, title, class)));
        }
        classes.into_directory(entries)
    }

    /// Addresses of which enough holders are selected.
    pub(super) fn members(&mut self, selection: &Selection) -> BTreeSet<IpAddr> {
        let matching = self.matching(&selection.among, selection.called.as_ref());
        let matches =
            |class: &Option<usize>| class.is_some_and(|class| matching.binary_search(&class).is_ok());
        let sole = matching.iter().flat_map(|class| &self.classes[*class].addresses);
        let shared =
            self.shared.iter().filter(|(_, classes)| selection.quorum.is_met(classes.iter().map(matches)));
        sole.chain(shared.map(|(address, _)| address))
            .filter(|address| selection.among.reaches(**address))
            .copied()
            .collect()
    }

    /// The numbers that pods among these have for the named port, and how many pods have each.
    pub(super) fn numbers(&mut self, among: &Among, called: &Called) -> Numbers {
        let mut numbers = Numbers::new();
        for class in self.matching(among, None) {
            let class = &self.classes[class];
            for number in called.numbers(class.ports) {
                *numbers.entry(number).or_default() += class.pods;
            }
        }
        numbers
    }

    /// The classes that are selected, in order.
    fn matching(&mut self, among: &Among, called: Option<&Called>) -> Vec<usize> {
        let is_called = |class: &Class<'_>| called.is_none_or(|called| called.is_number_in(class.ports));
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

    fn of(&mut self, Profile { namespace, labels, ports }: Profile<'a>) -> usize {
        // An empty list has no storage that would tell it from another one.
        let ports_at = if ports.is_empty() { 0 } else { ports.as_ptr().addr() };
        let pointer = (namespace, Arc::as_ptr(labels).addr(), ports_at);
        if let Some(class) = self.by_pointer.get(&pointer) {
            self.made[*class].pods += 1;
            return *class;
        }
        let content = (namespace, &**labels, &**ports);
        let class = *self.by_content.entry(content).or_insert(self.made.len());
        self.by_pointer.insert(pointer, class);
        if class == self.made.len() {
            self.made.push(Class { labels, ports, pods: 0, addresses: Vec::new() });
            let view = self.view;
            let namespace = self.namespaces.entry(namespace).or_insert_with(|| Namespace {
                labels: namespace_labels(view, namespace),
                classes: Vec::new(),
            });
            namespace.classes.push(class);
        }
        self.made[class].pods += 1;
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
            let holders: Vec<_> = entitled.map(|(_, _, class)| *class).collect();
            match holders.as_slice() {
                [Some(sole)] => classes[*sole].addresses.push(*address),
                [None] => {}
                _ => shared.push((*address, holders)),
            }
        }
        Directory { classes, namespaces: self.namespaces, shared, selected: BTreeMap::new() }
    }
}
