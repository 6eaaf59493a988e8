//! BIRD 2 as the upstream router.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::{Learned, Path, Router};
use crate::lab::execute::{self, Patience};
use crate::lab::process::Daemon;
use crate::lab::topology::{Family, NODES, Node, ROUTER_ASN};

const SOCKET: &str = "bird.ctl";

pub(super) fn start(router: &Router) -> Result<Vec<Daemon>> {
    let conf = router.dir.join("bird.conf");
    fs::write(&conf, config()).with_context(|| format!("cannot write {}", conf.display()))?;
    let mut bird = Command::new("bird");
    bird.arg("-f").arg("-c").arg(&conf).arg("-s").arg(router.dir.join(SOCKET));
    Ok(vec![Daemon::start("router", &mut bird, &router.netns, &router.dir.join("bird.log"))?])
}

fn config() -> String {
    let mut text = format!(
        "\
log stderr all;
router id {id};

protocol device {{ }}
# Several nodes may announce one prefix: the kernel gets all of them.
protocol kernel kernel6 {{ merge paths on; ipv6 {{ import none; export all; }}; }}
protocol kernel kernel4 {{ merge paths on; ipv4 {{ import none; export all; }}; }}

# The nodes call: a session is up as soon as a node wants it.
template bgp node {{ passive yes; }}
",
        id = NODES[0].link.router.v4
    );
    for node in &NODES {
        for family in Family::ALL {
            let _ = write!(
                text,
                "
protocol bgp {name} from node {{
  local {local} as {ROUTER_ASN};
  neighbor {neighbour} as {asn};
  ipv{family} {{ import all; export none; }};
}}
",
                name = session_name(node, family),
                local = node.link.router.of(family),
                neighbour = node.link.neighbour.of(family),
                asn = node.asn,
                family = family.number(),
            );
        }
    }
    text
}

fn session_name(node: &Node, family: Family) -> String {
    format!("{}_v{}", node.name, family.number())
}

fn ask(router: &Router, question: &str) -> Result<String> {
    let mut birdc = Command::new("birdc");
    birdc.arg("-r").arg("-s").arg(router.dir.join(SOCKET)).args(question.split(' '));
    execute::succeed(&mut birdc, "", &Patience::SHORT).map(|done| done.stdout)
}

pub(super) fn version(router: &Router) -> Result<String> {
    let status = ask(router, "show status")?;
    let line =
        status.lines().find(|line| line.starts_with("BIRD ")).context("BIRD does not say who it is")?;
    Ok(line.trim_end_matches(" ready.").to_owned())
}

pub(super) fn session_states(router: &Router) -> Result<BTreeMap<IpAddr, String>> {
    let states = parse_protocols(&ask(router, "show protocols")?);
    let sessions = NODES.iter().flat_map(|node| Family::ALL.map(|family| (node, family)));
    Ok(sessions
        .filter_map(|(node, family)| {
            let state = states.get(&session_name(node, family))?;
            Some((node.link.neighbour.of(family), state.clone()))
        })
        .collect())
}

/// Name to state of every BGP protocol in the answer to `show protocols`.
fn parse_protocols(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                [name, "BGP", _, state, _, rest @ ..] => {
                    let state = rest.first().unwrap_or(state);
                    Some(((*name).to_owned(), (*state).to_owned()))
                }
                _ => None,
            }
        })
        .collect()
}

pub(super) fn learned(router: &Router) -> Result<Vec<Learned>> {
    Ok(parse_routes(&ask(router, "show route all")?))
}

/// The routes in the answer to `show route all`, all paths of a prefix in one.
fn parse_routes(text: &str) -> Vec<Learned> {
    let mut routes: Vec<Learned> = Vec::new();
    for line in text.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if let Ok(prefix) = first.parse() {
            routes.push(Learned { prefix, paths: Vec::new(), kernel: Vec::new() });
        }
        let Some(route) = routes.last_mut() else { continue };
        // The first path is in the line of the prefix, the others in lines that begin with spaces.
        if (first.is_empty() || first.parse::<IpNet>().is_ok()) && line.contains(" [") {
            route.paths.push(Path::default());
        }
        let Some(path) = route.paths.last_mut() else { continue };
        match line.trim().split_once(": ") {
            Some(("BGP.next_hop", value)) => {
                path.next_hops = value.split(' ').filter_map(|hop| hop.parse().ok()).collect();
            }
            Some(("BGP.as_path", value)) => {
                path.as_path = value.split(' ').filter_map(|asn| asn.parse().ok()).collect();
            }
            _ => {}
        }
    }
    routes
}

pub(super) fn commands(router: &Router) -> [String; 2] {
    let socket = router.dir.join(SOCKET);
    ["show protocols", "show route all"].map(|question| format!("birdc -s {} {question}", socket.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_bird_prints_them() {
        let text = "\
BIRD 2.0.12 ready.
Table master4:
198.51.100.0/26      unicast [node1_v4 20:44:02.145] * (100) [AS65101i]
\tvia 192.0.2.2 on node1
\tType: BGP univ
\tBGP.origin: IGP
\tBGP.as_path: 65101
\tBGP.next_hop: 192.0.2.2
\tBGP.local_pref: 100

Table master6:
2001:db8:a::1/128    unicast [node1_v6 20:44:05.148] * (100) [AS65101i]
\tvia 2001:db8:0:1::2 on node1
\tBGP.as_path: 65101 65102
\tBGP.next_hop: 2001:db8:0:1::2 fe80::78b3:caff:feb6:d277
                     unicast [node2_v6 20:44:05.148] (100) [AS65102i]
\tvia 2001:db8:0:2::2 on node2
\tBGP.as_path: 65102
\tBGP.next_hop: 2001:db8:0:2::2 fe80::1
";
        let routes = parse_routes(text);
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].prefix, "198.51.100.0/26".parse().unwrap());
        let [path] = &routes[0].paths[..] else { panic!("{routes:?}") };
        assert_eq!(path.as_path, [65101]);
        assert_eq!(path.next_hops, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        let paths: Vec<_> =
            routes[1].paths.iter().map(|path| (path.next_hops.len(), &path.as_path)).collect();
        assert_eq!(paths, [(2, &vec![65101, 65102]), (2, &vec![65102])]);
    }

    #[test]
    fn session_states_are_read_as_bird_prints_them() {
        let text = "\
BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     20:44:01.027  
node1_v6   BGP        ---        up     20:44:02.145  Established   
node1_v4   BGP        ---        start  20:44:02.139  Active        Socket: Connection refused
node2_v4   BGP        ---        down   20:44:02.139
";
        let states: Vec<_> = parse_protocols(text).into_iter().collect();
        let expect = [("node1_v4", "Active"), ("node1_v6", "Established"), ("node2_v4", "down")];
        assert_eq!(states, expect.map(|(name, state)| (name.to_owned(), state.to_owned())));
    }

    #[test]
    fn config_peers_with_every_node_in_both_families() {
        let text = config();
        for node in &NODES {
            for family in Family::ALL {
                assert!(text.contains(&format!(
                    "neighbor {} as {}",
                    node.link.neighbour.of(family),
                    node.asn
                )));
            }
        }
    }
}
