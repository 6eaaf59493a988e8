//! The lab as a whole: wires, daemons, pods, and what has to be true of them.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::anycast::{History, Watch};
use super::execute::Patience;
use super::interrupt::Interrupt;
use super::netns::{self, Netns};
use super::node::NodeDir;
use super::pods::{Attached, Sandbox};
use super::process::Daemon;
use super::router::{Learned, Router, Session};
use super::state::State;
use super::topology::{self, Announced, Family, NODES, Node, Pod, REFUSED, Refused};
use crate::build::Dist;

/// How long anything may take to come true before the lab says what is wrong. Sessions take a second or
/// two; a busy machine takes longer.
const DEADLINE: Duration = Duration::from_mins(1);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A lab that this process has made, or is making.
pub(super) struct Cluster {
    pub(super) state: State,
    pub(super) dist: Dist,
    pub(super) interrupt: Interrupt,
    daemons: Vec<Daemon>,
    watch: Option<Watch>,
}

impl Cluster {
    pub(super) fn new(state: State, dist: Dist, interrupt: Interrupt) -> Self {
        Self { state, dist, interrupt, daemons: Vec::new(), watch: None }
    }

    /// What the router's kernel has done with the shared addresses since it was started.
    pub(super) fn history(&self) -> Result<History> {
        self.watch.as_ref().map(Watch::history).context("nobody watches the router")
    }

    /// Namespaces, veth pairs, addresses, default routes.
    pub(super) fn wire(&self) -> Result<()> {
        netns::make(self.state.namespaces())?;
        let router = self.state.netns("router");
        for name in std::iter::once("router").chain(topology::links().map(|(name, _)| name)) {
            // Whatever the machine's defaults are. Without duplicate address detection the link-local addresses,
            // which neighbour discovery asks from, work as soon as they are there.
            let on_all = ["all", "default"].map(|scope| {
                [("disable_ipv6", "0"), ("accept_dad", "0")]
                    .map(|(name, value)| (format!("ipv6/conf/{scope}/{name}"), value))
            });
            let settings: Vec<_> =
                on_all.iter().flatten().map(|(name, value)| (name.as_str(), *value)).collect();
            self.state.netns(name).sysctls(&settings)?;
        }
        router.sysctls(&[
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/ip_forward", "1"),
            // Spread by ports as well, or all of the client's flows go one way.
            ("ipv6/fib_multipath_hash_policy", "1"),
            ("ipv4/fib_multipath_hash_policy", "1"),
        ])?;
        let mut lines = "link set lo up\n".to_owned();
        for (name, link) in topology::links() {
            let neighbour = self.state.netns(name);
            // Writing into a string cannot fail.
            let _ = writeln!(lines, "link add {name} type veth peer name up0 netns {}", neighbour.name());
            let _ = writeln!(lines, "address add {}/64 dev {name} nodad", link.router.v6);
            let _ = writeln!(lines, "address add {}/28 dev {name}", link.router.v4);
            let _ = writeln!(lines, "link set {name} up");
        }
        router.batch(&lines)?;
        for (name, link) in topology::links() {
            let mut lines = "link set lo up\n".to_owned();
            let _ = writeln!(lines, "address add {}/64 dev up0 nodad", link.neighbour.v6);
            let _ = writeln!(lines, "address add {}/28 dev up0", link.neighbour.v4);
            lines.push_str("link set up0 up\n");
            let _ = writeln!(lines, "route add default via {}", link.router.v4);
            let _ = writeln!(lines, "route add default via {}", link.router.v6);
            self.state.netns(name).batch(&lines)?;
        }
        Ok(())
    }

    /// Starts the router and waits until it answers; its name and version.
    pub(super) fn start_router(&mut self) -> Result<String> {
        let router = Router::new(&self.state)?;
        self.watch = Some(Watch::start(&self.state.netns("router"))?);
        let daemons = router.start()?;
        self.keep(daemons)?;
        self.wait_for("the router answers", || router.version())
    }

    /// Starts BIRD and the agent of a node and waits until pods can be attached; BIRD's version.
    pub(super) fn start_node(&mut self, node: &'static Node) -> Result<String> {
        let dir = NodeDir::new(&self.state, node)?;
        dir.write_manifests(node)?;
        let daemons = dir.start(&self.state, node, &self.dist.agent)?;
        self.keep(daemons)?;
        self.wait_for_agent(node, &dir)
    }

    fn wait_for_agent(&mut self, node: &'static Node, dir: &NodeDir) -> Result<String> {
        let agent = self.dist.agent.clone();
        self.wait_for("the agent is ready and runs BIRD", || {
            let status = dir.status(&agent)?;
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            if let Some(bad) = conditions.iter().find(|condition| condition["status"] != true) {
                bail!("{}: {}", bad["kind"].as_str().unwrap_or("?"), bad["message"].as_str().unwrap_or("?"));
            }
            // The conditions are about the configuration; this is whether the daemon answers.
            match status["routing"].as_str().unwrap_or_default() {
                daemon if daemon.starts_with("BIRD ") => Ok(daemon.to_owned()),
                problem => bail!("{}: {problem}", node.name),
            }
        })
    }

