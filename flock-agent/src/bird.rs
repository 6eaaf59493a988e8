//! `flock-agent bird`: BIRD as a child that is started right and stopped right.
//!
//! BIRD must never see SIGTERM (it tells its peers to drop everything): a stop is a graceful restart, and
//! SIGKILL where that is not answered, which the peers survive just as well. It must not outlive this
//! process either, so the child asks the kernel to kill it with its parent before it becomes BIRD; a
//! process can only ask that for itself, hence the step in between.

mod watch;

use std::convert::Infallible;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use flock_bird::Client;
use flock_core::bird;
use flock_core::ids::NodeName;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{gethostname, getppid};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use self::watch::Watch;
use crate::{clock, shutdown};

/// Arguments of `flock-agent bird`.
#[derive(Debug, Args)]
pub(crate) struct BirdArgs {
    /// Configuration file of BIRD; a bootstrap one is written where none is.
    #[arg(long, env = "FLOCK_BIRD_CONF", value_name = "PATH", default_value = "/run/flock/bird.conf")]
    bird_conf: PathBuf,
    /// Control socket of BIRD.
    #[arg(long, env = "FLOCK_BIRD_SOCKET", value_name = "PATH", default_value = "/run/flock/bird.ctl")]
    bird_socket: PathBuf,
    /// The BIRD to run, by path or by name.
    #[arg(long, env = "FLOCK_BIRD_BINARY", value_name = "PROGRAM", default_value = "bird")]
    bird_binary: PathBuf,
    /// Name of this node, which gives the bootstrap configuration its router ID; the host name where not
    /// given.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
}

/// Set for the child only: the process it is to end with.
const PARENT: &str = "FLOCK_BIRD_PARENT";

/// For BIRD to answer, and then for it to go. Both fit into the 30 s the kubelet gives a container.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often BIRD is asked whether it is up. BIRD 2.0.12 started with `-R` comes up faster when asked.
const POLL: Duration = Duration::from_millis(100);

/// Runs BIRD until it ends, and ends as it did.
pub(crate) async fn run(args: BirdArgs) -> anyhow::Result<ExitCode> {
    if let Some(parent) = std::env::var_os(PARENT) {
        let parent = parent.to_str().and_then(|pid| pid.parse().ok());
        return Err(become_bird(&args, parent).into());
    }
    let mut stop = shutdown::on_signal().context("cannot listen for signals")?;
    for path in [&args.bird_conf, &args.bird_socket] {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(directory) = directory {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
            made.with_context(|| format!("cannot make the directory {}", directory.display()))?;
        }
    }
    bootstrap(&args)?;
    free_socket(&args.bird_socket).await?;

    let mut bird = spawn(&args)?;
    let ended = tokio::select! {
        ended = bird.wait() => ended,
        _ = stop.wait_for(|stop| *stop) => end(&mut bird, &args.bird_socket).await,
        never = see_through_start(&args.bird_socket) => match never {},
    };
    let ended = ended.context("cannot wait for BIRD")?;
    tracing::info!(status = %ended, "BIRD has ended");
    Ok(exit_code(ended))
}

/// Puts a configuration without BGP in place for a BIRD that has none yet. One the agent has put there,
/// now or a moment later, is left alone: a link, unlike a rename, never replaces.
fn bootstrap(args: &BirdArgs) -> anyhow::Result<()> {
    let conf = &args.bird_conf;
    if conf.exists() {
        return Ok(());
    }
    let text = bird::bootstrap(router_id(args.node_name.as_deref())?)?;
    let mut draft = conf.clone().into_os_string();
    draft.push(".bootstrap");
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, conf) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::remove_file(&draft)
    };
    written().with_context(|| format!("cannot write {}", conf.display()))
}

fn router_id(node_name: Option<&str>) -> anyhow::Result<Ipv4Addr> {
    let name = match node_name {
        Some(name) => name.to_owned(),
        None => gethostname().context("cannot read the host name")?.to_string_lossy().to_lowercase(),
    };
    let node = NodeName::parse(&name).context("set --node-name")?;
    Ok(bird::derived_router_id(&node))
}

