//! Which nexthop objects are flock's, what they say, and which have to come and go: no I/O.
//!
//! An object is flock's when its protocol and its number both are. Every way (gateway and interface) is one
//! object, every destination has a group of its own, which keeps its number while members come and go.

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

    /// The members of a group, if it is one of ours, of this form, and has nobody else in it. `ifname` names
    /// interfaces.
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
    numbers: BTreeMap<Way, u32>,
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
        let mut numbers = BTreeMap::new();
        for (id, way) in table.ways.iter().rev() {
            numbers.extend(way.map(|way| (way, *id)));
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
        let mut entries = Vec::with_capacity(members.len());
        for (way, weight) in members {
            entries.push(Entry { id: self.way(*way)?, weight: weight.number() });
        }
        self.filled.extend(entries.iter().map(|entry| entry.id));
        let form = self.form;
        let there = current.filter(|group| !self.used.contains(group)).and_then(|group| {
            let (_, entries) = self.table.groups.get(&group).filter(|(there, _)| *there == form)?;
            Some((group, entries.clone()))
        });
        let id = match &there {
            Some((group, _)) => *group,
            None => self.free_number()?,
        };
        self.used.insert(id);
        let is_new = there.as_ref().is_none_or(|(_, before)| *before != entries);
        Some(Group { id, entries, is_there: there.is_some(), is_new })
    }

    fn way(&mut self, way: Way) -> Option<u32> {
        if let Some(id) = self.numbers.get(&way) {
            return Some(*id);
        }
        let id = self.free_number()?;
        self.numbers.insert(way, id);
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