    /// Starts a daemon of a pod's own, inside it.
    pub(super) fn start_in_pod(&mut self, pod: &'static str, command: &mut Command) -> Result<()> {
        self.start_daemon(pod, pod, command)
    }

    /// Starts a daemon in an element, under a name of its own.
    pub(super) fn start_daemon(
        &mut self,
        owner: &'static str,
        element: &str,
        command: &mut Command,
    ) -> Result<()> {
        let log = self.state.element_dir(owner)?.join("main.log");
        let daemon = Daemon::start(owner, command, &self.state.netns(element), &log)?;
        self.keep(vec![daemon])
    }

    /// Waits until daemons that were told to end have done so.
    pub(super) fn wait_for_end(&mut self, owners: &[&str]) -> Result<()> {
        let (ending, others): (Vec<_>, Vec<_>) =
            self.daemons.drain(..).partition(|daemon| owners.contains(&daemon.owner));
        self.daemons = others;
        self.wait_for("they end", || match ending.iter().find(|daemon| daemon.id().is_alive()) {
            Some(daemon) => bail!("{} does not end\n{}", daemon.owner, daemon.tail()),
            None => Ok(()),
        })?;
        ending.into_iter().try_for_each(Daemon::reap)
    }

    /// Kills a daemon, as the kernel does that runs out of memory: without a warning.
    pub(super) fn kill(&mut self, owner: &str, program: &str) -> Result<()> {
        let fits = |daemon: &Daemon| daemon.owner == owner && daemon.program() == program;
        let index = self.daemons.iter().position(fits);
        let index = index.with_context(|| format!("{owner} has no daemon {program}"))?;
        self.daemons.remove(index).kill()
    }

    /// Starts the agent of a node whose agent is dead, and waits until it has caught up.
    pub(super) fn start_agent_again(&mut self, node: &'static Node) -> Result<()> {
        let dir = NodeDir::new(&self.state, node)?;
        let daemon = dir.start_agent(&self.state, node, &self.dist.agent)?;
        self.keep(vec![daemon])?;
        self.wait_for_agent(node, &dir).map(drop)
    }

    fn keep(&mut self, daemons: Vec<Daemon>) -> Result<()> {
        let ids: Vec<_> = daemons.iter().map(Daemon::id).collect();
        self.daemons.extend(daemons);
        ids.into_iter().try_for_each(|id| self.state.add_process(id))
    }

    /// Waits until every session is up.
    pub(super) fn wait_for_sessions(&mut self) -> Result<Vec<Session>> {
        let router = Router::new(&self.state)?;
        self.wait_for("every BGP session is up", || {
            let sessions = router.sessions()?;
            let down: Vec<_> = sessions
                .iter()
                .filter(|session| !session.is_established())
                .map(|session| format!("{} is {}", session.neighbour, session.state))
                .collect();
            if down.is_empty() { Ok(sessions) } else { bail!("{}", down.join(", ")) }
        })
    }

    /// Waits until the router has learned these prefixes and no other, and forwards by them.
    pub(super) fn wait_for_routes(
        &mut self,
        wanted: impl Iterator<Item = Announced>,
    ) -> Result<Vec<Learned>> {
        let wanted: Vec<_> = wanted.collect();
        let router = Router::new(&self.state)?;
        self.wait_for("the router has what is announced and no more", || {
            let learned = router.learned()?;
            let is_wanted = |route: &Learned| wanted.iter().any(|it| route.is(it));
            let missing = wanted.iter().filter(|it| !learned.iter().any(|route| route.is(it)));
            let mut wrong: Vec<_> = missing.map(|it| format!("{it} is missing")).collect();
            let surplus = learned.iter().filter(|route| !is_wanted(route));
            wrong.extend(surplus.map(|route| format!("{} is there", route.prefix)));
            if wrong.is_empty() { Ok(learned) } else { bail!("{}", wrong.join(", ")) }
        })
    }

    /// Attaches every pod.
    pub(super) fn attach(&self) -> Result<Vec<Attached>> {
        let patience = Patience::until(Duration::from_secs(50), &self.interrupt);
        topology::pods().map(|(node, pod)| self.attach_one(node, pod, &patience)).collect()
    }

    fn attach_one(&self, node: &Node, pod: &'static Pod, patience: &Patience) -> Result<Attached> {
        self.interrupt.check()?;
        let socket = NodeDir::new(&self.state, node)?.socket();
        let sandbox = Sandbox::create(&self.state, pod.name, socket)?;
        let added = sandbox.add(&self.dist.flock, node, pod, patience);
        added.or_else(|error| {
            self.interrupt.check()?;
            bail!("{error:#}\n{}", self.tails())
        })
    }

