//! The one table: what everybody has, what the router learned, and which packets came back.

use super::probe::{Direction, Ping, Unassigned};
use super::progress::Paint;
use super::report::{PodReport, Report};
use super::topology::{Family, NODES, Node};

/// Width of a column of results.
const RESULT: usize = 6;

const DIRECTIONS: [(Direction, &str, &str); 4] = [
    (Direction::ClientToPod, "from", "client"),
    (Direction::PodToClient, "to", "client"),
    (Direction::SameNode, "same", "node"),
    (Direction::OtherNode, "other", "node"),
];

/// A cell and how it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Plain(String),
    /// Seen to be right.
    Good(String),
    Bad(String),
    /// Does not apply.
    None,
}

impl Cell {
    fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Good(text) | Self::Bad(text) => text,
            Self::None => "-",
        }
    }

    /// Padded first, so that colours do not count.
    fn draw(&self, width: usize, paint: Paint) -> String {
        let padded = format!("{:<width$}", self.text());
        match self {
            Self::Plain(_) => padded,
            Self::Good(_) => paint.green(&padded),
            Self::Bad(_) => paint.red(&padded),
            Self::None => paint.dim(&padded),
        }
    }
}

/// A line of the table.
#[derive(Debug)]
enum Row {
    /// A new node.
    Node(String),
    /// Name, address, and results: one per direction, or one that takes all the room.
    Line(String, Cell, Vec<Cell>),
}

/// Draws the table for a terminal of `width` columns.
pub(super) fn draw(report: &Report, width: usize, paint: Paint) -> String {
    let rows = rows(report);
    let widest = |pick: fn(&Row) -> &str| rows.iter().map(|row| pick(row).chars().count()).max().unwrap_or(0);
    let name = widest(|row| match row {
        Row::Node(_) => "",
        Row::Line(name, ..) => name,
    });
    let address = widest(|row| match row {
        Row::Node(_) => "",
        Row::Line(_, address, _) => address.text(),
    });
    let total = |gap: usize| 1 + name + gap + address + DIRECTIONS.len() * (gap + RESULT);
    let gap = [3, 2].into_iter().find(|gap| total(*gap) <= width).unwrap_or(1);

    let space = " ".repeat(gap);
    let line = |name_cell: &str, address_cell: String, results: &[Cell]| {
        let mut text = format!(" {name_cell:<name$}{space}{address_cell}");
        for result in results {
            text.push_str(&space);
            text.push_str(&result.draw(RESULT, paint));
        }
        text.trim_end().to_owned()
    };
    let head = |pick: fn(&(Direction, &str, &str)) -> String, title: &str| {
        let cells: Vec<_> = DIRECTIONS.iter().map(|direction| Cell::Plain(pick(direction))).collect();
        line(if title.is_empty() { "" } else { "pod" }, format!("{title:<address$}"), &cells)
    };
    let rule = paint.dim(&"─".repeat(total(gap)));
    let mut lines = vec![
        head(|(_, first, _)| (*first).to_owned(), ""),
        paint.bold(&head(|(.., second)| (*second).to_owned(), "address")),
    ];
    for row in &rows {
        match row {
            Row::Node(title) => lines.extend([rule.clone(), format!(" {}", paint.bold(title))]),
            Row::Line(pod, address_cell, results) => {
                lines.push(line(pod, address_cell.draw(address, paint), results));
            }
        }
    }
    lines.push(rule);
    lines.join("\n")
}

/// What the numbers of the table mean.
pub(super) fn legend(report: &Report) -> String {
    let answered = report.pings.iter().filter(|ping| ping.rtt_ms.is_some()).count();
    format!(
        " Numbers are round trips in ms, the slowest of several. {answered} of {} pings came back whole;\n \
         - is for a family the pod does not want.",
        report.pings.len()
    )
}

fn rows(report: &Report) -> Vec<Row> {
    let mut rows = Vec::new();
    for node in &NODES {
        rows.push(Row::Node(format!("{}, AS {}", node.name, node.asn)));
        for (index, family) in Family::ALL.into_iter().enumerate() {
            let name = if index == 0 { "(pool)" } else { "" };
            let prefix = Cell::Plain(node.pool(family).to_string());
            rows.push(Row::Line(name.to_owned(), prefix, vec![learned(report, node, family)]));
        }
        for pod in report.pods.iter().filter(|pod| pod.node == node.name) {
            for (index, family) in Family::ALL.into_iter().enumerate() {
                let name = if index == 0 { pod.name } else { "" };
                rows.push(pod_row(report, pod, name, family));
            }
        }
        for (index, probe) in report.unassigned.iter().filter(|probe| probe.node == node.name).enumerate() {
            let name = if index == 0 { "(nobody)" } else { "" };
            rows.push(Row::Line(name.to_owned(), Cell::Plain(probe.address.to_string()), vec![refused(probe)]));
        }
    }
    rows
}

