//! Network namespaces, and what runs in them. They are held by open files only, so that nothing is left when a test ends, however it ends.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::harness::eventually;

/// A network namespace.
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    /// A path that stays good as long as this value does.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Takes the calling thread inside. Sockets it opens from now on stay there.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs `work` inside, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter();
                work()
            });
            worker.join().unwrap()
        })
    }

    /// Output of a command inside.
    pub(crate) fn output(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(|| Command::new(program).args(args).output().unwrap());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a command inside; what it prints goes to a file.
    pub(crate) fn start(&self, command: &mut Command, output: &Path) -> Process {
        let log = File::create(output).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Process(self.run(|| command.spawn().unwrap()))
    }

    /// Runs `ip`, which must succeed.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = self.run(|| Command::new("ip").args(arguments.split(' ')).output().unwrap());
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What happens to the routes of a namespace.
pub(crate) struct RouteLog {
    file: PathBuf,
    _monitor: Process,
}

impl RouteLog {
    /// Follows the routes from now on; `file` is to be of its own.
    pub(crate) fn start(netns: &Netns, file: PathBuf) -> Self {
        let monitor = netns.start(Command::new("ip").args(["-o", "monitor", "route"]), &file);
        let log = Self { file, _monitor: monitor };
        let listens = || {
            for verb in ["add", "del"] {
                netns.ip(&format!("route {verb} unreachable 203.0.113.255"));
            }
            log.text().contains("203.0.113.255")
        };
        eventually("the monitor listens", listens, String::new);
        log
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// Of this prefix, as `ip` writes it.
    pub(crate) fn of(&self, prefix: &str) -> Vec<String> {
        self.text()
            .lines()
            .filter(|line| line.split(' ').any(|word| word == prefix))
            .map(str::to_owned)
            .collect()
    }
}

/// `-6` or `-4`.
pub(crate) fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "-6" } else { "-4" }
}

/// Whether the machine lets us make network namespaces; says so when not.
pub(crate) fn netns_available() -> bool {
    let able = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap();
    flock_core::testing::require("root with network namespaces", able)
}
