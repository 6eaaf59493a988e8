//! The targets over the committed inputs, and over small changes to them: what a plain `cargo test` can find.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use flock_fuzz::{TARGETS, Target};

/// Changed inputs per file: what all targets take in a second or two without optimisation.
const CHANGES: usize = 24;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs of a target by name, in the order of their names.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = corpus().join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect();
    assert!(!inputs.is_empty(), "{} is empty", directory.display());
    inputs.sort();
    inputs
}

/// Runs the target and, where it panics, says on what.
fn check(target: Target, name: &str, what: &str, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    assert!(outcome.is_ok(), "{name}, {what}: {}", input[..input.len().min(1000)].escape_ascii());
}

/// Every input as it is, then cut short and with one byte changed, at places spread over it.
fn run(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    for (file, input) in inputs(name) {
        check(target, &file, "as it is", &input);
        let step = input.len().div_ceil(CHANGES).max(1);
        for at in (0..input.len()).step_by(step) {
            check(target, &file, &format!("cut at {at}"), &input[..at]);
            let mut changed = input.clone();
            // Another bit each time, the highest among them: no longer ASCII.
            changed[at] ^= 1 << (at / step % 8);
            check(target, &file, &format!("byte {at} changed"), &changed);
        }
    }
}

#[test]
fn annotations_are_read_without_harm() {
    run("annotation");
}

#[test]
fn bird_replies_are_read_without_harm() {
    run("bird_reply");
}

#[test]
fn stdin_of_the_plugin_is_read_without_harm() {
    run("cni_stdin");
}

#[test]
fn manifests_are_read_without_harm() {
    run("node_config");
}

#[test]
fn socket_lines_are_read_without_harm() {
    run("socket_line");
}

#[test]
fn every_target_has_a_corpus_and_a_binary_and_no_other_has() {
    let names = |directory: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(corpus()), targets);
    assert_eq!(names(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin")), targets);
}