fn learned(report: &Report, node: &Node, family: Family) -> Cell {
    match report.router.pool(node, family) {
        Ok(route) => {
            let hops: Vec<_> = route.next_hops.iter().map(ToString::to_string).collect();
            let path: Vec<_> = route.as_path.iter().map(ToString::to_string).collect();
            Cell::Good(format!("via {}, AS {}", hops.join(" "), path.join(" ")))
        }
        Err(problem) => Cell::Bad(problem),
    }
}

fn refused(probe: &Unassigned) -> Cell {
    match (&probe.unreachable_says, &probe.problem) {
        (Some(_), _) => Cell::Good(format!("unreachable, says {}", probe.node)),
        (None, Some(problem)) => Cell::Bad(problem.clone()),
        (None, None) => Cell::Bad("no answer".to_owned()),
    }
}

fn pod_row(report: &Report, pod: &PodReport, name: &str, family: Family) -> Row {
    let wanted = super::topology::pods().any(|(_, known)| known.name == pod.name && known.wants(family));
    let address = match pod.address(family) {
        Some(address) => Cell::Plain(address.to_string()),
        None if wanted => Cell::Bad("missing".to_owned()),
        None => Cell::None,
    };
    let results = DIRECTIONS.iter().map(|(direction, ..)| {
        let pings = report.pings.iter().filter(|ping| {
            let end = if ping.direction == Direction::ClientToPod { ping.to } else { ping.from };
            ping.direction == *direction && ping.family == family && end == pod.name
        });
        result(pings, wanted)
    });
    Row::Line(name.to_owned(), address, results.collect())
}

/// Several pings in one cell: the slowest, or how many went wrong.
fn result<'a>(pings: impl Iterator<Item = &'a Ping>, wanted: bool) -> Cell {
    let times: Vec<_> = pings.map(|ping| ping.rtt_ms).collect();
    let lost = times.iter().filter(|time| time.is_none()).count();
    match (times.len(), lost) {
        (0, _) if wanted => Cell::Bad("none".to_owned()),
        (0, _) => Cell::None,
        (_, 0) => Cell::Good(format!("{:.2}", times.iter().flatten().copied().fold(0.0, f64::max))),
        (1, _) => Cell::Bad("lost".to_owned()),
        (_, lost) => Cell::Bad(format!("{lost} lost")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::good;
    use super::*;

    fn plain(report: &Report, width: usize) -> String {
        draw(report, width, Paint::if_wanted(false))
    }

    fn line<'a>(table: &'a str, start: &str) -> Vec<&'a str> {
        let line = table.lines().find(|line| line.trim_start().starts_with(start)).unwrap();
        line.split_whitespace().collect()
    }

    #[test]
    fn table_fits_the_terminal() {
        for width in [80, 100, 200] {
            let table = plain(&good(), width);
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}\n{table}");
        }
    }

    #[test]
    fn every_pod_pool_and_next_hop_is_in_the_table() {
        let report = good();
        let table = plain(&report, 80);
        for pod in &report.pods {
            assert!(table.contains(pod.name));
            assert!([pod.ipv6, pod.ipv4].into_iter().flatten().all(|ip| table.contains(&ip.to_string())));
        }
        assert_eq!(line(&table, "(pool)"), ["(pool)", "2001:db8:f001::/64", "via", "2001:db8:0:1::2,", "AS", "65101"]);
        assert_eq!(line(&table, "web-1"), ["web-1", "2001:db8:f001::7", "0.08", "0.08", "0.08", "0.08"]);
    }

    #[test]
    fn family_that_does_not_apply_is_never_shown_as_a_success() {
        let table = plain(&good(), 80);
        assert_eq!(line(&table, "four-1"), ["four-1", "-", "-", "-", "-", "-"]);
    }

    #[test]
    fn what_is_missing_or_lost_shows() {
        let mut report = good();
        report.pods[0].ipv6 = None;
        report.pings.retain(|ping| ping.address.is_ipv4() || ![ping.from, ping.to].contains(&"web-1"));
        for ping in report.pings.iter_mut().filter(|ping| ping.to == "web-2") {
            ping.rtt_ms = None;
        }
        let table = plain(&report, 80);
        assert_eq!(line(&table, "web-1"), ["web-1", "missing", "none", "none", "none", "none"]);
        assert_eq!(line(&table, "web-2"), ["web-2", "2001:db8:f002::7", "lost", "0.08", "0.08", "0.08"]);
    }
}
