//! What a person sees while the lab works: one line per step, on stderr.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Prints the steps. What cannot be printed is not worth failing for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    tty: bool,
    paint: Paint,
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        let tty = std::io::stderr().is_terminal();
        Self { tty, paint: Paint::if_wanted(tty), started: Instant::now() }
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A line as it is, with an empty one after it.
    pub(super) fn title(&self, text: &str) {
        print(&format!("{}\n\n", self.paint.bold(text)));
    }

    /// Does `work`, and says what came of it: the second half of what it returns.
    pub(super) fn step<T>(
        &self,
        label: &str,
        doing: &str,
        work: impl FnOnce() -> Result<(T, String)>,
    ) -> Result<T> {
        if self.tty {
            print(&self.paint.dim(&format!(" · {label:<11}{doing} ...")));
        }
        let started = Instant::now();
        let result = work();
        if self.tty {
            print("\r\x1b[2K");
        }
        match result {
            Ok((value, outcome)) => {
                let took = self.paint.dim(&format!("({})", Took(started.elapsed())));
                print(&format!(" {} {label:<11}{outcome} {took}\n", self.paint.green("✓")));
                Ok(value)
            }
            Err(error) => {
                self.failure(label, doing);
                Err(error)
            }
        }
    }

    /// Something that went wrong.
    pub(super) fn failure(&self, label: &str, text: &str) {
        print(&format!(" {} {label:<11}{text}\n", self.paint.red("✗")));
    }

    /// The last line.
    pub(super) fn verdict(&self, good: bool, text: &str) {
        let text = format!("{text} ({})", Took(self.elapsed()));
        let painted = if good { self.paint.green(&text) } else { self.paint.red(&text) };
        print(&format!("\n{painted}\n"));
    }

    /// Text for a person, as it is.
    pub(super) fn say(text: &str) {
        print(&format!("{text}\n"));
    }
}

fn print(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Colours, where they are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(bool);

impl Paint {
    /// Colours for a terminal, unless `NO_COLOR` is set (to anything but nothing) or it is a dumb one.
    pub(super) fn if_wanted(tty: bool) -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self(tty && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"))
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A duration with two or three digits that mean something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took(pub(super) Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1000.0;
        match millis {
            ..10.0 => write!(f, "{millis:.1} ms"),
            ..1000.0 => write!(f, "{millis:.0} ms"),
            _ => write!(f, "{:.1} s", millis / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (micros, text) in
            [(340, "0.3 ms"), (9_940, "9.9 ms"), (41_300, "41 ms"), (999_400, "999 ms"), (1_234_000, "1.2 s")]
        {
            assert_eq!(Took(Duration::from_micros(micros)).to_string(), text);
        }
    }

    #[test]
    fn without_a_terminal_there_are_no_colours() {
        assert_eq!(Paint::if_wanted(false).red("bad"), "bad");
    }
}
