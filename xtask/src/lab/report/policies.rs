//! What is said of policies.

use std::time::Duration;

use super::table::{Cell, Table};
use crate::lab::policies::{Conversation, Explained, PORTS, REACH, Reach, Spoof};
use crate::lab::progress::Took;
use crate::lab::topology::Family;

/// A heading in full and for a narrow terminal, to choose from.
type Heading = (&'static str, &'static str);

/// Who reaches whom: a line per source, a column per pod and port.
pub(super) fn reach(table: &mut Table, cells: &[Reach], heading: impl Fn(Heading) -> &'static str) {
    let ports = PORTS.map(|(pod, port)| format!("{pod}:{port}"));
    let first = heading(("under policies, TCP from", "TCP from"));
    table.heading(&[first].into_iter().chain(ports.iter().map(String::as_str)).collect::<Vec<_>>());
    for (from, _) in REACH {
        let to = |(pod, port)| {
            let of: Vec<_> =
                cells.iter().filter(|it| (it.from, it.to, it.port) == (from, pod, port)).collect();
            let mut outcomes: Vec<_> = of.iter().map(|it| it.outcome.as_str()).collect();
            outcomes.dedup();
            Cell::judged(&outcomes.join(", "), !of.is_empty() && of.iter().all(|it| it.ok))
        };
        table.row(std::iter::once(Cell::plain(from)).chain(PORTS.into_iter().map(to)).collect());
    }
}

/// What became of packets with a false source.
pub(super) fn spoofs(table: &mut Table, spoofs: &[Spoof], heading: impl Fn(Heading) -> &'static str) {
    let names = [("false source", "source"), ("sent", "sent"), ("arrived", "arrived")].map(&heading);
    let counted = heading((r#"counted "with a false source""#, "counted"));
    let own = heading(("arrived from its own", "from its own"));
    table.heading(&["pod", names[0], "which is", names[1], names[2], counted, own]);
    for seen in spoofs {
        let judged = |number: String| Cell::judged(&number, seen.ok);
        table.row(vec![
            Cell::plain(seen.pod),
            Cell::plain(seen.pretends_to_be),
            Cell::plain(seen.who_is),
            Cell::plain(&seen.sent.to_string()),
            judged(seen.arrived.to_string()),
            judged(seen.counted.to_string()),
            judged(format!("{}/{}", seen.own_arrived, seen.sent)),
        ]);
    }
}

/// What became of open connections.
pub(super) fn conversations(
    table: &mut Table,
    conversations: &[Conversation],
    heading: impl Fn(Heading) -> &'static str,
) {
    let names = [
        ("open connection", "open"),
        ("a policy edit", "edit"),
        ("last answer after (IPv6)", "last (IPv6)"),
        ("after (IPv4)", "(IPv4)"),
        ("longest gap (IPv6)", "gap (IPv6)"),
        ("gap (IPv4)", "(IPv4)"),
    ];
    table.heading(&names.map(heading));
    for seen in conversations {
        let took = |ms: f64| Took(Duration::from_secs_f64(ms / 1000.0)).to_string();
        let last = |family| match seen.last_answer_ms.get(family) {
            Some(ms) => Cell::judged(&took(*ms), seen.ok),
            None => Cell::judged("-", seen.ok),
        };
        let gap = |family| {
            if seen.denied {
                Cell::plain("-")
            } else {
                Cell::judged(&took(*seen.longest_gap_ms.get(family)), seen.ok)
            }
        };
        let [last6, last4] = Family::ALL.map(last);
        let [gap6, gap4] = Family::ALL.map(gap);
        table.row(vec![
            Cell::plain(&format!("{} → {}:{}", seen.from, seen.to, seen.port)),
            Cell::plain(if seen.denied { "denies it" } else { "leaves it" }),
            last6,
            last4,
            gap6,
            gap4,
        ]);
    }
}

/// A question and its answer, as a person would see them.
pub(super) fn explained(explained: &Explained) -> String {
    let mark = if explained.ok { "" } else { " ✗" };
    let answer: Vec<_> = explained.answer.iter().map(|line| format!(" {line}\n")).collect();
    format!(" node1 # {}{mark}\n{}", explained.command, answer.concat())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::lab::anycast::Each;
    use crate::lab::policies::Policies;

    /// As wide as it gets where every cell holds.
    pub(in crate::lab::report) fn wide() -> Policies {
        let cell = |from, (to, port)| Reach {
            from,
            to,
            address: "2001:db8::1".parse().unwrap(),
            port,
            expected: true,
            outcome: "yes".to_owned(),
            ok: true,
        };
        let reach = REACH.iter().flat_map(|(from, _)| PORTS.map(|port| cell(*from, port))).collect();
        let spoof = Spoof {
            pod: "web-2",
            pretends_to_be: "api-2",
            who_is: "a pod beside it",
            sent: 20,
            arrived: 20,
            counted: 20,
            own_arrived: 20,
            ok: false,
        };
        let conversation = Conversation {
            from: "client",
            to: "given-1",
            port: 8080,
            denied: false,
            last_answer_ms: Each { ipv6: Some(999.0), ipv4: Some(999.0) },
            longest_gap_ms: Each { ipv6: 999.0, ipv4: 999.0 },
            answers: 9999,
            ok: false,
        };
        Policies {
            reach,
            spoofs: vec![spoof],
            conversations: vec![conversation],
            explained: Explained { command: "flock-agent explain".to_owned(), answer: vec![], ok: true },
        }
    }

    #[test]
    fn families_that_differ_are_both_shown() {
        let mut seen = wide();
        let mut other = seen.reach[0].clone();
        (other.outcome, other.ok) = ("no".to_owned(), false);
        seen.reach.push(other);
        let mut table = Table::default();
        reach(&mut table, &seen.reach, |(full, _)| full);
        let text = table.draw(2, crate::lab::progress::Paint::if_wanted(false));
        let line = text.lines().find(|line| line.starts_with(" client")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>()[1..5], ["yes,", "no", "✗", "yes"]);
    }
}
