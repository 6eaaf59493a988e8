//! The pod of the `DaemonSet` on a node, started by containerd as the kubelet would have it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use super::containerd::Containerd;
use super::template::{Container, HttpGet, Probe, Template};
use crate::lab::cluster::Cluster;
use crate::lab::netns::{self, Netns};
use crate::lab::node::NodeDir;
use crate::lab::state::State;
use crate::lab::topology;

/// Where the agent finds manifests in its container, in the place of an API server.
const MANIFESTS: &str = "/etc/flock/manifests";

/// How long an answer to a probe may take.
const PROBE: Duration = Duration::from_secs(10);

/// A node whose agent and BIRD are containers.
pub(super) struct Node {
    pub(super) containerd: Containerd,
    pub(super) place: &'static topology::Node,
    pub(super) netns: Netns,
    template: Template,
    manifests: PathBuf,
    default_capabilities: Vec<String>,
}

/// Where the agent's container has the namespaces of the host.
const NETNS: &str = "/run/netns";

/// What a container runs that is only there. The image has no sleep; a BIRD that nobody configures is as good.
pub(super) const SLEEP: [&str; 4] = ["flock-agent", "bird", "--node-name", "sleep"];

/// The containers that run all the time, in the order they are started.
pub(super) const DAEMONS: [&str; 2] = ["agent", "bird"];

impl Node {
    /// The first node of the lab, of which nothing runs yet but containerd.
    pub(super) fn new(containerd: Containerd, template: Template, state: &State) -> Result<Self> {
        let place = &topology::NODES[0];
        let directory = NodeDir::new(state, place)?;
        directory.write_manifests(place)?;
        Ok(Self {
            default_capabilities: containerd.default_capabilities()?,
            manifests: directory.manifests(),
            netns: state.netns(place.name),
            containerd,
            place,
            template,
        })
    }

    /// The image of the `DaemonSet`.
    pub(super) fn image(&self) -> &str {
        &self.template.image
    }

    /// Runs the init container; what it prints.
    pub(super) fn install(&self) -> Result<String> {
        let mut run = self.command(&self.template.install)?;
        self.containerd.succeed_in(&mut run).map(|done| done.stdout)
    }

    /// Starts the containers and waits until the kubelet would call the pod ready.
    pub(super) fn start(&self, lab: &mut Cluster) -> Result<()> {
        for (name, container) in self.daemons() {
            lab.start_daemon(name, self.place.name, &mut self.command(container)?)?;
        }
        let probe = |container: &Container, probe: Option<&Probe>| match probe {
            Some(probe) => self.probe(&container.name, probe).with_context(|| container.name.clone()),
            None => Ok(()),
        };
        for (_, container) in self.daemons() {
            lab.wait_for("the container is started", || probe(container, container.startup_probe.as_ref()))?;
            lab.wait_for("the container is live", || probe(container, container.liveness_probe.as_ref()))?;
            lab.wait_for("the container is ready", || probe(container, container.readiness_probe.as_ref()))?;
        }
        Ok(())
    }

