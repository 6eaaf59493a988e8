//! Each verb, from the environment and stdin to the agent and back to stdout.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::Stdio;

use flock_cni::wire::{Add, Attachment, Call, Check, Gc, Outcome, Pod, Reply, Request};
use serde_json::json;

use crate::agent::{Answer, FakeAgent, added, done, refused};
use crate::run::{conf, finish, plugin, verb};
use crate::schema::{check_result, check_version};

const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

fn attachment() -> Attachment {
    Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() }
}

#[test]
fn add_tells_the_agent_everything_and_prints_the_result() {
    for version in VERSIONS {
        let agent = FakeAgent::saying(Outcome::Ok(Reply::Added(added())));
        let mut stdin = conf(version, agent.socket());
        stdin["mtu"] = json!(1400);
        stdin["dns"] = json!({ "nameservers": ["2001:db8::53"] });
        stdin["capabilities"] = json!({ "io.kubernetes.cri.pod-annotations": true });
        stdin["runtimeConfig"] = json!({ "io.kubernetes.cri.pod-annotations": { "example.org/a": "b" } });
        let run = verb("ADD", version, agent.socket())
            .env(
                "CNI_ARGS",
                "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0;K8S_POD_UID=1-2;K8S_POD_INFRA_CONTAINER_ID=c0",
            )
            .stdin(stdin.to_string());
        let result = run.go().document();
        check_result(version, &result).unwrap();
        assert_eq!(result["interfaces"][1]["sandbox"], "/run/netns/pod");
        assert_eq!(result["dns"], stdin["dns"]);
        let pod = Pod { namespace: "prod".into(), name: "web-0".into(), uid: Some("1-2".into()) };
        let add = Add {
            attachment: attachment(),
            netns: "/run/netns/pod".into(),
            pod: Some(pod),
            annotations: Some(BTreeMap::from([("example.org/a".into(), "b".into())])),
            mtu: Some(1400),
            loopback_runs: true,
        };
        assert_eq!(agent.requests(), [Request::new(Call::Add(add))]);
    }
}

#[test]
fn add_works_for_a_container_that_is_no_pod() {
    let agent = FakeAgent::saying(Outcome::Ok(Reply::Added(added())));
    let result = verb("ADD", "1.0.0", agent.socket()).without("CNI_PATH").go().document();
    check_result("1.0.0", &result).unwrap();
    assert!(result.get("dns").is_none());
    let add = Add {
        attachment: attachment(),
        netns: "/run/netns/pod".into(),
        pod: None,
        annotations: None,
        mtu: None,
        loopback_runs: false,
    };
    assert_eq!(agent.requests(), [Request::new(Call::Add(add))]);
}

#[test]
fn del_needs_neither_netns_nor_a_sound_configuration() {
    let agent = FakeAgent::saying(done());
    let unsound = json!({
        "cniVersion": "1.0.0", "agentSocket": agent.socket(), "mtu": 1, "dns": [], "prevResult": "gone",
        "runtimeConfig": 7,
    });
    for version in VERSIONS {
        verb("DEL", version, agent.socket()).go().silent();
    }
    verb("DEL", "1.0.0", agent.socket()).without("CNI_NETNS").go().silent();
    verb("DEL", "1.0.0", agent.socket()).env("CNI_NETNS", "").go().silent();
    verb("DEL", "1.0.0", agent.socket()).env("CNI_ARGS", "nonsense").stdin(unsound.to_string()).go().silent();
    assert_eq!(agent.requests(), vec![Request::new(Call::Del(attachment())); 6]);
}

#[test]
fn check_sends_the_addresses_add_returned() {
    for version in VERSIONS {
        let agent = FakeAgent::start(|request| {
            Answer::Say(if matches!(request.call, Call::Add(_)) {
                Outcome::Ok(Reply::Added(added()))
            } else {
                done()
            })
        });
        let mut stdin = conf(version, agent.socket());
        stdin["prevResult"] = verb("ADD", version, agent.socket()).go().document();
        verb("CHECK", version, agent.socket()).stdin(stdin.to_string()).go().silent();
        let expected = added().ips.iter().map(|ip| ip.address).collect();
        let check = Check { attachment: attachment(), netns: "/run/netns/pod".into(), expected };
        assert_eq!(agent.requests().last(), Some(&Request::new(Call::Check(check))));
    }
}

