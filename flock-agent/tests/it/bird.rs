//! `flock-agent bird` with a real BIRD: how it starts, how it stops, what it survives.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::netns::Netns;

/// A directory and a namespace in which BIRD is started, again and again.
struct Stage {
    netns: Netns,
    dir: TempDir,
}

/// A running `flock-agent bird`. Killed when dropped, and BIRD with it.
struct Running(Child);

fn capable() -> bool {
    let works = |program, argument| {
        Command::new(program)
            .arg(argument)
            .output()
            .is_ok_and(|output: std::process::Output| output.status.success())
    };
    flock_core::testing::require(
        "root and bird",
        nix::unistd::geteuid().is_root() && works("bird", "--version"),
    )
}

fn eventually<T>(what: &str, check: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(10));
    }
}

impl Stage {
    fn new() -> Self {
        Self { netns: Netns::new(), dir: tempfile::tempdir().unwrap() }
    }

    /// In a directory that is not there yet.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("run/flock").join(name)
    }

    fn start(&self, binary: &str) -> Running {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        command.args(["bird", "--node-name", "node-1", "--bird-binary", binary]);
        command
            .arg("--bird-conf")
            .arg(self.path("bird.conf"))
            .arg("--bird-socket")
            .arg(self.path("bird.ctl"));
        command.stdin(Stdio::null()).stderr(log);
        Running(self.netns.run(move || command.spawn().unwrap()))
    }

    /// Starts the real BIRD and waits until it is known to have come up.
    fn start_bird(&self) -> Running {
        let before = self.count("BIRD is up");
        let running = self.start("bird");
        eventually("BIRD is up", || (self.count("BIRD is up") > before).then_some(()));
        running
    }

    /// Puts a program in the place of BIRD and starts it.
    fn start_script(&self, script: &str) -> Running {
        let path = self.dir.path().join("script");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        self.start(path.to_str().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    fn greeting(&self) -> Option<String> {
        let mut greeting = [0; 64];
        let mut stream = UnixStream::connect(self.path("bird.ctl")).ok()?;
        let length = stream.read(&mut greeting).unwrap();
        Some(String::from_utf8_lossy(&greeting[..length]).into_owned())
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// The process that is BIRD by now.
    fn bird(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        fs::read_to_string(children).unwrap().trim().parse().unwrap()
    }

    fn bird_arguments(&self) -> Vec<String> {
        let arguments = fs::read_to_string(format!("/proc/{}/cmdline", self.bird())).unwrap();
        arguments.split_terminator('\0').map(str::to_owned).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn first_start_is_a_cold_one_on_a_bootstrap_configuration_and_the_second_recovers() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    let (conf, socket) = (stage.path("bird.conf"), stage.path("bird.ctl"));
    let plain: Vec<String> = ["bird", "-f", "-c", conf.to_str().unwrap(), "-s", socket.to_str().unwrap()]
        .map(str::to_owned)
        .to_vec();
    let recovering: Vec<String> = plain.iter().cloned().chain(["-R".to_owned()]).collect();

    for arguments in [plain, recovering.clone(), recovering] {
        let mut running = stage.start_bird();
        assert_eq!(running.bird_arguments(), arguments);
        assert!(stage.greeting().unwrap().starts_with("0001 BIRD "));
        let stops = stage.count("Shutting down for graceful restart");
        assert_eq!(running.terminate().code(), Some(0), "{}", stage.log());
        assert_eq!(stage.count("Shutting down for graceful restart"), stops + 1);
        assert!(!socket.exists());
    }
    let text = fs::read_to_string(conf).unwrap();
    assert!(text.contains("router id 200.238.149.1;"), "derived from the name: {text}");
    assert!(!text.contains("bgp"), "{text}");
}

#[test]
fn another_boot_makes_the_start_a_cold_one() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    stage.start_bird().terminate();
    let marker = stage.path("bird.ctl.boot-id");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(fs::read_to_string(&marker).unwrap(), boot.trim());

    fs::write(&marker, "00000000-0000-4000-8000-000000000000").unwrap();
    let mut running = stage.start_bird();
    assert!(!running.bird_arguments().contains(&"-R".to_owned()));
    running.terminate();
    assert_eq!(fs::read_to_string(&marker).unwrap(), boot.trim());
}

#[test]
fn a_configuration_that_is_there_is_used_as_it_is() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    fs::create_dir_all(stage.path("")).unwrap();
    let text = "log stderr all; router id 192.0.2.77; protocol device { }";
    fs::write(stage.path("bird.conf"), text).unwrap();
    stage.start_bird().terminate();
    assert_eq!(fs::read_to_string(stage.path("bird.conf")).unwrap(), text);
}

#[test]
fn bird_ends_with_the_agent_however_it_ends() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    for _ in 0..2 {
        let mut running = stage.start_bird();
        let bird = running.bird();
        running.signal(Signal::SIGKILL);
        running.wait();
        eventually("BIRD is gone", || (!fs::exists(format!("/proc/{bird}/cmdline")).unwrap()).then_some(()));
        assert!(stage.path("bird.ctl").exists(), "the stale socket is what the next start finds");
    }
}

