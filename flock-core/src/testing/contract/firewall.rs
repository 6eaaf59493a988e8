//! Laws of [`Firewall`], for the fake and for the kernel alike.
#![allow(clippy::missing_panics_doc, reason = "a broken law panics")]

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;

use crate::policy::{Place, Ruleset, Shut, Stamp, Update};
use crate::ports::{Fingerprint, Firewall, FirewallError, Observed};

mod examples;

pub use examples::{Example, chain, examples, link, ruleset};

/// The port under test and what happens to it from outside. There is no table at first.
#[async_trait(?Send)]
pub trait FirewallWorld: Sync {
    fn firewall(&self) -> &dyn Firewall;
    /// Somebody removes all tables.
    async fn flush(&self);
    /// Somebody changes a table of their own.
    async fn disturb(&self);
    /// Somebody takes a source address from the pod of a link.
    async fn tamper(&self, link: &crate::ids::IfName, source: std::net::IpAddr);
}

/// One law.
pub type Law = fn(&dyn FirewallWorld) -> Pin<Box<dyn Future<Output = ()> + '_>>;

/// Makes a `#[test]` of every law; `$run` makes a world and runs the law in it.
#[macro_export]
macro_rules! firewall_contract {
    ($run:path) => {
        $crate::firewall_contract! { $run =>
            without_a_table_nothing_can_be_changed
            new_table_is_as_asked_for
            table_is_replaced_by_another
            every_update_leaves_what_a_new_table_would_have
            a_hundred_updates_leave_what_a_new_table_would_have
            raised_stamp_is_seen
            empty_update_changes_nothing
            update_the_kernel_does_not_show_changes_nothing
            guard_adds_the_sources_of_a_pod
            guard_shuts_a_pod
            repeated_guard_changes_nothing
            guarded_pod_is_opened_by_an_update
            removed_table_is_seen
            changes_of_others_are_seen_and_our_own_are_not
            refused_update_changes_nothing
            calls_may_overlap
            forgetting_needs_no_flows
            counters_begin_at_zero
        }
    };
    ($run:path => $($law:ident)*) => { $(
        #[test]
        fn $law() {
            $run(|world| Box::pin($crate::testing::contract::firewall::$law(world)));
        }
    )* };
}

fn first(rules: &Ruleset) -> Option<Stamp> {
    rules.judging.then_some(Stamp::FIRST)
}

async fn written(world: &dyn FirewallWorld, rules: &Ruleset) -> Observed {
    world.firewall().replace(rules, Stamp::FIRST).await.unwrap();
    observed(world).await
}

async fn observed(world: &dyn FirewallWorld) -> Observed {
    world.firewall().observe().await.unwrap().expect("there is a table")
}

async fn fingerprint(world: &dyn FirewallWorld) -> Fingerprint {
    world.firewall().fingerprint().await.unwrap()
}

/// Brings the table from one to the other.
async fn change(world: &dyn FirewallWorld, from: &Ruleset, to: &Ruleset) {
    world.firewall().update(&Update::between(from, to, Stamp::FIRST)).await.unwrap();
}

pub async fn without_a_table_nothing_can_be_changed(world: &dyn FirewallWorld) {
    let firewall = world.firewall();
    assert_eq!(firewall.observe().await.unwrap(), None);
    assert_eq!(fingerprint(world).await.table, None);
    for example in examples() {
        let update = Update::between(&Ruleset::default(), &example.rules, Stamp::FIRST);
        if !update.is_empty() {
            let refused = firewall.update(&update).await.unwrap_err();
            assert!(matches!(refused, FirewallError::Missing), "{}: {refused}", example.name);
        }
    }
    let refused = firewall.guard(&link(1).guard(true)).await.unwrap_err();
    assert!(matches!(refused, FirewallError::Missing), "{refused}");
    assert_eq!(firewall.observe().await.unwrap(), None, "no half a table");
    assert_eq!(firewall.counters().await.map_err(|error| error.label()).unwrap_err(), "firewall_missing");
}

pub async fn new_table_is_as_asked_for(world: &dyn FirewallWorld) {
    for Example { name, rules } in examples() {
        assert_eq!(written(world, &rules).await, rules.as_observed(first(&rules)), "{name}");
        assert!(fingerprint(world).await.table.is_some());
    }
}

pub async fn table_is_replaced_by_another(world: &dyn FirewallWorld) {
    let examples = examples();
    let numbers = |world| async move { fingerprint(world).await.table };
    let mut seen = BTreeSet::new();
    for Example { name, rules } in examples.iter().chain(examples.iter().rev()) {
        assert_eq!(written(world, rules).await, rules.as_observed(first(rules)), "{name}");
        assert!(seen.insert(numbers(world).await), "{name}: it is another table");
    }
}

