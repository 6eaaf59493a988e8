//! What every [`StateStore`] keeps to.

use std::future::{Future, poll_fn};
use std::iter::zip;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::ids::{AttachmentId, PodKey};
use crate::ipam::{Addresses, Allocation, Cooling, Phase, Snapshot};
use crate::ports::{NetnsPath, Retry, StateStore, StoreError};
use crate::time::Timestamp;

/// A [`StateStore`] on a medium of its own, which is empty at first.
pub trait StoreBench {
    /// The port under test.
    fn store(&self) -> &dyn StateStore;

    /// The agent ends, whatever it was doing, and another one opens the same medium.
    fn restart(&mut self);

    /// From now on nothing can be written, or it can again.
    fn fail(&mut self, fail: bool);

    /// Something else is where the state was, before the agent starts.
    fn corrupt(&mut self);
}

/// Runs every law on a bench of its own.
pub async fn store<B: StoreBench>(fresh: impl AsyncFn() -> B) {
    a_fresh_store_holds_nothing(fresh().await).await;
    what_was_saved_is_there_after_a_restart(fresh().await).await;
    the_newest_generation_stays(fresh().await).await;
    a_stale_generation_does_not_replace_a_newer_one_of_before_the_restart(fresh().await).await;
    another_boot_starts_counting_anew(fresh().await).await;
    overlapping_saves_all_end_and_leave_the_newest(fresh().await).await;
    an_abandoned_save_does_no_harm(fresh().await).await;
    a_failed_save_keeps_the_previous_state_and_the_next_one_works(fresh().await).await;
    overlapping_saves_all_hear_of_a_failure(fresh().await).await;
    what_is_not_a_state_is_corrupt_until_it_is_replaced(fresh().await).await;
}

/// A snapshot with `allocations` of every form, told apart by its generation.
///
/// # Panics
///
/// With more allocations than there are IPv4 addresses above 192.0.2.0.
pub fn snapshot_of(generation: u64, allocations: u32) -> Snapshot {
    let allocation = |index: u32| Allocation {
        attachment: AttachmentId::parse(&format!("{index:064x}/eth0")).unwrap(),
        pod: (index % 3 != 1).then(|| PodKey::new("default", &format!("pod-{index}")).unwrap()),
        uid: (index % 3 != 1).then(|| format!("0b2f-{index}").parse().unwrap()),
        netns: (index % 3 != 2).then(|| NetnsPath::parse(&format!("/run/netns/{index}")).unwrap()),
        addresses: Addresses {
            v6: (index % 4 != 1).then(|| (0x2001_0db8_u128 << 96 | u128::from(index + 1)).into()),
            v4: (index % 4 != 2).then(|| (0xc000_0200_u32 + index).into()),
        },
        extra: (0..index % 5 / 3).map(|_| (0xc633_6400_u32 + index).into()).map(IpAddr::V4).collect(),
        anycast: (0..index % 7 / 5).map(|_| "2001:db8:a::53".parse().unwrap()).collect(),
        phase: if index.is_multiple_of(2) { Phase::Committed } else { Phase::Pending },
    };
    Snapshot {
        version: Snapshot::VERSION,
        boot_id: "boot-1".to_owned(),
        generation,
        allocations: (0..allocations).map(allocation).collect(),
        cooling: vec![Cooling {
            address: "2001:db8::ffff".parse().unwrap(),
            since: Timestamp::from_millis(generation),
        }],
    }
}

fn snapshot(generation: u64) -> Snapshot {
    snapshot_of(generation, 4)
}

/// Runs all of them at the same time.
async fn all<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    let mut results: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (call, result) in zip(&mut calls, &mut results).filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(done) = call.as_mut().poll(context) {
                *result = Some(done);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

async fn saves(bench: &impl StoreBench, generation: u64) {
    bench.store().save(snapshot(generation)).await.unwrap();
}

async fn holds(bench: &impl StoreBench, expected: &Snapshot) {
    assert_eq!(bench.store().load().await.unwrap().as_ref(), Some(expected));
}

/// The same, seen by this agent and by the next.
async fn keeps(bench: &mut impl StoreBench, expected: &Snapshot) {
    holds(bench, expected).await;
    bench.restart();
    holds(bench, expected).await;
}

fn is_io(error: &StoreError) {
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Later);
}

async fn a_fresh_store_holds_nothing(mut bench: impl StoreBench) {
    for _ in 0..2 {
        assert_eq!(bench.store().load().await.unwrap(), None);
        bench.restart();
    }
}

