use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::FirewallSynced;
use crate::ids::IfName;
use crate::policy::render::ChainName;
use crate::policy::{ChainId, Compiler, Guard, Place, Ruleset, Shut, Stamp, Update};
use crate::ports::{Fingerprint, Firewall, FirewallError, Observed};

/// What flock knows of the table in the kernel. Whoever changes the table holds it: one writer at a time.
#[derive(Debug)]
pub(in crate::app) struct Table {
    /// What it was last made to hold; `None`: what an earlier run wrote is in force.
    pub(super) rules: Option<Ruleset>,
    /// Those were read from the kernel at the start: nobody knows what its chains are.
    pub(super) read_back: bool,
    /// It does not hold that any more, or is not there: everything has to be written.
    pub(super) lost: bool,
    pub(super) stamp: Stamp,
    /// A pod that was open was shut by an ADD: its flows have to be judged again.
    pub(super) narrowed: bool,
    /// As last seen.
    pub(super) seen: Fingerprint,
    /// Remembers what it compiled, so that a change costs what changed.
    pub(super) compiler: Compiler,
    /// Chains nft has refused, with its words. Pods that need one are shut.
    pub(super) failed: BTreeMap<ChainId, String>,
    /// Pods that are shut for that and whose owners were told.
    pub(super) told: BTreeSet<IfName>,
}

impl Default for Table {
    fn default() -> Self {
        // Flows may carry any stamp of an earlier table: after the last number they lose them.
        Self {
            rules: None,
            read_back: false,
            lost: false,
            narrowed: false,
            stamp: Stamp::LAST,
            seen: Fingerprint::default(),
            compiler: Compiler::default(),
            failed: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }
}

/// The same with the pods shut that need one of these chains.
fn without<'a>(rules: &'a Ruleset, chains: &BTreeSet<ChainId>) -> Cow<'a, Ruleset> {
    if chains.is_empty() {
        return Cow::Borrowed(rules);
    }
    let mut rules = rules.clone();
    for pod in rules.pods.values_mut() {
        if let Place::Judged(gates) = &pod.place
            && gates.values().any(|chain| chains.contains(chain))
        {
            pod.place = Place::Shut(Shut::Failed);
        }
    }
    rules.prune();
    Cow::Owned(rules)
}

impl Table {
    pub(super) async fn replace(
        &mut self,
        firewall: &dyn Firewall,
        wanted: Ruleset,
    ) -> Result<(), FirewallError> {
        let stamp = self.next_stamp(firewall).await?;
        firewall.replace(&wanted, stamp).await?;
        self.stamp = stamp;
        self.rules = Some(wanted);
        self.lost = false;
        self.narrowed = false;
        self.seen = firewall.fingerprint().await?;
        Ok(())
    }

    pub(super) async fn write(
        &mut self,
        firewall: &dyn Firewall,
        wanted: &Ruleset,
    ) -> Result<FirewallSynced, FirewallError> {
        let Some(written) = self.rules.as_ref().filter(|_| !self.lost) else {
            self.replace(firewall, wanted.clone()).await?;
            return Ok(FirewallSynced::Replaced);
        };
        let (next, _) = self.stamp.next();
        let mut update = Update::between(written, wanted, next);
        let again = wanted.judging && self.narrowed;
        if update.is_empty() && !again {
            // Chains of which only the names were known are known now.
            self.rules = Some(wanted.clone());
            return Ok(FirewallSynced::Unchanged);
        }
        let narrows = again || wanted.judging && update.narrows(wanted);
        // Where pods come and go the sets follow at once; that open flows are judged again takes a run of nft.
        let apart = narrows && update.is_of_elements();
        if update.judging.is_some() || narrows && !apart {
            update = self.judging_again(firewall, update, wanted.judging).await?;
        }
        match firewall.update(&update).await {
            Ok(()) => {
                self.rules = Some(wanted.clone());
                self.narrowed = apart;
                if apart {
                    let again = self.judging_again(firewall, Update::default(), true).await?;
                    firewall.update(&again).await?;
                    self.narrowed = false;
                    update.judging = again.judging;
                }
                Ok(FirewallSynced::Updated(update))
            }
            // A part of it may be there already, which nothing leads to.
            Err(error @ (FirewallError::Refused(_) | FirewallError::Program { .. })) => {
                self.lost = true;
                Err(error)
            }
            // The table is not what was written: it is written anew.
            Err(error) => {
                tracing::warn!(op = "sync_firewall", label = error.label(), %error, "the table is written anew");
                self.replace(firewall, wanted.clone()).await?;
                Ok(FirewallSynced::Replaced)
            }
        }
    }

