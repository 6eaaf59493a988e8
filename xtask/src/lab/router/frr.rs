//! FRRouting as the upstream router: zebra for the kernel, bgpd for the sessions.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Learned, Path as Way, Router};
use crate::lab::execute::{self, Patience};
use crate::lab::process::Daemon;
use crate::lab::topology::{Family, NODES, ROUTER_ASN};

/// Debian keeps the daemons outside every `PATH`.
const DAEMONS: &str = "/usr/lib/frr";

/// Where zebra listens for bgpd.
const ZEBRA_SOCKET: &str = "zserv.api";

/// How long zebra may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn start(router: &Router) -> Result<Vec<Daemon>> {
    let mut zebra = start_daemon(router, "zebra", "hostname router\n")?;
    // A bgpd that finds no zebra tries again after 10 s. Until then it knows no interfaces, and takes every
    // update with a link-local next hop for a withdrawal.
    let started = Instant::now();
    while UnixStream::connect(router.dir.join(ZEBRA_SOCKET)).is_err() {
        zebra.check()?;
        if started.elapsed() > PATIENCE {
            bail!("zebra does not listen after {} s\n{}", PATIENCE.as_secs(), zebra.tail());
        }
        sleep(Duration::from_millis(5));
    }
    Ok(vec![zebra, start_daemon(router, "bgpd", &config())?])
}

fn start_daemon(router: &Router, name: &str, config: &str) -> Result<Daemon> {
    let dir = &router.dir;
    let conf = dir.join(format!("{name}.conf"));
    fs::write(&conf, config).with_context(|| format!("cannot write {}", conf.display()))?;
    let mut daemon = Command::new(Path::new(DAEMONS).join(name));
    // Everything it usually keeps in shared places goes into the lab's directory; no TCP terminal. Root has to
    // be in the group that owns vtysh's sockets.
    daemon.args(["-u", "root", "-g", "frrvty", "-P", "0", "--log", "stdout"]);
    daemon.arg("-f").arg(&conf).arg("--vty_socket").arg(dir);
    daemon.arg("-i").arg(dir.join(format!("{name}.pid"))).arg("-z").arg(dir.join(ZEBRA_SOCKET));
    Daemon::start("router", &mut daemon, &router.netns, &dir.join(format!("{name}.log")))
}

fn config() -> String {
    let mut text = format!(
        "\
frr defaults traditional
hostname router
!
router bgp {ROUTER_ASN}
 bgp router-id {id}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 ! each node has an AS of its own, and several may announce one prefix
 bgp bestpath as-path multipath-relax
",
        id = NODES[0].link.router.v4
    );
    // Writing into a string cannot fail.
    for node in &NODES {
        for neighbour in Family::ALL.map(|family| node.link.neighbour.of(family)) {
            let _ = write!(
                text,
                " neighbor {neighbour} remote-as {}\n neighbor {neighbour} timers connect 1\n",
                node.asn
            );
        }
    }
    for family in Family::ALL {
        let _ = writeln!(text, " !\n address-family ipv{} unicast", family.number());
        for node in &NODES {
            let _ = writeln!(text, "  neighbor {} activate", node.link.neighbour.of(family));
        }
        text.push_str(" exit-address-family\n");
    }
    text
}

fn ask(router: &Router, question: &str) -> Result<String> {
    let mut vtysh = Command::new("vtysh");
    vtysh.arg("--vty_socket").arg(&router.dir).args(["-c", question]);
    execute::succeed(&mut vtysh, "", &Patience::SHORT).map(|done| done.stdout)
}

fn ask_json(router: &Router, question: &str) -> Result<Value> {
    let text = ask(router, question)?;
    serde_json::from_str(&text).with_context(|| format!("FRR answered {question:?} with {text:?}"))
}

pub(super) fn version(router: &Router) -> Result<String> {
    // vtysh answers this by itself; the others have to be there too, and to know of each other.
    let text = ask(router, "show version")?;
    ask_json(router, "show bgp summary json")?;
    if !ask(router, "show zebra client summary")?.lines().any(|line| line.starts_with("bgp ")) {
        bail!("bgpd has not reached zebra yet");
    }
    let words: Vec<_> = text.split_whitespace().take(2).collect();
    match words.as_slice() {
        ["FRRouting", version] => Ok(format!("FRR {version}")),
        _ => bail!("FRR does not say who it is: {text:?}"),
    }
}

pub(super) fn session_states(router: &Router) -> Result<BTreeMap<IpAddr, String>> {
    Ok(parse_summary(&ask_json(router, "show bgp summary json")?))
}