    fn daemons(&self) -> [(&'static str, &Container); 2] {
        let [agent, bird] = DAEMONS;
        [(agent, &self.template.agent), (bird, &self.template.bird)]
    }

    /// `ctr run` of a container with everything the manifest says of it.
    fn command(&self, container: &Container) -> Result<Command> {
        let mut options: Vec<String> =
            ["--rm", "--net-host", "--read-only", "--seccomp"].map(str::to_owned).to_vec();
        let wanted: Vec<_> = container.security_context.capabilities().collect();
        for capability in self.default_capabilities.iter().filter(|name| !wanted.contains(name)) {
            options.extend(["--cap-drop".to_owned(), capability.clone()]);
        }
        options.extend(wanted.into_iter().flat_map(|capability| ["--cap-add".to_owned(), capability]));
        if self.containerd.cgroups() {
            options.extend(["--memory-limit".to_owned(), container.resources.memory()?.to_string()]);
        }
        let field = |path: &str| match path {
            "spec.nodeName" => Ok(self.place.name),
            other => bail!("the check does not know the field {other}"),
        };
        for variable in &container.env {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), None) => value,
                (None, Some(from)) => field(&from.field_ref.field_path)?,
                _ => bail!("environment variable {}: neither value nor valueFrom", variable.name),
            };
            options.extend(["--env".to_owned(), format!("{}={value}", variable.name)]);
        }
        let mut mount = |source: &str, target: &str, how: &str| {
            options
                .extend(["--mount".to_owned(), format!("type=bind,src={source},dst={target},options={how}")]);
        };
        for entry in &container.volume_mounts {
            let target = entry.path.display().to_string();
            let Some((source, make)) = self.template.host_path(entry)? else {
                // The token, with which the agent would ask the API server.
                mount(&self.manifests.display().to_string(), MANIFESTS, "rbind:rprivate:ro");
                continue;
            };
            if make {
                fs::create_dir_all(source).with_context(|| format!("cannot make {}", source.display()))?;
            }
            mount(&source.display().to_string(), &target, &entry.options()?);
        }
        if container.name == "agent" {
            options.extend(["--env".to_owned(), format!("FLOCK_MANIFESTS={MANIFESTS}")]);
        }
        let mut run = self.containerd.run(&container.name, &options, &self.template.image);
        run.args(&container.command).args(&container.args);
        Ok(run)
    }

    fn probe(&self, id: &str, probe: &Probe) -> Result<()> {
        match (&probe.http_get, &probe.exec) {
            (Some(get), None) => self.netns.run(|| http_get(get)),
            (None, Some(exec)) => {
                let command: Vec<_> = exec.command.iter().map(String::as_str).collect();
                self.containerd.exec(id, &command).map(drop)
            }
            _ => bail!("the check only knows the probes httpGet and exec"),
        }
    }

    /// Whether BIRD has told its peers everything again.
    pub(super) fn verify_recovered(&self) -> Result<()> {
        let status =
            self.containerd.exec("bird", &["birdc", "-r", "-s", "/run/flock/bird.ctl", "show", "status"])?;
        ensure!(!status.contains("recovery"), "{}", status.trim());
        Ok(())
    }

    /// What `flock-agent status` says, asked in the agent's container.
    pub(super) fn status(&self) -> Result<Value> {
        let text = self.containerd.exec("agent", &["flock-agent", "status", "-o", "json"])?;
        serde_json::from_str(&text).context("`flock-agent status -o json` did not print JSON")
    }

    /// Whether the kernel has the containers as the manifest wants them; in words.
    pub(super) fn verify_security(&self) -> Result<String> {
        let mut words = Vec::new();
        for (name, container) in self.daemons() {
            let pid = self.containerd.pid(name)?;
            let wanted: Vec<_> = container.security_context.capabilities().collect();
            let read = |file: &str| {
                let path = format!("/proc/{pid}/{file}");
                fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
            };
            verify_status(&read("status")?, &wanted).with_context(|| name.to_owned())?;
            ensure!(root_is_read_only(&read("mountinfo")?), "{name}: the root file system can be written to");
            let network = |path: PathBuf| fs::metadata(path).map(|file| (file.dev(), file.ino()));
            ensure!(
                network(format!("/proc/{pid}/ns/net").into())? == network(self.netns.path())?,
                "{name} is not in the network of the node"
            );
            words.push(format!("{name} has {}", wanted.join(" and ").replace("CAP_", "")));
        }
        Ok(format!(
            "{}; no other capability or new privilege, a seccomp filter, / read-only",
            words.join(", ")
        ))
    }

    /// How the agent's container has the namespaces of the host.
    fn netns_mount(&self) -> Result<String> {
        let mounts = &self.template.agent.volume_mounts;
        let mount = mounts.iter().find(|mount| mount.path == Path::new(NETNS));
        mount.with_context(|| format!("the agent has no mount at {NETNS}"))?.options()
    }

    /// Whether a network namespace made now shows in the agent's container.
    pub(super) fn verify_propagation(&self, lab: &mut Cluster, netns: &Netns) -> Result<()> {
        netns::make(std::slice::from_ref(netns))?;
        let seen = self.wait_until_seen(lab, "agent", &netns.path(), &netns.path());
        netns::remove(std::slice::from_ref(netns))?;
        seen
    }

    /// The same on a host that had not made a namespace yet when the container was started: the first one turns the
    /// directory into a mount (ip-netns.c of iproute2). Here that is another directory than /run/netns.
    pub(super) fn verify_first_propagation(&self, lab: &mut Cluster) -> Result<()> {
        const ID: &str = "first";
        let (directory, file) = (Path::new("/run/first"), Path::new("/run/first/netns"));
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let mount =
            format!("type=bind,src={},dst={NETNS},options={}", directory.display(), self.netns_mount()?);
        let options = ["--rm".to_owned(), "--mount".to_owned(), mount];
        let mut run = self.containerd.run(ID, &options, self.image());
        lab.start_daemon(ID, self.place.name, run.args(SLEEP))?;
        lab.wait_for("the container runs", || self.containerd.pid(ID))?;
        bind(directory, directory)?;
        mount_flags(directory, MsFlags::MS_SHARED | MsFlags::MS_REC)?;
        fs::write(file, "").with_context(|| format!("cannot make {}", file.display()))?;
        bind(&self.netns.path(), file)?;
        let inside = Path::new(NETNS).join("netns");
        self.wait_until_seen(lab, ID, file, &inside)?;
        self.containerd.signal(ID, "SIGTERM")?;
        lab.wait_for_end(&[ID])
    }

    /// Waits until a container has at `inside` what is at `outside`.
    fn wait_until_seen(&self, lab: &mut Cluster, id: &str, outside: &Path, inside: &Path) -> Result<()> {
        let inside = format!("/proc/{}/root{}", self.containerd.pid(id)?, inside.display());
        lab.wait_for("the namespace is seen", || {
            let identity = |file: fs::Metadata| (file.dev(), file.ino());
            let same = identity(fs::metadata(outside)?) == identity(fs::metadata(&inside)?);
            ensure!(same, "{inside} is another file");
            Ok(())
        })
    }
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot mount {}", to.display()))
}

