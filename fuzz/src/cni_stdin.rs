//! What a container runtime hands to the plugin: the network configuration on standard input, and `CNI_*`.

use flock_cni::wire::{Added, AddedIp, Call, Reply};
use serde_json::{Value, json};

use crate::plugin::{Environment, addresses, execute};

/// Executes every verb with the bytes on standard input. Where they hold a NUL, once more with what is before it
/// on standard input and the rest, cut at each NUL, as `CNI_ARGS`, `CNI_CONTAINERID`, `CNI_IFNAME` and
/// `CNI_NETNS`.
pub fn run(data: &[u8]) {
    verbs(&Environment::SOUND, data);
    let mut parts = data.split(|byte| *byte == 0);
    let stdin = parts.next().unwrap_or_default();
    if let Some(args) = parts.next() {
        let sound = Environment::SOUND;
        let environment = Environment {
            args,
            container_id: parts.next().unwrap_or(sound.container_id),
            ifname: parts.next().unwrap_or(sound.ifname),
            netns: parts.next().unwrap_or(sound.netns),
        };
        verbs(&environment, stdin);
    }
}

fn verbs(environment: &Environment<'_>, stdin: &[u8]) {
    let done = || Ok(Reply::Done);
    let add = execute("ADD", environment, stdin, &|| Ok(Reply::Added(added())));
    if let (true, Some(result)) = (add.succeeded, &add.document) {
        assert!(matches!(add.call, Some(Call::Add(_))));
        check_after_add(environment, result);
    }
    for verb in ["DEL", "CHECK", "STATUS", "GC"] {
        let outcome = execute(verb, environment, stdin, &done);
        assert!(!outcome.succeeded || outcome.document.is_none(), "{verb} has no result");
        // What a runtime cannot be told to keep, nobody may remove.
        if let Some(Call::Gc(gc)) = outcome.call {
            let conf: Value = serde_json::from_slice(stdin).expect("a configuration");
            let lists = ["cni.dev/valid-attachments", "cni.dev/attachments"].map(|key| &conf[key]);
            let list = lists.iter().find_map(|list| list.as_array()).expect("a list");
            assert_eq!(gc.keep.len(), list.len());
        }
    }
    let version = execute("VERSION", environment, stdin, &done);
    assert!(version.succeeded && version.call.is_none());
    let versions = &version.document.expect("versions")["supportedVersions"];
    assert_eq!(versions, &json!(["0.4.0", "1.0.0", "1.1.0"]));
}

/// What the agent is made to answer: addresses in an order the result must change.
fn added() -> Added {
    let ip = |address: &str, gateway: &str| AddedIp {
        address: address.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    Added {
        host_ifname: "flock7ac7509f".to_owned(),
        host_mac: "02:00:00:00:00:01".to_owned(),
        pod_mac: "02:00:00:00:00:02".to_owned(),
        mtu: 1500,
        ips: vec![ip("192.0.2.7", "169.254.1.1"), ip("2001:db8::7", "fe80::1")],
    }
}

/// A CHECK with the result of the ADD asks the agent for exactly the addresses in it.
fn check_after_add(environment: &Environment<'_>, result: &Value) {
    let conf = json!({ "cniVersion": result["cniVersion"], "name": "pods", "prevResult": result });
    let check = execute("CHECK", environment, conf.to_string().as_bytes(), &|| Ok(Reply::Done));
    match check.call {
        Some(Call::Check(call)) => assert_eq!(call.expected, addresses(result)),
        other => panic!("CHECK asked {other:?}"),
    }
}