/// Neighbour to state in the answer to `show bgp summary json`.
fn parse_summary(summary: &Value) -> BTreeMap<IpAddr, String> {
    let families =
        ["ipv6Unicast", "ipv4Unicast"].iter().filter_map(|family| summary[family]["peers"].as_object());
    families
        .flatten()
        .filter_map(|(peer, detail)| Some((peer.parse().ok()?, detail["state"].as_str()?.to_owned())))
        .collect()
}

pub(super) fn learned(router: &Router) -> Result<Vec<Learned>> {
    let mut routes = Vec::new();
    for family in Family::ALL {
        routes.extend(parse_routes(&ask_json(
            router,
            &format!("show bgp ipv{} unicast json", family.number()),
        )?));
    }
    Ok(routes)
}

/// The routes in the answer to `show bgp ipv6 unicast json`, all paths of a prefix in one.
fn parse_routes(table: &Value) -> Vec<Learned> {
    let routes = table["routes"].as_object().into_iter().flatten();
    let routes = routes.filter_map(|(prefix, paths)| {
        let chosen = |path: &&Value| path["bestpath"] == true || path["multipath"] == true;
        let paths = paths.as_array()?.iter().filter(chosen).map(parse_path).collect();
        Some(Learned { prefix: prefix.parse().ok()?, paths, kernel: Vec::new() })
    });
    routes.filter(|route| !route.paths.is_empty()).collect()
}

fn parse_path(path: &Value) -> Way {
    let hops = path["nexthops"].as_array().into_iter().flatten();
    let systems = path["path"].as_str().unwrap_or_default().split(' ');
    Way {
        next_hops: hops.filter_map(|hop| hop["ip"].as_str()?.parse().ok()).collect(),
        as_path: systems.filter_map(|asn| asn.parse().ok()).collect(),
    }
}

pub(super) fn commands(router: &Router) -> [String; 2] {
    ["show bgp summary", "show bgp ipv6 unicast"]
        .map(|question| format!("vtysh --vty_socket {} -c '{question}'", router.dir.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_read_as_frr_prints_them() {
        let table = json!({ "vrfName": "default", "routes": {
            "2001:db8:f001::/64": [
                { "valid": true, "bestpath": true, "network": "2001:db8:f001::/64", "path": "65101", "origin": "IGP",
                  "nexthops": [
                    { "ip": "2001:db8:0:1::2", "afi": "ipv6", "scope": "global" },
                    { "ip": "fe80::9", "afi": "ipv6", "scope": "link-local", "used": true } ] } ],
            "2001:db8:a::53/128": [
                { "valid": true, "multipath": true, "path": "65102", "nexthops": [ { "ip": "2001:db8:0:2::2" } ] },
                { "valid": true, "path": "65103", "nexthops": [ { "ip": "2001:db8:0:3::2" } ] },
                { "valid": true, "bestpath": true, "path": "65101", "nexthops": [ { "ip": "2001:db8:0:1::2" } ] } ],
            "2001:db8:f002::/64": [ { "valid": true, "path": "65102", "nexthops": [] } ] } });
        let routes = parse_routes(&table);
        assert_eq!(routes.len(), 2, "a route that was not chosen does not count");
        let systems =
            |route: &Learned| route.paths.iter().flat_map(|path| path.as_path.clone()).collect::<Vec<_>>();
        assert_eq!(systems(&routes[0]), [65102, 65101]);
        assert_eq!(systems(&routes[1]), [65101]);
        assert_eq!(routes[1].paths[0].next_hops.len(), 2);
    }

    #[test]
    fn session_states_are_read_as_frr_prints_them() {
        let summary = json!({
            "ipv4Unicast": { "peers": { "192.0.2.2": { "state": "Established" } } },
            "ipv6Unicast": { "peers": { "2001:db8:0:1::2": { "state": "Active" } } } });
        let states: Vec<_> = parse_summary(&summary).into_values().collect();
        assert_eq!(states, ["Established", "Active"]);
    }

    #[test]
    fn config_activates_every_node_in_the_family_of_its_session() {
        let text = config();
        let v6 = text.split("address-family ipv6").nth(1).unwrap();
        for node in &NODES {
            assert!(v6.contains(&format!("neighbor {} activate", node.link.neighbour.v6)));
            assert!(text.contains(&format!("neighbor {} remote-as {}", node.link.neighbour.v4, node.asn)));
        }
    }
}
