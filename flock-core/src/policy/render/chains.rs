//! The chains and their rules. What judges looks at the tuples of the connection and not at the packet: the source of
//! the original direction is the client, and source and port of the reply are the server's after its address was
//! translated. So one rule does for both directions, replies, and errors about admitted flows.

use std::fmt::Write as _;

use super::{ChainName, DropReason, FOREIGN_MASK, STAMP_MASK, SetName, TABLE, admitted};
use crate::policy::{Action, Chain, ChainId, Direction, End, Gate, Peer, Protocol, Rule, Stamp, Tier};

/// A chain as nftables has it.
pub(super) struct Text {
    pub(super) name: String,
    /// Where it hooks in, if it does.
    base: Option<&'static str>,
    pub(super) rules: Vec<String>,
}

impl Text {
    fn new(name: &str, base: Option<&'static str>, rules: &[&str]) -> Self {
        Self { name: name.to_owned(), base, rules: rules.iter().map(ToString::to_string).collect() }
    }

    pub(super) fn declaration(&self) -> String {
        let Self { name, base, .. } = self;
        let base = base.map_or(String::new(), |base| format!(" {{ {base} policy accept; }}"));
        format!("add chain inet {TABLE} {name}{base}\n")
    }

    pub(super) fn commands(&self) -> String {
        self.rules.iter().fold(String::new(), |mut text, rule| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "add rule inet {TABLE} {} {rule}", self.name);
            text
        })
    }
}

/// Those that are always there: what the kernel may hear of a pod, and what drops packets. The first come before
/// fragments are put together (priority -400), or a pod could mix its own into another's.
pub(super) fn always() -> Vec<Text> {
    let forbidden = goto(DropReason::Forbidden);
    let mut all = vec![
        Text::new(
            "early",
            Some("type filter hook prerouting priority -450;"),
            &["iifname \"flock*\" goto from_pod"],
        ),
        Text::new(
            "from_pod",
            None,
            &[
                "iifname . ip6 saddr @src6 accept",
                "iifname . ip saddr @src4 accept",
                // Duplicate address detection and multicast listening have no source yet.
                "ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld-listener-report, mld2-listener-report } accept",
                &goto(DropReason::Spoofed),
            ],
        ),
        Text::new(
            "local",
            Some("type filter hook input priority -5;"),
            &[
                "iifname != \"flock*\" accept",
                &format!("icmpv6 type {{ nd-router-advert, nd-redirect }} {forbidden}"),
                &format!("icmp type redirect {forbidden}"),
                &format!("udp dport {{ 68, 546 }} {forbidden}"),
            ],
        ),
    ];
    all.extend(DropReason::ALL.map(|reason| Text {
        name: reason.chain(),
        base: None,
        rules: vec![reason.log(), format!("counter name {reason} drop")],
    }));
    all
}

/// Drops a packet. The chain it goes to does not come back, so it costs no depth.
fn goto(reason: DropReason) -> String {
    format!("goto {}", reason.chain())
}

/// Those that are there while flows are judged. A ct expression anywhere has the kernel track every packet, so without
/// policies there are none of them.
pub(super) fn judging(stamp: Stamp) -> [Text; 3] {
    let mark = stamp.mark();
    let mut forward = vec![
        // The packets of flows that were judged end here.
        format!("ct mark & {STAMP_MASK:#010x} == {mark:#010x} accept"),
        "iifname != \"flock*\" oifname != \"flock*\" accept".to_owned(),
        format!("iifname @shut {}", goto(DropReason::Shut)),
        format!("oifname @shut {}", goto(DropReason::Shut)),
        "ct state vmap { invalid : goto stray, untracked : goto stray }".to_owned(),
        // A flow older than the tracking is picked up in its middle. If the server's packet came first, it would be
        // judged the wrong way round; so it waits until the client has spoken.
        "ct state new tcp flags & syn == 0 tcp sport < 32768 tcp dport >= 32768 goto stray".to_owned(),
        "iifname . oifname @self goto admit".to_owned(),
        // An earlier judgement may have ended in the middle, and others may use these bits by mistake.
        format!("ct mark set ct mark & {:#010x}", STAMP_MASK | FOREIGN_MASK),
        format!("jump {}", TIERS[0].0),
    ];
    forward.extend(gates(Tier::Policy));
    forward.extend([format!("jump {}", TIERS[1].0), "goto admit".to_owned()]);
    let stray = goto(DropReason::Stray);
    let admit = format!("ct mark set ct mark & {FOREIGN_MASK:#010x} | {mark:#010x} accept");
    [
        Text {
            name: "forward".to_owned(),
            base: Some("type filter hook forward priority -5;"),
            rules: forward,
        },
        Text::new("admit", None, &[&admit]),
        Text::new(
            "stray",
            None,
            &[&format!("iifname @guarded {stray}"), &format!("oifname @guarded {stray}")],
        ),
    ]
}