async fn what_was_saved_is_there_after_a_restart(mut bench: impl StoreBench) {
    for (generation, allocations) in [(1, 0), (2, 300), (3, 1)] {
        let snapshot = snapshot_of(generation, allocations);
        bench.store().save(snapshot.clone()).await.unwrap();
        keeps(&mut bench, &snapshot).await;
    }
}

async fn the_newest_generation_stays(mut bench: impl StoreBench) {
    for generation in [3, 5, 4, 5, 1] {
        saves(&bench, generation).await;
    }
    keeps(&mut bench, &snapshot(5)).await;
    saves(&bench, 6).await;
    keeps(&mut bench, &snapshot(6)).await;
}

async fn a_stale_generation_does_not_replace_a_newer_one_of_before_the_restart(mut bench: impl StoreBench) {
    saves(&bench, 5).await;
    bench.restart();
    saves(&bench, 4).await;
    keeps(&mut bench, &snapshot(5)).await;
}

async fn another_boot_starts_counting_anew(mut bench: impl StoreBench) {
    saves(&bench, 100).await;
    bench.restart();
    let next = Snapshot { boot_id: "boot-2".to_owned(), ..snapshot(1) };
    bench.store().save(next.clone()).await.unwrap();
    keeps(&mut bench, &next).await;
}

async fn overlapping_saves_all_end_and_leave_the_newest(mut bench: impl StoreBench) {
    let order = (0..100_u64).map(|index| 1 + (index * 37) % 100);
    let results = all(order.map(|generation| bench.store().save(snapshot(generation)))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    keeps(&mut bench, &snapshot(100)).await;
}

async fn an_abandoned_save_does_no_harm(mut bench: impl StoreBench) {
    for generation in [1, 3, 5] {
        // Begun, and nobody waits for the end.
        let mut begun = pin!(bench.store().save(snapshot(generation)));
        let _ = begun.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    saves(&bench, 4).await;
    saves(&bench, 6).await;
    keeps(&mut bench, &snapshot(6)).await;
}

async fn a_failed_save_keeps_the_previous_state_and_the_next_one_works(mut bench: impl StoreBench) {
    saves(&bench, 1).await;
    bench.fail(true);
    for generation in [2, 3] {
        is_io(&bench.store().save(snapshot(generation)).await.unwrap_err());
    }
    bench.fail(false);
    holds(&bench, &snapshot(1)).await;
    // Also one that failed before.
    saves(&bench, 3).await;
    keeps(&mut bench, &snapshot(3)).await;
}

async fn overlapping_saves_all_hear_of_a_failure(mut bench: impl StoreBench) {
    bench.fail(true);
    let results = all((1..=20).map(|generation| bench.store().save(snapshot(generation)))).await;
    for result in results {
        is_io(&result.unwrap_err());
    }
    bench.fail(false);
    assert_eq!(bench.store().load().await.unwrap(), None);
    saves(&bench, 21).await;
    keeps(&mut bench, &snapshot(21)).await;
}

async fn what_is_not_a_state_is_corrupt_until_it_is_replaced(mut bench: impl StoreBench) {
    saves(&bench, 7).await;
    bench.corrupt();
    for _ in 0..2 {
        let error = bench.store().load().await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert_eq!(error.retry(), Retry::Never);
        bench.restart();
    }
    // Rebuilt from the kernel, and counted from the start.
    saves(&bench, 1).await;
    keeps(&mut bench, &snapshot(1)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    impl StoreBench for FakeStore {
        fn store(&self) -> &dyn StateStore {
            self
        }
        fn restart(&mut self) {
            self.recover();
        }
        fn fail(&mut self, fail: bool) {
            self.set_broken(fail);
        }
        fn corrupt(&mut self) {
            FakeStore::corrupt(self);
        }
    }

    #[tokio::test]
    async fn fake_store_keeps_the_contract() {
        store(async || FakeStore::default()).await;
    }

    #[tokio::test]
    async fn fake_store_fails_and_crashes_when_told_to() {
        let store = FakeStore::default();
        store.fail_after(1);
        saves(&store, 1).await;
        is_io(&store.save(snapshot(2)).await.unwrap_err());
        saves(&store, 2).await;

        store.crash_after(1);
        saves(&store, 3).await;
        for _ in 0..2 {
            assert!(matches!(store.save(snapshot(4)).await, Err(StoreError::Closed)));
            assert!(matches!(store.load().await, Err(StoreError::Closed)));
        }
        store.recover();
        holds(&store, &snapshot(3)).await;
        saves(&store, 4).await;
    }
}
