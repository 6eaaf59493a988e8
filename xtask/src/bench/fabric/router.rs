//! The router's daemons: BIRD, or zebra and bgpd of FRR.

use std::fmt::Write;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::node::link;
use super::{Daemon, eventually};
use crate::bench::netns::Netns;

/// What the router runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(in crate::bench) enum RouterKind {
    /// BIRD 2.
    Bird,
    /// FRRouting: zebra and bgpd.
    Frr,
}

/// The autonomous system of the router.
pub(super) const ASN: u32 = 65000;

/// The autonomous system of a node.
pub(super) fn node_asn(number: u8) -> u32 {
    65100 + u32::from(number)
}

/// Starts them.
pub(super) fn start(kind: RouterKind, netns: &Netns, dir: &Path, nodes: u8) -> Result<Vec<Daemon>> {
    match kind {
        RouterKind::Bird => {
            let conf = dir.join("router.conf");
            fs::write(&conf, bird(nodes)).context("cannot write the router's configuration")?;
            let mut bird = Command::new("bird");
            bird.arg("-f").arg("-c").arg(&conf).arg("-s").arg(dir.join("router.ctl"));
            Ok(vec![Daemon::start(&mut bird, netns, &dir.join("router.log"))?])
        }
        RouterKind::Frr => {
            let zebra = frr_daemon("zebra", "hostname router\n", netns, dir)?;
            // A bgpd that finds no zebra tries again after 10 s only.
            eventually(|| UnixStream::connect(dir.join("zserv.api")).context("zebra does not listen"))?;
            Ok(vec![frr_daemon("bgpd", &frr(nodes), netns, dir)?, zebra])
        }
    }
}

fn frr_daemon(name: &str, config: &str, netns: &Netns, dir: &Path) -> Result<Daemon> {
    let conf = dir.join(format!("{name}.conf"));
    fs::write(&conf, config).context("cannot write the router's configuration")?;
    let mut daemon = Command::new(Path::new("/usr/lib/frr").join(name));
    // Root has to be in the group that owns the sockets.
    daemon.args(["-u", "root", "-g", "frrvty", "-P", "0", "--log", "stdout", "-f"]).arg(&conf);
    daemon.arg("--vty_socket").arg(dir).arg("-i").arg(dir.join(format!("{name}.pid")));
    daemon.arg("-z").arg(dir.join("zserv.api"));
    Daemon::start(&mut daemon, netns, &dir.join(format!("{name}.log")))
}

fn bird(nodes: u8) -> String {
    let mut text = "\
log stderr all;
router id 192.0.2.193;
protocol device { }
protocol kernel kernel6 { merge paths on; ipv6 { import none; export all; }; }
protocol kernel kernel4 { merge paths on; ipv4 { import none; export all; }; }
"
    .to_owned();
    for number in 1..=nodes {
        let [router, node] = link(number);
        for ((family, local), neighbour) in [6, 4].iter().zip(router).zip(node) {
            let asn = node_asn(number);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "protocol bgp node{number}_v{family} {{ passive yes; local {local} as {ASN}; neighbor {neighbour} as \
                 {asn}; ipv{family} {{ import all; export none; }}; }}",
            );
        }
    }
    text
}

fn frr(nodes: u8) -> String {
    let mut text = format!(
        "frr defaults traditional\nhostname router\nrouter bgp {ASN}\n bgp router-id 192.0.2.193\n no bgp \
         ebgp-requires-policy\n no bgp default ipv4-unicast\n bgp bestpath as-path multipath-relax\n"
    );
    for number in 1..=nodes {
        let [_, node] = link(number);
        for neighbour in node {
            let asn = node_asn(number);
            let _ = write!(
                text,
                " neighbor {neighbour} remote-as {asn}\n neighbor {neighbour} timers connect 1\n"
            );
        }
    }
    for (place, family) in [6, 4].into_iter().enumerate() {
        let _ = writeln!(text, " address-family ipv{family} unicast");
        for number in 1..=nodes {
            let [_, node] = link(number);
            let _ = node.get(place).map(|neighbour| writeln!(text, "  neighbor {neighbour} activate"));
        }
        text.push_str(" exit-address-family\n");
    }
    text
}
