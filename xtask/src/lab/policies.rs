//! What NetworkPolicy lets through, what a pod can pretend to be, and what becomes of open flows.

mod cut;
mod manifests;
mod reach;
mod spoof;

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

pub(super) use self::cut::Conversation;
pub(super) use self::reach::{PORTS, REACH, Reach};
pub(super) use self::spoof::Spoof;
use super::anycast;
use super::cluster::Cluster;
use super::execute::{self, Patience};
use super::node::NodeDir;
use super::pods::Attached;
use super::progress::Progress;
use super::topology::{self, NODES, Node};

/// Everything that was seen of policies.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policies {
    pub(super) reach: Vec<Reach>,
    pub(super) spoofs: Vec<Spoof>,
    pub(super) conversations: Vec<Conversation>,
    pub(super) explained: Explained,
}

impl Policies {
    /// Whether everything was tried and every cell holds.
    pub(super) fn hold(&self) -> bool {
        self.reach.len() == reach::CELLS
            && self.reach.iter().all(|cell| cell.ok)
            && !self.spoofs.is_empty()
            && self.spoofs.iter().all(|spoof| spoof.ok)
            && !self.conversations.is_empty()
            && self.conversations.iter().all(|seen| seen.ok)
            && self.explained.ok
    }
}

/// What the agent says of a flow that does not pass.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explained {
    /// As typed at the node.
    pub(super) command: String,
    pub(super) answer: Vec<String>,
    pub(super) ok: bool,
}

/// A question about a cell of the table that is a "no", for the first node.
pub(super) const QUESTION: [&str; 8] =
    ["flock-agent", "explain", "--from", "demo/six-1", "--to", "demo/web-1", "--port", "tcp/8080"];

/// What the answer has to say.
const REASON: &str = "refused: no ingress rule of demo/deny-ingress, demo/web-from-api admits it";

/// The files of the policies in the manifest directory of each node.
const FILE: &str = "policies.yaml";
const OUTSIDE_FILE: &str = "given-from-outside.yaml";

/// Puts policies in force and tries what they allow and what they deny; leaves them in force.
pub(super) fn show(lab: &mut Cluster, progress: &Progress, attached: &[Attached]) -> Result<Policies> {
    let reach = progress.step("policies", "connecting to pods that policies select", || {
        for (pod, ports) in reach::servers() {
            anycast::start_own_server(lab, pod, &ports)?;
        }
        write(lab, attached)?;
        wait_until_enforced(lab)?;
        let before = dropped(lab, "refused")?;
        let reach = reach::matrix(lab, attached)?;
        // Silence may have other reasons.
        let silent = reach.iter().filter(|cell| cell.is_silent()).count();
        let dropped = dropped(lab, "refused")? - before;
        if dropped < u64::try_from(silent)? {
            bail!("{silent} connections get no answer, and the nodes counted {dropped} packets dropped by policy");
        }
        let good = reach.iter().filter(|cell| cell.ok).count();
        let outcome = format!("{good} of {} connections do as written, {silent} of them get no answer", reach.len());
        Ok((reach, outcome))
    })?;
    let explained = explain(lab)?;
    let conversations = progress.step("cut", "editing a policy under open connections", || {
        let seen = cut::converse(lab, attached)?;
        let (ended, all) = (seen.iter().filter(|seen| seen.has_ended()).count(), seen.len());
        let untouched = seen.iter().filter(|seen| seen.is_untouched()).count();
        Ok((seen, format!("an edit ends {ended} of {all} conversations, {untouched} goes on without a gap")))
    })?;
    let spoofs = progress.step("spoofed", "sending from addresses of others", || {
        let spoofs = spoof::attempts(lab, attached)?;
        let (sent, arrived) =
            spoofs.iter().fold((0, 0), |(sent, arrived), it| (sent + it.sent, arrived + it.arrived));
        Ok((spoofs, format!("{arrived} of {sent} packets with a false source arrive")))
    })?;
    Ok(Policies { reach, spoofs, conversations, explained })
}

/// Takes the policies away, and waits until nothing is judged any more.
pub(super) fn remove(lab: &mut Cluster) -> Result<()> {
    for node in &NODES {
        let dir = NodeDir::new(&lab.state, node)?;
        dir.remove(FILE)?;
        dir.remove(OUTSIDE_FILE)?;
    }
    wait_until(lab, "no flow is judged", |_| Vec::new())
}

fn write(lab: &Cluster, attached: &[Attached]) -> Result<()> {
    for node in &NODES {
        let dir = NodeDir::new(&lab.state, node)?;
        dir.write(FILE, &manifests::of(node, attached))?;
        dir.write(OUTSIDE_FILE, manifests::OUTSIDE)?;
    }
    Ok(())
}

fn wait_until_enforced(lab: &mut Cluster) -> Result<()> {
    wait_until(lab, "the policies are in force", <[&str]>::to_vec)
}

/// Waits until each pod is selected by these of its policies, and judged where there are any.
fn wait_until(
    lab: &mut Cluster,
    what: &str,
    wanted: impl Fn(&[&'static str]) -> Vec<&'static str>,
) -> Result<()> {
    let agent = lab.dist.agent.clone();
    for (pod, policies) in manifests::SELECTED {
        let dir = NodeDir::new(&lab.state, node_of(pod)?)?;
        let wanted: Vec<_> = wanted(policies).into_iter().map(manifests::key).collect();
        lab.wait_for(what, || {
            let told = &dir.ask(&agent, &["explain", &manifests::key(pod)])?["policy"];
            let selecting = told["selecting"].as_array().into_iter().flatten();
            let selecting: Vec<_> = selecting.filter_map(|it| it["policy"].as_str()).collect();
            let enforced = told["enforced"][0].as_str().unwrap_or_default();
            let judged = enforced.starts_with("flows ");
            if selecting == wanted && judged != wanted.is_empty() {
                Ok(())
            } else {
                bail!("{pod} is selected by {selecting:?}, and {enforced}")
            }
        })?;
    }
    Ok(())
}

/// How many packets all nodes together have dropped for a reason.
fn dropped(lab: &Cluster, reason: &str) -> Result<u64> {
    NODES.iter().map(|node| dropped_by(lab, node, reason)).sum()
}

fn dropped_by(lab: &Cluster, node: &Node, reason: &str) -> Result<u64> {
    let status = NodeDir::new(&lab.state, node)?.status(&lab.dist.agent)?;
    status["dropped"][reason]
        .as_u64()
        .with_context(|| format!("{} does not count dropped packets", node.name))
}

fn explain(lab: &Cluster) -> Result<Explained> {
    let [_, words @ ..] = QUESTION;
    let mut command = Command::new(&lab.dist.agent);
    command.args(words).arg("--socket").arg(NodeDir::new(&lab.state, &NODES[0])?.socket());
    let done = execute::run(&mut command, None, "", &Patience::SHORT)?;
    let answer: Vec<_> = done.stdout.lines().map(str::to_owned).collect();
    let ok = done.status.code() == Some(1)
        && answer.iter().any(|line| line.ends_with(": does not pass"))
        && answer.iter().any(|line| line.ends_with(REASON));
    Ok(Explained { command: QUESTION.join(" "), answer, ok })
}

fn node_of(pod: &str) -> Result<&'static Node> {
    topology::pod(pod).map(|(node, _)| node).with_context(|| format!("there is no pod {pod}"))
}

fn attachment<'a>(attached: &'a [Attached], pod: &str) -> Result<&'a Attached> {
    attached.iter().find(|it| it.pod == pod).with_context(|| format!("{pod} is not attached"))
}
