//! `flock-agent install` as a process: what it puts where, and who notices.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A host to install on.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::write(host.plugin(), "the plugin").unwrap();
        host
    }

    /// What is to be installed.
    fn plugin(&self) -> PathBuf {
        self.0.path().join("image-flock")
    }

    /// The plugin `loopback` to be installed; there is none at first.
    fn loopback(&self) -> PathBuf {
        self.0.path().join("image-loopback")
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.0.path().join("opt/cni/bin").join(name)
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.0.path().join("etc/cni/net.d").join(name)
    }

    fn conflist(&self) -> Value {
        serde_json::from_slice(&fs::read(self.conf("01-flock.conflist")).unwrap()).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        command.arg("install").args(args).env_clear().stdin(Stdio::null());
        command.env("FLOCK_CNI_BIN_DIR", self.bin("")).env("FLOCK_CNI_CONF_DIR", self.conf(""));
        command.env("FLOCK_PLUGIN", self.plugin()).env("FLOCK_LOOPBACK", self.loopback());
        command
    }

    fn install(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        text
    }

    /// Puts a program into the directory of plugins, with a script for its content.
    fn script(&self, name: &str, script: &str) {
        fs::create_dir_all(self.bin("")).unwrap();
        fs::write(self.bin(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(self.bin(name), Permissions::from_mode(0o755)).unwrap();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// What changes when a file is replaced, or written in place.
fn identity(path: &Path) -> (u64, i64, i64) {
    let file = fs::metadata(path).unwrap();
    (file.ino(), file.mtime(), file.mtime_nsec())
}

#[test]
fn plugin_and_list_are_put_where_a_runtime_looks_and_nothing_else_is() {
    let host = Host::new();
    host.install(&[]);
    assert_eq!(fs::read(host.bin("flock")).unwrap(), b"the plugin");
    assert_eq!(fs::metadata(host.bin("flock")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(host.conf("01-flock.conflist")).unwrap().mode() & 0o7777, 0o644);
    let want = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "flock",
        "plugins": [{ "type": "flock", "capabilities": { "io.kubernetes.cri.pod-annotations": true } }],
    });
    assert_eq!(host.conflist(), want);
    assert_eq!(
        (names(&host.bin("")), names(&host.conf(""))),
        (vec!["flock".into()], vec!["01-flock.conflist".into()])
    );
}

#[test]
fn loopback_is_put_beside_the_plugin_where_there_is_none() {
    let host = Host::new();
    let text = host.install(&[]);
    assert!(text.contains("containerd starts no pod without it"), "{text}");
    assert!(!host.bin("loopback").exists());
    fs::write(host.loopback(), "of the image").unwrap();
    let text = host.install(&[]);
    assert!(!text.contains("starts no pod"), "{text}");
    assert_eq!(fs::read(host.bin("loopback")).unwrap(), b"of the image");
    assert_eq!(fs::metadata(host.bin("loopback")).unwrap().mode() & 0o7777, 0o755);
    fs::write(host.bin("loopback"), "of the node").unwrap();
    host.install(&[]);
    assert_eq!(fs::read(host.bin("loopback")).unwrap(), b"of the node", "it is not flock's to replace");
}

#[test]
fn what_is_in_place_is_not_touched_again() {
    let host = Host::new();
    host.install(&[]);
    let before = [host.bin("flock"), host.conf("01-flock.conflist")].map(|path| identity(&path));
    let text = host.install(&[]);
    assert_eq!([host.bin("flock"), host.conf("01-flock.conflist")].map(|path| identity(&path)), before);
    assert_eq!(text.matches("unchanged").count(), 2, "{text}");

    fs::write(host.plugin(), "THE PLUGIN").unwrap();
    let text = host.install(&[]);
    assert!(text.contains("replaced") && text.contains("unchanged"), "{text}");
    assert_eq!(fs::read(host.bin("flock")).unwrap(), b"THE PLUGIN");
    assert_eq!(identity(&host.conf("01-flock.conflist")), before[1]);
}

#[test]
fn what_somebody_changed_is_put_right() {
    let host = Host::new();
    host.install(&[]);
    fs::set_permissions(host.bin("flock"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(host.conf("01-flock.conflist")).unwrap();
    std::os::unix::fs::symlink("/dev/null", host.conf("01-flock.conflist")).unwrap();
    // What a crash leaves.
    fs::write(host.bin(".flock.flock-new"), "half of it, and longer than the whole").unwrap();
    host.install(&[]);
    assert_eq!(fs::metadata(host.bin("flock")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(host.conflist()["name"], "flock");
    assert_eq!(names(&host.bin("")), ["flock"]);
}

/// The plugins there, the flags, the chain behind flock, the versions offered, what is said.
type ChainCase<'a> =
    (Option<&'a str>, Option<&'a str>, &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[test]
fn chain_has_what_is_wanted_and_there_and_offers_what_all_of_it_speak() {
    let answers = |versions: &str| {
        format!(r#"cat >&2; echo '{{"cniVersion":"1.0.0","supportedVersions":[{versions}]}}'"#)
    };
    let new = answers(r#""0.3.1","0.4.0","1.0.0","1.1.0""#);
    let old = answers(r#""0.3.1","0.4.0","1.0.0""#);
    let ancient = answers(r#""0.2.0""#);
    let (both, all, no_newest) =
        (["--with-portmap", "--with-bandwidth"], ["0.4.0", "1.0.0", "1.1.0"], ["0.4.0", "1.0.0"]);
    let table: [ChainCase<'_>; 7] = [
        (Some(&new), Some(&new), &[], &[], &all, &[]),
        (Some(&new), Some(&new), &both, &["portmap", "bandwidth"], &all, &[]),
        (Some(&new), Some(&old), &both, &["portmap", "bandwidth"], &no_newest, &["CNI 1.1.0 is not offered"]),
        (Some(&new), None, &both, &["portmap"], &all, &["bandwidth is not there"]),
        (None, None, &both, &[], &all, &["portmap is not there", "bandwidth is not there"]),
        (
            Some(&ancient),
            Some("exit 1"),
            &both,
            &[],
            &all,
            &["does not speak CNI 1.0.0", "is not understood"],
        ),
        (Some("exit 0"), Some(&new), &["--with-bandwidth"], &["bandwidth"], &all, &[]),
    ];
    for (portmap, bandwidth, flags, chain, versions, says) in table {
        let host = Host::new();
        host.script("loopback", "exit 0");
        for (name, script) in [("portmap", portmap), ("bandwidth", bandwidth)] {
            if let Some(script) = script {
                host.script(name, script);
            }
        }
        let text = host.install(flags);
        let conflist = host.conflist();
        let types: Vec<_> =
            conflist["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["type"]).collect();
        let want: Vec<_> = ["flock"].iter().chain(chain).collect();
        assert_eq!(types, want, "{text}");
        assert_eq!(conflist["cniVersions"], json!(versions), "{text}");
        for part in says {
            assert!(text.contains(part), "{part:?}: {text}");
        }
        assert_eq!(text.contains("WARN"), !says.is_empty(), "{text}");
    }
}

#[test]
fn flags_of_the_chain_can_come_from_the_environment() {
    let host = Host::new();
    host.script("portmap", r#"echo '{"supportedVersions":["1.0.0"]}'"#);
    let chain = |value: &str| {
        let output = host.command(&[]).env("FLOCK_WITH_PORTMAP", value).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        host.conflist()["plugins"].as_array().unwrap().len()
    };
    assert_eq!([chain("true"), chain("false")], [2, 1]);
}

#[test]
fn list_that_a_runtime_would_prefer_is_told() {
    let host = Host::new();
    fs::create_dir_all(host.conf("")).unwrap();
    for name in ["00-multus.conf", "10-calico.conflist", "00-notes.txt"] {
        fs::write(host.conf(name), "{}").unwrap();
    }
    let text = host.install(&[]);
    assert_eq!(text.matches("comes before").count(), 1, "{text}");
    assert!(text.contains("00-multus.conf comes before 01-flock.conflist"), "{text}");
    assert_eq!(names(&host.conf("")).len(), 4, "nothing is deleted");
}

#[test]
fn failure_says_what_to_do_and_leaves_what_was_there() {
    let host = Host::new();
    host.install(&[]);
    let list = identity(&host.conf("01-flock.conflist"));
    let missing = host.0.path().join("missing");
    let missing = missing.to_str().unwrap();
    let file = host.plugin();
    let file = file.to_str().unwrap();
    // Flags, exit status, what is said.
    let table: [(&[&str], i32, &str); 5] = [
        (&["--plugin", missing], 1, "say where it is with --plugin"),
        (&["--cni-bin-dir", file], 1, "cannot make the directory"),
        (&["--cni-conf-dir", file], 1, "cannot make the directory"),
        (&["--socket", "run/agent.sock"], 1, "must be an absolute path"),
        (&["--with-firewall"], 2, "--with-firewall"),
    ];
    for (flags, status, says) in table {
        let output = host.command(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    assert_eq!(identity(&host.conf("01-flock.conflist")), list);
    // A plugin that cannot be put in place: the list, which comes last, is not written.
    let fresh = Host::new();
    fs::create_dir_all(fresh.bin("flock/occupied")).unwrap();
    let output = fresh.command(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(!fresh.conf("").exists());
    assert_eq!(names(&fresh.bin("")), ["flock"], "the draft is gone");
}

#[test]
fn upgrade_fails_no_execution_and_ends_none() {
    let host = Host::new();
    // A real executable: the kernel refuses to write to one that runs, and to run one that is written to.
    let sleep = fs::read("/bin/sleep").unwrap();
    let version = |n: usize| [sleep.as_slice(), &[b'\n'].repeat(n)].concat();
    fs::write(host.plugin(), version(0)).unwrap();
    host.install(&[]);
    let mut old = Command::new(host.bin("flock")).arg("600").spawn().unwrap();
    let done = AtomicBool::new(false);
    let execute = || {
        let mut executed = 0;
        while !done.load(Ordering::Relaxed) {
            let status = Command::new(host.bin("flock")).arg("0").status();
            if !status.is_ok_and(|status| status.success()) {
                return Err(executed);
            }
            executed += 1;
        }
        Ok(executed)
    };
    let (installed, executed) = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(execute)).collect();
        let installed = (1..=20).all(|n| {
            fs::write(host.plugin(), version(n)).unwrap();
            // Two at once, as when an agent is restarted in the middle of an upgrade.
            let both = [(); 2].map(|()| host.command(&[]).stdout(Stdio::null()).spawn().unwrap());
            both.map(|mut child| child.wait().unwrap().success()) == [true; 2]
        });
        done.store(true, Ordering::Relaxed);
        (installed, threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>())
    });
    assert!(installed);
    assert!(executed.iter().all(|executed| matches!(executed, Ok(1..))), "{executed:?}");
    assert_eq!(old.try_wait().unwrap(), None, "the old one runs on");
    old.kill().unwrap();
    old.wait().unwrap();
    assert_eq!(fs::read(host.bin("flock")).unwrap(), version(20));
}
