//! Real BIRDs in network namespaces that end with the test.

use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flock_bird::{BirdSocket, Client, Timing};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Whether this process may make network namespaces and has a BIRD to put there.
pub(crate) fn capable() -> bool {
    let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let available = works(Command::new("unshare").args(["--net", "true"]))
        && works(Command::new("bird").arg("--version"))
        && works(Command::new("ip").arg("-V"));
    flock_core::testing::require("root, bird and iproute2", available)
}

/// Waits for `check` to give something, which takes as long as it takes on a busy machine; a minute is
/// taken for never.
pub(crate) async fn eventually<T, E: Debug>(what: &str, check: impl AsyncFn() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        match check().await {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < deadline, "{what}: still {last:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A network namespace, held by a process that ends when this is dropped or the test dies.
pub(crate) struct Netns {
    holder: Child,
}

impl Netns {
    pub(crate) fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { holder }
    }

    /// A command inside, which is killed when this thread ends.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let path = format!("--net=/proc/{}/ns/net", self.holder.id());
        command.args(["--pdeathsig", "KILL", "nsenter", &path, program]);
        command
    }

    /// Runs `ip` inside, which must succeed, and returns what it prints.
    pub(crate) fn ip(&self, args: &str) -> String {
        let output = self.command("ip").args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Joins two namespaces by a veth pair; both ends are called `up0`.
    pub(crate) fn join(&self, other: &Self) {
        self.ip(&format!("link add up0 type veth peer name up0 netns {}", other.holder.id()));
        for netns in [self, other] {
            netns.ip("link set up0 up");
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A BIRD with a directory of its own.
pub(crate) struct Bird {
    process: Child,
    dir: TempDir,
}

impl Bird {
    /// Starts BIRD in a namespace and waits until it answers.
    pub(crate) async fn start(netns: &Netns, conf: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bird.conf"), conf).unwrap();
        let process = spawn(netns, dir.path(), &[]);
        let bird = Self { process, dir };
        bird.answers().await;
        bird
    }

    /// Starts BIRD again with `-R` once it has ended, and waits until it answers.
    pub(crate) async fn start_again(&mut self, netns: &Netns) {
        assert!(self.process.wait().unwrap().success());
        self.process = spawn(netns, self.dir(), &["-R"]);
        self.answers().await;
    }

    async fn answers(&self) {
        eventually("bird answers", async || Client::connect(&self.socket(), TIMING.reply).await).await;
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.dir().join("bird.conf")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("bird.ctl")
    }

    /// The adapter for it, patient and without pauses between changes.
    pub(crate) fn adapter(&self) -> BirdSocket {
        BirdSocket::new(&self.conf(), &self.socket()).unwrap().with_timing(TIMING)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.socket(), TIMING.reply).await.unwrap()
    }
}

fn spawn(netns: &Netns, dir: &Path, more: &[&str]) -> Child {
    let mut command = netns.command("bird");
    command.current_dir(dir).args(["-f", "-c", "bird.conf", "-s", "bird.ctl"]).args(more);
    command.stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) const TIMING: Timing = Timing {
    reply: Duration::from_secs(30),
    reconfigure: Duration::from_secs(30),
    spacing: Duration::from_millis(1),
};
