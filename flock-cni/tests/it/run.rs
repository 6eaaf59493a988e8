//! Executing the plugin as a container runtime does.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::schema;

/// One execution to be.
pub(crate) struct Run {
    command: Command,
    stdin: Vec<u8>,
}

/// How it went.
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The plugin with nothing set.
pub(crate) fn plugin() -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flock"));
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Run { command, stdin: Vec::new() }
}

/// The plugin with everything a verb may need, and an agent at `socket`.
pub(crate) fn verb(verb: &str, version: &str, socket: &Path) -> Run {
    plugin()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "c0ffee")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", "/run/netns/pod")
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(conf(version, socket).to_string())
}

/// A sound network configuration.
pub(crate) fn conf(version: &str, socket: &Path) -> Value {
    json!({ "cniVersion": version, "name": "pods", "type": "flock", "agentSocket": socket })
}

impl Run {
    pub(crate) fn env(mut self, variable: &str, value: &str) -> Self {
        self.command.env(variable, value);
        self
    }

    pub(crate) fn arg(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn without(mut self, variable: &str) -> Self {
        self.command.env_remove(variable);
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Starts the plugin, its whole stdin written and closed.
    pub(crate) fn spawn(mut self) -> Child {
        let mut child = self.command.spawn().unwrap();
        // A plugin that fails early does not read its stdin.
        let _ = child.stdin.take().unwrap().write_all(&self.stdin);
        child
    }

    pub(crate) fn go(self) -> Outcome {
        finish(self.spawn())
    }
}

pub(crate) fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Outcome {
    /// The document on stdout of a success.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.status, Some(0), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr, "");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// A success that prints nothing.
    #[track_caller]
    pub(crate) fn silent(&self) {
        assert_eq!((self.status, &*self.stdout, &*self.stderr), (Some(0), "", ""));
    }

    /// Code and text of a failure, whose document follows the specification.
    #[track_caller]
    pub(crate) fn error(&self, version: &str) -> (u64, String) {
        assert_eq!(self.status, Some(1), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.starts_with("flock: CNI error "), "{}", self.stderr);
        let document: Value = serde_json::from_str(&self.stdout).unwrap();
        schema::check_error(version, &document).unwrap();
        let text = |key| document.get(key).and_then(Value::as_str).unwrap_or_default();
        let separator = if text("details").is_empty() { "" } else { "; " };
        (document["code"].as_u64().unwrap(), format!("{}{separator}{}", text("msg"), text("details")))
    }
}
