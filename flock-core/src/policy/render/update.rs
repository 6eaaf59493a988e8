use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use super::chains::{self, Text};
use super::element::{of_peer, of_pod};
use super::table::{of_ports, put, put_elements, stamp_element};
use super::{Element, SetName, TABLE};
use crate::policy::{Change, Judging, PeerChange, PodRules, Stamp, Update};

/// An update as it goes to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// Elements of sets that are there, for one batch over netlink: removals first. Empty: nothing is different in the
    /// kernel.
    Elements(Vec<ElementChange>),
    /// Anything else, for one run of `nft -f`.
    Script(String),
}

/// What becomes of elements of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementChange {
    /// Added or removed.
    pub verb: Verb,
    /// The set or map.
    pub set: SetName,
    /// The elements, in order.
    pub elements: Vec<Element>,
}

/// What becomes of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// They are removed.
    Remove,
    /// They are added.
    Add,
}

/// Elements by verb, removals first, then by set.
#[derive(Default)]
struct Changes(BTreeMap<(Verb, SetName), Vec<Element>>);

impl Changes {
    fn put(&mut self, verb: Verb, (set, element): (SetName, Element)) {
        self.0.entry((verb, set)).or_default().push(element);
    }

    fn pods(&mut self, Change { before, after }: &Change<PodRules>, link: &crate::ids::IfName) {
        let elements =
            |rules: &Option<PodRules>| rules.as_ref().map(|rules| of_pod(link, rules)).unwrap_or_default();
        let (before, after) = (elements(before), elements(after));
        for element in before.difference(&after) {
            self.put(Verb::Remove, element.clone());
        }
        for element in after.difference(&before) {
            self.put(Verb::Add, element.clone());
        }
    }

    fn peers<'a>(
        &mut self,
        verb: Verb,
        id: crate::policy::PeerId,
        addresses: impl IntoIterator<Item = &'a IpAddr>,
    ) {
        for address in addresses {
            self.put(verb, of_peer(id, *address));
        }
    }

    fn text(&self, text: &mut String, wanted: Verb) {
        let command = match wanted {
            Verb::Remove => "delete",
            Verb::Add => "add",
        };
        // Maps first: until their elements are gone they hold the chains.
        for maps in [true, false] {
            let of_verb = self
                .0
                .iter()
                .filter(|((verb, set), _)| *verb == wanted && matches!(set, SetName::Gate(_)) == maps);
            for ((_, set), elements) in of_verb {
                put_elements(text, command, *set, elements);
            }
        }
    }
}

/// One update as one transaction.
pub fn update(update: &Update) -> Rendered {
    let mut changes = Changes::default();
    for (link, change) in &update.pods {
        changes.pods(change, link);
    }
    for (id, change) in &update.peers {
        match change {
            PeerChange::New(members) => changes.peers(Verb::Add, *id, members.iter()),
            PeerChange::Members { added, removed } => {
                changes.peers(Verb::Remove, *id, removed);
                changes.peers(Verb::Add, *id, added);
            }
            // Its sets go, and their elements with them.
            PeerChange::Gone => {}
        }
    }
    if update.is_of_elements() {
        let change = |((verb, set), elements)| ElementChange { verb, set, elements };
        return Rendered::Elements(changes.0.into_iter().map(change).collect());
    }
    Rendered::Script(script(update, &changes))
}

/// New sets, new chains, what judges, then everything that goes, and new elements at the end: the kernel looks through
/// the transaction for every set that a rule names.
fn script(update: &Update, changes: &Changes) -> String {
    let mut text = String::new();
    new_sets(&mut text, update);
    if let Some(Judging::On(stamp)) = update.judging {
        judge(&mut text, stamp);
    }
    if let Some(used) = update.tiers {
        let chains = chains::tiers(used);
        command(&mut text, "flush chain", chains.iter().map(|chain| &chain.name));
        put_rules(&mut text, &chains);
    }
    new_chains(&mut text, update);
    changes.text(&mut text, Verb::Remove);
    if update.judging == Some(Judging::Off) {
        stop_judging(&mut text);
    }
    let (gone_chains, gone_sets) = gone(update);
    if update.tiers == Some(false) {
        command(&mut text, "delete map", SetName::TIERS);
    }
    command(&mut text, "delete chain", gone_chains);
    command(&mut text, "delete set", gone_sets);
    for (id, change) in &update.ports {
        if let Change { before: None, after: Some(ranges) } = change {
            put_elements(&mut text, "add", SetName::Ports(*id), &of_ports(ranges));
        }
    }
    changes.text(&mut text, Verb::Add);
    if let Some(judging) = update.judging {
        command(&mut text, "flush set", [SetName::Stamp]);
        if let Judging::On(stamp) = judging {
            text.push_str(&stamp_element(stamp));
        }
    }
    text
}

fn declare(text: &mut String, chains: &[Text]) {
    text.extend(chains.iter().map(Text::declaration));
}

fn put_rules(text: &mut String, chains: &[Text]) {
    text.extend(chains.iter().map(Text::commands));
}

fn command(text: &mut String, command: &str, names: impl IntoIterator<Item = impl Display>) {
    for name in names {
        put(text, format_args!("{command} inet {TABLE} {name}\n"));
    }
}

fn new_sets(text: &mut String, update: &Update) {
    let is_new = |change: &Change<_>| change.before.is_none();
    let ports = update.ports.iter().filter(|(_, change)| is_new(change)).map(|(id, _)| SetName::Ports(*id));
    let peers = update.peers.iter().filter(|(_, change)| matches!(change, PeerChange::New(_)));
    let peers = peers.flat_map(|(id, _)| SetName::peers(*id));
    let tiers = if update.tiers == Some(true) { SetName::TIERS.as_slice() } else { &[] };
    for set in tiers.iter().copied().chain(ports).chain(peers) {
        text.push_str(&set.declaration());
    }
}

fn new_chains(text: &mut String, update: &Update) {
    let new = update.chains.iter().filter_map(|(id, change)| match change {
        Change { before: None, after: Some(chain) } => Some(chains::of(*id, chain)),
        _ => None,
    });
    let new: Vec<Text> = new.collect();
    declare(text, &new);
    put_rules(text, &new);
}

/// The rules that hold the stamp, written again. Those of the tiers hold none, and stay.
fn judge(text: &mut String, stamp: Stamp) {
    let chains = chains::judging(stamp);
    declare(text, &chains);
    declare(text, &chains::tiers(false));
    command(text, "flush chain", chains.iter().map(|chain| &chain.name));
    put_rules(text, &chains);
}

fn stop_judging(text: &mut String) {
    let chains: Vec<Text> = chains::judging(Stamp::FIRST).into_iter().chain(chains::tiers(false)).collect();
    command(text, "flush chain", chains.iter().map(|chain| &chain.name));
    command(text, "delete chain", chains.iter().map(|chain| &chain.name));
}

fn gone(update: &Update) -> (Vec<String>, Vec<SetName>) {
    let chains = update.chains.iter().filter_map(|(id, change)| match change {
        Change { before: Some(chain), after: None } => Some(chains::of(*id, chain).name),
        _ => None,
    });
    let ports = update.ports.iter().filter(|(_, change)| change.after.is_none());
    let ports = ports.map(|(id, _)| SetName::Ports(*id));
    let peers = update.peers.iter().filter(|(_, change)| matches!(change, PeerChange::Gone));
    let peers = peers.flat_map(|(id, _)| SetName::peers(*id));
    (chains.collect(), ports.chain(peers).collect())
}