fn mount_flags(path: &Path, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot change the mount {}", path.display()))
}

/// As the kubelet does it: any answer from 200 to 399 is a good one.
fn http_get(HttpGet { host, port, path }: &HttpGet) -> Result<()> {
    let mut stream = TcpStream::connect((host.as_str(), *port)).with_context(|| format!("{host}:{port}"))?;
    stream.set_read_timeout(Some(PROBE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("no answer to {path}"))?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    ensure!(matches!(status, Some(200..=399)), "{path}: {}", answer.trim());
    Ok(())
}

/// Compares a text of /proc/PID/status with the capabilities a process is to have.
fn verify_status(status: &str, wanted: &[String]) -> Result<()> {
    let fields: BTreeMap<_, _> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    let field = |name| fields.get(name).copied().with_context(|| format!("/proc has no {name}"));
    for (name, value) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Uid", "0\t0\t0\t0"), ("Gid", "0\t0\t0\t0")]
    {
        let found = field(name)?;
        ensure!(found == value, "{name} is {found}, and should be {value}");
    }
    let mask = wanted.iter().try_fold(0, |mask, name| anyhow::Ok(mask | 1_u64 << number(name)?))?;
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        let found = field(name)?;
        ensure!(u64::from_str_radix(found, 16) == Ok(mask), "{name} is {found}, and should be {mask:016x}");
    }
    Ok(())
}

/// The number of a capability (capability.h).
fn number(capability: &str) -> Result<u32> {
    Ok(match capability {
        "CAP_DAC_OVERRIDE" => 1,
        "CAP_NET_BIND_SERVICE" => 10,
        "CAP_NET_ADMIN" => 12,
        "CAP_NET_RAW" => 13,
        "CAP_SYS_ADMIN" => 21,
        other => bail!("the check does not know the number of {other}"),
    })
}

/// Reads /proc/PID/mountinfo.
fn root_is_read_only(mountinfo: &str) -> bool {
    let mut fields = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let root = fields.rfind(|fields| fields.get(4) == Some(&"/"));
    root.is_some_and(|fields| {
        fields.get(5).is_some_and(|options| options.split(',').any(|word| word == "ro"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_with_more_than_is_wanted_is_noticed() {
        let status = |capabilities: &str, privileges: &str| {
            format!(
                "Name:\tx\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapPrm:\t{capabilities}\nCapEff:\t{capabilities}\n\
                 CapBnd:\t{capabilities}\nNoNewPrivs:\t{privileges}\nSeccomp:\t2\n"
            )
        };
        let wanted = ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"].map(str::to_owned);
        verify_status(&status("0000000000201000", "1"), &wanted).unwrap();
        for (capabilities, privileges) in
            [("0000000000201001", "1"), ("0000000000001000", "1"), ("0000000000201000", "0")]
        {
            assert!(verify_status(&status(capabilities, privileges), &wanted).is_err());
        }
        assert!(verify_status("", &wanted).is_err());
    }

    #[test]
    fn root_that_can_be_written_to_is_noticed() {
        let line = |options: &str| {
            format!("9 8 0:1 / / {options} - overlay overlay rw\n10 9 0:2 / /proc ro - proc proc rw\n")
        };
        assert!(root_is_read_only(&line("ro,relatime")));
        assert!(!root_is_read_only(&line("rw,relatime")));
        assert!(!root_is_read_only(""));
    }
}
