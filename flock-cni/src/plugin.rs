//! One execution of the plugin, from the environment to the exit status.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::args::{Command, Env, PodArgs, Target, Verb};
use crate::error::{CniError, code};
use crate::netconf::{AddConf, NetConf};
use crate::result::AddResult;
use crate::rpc::{Limits, RpcError};
use crate::version::SpecVersion;
use crate::wire::{Add, Call, Check, Gc, Reply, Request};

/// How long a runtime may take to write the network configuration and close stdin.
const STDIN: Duration = Duration::from_secs(10);

/// The same for VERSION, which can answer without; a person at a terminal gives none.
const VERSION_STDIN: Duration = Duration::from_secs(1);

/// What the plugin is and how it is used, for a person who runs it.
pub fn about() -> String {
    format!(
        "flock {} - CNI plugin of flock\n\
         \n\
         A container runtime executes it with CNI_COMMAND set to ADD, DEL, CHECK, GC, STATUS or VERSION,\n\
         the other CNI_* variables, and a network configuration on stdin. It hands the request to\n\
         flock-agent on this node and prints the result, or an error, as JSON.\n\
         \n\
         CNI versions: {}\n\
         Exit status:  0 success, 1 a CNI error on stdout, 2 an unknown argument\n",
        env!("CARGO_PKG_VERSION"),
        SpecVersion::list()
    )
}

/// The world of one execution: the process's own in the binary, values in tests.
pub struct Execution<'a> {
    /// Reads one environment variable.
    pub env: Env<'a>,
    /// Reads stdin to its end, within a time: [`stdin::read`](crate::stdin::read).
    pub stdin: &'a dyn Fn(Duration) -> io::Result<Vec<u8>>,
    /// Takes the result or the error.
    pub stdout: &'a mut dyn Write,
    /// For people.
    pub stderr: &'a mut dyn Write,
    /// Asks the agent: [`rpc::call`](crate::rpc::call).
    pub agent: &'a dyn Fn(&Path, &Request, Limits) -> Result<Reply, RpcError>,
}

/// As in [`Execution::stdin`].
type Stdin<'a> = &'a dyn Fn(Duration) -> io::Result<Vec<u8>>;

/// As in [`Execution::agent`].
type Agent<'a> = &'a dyn Fn(&Path, &Request, Limits) -> Result<Reply, RpcError>;

impl Execution<'_> {
    /// Does what `CNI_COMMAND` says. True when all went well, which includes that the result could be
    /// written; without `CNI_COMMAND` a text for people goes to stderr, as with other plugins.
    pub fn run(self) -> bool {
        let Self { env, stdin, stdout, stderr, agent } = self;
        let outcome = match Command::from_env(env) {
            Ok(None) => return stderr.write_all(about().as_bytes()).is_ok(),
            Ok(Some(Command::Version)) => {
                version_document(stdin).map_err(|error| (SpecVersion::NEWEST, error))
            }
            Ok(Some(Command::Network(verb))) => answer(verb, stdin, agent),
            Err(error) => Err((SpecVersion::NEWEST, error.into())),
        };
        let succeeded = outcome.is_ok();
        let document = outcome.unwrap_or_else(|(version, error)| {
            // Whether or not anybody reads stderr, the JSON on stdout is what counts.
            let _ = writeln!(stderr, "flock: CNI error {}: {}", error.code(), error.text());
            error.to_json(version) + "\n"
        });
        match stdout.write_all(document.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => succeeded,
            Err(error) => {
                let _ = writeln!(stderr, "flock: cannot write to stdout: {error}");
                false
            }
        }
    }
}

/// What goes to stdout, or the error and the version to write it in.
fn answer(verb: Verb, stdin: Stdin<'_>, agent: Agent<'_>) -> Result<String, (SpecVersion, CniError)> {
    let conf = read_conf(stdin, STDIN).map_err(|error| (SpecVersion::NEWEST, error))?;
    perform(verb, &conf, agent).map_err(|error| (conf.version(), error))
}

/// Turns a verb into a request to the agent and its answer into what goes to stdout.
fn perform(verb: Verb, conf: &NetConf, agent: Agent<'_>) -> Result<String, CniError> {
    let socket = conf.socket()?;
    let ask = |call, limits| agent(&socket, &Request::new(call), limits).map_err(CniError::from);
    match verb {
        Verb::Add(Target { attachment, netns, args: PodArgs { pod, loopback_runs } }) => {
            let AddConf { mtu, dns, annotations } = conf.add()?;
            let (attached, inside) = (attachment.clone(), netns.clone());
            let add = Add { attachment: attached, netns: inside, pod, annotations, mtu, loopback_runs };
            match ask(Call::Add(add), Limits::DEFAULT)? {
                Reply::Added(added) => {
                    document(&AddResult::new(conf.version(), &added, &attachment.ifname, &netns, dns)?)
                }
                _ => Err(odd_reply()),
            }
        }
        Verb::Del(attachment) => nothing(&ask(Call::Del(attachment), Limits::DEFAULT)?),
        Verb::Check(Target { attachment, netns, .. }) => {
            let expected = conf.check(&attachment.ifname)?;
            nothing(&ask(Call::Check(Check { attachment, netns, expected }), Limits::DEFAULT)?)
        }
        Verb::Gc => match conf.gc()? {
            None => Ok(String::new()),
            Some(keep) => nothing(&ask(Call::Gc(Gc { keep }), Limits::DEFAULT)?),
        },
        Verb::Status => {
            conf.status()?;
            // Whatever keeps the agent from saying "ready" is a reason not to send pods here.
            let outcome = ask(Call::Status, Limits::STATUS).and_then(|reply| nothing(&reply));
            outcome.map_err(|error| error.with_code(code::NOT_READY))
        }
    }
}

/// The output of a verb without a result.
fn nothing(reply: &Reply) -> Result<String, CniError> {
    match reply {
        Reply::Done => Ok(String::new()),
        _ => Err(odd_reply()),
    }
}

fn odd_reply() -> CniError {
    CniError::new(code::WIRE, "flock-agent gave the answer to another question")
}

fn document(content: &impl Serialize) -> Result<String, CniError> {
    match serde_json::to_string(content) {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(CniError::new(code::INTERNAL, &format!("cannot write the result: {error}"))),
    }
}

fn read_conf(stdin: Stdin<'_>, budget: Duration) -> Result<NetConf, CniError> {
    let bytes = stdin(budget).map_err(|error| {
        CniError::new(code::IO_FAILURE, &format!("cannot read the network configuration from stdin: {error}"))
    })?;
    Ok(NetConf::parse(&bytes)?)
}

/// The answer to VERSION: in the version the runtime gives on stdin, as the specification asks, else in the
/// newest of ours.
fn version_document(stdin: Stdin<'_>) -> Result<String, CniError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        cni_version: SpecVersion,
        supported_versions: [SpecVersion; 3],
    }
    let cni_version = read_conf(stdin, VERSION_STDIN).map_or(SpecVersion::NEWEST, |conf| conf.version());
    document(&Versions { cni_version, supported_versions: SpecVersion::ALL })
}