/// Makes sure that whoever answers at the socket from now on is our BIRD.
async fn free_socket(socket: &Path) -> anyhow::Result<()> {
    let gone = async {
        // One that was killed with its parent a moment ago may take that moment to die.
        while is_taken(socket).await {
            sleep(POLL).await;
        }
    };
    if timeout(PATIENCE, gone).await.is_err() {
        bail!("another BIRD answers at {}: stop it, or use another --bird-socket", socket.display());
    }
    match fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the stale socket {}", socket.display()))
        }
        _ => Ok(()),
    }
}

/// Whether somebody has the socket: also one that hangs, and whose queue is full.
async fn is_taken(socket: &Path) -> bool {
    match UnixStream::connect(socket).await {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Starts this program again as the process that will be BIRD, in a process group of its own: a Ctrl-C
/// is for us alone.
fn spawn(args: &BirdArgs) -> anyhow::Result<Child> {
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.arg("bird");
    command.arg("--bird-conf").arg(&args.bird_conf).arg("--bird-socket").arg(&args.bird_socket);
    command.arg("--bird-binary").arg(&args.bird_binary);
    command.env(PARENT, std::process::id().to_string());
    command.stdin(std::process::Stdio::null()).process_group(0).kill_on_drop(true);
    command.spawn().context("cannot start BIRD")
}

/// Turns this process into BIRD; returns only when that fails.
fn become_bird(args: &BirdArgs, parent: Option<i32>) -> io::Error {
    if let Err(errno) = prctl::set_pdeathsig(Signal::SIGKILL) {
        return errno.into();
    }
    // Gone before it was asked for: nobody would end BIRD.
    if parent != Some(getppid().as_raw()) {
        return io::Error::other("the process that wanted BIRD is gone");
    }
    let mut command = Command::new(&args.bird_binary);
    command.arg("-f").arg("-c").arg(&args.bird_conf).arg("-s").arg(&args.bird_socket);
    if started_before(&args.bird_socket) {
        command.arg("-R");
    }
    let error = command.env_remove(PARENT).exec();
    io::Error::new(error.kind(), format!("cannot run {}: {error}", args.bird_binary.display()))
}

/// Beside the socket: the boot in which BIRD has last come up.
fn marker(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".boot-id");
    path.into()
}

/// Whether the peers may be holding routes for us: a BIRD has run since the machine came up. After a cold
/// start there is nothing to recover, and waiting for it would only cost time.
fn started_before(socket: &Path) -> bool {
    let recorded = fs::read_to_string(marker(socket)).ok();
    recorded.is_some() && recorded == clock::boot_id().ok()
}

/// Records that BIRD runs in this boot as soon as it answers, and keeps it awake.
async fn see_through_start(socket: &Path) -> Infallible {
    let daemon = loop {
        if let Ok(mut client) = Client::connect(socket, PATIENCE).await
            && let Ok(daemon) = client.daemon().await
        {
            break daemon;
        }
        sleep(POLL).await;
    };
    let recorded = clock::boot_id().and_then(|boot| Ok(fs::write(marker(socket), boot)?));
    if let Err(error) = recorded {
        tracing::warn!(%error, "the next start of BIRD will not be a graceful one");
    }
    tracing::info!(version = daemon.version, "BIRD is up");
    keep_awake(socket).await
}

/// Looks at the sessions for ever, often while BIRD has something to do: that alone has it done in time.
async fn keep_awake(socket: &Path) -> Infallible {
    let mut watch = Watch::new(Instant::now());
    loop {
        if let Ok(mut client) = Client::connect(socket, PATIENCE).await {
            while let Ok(sessions) = client.sessions().await {
                sleep(watch.pause(&sessions, Instant::now())).await;
            }
        }
        sleep(watch::QUIET).await;
    }
}

/// Ends BIRD so that its peers keep the routes.
async fn end(bird: &mut Child, socket: &Path) -> io::Result<ExitStatus> {
    let asked = async { Client::connect(socket, PATIENCE).await?.graceful_restart().await };
    match asked.await {
        Ok(()) => {
            if let Ok(ended) = timeout(PATIENCE, bird.wait()).await {
                return ended;
            }
            tracing::warn!("BIRD does not end and is killed");
        }
        Err(error) => tracing::warn!(%error, "BIRD cannot be asked to end and is killed"),
    }
    bird.start_kill()?;
    bird.wait().await
}

/// The status BIRD ended with, as a shell would put it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
