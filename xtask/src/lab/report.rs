//! What the lab has seen, for people and for machines.

mod policies;
mod shared;
mod table;

use std::net::IpAddr;

use serde::Serialize;

use self::table::{Cell, Table};
use super::anycast::{Share, Withdrawal, shares_hold};
use super::pods::Attached;
use super::policies::Policies;
use super::probe::{Ping, Unassigned};
use super::progress::{Paint, Took};
use super::router::{Learned, Path, Session};
use super::topology::{self, Family, NODES};

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
    pub(super) anycast: Shared,
    pub(super) policies: Policies,
}

/// What was seen of the addresses several pods share.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shared {
    pub(super) shares: Vec<Share>,
    pub(super) withdrawals: Vec<Withdrawal>,
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
    #[expect(clippy::too_many_arguments, reason = "one for each thing that was seen")]
    pub(super) fn new(
        router: String,
        sessions: Vec<Session>,
        learned: Vec<Learned>,
        attached: &[Attached],
        pings: Vec<Ping>,
        unassigned: Vec<Unassigned>,
        anycast: Shared,
        policies: Policies,
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
        let mut report =
            Self { ok: false, router, sessions, learned, pods, pings, unassigned, anycast, policies };
        report.ok = report.holds();
        report
    }

    /// Everything that should be there is, everything that was tried worked, and nothing else was learned.
    fn holds(&self) -> bool {
        let announced = topology::announced();
        let nothing_missing =
            announced.clone().all(|wanted| self.learned.iter().any(|route| route.is(&wanted)));
        !self.pods.is_empty()
            && !self.pings.is_empty()
            && !self.unassigned.is_empty()
            && nothing_missing
            && self.learned.len() == announced.count()
            && self.sessions.iter().all(Session::is_established)
            && self.pings.iter().all(|ping| ping.ok)
            && self.unassigned.iter().all(|probe| probe.ok)
            && shares_hold(&self.anycast.shares)
            && !self.anycast.withdrawals.is_empty()
            && self.anycast.withdrawals.iter().all(|withdrawal| withdrawal.ok)
            && self.policies.hold()
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
        let drawn = if table.width(2) <= width {
            table.draw(2, paint)
        } else {
            self.sections(|(_, short)| short).draw(1, paint)
        };
        // As it is: a terminal wraps the words of a program better than a table could.
        drawn + &policies::explained(&self.policies.explained)
    }

    fn sections(&self, heading: impl Fn((&'static str, &'static str)) -> &'static str) -> Table {
        let mut table = Table::default();
        let of_pods = ["pod", "node", "address"].into_iter().chain(POD_COLUMNS.map(&heading));
        table.heading(&of_pods.collect::<Vec<_>>());
        for row in &self.pods {
            for family in Family::ALL {
                table.row(self.pod_row(row, family));
            }
        }
        table.heading(&["router learned", "from", "next hop", "AS", "forwards to"]);
        for route in &self.learned {
            for row in learned_rows(route) {
                table.row(row);
            }
        }
        table.heading(&["unassigned", "node", "client hears"]);
        for probe in &self.unassigned {
            // Less of what ping says anyway: who said it, and what.
            let heard = probe.heard.replace("From ", "").replace(" icmp_seq=1", ":");
            let heard = heard.replace("Destination unreachable", "unreachable");
            let heard = if probe.ok { Cell::good(&heard) } else { Cell::bad(&heard) };
            table.row(vec![Cell::plain(&probe.address.to_string()), Cell::plain(probe.node), heard]);
        }
        shared::shares(&mut table, &self.anycast.shares, &heading);
        shared::withdrawals(&mut table, &self.anycast.withdrawals, &heading);
        policies::reach(&mut table, &self.policies.reach, &heading);
        policies::conversations(&mut table, &self.policies.conversations, &heading);
        policies::spoofs(&mut table, &self.policies.spoofs, &heading);
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

/// What is said of a route: a line per path.
fn learned_rows(route: &Learned) -> Vec<Vec<Cell>> {
    let family = Family::of(route.prefix.addr());
    let wanted = topology::announced().any(|wanted| route.is(&wanted));
    let row = |(index, path): (usize, &Path)| {
        let from = NODES.iter().find(|node| wanted && path.is_to(node, family)).map(|node| node.name);
        let join = |list: Vec<String>| list.join(" ");
        let forwards = from.filter(|name| route.kernel.iter().any(|device| device == name));
        vec![
            Cell::plain(&if index == 0 { route.prefix.to_string() } else { String::new() }),
            from.map_or_else(|| Cell::bad("nobody we know"), Cell::good),
            Cell::plain(&join(path.next_hops.iter().map(ToString::to_string).collect())),
            Cell::plain(&join(path.as_path.iter().map(ToString::to_string).collect())),
            Cell::plain(&forwards.map_or_else(|| join(route.kernel.clone()), str::to_owned)),
        ]
    };
    route.paths.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            anycast: shared::tests::wide(),
            policies: policies::tests::wide(),
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
        let report = Report::new(
            "BIRD".to_owned(),
            vec![],
            vec![],
            &[],
            vec![],
            vec![],
            Shared { shares: vec![], withdrawals: vec![] },
            policies::tests::wide(),
        );
        assert!(!report.ok);
    }
}