pub async fn every_update_leaves_what_a_new_table_would_have(world: &dyn FirewallWorld) {
    let examples = examples();
    for from in &examples {
        for to in &examples {
            world.firewall().replace(&from.rules, Stamp::FIRST).await.unwrap();
            change(world, &from.rules, &to.rules).await;
            let wanted = to.rules.as_observed(first(&to.rules));
            assert_eq!(observed(world).await, wanted, "from {} to {}", from.name, to.name);
        }
    }
}

pub async fn a_hundred_updates_leave_what_a_new_table_would_have(world: &dyn FirewallWorld) {
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut rules = ruleset(&mut seed);
    let mut stamp = Stamp::FIRST;
    world.firewall().replace(&rules, stamp).await.unwrap();
    for step in 0..100 {
        let next = ruleset(&mut seed);
        let mut update = Update::between(&rules, &next, stamp);
        if next.judging && step % 3 == 0 {
            stamp = stamp.next().0;
            update = update.judging_again(stamp);
        }
        world.firewall().update(&update).await.unwrap_or_else(|error| panic!("{step}: {error}\n{update:#?}"));
        let wanted = next.as_observed(next.judging.then_some(stamp));
        assert_eq!(observed(world).await, wanted, "{step}: {update:#?}");
        rules = next;
    }
    let own = world.firewall();
    let before = own.fingerprint().await.unwrap();
    own.replace(&rules, stamp).await.unwrap();
    let after = own.fingerprint().await.unwrap();
    assert_eq!(before.foreign, after.foreign, "all of it was ours");
}

pub async fn raised_stamp_is_seen(world: &dyn FirewallWorld) {
    let rules = examples().remove(1).rules;
    written(world, &rules).await;
    for (count, stamp) in [Stamp::FIRST.next().0, Stamp::LAST, Stamp::FIRST].into_iter().enumerate() {
        world.firewall().update(&Update::default().judging_again(stamp)).await.unwrap();
        assert_eq!(observed(world).await, rules.as_observed(Some(stamp)), "{count}");
    }
}

pub async fn empty_update_changes_nothing(world: &dyn FirewallWorld) {
    world.firewall().update(&Update::default()).await.expect("not even without a table");
    for Example { rules, .. } in examples() {
        let before = (written(world, &rules).await, fingerprint(world).await);
        change(world, &rules, &rules).await;
        assert_eq!((observed(world).await, fingerprint(world).await), before);
    }
}

pub async fn update_the_kernel_does_not_show_changes_nothing(world: &dyn FirewallWorld) {
    let shut = |why| {
        let mut rules = Ruleset { judging: true, ..Ruleset::default() };
        rules.pods.insert(link(1).name(), link(1).rules(Place::Shut(why)));
        rules
    };
    let (starting, failed) = (shut(Shut::Starting), shut(Shut::Failed));
    let before = (written(world, &starting).await, fingerprint(world).await);
    change(world, &starting, &failed).await;
    assert_eq!((observed(world).await, fingerprint(world).await), before);
}

pub async fn guard_adds_the_sources_of_a_pod(world: &dyn FirewallWorld) {
    for Example { name, mut rules } in examples() {
        written(world, &rules).await;
        let guard = link(9).guard(false);
        world.firewall().guard(&guard).await.unwrap();
        guard.apply(&mut rules);
        assert_eq!(observed(world).await, rules.as_observed(first(&rules)), "{name}");
    }
}

pub async fn guard_shuts_a_pod(world: &dyn FirewallWorld) {
    let mut rules = Ruleset { judging: true, ..Ruleset::default() };
    rules.pods.insert(link(1).name(), link(1).rules(Place::Open));
    written(world, &rules).await;
    for pod in [link(1), link(2)] {
        let guard = pod.guard(true);
        world.firewall().guard(&guard).await.unwrap();
        guard.apply(&mut rules);
        assert_eq!(observed(world).await, rules.as_observed(first(&rules)));
    }
}

pub async fn repeated_guard_changes_nothing(world: &dyn FirewallWorld) {
    written(world, &examples().remove(1).rules).await;
    let guard = link(9).guard(true);
    world.firewall().guard(&guard).await.unwrap();
    let before = (observed(world).await, fingerprint(world).await);
    for _ in 0..3 {
        world.firewall().guard(&guard).await.unwrap();
        assert_eq!((observed(world).await, fingerprint(world).await), before, "nobody else did anything");
    }
}

pub async fn guarded_pod_is_opened_by_an_update(world: &dyn FirewallWorld) {
    for Example { name, rules } in examples() {
        for (wanted, place) in [(true, Place::Open), (true, Place::Shut(Shut::Failed)), (false, Place::Open)]
        {
            written(world, &rules).await;
            let guard = link(9).guard(true);
            world.firewall().guard(&guard).await.unwrap();
            let (mut from, mut to) = (rules.clone(), rules.clone());
            guard.apply(&mut from);
            if wanted {
                to.pods.insert(link(9).name(), link(9).rules(place));
            }
            change(world, &from, &to).await;
            assert_eq!(observed(world).await, to.as_observed(first(&to)), "{name}");
        }
    }
}

