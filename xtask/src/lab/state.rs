//! What a lab has made, on disk, so that another process can use it or take it down:
//! `/run/flock-lab/NAME/`, for root only.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::netns::{self, Netns};
use super::process::ProcessId;
use super::{random, router, topology};

/// Where labs are.
const HOME: &str = "/run/flock-lab";

/// The record of a lab, in its directory.
const RECORD: &str = "lab.json";

/// A lab's directory while it is being made: this, and the number of the process that makes it.
const DRAFT: &str = ".new-";

/// How long daemons may take to end in good order.
const GRACE: Duration = Duration::from_secs(3);

/// A lab that exists, wholly or in part.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// Its name, unique on this machine.
    pub(super) name: String,
    /// What its router runs.
    pub(super) router: router::Kind,
    /// True once `lab up` has left it: then it has no owner any more.
    pub(super) standing: bool,
    /// The process that made it.
    owner: ProcessId,
    namespaces: Vec<Netns>,
    processes: Vec<ProcessId>,
}

impl State {
    /// Writes down a lab that is about to be made. Without a name it gets one nobody else has.
    pub(super) fn create(name: Option<&str>, router: router::Kind) -> Result<Self> {
        let own = ProcessId::own()?;
        let name = match name {
            Some(name) => check_name(name)?,
            None => format!("r{}{}", own.pid(), random::hex(2)?),
        };
        let namespaces = topology::elements().map(|element| Netns::of(&name, element)).collect();
        let state = Self { name, router, standing: false, owner: own, namespaces, processes: Vec::new() };
        // The record comes into being together with the directory, by a rename that fails where there is one.
        let draft = Path::new(HOME).join(format!("{DRAFT}{}", own.pid()));
        make_directory(&draft)?;
        state.write(&draft)?;
        match fs::rename(&draft, state.dir()) {
            Ok(()) => Ok(state),
            Err(error) => {
                let _ = fs::remove_dir_all(&draft);
                match error.kind() {
                    ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => Err(state.exists()),
                    _ => Err(error).with_context(|| format!("cannot make {}", state.dir().display())),
                }
            }
        }
    }

    fn exists(&self) -> anyhow::Error {
        let name = &self.name;
        let option = super::name_option(name);
        anyhow::anyhow!(
            "a lab named {name} is there already: take it down with `{} lab down{option}`, or choose another name with --name",
            super::invocation()
        )
    }

