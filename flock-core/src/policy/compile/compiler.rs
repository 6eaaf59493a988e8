use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::chains::Asked;
use super::holders::{Holder, Profile, Title, namespace_labels};
use super::selection::Selection;
use super::{LocalPod, from_scratch};
use crate::ids::PodKey;
use crate::policy::{Labels, PolicyPod, PolicyView, Ruleset};

/// Up to this many changed pods are taken one by one. For more it is faster to compile everything.
const FEW: usize = 24;

/// Compiles policies as [`compile`](super::compile) does, and is fast where only a few pods of other nodes have changed
/// since the last time. Everything that stays as it was is shared with what the last call returned.
#[derive(Debug, Default)]
pub struct Compiler {
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    view: PolicyView,
    pods: Vec<LocalPod>,
    ruleset: Ruleset,
    asked: Asked,
}

impl Compiler {
    /// Everything the firewall has to hold.
    pub fn compile(&mut self, view: &PolicyView, pods: &[LocalPod]) -> Ruleset {
        let advanced = self.last.as_mut().is_some_and(|last| last.advance(view, pods));
        if !advanced {
            let (mut ruleset, asked) = from_scratch(view, pods);
            if let Some(last) = self.last.take() {
                share(&last.ruleset.chains, &mut ruleset.chains);
                share(&last.ruleset.peers, &mut ruleset.peers);
                share(&last.ruleset.ports, &mut ruleset.ports);
            }
            self.last = Some(Last { view: view.clone(), pods: pods.to_vec(), ruleset, asked });
        }
        self.last.as_ref().map(|last| last.ruleset.clone()).unwrap_or_default()
    }
}

/// Takes the values that are the same from the last time.
fn share<K: Ord, V: PartialEq + ?Sized>(last: &BTreeMap<K, Arc<V>>, now: &mut BTreeMap<K, Arc<V>>) {
    for (key, value) in now {
        if let Some(before) = last.get(key).filter(|before| *before == value) {
            *value = Arc::clone(before);
        }
    }
}

impl Last {
    /// Follows changes of pods of other nodes; false where others have to be compiled, and nothing is changed then.
    fn advance(&mut self, view: &PolicyView, pods: &[LocalPod]) -> bool {
        let same = self.view.complete == view.complete
            && self.view.policies == view.policies
            && self.view.cluster == view.cluster
            && self.view.namespaces == view.namespaces
            && self.pods == pods;
        if !same {
            return false;
        }
        let Some((before, after)) = changed(&self.view.pods, &view.pods) else { return false };
        if !self.asked.count(view, &before, &after) {
            return false;
        }
        let affected = before.iter().chain(&after).flat_map(|pod| pod.pod_ips.iter().chain(&pod.claimed));
        self.members(view, &affected.copied().collect());
        self.view = view.clone();
        true
    }

    /// Lets these addresses join and leave the peers they are among.
    fn members(&mut self, view: &PolicyView, affected: &BTreeSet<IpAddr>) {
        if affected.is_empty() {
            return;
        }
        let holders = holders(view, &self.pods, affected);
        for (id, selection) in &self.asked.selections {
            let Some(members) = self.ruleset.peers.get_mut(id) else { continue };
            for address in affected {
                let is_member = is_member(selection, *address, holders.get(address));
                if is_member != members.contains(address) {
                    let members = Arc::make_mut(members);
                    if is_member {
                        members.insert(*address)
                    } else {
                        members.remove(address)
                    };
                }
            }
        }
    }
}

impl Asked {
    /// Counts the pods of each named port; false where a number comes or goes, and with it rules.
    fn count(&mut self, view: &PolicyView, before: &[&PolicyPod], after: &[&PolicyPod]) -> bool {
        if self.numbers.is_empty() {
            return true;
        }
        let mut counted = self.numbers.clone();
        for ((among, called), numbers) in &mut counted {
            let of = |pod: &PolicyPod| {
                let profile = Holder::remote(pod).and_then(|holder| holder.profile);
                let matching = profile.filter(|profile| {
                    among.matches(profile, &namespace_labels(&view.namespaces, profile.namespace))
                });
                matching.map(|profile| called.numbers(profile.ports)).unwrap_or_default()
            };
            for number in after.iter().flat_map(|pod| of(pod)) {
                let Some(count) = numbers.get_mut(&number) else { return false };
                *count += 1;
            }
            for number in before.iter().flat_map(|pod| of(pod)) {
                match numbers.get_mut(&number) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => return false,
                }
            }
        }
        self.numbers = counted;
        true
    }
}

/// The pods that are different, as they were and as they are; `None` where there are many.
fn changed<'a>(
    before: &'a Arc<BTreeMap<PodKey, Arc<PolicyPod>>>,
    after: &'a Arc<BTreeMap<PodKey, Arc<PolicyPod>>>,
) -> Option<(Vec<&'a PolicyPod>, Vec<&'a PolicyPod>)> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    if Arc::ptr_eq(before, after) {
        return Some((old, new));
    }
    let (mut was, mut is) = (before.iter().peekable(), after.iter().peekable());
    while old.len() + new.len() <= 2 * FEW {
        let order = match (was.peek(), is.peek()) {
            (None, None) => return Some((old, new)),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((was, _)), Some((is, _))) => was.cmp(is),
        };
        let left = if order.is_le() { was.next() } else { None };
        let right = if order.is_ge() { is.next() } else { None };
        // Compares by pointer first.
        if left != right {
            old.extend(left.map(|(_, pod)| &**pod));
            new.extend(right.map(|(_, pod)| &**pod));
        }
    }
    None
}

/// A pod that has an address; `None` where its labels are not known.
type HolderOf<'a> = (Title, Option<(Profile<'a>, Cow<'a, Labels>)>);

/// The pods that have these addresses.
fn holders<'a>(
    view: &'a PolicyView,
    pods: &'a [LocalPod],
    affected: &BTreeSet<IpAddr>,
) -> BTreeMap<IpAddr, Vec<HolderOf<'a>>> {
    let mut holders = BTreeMap::<_, Vec<_>>::new();
    let remote = view.pods.values().filter_map(|pod| Holder::remote(pod));
    for holder in remote.chain(pods.iter().filter_map(Holder::local)) {
        for (address, title) in holder.addresses().filter(|(address, _)| affected.contains(address)) {
            let labelled =
                |profile: Profile<'a>| (profile, namespace_labels(&view.namespaces, profile.namespace));
            holders.entry(address).or_default().push((title, holder.profile.map(labelled)));
        }
    }
    for holders in holders.values_mut() {
        // No other pod has a claim to the own address of a pod.
        if holders.iter().any(|(title, _)| *title == Title::Own) {
            holders.retain(|(title, _)| *title == Title::Own);
        }
    }
    holders
}

fn is_member(selection: &Selection, address: IpAddr, holders: Option<&Vec<HolderOf<'_>>>) -> bool {
    let matches = |(_, holder): &HolderOf<'_>| {
        holder.as_ref().is_some_and(|(profile, namespace)| selection.matches(profile, namespace))
    };
    selection.among.reaches(address)
        && holders.is_some_and(|holders| selection.quorum.is_met(holders.iter().map(matches)))
}
