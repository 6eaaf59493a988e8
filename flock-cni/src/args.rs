//! The environment of a CNI execution (CNI specification, "Parameters").

use std::ffi::OsString;
use std::fmt;

use crate::error::{CniError, code, shorten};
use crate::wire::{Attachment, Pod};

/// Reads one environment variable.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What a runtime asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// VERSION, the one verb that needs neither a configuration nor the agent.
    Version,
    /// The others.
    Network(Verb),
}

/// A verb with what it requires of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verb {
    Add(Target),
    /// The netns may be gone by then, and `CNI_ARGS` does not matter.
    Del(Attachment),
    Check(Target),
    Gc,
    Status,
}

impl Command {
    /// Reads the environment; `None` when `CNI_COMMAND` is unset or empty: then a person runs the plugin.
    ///
    /// `CNI_PATH` is not read, whatever the verb: flock executes no other plugin.
    pub(crate) fn from_env(env: Env<'_>) -> Result<Option<Self>, ArgsError> {
        const VARIABLE: &str = "CNI_COMMAND";
        let Some(command) = read(env, VARIABLE).map_err(|problem| ArgsError(vec![problem]))? else {
            return Ok(None);
        };
        let verb = match command.as_str() {
            "ADD" => Verb::Add(Target::from_env(env)?),
            "DEL" => Verb::Del(attachment_from_env(env)?),
            "CHECK" => Verb::Check(Target::from_env(env)?),
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => return Ok(Some(Self::Version)),
            other => {
                let problem =
                    Problem::new(VARIABLE, other, "is none of ADD, DEL, CHECK, GC, STATUS, VERSION");
                return Err(ArgsError(vec![problem]));
            }
        };
        Ok(Some(Self::Network(verb)))
    }
}

/// What ADD and CHECK need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) attachment: Attachment,
    pub(crate) netns: String,
    /// What `CNI_ARGS` says.
    pub(crate) args: PodArgs,
}

/// What `CNI_ARGS` says of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodArgs {
    /// The pod, where one is named.
    pub(crate) pod: Option<Pod>,
    /// Given by the runtimes of Kubernetes (CRI): they run the `loopback` plugin at the same time.
    pub(crate) loopback_runs: bool,
}

impl Target {
    fn from_env(env: Env<'_>) -> Result<Self, ArgsError> {
        let mut problems = Vec::new();
        let attachment = attachment(env, &mut problems);
        let netns = required(env, "CNI_NETNS", check_netns, &mut problems);
        let args = pod_args(env).unwrap_or_else(|problem| {
            problems.push(problem);
            PodArgs::default()
        });
        match (attachment, netns) {
            (Some(attachment), Some(netns)) if problems.is_empty() => Ok(Self { attachment, netns, args }),
            _ => Err(ArgsError(problems)),
        }
    }
}

fn attachment_from_env(env: Env<'_>) -> Result<Attachment, ArgsError> {
    let mut problems = Vec::new();
    attachment(env, &mut problems).ok_or(ArgsError(problems))
}

/// Everything that is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ArgsError(Vec<Problem>);

impl fmt::Display for ArgsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl From<ArgsError> for CniError {
    fn from(error: ArgsError) -> Self {
        Self::new(code::INVALID_ENVIRONMENT, &error.to_string())
    }
}

/// What is wrong with one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    variable: &'static str,
    /// Shortened; `None` when the variable is missing.
    value: Option<String>,
    reason: &'static str,
}

impl Problem {
    fn new(variable: &'static str, value: &str, reason: &'static str) -> Self {
        Self { variable, value: Some(shorten(value)), reason }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} {value:?} {}", self.variable, self.reason),
            None => write!(f, "{} {}", self.variable, self.reason),
        }
    }
}

/// The value of a variable; unset and empty are the same, as everywhere in CNI.
fn read(env: Env<'_>, variable: &'static str) -> Result<Option<String>, Problem> {
    match env(variable).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
        Some(Err(value)) => Err(Problem::new(variable, &value.to_string_lossy(), "is not UTF-8")),
    }
}

fn required(
    env: Env<'_>,
    variable: &'static str,
    check: impl Fn(&str) -> Result<(), &'static str>,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let value = read(env, variable).and_then(|value| {
        let value = value.ok_or(Problem { variable, value: None, reason: "is not set" })?;
        check(&value).map_err(|reason| Problem::new(variable, &value, reason))?;
        Ok(value)
    });
    value.map_err(|problem| problems.push(problem)).ok()
}

