//! Every way an execution fails: code, words, exit status.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use flock_cni::wire::{Added, Outcome, Reply};
use serde_json::json;

use crate::agent::{FakeAgent, added, done, refused};
use crate::run::{conf, finish, verb};

/// The words of an error must hold each of these.
#[track_caller]
fn check((code, text): (u64, String), expect: u64, words: &[&str]) {
    assert_eq!(code, expect, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn environment_errors_have_code_4_and_name_every_variable() {
    let agent = FakeAgent::saying(done());
    let run = |name| verb(name, "1.0.0", agent.socket());
    let all = ["CNI_CONTAINERID is not set", "CNI_IFNAME is not set", "CNI_NETNS is not set"];
    for (name, count) in [("ADD", 3), ("CHECK", 3), ("DEL", 2)] {
        let run = run(name).without("CNI_CONTAINERID").without("CNI_IFNAME").env("CNI_NETNS", "");
        let error = run.go().error("1.1.0");
        assert_eq!(error.1, all[..count].join("; "));
        check(error, 4, &[]);
    }
    let error = |run: crate::run::Run| run.go().error("1.1.0");
    check(error(run("ADD").env("CNI_COMMAND", "ADDED")), 4, &["CNI_COMMAND", "ADDED"]);
    check(error(run("DEL").env("CNI_CONTAINERID", "../x")), 4, &["CNI_CONTAINERID", "../x"]);
    check(
        error(run("ADD").env("CNI_IFNAME", "way-too-long-name")),
        4,
        &["CNI_IFNAME", "longer than 15 bytes"],
    );
    check(error(run("ADD").env("CNI_ARGS", "A")), 4, &["CNI_ARGS"]);
    assert_eq!(agent.requests(), []);
}

#[test]
fn configuration_errors_have_their_codes() {
    let agent = FakeAgent::saying(done());
    let sound = conf("1.1.0", agent.socket());
    let with = |key: &str, value| {
        let mut conf = sound.clone();
        conf[key] = value;
        conf.to_string()
    };
    let too_long = " ".repeat((1 << 20) + 1);
    for (name, stdin, code, words) in [
        ("ADD", String::new(), 6, &["not a JSON object"][..]),
        ("DEL", "[]".into(), 6, &["not a JSON object"]),
        ("ADD", too_long, 5, &["1048576 bytes"]),
        ("ADD", with("cniVersion", json!("0.3.1")), 1, &["0.3.1", "0.4.0, 1.0.0, 1.1.0"]),
        ("DEL", with("cniVersion", json!(null)), 1, &["0.1.0"]),
        ("GC", with("cniVersion", json!("2.0.0")), 1, &["2.0.0"]),
        ("ADD", with("name", json!("")), 7, &["name"]),
        ("ADD", with("mtu", json!(100)), 7, &["mtu", "100", "1280"]),
        ("STATUS", with("mtu", json!(100)), 7, &["mtu", "100", "1280"]),
        (
            "DEL",
            with("agentSocket", json!("run/agent.sock")),
            7,
            &["agentSocket", "run/agent.sock", "absolute"],
        ),
        ("ADD", with("prevResult", json!({})), 7, &["prevResult", "first plugin"]),
        ("CHECK", sound.to_string(), 7, &["prevResult is missing"]),
        ("CHECK", with("prevResult", json!({ "ips": [{}] })), 7, &["prevResult"]),
        ("GC", sound.to_string(), 7, &["cni.dev/valid-attachments is missing"]),
        (
            "GC",
            with("cni.dev/valid-attachments", json!([{}])),
            7,
            &["cni.dev/valid-attachments", "containerID"],
        ),
    ] {
        let error = verb(name, "1.1.0", agent.socket()).stdin(stdin).go().error("1.1.0");
        check(error, code, words);
    }
    assert_eq!(agent.requests(), []);
}

#[test]
fn gc_and_status_are_refused_before_1_1_0() {
    let agent = FakeAgent::saying(done());
    for name in ["GC", "STATUS"] {
        for version in ["0.4.0", "1.0.0"] {
            let error = verb(name, version, agent.socket()).go().error(version);
            check(error, 1, &[&format!("CNI {version} has no {name}"), "1.1.0"]);
        }
    }
    assert_eq!(agent.requests(), []);
}

#[test]
fn errors_are_in_the_version_of_the_configuration() {
    let agent = FakeAgent::saying(refused(103, "the pod wants too much", "annotation x"));
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let error = verb("ADD", version, agent.socket()).go().error(version);
        assert_eq!(error, (103, "the pod wants too much; annotation x".into()));
    }
}

#[test]
fn refusal_of_the_agent_keeps_its_code_and_words() {
    for (name, code, msg) in [
        ("ADD", 11, "pod is not known yet"),
        ("DEL", 100, "cannot delete the link"),
        ("ADD", 3, "no such pod"),
    ] {
        let agent = FakeAgent::saying(refused(code.try_into().unwrap(), msg, ""));
        assert_eq!(verb(name, "1.0.0", agent.socket()).go().error("1.0.0"), (code, msg.into()));
    }
}

#[test]
fn del_error_never_says_what_runtimes_take_for_success() {
    for words in
        ["link not found", "Not Found", "x NOT FOUND y", "open: No such file or directory (os error 2)"]
    {
        let agent = FakeAgent::saying(refused(100, words, words));
        let outcome = verb("DEL", "1.0.0", agent.socket()).go();
        check(outcome.error("1.0.0"), 100, &[]);
        let all = format!("{}{}", outcome.stdout, outcome.stderr).to_ascii_lowercase();
        assert!(!all.contains("not found") && !all.contains("no such file"), "{all}");
    }
    let dir = tempfile::tempdir().unwrap();
    let run = verb("DEL", "1.0.0", &dir.path().join("not found")).env("CNI_NETNS", "");
    let outcome = run.go();
    check(outcome.error("1.0.0"), 11, &["is it running?"]);
    let all = format!("{}{}", outcome.stdout, outcome.stderr).to_ascii_lowercase();
    assert!(!all.contains("not found") && !all.contains("no such file"), "{all}");
    let outcome = verb("DEL", "1.0.0", Path::new("/x")).env("CNI_IFNAME", "not found").go();
    check(outcome.error("1.1.0"), 4, &["CNI_IFNAME"]);
    assert!(!outcome.stdout.contains("not found"), "{}", outcome.stdout);
}

#[test]
fn absent_agent_is_worth_another_try() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    for socket in [&dir.path().join("never"), &stale] {
        let error = verb("ADD", "1.0.0", socket).go().error("1.0.0");
        check(error, 11, &["flock-agent is not listening at", socket.to_str().unwrap(), "is it running?"]);
    }
}

