//! One process of libFuzzer: what it may use, what it starts from, and how it ended.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use super::log::Log;
use crate::cmd;

/// The longest input, in bytes: well above every limit of a parser on what it shows or keeps.
const LONGEST_INPUT: u32 = 16 * 1024;

/// What one process may use, in MiB.
const MEMORY: u32 = 1024;

/// How long one input may take, in seconds. A parser is done in well under a millisecond.
const SLOWEST_INPUT: u32 = 10;

/// Where fuzzing happens, and for how long.
#[derive(Debug)]
pub(super) struct Workshop {
    root: PathBuf,
    seconds: NonZeroU32,
}

/// How the fuzzing of one target went.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// The target.
    pub(super) target: String,
    /// What libFuzzer said.
    pub(super) log: Log,
    /// How the process ended.
    pub(super) status: ExitStatus,
    /// Where all it said is kept, below the root.
    pub(super) transcript: PathBuf,
    /// The input that broke a law, where there is one.
    pub(super) input: Option<Vec<u8>>,
}

impl Run {
    /// Whether the time was over before anything was found.
    pub(super) fn is_clean(&self) -> bool {
        self.status.success()
    }
}

impl Workshop {
    /// A workshop below `target/fuzz/` of the repository at `root`.
    pub(super) fn new(root: &Path, seconds: NonZeroU32) -> Result<Self> {
        let workshop = Self { root: root.to_owned(), seconds };
        workshop.directory("log")?;
        Ok(workshop)
    }

    /// How long each target is fuzzed.
    pub(super) fn seconds(&self) -> NonZeroU32 {
        self.seconds
    }

    /// Fuzzes one target until its time is over or something is found.
    pub(super) fn run(&self, binary: &Path, target: &str) -> Result<Run> {
        let mut command = self.command(binary, target)?;
        let transcript = transcript(target);
        let mut kept = File::create(self.root.join(&transcript))
            .with_context(|| format!("cannot write {}", transcript.display()))?;
        let mut child = command.spawn().with_context(|| format!("cannot execute {}", cmd::show(&command)))?;
        let stderr = child.stderr.take().context("libFuzzer has no stderr")?;
        let mut log = Log::default();
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.context("cannot read what libFuzzer says")?;
            kept.write_all(&line).and_then(|()| kept.write_all(b"\n"))?;
            log.read(&String::from_utf8_lossy(&line));
        }
        let status = child.wait()?;
        let input = log.input.as_ref().map(|path| {
            fs::read(self.root.join(path)).with_context(|| format!("cannot read {}", path.display()))
        });
        Ok(Run { target: target.to_owned(), log, status, transcript, input: input.transpose()? })
    }

    fn command(&self, binary: &Path, target: &str) -> Result<Command> {
        let finds = self.directory(&format!("corpus/{target}"))?;
        self.directory(&format!("found/{target}"))?;
        let mut command = Command::new(binary);
        command.current_dir(&self.root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // The first directory is where new inputs go; the second one is only read.
        command.arg(finds).arg(self.root.join("fuzz/corpus").join(target));
        let dictionary = self.root.join("fuzz/dictionary").join(target);
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command.args([
            // Relative: it is shown to people, who copy it.
            format!("-artifact_prefix=target/fuzz/found/{target}/"),
            format!("-max_total_time={}", self.seconds),
            format!("-max_len={LONGEST_INPUT}"),
            format!("-rss_limit_mb={MEMORY}"),
            format!("-timeout={SLOWEST_INPUT}"),
            "-print_final_stats=1".to_owned(),
        ]);
        Ok(command)
    }

    /// A directory of the workshop, made where it is missing.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.root.join("target/fuzz").join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }
}

/// Where all that libFuzzer says is kept, below the root.
pub(super) fn transcript(target: &str) -> PathBuf {
    Path::new("target/fuzz/log").join(target)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Runs a script in the place of a fuzzer, which is given what a fuzzer is given.
    fn run(script: &str) -> Run {
        let root = tempfile::tempdir().unwrap();
        let binary = root.path().join("fuzzer");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        Workshop::new(root.path(), NonZeroU32::MIN).unwrap().run(&binary, "annotation").unwrap()
    }

    #[test]
    fn fuzzer_is_bounded_and_writes_only_where_it_may() {
        let script = r#"ls -d "$1" >&2 && test "$2" = "$PWD/fuzz/corpus/annotation" && shift 2 && echo "thread 'x' panicked at $*" >&2"#;
        let run = run(script);
        assert!(run.is_clean());
        let told = run.log.reason.concat();
        for limit in ["-max_total_time=1 ", "-max_len=16384 ", "-rss_limit_mb=1024 ", "-timeout=10 "] {
            assert!(told.contains(limit), "{told}");
        }
        assert!(told.contains("-artifact_prefix=target/fuzz/found/annotation/"), "{told}");
    }

    #[test]
    fn input_is_read_where_the_fuzzer_left_it() {
        let run = run(
            "f=target/fuzz/found/annotation/crash-0a; printf 'a\\377' > $f; echo \"Test unit written to $f\" >&2; exit 77",
        );
        assert!(!run.is_clean());
        assert_eq!(run.input.as_deref(), Some(b"a\xff".as_slice()));
    }

    #[test]
    fn fuzzer_that_says_nothing_has_still_failed() {
        let run = run("kill -SEGV $$");
        assert!(!run.is_clean());
        assert_eq!(run.input, None);
    }
}
