//! Debian packages and all they depend on, unpacked beside each other and never installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cmd;

/// A directory that packages were unpacked into, as the root of a machine of its own.
#[derive(Debug)]
pub(super) struct Unpacked {
    root: PathBuf,
    packages: BTreeSet<String>,
}

/// apt's view of a machine that has nothing.
const BARE: &str = "--option=Dir::State::status=/dev/null";

/// Links followed for one path.
const MAX_LINKS: usize = 16;

/// Fetches and unpacks the packages below `work`.
pub(super) fn unpack(wanted: &[&str], work: &Path) -> Result<Unpacked> {
    if cmd::find("apt-get").is_none() || cmd::find("dpkg-deb").is_none() {
        bail!(
            "the image is made of Debian packages, which takes apt-get and dpkg-deb; elsewhere use deploy/Containerfile"
        );
    }
    let packages = closure(wanted)?;
    let (debs, root) = (work.join("debs"), work.join("root"));
    for directory in [&debs, &root] {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("cannot empty {}", directory.display()))?;
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let mut download = Command::new("apt-get");
    // The newest of the index, whatever this machine has installed.
    download.args(["--quiet", "--option=APT::Sandbox::User=root", BARE, "download"]).args(&packages);
    cmd::output(download.current_dir(&debs))?;
    for entry in fs::read_dir(&debs)? {
        cmd::run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(&root))?;
    }
    Ok(Unpacked { root, packages })
}

/// The packages and what they depend on, on a machine that has nothing.
fn closure(wanted: &[&str]) -> Result<BTreeSet<String>> {
    let mut simulate = Command::new("apt-get");
    simulate.args(["--simulate", "--no-install-recommends", BARE, "install"]);
    let plan = cmd::output(simulate.args(wanted)).context("is the index there? apt-get update fetches it")?;
    let mut packages = installs(&plan);
    packages.retain(|name| wanted.contains(&name.as_str()) || is_library(name));
    Ok(packages)
}

/// Not what packages need to be installed and configured, which these never are.
fn is_library(name: &str) -> bool {
    let base = name.starts_with("gcc-") && name.ends_with("-base"); // Its licence is that of libgcc-s1.
    base || name == "zlib1g"
        || (name.starts_with("lib") && !name.ends_with("-perl") && !name.starts_with("libperl"))
}

/// The packages a simulation would install.
fn installs(plan: &str) -> BTreeSet<String> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

impl Unpacked {
    /// The file an absolute path means to somebody who has this for a root: links are followed inside.
    pub(super) fn path(&self, path: &str) -> Result<PathBuf> {
        let mut path = PathBuf::from(path);
        for _ in 0..MAX_LINKS {
            match self.first_link(&path) {
                Some(next) => path = next,
                None => return Ok(self.below(&path)),
            }
        }
        bail!("{} goes round in circles", path.display())
    }

    /// The path with its first symbolic link replaced by what it points at; `None` where there is no link.
    fn first_link(&self, path: &Path) -> Option<PathBuf> {
        let mut seen = PathBuf::from("/");
        let mut rest = path.components().filter(|part| matches!(part, Component::Normal(_)));
        while let Some(part) = rest.next() {
            let here = seen.join(part);
            if let Ok(target) = fs::read_link(self.below(&here)) {
                let mut next = normal(&seen.join(target));
                next.extend(rest);
                return Some(next);
            }
            seen = here;
        }
        None
    }

    fn below(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The libraries a program needs, as the loader of the packages finds them: where, and which file that is.
    pub(super) fn libraries(&self, program: &Path) -> Result<Vec<(String, PathBuf)>> {
        let directories = ["/lib", "/usr/lib"].map(|parent| format!("{parent}/{}", triplet()));
        let search: Vec<_> =
            directories.iter().map(|dir| self.below(Path::new(dir)).display().to_string()).collect();
        let mut list = Command::new(self.path(loader())?);
        list.args(["--inhibit-cache", "--library-path", &search.join(":"), "--list"]).arg(program);
        let text = cmd::output(&mut list)?;
        let mut libraries = Vec::new();
        for line in text.lines() {
            // "name => path (address)"; the kernel's own has no path.
            let Some((name, found)) = line.trim().split_once(" => ") else { continue };
            let found = found.split(" (").next().unwrap_or(found);
            let Ok(inside) = Path::new(found).strip_prefix(&self.root) else {
                // The loader names itself.
                if name.starts_with('/') {
                    continue;
                }
                bail!("{} needs {name}, which the packages do not have: {found}", program.display());
            };
            let path = Path::new("/").join(inside).display().to_string();
            let file = self.path(&path)?;
            libraries.push((path, file));
        }
        libraries.push((loader().to_owned(), self.path(loader())?));
        Ok(libraries)
    }

    /// Licences of the packages the image has something of.
    pub(super) fn copyrights(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut texts = Vec::new();
        for name in &self.packages {
            let path = format!("/usr/share/doc/{name}/copyright");
            let file = self.path(&path)?;
            texts.push((path, fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?));
        }
        Ok(texts)
    }
}

/// Without `..`, by name alone.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut done, part| {
        if part == Component::ParentDir {
            done.pop();
        } else {
            done.push(part);
        }
        done
    })
}

/// Debian's directory of libraries.
const fn triplet() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" }
}

/// The loader that executables name.
const fn loader() -> &'static str {
    if cfg!(target_arch = "aarch64") { "/lib/ld-linux-aarch64.so.1" } else { "/lib64/ld-linux-x86-64.so.2" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_names_each_package_once() {
        let plan = "Reading...\nInst libc6 (2.36 Debian:12 [amd64])\nInst bird2 (2.0.12 [amd64])\nConf libc6 (2.36)\n";
        assert_eq!(installs(plan).into_iter().collect::<Vec<_>>(), ["bird2", "libc6"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside_the_root() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib/x")).unwrap();
        for (target, link) in
            [("usr/lib", "lib"), ("/lib/x/real", "usr/lib/name"), ("../lib/x", "usr/up"), ("loop", "loop")]
        {
            symlink(target, dir.path().join(link)).unwrap();
        }
        let unpacked = Unpacked { root: dir.path().to_owned(), packages: BTreeSet::new() };
        for path in ["/usr/lib/x/real", "/lib/name", "/lib/x/real", "/usr/up/real"] {
            assert_eq!(unpacked.path(path).unwrap(), dir.path().join("usr/lib/x/real"), "{path}");
        }
        assert!(unpacked.path("/loop").is_err());
    }
}
