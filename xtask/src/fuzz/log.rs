//! What libFuzzer prints, read.

use std::path::PathBuf;

/// Most lines of a reason: `assert_eq!` prints four, with the place.
const LONGEST_REASON: usize = 6;

/// The figures of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Inputs executed.
    pub(super) executions: u64,
    /// Executions per second.
    pub(super) rate: u64,
    /// Edges reached.
    pub(super) edges: u64,
    /// Inputs kept because each reaches something of its own.
    pub(super) corpus: u64,
}

/// What a run said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// Its figures, as far as it got.
    pub(super) figures: Figures,
    /// Place and message of the panic, or libFuzzer's own word for what went wrong: a few lines.
    pub(super) reason: Vec<String>,
    /// Where libFuzzer wrote the input that did it.
    pub(super) input: Option<PathBuf>,
    /// Whether the lines of a panic's message are coming.
    pub(super) in_message: bool,
}

impl Log {
    /// Takes in one more line.
    pub(super) fn read(&mut self, line: &str) {
        self.in_message &= !["note: ", "stack backtrace:", "=="].iter().any(|end| line.starts_with(end));
        if self.in_message {
            if self.reason.len() < LONGEST_REASON {
                self.reason.push(line.to_owned());
            }
        } else if line.starts_with('#') {
            self.status(line);
        } else if let Some((_, value)) = line.split_once("stat::number_of_executed_units:") {
            self.figures.executions = number(value).unwrap_or(self.figures.executions);
        } else if let Some((_, value)) = line.split_once("stat::average_exec_per_sec:") {
            self.figures.rate = number(value).unwrap_or(self.figures.rate);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(PathBuf::from(path.trim()));
        } else if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.reason = vec![line.to_owned()];
            self.in_message = true;
        } else if self.reason.is_empty() && line.starts_with("==") && line.contains("ERROR: ") {
            self.reason.push(line.to_owned());
        }
    }

    /// A line such as `#1024 NEW cov: 614 ft: 2326 corp: 533/331Kb lim: 2571 exec/s: 2083 rss: 29Mb`.
    fn status(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |label| words.iter().position(|word| *word == label).and_then(|at| words.get(at + 1));
        let figures = &mut self.figures;
        let executions = words.first().and_then(|word| number(word.trim_start_matches('#')));
        figures.executions = executions.unwrap_or(figures.executions);
        figures.rate = after("exec/s:").and_then(|word| number(word)).unwrap_or(figures.rate);
        figures.edges = after("cov:").and_then(|word| number(word)).unwrap_or(figures.edges);
        let inputs = after("corp:").and_then(|word| word.split_once('/'));
        figures.corpus = inputs.and_then(|(inputs, _)| number(inputs)).unwrap_or(figures.corpus);
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Log {
        let mut log = Log::default();
        text.lines().for_each(|line| log.read(line));
        log
    }

    #[test]
    fn figures_are_those_of_the_end() {
        let log = read(
            "INFO: Running with entropic power schedule (0xFF, 100).\n\
             #44\tINITED cov: 452 ft: 871 corp: 30/4293b exec/s: 0 rss: 27Mb\n\
             #156289\tREDUCE cov: 614 ft: 2326 corp: 533/331Kb lim: 2571 exec/s: 2083 rss: 29Mb L: 172/2571 MS: 1 EraseBytes-\n\
             #249800\tDONE   cov: 615 ft: 2330 corp: 534/331Kb lim: 2571 exec/s: 2081 rss: 29Mb\n\
             Done 249800 runs in 120 second(s)\n\
             stat::number_of_executed_units: 249801\n\
             stat::average_exec_per_sec:     2064\n",
        );
        let figures = Figures { executions: 249_801, rate: 2064, edges: 615, corpus: 534 };
        assert_eq!(log, Log { figures, ..Log::default() });
    }

    #[test]
    fn panic_is_told_with_its_message_and_its_input() {
        let log = read(
            "#7\tNEW    cov: 9 ft: 9 corp: 3/8b lim: 4 exec/s: 0 rss: 27Mb L: 2/4 MS: 1 CopyPart-\n\
             \n\
             thread '<unnamed>' (12) panicked at fuzz/src/annotation.rs:50:13:\n\
             assertion `left == right` failed\n\
             \x20 left: 4100\n\
             \x20right: 4096\n\
             note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n\
             ==12== ERROR: libFuzzer: deadly signal\n\
             artifact_prefix='found/'; Test unit written to found/crash-0a\n\
             stat::number_of_executed_units: 8\n",
        );
        assert!(log.reason[0].contains("annotation.rs:50:13"), "{log:?}");
        assert_eq!(log.reason[1..], ["assertion `left == right` failed", "  left: 4100", " right: 4096"]);
        assert_eq!(log.input, Some("found/crash-0a".into()));
        assert_eq!((log.figures.executions, log.figures.corpus), (8, 3));
    }

    #[test]
    fn what_is_no_panic_is_told_in_the_words_of_libfuzzer() {
        for (line, file) in [
            ("==12== ERROR: libFuzzer: timeout after 10 seconds", "found/timeout-0a"),
            ("==12== ERROR: libFuzzer: out-of-memory (used: 1025Mb; limit: 1024Mb)", "found/oom-0a"),
            ("==12==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x6", "found/crash-0a"),
        ] {
            let log = read(&format!("{line}\nartifact_prefix='found/'; Test unit written to {file}\n"));
            assert_eq!((log.reason, log.input), (vec![line.to_owned()], Some(file.into())));
        }
    }
}
