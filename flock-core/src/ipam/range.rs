use std::collections::BTreeMap;

/// A set of numbers, kept as runs without gaps. "What is the lowest number not in the set?" then costs
/// one look-up, however many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// First to last number of each run; no two runs touch.
    runs: BTreeMap<u128, u128>,
}

impl RangeSet {
    /// The last number of the run that holds `number`, if one does.
    pub(super) fn run_end(&self, number: u128) -> Option<u128> {
        self.runs.range(..=number).next_back().map(|(_, last)| *last).filter(|last| *last >= number)
    }

    pub(super) fn insert(&mut self, number: u128) {
        if self.run_end(number).is_some() {
            return;
        }
        let before = self.runs.range(..number).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let last = number.checked_add(1).and_then(|next| self.runs.remove(&next)).unwrap_or(number);
        self.runs.insert(first, last);
    }

    pub(super) fn remove(&mut self, number: u128) {
        let Some((first, last)) = self.runs.range(..=number).next_back().map(|(first, last)| (*first, *last))
        else {
            return;
        };
        if last < number {
            return;
        }
        if first < number {
            self.runs.insert(first, number - 1);
        } else {
            self.runs.remove(&first);
        }
        if number < last {
            self.runs.insert(number + 1, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_the_number_line_are_ordinary_numbers() {
        let mut set = RangeSet::default();
        for number in [u128::MAX, 0, u128::MAX - 1, 1] {
            set.insert(number);
        }
        assert_eq!(
            (set.run_end(0), set.run_end(2), set.run_end(u128::MAX)),
            (Some(1), None, Some(u128::MAX))
        );
        set.remove(u128::MAX);
        set.remove(0);
        assert_eq!(set.runs, BTreeMap::from([(1, 1), (u128::MAX - 1, u128::MAX - 1)]));
    }

    proptest! {
        #[test]
        fn runs_are_maximal_and_hold_exactly_what_was_inserted(
            steps in prop::collection::vec((any::<bool>(), 0_u128..24), 0..80)
        ) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for (insert, number) in steps {
                if insert {
                    set.insert(number);
                    model.insert(number);
                } else {
                    set.remove(number);
                    model.remove(&number);
                }
            }
            for number in 0..25 {
                let run = (number..24).take_while(|next| model.contains(next)).last();
                prop_assert_eq!(set.run_end(number), run);
            }
            let starts = model.iter().filter(|number| **number == 0 || !model.contains(&(**number - 1)));
            prop_assert_eq!(set.runs.len(), starts.count());
        }
    }
}