pub async fn removed_table_is_seen(world: &dyn FirewallWorld) {
    let rules = examples().remove(1).rules;
    written(world, &rules).await;
    let before = fingerprint(world).await;
    world.flush().await;
    let after = fingerprint(world).await;
    assert_eq!(after.table, None);
    assert_ne!(after.foreign, before.foreign);
    assert_eq!(world.firewall().observe().await.unwrap(), None);
    let refused = world.firewall().guard(&link(9).guard(false)).await.unwrap_err();
    assert!(matches!(refused, FirewallError::Missing), "{refused}");
    let update = Update::default().judging_again(Stamp::LAST);
    let refused = world.firewall().update(&update).await.unwrap_err();
    assert!(matches!(refused, FirewallError::Missing), "{refused}");
    assert_eq!(written(world, &rules).await, rules.as_observed(Some(Stamp::FIRST)));
}

pub async fn changes_of_others_are_seen_and_our_own_are_not(world: &dyn FirewallWorld) {
    let examples = examples();
    written(world, &examples[0].rules).await;
    let mut before = fingerprint(world).await;
    for pair in examples.windows(2) {
        change(world, &pair[0].rules, &pair[1].rules).await;
        assert_eq!(fingerprint(world).await, before, "to {}", pair[1].name);
    }
    world.firewall().guard(&link(9).guard(true)).await.unwrap();
    assert_eq!(fingerprint(world).await, before);
    world.disturb().await;
    let after = fingerprint(world).await;
    assert_eq!((after.table, after.foreign), (before.table, before.foreign.wrapping_add(1)));
    before = after;
    let held = observed(world).await;
    world.tamper(&link(9).name(), link(9).sources()[0]).await;
    assert_ne!(fingerprint(world).await, before);
    assert_ne!(observed(world).await, held);
}

pub async fn refused_update_changes_nothing(world: &dyn FirewallWorld) {
    let (from, to) = (examples().remove(0).rules, examples().remove(1).rules);
    written(world, &to).await;
    let source = link(1).sources()[0];
    world.tamper(&link(1).name(), source).await;
    let before = (observed(world).await, fingerprint(world).await);
    // Some of it is there and some is not.
    let refused = world.firewall().update(&Update::between(&to, &from, Stamp::FIRST)).await;
    if refused.is_err() {
        assert_eq!((observed(world).await, fingerprint(world).await), before);
    }
}

pub async fn calls_may_overlap(world: &dyn FirewallWorld) {
    let (from, to) = (examples().remove(0).rules, examples().remove(2).rules);
    written(world, &from).await;
    let before = fingerprint(world).await;
    let update = Update::between(&from, &to, Stamp::FIRST);
    let (guards, firewall) = ([link(7).guard(true), link(8).guard(false)], world.firewall());
    let done = tokio::join!(
        firewall.update(&update),
        firewall.guard(&guards[0]),
        firewall.fingerprint(),
        firewall.guard(&guards[1]),
    );
    assert_eq!(done.2.unwrap(), before);
    done.0.and(done.1).and(done.3).unwrap();
    let mut wanted = to;
    for guard in guards {
        guard.apply(&mut wanted);
    }
    assert_eq!(observed(world).await, wanted.as_observed(first(&wanted)));
    assert_eq!(fingerprint(world).await, before);
}

pub async fn forgetting_needs_no_flows(world: &dyn FirewallWorld) {
    let addresses = link(1).sources().into_iter().collect();
    assert_eq!(world.firewall().forget(&addresses).await.unwrap(), 0);
    assert_eq!(world.firewall().forget(&BTreeSet::new()).await.unwrap(), 0);
    world.firewall().forget_stamps(Stamp::FIRST).await.unwrap();
}

pub async fn counters_begin_at_zero(world: &dyn FirewallWorld) {
    written(world, &examples().remove(1).rules).await;
    assert_eq!(world.firewall().counters().await.unwrap(), crate::ports::Counters::default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeFirewall;

    #[async_trait(?Send)]
    impl FirewallWorld for FakeFirewall {
        fn firewall(&self) -> &dyn Firewall {
            self
        }
        async fn flush(&self) {
            FakeFirewall::flush(self);
        }
        async fn disturb(&self) {
            FakeFirewall::disturb(self);
        }
        async fn tamper(&self, link: &crate::ids::IfName, source: std::net::IpAddr) {
            FakeFirewall::tamper(self, |rules| {
                rules.pods.get_mut(link).unwrap().sources.remove(&source);
            });
        }
    }

    fn run(law: Law) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(law(&FakeFirewall::default()));
    }

    crate::firewall_contract!(run);
}