    /// Deletes a pod and makes it again, in a namespace of its own; its new attachment takes the place of the
    /// old one.
    pub(super) fn attach_again<'a>(&self, attached: &'a mut [Attached], name: &str) -> Result<&'a Attached> {
        let patience = Patience::until(Duration::from_secs(50), &self.interrupt);
        let known = attached.iter_mut().find(|attached| attached.pod == name);
        let Some((attached, (node, pod))) = known.zip(topology::pod(name)) else {
            bail!("there is no pod {name}");
        };
        Sandbox::read(&self.state, pod)?.del(&self.dist.flock)?;
        let netns = [self.state.netns(name)];
        netns::remove(&netns)?;
        netns::make(&netns)?;
        *attached = self.attach_one(node, pod, &patience)?;
        Ok(attached)
    }

    /// Tries to attach the pods with typing mistakes; what each was told.
    pub(super) fn attach_refused(&self) -> Result<Vec<String>> {
        let patience = Patience::until(Duration::from_secs(50), &self.interrupt);
        let socket = NodeDir::new(&self.state, &NODES[0])?.socket();
        let refuse = |pod: &Refused| {
            self.interrupt.check()?;
            let sandbox = Sandbox::create(&self.state, pod.name, socket.clone())?;
            let told = sandbox.add_refused(&self.dist.flock, &patience)?;
            if !told.ends_with(pod.told) {
                bail!("{} was told {told:?}, and not {:?}", pod.name, pod.told);
            }
            Ok(told)
        };
        REFUSED.iter().map(refuse).collect()
    }

    /// CHECKs and re-ADDs every pod.
    pub(super) fn verify(&self, attached: &[Attached]) -> Result<()> {
        let patience = Patience::until(Duration::from_secs(50), &self.interrupt);
        attached.iter().try_for_each(|pod| {
            self.interrupt.check()?;
            pod.verify(&self.state.netns(pod.pod), &self.dist.flock, &patience)
        })
    }

    /// Detaches every pod, twice as runtimes do, and waits until the nodes have nothing of them left.
    pub(super) fn detach(&mut self) -> Result<()> {
        let pods: Vec<_> = topology::pods().map(|(_, pod)| pod).collect();
        for pod in pods {
            self.interrupt.check()?;
            let sandbox = Sandbox::read(&self.state, pod)?;
            sandbox.del(&self.dist.flock)?;
            sandbox.del(&self.dist.flock)?;
        }
        for node in &NODES {
            let dir = NodeDir::new(&self.state, node)?;
            let (agent, netns) = (self.dist.agent.clone(), self.state.netns(node.name));
            self.wait_for("nothing of the pods is left", || {
                let mut left = leftovers(&netns, node)?;
                let status = dir.status(&agent)?;
                left.extend(
                    status["allocations"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(|held| format!("allocation {}", held["attachment"])),
                );
                if left.is_empty() { Ok(()) } else { bail!("{}: {}", node.name, left.join(", ")) }
            })?;
        }
        self.wait_for_routes(topology::pools()).map(drop)
    }

    /// Repeats `attempt` until it succeeds. Gives up early when a daemon has ended or somebody wants the lab
    /// to stop, and says what the daemons said.
    pub(super) fn wait_for<T>(&mut self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            let last = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            self.interrupt.check()?;
            self.daemons.iter_mut().try_for_each(Daemon::check)?;
            if started.elapsed() > DEADLINE {
                bail!("waited {} s until {what}: {last:#}\n{}", DEADLINE.as_secs(), self.tails());
            }
            sleep(POLL);
        }
    }

    /// The last words of every daemon.
    fn tails(&self) -> String {
        self.daemons.iter().map(Daemon::tail).collect::<Vec<_>>().join("\n")
    }

    /// Leaves everything standing for other processes.
    pub(super) fn leave_standing(mut self) -> Result<State> {
        self.state.leave_standing()?;
        Ok(self.state)
    }

    /// Takes everything down.
    pub(super) fn destroy(self) -> Result<()> {
        self.state.destroy()?;
        self.daemons.into_iter().try_for_each(Daemon::reap)
    }
}

/// The numbers of flock's nexthop objects.
const NEXTHOP_IDS: RangeInclusive<u64> = 0x666c_0000..=0x666c_ffff;

/// What the kernel of a node has that only a pod brings: links, routes but the aggregates, nexthop objects,
/// neighbours.
pub(super) fn leftovers(netns: &Netns, node: &Node) -> Result<Vec<String>> {
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap_or("?").to_owned();
    let links = netns.show("link show")?;
    let links = links.iter().map(|link| text(link, "ifname")).filter(|name| name != "lo" && name != "up0");
    let mut left: Vec<_> = links.map(|name| format!("link {name}")).collect();
    for family in Family::ALL {
        for protocol in [117, 118] {
            for route in netns.show(&format!("{} route show proto {protocol}", family.option()))? {
                let destination = text(&route, "dst");
                let aggregate = protocol == 117
                    && route["type"] == "unreachable"
                    && destination == node.pool(family).to_string();
                if !aggregate {
                    left.push(format!("route to {destination}"));
                }
            }
        }
    }
    for object in netns.show("nexthop show")? {
        if object["id"].as_u64().is_some_and(|id| NEXTHOP_IDS.contains(&id)) {
            left.push(format!("nexthop object {}", object["id"]));
        }
    }
    let neighbours = netns.show("neigh show nud permanent")?;
    left.extend(neighbours.iter().map(|entry| format!("neighbour {}", text(entry, "dst"))));
    Ok(left)
}
