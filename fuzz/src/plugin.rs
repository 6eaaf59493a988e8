//! One execution of the plugin without a process, an agent or a clock.

use std::cell::RefCell;
use std::ffi::OsString;
use std::net::IpAddr;

use flock_cni::plugin::Execution;
use flock_cni::rpc::RpcError;
use flock_cni::wire::{Call, Reply, Request};
use serde_json::Value;

/// Longest error document, in bytes: what a runtime logs for each attempt.
const LONGEST_ERROR: usize = 16 * 1024;

/// The `CNI_*` variables of an execution.
pub(crate) struct Environment<'a> {
    pub(crate) container_id: &'a [u8],
    pub(crate) ifname: &'a [u8],
    pub(crate) netns: &'a [u8],
    pub(crate) args: &'a [u8],
}

impl Environment<'_> {
    /// A sound one.
    pub(crate) const SOUND: Self = Self {
        container_id: b"c0ffee",
        ifname: b"eth0",
        netns: b"/run/netns/pod",
        args: b"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=0b2f-1",
    };

    fn get(&self, command: &str, variable: &str) -> Option<OsString> {
        use std::os::unix::ffi::OsStringExt;
        let value = match variable {
            "CNI_COMMAND" => command.as_bytes(),
            "CNI_CONTAINERID" => self.container_id,
            "CNI_IFNAME" => self.ifname,
            "CNI_NETNS" => self.netns,
            "CNI_ARGS" => self.args,
            _ => return None,
        };
        Some(OsString::from_vec(value.to_vec()))
    }
}

/// What an execution left behind.
pub(crate) struct Outcome {
    pub(crate) succeeded: bool,
    /// What it printed.
    pub(crate) document: Option<Value>,
    /// What it asked the agent.
    pub(crate) call: Option<Call>,
}

/// Executes the plugin and holds what it prints against the CNI specification.
pub(crate) fn execute(
    command: &str,
    environment: &Environment<'_>,
    stdin: &[u8],
    agent: &dyn Fn() -> Result<Reply, RpcError>,
) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let call = RefCell::new(None);
    let succeeded = Execution {
        env: &|variable| environment.get(command, variable),
        stdin: &|_| Ok(stdin.to_vec()),
        stdout: &mut stdout,
        stderr: &mut stderr,
        agent: &|_, request, _| {
            let line = serde_json::to_vec(request).unwrap();
            assert!(!line.contains(&b'\n'));
            assert_eq!(&serde_json::from_slice::<Request>(&line).unwrap(), request, "sent and read again");
            call.replace(Some(request.call.clone()));
            agent()
        },
    }
    .run();
    let text = String::from_utf8(stdout).expect("JSON is UTF-8");
    if !text.is_empty() {
        assert_eq!(text.find('\n'), Some(text.len() - 1), "one line: {text}");
    }
    let document: Option<Value> = (!text.is_empty()).then(|| serde_json::from_str(&text).expect("JSON"));
    if !succeeded {
        check_error(&text, &stderr, document.as_ref().expect("an error is printed"));
    }
    Outcome { succeeded, document, call: call.into_inner() }
}

fn check_error(text: &str, stderr: &[u8], error: &Value) {
    assert!(text.len() <= LONGEST_ERROR, "{} bytes: {text}", text.len());
    let version = error["cniVersion"].as_str().expect("a version");
    assert!(["0.4.0", "1.0.0", "1.1.0"].contains(&version), "{text}");
    assert_ne!(error["code"].as_u64().expect("a code"), 0, "{text}");
    assert!(!error["msg"].as_str().expect("a message").is_empty(), "{text}");
    // go-cni takes such a DEL for done.
    for phrase in ["not found", "no such file or directory"] {
        assert!(!text.to_ascii_lowercase().contains(phrase), "{text}");
    }
    let line = std::str::from_utf8(stderr).expect("text for people");
    assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
}

/// The addresses a result carries, in its order.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("ips");
    let texts = ips.iter().map(|ip| ip["address"].as_str().expect("an address"));
    texts.map(|text| text.split_once('/').expect("a length").0.parse().expect("an address")).collect()
}
