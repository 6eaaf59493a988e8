//! Asks the agent who is at both ends of a packet, and which policies refuse it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use flock_cni::rpc::{Limits, RpcError};
use flock_cni::wire::{Call, Flow};
use flock_core::app::Report;
use flock_core::ids::{AttachmentId, PodKey};
use flock_core::policy::Judgement;
use flock_core::policy::render::DropReason;
use flock_core::policy::{ExplainedFlow, FlowExplanation, Service};
use flock_netlink::{Dropped, Payload};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::line::{self, Packet};
use crate::explain::{REFUSED, judgement};
use crate::status::ask_within;

/// How long an answer is good, and how long an agent that gave none is left alone.
const FRESH: Duration = Duration::from_secs(1);

/// Answers that are kept at most.
const ANSWERS: usize = 1024;

/// A person waits, and lines behind this one.
const LIMITS: Limits = Limits {
    dial: Duration::from_millis(200),
    restart: Duration::from_millis(200),
    answer: Duration::from_secs(2),
};

/// From, to, and for what.
type Question = (IpAddr, IpAddr, Service);

/// What the agent said.
pub(super) struct Names {
    socket: PathBuf,
    /// Pods by link.
    links: HashMap<String, Option<PodKey>>,
    /// When they were asked for.
    linked: Option<Instant>,
    flows: Vec<(Question, Instant, Option<ExplainedFlow>)>,
    /// When the agent did not answer.
    away: Option<Instant>,
}

fn is_fresh(at: Instant) -> bool {
    at.elapsed() < FRESH
}

impl Names {
    pub(super) fn new(socket: &Path) -> Self {
        let socket = socket.to_owned();
        Self { socket, links: HashMap::new(), linked: None, flows: Vec::new(), away: None }
    }

    /// Everything that is known of a packet.
    pub(super) async fn explain(&mut self, dropped: Dropped) -> Packet {
        let time = line::now();
        let Dropped { reason, in_link, out_link, from, to, payload } = dropped;
        let (service, ports) = match payload {
            Payload::Ports { protocol, from, to } => (Service(Some((protocol, to))), Some((from, to))),
            Payload::Icmp { .. } | Payload::Other { .. } => (Service(None), None),
        };
        let flow = self.flow((from, to, service)).await;
        let why = match reason {
            DropReason::Refused => {
                let mut why = flow.as_ref().and_then(refusal);
                if let (None, Some(_), Payload::Ports { protocol, from: port, .. }) = (&why, &flow, payload) {
                    // It may be a packet of the server.
                    let back = self.flow((to, from, Service(Some((protocol, port))))).await;
                    why = back.as_ref().and_then(refusal).map(|why| format!("of a flow from {to}: {why}"));
                }
                why.or_else(|| flow.as_ref().map(|_| "policies admit it by now".to_owned()))
            }
            DropReason::Shut => {
                let why = flow.as_ref().and_then(shut);
                Some(why.unwrap_or_else(|| "a pod starts, and its rules are not there yet".to_owned()))
            }
            DropReason::Spoofed => Some("the source is no address of the pod".to_owned()),
            DropReason::Stray => Some("in the middle of a flow that is not known, or invalid".to_owned()),
            DropReason::Forbidden => {
                Some("pods send no router advertisements, redirects or DHCP answers".to_owned())
            }
        };
        let sender = self.pod_at(in_link.as_deref()).await;
        let receiver = self.pod_at(out_link.as_deref()).await;
        let (from_pod, to_pod) = flow.map(|flow| (flow.from_pod, flow.to_pod)).unwrap_or_default();
        // Its source is a lie.
        let from_pod = from_pod.filter(|_| reason != DropReason::Spoofed);
        Packet {
            time,
            reason,
            from_pod: sender.or(from_pod),
            from,
            from_port: ports.map(|(from, _)| from),
            to_pod: receiver.or(to_pod),
            to,
            to_port: ports.map(|(_, to)| to),
            service: match payload {
                Payload::Ports { .. } => service.to_string(),
                Payload::Icmp { kind, .. } => {
                    format!("{} type {kind}", if from.is_ipv6() { "icmpv6" } else { "icmp" })
                }
                Payload::Other { protocol } => format!("protocol {protocol}"),
            },
            in_link,
            out_link,
            why,
        }
    }

