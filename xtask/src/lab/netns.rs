//! Named network namespaces, and `ip` to furnish them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::execute::{self, Patience};

/// A network namespace under a name `ip netns` knows too. It may or may not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Netns(String);

impl Netns {
    /// The namespace of an element of a lab.
    pub(super) fn of(lab: &str, element: &str) -> Self {
        Self(format!("flock-{lab}-{element}"))
    }

    /// Its name, as in `ip -n NAME`.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// Runs `work` inside, on a thread of its own: processes it starts are born inside.
    #[cfg(target_os = "linux")]
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        use nix::sched::{CloneFlags, setns};
        let file = File::open(self.path()).with_context(|| format!("there is no namespace {}", self.0))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the network namespace {}", self.0))?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread inside namespace {} panicked", self.0))?
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn run<T: Send>(&self, _: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        Err(anyhow!("there are no network namespaces on this system"))
    }

    /// Starts a program inside.
    pub(super) fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.run(|| command.spawn().with_context(|| format!("cannot execute {}", crate::cmd::show(command))))
    }

    /// Writes a setting below `/proc/sys/net`.
    pub(super) fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let file = Path::new("/proc/sys/net").join(name);
                fs::write(&file, value).with_context(|| format!("cannot set {}", file.display()))?;
            }
            Ok(())
        })
    }

    /// Runs `ip` on lines of its own language, all or nothing past the first that fails.
    pub(super) fn batch(&self, lines: &str) -> Result<()> {
        execute::succeed(Command::new("ip").args(["-n", &self.0, "-batch", "-"]), lines, &Patience::SHORT)
            .map(drop)
    }

    /// What `ip -j ARGS` shows.
    pub(super) fn show(&self, args: &str) -> Result<Vec<serde_json::Value>> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.0, "-j"]).args(args.split(' '));
        let text = execute::succeed(&mut command, "", &Patience::SHORT)?.stdout;
        // Nothing to show is shown as nothing, not as an empty list.
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text).with_context(|| format!("`ip -j {args}` did not print JSON"))
    }

    /// Identity of the namespace, as long as somebody holds it.
    fn inode(&self) -> Option<(u64, u64)> {
        fs::metadata(self.path()).ok().map(|file| (file.dev(), file.ino()))
    }
}

/// Makes namespaces.
pub(super) fn make(namespaces: &[Netns]) -> Result<()> {
    let lines: Vec<_> = namespaces.iter().map(|netns| format!("netns add {}", netns.0)).collect();
    let lines = lines.join("\n");
    execute::succeed(Command::new("ip").args(["-batch", "-"]), &lines, &Patience::SHORT)
        .context("cannot make network namespaces, which takes root with CAP_SYS_ADMIN")
        .map(drop)
}

/// Removes those that exist.
pub(super) fn remove(namespaces: &[Netns]) -> Result<()> {
    for netns in namespaces.iter().filter(|netns| netns.path().exists()) {
        // Another lab may be sweeping the same leftovers.
        let done =
            execute::succeed(Command::new("ip").args(["netns", "del", &netns.0]), "", &Patience::SHORT);
        if netns.path().exists() {
            done.with_context(|| format!("cannot remove the namespace {}", netns.0))?;
        }
    }
    Ok(())
}

/// The processes inside any of these.
pub(super) fn inhabitants(namespaces: &[Netns]) -> Result<Vec<i32>> {
    let ours: BTreeSet<_> = namespaces.iter().filter_map(Netns::inode).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match fs::metadata(entry.path().join("ns/net")) {
            Ok(file) if ours.contains(&(file.dev(), file.ino())) => found.push(pid),
            // Elsewhere, gone meanwhile, or hidden from us, which what we started never is.
            _ => {}
        }
    }
    Ok(found)
}