    /// The lab of this name, if there is one.
    pub(super) fn open(name: &str) -> Result<Option<Self>> {
        let file = Path::new(HOME).join(check_name(name)?).join(RECORD);
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is not the record of a lab; remove it by hand", file.display()))
                .map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Takes down every lab whose owner was killed, and returns their names.
    pub(super) fn sweep() -> Result<Vec<String>> {
        let mut swept = Vec::new();
        let Ok(entries) = fs::read_dir(HOME) else { return Ok(swept) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(owner) = name.strip_prefix(DRAFT) {
                if owner.parse().ok().and_then(ProcessId::of).is_none() {
                    let _ = fs::remove_dir_all(entry.path());
                }
            } else if let Some(state) = Self::open(&name)?
                && state.is_orphan()
            {
                state.destroy().with_context(|| format!("cannot clean up after the lab {name}"))?;
                swept.push(name);
            }
        }
        Ok(swept)
    }

    fn is_orphan(&self) -> bool {
        !self.standing && !self.owner.is_alive()
    }

    /// The process that is making it or using it right now, if any.
    pub(super) fn busy(&self) -> Option<i32> {
        (!self.standing && self.owner.is_alive()).then(|| self.owner.pid())
    }

    /// Its directory.
    pub(super) fn dir(&self) -> PathBuf {
        Path::new(HOME).join(&self.name)
    }

    /// The directory of one of its elements, made if it is missing.
    pub(super) fn element_dir(&self, element: &str) -> Result<PathBuf> {
        let dir = self.dir().join(element);
        make_directory(&dir)?;
        Ok(dir)
    }

    /// The namespace of one of its elements.
    pub(super) fn netns(&self, element: &str) -> Netns {
        Netns::of(&self.name, element)
    }

    /// All its namespaces.
    pub(super) fn namespaces(&self) -> &[Netns] {
        &self.namespaces
    }

    /// Writes down a process it has started.
    pub(super) fn add_process(&mut self, process: ProcessId) -> Result<()> {
        self.processes.push(process);
        self.write(&self.dir())
    }

    /// Writes down that it stays.
    pub(super) fn leave_standing(&mut self) -> Result<()> {
        self.standing = true;
        self.write(&self.dir()).inspect_err(|_| self.standing = false)
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let (file, new) = (dir.join(RECORD), dir.join("lab.json.new"));
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Ends every process, removes the namespaces, then the directory. Safe to start over.
    pub(super) fn destroy(&self) -> Result<()> {
        // Last started, first ended; they all get the chance to do so in good order.
        for process in self.processes.iter().rev() {
            process.signal(Signal::SIGTERM);
        }
        let deadline = Instant::now() + GRACE;
        while self.processes.iter().any(|process| process.is_alive()) && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
        self.kill_all()?;
        netns::remove(&self.namespaces)?;
        let dir = self.dir();
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
            _ => {}
        }
        // Only succeeds for the last lab.
        let _ = fs::remove_dir(HOME);
        Ok(())
    }

    /// Kills what is left: the processes written down, and whoever else is in our namespaces, such as a
    /// daemon's children, a ping, a shell of `lab exec`.
    fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + GRACE;
        loop {
            let inside = netns::inhabitants(&self.namespaces)?;
            let mut left: Vec<_> = inside.into_iter().filter_map(ProcessId::of).collect();
            left.extend(self.processes.iter().filter(|process| process.is_alive()));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let pids: Vec<_> = left.iter().map(|process| process.pid().to_string()).collect();
                bail!("these processes do not end: {}", pids.join(", "));
            }
            for process in &left {
                process.signal(Signal::SIGKILL);
            }
            sleep(Duration::from_millis(2));
        }
    }
}

/// A name that fits the names of namespaces: without a dash, one lab's are never a prefix of another's.
fn check_name(name: &str) -> Result<String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.is_empty() || name.len() > 16 || !name.bytes().all(good) {
        bail!("lab name {name:?} must have 1 to 16 lower-case letters and digits");
    }
    Ok(name.to_owned())
}

/// Makes a directory only root can look into, and those above it.
fn make_directory(dir: &Path) -> Result<()> {
    let make = || DirBuilder::new().recursive(true).mode(0o700).create(dir);
    // The last lab may take the common directory away just before ours is made in it.
    make().or_else(|_| make()).with_context(|| format!("cannot make {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_fits_a_namespace_and_says_so_when_it_does_not() {
        for good in ["lab", "r4194304a1b2", "0"] {
            assert_eq!(check_name(good).unwrap(), good);
        }
        for bad in ["", "a-b", "A", "a/b", "..", "seventeenletters1"] {
            assert!(format!("{:#}", check_name(bad).unwrap_err()).contains("1 to 16"), "{bad}");
        }
    }

    #[test]
    fn lab_is_an_orphan_only_without_owner_and_not_left_standing() {
        let own = ProcessId::own();
        let dead: ProcessId = serde_json::from_str(r#"{"pid":1,"start":18446744073709551615}"#).unwrap();
        let state = |owner, standing| State {
            name: "x".to_owned(),
            router: router::Kind::Bird,
            standing,
            owner,
            namespaces: vec![],
            processes: vec![],
        };
        assert!(state(dead, false).is_orphan());
        assert!(!state(dead, true).is_orphan());
        if let Ok(own) = own {
            assert!(!state(own, false).is_orphan());
            assert!(state(own, false).busy().is_some());
            assert!(state(own, true).busy().is_none());
        }
    }
}
