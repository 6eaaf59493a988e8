//! `flock-agent explain NAMESPACE/POD`: what was decided for a pod, and why.

use std::process::ExitCode;

use anyhow::Context;
use flock_cni::wire::{Call, Pod};
use flock_core::app::{AddressExplanation, Explanation, PodObject, Standpoint};

use crate::args::{ExplainArgs, OutputFormat};
use crate::print::print;
use crate::status::ask;

/// Asks the agent and prints its answer.
pub(crate) async fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let (namespace, name) = (args.pod.namespace().to_owned(), args.pod.name().to_owned());
    let report = ask(&args.socket, Call::Explain(Pod { namespace, name, uid: None })).await?;
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)?,
        OutputFormat::Table => {
            text(&serde_json::from_value(report).context("the answer of the agent is of another version")?)
        }
    })?;
    Ok(ExitCode::SUCCESS)
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
    out.push(format!("  policy: {}", told.policy));
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
            "policy": "everything passes",
        }))
        .unwrap();
        let lines = [
            "pod dns/dns-1: not Ready",
            r#"  annotation flock.fritzlab.net/anycast: "2001:db8:a::53""#,
            "  attachment c0ffee/eth0 on flock7ac7509f, committed",
            "  anycast 2001:db8:a::53: draining",
            "    announced: no: the pod is not Ready",
            "    route: 2001:db8:a::53/128 nexthop via 2001:db8:f001::5 dev flock7ac7509f weight 255 proto 118 (quiet)",
            "  policy: everything passes",
        ];
        assert_eq!(text(&told), lines.join("\n"));
    }
}
