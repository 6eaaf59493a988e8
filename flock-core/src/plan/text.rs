use std::fmt::{self, Display, Formatter};

use super::{AddressReport, Announced, FamilyReport, NodeReport, PodReport, Report, Source};
use crate::family::{DecidedBy, Family};

/// Blocks of lines for people, without a line break at the end.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        for (kind, count) in &self.ignored {
            writeln!(f, "ignored: {count} of {kind}")?;
        }
        if !self.problems.is_empty() || !self.ignored.is_empty() {
            writeln!(f)?;
        }
        for node in &self.nodes {
            writeln!(f, "{node}")?;
        }
        for pod in &self.pods {
            writeln!(f, "{pod}")?;
        }
        f.write_str(&summary(&self.pods))
    }
}

fn summary(pods: &[PodReport]) -> String {
    let count = |wanted: fn(&PodReport) -> bool| pods.iter().filter(|pod| wanted(pod)).count();
    let parts = [
        (count(|pod| pod.is_fine() && !pod.host_network), "would be attached"),
        (count(|pod| pod.is_fine() && pod.host_network), "would have the network of the node"),
        (count(|pod| !pod.is_fine()), "would not be attached"),
    ];
    let parts: Vec<_> = parts.iter().filter(|(count, _)| *count > 0).collect();
    let parts: Vec<_> = parts.iter().map(|(count, what)| format!("{count} {what}")).collect();
    let noun = if pods.len() == 1 { "pod" } else { "pods" };
    format!("{} {noun}: {}", pods.len(), or(parts.join(", "), "nothing to plan"))
}

impl Display for NodeReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let refused = if self.problems.is_empty() { "" } else { ": its NodeConfig is refused" };
        writeln!(f, "node {}{refused}", self.node)?;
        for problem in &self.problems {
            line(f, "problem", problem)?;
        }
        if self.problems.is_empty() {
            line(f, "announces", or(list(&self.announces), "nothing: it has no pool"))?;
            line(f, "peers", or(list(&self.peers), "none: nobody hears of it"))?;
            match self.claims {
                0 => line(f, "claims", "none: any pod may ask for any address")?,
                claims => line(f, "claims", claims)?,
            }
        }
        Ok(())
    }
}

impl Display for PodReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}", self.pod)?;
        if let Some(node) = &self.node {
            write!(f, " on {node}")?;
        }
        match &self.unplanned {
            Some(reason) => writeln!(f, ": not planned, {reason}")?,
            None if self.host_network => writeln!(f, ": uses the network of its node")?,
            None if !self.problems.is_empty() => writeln!(f, ": refused")?,
            None => writeln!(f)?,
        }
        for problem in &self.problems {
            line(f, "problem", problem)?;
        }
        for family in [Family::V6, Family::V4] {
            if let Some(report) = self.family(family) {
                line(f, &family.to_string(), in_words(family, report))?;
            }
        }
        for extra in &self.extra {
            line(f, "extra", extra)?;
        }
        for anycast in &self.anycast {
            line(f, "anycast", anycast)?;
        }
        Ok(())
    }
}

fn in_words(family: Family, FamilyReport { on, by, address }: &FamilyReport) -> String {
    let state = if *on { "on" } else { "off" };
    let field = by.field(family);
    // What decides where neither annotation nor default does is that something is there.
    let field = if *on { field.trim_start_matches("empty ") } else { &field };
    match address {
        None => format!("{state} by {field}"),
        Some(address @ AddressReport { source: Source::Given { .. }, .. }) if *by == DecidedBy::Pools => {
            format!("on by the address it brings: {address}")
        }
        Some(address) => format!("{state} by {field}: {address}"),
    }
}

impl Display for AddressReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        if let Some(claim) = self.claim {
            write!(f, ", granted by spec.claims[{claim}]")?;
        }
        write!(f, ", {}", self.announced)
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given { address } => write!(f, "{address}"),
            Self::Pinned { address } => write!(f, "{address}, the only one it asks for"),
            Self::Lowest { address, ranges } => {
                write!(f, "{address}, the lowest free one of {}", list(ranges))
            }
            Self::Random { ranges } => write!(f, "a random one of {}", list(ranges)),
            Self::Embedded { fields, ranges } => {
                write!(f, "one of {} ({} embedded)", list(ranges), list(fields))
            }
        }
    }
}

impl Display for Announced {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { prefix } => write!(f, "announced with {prefix}"),
            Self::Itself { prefix } => write!(f, "announced as {prefix}"),
            Self::Nothing { reason } => write!(f, "not announced: {reason}"),
        }
    }
}

fn line(f: &mut Formatter<'_>, label: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "  {label:<10} {text}")
}

fn list(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn or(text: String, none: &str) -> String {
    if text.is_empty() { none.to_owned() } else { text }
}
