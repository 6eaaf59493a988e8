//! The objects of one kind, as the API server tells of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::object::Kind;

/// What is kept of objects, by name.
pub(crate) type Objects<K> = BTreeMap<<K as Kind>::Key, Arc<<K as Kind>::View>>;

/// An object that is kept.
type Kept<K> = (<K as Kind>::Key, Arc<<K as Kind>::View>);

/// What an object has become: what is kept of it, `None` where nothing is, or why it cannot be understood.
pub(crate) type Seen<K> = Result<Option<<K as Kind>::View>, String>;

/// One kind of objects. A list that is read anew replaces the old one in one step, when it is complete. An object that
/// cannot be understood keeps its last good state.
#[derive(Debug)]
pub(crate) struct Collection<K: Kind> {
    /// Shared with the views, so copied when something changes while a view has it.
    good: Arc<Objects<K>>,
    /// What is wrong with an object, by `NAMESPACE/NAME`.
    problems: BTreeMap<String, String>,
    next: Option<(Objects<K>, BTreeMap<String, String>)>,
    listed: bool,
    /// Counts changes of the objects.
    changes: u64,
    /// Counts changes of the problems.
    faults: u64,
    pool: K::Pool,
}

impl<K: Kind> Default for Collection<K> {
    fn default() -> Self {
        Self {
            good: Arc::default(),
            problems: BTreeMap::new(),
            next: None,
            listed: false,
            changes: 0,
            faults: 0,
            pool: K::Pool::default(),
        }
    }
}

impl<K: Kind> Collection<K> {
    /// A list begins.
    pub(crate) fn begin(&mut self) {
        self.next = Some((BTreeMap::new(), BTreeMap::new()));
    }

    /// An object of the list.
    pub(crate) fn list(&mut self, name: String, object: Seen<K>) {
        let (kept, problem) = self.understand(&name, object);
        if let Some((objects, problems)) = &mut self.next {
            objects.extend(kept);
            problems.extend(problem.map(|problem| (name, problem)));
        }
    }

    /// The list is complete; what is not in it is gone.
    pub(crate) fn end(&mut self) {
        let Some((objects, problems)) = self.next.take() else { return };
        if !self.listed || *self.good != objects {
            self.good = Arc::new(objects);
            self.changes += 1;
        }
        if self.problems != problems {
            self.problems = problems;
            self.faults += 1;
        }
        self.listed = true;
    }

    /// An object is there, or is different.
    pub(crate) fn apply(&mut self, name: String, object: Seen<K>) {
        let (kept, problem) = self.understand(&name, object);
        match kept {
            Some((key, view)) => {
                if self.good.get(&key).is_none_or(|old| !Arc::ptr_eq(old, &view)) {
                    Arc::make_mut(&mut self.good).insert(key, view);
                    self.changes += 1;
                }
            }
            None => self.remove(&name),
        }
        if self.problems.get(&name) != problem.as_ref() {
            self.faults += 1;
            match problem {
                Some(problem) => self.problems.insert(name, problem),
                None => self.problems.remove(&name),
            };
        }
    }

    /// An object is gone.
    pub(crate) fn delete(&mut self, name: &str) {
        self.remove(name);
        if self.problems.remove(name).is_some() {
            self.faults += 1;
        }
    }

    /// There is no such kind, hence no object of it. Returns how many were known.
    pub(crate) fn absent(&mut self) -> usize {
        let known = self.good.len();
        self.begin();
        self.end();
        known
    }

    /// Nobody needs the objects any more.
    pub(crate) fn forget(&mut self) {
        let (changes, faults) = (self.changes + 1, self.faults + 1);
        *self = Self { changes, faults, ..Self::default() };
    }

    fn remove(&mut self, name: &str) {
        if let Some(key) = K::key(name).filter(|key| self.good.contains_key(key)) {
            Arc::make_mut(&mut self.good).remove(&key);
            self.changes += 1;
        }
    }

    /// What is kept of an object from now on, and what is wrong with it.
    fn understand(&mut self, name: &str, object: Seen<K>) -> (Option<Kept<K>>, Option<String>) {
        let Some(key) = K::key(name) else { return (None, Some("the name cannot be understood".to_owned())) };
        let old = self.good.get(&key);
        match object {
            Ok(None) => (None, None),
            Ok(Some(mut view)) => {
                let remark = K::remark(&view);
                // The same allocation for the same content: comparing views is cheap then.
                let view = if let Some(old) = old.filter(|old| ***old == view) {
                    Arc::clone(old)
                } else {
                    K::share(&mut view, &mut self.pool);
                    Arc::new(view)
                };
                (Some((key, view)), remark)
            }
            Err(problem) => {
                let stand_in = K::stand_in(&key);
                match (old, stand_in) {
                    (Some(old), Some((view, meaning))) if **old == view => {
                        (Some((key, Arc::clone(old))), Some(format!("{problem}; {meaning}")))
                    }
                    (Some(old), _) => {
                        let problem = format!("{problem}; its last good state stays");
                        (Some((key, Arc::clone(old))), Some(problem))
                    }
                    (None, Some((view, meaning))) => {
                        (Some((key, Arc::new(view))), Some(format!("{problem}; {meaning}")))
                    }
                    (None, None) => (None, Some(problem)),
                }
            }
        }
    }

    pub(crate) fn listed(&self) -> bool {
        self.listed
    }

    pub(crate) fn objects(&self) -> &Arc<Objects<K>> {
        &self.good
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|(name, problem)| format!("{} {name}: {problem}", K::KIND))
    }
}