    /// The pod behind a link of flock's. All are asked for anew where one is not known.
    async fn pod_at(&mut self, link: Option<&str>) -> Option<PodKey> {
        let link = link.filter(|link| link.starts_with(AttachmentId::HOST_IFNAME_PREFIX))?;
        if !self.links.contains_key(link) && !self.linked.is_some_and(is_fresh) {
            self.linked = Some(Instant::now());
            if let Some(report) = self.ask::<Report>(Call::Report).await {
                self.links = report.allocations.into_iter().map(|held| (held.link, held.pod)).collect();
            }
        }
        self.links.get(link).cloned().flatten()
    }

    async fn flow(&mut self, question: Question) -> Option<ExplainedFlow> {
        self.flows.retain(|(_, at, _)| is_fresh(*at));
        if let Some((_, _, answer)) = self.flows.iter().find(|(asked, _, _)| *asked == question) {
            return answer.clone();
        }
        let (from, to, service) = question;
        let flow = Flow { from: from.to_string(), to: to.to_string(), service: service.to_string() };
        let told = self.ask::<FlowExplanation>(Call::Flow(flow)).await;
        let answer = told.and_then(|told| told.flows.into_iter().next());
        if self.flows.len() < ANSWERS {
            self.flows.push((question, Instant::now(), answer.clone()));
        }
        answer
    }

    async fn ask<T: DeserializeOwned>(&mut self, call: Call) -> Option<T> {
        if self.away.is_some_and(is_fresh) {
            return None;
        }
        let answer = ask_within(&self.socket, call, LIMITS).await;
        let read = |answer| serde_json::from_value(answer).context("its answer is of another version");
        match answer.and_then(read) {
            Ok(answer) => {
                self.away = None;
                Some(answer)
            }
            // It answers, but not this.
            Err(error) if matches!(error.downcast_ref(), Some(RpcError::Refused(_))) => None,
            Err(error) => {
                if self.away.is_none() {
                    tracing::warn!(%error, "the agent does not say which pods and policies these are");
                }
                self.away = Some(Instant::now());
                None
            }
        }
    }
}

/// Why policies refuse a flow, if they do.
fn refusal(flow: &ExplainedFlow) -> Option<String> {
    let ends = [(&flow.verdict.egress, "egress"), (&flow.verdict.ingress, "ingress")];
    let refused = ends.into_iter().filter(|(told, _)| {
        matches!(told, Judgement::Refused { .. } | Judgement::Denied { .. } | Judgement::Shut { .. })
    });
    let refused = refused.map(|(told, direction)| {
        let words = judgement(told, direction);
        words.strip_prefix(REFUSED).map_or_else(|| words.clone(), str::to_owned)
    });
    let refused: Vec<String> = refused.collect();
    (!refused.is_empty()).then(|| refused.join("; "))
}

/// Why nothing passes from or to an end, if so.
fn shut(flow: &ExplainedFlow) -> Option<String> {
    [&flow.verdict.egress, &flow.verdict.ingress].into_iter().find_map(|told| match told {
        Judgement::Shut { reason } => Some(reason.to_string()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn flow(egress: &Value, ingress: &Value) -> ExplainedFlow {
        let verdict = json!({"egress": egress, "ingress": ingress});
        let flow = json!({"from": "192.0.2.1", "to": "192.0.2.2", "passes": false, "verdict": verdict});
        serde_json::from_value(flow).unwrap()
    }

    #[test]
    fn each_end_that_refuses_says_why() {
        let open = json!({"judgement": "notSelected"});
        let refused = json!({"judgement": "refused", "policies": ["shop/closed"]});
        let denied = json!({"judgement": "denied", "policy": "ClusterNetworkPolicy/no", "rule": 2});
        let cases = [
            (&open, &open, None),
            (&open, &refused, Some("no ingress rule of shop/closed admits it")),
            (&denied, &open, Some("denied by ClusterNetworkPolicy/no, egress[2]")),
            (
                &denied,
                &refused,
                Some(
                    "denied by ClusterNetworkPolicy/no, egress[2]; no ingress rule of shop/closed admits it",
                ),
            ),
        ];
        for (egress, ingress, expected) in cases {
            assert_eq!(refusal(&flow(egress, ingress)).as_deref(), expected);
        }
    }
}
