//! Building the targets with libFuzzer inside: a nightly compiler, every branch counted, and a target directory of
//! their own, so that nobody else's build starts over.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::host_triple;
use crate::cmd;

/// The profile in `Cargo.toml`.
const PROFILE: &str = "fuzz";

/// How libFuzzer sees where an input goes: a counter per edge, the operands of comparisons, the depth of the stack.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Branches that are folded into one cannot be told apart.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// Where the fuzzers are.
#[derive(Debug)]
pub(super) struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// That of one target.
    pub(super) fn of(&self, target: &str) -> PathBuf {
        self.directory.join(target)
    }
}

/// The name of a nightly toolchain that is installed.
pub(super) fn nightly() -> Result<String> {
    const ASK: &str = "fuzzing takes a nightly compiler (nothing else does): rustup toolchain install nightly --profile minimal";
    let installed = cmd::output(Command::new("rustup").args(["toolchain", "list"])).context(ASK)?;
    pick(&installed).map(str::to_owned).context(ASK)
}

/// The first nightly toolchain of a list of rustup's.
fn pick(installed: &str) -> Option<&str> {
    let names = installed.lines().filter_map(|line| line.split_whitespace().next());
    names.into_iter().find(|name| name.starts_with("nightly"))
}

/// Builds the fuzzers of these targets.
pub(super) fn build(root: &Path, nightly: &str, targets: &[String], sanitize: bool) -> Result<Binaries> {
    let triple = host_triple()?;
    // Both kinds can be kept, and neither pushes the other out.
    let directory = root.join("target/fuzz").join(if sanitize { "build-asan" } else { "build" });
    let mut build = Command::new("rustup");
    build.current_dir(root).args(["run", nightly, "cargo", "build", "--profile", PROFILE]);
    build.args(["-p", "flock-fuzz", "--features", "libfuzzer"]);
    build.args(targets.iter().flat_map(|target| ["--bin", target]));
    // An explicit target keeps the flags away from build scripts and procedural macros.
    build.args(["--target", &triple, "--target-dir"]).arg(&directory);
    build.env("CARGO_ENCODED_RUSTFLAGS", flags(sanitize).join("\x1f"));
    println!("Building with {nightly}; the first time takes some minutes.");
    cmd::run(&mut build)?;
    Ok(Binaries { directory: directory.join(triple).join(PROFILE) })
}

fn flags(sanitize: bool) -> Vec<&'static str> {
    let mut flags = COVERAGE.to_vec();
    if cfg!(target_os = "linux") {
        flags.push("-Cllvm-args=-sanitizer-coverage-stack-depth");
    }
    if sanitize {
        flags.push("-Zsanitizer=address");
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nightly_is_found_under_any_of_its_names() {
        let table = [
            (
                "stable-x86_64-unknown-linux-gnu (default)\nnightly-x86_64-unknown-linux-gnu\n",
                Some("nightly-x86_64-unknown-linux-gnu"),
            ),
            (
                "nightly-2026-01-02-aarch64-apple-darwin (active)\n",
                Some("nightly-2026-01-02-aarch64-apple-darwin"),
            ),
            ("1.95.0-x86_64-unknown-linux-gnu\n", None),
            ("no installed toolchains\n", None),
            ("", None),
        ];
        for (installed, expected) in table {
            assert_eq!(pick(installed), expected, "{installed}");
        }
    }

    #[test]
    fn memory_is_checked_only_where_asked() {
        let sanitizes = |sanitize| flags(sanitize).contains(&"-Zsanitizer=address");
        assert_eq!([false, true].map(sanitizes), [false, true]);
    }
}
