//! Values that many objects have in common, kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

use flock_core::policy::{Labels, NamedPort, PolicyPod};

/// Every value that is in use somewhere, and for a while those that were.
#[derive(Debug)]
struct Interned<T: ?Sized> {
    values: BTreeSet<Arc<T>>,
    /// How many values there may be before it is worth looking for those that nobody uses.
    limit: usize,
}

/// Fewer are not worth a look.
const FEW: usize = 64;

impl<T: Ord + ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Self { values: BTreeSet::new(), limit: FEW }
    }
}

impl<T: Ord + ?Sized> Interned<T> {
    /// The value as it is kept already, or this one from now on.
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(kept) = self.values.get(value) {
            *value = Arc::clone(kept);
            return;
        }
        if self.values.len() >= self.limit {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            // Twice what is in use: a look costs no more than the values that came since the last one.
            self.limit = FEW.max(self.values.len() * 2);
        }
        self.values.insert(Arc::clone(value));
    }
}

/// What pods of a workload have in common.
#[derive(Debug, Default)]
pub(crate) struct PodPool {
    labels: Interned<Labels>,
    ports: Interned<[NamedPort]>,
}

impl PodPool {
    pub(crate) fn share(&mut self, pod: &mut PolicyPod) {
        self.labels.share(&mut pod.labels);
        self.ports.share(&mut pod.ports);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: usize) -> Arc<Labels> {
        Arc::new([("app".to_owned(), app.to_string())].into())
    }

    #[test]
    fn equal_values_are_one() {
        let mut pool = Interned::default();
        let (mut one, mut same, mut other) = (labels(1), labels(1), labels(2));
        for value in [&mut one, &mut same, &mut other] {
            pool.share(value);
        }
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn values_that_nobody_uses_do_not_pile_up() {
        let mut pool = Interned::default();
        let mut used = labels(0);
        pool.share(&mut used);
        for app in 1..10_000 {
            pool.share(&mut labels(app));
        }
        assert!(pool.values.len() <= FEW, "{}", pool.values.len());
        let mut again = labels(0);
        pool.share(&mut again);
        assert!(Arc::ptr_eq(&used, &again));
    }
}
