//! Which nexthop objects are flock's, what they say, and which have to come and go: no I/O.
//!
//! An object is flock's when its protocol and its number both are. Every way (gateway and interface) is one
//! object, every destination has a group of its own, which keeps its number while members come and go.
//!
//! IPv4 only looks into a group of two or more. Of one it takes the member without noting which buckets are in
//! use, so that a second pod would take half of the flows of the first (seen on Linux 6.18). So a member that
//! is alone in a resilient group of IPv4 is there twice: the second time as an object of its own, its *twin*,
//! with the least weight. It stays as long as its member does, since with it would go the flows on its buckets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use flock_core::ids::IfName;
use flock_core::route::{Member, Members, Weight};

use super::{Entry, Form, Kind, Object, PROTOCOL};

/// The numbers of flock's nexthop objects: `fl` in ASCII and 65536 to go with it. The kernel counts from 1
/// when it is not told a number, and so do people. See [`crate::NEXTHOP_IDS`].
pub(crate) const IDS: RangeInclusive<u32> = 0x666c_0000..=0x666c_ffff;

/// Gateway and interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Way {
    pub(crate) gateway: IpAddr,
    pub(crate) ifindex: u32,
}

/// The nexthop objects of a network namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// Numbers that are in use, by whomever.
    taken: BTreeSet<u32>,
    /// Ours; `None` for what flock did not make like that.
    ways: BTreeMap<u32, Option<Way>>,
    /// Ours.
    groups: BTreeMap<u32, (Form, Vec<Entry>)>,
    /// Members of groups that are not ours.
    lent: BTreeSet<u32>,
}

impl Table {
    pub(crate) fn new(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut table = Self::default();
        for Object { id, protocol, kind } in objects {
            table.taken.insert(id);
            let is_ours = protocol == PROTOCOL && IDS.contains(&id);
            match kind {
                Kind::Group(form, entries) if is_ours => {
                    table.groups.insert(id, (form, entries));
                }
                Kind::Group(_, entries) => table.lent.extend(entries.iter().map(|entry| entry.id)),
                Kind::Way(way) if is_ours => {
                    table.ways.insert(id, Some(way));
                }
                Kind::Other if is_ours => {
                    table.ways.insert(id, None);
                }
                Kind::Way(_) | Kind::Other => {}
            }
        }
        table
    }

    /// Two numbers that are not in use, from the end.
    pub(crate) fn spare(&self) -> Option<(u32, u32)> {
        let mut free = IDS.rev().filter(|id| !self.taken.contains(id));
        Some((free.next()?, free.next()?))
    }

    /// The members of a group, if it is one of ours, of this form, and has nobody else in it; twins count once.
    /// `ifname` names interfaces.
    pub(crate) fn members(
        &self,
        group: u32,
        form: Form,
        mut ifname: impl FnMut(u32) -> Option<IfName>,
    ) -> Option<Members> {
        let (_, entries) = self.groups.get(&group).filter(|(there, _)| *there == form)?;
        let mut member = |entry: &Entry| {
            let way = self.ways.get(&entry.id).copied().flatten()?;
            let weight = Weight::from_number(entry.weight)?;
            Some(Member { gateway: way.gateway, link: ifname(way.ifindex)?, weight })
        };
        Members::new(entries.iter().map(&mut member).collect::<Option<Vec<Member>>>()?)
    }
}

/// A group as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: u32,
    pub(crate) entries: Vec<Entry>,
    /// There is a group of this number and form.
    pub(crate) is_there: bool,
    /// It has other members so far.
    pub(crate) is_new: bool,
}

/// Works out the numbers: which objects to keep, to make and to remove.
#[derive(Debug)]
pub(crate) struct Changes {
    table: Table,
    form: Form,
    /// The objects of each way: the one to use, then its twin.
    numbers: BTreeMap<Way, Vec<u32>>,
    /// Groups of routes.
    used: BTreeSet<u32>,
    /// Members of groups.
    filled: BTreeSet<u32>,
    /// To be made.
    pub(crate) ways: Vec<(u32, Way)>,
}

