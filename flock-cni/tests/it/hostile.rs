//! Whatever the runtime, the environment or the agent says: no panic, and a document that follows the
//! specification.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use flock_cni::plugin::Execution;
use flock_cni::rpc::{Limits, RpcError, call};
use flock_cni::wire::{Added, AddedIp, Failure, Reply};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::schema::{check_error, check_result, check_version};

/// Runs the plugin on values; gives back whether it succeeded, and stdout.
fn run(env: &[(String, Vec<u8>)], stdin: &[u8], answer: Result<Reply, RpcError>) -> (bool, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let answer = RefCell::new(Some(answer));
    let succeeded = Execution {
        env: &|variable| {
            let found = env.iter().find(|(name, _)| name == variable);
            found.map(|(_, value)| OsString::from_vec(value.clone()))
        },
        stdin: &|_| Ok(stdin.to_vec()),
        stdout: &mut stdout,
        stderr: &mut stderr,
        agent: &|_, _, _| answer.take().unwrap(),
    }
    .run();
    (succeeded, String::from_utf8(stdout).unwrap())
}

/// The document must follow the specification in the version it names.
fn check(command: &str, (succeeded, stdout): &(bool, String)) -> Result<(), TestCaseError> {
    if *succeeded && stdout.is_empty() {
        return Ok(());
    }
    let document: Value = serde_json::from_str(stdout).unwrap();
    let version = document["cniVersion"].as_str().unwrap();
    prop_assert!(["0.4.0", "1.0.0", "1.1.0"].contains(&version));
    let checked = match (succeeded, command) {
        (true, "VERSION") => check_version(version, &document),
        (true, _) => check_result(version, &document),
        (false, _) => check_error(version, &document),
    };
    prop_assert_eq!(checked, Ok(()));
    Ok(())
}

fn command() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"])
}

fn sound_env(command: &str) -> Vec<(String, Vec<u8>)> {
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/pod"),
    ]
    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    .to_vec()
}

/// JSON of all shapes, and values that come close to what the keys want.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            json!("0.4.0"),
            json!("1.1.0"),
            json!(1500),
            json!("/run/flock/agent.sock"),
            json!("192.0.2.1/32"),
            json!("2001:db8::1/129"),
            json!({ "containerID": "c0ffee", "ifname": "eth0" }),
            json!({ "io.kubernetes.cri.pod-annotations": { "a": "b" } }),
            json!({ "ips": [{ "address": "192.0.2.1/32", "interface": 1 }] }),
        ]),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key =
            prop::sample::select(vec!["ips", "interfaces", "address", "interface", "name", "search", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

fn configuration() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "cniVersion",
        "name",
        "agentSocket",
        "mtu",
        "dns",
        "prevResult",
        "runtimeConfig",
        "cni.dev/valid-attachments",
        "cni.dev/attachments",
    ]);
    prop::collection::vec((key, json_value()), 0..5).prop_map(|changes| {
        let mut keys: Map<String, Value> = Map::new();
        keys.insert("cniVersion".into(), json!("1.1.0"));
        keys.insert("name".into(), json!("pods"));
        keys.extend(changes.into_iter().map(|(key, value)| (key.to_owned(), value)));
        Value::Object(keys)
    })
}

fn reply() -> impl Strategy<Value = Result<Reply, RpcError>> {
    let ip = (any::<std::net::IpAddr>(), any::<std::net::IpAddr>())
        .prop_map(|(address, gateway)| AddedIp { address, gateway });
    let mac = prop::sample::select(vec!["02:00:5e:00:53:01", ""]);
    let added = (any::<u32>(), mac, prop::collection::vec(ip, 0..4)).prop_map(|(mtu, mac, ips)| {
        let mac = mac.to_owned();
        Reply::Added(Added { host_ifname: "flock0".into(), host_mac: mac.clone(), pod_mac: mac, mtu, ips })
    });
    let failure = (any::<u32>(), ".{0,30}", ".{0,30}")
        .prop_map(|(code, msg, details)| RpcError::Refused(Failure { code, msg, details }));
    prop_oneof![
        Just(()).prop_map(|()| Ok(Reply::Done)),
        added.prop_map(Ok),
        json_value().prop_map(|report| Ok(Reply::Report { report })),
        failure.prop_map(Err),
        Just(()).prop_map(|()| Err(RpcError::Gone)),
    ]
}

proptest! {
    #[test]
    fn any_bytes_on_stdin_are_survived(
        command in command(),
        stdin in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        check(command, &run(&sound_env(command), &stdin, Ok(Reply::Done)))?;
    }

    #[test]
    fn any_configuration_and_any_answer_are_survived(
        command in command(),
        configuration in configuration(),
        reply in reply(),
    ) {
        check(command, &run(&sound_env(command), configuration.to_string().as_bytes(), reply))?;
    }

    #[test]
    fn any_environment_is_survived(
        command in command(),
        values in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS", "CNI_PATH",
                ]),
                prop::collection::vec(any::<u8>(), 0..40),
            ),
            0..4,
        ),
    ) {
        let mut env: Vec<_> = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        env.extend(sound_env(command));
        check(command, &run(&env, br#"{"cniVersion":"1.1.0","name":"pods"}"#, Ok(Reply::Done)))?;
    }

    #[test]
    fn any_cni_args_are_survived(args in "(IgnoreUnknown|K8S_POD_(NAMESPACE|NAME|UID)|[=;]|\\PC|a){0,12}") {
        let mut env = sound_env("ADD");
        env.push(("CNI_ARGS".into(), args.into_bytes()));
        check("ADD", &run(&env, br#"{"cniVersion":"1.0.0","name":"pods"}"#, Ok(Reply::Done)))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_from_the_agent_are_survived(
        answer in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            json_value().prop_map(|value| format!("{{\"version\":1,\"ok\":{value}}}\n").into_bytes()),
            json_value().prop_map(|value| format!("{{\"version\":{value}}}\n").into_bytes()),
        ],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let writing = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The caller may hang up first.
            let _ = std::io::Write::write_all(&mut stream, &answer);
        });
        let minute = Duration::from_mins(1);
        let limits = Limits { dial: minute, restart: minute, answer: minute };
        let outcome = call(&path, &flock_cni::wire::Request::new(flock_cni::wire::Call::Status), limits);
        let timed_out = matches!(outcome, Err(RpcError::Timeout { .. }));
        prop_assert!(!timed_out);
        writing.join().unwrap();
    }
}
