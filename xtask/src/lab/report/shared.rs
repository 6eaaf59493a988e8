//! What is said of the addresses several pods share.

use std::time::Duration;

use super::table::{Cell, Table};
use crate::lab::anycast::{FLOWS, Share, Withdrawal};
use crate::lab::progress::Took;
use crate::lab::topology::{Family, SHARED};

/// A heading in full and for a narrow terminal, to choose from.
type Heading = (&'static str, &'static str);

/// Headings of what is said of a withdrawal.
const COLUMNS: [Heading; 6] = [
    ("router drops", "drops"),
    ("after (IPv6)", "IPv6"),
    ("after (IPv4)", "IPv4"),
    ("requests failed", "failed"),
    ("open connections cut", "cut"),
    ("new flows to it", "new to it"),
];

/// How many flows each pod got.
pub(super) fn shares(table: &mut Table, shares: &[Share], heading: impl Fn(Heading) -> &'static str) {
    let addresses = Family::ALL.map(|family| SHARED.of(family).to_string());
    let first = heading(("flows of 1000 to", "1000 flows to"));
    let names = [first, "node"].into_iter().chain(addresses.iter().map(String::as_str)).chain(["fair"]);
    table.heading(&names.collect::<Vec<_>>());
    for share in shares {
        let got = |family| {
            let flows = *share.flows.get(family);
            Cell::judged(&format!("{flows} ({})", percent(flows)), share.is_fair(family))
        };
        let [v6, v4] = Family::ALL.map(got);
        table.row(vec![
            Cell::plain(share.pod),
            Cell::plain(share.node),
            v6,
            v4,
            Cell::plain(&percent(share.fair)),
        ]);
    }
}

fn percent(flows: u16) -> String {
    format!("{:.0} %", f64::from(flows) * 100.0 / f64::from(FLOWS))
}

/// What became of each withdrawal.
pub(super) fn withdrawals(
    table: &mut Table,
    withdrawals: &[Withdrawal],
    heading: impl Fn(Heading) -> &'static str,
) {
    let names = ["pod stops serving"].into_iter().chain(COLUMNS.map(heading));
    table.heading(&names.collect::<Vec<_>>());
    for seen in withdrawals {
        let gone = |family| match (seen.next_hop, seen.gone_ms.get(family)) {
            (None, _) => Cell::plain("-"),
            (Some(_), None) => Cell::bad("never"),
            (Some(_), Some(ms)) => Cell::good(&Took(Duration::from_secs_f64(ms / 1000.0)).to_string()),
        };
        let [v6, v4] = Family::ALL.map(gone);
        let judged = |text: String| Cell::judged(&text, seen.ok);
        table.row(vec![
            Cell::plain(&format!("{} {}", seen.pod, seen.what)),
            Cell::plain(seen.next_hop.unwrap_or("nothing")),
            v6,
            v4,
            judged(format!("{}/{}", seen.failed, seen.requests)),
            judged(format!("{}/{}", seen.broken, seen.connections)),
            judged(format!("{}/{}", seen.to_pod, seen.new_flows)),
        ]);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::lab::anycast::Each;
    use crate::lab::report::Shared;

    /// As wide as it gets.
    pub(in crate::lab::report) fn wide() -> Shared {
        let share = Share { pod: "dns-3", node: "node2", flows: Each { ipv6: 1000, ipv4: 1000 }, fair: 500 };
        let withdrawal = Withdrawal {
            pod: "dns-3",
            what: "gone, agent dead",
            next_hop: Some("node2"),
            gone_ms: Each { ipv6: Some(999.0), ipv4: Some(999.0) },
            requests: 1234,
            failed: 999,
            failed_afterwards: 0,
            failures: std::collections::BTreeMap::new(),
            connections: 32,
            broken: 32,
            broken_elsewhere: 32,
            new_flows: 400,
            to_pod: 400,
            ok: false,
        };
        Shared { shares: vec![share], withdrawals: vec![withdrawal] }
    }
}