impl Changes {
    /// `kept` are the groups of routes that stay as they are.
    pub(crate) fn new(table: Table, form: Form, kept: impl IntoIterator<Item = u32>) -> Self {
        let mut numbers: BTreeMap<Way, Vec<u32>> = BTreeMap::new();
        for (id, way) in &table.ways {
            if let Some(way) = way {
                numbers.entry(*way).or_default().push(*id);
            }
        }
        let used: BTreeSet<u32> = kept.into_iter().collect();
        let entries =
            used.iter().filter_map(|group| table.groups.get(group)).flat_map(|(_, entries)| entries);
        let mut filled: BTreeSet<u32> = entries.map(|entry| entry.id).collect();
        filled.extend(&table.lent);
        Self { table, form, numbers, used, filled, ways: Vec::new() }
    }

    /// Finds a place for the members of one destination: the group its route leads to so far, if it is of the
    /// right form and no other destination has it, else a new one. `None` when the numbers have run out.
    pub(crate) fn group(&mut self, current: Option<u32>, members: &[(Way, Weight)]) -> Option<Group> {
        let form = self.form;
        let there = current.filter(|group| !self.used.contains(group)).and_then(|group| {
            let (_, entries) = self.table.groups.get(&group).filter(|(there, _)| *there == form)?;
            Some((group, entries.clone()))
        });
        let before = there.as_ref().map_or_else(Vec::new, |(_, entries)| entries.clone());
        let mut entries = Vec::with_capacity(members.len());
        for (way, weight) in members {
            entries.push(Entry { id: self.number(*way, 0)?, weight: weight.number() });
            let twin = self.numbers.get(way).and_then(|numbers| numbers.get(1));
            let has_twin = twin.is_some_and(|twin| before.iter().any(|entry| entry.id == *twin));
            let can_have = way.gateway.is_ipv4() && form != Form::Plain;
            if can_have && (has_twin || members.len() == 1) {
                entries.push(Entry { id: self.number(*way, 1)?, weight: Weight::Least.number() });
            }
        }
        self.filled.extend(entries.iter().map(|entry| entry.id));
        let id = match &there {
            Some((group, _)) => *group,
            None => self.free_number()?,
        };
        self.used.insert(id);
        let is_new = there.is_none() || before != entries;
        Some(Group { id, entries, is_there: there.is_some(), is_new })
    }

    /// The same group with the twin its only member lacks: the other members have gone with their links.
    pub(crate) fn completed(&mut self, group: u32) -> Option<Group> {
        let (_, entries) = self.table.groups.get(&group)?;
        let [Entry { id, .. }] = entries.as_slice() else { return None };
        let way = self.table.ways.get(id).copied().flatten()?;
        self.used.remove(&group);
        let completed = self.group(Some(group), &[(way, Weight::Full)]);
        self.used.insert(group);
        completed.filter(|group| group.is_new)
    }

    /// The number of a way's object, or of its twin.
    fn number(&mut self, way: Way, place: usize) -> Option<u32> {
        if let Some(id) = self.numbers.get(&way).and_then(|numbers| numbers.get(place)) {
            return Some(*id);
        }
        let id = self.free_number()?;
        self.numbers.entry(way).or_default().push(id);
        self.ways.push((id, way));
        Some(id)
    }

    /// The lowest, to be found again as it was left.
    fn free_number(&mut self) -> Option<u32> {
        let id = IDS.into_iter().find(|id| !self.table.taken.contains(id))?;
        self.table.taken.insert(id);
        Some(id)
    }

    /// What nobody refers to any more, groups before their members.
    pub(crate) fn stale(&self) -> Vec<u32> {
        let groups = self.table.groups.keys().filter(|group| !self.used.contains(group));
        let ways = self.table.ways.keys().filter(|way| !self.filled.contains(way));
        groups.chain(ways).copied().collect()
    }
}

#[cfg(test)]
mod tests;
