//! What the lab has seen, for people and for machines.

use std::fmt::Write;
use std::net::IpAddr;

use serde::Serialize;

use super::cluster::is_pool_of;
use super::pods::Attached;
use super::probe::{Ping, Unassigned};
use super::progress::{Paint, Took};
use super::router::{Learned, Session};
use super::topology::{Family, NODES, Node};

/// Everything the lab has seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Every cell of the table holds.
    pub(super) ok: bool,
    pub(super) router: String,
    pub(super) sessions: Vec<Session>,
    pub(super) learned: Vec<Learned>,
    pub(super) pods: Vec<PodRow>,
    pub(super) pings: Vec<Ping>,
    pub(super) unassigned: Vec<Unassigned>,
}

/// A pod in the report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodRow {
    pub(super) pod: &'static str,
    pub(super) node: &'static str,
    pub(super) ipv6: Option<IpAddr>,
    pub(super) ipv4: Option<IpAddr>,
    /// From exec of the plugin to its result, in milliseconds.
    pub(super) add_ms: f64,
}

/// Headings of the pods; those of two columns have a cell per family.
const POD_COLUMNS: [&str; 6] =
    ["client → pod", "pod → client", "→ own node", "→ other node", "router → node", "ADD"];

impl Report {
    /// Puts together what was seen, and judges it.
    pub(super) fn new(
        router: String,
        sessions: Vec<Session>,
        learned: Vec<Learned>,
        attached: &[Attached],
        pings: Vec<Ping>,
        unassigned: Vec<Unassigned>,
    ) -> Self {
        let pods = attached
            .iter()
            .map(|pod| PodRow {
                pod: pod.pod,
                node: pod.node,
                ipv6: pod.v6,
                ipv4: pod.v4,
                add_ms: pod.took.as_secs_f64() * 1000.0,
            })
            .collect();
        let mut report = Self { ok: false, router, sessions, learned, pods, pings, unassigned };
        report.ok = report.holds();
        report
    }

    /// Everything that should be there is, everything that was tried worked, and nothing else was learned.
    fn holds(&self) -> bool {
        let pools = || NODES.iter().flat_map(|node| Family::ALL.map(|family| (node, family)));
        let nothing_missing = pools().all(|(node, family)| self.learned_from(node, family));
        !self.pods.is_empty()
            && !self.pings.is_empty()
            && !self.unassigned.is_empty()
            && nothing_missing
            && self.learned.len() == pools().count()
            && self.sessions.iter().all(Session::is_established)
            && self.pings.iter().all(|ping| ping.ok)
            && self.unassigned.iter().all(|probe| probe.ok)
    }

    fn learned_from(&self, node: &Node, family: Family) -> bool {
        self.learned.iter().any(|route| is_pool_of(route, node, family))
    }

    /// The pings of a family that fit: how many worked, and how many there were.
    fn count(&self, family: Family, fits: impl Fn(&Ping) -> bool) -> (usize, usize) {
        let pings = self.pings.iter().filter(|ping| Family::of(ping.address) == family && fits(ping));
        pings.fold((0, 0), |(good, all), ping| (good + usize::from(ping.ok), all + 1))
    }

    fn node_of(&self, pod: &str) -> Option<&'static str> {
        self.pods.iter().find(|row| row.pod == pod).map(|row| row.node)
    }

    /// The table.
    pub(super) fn table(&self, paint: Paint) -> String {
        let mut table = Table::default();
        table.heading(&["pod", "node", "IPv6", "IPv4"].into_iter().chain(POD_COLUMNS).collect::<Vec<_>>());
        for row in &self.pods {
            table.row(self.pod_row(row));
        }
        table.heading(&["router learned", "from", "next hop", "AS", "forwards to"]);
        for route in &self.learned {
            let from =
                NODES.iter().find(|node| Family::ALL.iter().any(|family| is_pool_of(route, node, *family)));
            let join = |list: Vec<String>| list.join(" ");
            table.row(vec![
                Cell::plain(&route.prefix.to_string()),
                from.map_or_else(|| Cell::bad("nobody we know"), |node| Cell::good(node.name)),
                Cell::plain(&join(route.next_hops.iter().map(ToString::to_string).collect())),
                Cell::plain(&join(route.as_path.iter().map(ToString::to_string).collect())),
                Cell::plain(&join(route.kernel.clone())),
            ]);
        }
        table.heading(&["unassigned", "node", "client hears"]);
        for probe in &self.unassigned {
            let heard = if probe.ok { Cell::good(&probe.heard) } else { Cell::bad(&probe.heard) };
            table.row(vec![Cell::plain(&probe.address.to_string()), Cell::plain(probe.node), heard]);
        }
        table.draw(paint)
    }

    fn pod_row(&self, row: &PodRow) -> Vec<Cell> {
        let has = |family| match family {
            Family::V6 => row.ipv6.is_some(),
            Family::V4 => row.ipv4.is_some(),
        };
        let both = |fits: &dyn Fn(&Ping) -> bool| {
            Cell::families(Family::ALL.map(|family| has(family).then(|| self.count(family, fits))))
        };
        let to_pods = |own: bool| {
            both(&|ping: &Ping| {
                ping.from == row.pod && self.node_of(ping.to).is_some_and(|node| (node == row.node) == own)
            })
        };
        let address = |address: Option<IpAddr>| {
            Cell::plain(&address.map_or_else(|| "-".to_owned(), |address| address.to_string()))
        };
        let node = NODES.iter().find(|node| node.name == row.node);
        let learned = Family::ALL.map(|family| {
            has(family).then(|| (usize::from(node.is_some_and(|node| self.learned_from(node, family))), 1))
        });
        let add = Took(std::time::Duration::from_secs_f64(row.add_ms / 1000.0));
        vec![
            Cell::plain(row.pod),
            Cell::plain(row.node),
            address(row.ipv6),
            address(row.ipv4),
            both(&|ping: &Ping| ping.from == "client" && ping.to == row.pod),
            both(&|ping: &Ping| ping.from == row.pod && ping.to == "client"),
            to_pods(true),
            to_pods(false),
            Cell::families(learned),
            Cell::plain(&add.to_string()),
        ]
    }
}

