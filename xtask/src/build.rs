//! `cargo xtask build`: the two binaries a node needs, in `target/dist/`.
//!
//! The plugin is executed by the container runtime, on the host, for every pod: it is linked statically, so
//! that the host's C library does not matter, and kept small. The agent runs in its own image.

mod elf;

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cmd;

/// The plugin must be smaller than this, in bytes: being read and mapped is part of every pod's start.
const PLUGIN_LIMIT: u64 = 1_500_000;

/// Options of `cargo xtask build`.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {}

/// Runs `cargo xtask build`.
pub(crate) fn run(_: &BuildArgs) -> Result<()> {
    let dist = dist(&cmd::root())?;
    let size = |path: &Path| fs::metadata(path).map(|file| file.len());
    println!("{}  {} bytes, static", dist.flock.display(), size(&dist.flock)?);
    println!("{}  {} bytes", dist.agent.display(), size(&dist.agent)?);
    Ok(())
}

/// The release binaries.
#[derive(Debug)]
pub(crate) struct Dist {
    /// The CNI plugin.
    pub(crate) flock: PathBuf,
    /// The agent.
    pub(crate) agent: PathBuf,
}

impl Dist {
    /// The two in this directory.
    pub(crate) fn of(directory: &Path) -> Self {
        Self { flock: directory.join("flock"), agent: directory.join("flock-agent") }
    }
}

/// Builds both release binaries into `target/dist/` of the repository at `root`.
pub(crate) fn dist(root: &Path) -> Result<Dist> {
    if !cfg!(target_os = "linux") {
        bail!("flock runs on Linux: the release binaries can only be built there");
    }
    let flock = static_binary(root, "flock-cni", "flock")?;
    let agent = executable(cmd::cargo().args(["build", "--release", "-p", "flock-agent"]), "flock-agent")?;
    let size = fs::metadata(&flock)?.len();
    if size >= PLUGIN_LIMIT {
        bail!(
            "the plugin has {size} bytes; it must stay under {PLUGIN_LIMIT}, see [profile.plugin] in Cargo.toml"
        );
    }
    let dir = root.join("target/dist");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(Dist {
        flock: install(&flock, &dir.join("flock"))?,
        agent: install(&agent, &dir.join("flock-agent"))?,
    })
}

/// Builds one binary the way the plugin is built: small, and needing nothing of the host.
pub(crate) fn static_binary(root: &Path, package: &str, name: &str) -> Result<PathBuf> {
    // An explicit target keeps the flag away from build scripts and procedural macros, which must stay
    // dynamic; a directory of its own keeps it from invalidating everyone else's build.
    let triple = host_triple()?;
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default() + " -C target-feature=+crt-static";
    let mut build = cmd::cargo();
    build.args(["build", "--profile", "plugin", "-p", package, "--bin", name, "--target", &triple]);
    build.arg("--target-dir").arg(root.join("target/static")).env("RUSTFLAGS", flags);
    let binary = executable(&mut build, name)?;
    let content = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    if !elf::is_static(&content).with_context(|| binary.display().to_string())? {
        bail!("{} names a dynamic loader: it would depend on the host's C library", binary.display());
    }
    Ok(binary)
}

/// Builds the API server that agents are tested against, as a program: xtask itself stays without Kubernetes.
pub(crate) fn api_server() -> Result<PathBuf> {
    let mut build = cmd::cargo();
    build.args(["build", "-p", "flock-k8s", "--features", "test-util", "--example", "api_server"]);
    executable(&mut build, "api_server")
}

/// The triple rustc builds for when it is not told.
pub(crate) fn host_triple() -> Result<String> {
    let version = cmd::output(Command::new("rustc").arg("-vV").current_dir(cmd::root()))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV does not name its host")
}

/// Runs a `cargo build` and returns where the binary `name` went, in cargo's own words: a target directory or
/// a default target set by the environment moves it.
fn executable(build: &mut Command, name: &str) -> Result<PathBuf> {
    build.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = build.spawn().with_context(|| format!("cannot execute {}", cmd::show(build)))?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut found = None;
    for message in
        serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<serde_json::Value>()
    {
        let message = message.context("cargo printed something that is not JSON")?;
        if message["target"]["name"] == name
            && let Some(path) = message["executable"].as_str()
        {
            found = Some(PathBuf::from(path));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed: {status}", cmd::show(build));
    }
    found.with_context(|| format!("`{}` made no executable {name}", cmd::show(build)))
}

/// Puts a copy in place by renaming: the old one may be running.
fn install(from: &Path, to: &Path) -> Result<PathBuf> {
    let new = to.with_extension("new");
    fs::copy(from, &new).with_context(|| format!("cannot copy {} to {}", from.display(), new.display()))?;
    fs::rename(&new, to).with_context(|| format!("cannot replace {}", to.display()))?;
    Ok(to.to_owned())
}