#[test]
fn gc_sends_what_to_keep() {
    let agent = FakeAgent::saying(done());
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        for keep in [vec![], vec![attachment()]] {
            let mut stdin = conf("1.1.0", agent.socket());
            stdin[key] = keep
                .iter()
                .map(|kept: &Attachment| json!({ "containerID": kept.container_id, "ifname": kept.ifname }))
                .collect();
            plugin().env("CNI_COMMAND", "GC").stdin(stdin.to_string()).go().silent();
            assert_eq!(agent.requests().last(), Some(&Request::new(Call::Gc(Gc { keep }))));
        }
    }
}

#[test]
fn gc_with_a_null_list_removes_nothing() {
    let agent = FakeAgent::saying(done());
    let mut stdin = conf("1.1.0", agent.socket());
    stdin["cni.dev/valid-attachments"] = json!(null);
    stdin["cni.dev/attachments"] = json!(null);
    plugin().env("CNI_COMMAND", "GC").stdin(stdin.to_string()).go().silent();
    assert_eq!(agent.requests(), []);
}

#[test]
fn status_says_what_the_agent_says() {
    let agent = FakeAgent::saying(done());
    plugin().env("CNI_COMMAND", "STATUS").stdin(conf("1.1.0", agent.socket()).to_string()).go().silent();
    assert_eq!(agent.requests(), [Request::new(Call::Status)]);
    let agent = FakeAgent::saying(refused(50, "waiting for the node configuration", ""));
    let error = verb("STATUS", "1.1.0", agent.socket()).go().error("1.1.0");
    assert_eq!(error, (50, "waiting for the node configuration".into()));
}

#[test]
fn status_is_not_ready_when_the_agent_is_silent_or_absent() {
    let agent = FakeAgent::start(|_| Answer::Hang);
    let (code, text) = verb("STATUS", "1.1.0", agent.socket()).go().error("1.1.0");
    assert_eq!((code, text), (50, "flock-agent did not answer within 2000 ms".into()));
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = verb("STATUS", "1.1.0", &dir.path().join("absent")).go().error("1.1.0");
    assert_eq!(code, 50);
    assert!(text.starts_with("flock-agent is not listening at "), "{text}");
}

#[test]
fn version_is_answered_without_the_agent() {
    for (stdin, answer) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"1.0.0"}"#, "1.0.0"),
        (r#"{"cniVersion":"1.1.0"}"#, "1.1.0"),
        (r#"{"cniVersion":"9.0.0"}"#, "1.1.0"),
        ("{}", "1.1.0"),
        ("", "1.1.0"),
        ("garbage", "1.1.0"),
    ] {
        let document = plugin().env("CNI_COMMAND", "VERSION").stdin(stdin).go().document();
        check_version(answer, &document).unwrap();
        assert_eq!(document["supportedVersions"], json!(VERSIONS));
    }
}

#[test]
fn version_is_answered_while_stdin_stays_open() {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"{").unwrap();
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_flock"))
        .env("CNI_COMMAND", "VERSION")
        .stdin(reader)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check_version("1.1.0", &finish(child).document()).unwrap();
    drop(writer);
}

#[test]
fn person_who_runs_the_plugin_is_told_what_it_is() {
    for run in [plugin(), plugin().env("CNI_COMMAND", "")] {
        let outcome = run.go();
        assert_eq!((outcome.status, &*outcome.stdout), (Some(0), ""));
        assert!(outcome.stderr.contains("CNI versions: 0.4.0, 1.0.0, 1.1.0"), "{}", outcome.stderr);
    }
    for (argument, expect) in
        [("--version", "flock "), ("-V", "flock "), ("--help", "CNI_COMMAND"), ("-h", "CNI_COMMAND")]
    {
        let outcome = plugin().arg(argument).go();
        assert_eq!((outcome.status, &*outcome.stderr), (Some(0), ""));
        assert!(outcome.stdout.contains(expect), "{}", outcome.stdout);
    }
    let outcome = plugin().arg("--frobnicate").go();
    assert_eq!((outcome.status, &*outcome.stdout), (Some(2), ""));
    assert_eq!(outcome.stderr, "flock: unknown argument \"--frobnicate\"; try flock --help\n");
}
