//! Namespaces for the whole check: mounts, processes, network and IPC. What it starts and mounts cannot outlive
//! it, whichever way it ends, and nothing it writes below /etc, /opt, /run and /var/lib is there outside.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::interrupt::Interrupt;

/// How long the process inside may take to clean up once it was asked to stop.
const GRACE: Duration = Duration::from_secs(20);

/// Where this is mounted, the writes to directories of the machine go.
const WRITES: &str = "/run/writes";

/// Runs `command` as the first process of new namespaces until it ends, and removes `cgroup` after it; its exit
/// code.
pub(super) fn run(command: &mut Command, cgroup: &str, interrupt: &Interrupt) -> Result<u8> {
    // Which namespaces children get is a property of a thread; and the child ends with the thread that made it.
    let code = thread::scope(|scope| {
        let outside = scope.spawn(|| {
            let namespaces = CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWIPC;
            unshare(namespaces).context("cannot make namespaces, which takes root with CAP_SYS_ADMIN")?;
            // A Ctrl-C is for us, who pass it on.
            let mut child = command.process_group(0).spawn().context("cannot start this program again")?;
            let pid = Pid::from_raw(i32::try_from(child.id()).context("the child has no number")?);
            let mut asked: Option<Instant> = None;
            loop {
                if let Some(status) = child.try_wait().context("cannot wait for the check")? {
                    return Ok(code_of(status));
                }
                match (interrupt.check(), asked) {
                    (Err(_), None) => {
                        // It may have ended since.
                        let _ = kill(pid, Signal::SIGTERM);
                        asked = Some(Instant::now());
                    }
                    // The kernel takes everything in the namespace along.
                    (_, Some(since)) if since.elapsed() > GRACE => child.kill().context("cannot kill it")?,
                    _ => {}
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        outside.join().map_err(|_| anyhow!("the thread that waits for the check panicked"))?
    });
    remove_cgroups(cgroup)?;
    code
}

fn code_of(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Removes the cgroups that containers of the check were in: those belong to no namespace.
fn remove_cgroups(name: &str) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    for hierarchy in hierarchies(&mounts) {
        let directory = Path::new(hierarchy).join(name);
        let since = Instant::now();
        // The last process may take a moment to be gone from them.
        while directory.exists() && remove_tree(&directory).is_err() && since.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(10));
        }
        ensure!(!directory.exists(), "the cgroup {} cannot be removed", directory.display());
    }
    Ok(())
}

/// Where hierarchies of cgroups are mounted.
fn hierarchies(mountinfo: &str) -> impl Iterator<Item = &str> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        file_system.starts_with("cgroup").then(|| mount.split(' ').nth(4)).flatten()
    })
}

/// Removes cgroups from the leaves up; the files in one cannot be removed, and go with it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Makes the inside look like a node: its own processes in /proc, an empty /run, and mounts that are shared, as
/// systemd leaves them.
pub(super) fn furnish() -> Result<()> {
    // Called by hand it would do all this to the machine.
    ensure!(std::process::id() == 1, "--inside is for the first process of new namespaces");
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot ask to end with the process outside")?;
    let change = |flags| mount(None::<&str>, "/", None::<&str>, flags, None::<&str>);
    // First away from the machine's, then shared among our own.
    change(MsFlags::MS_REC | MsFlags::MS_PRIVATE).context("cannot make mounts private")?;
    change(MsFlags::MS_REC | MsFlags::MS_SHARED).context("cannot make mounts shared")?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), plain | MsFlags::MS_NOEXEC, None::<&str>)
        .context("cannot mount /proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), plain, Some("mode=755")).context("cannot mount /run")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    if hierarchies(&mounts).next().is_none() {
        // runc wants one, whether or not it puts anything into it.
        mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), plain | MsFlags::MS_NOEXEC, None::<&str>)
            .context("this machine has no cgroups, and they cannot be mounted")?;
    }
    ["/etc", "/opt", "/var/lib"].into_iter().try_for_each(|path| keep_writes(Path::new(path)))
}

/// Lays a writable layer over a directory.
fn keep_writes(path: &Path) -> Result<()> {
    let name = path.display().to_string().replace('/', "-");
    let (upper, work) = (format!("{WRITES}/upper{name}"), format!("{WRITES}/work{name}"));
    for directory in [&upper, &work] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
    }
    let options = format!("lowerdir={},upperdir={upper},workdir={work}", path.display());
    mount(Some("overlay"), path, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot lay an overlay over {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_both_versions() {
        let text = "\
32 24 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 32 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
42 32 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
43 24 0:38 / /tmp/cgroup rw,relatime - ext4 /dev/vda rw
";
        let found: Vec<_> = hierarchies(text).collect();
        assert_eq!(found, ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"]);
    }

    #[test]
    fn trees_are_removed_from_the_leaves_up_and_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("top/a/b")).unwrap();
        fs::create_dir_all(dir.path().join("top/c")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        remove_tree(&dir.path().join("top")).unwrap();
        assert!(!dir.path().join("top").exists());
        assert!(remove_tree(dir.path()).is_err());
        assert!(dir.path().join("file").exists());
    }
}