/// The chains of `forward` for what comes before and after NetworkPolicy.
const TIERS: [(&str, Tier); 2] = [("tier_admin", Tier::Admin), ("tier_base", Tier::Baseline)];

/// These, with rules once a pod has a gate of such a tier. They are chains of their own so that `forward` is the same
/// with and without.
pub(super) fn tiers(used: bool) -> [Text; 2] {
    TIERS.map(|(name, tier)| Text {
        name: name.to_owned(),
        base: None,
        rules: if used { gates(tier) } else { Vec::new() },
    })
}

/// What asks the chains of a tier: those of the client on the flow's way out, those of the server on its way in. A packet
/// that goes back passes their links the other way.
fn gates(tier: Tier) -> Vec<String> {
    let ends = [
        (Direction::Egress, "original", "iifname"),
        (Direction::Egress, "reply", "oifname"),
        (Direction::Ingress, "original", "oifname"),
        (Direction::Ingress, "reply", "iifname"),
    ];
    let rule = |(direction, packet, link)| {
        let (set, bit) = (SetName::Gate(Gate { direction, tier }), admitted(direction));
        let unless = if tier == Tier::Admin { String::new() } else { format!("ct mark & {bit:#010x} == 0 ") };
        format!("ct direction {packet} {unless}{link} vmap @{set}")
    };
    ends.map(rule).into()
}

/// A chain that judges.
pub(super) fn of(id: ChainId, chain: &Chain) -> Text {
    let mut rules: Vec<String> = chain.rules.iter().flat_map(|rule| of_rule(chain, rule)).collect();
    rules.extend((chain.end == End::Refuse).then(|| goto(DropReason::Refused)));
    Text { name: ChainName { direction: chain.direction, id }.to_string(), base: None, rules }
}

fn of_rule(chain: &Chain, rule: &Rule) -> Vec<String> {
    let other = match chain.direction {
        Direction::Egress => "ct reply",
        Direction::Ingress => "ct original",
    };
    let peers = match &rule.peer {
        Peer::Any => vec![String::new()],
        Peer::Pods(id) => {
            let [six, four] = SetName::peers(*id);
            vec![format!("{other} ip6 saddr @{six} "), format!("{other} ip saddr @{four} ")]
        }
        Peer::Net { cidr, except } => {
            let ip = if cidr.addr().is_ipv6() { "ip6" } else { "ip" };
            let but = except.iter().map(|net| format!("{other} {ip} saddr != {net} "));
            vec![std::iter::once(format!("{other} {ip} saddr {cidr} ")).chain(but).collect()]
        }
    };
    let ports = match &rule.ports {
        None => String::new(),
        // nft knows what the port is of only behind the protocol.
        Some((protocol, None)) => format!("meta l4proto {} ", name(*protocol)),
        Some((protocol, Some(id))) => {
            format!("meta l4proto {} ct reply proto-src @{} ", name(*protocol), SetName::Ports(*id))
        }
    };
    let verdict = match (rule.action, chain.end) {
        (Action::Deny, _) => goto(DropReason::Refused),
        (Action::Accept, End::NextTier) => {
            format!("ct mark set ct mark | {:#010x} return", admitted(chain.direction))
        }
        (Action::Accept, End::Refuse) | (Action::Pass, _) => "return".to_owned(),
    };
    peers.into_iter().map(|peer| format!("{peer}{ports}{verdict}")).collect()
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}
