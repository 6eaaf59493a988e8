//! `flock-agent explain NAMESPACE/POD`: what was decided for a pod, and why. With `--from` and `--to`: whether a flow
//! passes.

use std::process::ExitCode;

use anyhow::Context;
use flock_cni::wire::{Call, Flow, Pod};
use flock_core::app::{AddressExplanation, Explanation, PodObject, SelectingPolicy, Standpoint};
use flock_core::policy::{ExplainedFlow, FlowExplanation, Judgement, PolicyKey};

use crate::args::{ExplainArgs, OutputFormat};
use crate::print::print;
use crate::status::ask;

/// Asks the agent and prints its answer.
pub(crate) async fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    if let (Some(from), Some(to)) = (&args.from, &args.to) {
        return flow(args, Flow { from: from.clone(), to: to.clone(), service: args.port.clone() }).await;
    }
    let pod = args.pod.as_ref().context("name a pod, or --from and --to")?;
    let (namespace, name) = (pod.namespace().to_owned(), pod.name().to_owned());
    let report = ask(&args.socket, Call::Explain(Pod { namespace, name, uid: None })).await?;
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)?,
        OutputFormat::Table => {
            text(&serde_json::from_value(report).context("the answer of the agent is of another version")?)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent about a flow. Exits with 1 where it does not pass, so that scripts can ask too.
async fn flow(args: &ExplainArgs, flow: Flow) -> anyhow::Result<ExitCode> {
    let report = ask(&args.socket, Call::Flow(flow)).await?;
    let told: FlowExplanation =
        serde_json::from_value(report.clone()).context("the answer of the agent is of another version")?;
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)?,
        OutputFormat::Table => flow_text(&told),
    })?;
    let passes = told.flows.iter().all(|flow| flow.passes);
    Ok(if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How a refusal starts.
pub(crate) const REFUSED: &str = "refused: ";

/// An answer about a flow, for people.
pub(crate) fn flow_text(told: &FlowExplanation) -> String {
    let mut out = vec![format!("{} to {}, {}", told.from, told.to, told.service)];
    for ExplainedFlow { from, to, passes, verdict, .. } in &told.flows {
        let passes = if *passes { "passes" } else { "does not pass" };
        out.push(format!("  {from} to {to}: {passes}"));
        out.push(format!("    out of the client: {}", judgement(&verdict.egress, "egress")));
        out.push(format!("    into the server: {}", judgement(&verdict.ingress, "ingress")));
    }
    out.join("\n")
}

/// What one end says of a flow, in words. A refusal starts with [`REFUSED`].
pub(crate) fn judgement(told: &Judgement, direction: &str) -> String {
    let names =
        |policies: &[PolicyKey]| policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match told {
        Judgement::NotSelected => format!("admitted, no policy selects it for {direction}"),
        Judgement::Itself => "admitted, it is the same pod".to_owned(),
        Judgement::Undecided => {
            format!("admitted, no {direction} rule of the ClusterNetworkPolicies that select it decides")
        }
        Judgement::Denied { policy, rule } => format!("denied by {policy}, {direction}[{rule}]"),
        Judgement::Admitted { policy, rule } => format!("admitted by {policy}, {direction}[{rule}]"),
        Judgement::Refused { policies } => {
            format!("refused: no {direction} rule of {} admits it", names(policies))
        }
        Judgement::Shut { reason } => format!("refused: {reason}"),
    }
}

fn text(told: &Explanation) -> String {
    let mut out = vec![format!("pod {}{}", told.pod, object(told.object.as_ref()))];
    for (key, value) in told.object.iter().flat_map(|object| &object.annotations) {
        out.push(format!("  annotation {key}: {value:?}"));
    }
    for problem in &told.problems {
        out.push(format!("  an ADD now would be refused: {problem}"));
    }
    if told.allocations.is_empty() {
        out.push("  holds no address on this node".to_owned());
    }
    for held in &told.allocations {
        let phase = format!("{:?}", held.phase).to_lowercase();
        out.push(format!("  attachment {} on {}, {phase}", held.attachment, held.link));
    }
    out.extend(told.addresses.iter().map(address));
    out.extend(told.policy.enforced.iter().map(|enforced| format!("  policy: {enforced}")));
    for SelectingPolicy { policy, ingress, egress } in &told.policy.selecting {
        let directions = match (ingress, egress) {
            (true, true) => "ingress and egress",
            (true, false) => "ingress",
            (false, true) => "egress",
            (false, false) => "no direction",
        };
        out.push(format!("    selected by {policy} for {directions}"));
    }
    out.join("\n")
}

fn object(object: Option<&PodObject>) -> String {
    let Some(object) = object else { return ": the cluster shows no such pod".to_owned() };
    let mut said = vec![if object.ready { "Ready" } else { "not Ready" }];
    said.extend(object.terminating.then_some("terminating"));
    said.extend(object.host_network.then_some("in the network of its node: flock is never asked"));
    format!(": {}", said.join(", "))
}

fn address(told: &AddressExplanation) -> String {
    let kind = if told.anycast { "anycast" } else { "address" };
    let standing = match told.standing {
        Standpoint::Serving => "serving",
        Standpoint::Draining => "draining",
        Standpoint::Withheld => "withheld",
    };
    let route = told.route.as_deref().unwrap_or("none");
    format!("  {kind} {}: {standing}\n    announced: {}\n    route: {route}", told.address, told.announced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_reads_as_sentences() {
        let told: Explanation = serde_json::from_value(serde_json::json!({
            "pod": "dns/dns-1",
            "object": {
                "ready": false, "terminating": false, "hostNetwork": false,
                "annotations": { "flock.fritzlab.net/anycast": "2001:db8:a::53" },
            },
            "problems": [],
            "allocations": [{
                "pod": "dns/dns-1", "attachment": "c0ffee/eth0", "link": "flock7ac7509f",
                "addresses": ["2001:db8:f001::5"], "anycast": ["2001:db8:a::53"], "phase": "committed",
            }],
            "addresses": [{
                "address": "2001:db8:a::53", "anycast": true, "standing": "draining",
                "announced": "no: the pod is not Ready",
                "route": "2001:db8:a::53/128 nexthop via 2001:db8:f001::5 dev flock7ac7509f weight 255 proto 118 (quiet)",
            }],
            "policy": {
                "enforced": ["flows into it are judged by chain i_91c4"],
                "selecting": [{ "policy": "dns/only-dns", "ingress": true, "egress": false }],
            },
        }))
        .unwrap();
        let lines = [
            "pod dns/dns-1: not Ready",
            r#"  annotation flock.fritzlab.net/anycast: "2001:db8:a::53""#,
            "  attachment c0ffee/eth0 on flock7ac7509f, committed",
            "  anycast 2001:db8:a::53: draining",
            "    announced: no: the pod is not Ready",
            "    route: 2001:db8:a::53/128 nexthop via 2001:db8:f001::5 dev flock7ac7509f weight 255 proto 118 (quiet)",
            "  policy: flows into it are judged by chain i_91c4",
            "    selected by dns/only-dns for ingress",
        ];
        assert_eq!(text(&told), lines.join("\n"));
    }

    #[test]
    fn judgements_of_cluster_policies_read_as_such() {
        let said = |told: serde_json::Value| judgement(&serde_json::from_value(told).unwrap(), "egress");
        let told =
            serde_json::json!({ "judgement": "denied", "policy": "ClusterNetworkPolicy/no", "rule": 2 });
        assert_eq!(said(told), "denied by ClusterNetworkPolicy/no, egress[2]");
        assert_eq!(
            said(serde_json::json!({ "judgement": "undecided" })),
            "admitted, no egress rule of the ClusterNetworkPolicies that select it decides"
        );
    }

    #[test]
    fn an_answer_about_a_flow_names_the_rule_at_each_end() {
        let told: FlowExplanation = serde_json::from_value(serde_json::json!({
            "from": "shop/web", "to": "shop/db", "service": "tcp/80",
            "flows": [{
                "from": "2001:db8:1::1", "to": "2001:db8:1::2", "passes": false,
                "verdict": {
                    "egress": {
                        "judgement": "admitted", "policy": "shop/out", "rule": 1,
                    },
                    "ingress": { "judgement": "refused", "policies": ["shop/none"] },
                },
            }],
        }))
        .unwrap();
        let lines = [
            "shop/web to shop/db, tcp/80",
            "  2001:db8:1::1 to 2001:db8:1::2: does not pass",
            "    out of the client: admitted by shop/out, egress[1]",
            "    into the server: refused: no ingress rule of shop/none admits it",
        ];
        assert_eq!(flow_text(&told), lines.join("\n"));
    }
}