#[test]
fn the_agent_ends_as_bird_does() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    let mut running = stage.start_bird();
    kill(Pid::from_raw(running.bird().try_into().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(running.wait().code(), Some(128 + 9));

    fs::write(stage.path("bird.conf"), "nonsense").unwrap();
    let mut running = stage.start("bird");
    assert_eq!(running.wait().code(), Some(1));
    assert!(stage.log().contains("syntax error"), "BIRD's words reach the log: {}", stage.log());

    assert_eq!(stage.start_script("exit 7").wait().code(), Some(7));

    let mut running = stage.start("/nonexistent/bird");
    assert_eq!(running.wait().code(), Some(1));
    assert!(stage.log().contains("/nonexistent/bird"), "{}", stage.log());
}

#[test]
fn a_bird_that_does_not_listen_is_killed_and_never_terminated() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    let (ready, terminated) = (stage.dir.path().join("ready"), stage.dir.path().join("terminated"));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut running = stage.start_script(&format!(
            "trap 'touch {}' TERM INT; touch {}; while :; do sleep 0.01; done",
            terminated.display(),
            ready.display(),
        ));
        eventually("the script runs", || ready.exists().then_some(()));
        running.signal(signal);
        let status = running.wait();
        assert_eq!(status.code(), Some(128 + 9), "{status} {:?}", status.signal());
        assert!(!terminated.exists());
        fs::remove_file(&ready).unwrap();
    }
}

#[test]
fn a_bird_that_is_up_is_kept_awake() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    let ready = stage.dir.path().join("ready");
    let _running = stage.start_script(&format!("touch {}; exec sleep 1000", ready.display()));
    eventually("the script runs", || ready.exists().then_some(()));
    // In the place of what the script would be.
    let listener = UnixListener::bind(stage.path("bird.ctl")).unwrap();
    let mut asked = 0;
    while asked < 5 {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"0001 BIRD 2.0.12 ready.\n").unwrap();
        for command in BufReader::new(stream.try_clone().unwrap()).lines() {
            match command.unwrap().as_str() {
                "show status" => stream.write_all(b"1000-BIRD 2.0.12\n0013 Daemon is up and running\n"),
                "show protocols all" => stream.write_all(b"0000 \n"),
                other => panic!("{other}"),
            }
            .unwrap();
            asked += usize::from(stage.count("BIRD is up") > 0);
            if asked == 5 {
                break;
            }
        }
    }
}

#[test]
fn another_bird_at_the_socket_is_left_alone_and_told() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    fs::create_dir_all(stage.path("")).unwrap();
    let _other = UnixListener::bind(stage.path("bird.ctl")).unwrap();
    assert_eq!(stage.start("bird").wait().code(), Some(1));
    assert!(stage.log().contains("another BIRD answers at"), "{}", stage.log());
    assert!(UnixStream::connect(stage.path("bird.ctl")).is_ok());
}

#[test]
fn another_bird_that_hangs_is_told_too_and_keeps_its_socket() {
    if !capable() {
        return;
    }
    let stage = Stage::new();
    fs::create_dir_all(stage.path("")).unwrap();
    let other = UnixListener::bind(stage.path("bird.ctl")).unwrap();
    rustix::net::listen(&other, 0).unwrap();
    // Its queue is full with this one: whoever connects now waits.
    let _waits = UnixStream::connect(stage.path("bird.ctl")).unwrap();
    assert_eq!(stage.start("bird").wait().code(), Some(1));
    assert!(stage.log().contains("another BIRD answers at"), "{}", stage.log());
    assert!(stage.path("bird.ctl").exists());
}

#[test]
fn a_host_name_that_is_no_node_name_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_flock-agent"))
        .args(["bird", "--node-name", "Node_1"])
        .arg("--bird-conf")
        .arg(dir.path().join("bird.conf"))
        .arg("--bird-socket")
        .arg(dir.path().join("bird.ctl"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("node name \"Node_1\"") && text.contains("--node-name"), "{text}");
}
