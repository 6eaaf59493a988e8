//! When the router's kernel changes where it sends the shared addresses: it says so itself.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::lab::netns::Netns;
use crate::lab::topology::{Family, SHARED};

/// A change of the route to a shared address.
#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    family: Family,
    /// The interfaces it leads to from then on; none without a route.
    devices: Vec<String>,
}

/// When a next hop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    /// From here on nothing was forwarded to it.
    pub(super) at: Instant,
    /// From here on everything was forwarded elsewhere: a router may take a route away before it writes it anew.
    pub(super) settled: Instant,
}

/// Everything that has happened to the routes to the shared addresses.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Vec<Seen>>>);

impl History {
    /// When the route of a family stopped leading to an interface, if that was after `since` and it leads
    /// elsewhere now.
    pub(super) fn gone(&self, family: Family, device: &str, since: Instant) -> Option<Gone> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_family = seen.iter().rev().filter(|seen| seen.family == family);
        let mut without = of_family.take_while(|seen| !seen.devices.iter().any(|it| it == device));
        let last = without.next().filter(|last| !last.devices.is_empty())?;
        let first = without.last().unwrap_or(last);
        (first.at >= since).then_some(Gone { at: first.at, settled: last.at })
    }

    fn add(&self, seen: Seen) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
}

/// Writes that history.
#[derive(Debug)]
pub(crate) struct Watch {
    monitor: Child,
    history: History,
}

impl Watch {
    /// Watches the routes of a namespace, which has none to the shared addresses yet.
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "route"]).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut monitor = netns.spawn(&mut command)?;
        let output = monitor.stdout.take().context("`ip monitor` has lost its pipe")?;
        let history = History::default();
        let writer = history.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let at = Instant::now();
                if let Some((family, devices)) = parse(&line) {
                    writer.add(Seen { at, family, devices });
                }
            }
        });
        Ok(Self { monitor, history })
    }

    /// What it has seen and will see.
    pub(crate) fn history(&self) -> History {
        self.history.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended together with the namespace's other processes.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

/// Which route a line of `ip -o monitor route` is about, and where it leads from then on.
fn parse(line: &str) -> Option<(Family, Vec<String>)> {
    let (deleted, route) = line.strip_prefix("Deleted ").map_or((false, line), |route| (true, route));
    let mut words = route.split([' ', '\t', '\\']).filter(|word| !word.is_empty());
    let destination: IpAddr = words.next()?.parse().ok()?;
    let family = Family::of(destination);
    if destination != SHARED.of(family) {
        return None;
    }
    let mut devices = Vec::new();
    while let Some(word) = words.next() {
        if word == "dev" && !deleted {
            devices.extend(words.next().map(str::to_owned));
        }
    }
    devices.sort();
    Some((family, devices))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_are_read_as_iproute_prints_them() {
        let both = r"2001:db8:a::53 proto bird metric 32 pref medium\	nexthop via 2001:db8:0:2::2 dev node2 weight 1 \	nexthop via 2001:db8:0:1::2 dev node1 weight 1 ";
        for (line, expected) in [
            (both.to_owned(), Some((Family::V6, vec!["node1", "node2"]))),
            (format!("Deleted {both}"), Some((Family::V6, vec![]))),
            (
                "203.0.113.53 nhid 24 via 192.0.2.2 dev node1 proto bgp metric 20 ".to_owned(),
                Some((Family::V4, vec!["node1"])),
            ),
            ("203.0.113.166 via 192.0.2.2 dev node1 proto bird metric 32 ".to_owned(), None),
            ("2001:db8:f001::/64 via 2001:db8:0:1::2 dev node1 proto bird metric 32 ".to_owned(), None),
            ("local 203.0.113.1 dev client table local ".to_owned(), None),
        ] {
            let expected = expected.map(|(family, devices)| {
                (family, devices.into_iter().map(str::to_owned).collect::<Vec<_>>())
            });
            assert_eq!(parse(&line), expected, "{line}");
        }
    }

    #[test]
    fn next_hop_is_gone_since_the_first_of_the_last_changes_without_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let history = History::default();
        let add = |millis, devices: &[&str]| {
            let devices = devices.iter().map(ToString::to_string).collect();
            history.add(Seen { at: at(millis), family: Family::V6, devices });
        };
        add(1, &[]);
        add(2, &["node1", "node2"]);
        assert_eq!(history.gone(Family::V6, "node2", start), None);
        add(3, &[]);
        assert_eq!(history.gone(Family::V6, "node2", start), None, "it leads nowhere");
        add(4, &["node1"]);
        assert_eq!(history.gone(Family::V6, "node2", start), Some(Gone { at: at(3), settled: at(4) }));
        assert_eq!(history.gone(Family::V6, "node1", start), None);
        assert_eq!(history.gone(Family::V6, "node2", at(4)), None, "gone before that");
        assert_eq!(history.gone(Family::V4, "node2", start), None);
    }
}