fn attachment(env: Env<'_>, problems: &mut Vec<Problem>) -> Option<Attachment> {
    let container_id = required(env, "CNI_CONTAINERID", check_id, problems);
    let ifname = required(env, "CNI_IFNAME", check_ifname, problems);
    Some(Attachment { container_id: container_id?, ifname: ifname? })
}

/// A container ID or network name of the specification: starts alphanumeric, then alphanumerics, `_`, `.`
/// and `-`.
pub(crate) fn check_id(value: &str) -> Result<(), &'static str> {
    if !value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("must start with a letter or a digit");
    }
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return Err("may hold letters, digits, '_', '.' and '-' only");
    }
    Ok(())
}

/// An interface name of the specification: what Linux takes (`dev_valid_name`).
pub(crate) fn check_ifname(value: &str) -> Result<(), &'static str> {
    const LONGEST: usize = 15;
    if value.is_empty() {
        return Err("is empty");
    }
    if value.len() > LONGEST {
        return Err("is longer than 15 bytes");
    }
    if value == "." || value == ".." {
        return Err("is reserved");
    }
    if value.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return Err("may not hold '/', ':', white space or control characters");
    }
    Ok(())
}

/// The agent opens the path, from a working directory of its own.
fn check_netns(value: &str) -> Result<(), &'static str> {
    if value.starts_with('/') { Ok(()) } else { Err("must be an absolute path") }
}

