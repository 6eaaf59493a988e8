//! The daemons of the lab, and processes told apart for certain.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::netns::Netns;

/// A process as it was seen once: its number, and when it started, since numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    start: u64,
}

impl ProcessId {
    /// The living process of this number; a zombie is not one.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        start(&stat).map(|start| Self { pid, start })
    }

    /// This process.
    pub(super) fn own() -> Result<Self> {
        let pid = i32::try_from(std::process::id()).context("this process has no number")?;
        Self::of(pid).context("cannot read /proc/self/stat: is /proc mounted?")
    }

    /// Its number.
    pub(super) fn pid(self) -> i32 {
        self.pid
    }

    /// Whether it is still there.
    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it is still there.
    pub(super) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may have ended since; that is all the same.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// The start time in a line of `/proc/PID/stat`; `None` for a process that has ended. The second field is the
/// program's name in parentheses, which may hold anything.
fn start(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A daemon of the lab, with everything it says in a file.
#[derive(Debug)]
pub(super) struct Daemon {
    /// Whose it is, such as `node1`.
    pub(super) owner: &'static str,
    program: String,
    child: Child,
    id: ProcessId,
    log: PathBuf,
}

impl Daemon {
    /// Starts it. Its process group is its own: a Ctrl-C at the terminal is for the lab, which then ends its
    /// daemons in good order.
    pub(super) fn start(
        owner: &'static str,
        command: &mut Command,
        netns: &Netns,
        log: &Path,
    ) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let error_file = file.try_clone().context("cannot duplicate a file descriptor")?;
        command.stdin(Stdio::null()).stdout(file).stderr(error_file).process_group(0);
        let child = netns.spawn(command)?;
        let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
        // `flock-agent bird` is another daemon than `flock-agent run`.
        let verb = command.get_args().next().filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
        let words: Vec<_> = std::iter::once(program).chain(verb).map(|word| word.to_string_lossy()).collect();
        let program = words.join(" ");
        let found = i32::try_from(child.id()).ok().and_then(ProcessId::of);
        let mut daemon =
            Self { owner, program, id: ProcessId { pid: 0, start: 0 }, child, log: log.to_owned() };
        let Some(id) = found else {
            let status = daemon.child.wait().context("cannot wait for a daemon")?;
            return Err(daemon.ended(status));
        };
        daemon.id = id;
        Ok(daemon)
    }

    /// Which process it is.
    pub(super) fn id(&self) -> ProcessId {
        self.id
    }

    /// What it is, such as `flock-agent run`.
    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Ends it by SIGKILL.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.program))?;
        self.child.wait().map(drop).with_context(|| format!("cannot wait for {}", self.program))
    }

    /// Fails when it has ended, which no daemon should.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot wait for {}", self.program))? {
            None => Ok(()),
            Some(status) => Err(self.ended(status)),
        }
    }

    /// The last lines of what it said, under a heading.
    pub(super) fn tail(&self) -> String {
        const LINES: usize = 12;
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(LINES);
        let last: Vec<_> = lines.iter().skip(from).map(|line| format!("    {line}")).collect();
        let last = if last.is_empty() { "    (nothing)".to_owned() } else { last.join("\n") };
        format!("  {} of {}, the last it said:\n{last}", self.program, self.owner)
    }

    /// Collects it, once it has been made to end.
    pub(super) fn reap(mut self) -> Result<()> {
        if self.id.is_alive() {
            bail!("{} of {} (process {}) does not end", self.program, self.owner, self.id.pid());
        }
        self.child.wait().map(drop).with_context(|| format!("cannot wait for {}", self.program))
    }

    fn ended(&self, status: std::process::ExitStatus) -> anyhow::Error {
        anyhow!("{} of {} has ended by itself: {status}\n{}", self.program, self.owner, self.tail())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_name_and_not_in_a_zombie() {
        let stat = |name, state| {
            format!("12 ({name}) {state} 1 12 12 0 -1 4194304 0 0 0 0 1 2 3 4 20 0 1 0 987654 0 0")
        };
        assert_eq!(start(&stat("bird", "S")), Some(987_654));
        assert_eq!(start(&stat("a) S 1 (b", "R")), Some(987_654));
        assert_eq!(start(&stat("bird", "Z")), None);
        assert_eq!(start("12 (bird"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn process_that_has_ended_is_not_alive_even_before_it_is_collected() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(id.is_alive());
        let stranger = ProcessId { start: id.start + 1, ..id };
        stranger.signal(Signal::SIGKILL);
        assert!(id.is_alive(), "another process had this number");
        id.signal(Signal::SIGKILL);
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(Pid::from_raw(id.pid)),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert!(!id.is_alive());
        child.wait().unwrap();
    }
}
