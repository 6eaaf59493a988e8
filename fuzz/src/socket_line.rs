//! A line of the agent's socket: a request as the agent reads it, an answer as the plugin does.

use flock_cni::rpc::RpcError;
use flock_cni::wire::{Add, Attachment, Call, Flow, Outcome, Reply, Request, Response};
use flock_core::ids::{AttachmentId, ContainerId, IfName, PodKey, PodUid};
use flock_core::policy::{FlowEnd, Service};
use flock_core::ports::NetnsPath;
use serde_json::Value;

use crate::annotation;
use crate::plugin::{Environment, addresses, execute};

/// What one problem with a name may come to, in bytes.
const LONGEST_PROBLEM: usize = 2048;

/// Takes the bytes as a request and as an answer.
pub fn run(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let line = serde_json::to_vec(&request).unwrap();
        assert_eq!(serde_json::from_slice::<Request>(&line).unwrap(), request, "sent and read again");
        check_call(request.call);
    }
    if let Ok(response) = serde_json::from_slice::<Response>(data) {
        let line = serde_json::to_vec(&response).unwrap();
        let again = serde_json::from_slice::<Response>(&line).unwrap();
        if !has_fraction(&response.outcome) {
            assert_eq!(again, response, "sent and read again");
        }
        check_answer(&response.outcome);
    }
}

/// The core's own types, made the way the agent makes them.
fn check_call(call: Call) {
    match call {
        Call::Add(add) => {
            check_attachment(&add.attachment);
            check_add(&add);
        }
        Call::Del(attachment) => check_attachment(&attachment),
        Call::Check(check) => {
            check_attachment(&check.attachment);
            check_netns(&check.netns);
        }
        Call::Gc(gc) => gc.keep.iter().for_each(check_attachment),
        Call::Explain(pod) => {
            parsed(PodKey::new(&pod.namespace, &pod.name));
        }
        Call::Flow(flow) => check_flow(&flow),
        Call::Status | Call::Report => {}
    }
}

/// What is read prints as something that reads the same, and a refusal is no longer than a message should be.
fn check_flow(flow: &Flow) {
    for end in [&flow.from, &flow.to] {
        match end.parse::<FlowEnd>() {
            Ok(end) => assert_eq!(end.to_string().parse(), Ok(end)),
            Err(error) => assert!(error.to_string().len() < 1000),
        }
    }
    match flow.service.parse::<Service>() {
        Ok(service) => assert_eq!(service.to_string().parse(), Ok(service)),
        Err(error) => assert!(error.to_string().len() < 1000),
    }
}

fn check_add(add: &Add) {
    check_netns(&add.netns);
    if let Some(pod) = &add.pod {
        if let Some(key) = parsed(PodKey::new(&pod.namespace, &pod.name)) {
            assert_eq!(PodKey::parse(&key.to_string()).as_ref(), Ok(&key));
        }
        if let Some(uid) = pod.uid.as_deref().and_then(|uid| parsed(PodUid::parse(uid))) {
            assert_eq!(PodUid::parse(uid.as_str()).as_ref(), Ok(&uid));
        }
    }
    if let Some(annotations) = &add.annotations {
        annotation::check(annotations);
    }
}

fn check_attachment(wire: &Attachment) {
    let container = parsed(ContainerId::parse(&wire.container_id));
    let ifname = parsed(IfName::parse(&wire.ifname));
    if let (Some(container), Some(ifname)) = (container, ifname) {
        let id = AttachmentId::new(container, ifname);
        assert_eq!(AttachmentId::parse(&id.to_string()).as_ref(), Ok(&id));
        let host = id.host_ifname();
        assert_eq!(IfName::parse(host.as_str()).as_ref(), Ok(&host));
    }
}

fn check_netns(path: &str) {
    if let Some(netns) = parsed(NetnsPath::parse(path)) {
        assert_eq!(netns.to_string(), path);
    }
}

/// The value, or nothing where the error is short enough for a person.
fn parsed<T>(result: Result<T, impl std::fmt::Display>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() <= LONGEST_PROBLEM, "{} bytes: {text}", text.len());
            None
        }
    }
}

/// Whatever the agent answers, the runtime gets a result or an error of the specification.
fn check_answer(outcome: &Outcome) {
    if let Outcome::Error(failure) = outcome
        && failure.msg.len() + failure.details.len() > LONGEST_PROBLEM
    {
        // The agent is trusted to be brief; the plugin hands on what it says.
        return;
    }
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let conf = serde_json::json!({ "cniVersion": version, "name": "pods" }).to_string();
        let agent = || match outcome.clone() {
            Outcome::Ok(reply) => Ok(reply),
            Outcome::Error(failure) => Err(RpcError::Refused(failure)),
        };
        let add = execute("ADD", &Environment::SOUND, conf.as_bytes(), &agent);
        if let (true, Some(result)) = (add.succeeded, &add.document) {
            let Outcome::Ok(Reply::Added(added)) = outcome else { panic!("a result of {outcome:?}") };
            let given = addresses(result);
            assert_eq!(given.len(), added.ips.len());
            assert!(given.is_sorted_by_key(std::net::IpAddr::is_ipv4), "IPv6 first: {given:?}");
            assert!(added.ips.iter().all(|ip| given.contains(&ip.address)));
        }
        let del = execute("DEL", &Environment::SOUND, conf.as_bytes(), &agent);
        assert_eq!(del.succeeded, matches!(outcome, Outcome::Ok(Reply::Done)));
    }
}

/// Whether a report holds a number that is not whole: its last digit may change when it is read again.
fn has_fraction(outcome: &Outcome) -> bool {
    fn look(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.is_f64(),
            Value::Array(items) => items.iter().any(look),
            Value::Object(items) => items.values().any(look),
            _ => false,
        }
    }
    matches!(outcome, Outcome::Ok(Reply::Report { report }) if look(report))
}
