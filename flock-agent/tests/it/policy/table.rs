//! Compares what is seen with what Kubernetes promises, policy set by policy set.

use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::prober::{Cell, Spot, probe};
use super::world::World;
use crate::object::text;

/// A set of policies, and what it shows.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) policies: Vec<Value>,
    /// What has to be enforced, where the set as it is has no meaning.
    pub(super) meaning: Option<Vec<Value>>,
}

impl Entry {
    pub(super) fn new(name: impl Into<String>, policies: impl IntoIterator<Item = Value>) -> Self {
        Self { name: name.into(), policies: named(policies), meaning: None }
    }

    pub(super) fn meaning(self, policies: impl IntoIterator<Item = Value>) -> Self {
        Self { meaning: Some(named(policies)), ..self }
    }
}

/// Names policies by their place.
fn named(policies: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let numbered = policies.into_iter().enumerate().map(|(n, mut policy)| {
        policy["metadata"]["name"] = json!(format!("p{n}"));
        policy
    });
    numbered.collect()
}

/// How long a change may take to be in force, and an answer to come. Both only keep a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so many faults the rest of a table says nothing new.
const ENOUGH: usize = 5;

/// Goes through the sets one after another.
pub(super) fn check(world: &mut World, entries: Vec<Entry>) {
    let mut faults = Vec::new();
    let (began, all) = (Instant::now(), entries.len());
    for entry in entries {
        world.apply(&entry.policies);
        let meaning = entry.meaning.unwrap_or(entry.policies);
        faults.extend(fault(world, &entry.name, &meaning));
        if faults.len() == ENOUGH {
            break;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{all} policy sets hold after {:?}", began.elapsed());
}

/// The same for whatever is in the cluster now.
pub(super) fn check_now(world: &World, what: &str) {
    let policies: Vec<Value> = world.policies().into_iter().cloned().collect();
    let fault = fault(world, what, &policies);
    assert!(fault.is_none(), "{}", fault.unwrap());
}

/// Waits until what is seen is as expected, and looks once more, since it has to stay so.
fn fault(world: &World, what: &str, meaning: &[Value]) -> Option<String> {
    let (spots, cells) = (world.spots(), world.cells());
    let expected = world.expected(&cells, meaning);
    let deadline = Instant::now() + PATIENCE;
    let mut patience = Duration::from_millis(50);
    loop {
        let seen = probe(&spots, &cells, &expected, patience);
        if seen == expected {
            break;
        }
        if Instant::now() > deadline {
            return Some(report(world, what, &cells, &expected, &seen));
        }
        patience = (patience * 2).min(Duration::from_secs(2));
    }
    let seen = probe(&spots, &cells, &expected, PATIENCE);
    (seen != expected).then(|| report(world, &format!("{what} (the second time)"), &cells, &expected, &seen))
}

/// What differs, in what circumstances.
fn report(world: &World, what: &str, cells: &[Cell], expected: &[bool], seen: &[bool]) -> String {
    let spots = world.spots();
    let mut text = format!("--- {what}: ");
    let wrong: Vec<usize> = (0..cells.len()).filter(|n| expected[*n] != seen[*n]).collect();
    writeln!(text, "{} of {} cells are wrong", wrong.len(), cells.len()).unwrap();
    for n in wrong.iter().take(12) {
        let (from, to) = (at(&spots, &cells[*n], cells[*n].from), at(&spots, &cells[*n], cells[*n].to));
        let answer = |admitted: bool| if admitted { "admitted" } else { "refused" };
        writeln!(
            text,
            "{from} -> {to} {:?} {}: {} instead of {}",
            cells[*n].kind,
            cells[*n].port,
            answer(seen[*n]),
            answer(expected[*n])
        )
        .unwrap();
    }
    for policy in world.policies() {
        let (namespace, name) = (self::text(policy, "namespace"), self::text(policy, "name"));
        writeln!(text, "policy {namespace}/{name}: {}", policy["spec"]).unwrap();
    }
    for node in &world.nodes {
        let table = node.netns.output("nft", &["list", "table", "inet", "flock"]);
        writeln!(text, "table of {}:\n{table}", node.name()).unwrap();
    }
    text
}

fn at(spots: &[Spot<'_>], cell: &Cell, spot: usize) -> String {
    format!("{} {}", spots[spot].name, spots[spot].address(cell.family))
}