    /// The update with a stamp of its own, where flows are judged after it.
    async fn judging_again(
        &mut self,
        firewall: &dyn Firewall,
        update: Update,
        judging: bool,
    ) -> Result<Update, FirewallError> {
        let stamp = self.next_stamp(firewall).await?;
        self.stamp = stamp;
        Ok(if judging { update.judging_again(stamp) } else { update })
    }

    pub(super) async fn write_what_can_be(
        &mut self,
        firewall: &dyn Firewall,
        wanted: &Ruleset,
    ) -> Result<FirewallSynced, FirewallError> {
        let wanted = without(wanted, &self.failed.keys().copied().collect());
        self.write(firewall, &wanted).await
    }

    /// The number after the one in use, which no flow carries.
    async fn next_stamp(&self, firewall: &dyn Firewall) -> Result<Stamp, FirewallError> {
        let (next, is_used_again) = self.stamp.next();
        if is_used_again {
            firewall.forget_stamps(self.stamp).await?;
        }
        Ok(next)
    }

    /// Finds out which of the chains that are not written yet nft refuses, one after another.
    pub(super) async fn find_failed(
        &mut self,
        firewall: &dyn Firewall,
        wanted: &Ruleset,
    ) -> Result<(), FirewallError> {
        let written = self.rules.as_ref().map(|rules| rules.chains.clone()).unwrap_or_default();
        let mut untried: BTreeSet<ChainId> =
            wanted.chains.keys().filter(|chain| !written.contains_key(chain)).copied().collect();
        while let Some(chain) = untried.pop_first() {
            let others =
                without(wanted, &untried.iter().chain(self.failed.keys()).copied().collect()).into_owned();
            match self.write(firewall, &others).await {
                Ok(_) => {}
                Err(FirewallError::Refused(reason)) => drop(self.failed.insert(chain, reason)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn knows(&self, link: &IfName) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.pods.contains_key(link))
    }

    /// What of a guard is still to be done: a pod that is judged or shut already stays so.
    pub(super) fn guard_for(&self, guard: Guard) -> Guard {
        let pod = self.rules.as_ref().and_then(|rules| rules.pods.get(&guard.link));
        let closed = pod.is_some_and(|pod| pod.place != Place::Open);
        Guard { shut: guard.shut && !closed, ..guard }
    }

    /// How the table in the kernel differs from what was written, if that is known.
    pub(super) fn differs(&self, observed: Option<Observed>) -> Option<String> {
        let rules = self.rules.as_ref()?;
        let Some(observed) = observed else {
            return Some("the nftables table inet flock was removed".to_owned());
        };
        let written = rules.as_observed(rules.judging.then_some(self.stamp));
        if observed == written || self.read_back && is_like(&written, Some(&observed)) {
            return None;
        }
        let named = difference(&written.chains, &observed.chains)
            .or_else(|| difference(&written.sets, &observed.sets))
            .unwrap_or_else(|| "the stamp".to_owned());
        Some(format!("{named} of the nftables table inet flock was changed by another program"))
    }
}

/// Whether a table has the form of this version: the same sets, and the same chains, whatever the rules of policies.
pub(super) fn is_like(ours: &Observed, observed: Option<&Observed>) -> bool {
    let form = |table: &Observed| {
        let of_policy = |name: &str| ChainName::parse(name).is_some();
        let rules = |(name, rules): (&String, &u32)| (name.clone(), if of_policy(name) { 0 } else { *rules });
        (table.sets.clone(), table.chains.iter().map(rules).collect::<BTreeMap<_, _>>())
    };
    observed.is_some_and(|observed| form(observed) == form(ours))
}

/// The first name whose content differs.
fn difference<V: PartialEq>(written: &BTreeMap<String, V>, observed: &BTreeMap<String, V>) -> Option<String> {
    let names: BTreeSet<&String> = written.keys().chain(observed.keys()).collect();
    names.into_iter().find(|name| written.get(*name) != observed.get(*name)).cloned()
}