/// A cell, and whether it holds.
#[derive(Debug, Clone)]
struct Cell {
    text: String,
    /// `None` for what is neither good nor bad.
    good: Option<bool>,
}

impl Cell {
    fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), good: None }
    }

    fn good(text: &str) -> Self {
        Self { text: text.to_owned(), good: Some(true) }
    }

    fn bad(text: &str) -> Self {
        Self { text: text.to_owned(), good: Some(false) }
    }

    /// One mark per family: all of a kind worked, `good/all` where not, `-` where the pod has no such family.
    fn families(counts: [Option<(usize, usize)>; 2]) -> Self {
        let mark = |(name, count): (&str, Option<(usize, usize)>)| match count {
            None => format!("{name} -"),
            Some((0, 0)) => format!("{name} none"),
            Some((good, all)) if good == all && all == 1 => format!("{name} ok"),
            Some((good, all)) => format!("{name} {good}/{all}"),
        };
        let [v6, v4] = counts;
        let good = counts.iter().flatten().all(|(good, all)| good == all && *all > 0);
        Self { text: [mark(("v6", v6)), mark(("v4", v4))].join("  "), good: Some(good) }
    }
}

/// Rows in sections, each with a heading of its own, drawn in aligned columns.
#[derive(Debug, Default)]
struct Table(Vec<Vec<Vec<Cell>>>);

impl Table {
    fn heading(&mut self, names: &[&str]) {
        self.0.push(vec![names.iter().map(|name| Cell::plain(name)).collect()]);
    }

    fn row(&mut self, cells: Vec<Cell>) {
        if let Some(section) = self.0.last_mut() {
            section.push(cells);
        }
    }

    fn draw(&self, paint: Paint) -> String {
        let mut text = String::new();
        for section in &self.0 {
            let columns = section.iter().map(Vec::len).max().unwrap_or(0);
            let width = |column: usize| {
                section.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max()
            };
            let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
            for (index, row) in section.iter().enumerate() {
                let mut line = String::new();
                for (cell, width) in row.iter().zip(&widths) {
                    let padding = " ".repeat(width.saturating_sub(cell.text.chars().count()));
                    let shown = match (index, cell.good) {
                        (0, _) => paint.bold(&cell.text),
                        (_, Some(true)) => paint.green(&cell.text),
                        (_, Some(false)) => paint.red(&format!("{} ✗", cell.text)),
                        (_, None) => cell.text.clone(),
                    };
                    let _ = write!(line, " {shown}{padding} ");
                }
                let _ = writeln!(text, "{}", line.trim_end());
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_a_pod_lacks_is_never_a_success() {
        let cell = Cell::families([Some((1, 1)), None]);
        assert_eq!((cell.text.as_str(), cell.good), ("v6 ok  v4 -", Some(true)));
        assert_eq!(Cell::families([Some((2, 3)), None]).good, Some(false));
        assert_eq!(Cell::families([Some((0, 0)), None]).good, Some(false), "nothing was tried");
    }

    #[test]
    fn a_report_without_pings_does_not_hold() {
        let report = Report::new("BIRD".to_owned(), vec![], vec![], &[], vec![], vec![]);
        assert!(!report.ok);
    }
}
