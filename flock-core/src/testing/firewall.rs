//! A packet filter in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::ids::IfName;
use crate::policy::{Guard, Judging, Place, PodRules, Ruleset, Stamp, Update};
use crate::ports::{Counters, Fingerprint, Firewall, FirewallError, Observed, ObservedLink};

/// One call of the [`Firewall`] port that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirewallCall {
    Replace,
    Update(Update),
    Guard(Guard),
    Forget(BTreeSet<IpAddr>),
    ForgetStamps(Stamp),
}

/// A [`Firewall`] that holds what it is told, and says what it was asked to do.
#[derive(Debug, Default)]
pub struct FakeFirewall(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    table: Option<(Ruleset, Option<Stamp>)>,
    tables: u64,
    foreign: u32,
    calls: Vec<FirewallCall>,
    failures: VecDeque<Option<&'static str>>,
    refused: Option<IfName>,
}

impl FakeFirewall {
    /// What the table holds; `None` without one.
    pub fn rules(&self) -> Option<Ruleset> {
        self.state().table.as_ref().map(|(rules, _)| rules.clone())
    }

    /// The stamp in use.
    pub fn stamp(&self) -> Option<Stamp> {
        self.state().table.as_ref().and_then(|(_, stamp)| *stamp)
    }

    /// What it was asked to do since the last time.
    pub fn take_calls(&self) -> Vec<FirewallCall> {
        std::mem::take(&mut self.state().calls)
    }

    /// The next call that changes something is refused.
    pub fn fail_next(&self, step: &'static str) {
        self.state().failures.push_back(Some(step));
    }

    /// The call after those that were spoken of is not refused.
    pub fn pass_next(&self) {
        self.state().failures.push_back(None);
    }

    /// From now on rules in which this pod is judged are refused.
    pub fn refuse_chains_of(&self, link: &IfName) {
        self.state().refused = Some(link.clone());
    }

    /// Nothing is refused any more.
    pub fn refuse_none(&self) {
        self.state().refused = None;
    }

    /// Somebody removes all tables.
    pub fn flush(&self) {
        let mut state = self.state();
        state.table = None;
        state.foreign += 1;
    }

    /// Somebody changes a table of their own.
    pub fn disturb(&self) {
        self.state().foreign += 1;
    }

    /// Somebody changes the rules.
    pub fn tamper(&self, edit: impl FnOnce(&mut Ruleset)) {
        let mut state = self.state();
        state.foreign += 1;
        if let Some((rules, _)) = &mut state.table {
            edit(rules);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, call: FirewallCall) -> Result<MutexGuard<'_, State>, FirewallError> {
        let mut state = self.state();
        state.calls.push(call);
        match state.failures.pop_front().flatten() {
            Some(step) => Err(FirewallError::Kernel { step, source: io::Error::other("told to fail") }),
            None => Ok(state),
        }
    }
}

impl State {
    fn check(&self, rules: &Ruleset) -> Result<(), FirewallError> {
        let pod = self.refused.as_ref().and_then(|link| rules.pods.get(link));
        match pod.map(|pod| &pod.place) {
            Some(Place::Judged(_)) => Err(FirewallError::Refused("told to refuse".to_owned())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Firewall for FakeFirewall {
    async fn replace(&self, wanted: &Ruleset, stamp: Stamp) -> Result<(), FirewallError> {
        let mut state = self.call(FirewallCall::Replace)?;
        state.check(wanted)?;
        state.table = Some((wanted.clone(), wanted.judging.then_some(stamp)));
        state.tables += 1;
        Ok(())
    }

    async fn update(&self, update: &Update) -> Result<(), FirewallError> {
        if update.is_empty() {
            return Ok(());
        }
        let mut state = self.call(FirewallCall::Update(update.clone()))?;
        let mut after = state.table.as_ref().ok_or(FirewallError::Missing)?.0.clone();
        update.apply(&mut after);
        state.check(&after)?;
        let (rules, stamp) = state.table.as_mut().ok_or(FirewallError::Missing)?;
        *rules = after;
        match update.judging {
            Some(Judging::On(raised)) => *stamp = Some(raised),
            Some(Judging::Off) => *stamp = None,
            None => {}
        }
        Ok(())
    }

    async fn guard(&self, guard: &Guard) -> Result<(), FirewallError> {
        let mut state = self.call(FirewallCall::Guard(guard.clone()))?;
        let (rules, _) = state.table.as_mut().ok_or(FirewallError::Missing)?;
        guard.apply(rules);
        Ok(())
    }

    async fn forget(&self, addresses: &BTreeSet<IpAddr>) -> Result<usize, FirewallError> {
        drop(self.call(FirewallCall::Forget(addresses.clone()))?);
        Ok(0)
    }

    async fn forget_stamps(&self, current: Stamp) -> Result<(), FirewallError> {
        self.call(FirewallCall::ForgetStamps(current)).map(drop)
    }

    async fn fingerprint(&self) -> Result<Fingerprint, FirewallError> {
        let state = self.state();
        Ok(Fingerprint { table: state.table.as_ref().map(|_| state.tables), foreign: state.foreign })
    }

    async fn observe(&self) -> Result<Option<Observed>, FirewallError> {
        let state = self.state();
        Ok(state.table.as_ref().map(|(rules, stamp)| rules.as_observed(*stamp)))
    }

    async fn read(&self) -> Result<Option<(Ruleset, Option<Stamp>)>, FirewallError> {
        Ok(self.state().table.clone())
    }

    async fn links(&self) -> Result<BTreeMap<IfName, ObservedLink>, FirewallError> {
        let state = self.state();
        let pods = state.table.iter().flat_map(|(rules, _)| &rules.pods);
        let observed = |(link, pod): (&IfName, &PodRules)| {
            let chains = match &pod.place {
                Place::Judged(chains) => {
                    chains.iter().map(|(gate, chain)| (*gate, format!("{chain:?}"))).collect()
                }
                Place::Open | Place::Shut(_) => BTreeMap::new(),
            };
            let shut = matches!(pod.place, Place::Shut(_));
            (link.clone(), ObservedLink { sources: pod.sources.clone(), shut, chains })
        };
        Ok(pods.map(observed).collect())
    }

    async fn counters(&self) -> Result<Counters, FirewallError> {
        let state = self.state();
        state.table.as_ref().map(|_| Counters::default()).ok_or(FirewallError::Missing)
    }
}
