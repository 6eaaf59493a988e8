use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::chains::{self, Text};
use super::element::{of_peer, of_pod};
use super::{DropReason, Element, SetName, TABLE, is_compared};
use crate::policy::{PortRange, Ruleset, Stamp};
use crate::ports::{Digest, Observed};

/// The whole table as one transaction, in the place of whatever is there.
pub fn table(rules: &Ruleset, stamp: Stamp) -> String {
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\nadd table inet {TABLE}\n");
    for counter in DropReason::ALL {
        put(&mut text, format_args!("add counter inet {TABLE} {counter}\n"));
    }
    for set in sets(rules) {
        text.push_str(&set.declaration());
    }
    let chains = chains(rules, stamp);
    for chain in &chains {
        text.push_str(&chain.declaration());
    }
    for chain in &chains {
        text.push_str(&chain.commands());
    }
    // Elements come last: the kernel looks through the transaction for every set that a rule names.
    for (set, elements) in elements(rules) {
        put_elements(&mut text, "add", set, &elements);
    }
    for (id, ranges) in &rules.ports {
        put_elements(&mut text, "add", SetName::Ports(*id), &of_ports(ranges));
    }
    if rules.judging {
        text.push_str(&stamp_element(stamp));
    }
    text
}

/// The element that tells the stamp.
pub(super) fn stamp_element(stamp: Stamp) -> String {
    format!("add element inet {TABLE} {} {{ {:#010x} }}\n", SetName::Stamp, stamp.mark())
}

pub(super) fn of_ports(ranges: &[PortRange]) -> Vec<String> {
    let text = |PortRange { first, last }: &PortRange| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect()
}

pub(super) fn put_elements(text: &mut String, verb: &str, set: SetName, elements: &[impl Display]) {
    let Some((first, others)) = elements.split_first() else { return };
    put(text, format_args!("{verb} element inet {TABLE} {set} {{ {first}"));
    for element in others {
        put(text, format_args!(", {element}"));
    }
    text.push_str(" }\n");
}

pub(super) fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(what);
}

fn sets(rules: &Ruleset) -> impl Iterator<Item = SetName> {
    let tiers = if rules.uses_tiers() { SetName::TIERS.as_slice() } else { &[] };
    let ports = rules.ports.keys().map(|id| SetName::Ports(*id));
    let peers = rules.peers.keys().flat_map(|id| SetName::peers(*id));
    SetName::ALWAYS.into_iter().chain(tiers.iter().copied()).chain(ports).chain(peers)
}

fn chains(rules: &Ruleset, stamp: Stamp) -> Vec<Text> {
    let mut all = chains::always();
    if rules.judging {
        all.extend(chains::judging(stamp));
        all.extend(chains::tiers(rules.uses_tiers()));
        all.extend(rules.chains.iter().map(|(id, chain)| chains::of(*id, chain)));
    }
    all
}

fn elements(rules: &Ruleset) -> BTreeMap<SetName, Vec<Element>> {
    let mut sets = BTreeMap::<SetName, Vec<Element>>::new();
    let of_pods = rules.pods.iter().flat_map(|(link, pod)| of_pod(link, pod));
    let of_peers = rules.peers.iter().flat_map(|(id, members)| members.iter().map(|one| of_peer(*id, *one)));
    // Without judging there is no chain that a map could lead to.
    let is_there = |(set, _): &(SetName, Element)| rules.judging || !matches!(set, SetName::Gate(_));
    for (set, element) in of_pods.chain(of_peers).filter(is_there) {
        sets.entry(set).or_default().push(element);
    }
    sets
}

impl Ruleset {
    /// What the kernel shows of a table that holds exactly this.
    pub fn as_observed(&self, stamp: Option<Stamp>) -> Observed {
        // Which stamp it is changes no number of rules.
        let chains = chains(self, stamp.unwrap_or(Stamp::FIRST)).into_iter().map(|chain| {
            let rules = u32::try_from(chain.rules.len()).unwrap_or(u32::MAX);
            (chain.name, rules)
        });
        let mut digests: BTreeMap<SetName, Digest> = sets(self).map(|set| (set, Digest::default())).collect();
        for (set, elements) in elements(self) {
            let digest = digests.entry(set).or_default();
            for Element { key, jump } in elements {
                let chain = jump.map_or(String::new(), |chain| chain.to_string());
                digest.add(&key.bytes(), chain.as_bytes());
            }
        }
        let sets = digests.into_iter().map(|(set, digest)| (set.to_string(), digest));
        Observed { stamp, chains: chains.collect(), sets: sets.filter(|(set, _)| is_compared(set)).collect() }
    }
}
