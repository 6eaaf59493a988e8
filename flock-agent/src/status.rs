//! `flock-agent status` and `version`: what a person asks the agent of this node.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use flock_cni::rpc::{self, Limits};
use flock_cni::wire::{Call, Reply, Request};
use flock_core::app::{Advertised, Report};
use flock_core::ports::Counters;

use crate::args::{OutputFormat, StatusArgs};
use crate::print::print;

/// Asks the agent and prints its answer.
pub(crate) async fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let report = ask(&args.socket, Call::Report).await?;
    let text = match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)?,
        OutputFormat::Table => {
            table(&serde_json::from_value(report).context("the report of the agent is of another version")?)
        }
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent for a document.
pub(crate) async fn ask(socket: &Path, call: Call) -> anyhow::Result<serde_json::Value> {
    ask_within(socket, call, Limits::DEFAULT).await
}

/// The same with other limits.
pub(crate) async fn ask_within(
    socket: &Path,
    call: Call,
    limits: Limits,
) -> anyhow::Result<serde_json::Value> {
    let socket = socket.to_owned();
    let answer = tokio::task::spawn_blocking(move || rpc::call(&socket, &Request::new(call), limits)).await?;
    match answer {
        Ok(Reply::Report { report }) => Ok(report),
        Ok(_) => bail!("the agent gave an answer that is not a report"),
        Err(error) => Err(error.into()),
    }
}

/// Prints the version.
pub(crate) fn version() -> anyhow::Result<ExitCode> {
    print(concat!("flock-agent ", env!("CARGO_PKG_VERSION")))?;
    Ok(ExitCode::SUCCESS)
}

fn table(report: &Report) -> String {
    let mut out = vec![format!("node {}, {}", report.node, report.routing)];
    for condition in &report.status.conditions {
        let mark = if condition.status { "yes" } else { "NO" };
        out.push(format!("  {:<18} {:<4} {}", condition.kind, mark, condition.message));
    }
    if let Some(Counters { spoofed, shut, stray, refused, forbidden }) = report.dropped {
        out.push(format!(
            "  dropped packets: {refused} by policy, {spoofed} with a false source, {forbidden} advertisements or \
             redirects, {shut} of shut pods, {stray} out of place"
        ));
    }
    section(&mut out, &["PEER", "STATE", "SINCE", "IMPORTED", "EXPORTED", "ERROR"], |rows| {
        rows.extend(report.status.bgp.iter().map(|peer| {
            vec![
                peer.peer.to_string(),
                format!("{:?}", peer.state),
                peer.since.clone(),
                peer.imported.to_string(),
                peer.exported.to_string(),
                peer.last_error.clone().unwrap_or_default(),
            ]
        }));
    });
    section(&mut out, &["POOL", "ALLOCATED", "COOLING", "CAPACITY"], |rows| {
        rows.extend(report.status.pools.iter().map(|pool| {
            let capacity =
                if pool.capacity == u64::MAX { "2^64 or more".to_owned() } else { pool.capacity.to_string() };
            vec![pool.cidr.to_string(), pool.allocated.to_string(), pool.cooling.to_string(), capacity]
        }));
    });
    section(&mut out, &["ADVERTISED", "ANNOUNCED", "POD", "STANDING", "REASON"], |rows| {
        report.advertised.iter().for_each(|advertised| rows.extend(advertised_rows(advertised)));
    });
    section(&mut out, &["POD", "ADDRESSES", "LINK", "CONTAINER"], |rows| {
        rows.extend(report.allocations.iter().map(|held| {
            let pod = held.pod.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
            let every = held.addresses.iter().chain(&held.extra).chain(&held.anycast);
            let addresses: Vec<_> = every.map(ToString::to_string).collect();
            let container = held.attachment.container().as_str().chars().take(12).collect();
            vec![pod, addresses.join(" "), held.link.clone(), container]
        }));
    });
    for problem in &report.problems {
        out.push(format!("problem: {problem}"));
    }
    out.join("\n")
}

/// A prefix and, line by line, the pods that stand behind it.
fn advertised_rows(advertised: &Advertised) -> Vec<Vec<String>> {
    let announced = if advertised.announced { "yes" } else { "no" };
    let mut first = vec![advertised.prefix.to_string(), announced.to_owned()];
    if advertised.pods.is_empty() {
        return vec![first];
    }
    let pods = advertised.pods.iter().map(|standing| {
        let mut row = std::mem::replace(&mut first, vec![String::new(), String::new()]);
        row.push(standing.pod.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string));
        row.push(format!("{:?}", standing.standing).to_lowercase());
        row.push(standing.reason.clone().unwrap_or_default());
        row
    });
    pods.collect()
}

/// Adds a table with a blank line before it; nothing at all where there are no rows.
fn section(out: &mut Vec<String>, header: &[&str], fill: impl FnOnce(&mut Vec<Vec<String>>)) {
    let mut rows = vec![header.iter().map(ToString::to_string).collect()];
    fill(&mut rows);
    if rows.len() == 1 {
        return;
    }
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    out.push(String::new());
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push(cells.join("  ").trim_end().to_owned());
    }
}
