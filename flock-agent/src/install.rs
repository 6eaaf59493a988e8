//! `flock-agent install`: the plugin and the network list in the places where the container runtime looks.
//!
//! The plugin first, the list last: a runtime that sees the list finds everything it names. Both are replaced
//! in one step, so that a runtime that executes or reads them at that moment has the old one or the new one,
//! and nothing is ever deleted: without its list a runtime cannot even take pods away.

mod chain;
mod conflist;
mod place;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use self::chain::Link;
use self::conflist::Conflist;
use self::place::Placed;
use crate::print::print;

/// The plugin's file, and its `type` in a network list.
const PLUGIN: &str = "flock";

/// The plugin that containerd starts for every pod, whatever is in the list: no pod starts without it.
const LOOPBACK: &str = "loopback";

/// The network list. Runtimes take the first of the directory.
const CONFLIST: &str = "01-flock.conflist";

/// How `flock-agent install` ends.
pub(crate) const EXIT_STATUS: &str = "Exit status: 0 everything is in place, whether or not it was before; 1 something could not be put \
     in place: what was there is as it was, and it is safe to run again; 2 the command line is wrong.";

/// Arguments of `flock-agent install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Directory of the runtime's CNI plugins; the plugin `flock` goes there.
    #[arg(long, env = "FLOCK_CNI_BIN_DIR", value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// Directory of the runtime's network lists; 01-flock.conflist goes there.
    #[arg(long, env = "FLOCK_CNI_CONF_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// The plugin to install; the file `flock` beside this program where not given.
    #[arg(long, env = "FLOCK_PLUGIN", value_name = "PATH")]
    plugin: Option<PathBuf>,
    /// Socket of the agent, which the plugin is to connect to.
    #[arg(long, env = "FLOCK_SOCKET", value_name = "PATH", default_value = flock_cni::wire::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// The plugin `loopback`, to be installed where the directory of plugins has none: containerd needs it.
    #[arg(long, env = "FLOCK_LOOPBACK", value_name = "PATH", default_value = "/usr/lib/cni/loopback")]
    loopback: PathBuf,
    /// Add the plugin `portmap` (host ports) to the list, where the directory of plugins has it.
    #[arg(long, env = "FLOCK_WITH_PORTMAP")]
    with_portmap: bool,
    /// Add the plugin `bandwidth` (rate limits) to the list, where the directory of plugins has it.
    #[arg(long, env = "FLOCK_WITH_BANDWIDTH")]
    with_bandwidth: bool,
}

/// Why the installation did not get to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// A step on a file or directory failed.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no plugin to install.
    #[error("there is no plugin at {}: say where it is with --plugin", path.display())]
    NoPlugin {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The socket is named relative to nowhere.
    #[error("--socket {}: must be an absolute path", path.display())]
    Socket {
        /// The path given.
        path: PathBuf,
    },
}

/// Installs, and says what has changed.
pub(crate) async fn run(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    if !args.socket.is_absolute() {
        return Err(InstallError::Socket { path: args.socket.clone() }.into());
    }
    let plugin = source(args.plugin.as_deref())?;
    let installed = place::directory(&args.cni_bin_dir)?.put(PLUGIN, &plugin, 0o755)?;
    report(installed, &args.cni_bin_dir.join(PLUGIN))?;

    supply_loopback(args)?;

    let mut conflist = Conflist::new(&args.socket);
    for link in wanted(args) {
        match link.versions(&args.cni_bin_dir).await {
            Ok(versions) => {
                if !conflist.chain(link, &versions) {
                    tracing::warn!(plugin = link.name(), "left out: it does not speak CNI 1.0.0");
                }
            }
            Err(error) => tracing::warn!(plugin = link.name(), "left out: {error}"),
        }
    }
    for version in conflist.dropped() {
        tracing::warn!("CNI {} is not offered: a plugin of the list does not speak it", version.as_str());
    }
    let written =
        place::directory(&args.cni_conf_dir)?.put(CONFLIST, conflist.to_string().as_bytes(), 0o644)?;
    report(written, &args.cni_conf_dir.join(CONFLIST))?;
    for name in before_ours(&args.cni_conf_dir)? {
        tracing::warn!("{name} comes before {CONFLIST}: a runtime takes the first, and so not flock");
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts the plugin `loopback` where the runtime looks, unless it has one.
fn supply_loopback(args: &InstallArgs) -> anyhow::Result<()> {
    let path = args.cni_bin_dir.join(LOOPBACK);
    if path.exists() {
        return Ok(());
    }
    match fs::read(&args.loopback) {
        Ok(plugin) => report(place::directory(&args.cni_bin_dir)?.put(LOOPBACK, &plugin, 0o755)?, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let sought = args.loopback.display();
            tracing::warn!(
                "there is neither {} nor {sought}: containerd starts no pod without it",
                path.display()
            );
            Ok(())
        }
        Err(error) => Err(place::failed("read", &args.loopback)(error).into()),
    }
}

fn wanted(args: &InstallArgs) -> impl Iterator<Item = Link> {
    let portmap = args.with_portmap.then_some(Link::Portmap);
    portmap.into_iter().chain(args.with_bandwidth.then_some(Link::Bandwidth))
}

/// The plugin's content.
fn source(given: Option<&Path>) -> Result<Vec<u8>, InstallError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()
            .map_err(place::failed("find", Path::new("this program")))?
            .with_file_name(PLUGIN),
    };
    match fs::read(&path) {
        Ok(content) => Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(InstallError::NoPlugin { path }),
        Err(error) => Err(place::failed("read", &path)(error)),
    }
}

fn report(placed: Placed, path: &Path) -> anyhow::Result<()> {
    let done = match placed {
        Placed::New => "installed",
        Placed::Replaced => "replaced",
        Placed::Same => "unchanged",
    };
    print(&format!("{done:<10} {}", path.display()))
}

/// Network lists a runtime would prefer to ours.
fn before_ours(directory: &Path) -> Result<Vec<String>, InstallError> {
    let entries = fs::read_dir(directory).map_err(place::failed("list", directory))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_list = |name: &String| {
        // What go-cni reads.
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let mut before: Vec<_> = names.filter(is_list).filter(|name| name.as_str() < CONFLIST).collect();
    before.sort_unstable();
    Ok(before)
}
