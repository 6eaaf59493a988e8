//! A pod whose network the runtime has made by the installed list.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::container::{Node, SLEEP};
use crate::lab::cluster::{Cluster, leftovers};
use crate::lab::execute::{self, Patience};
use crate::lab::netns::Netns;
use crate::lab::pods::addresses_of_eth0;
use crate::lab::router::is_link_local;
use crate::lab::topology::{self, Family};

/// Its container; nothing but its network matters.
const NAME: &str = "pod";

/// Elements of the lab that reach the pod: the node, the router, and beyond.
const FROM: [&str; 4] = ["node1", "router", "node2", "client"];

/// A pod that runs.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) v6: IpAddr,
    pub(super) v4: IpAddr,
}

/// Starts it. What its addresses should be, the agent says.
pub(super) fn start(lab: &mut Cluster, node: &Node) -> Result<Pod> {
    let options = ["--rm", "--cni"].map(str::to_owned);
    let mut run = node.containerd.run(NAME, &options, node.image());
    lab.start_daemon(NAME, node.place.name, run.args(SLEEP))?;
    lab.wait_for("the pod runs", || {
        node.containerd.exec(NAME, &["birdc", "-s", "/run/flock/bird.ctl", "show", "status"])
    })?;

    let status = node.status()?;
    let held = status["allocations"].as_array().map_or(&[][..], Vec::as_slice);
    let [held] = held else { bail!("the agent should hold one allocation: {}", status["allocations"]) };
    let text = held.to_string();
    let netns = name_netns(&lab.state.netns(NAME), node.containerd.pid(NAME)?)?;
    let mut own = addresses_of_eth0(&netns)?;
    // Only a name: the namespace must not live on for its sake.
    fs::remove_file(netns.path()).context("cannot remove the name of the pod's namespace")?;
    own.retain(|address| !is_link_local(*address));
    own.sort_by_key(|address| Family::of(*address));
    let [v6, v4] = own[..] else { bail!("the pod should have an address of each family, and has {own:?}") };
    for (family, address) in [(Family::V6, v6), (Family::V4, v4)] {
        ensure!(node.place.pool(family).contains(&address), "{address} is not of the node's pool");
        ensure!(text.contains(&format!("\"{address}\"")), "the agent does not say {address}: {text}");
    }
    Ok(Pod { v6, v4 })
}

/// Gives the namespace of a process a name that does not hold it.
fn name_netns(netns: &Netns, pid: i32) -> Result<Netns> {
    symlink(format!("/proc/{pid}/ns/net"), netns.path())
        .with_context(|| format!("cannot make {}", netns.path().display()))?;
    Ok(netns.clone())
}

impl Pod {
    /// Pings it from everywhere; from where, in words.
    pub(super) fn verify_reachable(&self, lab: &Cluster) -> Result<String> {
        let patience = Patience::until(std::time::Duration::from_secs(30), &lab.interrupt);
        for from in FROM {
            for address in [self.v6, self.v4] {
                let mut ping = Command::new("ping");
                ping.args([Family::of(address).option(), "-n", "-c", "3", "-i", "0.05", "-W", "5"]);
                ping.arg(address.to_string()).env("LC_ALL", "C");
                let done = execute::run(&mut ping, Some(&lab.state.netns(from)), "", &patience)?;
                ensure!(
                    done.status.success() && done.stdout.contains(" 0% packet loss"),
                    "{from} does not reach {address}: {}",
                    done.stdout.trim()
                );
            }
        }
        Ok(FROM.join(", "))
    }
}

/// Ends the pod and waits until the node and the router have nothing of it.
pub(super) fn end(lab: &mut Cluster, node: &Node) -> Result<()> {
    node.containerd.signal(NAME, "SIGTERM")?;
    lab.wait_for_end(&[NAME])?;
    let netns = node.netns.clone();
    lab.wait_for("nothing of the pod is left", || {
        let mut left = leftovers(&netns, node.place)?;
        let status = node.status()?;
        let held = status["allocations"].as_array().map_or(&[][..], Vec::as_slice);
        left.extend(held.iter().map(|held| format!("allocation {held}")));
        ensure!(left.is_empty(), "{}", left.join(", "));
        Ok(())
    })?;
    lab.wait_for_routes(topology::pools())?;
    let containers = node.containerd.succeed(&["container", "list", "--quiet"])?;
    ensure!(!containers.lines().any(|id| id == NAME), "containerd still has the container");
    ensure!(Path::new("/opt/cni/bin/flock").exists(), "the plugin is gone");
    Ok(())
}
