//! What is printed of a dropped packet.

use std::fmt;
use std::net::IpAddr;

use flock_core::ids::PodKey;
use flock_core::policy::render::DropReason;
use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// A line; one JSON object.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Line {
    /// Of one packet.
    Packet(Box<Packet>),
    /// Of those that were not shown.
    #[serde(rename_all = "camelCase")]
    NotShown {
        /// When.
        time: String,
        /// How many.
        not_shown: u64,
    },
}

impl Line {
    pub(super) fn not_shown(not_shown: u64) -> Self {
        Self::NotShown { time: now(), not_shown }
    }
}

/// A dropped packet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Packet {
    pub(super) time: String,
    pub(super) reason: DropReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from_pod: Option<PodKey>,
    pub(super) from: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to_pod: Option<PodKey>,
    pub(super) to: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to_port: Option<u16>,
    /// As a person names it: `tcp/80`, `icmp type 8`.
    pub(super) service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) in_link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) out_link: Option<String>,
    /// The reason in words, with the names of the policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// Now, as RFC 3339.
pub(super) fn now() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotShown { time, not_shown } => {
                write!(f, "{time} {not_shown} dropped packets were not shown")
            }
            Self::Packet(packet) => packet.fmt(f),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, reason, from_pod, from, to_pod, to, service, why, .. } = self;
        write!(f, "{time} {reason} ")?;
        match from_pod {
            Some(pod) if *reason == DropReason::Spoofed => write!(f, "{pod} as {from}")?,
            pod => end(f, pod.as_ref(), *from)?,
        }
        f.write_str(" -> ")?;
        end(f, to_pod.as_ref(), *to)?;
        write!(f, " {service}")?;
        why.iter().try_for_each(|why| write!(f, ": {why}"))
    }
}

fn end(f: &mut fmt::Formatter<'_>, pod: Option<&PodKey>, address: IpAddr) -> fmt::Result {
    match pod {
        Some(pod) => write!(f, "{pod} ({address})"),
        None => write!(f, "{address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(reason: DropReason) -> Packet {
        Packet {
            time: "2024-06-07T08:09:10.000000Z".to_owned(),
            reason,
            from_pod: PodKey::new("shop", "web-0").ok(),
            from: "2001:db8:1::10".parse().unwrap(),
            from_port: Some(41002),
            to_pod: None,
            to: "2001:db8:1::11".parse().unwrap(),
            to_port: Some(5432),
            service: "tcp/5432".to_owned(),
            in_link: None,
            out_link: None,
            why: None,
        }
    }

    #[test]
    fn line_says_who_sent_what_to_whom_and_why_not() {
        let (mut refused, spoofed) = (packet(DropReason::Refused), packet(DropReason::Spoofed));
        refused.to_pod = PodKey::new("shop", "db-0").ok();
        refused.why = Some("no ingress rule of shop/db admits it".to_owned());
        let cases = [
            (
                Line::Packet(Box::new(refused)),
                "2024-06-07T08:09:10.000000Z refused shop/web-0 (2001:db8:1::10) -> shop/db-0 (2001:db8:1::11) \
                 tcp/5432: no ingress rule of shop/db admits it",
                r#"{"time":"2024-06-07T08:09:10.000000Z","reason":"refused","fromPod":"shop/web-0","from":"2001:db8:1::10","fromPort":41002,"toPod":"shop/db-0","to":"2001:db8:1::11","toPort":5432,"service":"tcp/5432","why":"no ingress rule of shop/db admits it"}"#,
            ),
            (
                Line::Packet(Box::new(spoofed)),
                "2024-06-07T08:09:10.000000Z spoofed shop/web-0 as 2001:db8:1::10 -> 2001:db8:1::11 tcp/5432",
                r#"{"time":"2024-06-07T08:09:10.000000Z","reason":"spoofed","fromPod":"shop/web-0","from":"2001:db8:1::10","fromPort":41002,"to":"2001:db8:1::11","toPort":5432,"service":"tcp/5432"}"#,
            ),
            (
                Line::NotShown { time: "now".to_owned(), not_shown: 950 },
                "now 950 dropped packets were not shown",
                r#"{"time":"now","notShown":950}"#,
            ),
        ];
        for (line, text, json) in cases {
            assert_eq!(line.to_string(), text);
            assert_eq!(serde_json::to_string(&line).unwrap(), json);
        }
    }

    #[test]
    fn time_is_told_in_utc() {
        let now = now();
        assert!(now.starts_with("20") && now.ends_with('Z') && now.contains('T'), "{now}");
    }
}
