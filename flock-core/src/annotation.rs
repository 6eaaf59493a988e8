//! What a pod asks for in its annotations.
//!
//! ```
//! use std::collections::BTreeMap;
//! use flock_core::annotation::PodIntent;
//!
//! let pod = |key: &str, value: &str| {
//!     PodIntent::parse(&BTreeMap::from([(format!("flock.fritzlab.net/{key}"), value.to_owned())]))
//! };
//! assert_eq!(pod("ipv4", " False ")?, PodIntent { ipv4: Some(false), ..PodIntent::default() });
//! assert_eq!(
//!     pod("ipv4", "no").unwrap_err().to_string(),
//!     r#"flock.fritzlab.net/ipv4 "no" is neither true nor false: write "false""#,
//! );
//! assert_eq!(
//!     pod("ivp4", "true").unwrap_err().to_string(),
//!     r#"flock.fritzlab.net/ivp4 "true" is not an annotation of flock: use flock.fritzlab.net/ipv4"#,
//! );
//! # Ok::<(), flock_core::annotation::AnnotationError>(())
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::iid::Field;
use crate::problem::Problem;

/// What the keys of flock's annotations start with, followed by a `/`; also its API group.
pub const PREFIX: &str = "flock.fritzlab.net";

/// The annotations of a pod, read. Keys outside [`PREFIX`] are somebody else's and are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodIntent {
    /// `ipv6`: whether the pod gets an IPv6 address; `None` where it does not say.
    pub ipv6: Option<bool>,
    /// `ipv4`: whether the pod gets an IPv4 address; `None` where it does not say.
    pub ipv4: Option<bool>,
    /// `cidr6`: prefixes to allocate from, in order, no host bits, none twice; empty: anywhere.
    pub cidr6: Vec<Ipv6Net>,
    /// `cidr4`: prefixes to allocate from, in order, no host bits, none twice; empty: anywhere.
    pub cidr4: Vec<Ipv4Net>,
    /// `ip-algo`: what to embed in the IPv6 interface identifier, in order, none twice; empty: nothing.
    pub ip_algo: Vec<Field>,
    /// `anycast`: addresses to bind on `lo`: unicast, none twice, none that is also in `addresses`.
    pub anycast: Vec<IpAddr>,
    /// `addresses`: addresses to bind on `eth0`: unicast, none twice. The first of each family takes the
    /// place of the allocation.
    pub addresses: Vec<IpAddr>,
}

impl PodIntent {
    /// Reads annotations. The error holds every problem, not the first.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, AnnotationError> {
        let mut intent = Self::default();
        let mut problems = Vec::new();
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            match name {
                "ipv6" => intent.ipv6 = boolean(key, value, &mut problems),
                "ipv4" => intent.ipv4 = boolean(key, value, &mut problems),
                _ if LATER.contains(&name) => problems.push(Problem::text(
                    key,
                    value,
                    "is not supported by this version of flock",
                    "remove the annotation",
                )),
                _ => problems.push(Problem::text(
                    // A key is at most 317 bytes in Kubernetes, but not in a manifest.
                    key.chars().take(120).collect::<String>(),
                    value,
                    "is not an annotation of flock",
                    suggestion(name),
                )),
            }
        }
        if problems.is_empty() { Ok(intent) } else { Err(AnnotationError(problems)) }
    }
}

/// Every problem of a pod's annotations, in the order of their keys; at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Problem::join(.0))]
pub struct AnnotationError(Vec<Problem>);

impl AnnotationError {
    /// The problems one by one.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

/// Keys that have a meaning.
const KNOWN: [&str; 2] = ["ipv6", "ipv4"];

/// Keys that get their meaning in a later version: ignoring them would give a pod other addresses than
/// it asks for.
const LATER: [&str; 5] = ["cidr6", "cidr4", "ip-algo", "anycast", "addresses"];

fn boolean(key: &str, value: &str, problems: &mut Vec<Problem>) -> Option<bool> {
    let word = value.trim().to_ascii_lowercase();
    let fix = match word.as_str() {
        "true" => return Some(true),
        "false" => return Some(false),
        "1" | "y" | "yes" | "on" | "enable" | "enabled" => r#"write "true""#,
        "0" | "n" | "no" | "off" | "disable" | "disabled" | "none" => r#"write "false""#,
        _ => r#"write "true" or "false""#,
    };
    problems.push(Problem::text(key, value, "is neither true nor false", fix));
    None
}

/// What may have been meant by an unknown key.
fn suggestion(name: &str) -> String {
    /// Edits a typo is worth; more is another word.
    const CLOSE: usize = 2;
    let lower = name.to_ascii_lowercase();
    let distances = KNOWN.into_iter().chain(LATER).map(|known| (edits(known, &lower), known));
    // A word of two letters is two edits away from too much.
    let close = |(distance, _): &(usize, &str)| *distance <= CLOSE && *distance < name.chars().count();
    let candidates: Vec<_> = distances.filter(close).collect();
    let Some(nearest) = candidates.iter().map(|(distance, _)| *distance).min() else {
        return format!("remove it, or use one of {}", KNOWN.join(", "));
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