#[test]
fn agent_that_starts_late_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let child = verb("DEL", "1.0.0", &socket).spawn();
    let agent = FakeAgent::start_at(&socket, dir, |_| crate::agent::Answer::Say(done()));
    finish(child).silent();
    assert_eq!(agent.requests().len(), 1);
}

#[test]
fn socket_that_can_never_work_is_an_io_error() {
    let error = verb("ADD", "1.0.0", Path::new("/dev/null/agent.sock")).go().error("1.0.0");
    check(error, 5, &["cannot connect to flock-agent at /dev/null/agent.sock"]);
}

#[test]
fn broken_answer_is_told_apart() {
    let line = r#"{"version":1,"ok":{"kind":"done"}}"#;
    let long = vec![b'x'; flock_cni::wire::MAX_RESPONSE + 1];
    for (answer, code, words) in [
        (&b""[..], 11, "closed the connection before it answered"),
        (line.as_bytes(), 11, "closed the connection before it answered"),
        (&line.as_bytes()[..20], 11, "closed the connection before it answered"),
        (b"\n", 101, "makes no sense"),
        (b"\xff\xfe\n", 101, "makes no sense"),
        (b"{}\n", 101, "makes no sense"),
        (b"{\"version\":1}\n", 101, "makes no sense"),
        (b"{\"version\":1,\"ok\":{\"kind\":\"teapot\"}}\n", 101, "makes no sense"),
        (
            b"{\"version\":2,\"fine\":true}\n",
            101,
            "speaks version 2 of the plugin protocol, this plugin version 1",
        ),
        (&long, 101, "bytes"),
    ] {
        let agent = FakeAgent::writing(answer);
        check(verb("DEL", "1.0.0", agent.socket()).go().error("1.0.0"), code, &[words]);
    }
}

#[test]
fn answer_to_another_question_is_refused() {
    let add = || Outcome::Ok(Reply::Added(added()));
    let naked = || Outcome::Ok(Reply::Added(Added { ips: vec![], ..added() }));
    for (name, answer) in [("ADD", done()), ("ADD", naked()), ("DEL", add())] {
        let agent = FakeAgent::saying(answer);
        check(verb(name, "1.0.0", agent.socket()).go().error("1.0.0"), 101, &["flock-agent"]);
    }
}

#[test]
fn first_line_of_the_answer_counts() {
    let agent = FakeAgent::writing(b"{\"version\":1,\"ok\":{\"kind\":\"done\"}}\ngarbage\n");
    verb("DEL", "1.0.0", agent.socket()).go().silent();
}

#[test]
fn result_that_nobody_reads_is_a_failure_without_a_panic() {
    let agent = FakeAgent::saying(Outcome::Ok(Reply::Added(added())));
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let outcome = verb("ADD", "1.0.0", agent.socket()).stdout(writer).go();
    assert_eq!(outcome.status, Some(1));
    assert!(outcome.stderr.starts_with("flock: cannot write to stdout"), "{}", outcome.stderr);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let run = verb("ADD", "0.3.1", agent.socket()).stdout(writer.try_clone().unwrap()).stderr(writer);
    assert_eq!(run.go().status, Some(1));
}
