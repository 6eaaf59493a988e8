//! A small network: a router, nodes with BIRD and an agent each, and a client, all of them as real as on a site.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use tempfile::TempDir;

use super::netns::Netns;
use crate::build::Dist;
use crate::cmd;

mod node;
mod router;

pub(super) use node::{FabricNode, Pod, Standing};
pub(super) use router::RouterKind;

/// How long to wait for something that takes a second or two when all is well.
const PATIENCE: Duration = Duration::from_mins(1);

/// Addresses of the client.
pub(super) const CLIENT: [&str; 2] = ["2001:db8:0:c::2", "192.0.2.194"];

/// The whole. Dropping it ends its daemons; the namespaces go with them.
pub(super) struct Fabric {
    pub(super) nodes: Vec<FabricNode>,
    pub(super) router: Netns,
    pub(super) client: Netns,
    _daemons: Vec<Daemon>,
    dir: TempDir,
}

impl Fabric {
    /// Makes it, with nodes numbered from 1, and waits until the router knows the pools of all of them.
    pub(super) fn start(dist: &Dist, kind: RouterKind, nodes: u8) -> Result<Self> {
        // Socket paths must be short.
        let dir = tempfile::Builder::new().prefix("flock-bench-").tempdir()?;
        let (router, client) = (Netns::new()?, Netns::new()?);
        router.run(|| {
            settle("router")?;
            // A router of another machine has another seed; where the kernel lets nobody choose one, it shares ours.
            let _ = fs::write("/proc/sys/net/ipv4/fib_multipath_hash_seed", "20240607");
            for family in ["ipv4", "ipv6"] {
                set(&format!("{family}/fib_multipath_hash_policy"), "1")?;
            }
            Ok(())
        })?;
        client.run(|| settle("client"))?;
        wire(&router, &client, "client", ["2001:db8:0:c::1/64", "192.0.2.193/28"], CLIENT)?;
        let daemons = router::start(kind, &router, dir.path(), nodes)?;
        let mut fabric = Self { nodes: Vec::new(), router, client, _daemons: daemons, dir };
        for number in 1..=nodes {
            let node = FabricNode::start(dist, &fabric.router, fabric.dir.path(), number)?;
            fabric.nodes.push(node);
        }
        for number in 1..=nodes {
            for pool in node::pools(number) {
                fabric.wait_for_route(pool)?;
            }
        }
        Ok(fabric)
    }

    /// Waits until the router's kernel has a route to this prefix.
    pub(super) fn wait_for_route(&self, prefix: IpNet) -> Result<()> {
        let family = if prefix.addr().is_ipv6() { "-6" } else { "-4" };
        let there = || {
            let shown = self.router.run(|| {
                cmd::output(Command::new("ip").args([family, "route", "show", "exact", &prefix.to_string()]))
            })?;
            ensure!(!shown.trim().is_empty(), "the router has no route to {prefix}");
            Ok(())
        };
        eventually(there)
    }
}

/// Tries until it succeeds, or gives its last error.
pub(super) fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            outcome => return outcome.with_context(|| format!("waited {PATIENCE:?}")),
        }
    }
}

/// A daemon, killed when it is dropped.
pub(super) struct Daemon(Child);

impl Daemon {
    /// Starts it in a namespace, with everything it says in a file.
    pub(super) fn start(command: &mut Command, netns: &Netns, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log).context("cannot create a log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        netns.run(|| {
            command.spawn().map(Self).with_context(|| format!("cannot execute {}", cmd::show(command)))
        })
    }

    /// Ends it without a warning, as a crash does.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.0.kill().context("cannot kill a daemon")?;
        self.0.wait().map(drop).context("cannot wait for a daemon")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.kill();
    }
}

/// Whatever the machine's defaults are: addresses work at once, and packets are passed on.
fn settle(what: &str) -> Result<()> {
    cmd::run(Command::new("ip").args(["link", "set", "lo", "up"])).with_context(|| what.to_owned())?;
    for name in ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad"] {
        set(name, "0")?;
    }
    for name in ["ipv6/conf/all/forwarding", "ipv4/ip_forward"] {
        set(name, "1")?;
    }
    Ok(())
}

/// Writes a setting of the namespace of this thread.
fn set(name: &str, value: &str) -> Result<()> {
    let file = Path::new("/proc/sys/net").join(name);
    fs::write(&file, value).with_context(|| format!("cannot set {}", file.display()))
}

/// Joins somebody to the router, with the router as the way to everything.
fn wire(router: &Netns, other: &Netns, name: &str, gateways: [&str; 2], own: [&str; 2]) -> Result<()> {
    let ip = |arguments: &str| cmd::run(Command::new("ip").args(arguments.split(' ')));
    let lengths = gateways.map(|gateway| gateway.split_once('/').map_or("", |(_, length)| length));
    router.run(|| {
        ip(&format!("link add {name} type veth peer name uplink netns {}", other.path().display()))?;
        for gateway in gateways {
            ip(&format!("address add {gateway} dev {name}"))?;
        }
        ip(&format!("link set {name} up"))
    })?;
    other.run(|| {
        for (address, length) in own.iter().zip(lengths) {
            ip(&format!("address add {address}/{length} dev uplink"))?;
        }
        ip("link set uplink up")?;
        for gateway in gateways.iter().filter_map(|gateway| gateway.split('/').next()) {
            let family = if gateway.contains(':') { "-6" } else { "-4" };
            ip(&format!("{family} route add default via {gateway}"))?;
        }
        Ok(())
    })
}
