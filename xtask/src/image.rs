//! `cargo xtask image`: the image of the node as an OCI archive, without a container engine.
//!
//! It holds the two binaries, BIRD, nft and the CNI plugin `loopback` out of Debian's packages, the libraries these need, and nothing else: no shell,
//! no package manager. The same binaries and packages make the same archive, byte for byte.

mod oci;
mod packages;
mod rootfs;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::build::{self, Dist};
use crate::cmd;
use rootfs::Rootfs;

/// The name under which a runtime finds the image; the manifests in deploy/ use it too.
const REPOSITORY: &str = "localhost/flock";

/// Options of `cargo xtask image`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// Directory with built `flock` and `flock-agent`; they are built where not given
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Where the archive goes; target/image/flock.oci.tar where not given
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs `cargo xtask image`.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let dist = match &args.binaries {
        Some(directory) => Dist::of(directory),
        None => build::dist(&cmd::root())?,
    };
    let made = make(&dist, args.output.clone())?;
    println!("{}  {}  {} bytes", made.name, made.archive.display(), made.size);
    println!("unpacked {} bytes, {} files; sha256:{}", made.unpacked, made.files, made.digest);
    Ok(())
}

/// An image that was made.
#[derive(Debug)]
pub(crate) struct Made {
    /// The archive.
    pub(crate) archive: PathBuf,
    /// Its size in bytes.
    pub(crate) size: usize,
    /// What a runtime calls the image.
    name: String,
    unpacked: usize,
    files: usize,
    digest: String,
}

/// Makes the image of these binaries; `output` is where the archive goes, if not to its usual place.
pub(crate) fn make(dist: &Dist, output: Option<PathBuf>) -> Result<Made> {
    let work = cmd::root().join("target/image");
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let unpacked =
        packages::unpack(&["bird2", "nftables", "containernetworking-plugins", "libgcc-s1"], &work)?;

    let mut rootfs = Rootfs::new();
    for program in ["/usr/sbin/bird", "/usr/sbin/birdc", "/usr/sbin/nft", "/usr/lib/cni/loopback"] {
        rootfs.program(program, &unpacked.path(program)?, &unpacked)?;
    }
    rootfs.program("/usr/local/bin/flock-agent", &dist.agent, &unpacked)?;
    rootfs.file("/usr/local/bin/flock", 0o755, fs::read(&dist.flock).context("cannot read the plugin")?);
    for (path, text) in unpacked.copyrights()? {
        rootfs.file(&path, 0o644, text);
    }

    let layer = rootfs.layer()?;
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("{REPOSITORY}:{version}");
    let content = oci::archive(&layer, &name, version, architecture()?)?;
    let archive = output.unwrap_or_else(|| work.join("flock.oci.tar"));
    fs::write(&archive, &content).with_context(|| format!("cannot write {}", archive.display()))?;
    let (size, digest) = (content.len(), oci::digest(&content));
    Ok(Made { archive, size, name, unpacked: layer.len(), files: rootfs.len(), digest })
}

/// This machine's architecture in the words of OCI.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image for {other}: flock is built for x86_64 and aarch64"),
    }
}
