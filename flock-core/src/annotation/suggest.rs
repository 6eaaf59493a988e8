//! What was meant by a key nobody knows.

use super::{KEYS, PREFIX};

/// The fix for an unknown key: the nearest known ones, or all of them.
pub(super) fn suggestion(name: &str) -> String {
    /// Edits a typo is worth; more is another word.
    const CLOSE: usize = 2;
    let lower = name.to_ascii_lowercase();
    let distances = KEYS.into_iter().map(|known| (edits(known, &lower), known));
    // A word of two letters is two edits away from too much.
    let close = |(distance, _): &(usize, &str)| *distance <= CLOSE && *distance < name.chars().count();
    let candidates: Vec<_> = distances.filter(close).collect();
    let Some(nearest) = candidates.iter().map(|(distance, _)| *distance).min() else {
        return format!("remove it, or use one of {}", KEYS.join(", "));
    };
    let meant: Vec<String> = candidates
        .into_iter()
        .filter(|(distance, _)| *distance == nearest)
        .map(|(_, known)| format!("{PREFIX}/{known}"))
        .collect();
    format!("use {}", meant.join(" or "))
}

/// Fewest characters inserted, deleted, replaced or swapped with their neighbour that make one word the
/// other (optimal string alignment). Words of very different length are as far apart as they are long.
fn edits(known: &str, other: &str) -> usize {
    let a: Vec<char> = known.chars().collect();
    let b: Vec<char> = other.chars().take(4 * a.len()).collect();
    // Three rows of the classic table: before the previous, the previous, the current.
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
            let mut cost =
                (at(&row, j) + usize::from(ca != cb)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if swapped {
                cost = cost.min(at(&before, j - 1) + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_what_a_typist_does() {
        let table = [
            ("ipv4", "ipv4", 0),
            ("ipv4", "ivp4", 1),
            ("ipv4", "ip4", 1),
            ("ipv4", "ipv44", 1),
            ("ipv4", "ipx4", 1),
            ("anycast", "anycats", 1),
            ("anycast", "ancyats", 2),
            ("addresses", "address", 2),
            ("ipv4", "", 4),
            ("ipv6", "\u{1f426}\u{1f426}", 4),
        ];
        for (a, b, expected) in table {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }
}