/// The pod `CNI_ARGS` names, `K=V` pairs joined by `;`. Keys flock does not know are passed over, with
/// `IgnoreUnknown` and without. A pod has a namespace and a name: podman gives `K8S_POD_NAME` alone to a
/// container that is no pod, so half a name is none.
fn pod_args(env: Env<'_>) -> Result<PodArgs, Problem> {
    let variable = "CNI_ARGS";
    let Some(text) = read(env, variable)? else { return Ok(PodArgs::default()) };
    let (mut namespace, mut name, mut uid, mut infra_container) = (None, None, None, None);
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Problem::new(variable, pair, "is not written as KEY=VALUE;KEY=VALUE"));
        };
        let slot = match key {
            "K8S_POD_NAMESPACE" => &mut namespace,
            "K8S_POD_NAME" => &mut name,
            "K8S_POD_UID" => &mut uid,
            "K8S_POD_INFRA_CONTAINER_ID" => &mut infra_container,
            _ => continue,
        };
        *slot = Some(value.to_owned()).filter(|value| !value.is_empty());
    }
    let pod = namespace.zip(name).map(|(namespace, name)| Pod { namespace, name, uid });
    Ok(PodArgs { pod, loopback_runs: infra_container.is_some() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn env_of(pairs: &[(&str, &[u8])]) -> impl Fn(&str) -> Option<OsString> {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), OsString::from_vec(value.to_vec())))
            .collect();
        move |key| pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    }

    const ID: (&str, &[u8]) = ("CNI_CONTAINERID", b"c0ffee");
    const IFNAME: (&str, &[u8]) = ("CNI_IFNAME", b"eth0");
    const NETNS: (&str, &[u8]) = ("CNI_NETNS", b"/run/netns/pod");

    #[test]
    fn command_is_one_of_six_or_a_person_runs_the_plugin() {
        let target = || Target {
            attachment: Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() },
            netns: "/run/netns/pod".into(),
            args: PodArgs::default(),
        };
        let read =
            |command: &[u8]| Command::from_env(&env_of(&[("CNI_COMMAND", command), ID, IFNAME, NETNS]));
        for (command, expect) in [
            (&b"ADD"[..], Verb::Add(target())),
            (b"DEL", Verb::Del(target().attachment)),
            (b"CHECK", Verb::Check(target())),
            (b"GC", Verb::Gc),
            (b"STATUS", Verb::Status),
        ] {
            assert_eq!(read(command), Ok(Some(Command::Network(expect))));
        }
        assert_eq!(read(b"VERSION"), Ok(Some(Command::Version)));
        assert_eq!(read(b""), Ok(None));
        assert_eq!(Command::from_env(&env_of(&[])), Ok(None));
        for (command, message) in [
            (&b"add"[..], r#"CNI_COMMAND "add" is none of ADD, DEL, CHECK, GC, STATUS, VERSION"#),
            (b"ADD ", r#"CNI_COMMAND "ADD " is none of ADD, DEL, CHECK, GC, STATUS, VERSION"#),
            (b"A\xff", "CNI_COMMAND \"A\u{fffd}\" is not UTF-8"),
        ] {
            assert_eq!(read(command).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn gc_status_and_version_need_nothing_but_the_command() {
        for command in [&b"GC"[..], b"STATUS", b"VERSION"] {
            assert!(Command::from_env(&env_of(&[("CNI_COMMAND", command)])).unwrap().is_some());
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let message = |pairs: &[_]| Target::from_env(&env_of(pairs)).unwrap_err().to_string();
        assert_eq!(message(&[]), "CNI_CONTAINERID is not set; CNI_IFNAME is not set; CNI_NETNS is not set");
        assert_eq!(
            message(&[
                ("CNI_CONTAINERID", b"-x"),
                ("CNI_IFNAME", b"a/b"),
                ("CNI_NETNS", b"netns/pod"),
                ("CNI_ARGS", b"K8S_POD_NAME\xff"),
            ]),
            "CNI_CONTAINERID \"-x\" must start with a letter or a digit; \
             CNI_IFNAME \"a/b\" may not hold '/', ':', white space or control characters; \
             CNI_NETNS \"netns/pod\" must be an absolute path; \
             CNI_ARGS \"K8S_POD_NAME\u{fffd}\" is not UTF-8"
        );
    }

    #[test]
    fn del_needs_neither_netns_nor_sound_cni_args() {
        let expect = Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() };
        for rest in [&[][..], &[("CNI_NETNS", &b""[..]), ("CNI_ARGS", b"\xff=;nonsense")]] {
            let pairs = [&[ID, IFNAME], rest].concat();
            assert_eq!(attachment_from_env(&env_of(&pairs)), Ok(expect.clone()));
        }
        assert_eq!(attachment_from_env(&env_of(&[ID])).unwrap_err().to_string(), "CNI_IFNAME is not set");
    }

    #[test]
    fn pod_comes_from_cni_args() {
        let pod = |namespace: &str, name: &str, uid: Option<&str>| {
            Some(Pod { namespace: namespace.into(), name: name.into(), uid: uid.map(Into::into) })
        };
        let cases = [
            ("", None),
            (";;", None),
            ("IgnoreUnknown=1", None),
            ("K8S_POD_NAME=web", None),
            ("K8S_POD_NAMESPACE=;K8S_POD_NAME=web", None),
            ("K8S_POD_UID=1-2", None),
            ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b", pod("a", "b", None)),
            ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=", pod("a", "b", None)),
            (
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns-0;K8S_POD_INFRA_CONTAINER_ID=c0;\
                 K8S_POD_UID=1-2;",
                pod("kube-system", "dns-0", Some("1-2")),
            ),
            ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b=c;X==;=", pod("a", "b=c", None)),
            ("K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=z;K8S_POD_NAME=b", pod("z", "b", None)),
        ];
        for (text, expect) in cases {
            let pairs = [ID, IFNAME, NETNS, ("CNI_ARGS", text.as_bytes())];
            let args = Target::from_env(&env_of(&pairs)).unwrap().args;
            assert_eq!(args.pod, expect, "{text}");
            assert_eq!(args.loopback_runs, text.contains("INFRA"), "{text}");
        }
    }

    #[test]
    fn names_follow_the_specification() {
        for good in ["a", "0af3", "A_b.c-d"] {
            assert_eq!(check_id(good), Ok(()), "{good:?}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä", "a\n", "a;b"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        for good in ["eth0", "a", "fifteen-letters", "net1.2"] {
            assert_eq!(check_ifname(good), Ok(()), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\0b", "sixteen-letters-"] {
            assert!(check_ifname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refused_value_is_shortened() {
        let long = "-".repeat(100_000);
        let pairs = [("CNI_CONTAINERID", long.as_bytes()), IFNAME];
        assert!(attachment_from_env(&env_of(&pairs)).unwrap_err().to_string().len() < 250);
    }
}
