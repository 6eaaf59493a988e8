//! What the lab has seen, for people and for machines.

use std::fmt::Write;
use std::net::IpAddr;

use serde::Serialize;

use super::pods::Attached;
use super::probe::{Ping, Unassigned};
use super::progress::{Paint, Took};
use super::router::{Learned, Session};
use super::topology::{self, Family};

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

/// Headings of what is said of a pod, in full and for a narrow terminal. Pods have a line per family.
const POD_COLUMNS: [(&str, &str); 5] = [
    ("client → pod", "in"),
    ("pod → client", "out"),
    ("pods, same node", "same"),
    ("other node", "other"),
    ("ADD", "ADD"),
];

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
        let announced = topology::announced();
        let nothing_missing =
            announced.clone().all(|(node, net)| self.learned.iter().any(|route| route.is_of(node, net)));
        !self.pods.is_empty()
            && !self.pings.is_empty()
            && !self.unassigned.is_empty()
            && nothing_missing
            && self.learned.len() == announced.count()
            && self.sessions.iter().all(Session::is_established)
            && self.pings.iter().all(|ping| ping.ok)
            && self.unassigned.iter().all(|probe| probe.ok)
    }

    /// The pings of a family that fit: how many worked, and how many there were.
    fn count(&self, family: Family, fits: impl Fn(&Ping) -> bool) -> (usize, usize) {
        let pings = self.pings.iter().filter(|ping| Family::of(ping.address) == family && fits(ping));
        pings.fold((0, 0), |(good, all), ping| (good + usize::from(ping.ok), all + 1))
    }

    fn node_of(&self, pod: &str) -> Option<&'static str> {
        self.pods.iter().find(|row| row.pod == pod).map(|row| row.node)
    }

    /// The table, for a terminal of so many columns.
    pub(super) fn table(&self, paint: Paint, width: usize) -> String {
        let table = self.sections(|(full, _)| full);
        if table.width(2) <= width {
            table.draw(2, paint)
        } else {
            self.sections(|(_, short)| short).draw(1, paint)
        }
    }

    fn sections(&self, heading: impl Fn((&'static str, &'static str)) -> &'static str) -> Table {
        let mut table = Table::default();
        let of_pods = ["pod", "node", "address"].into_iter().chain(POD_COLUMNS.map(heading));
        table.heading(&of_pods.collect::<Vec<_>>());
        for row in &self.pods {
            for family in Family::ALL {
                table.row(self.pod_row(row, family));
            }
        }
        table.heading(&["router learned", "from", "next hop", "AS", "forwards to"]);
        for route in &self.learned {
            let from = topology::announced().find(|(node, net)| route.is_of(node, *net));
            let join = |list: Vec<String>| list.join(" ");
            table.row(vec![
                Cell::plain(&route.prefix.to_string()),
                from.map_or_else(|| Cell::bad("nobody we know"), |(node, _)| Cell::good(node.name)),
                Cell::plain(&join(route.next_hops.iter().map(ToString::to_string).collect())),
                Cell::plain(&join(route.as_path.iter().map(ToString::to_string).collect())),
                Cell::plain(&join(route.kernel.clone())),
            ]);
        }
        table.heading(&["unassigned", "node", "client hears"]);
        for probe in &self.unassigned {
            // Less of what ping says anyway: who said it, and what.
            let heard = probe.heard.replace("From ", "").replace(" icmp_seq=1", ":");
            let heard = heard.replace("Destination unreachable", "unreachable");
            let heard = if probe.ok { Cell::good(&heard) } else { Cell::bad(&heard) };
            table.row(vec![Cell::plain(&probe.address.to_string()), Cell::plain(probe.node), heard]);
        }
        table
    }

    /// What is said of a pod in a family; its name, and what is of both, in the first line only.
    fn pod_row(&self, row: &PodRow, family: Family) -> Vec<Cell> {
        let (address, first) = match family {
            Family::V6 => (row.ipv6, true),
            Family::V4 => (row.ipv4, false),
        };
        let once = |text: &str| Cell::plain(if first { text } else { "" });
        let pings = |fits: &dyn Fn(&Ping) -> bool| Cell::count(address.map(|_| self.count(family, fits)));
        let to_pods = |own: bool| {
            pings(&|ping: &Ping| {
                ping.from == row.pod && self.node_of(ping.to).is_some_and(|node| (node == row.node) == own)
            })
        };
        let add = Took(std::time::Duration::from_secs_f64(row.add_ms / 1000.0));
        vec![
            once(row.pod),
            once(row.node),
            Cell::plain(&address.map_or_else(|| "-".to_owned(), |address| address.to_string())),
            pings(&|ping: &Ping| ping.from == "client" && ping.to == row.pod),
            pings(&|ping: &Ping| ping.from == row.pod && ping.to == "client"),
            to_pods(true),
            to_pods(false),
            once(&add.to_string()),
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

    /// How many of how many worked; `-`, and neither good nor bad, where the pod has no such family.
    fn count(count: Option<(usize, usize)>) -> Self {
        match count {
            None => Self::plain("-"),
            // Not one was tried, which is no success either.
            Some((_, 0)) => Self::bad("0"),
            Some((1, 1)) => Self::good("ok"),
            Some((good, all)) if good == all => Self::good(&format!("{good}/{all}")),
            Some((good, all)) => Self::bad(&format!("{good}/{all}")),
        }
    }

    /// As it is drawn, before it is coloured: what is wrong is marked without colours too.
    fn shown(&self) -> String {
        if self.good == Some(false) { format!("{} ✗", self.text) } else { self.text.clone() }
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

    /// Columns the table takes, with so many between two of its own.
    fn width(&self, gap: usize) -> usize {
        let of = |section: &Vec<Vec<Cell>>| {
            let widths = widths(section);
            1 + widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1)
        };
        self.0.iter().map(of).max().unwrap_or(0)
    }

    fn draw(&self, gap: usize, paint: Paint) -> String {
        let mut text = String::new();
        for section in &self.0 {
            let widths = widths(section);
            for (index, row) in section.iter().enumerate() {
                let mut line = " ".to_owned();
                for (cell, width) in row.iter().zip(&widths) {
                    let plain = cell.shown();
                    let padding = " ".repeat(width.saturating_sub(plain.chars().count()) + gap);
                    let shown = match (index, cell.good) {
                        (0, _) => paint.bold(&plain),
                        (_, Some(true)) => paint.green(&plain),
                        (_, Some(false)) => paint.red(&plain),
                        (_, None) => plain,
                    };
                    let _ = write!(line, "{shown}{padding}");
                }
                let _ = writeln!(text, "{}", line.trim_end());
            }
            text.push('\n');
        }
        text
    }
}

/// The width of each column of a section.
fn widths(section: &[Vec<Cell>]) -> Vec<usize> {
    let columns = section.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| section.iter().filter_map(move |row| row.get(column));
    (0..columns)
        .map(|column| cells(column).map(|cell| cell.shown().chars().count()).max().unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_a_pod_lacks_is_never_a_success() {
        for (count, shown, good) in [
            (None, "-", None),
            (Some((1, 1)), "ok", Some(true)),
            (Some((3, 3)), "3/3", Some(true)),
            (Some((2, 3)), "2/3 ✗", Some(false)),
            (Some((0, 0)), "0 ✗", Some(false)),
        ] {
            let cell = Cell::count(count);
            assert_eq!((cell.shown().as_str(), cell.good), (shown, good), "{count:?}");
        }
    }

    /// A report as wide as one gets: random identifiers, a ping that failed, all that a pod can have.
    fn wide() -> Report {
        let v6: IpAddr = "2001:db8:f001:0:303f:b72e:530b:3821".parse().unwrap();
        let pods = vec![
            PodRow {
                pod: "four-1",
                node: "node1",
                ipv6: None,
                ipv4: Some("198.51.100.2".parse().unwrap()),
                add_ms: 99.0,
            },
            PodRow { pod: "web-1", node: "node1", ipv6: Some(v6), ipv4: None, add_ms: 1.5 },
        ];
        let pings = vec![Ping { from: "client", to: "web-1", address: v6, ok: false }];
        let unassigned = vec![Unassigned {
            node: "node1",
            address: "2001:db8:f001::dead".parse().unwrap(),
            ok: true,
            heard: "From 2001:db8:0:1::2 icmp_seq=1 Destination unreachable: Address unreachable".to_owned(),
        }];
        Report {
            ok: false,
            router: String::new(),
            sessions: vec![],
            learned: vec![],
            pods,
            pings,
            unassigned,
        }
    }

    #[test]
    fn table_fits_the_terminal() {
        for width in [80, 110, usize::MAX] {
            let table = wide().table(Paint::if_wanted(false), width);
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}\n{table}");
        }
    }

    #[test]
    fn every_line_of_a_pod_is_of_one_family() {
        let table = wide().table(Paint::if_wanted(false), 80);
        let words = |start: &str| {
            let line = table.lines().find(|line| line.trim_start().starts_with(start)).unwrap();
            line.split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(words("four-1"), ["four-1", "node1", "-", "-", "-", "-", "-", "99", "ms"]);
        assert_eq!(words("198.51.100.2"), ["198.51.100.2", "0", "✗", "0", "✗", "0", "✗", "0", "✗"]);
        assert_eq!(words("web-1")[2..5], ["2001:db8:f001:0:303f:b72e:530b:3821", "0/1", "✗"]);
    }

    #[test]
    fn a_report_without_pings_does_not_hold() {
        let report = Report::new("BIRD".to_owned(), vec![], vec![], &[], vec![], vec![]);
        assert!(!report.ok);
    }
}
