//! What surrounds the agent goes wrong: disk, manifests, namespaces, a second agent, a reboot.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use flock_cni::error::code;
use nix::sys::signal::Signal;

use crate::cluster::install;
use crate::harness::{TestNode, addresses, eventually, plain_add};
use crate::netns::{Netns, netns_available};
use crate::object::{node_config, node_config_of};

/// The state cannot be written: no ADD succeeds or leaves anything, a pod can go, and once it can be written all is as if
/// nothing had been.
fn state_cannot_be_written(node: &TestNode, break_it: impl FnOnce(), mend_it: impl FnOnce()) {
    let (old, new) = (Netns::new(), Netns::new());
    let before = node.add("before", &old).unwrap();
    break_it();
    for _ in 0..3 {
        let error = node.add("c1", &new).unwrap_err();
        assert_eq!(error.code(), code::TRY_AGAIN, "{error}");
        assert!(error.to_string().contains("allocations.json"), "{error}");
    }
    assert_eq!(node.report()["allocations"].as_array().unwrap().len(), 1);
    node.assert_reached(addresses(&before));
    node.del("before").unwrap();
    node.assert_empty();
    node.kill();
    node.start();
    node.wait_ready();
    // As the file has it, until the leak is swept or the runtime says DEL again.
    assert_eq!(node.report()["allocations"].as_array().unwrap().len(), 1);
    node.del("before").unwrap();
    node.assert_empty();
    mend_it();
    let written = || fs::read_to_string(node.state_file()).unwrap();
    eventually("the release is written", || !written().contains("before"), written);
    let added = node.add("c1", &new).unwrap();
    node.assert_reached(addresses(&added));
    node.kill();
    node.start();
    node.wait_ready();
    assert_eq!(node.report()["allocations"].as_array().unwrap().len(), 1);
    assert_eq!(node.add("c1", &new).unwrap(), added);
    node.del("c1").unwrap();
    node.assert_empty();
}

#[test]
fn while_the_state_file_cannot_be_made_nothing_is_attached() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let blocker = node.state_file().with_extension("json.tmp");
    state_cannot_be_written(
        &node,
        || fs::create_dir(&blocker).unwrap(),
        || fs::remove_dir(&blocker).unwrap(),
    );
}

#[test]
fn while_the_disk_is_full_nothing_is_attached() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    node.put(&node_config());
    let state = node.state_file().parent().unwrap().to_owned();
    fs::create_dir(&state).unwrap();
    let mounts = Command::new("unshare").args(["--mount", "true"]).status();
    let mounts = mounts.is_ok_and(|status| status.success());
    if !flock_core::testing::require("mount namespaces", mounts) {
        return;
    }
    // Seen by the agent alone, and gone with it.
    let agent = node.command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=64k flock \"$0\" && exec \"$@\"").arg(&state);
    command.arg(agent.get_program()).args(agent.get_args());
    node.start_as(command);
    node.wait_ready();
    let pod = Netns::new();
    let before = node.add("before", &pod).unwrap();

    let inside = PathBuf::from(format!("/proc/{}/root", node.pid())).join(state.strip_prefix("/").unwrap());
    let filler = inside.join("filler");
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err(), "64 KiB are enough for a MiB");
    let other = Netns::new();
    let error = node.add("c1", &other).unwrap_err();
    assert_eq!(error.code(), code::TRY_AGAIN);
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(!node.log().contains("could not take back"), "its addresses are free: {}", node.log());
    let text = fs::read_to_string(inside.join("allocations.json")).unwrap();
    assert!(text.contains("before/eth0") && !text.contains("c1/eth0"), "{text}");
    fs::remove_file(filler).unwrap();
    node.add("c1", &other).unwrap();
    node.assert_reached(addresses(&before));
    node.del("before").unwrap();
    node.del("c1").unwrap();
    node.assert_empty();
}

#[test]
fn a_file_that_cannot_be_read_is_reported_and_its_objects_stay() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let file = node.cluster.directory().join("node.yaml");
    install(&file, &node_config().to_string());
    node.start();
    node.wait_ready();
    install(&file, "kind: [NodeConfig\n");
    let problems = || node.report()["problems"].to_string();
    eventually("the file is reported", || problems().contains("node.yaml"), problems);
    node.add("c1", &Netns::new()).unwrap();
    assert_eq!(node.condition("ConfigAccepted")["status"], true);
}

#[test]
fn a_manifest_directory_that_is_made_anew_is_followed() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let manifests = node.cluster.directory();
    fs::remove_dir_all(manifests).unwrap();
    let problems = || node.report()["problems"].to_string();
    eventually("it is said to be gone", || problems().contains("cannot read directory"), problems);
    node.add("c1", &Netns::new()).unwrap();
    fs::create_dir(manifests).unwrap();
    node.put(&node_config_of("n1", "2001:db8:f002::/64", "203.0.113.0/24"));
    node.wait_routes("117", &["2001:db8:f002::/64", "203.0.113.0/24"]);
    assert_eq!(problems(), "[]");
}

#[test]
fn an_exhausted_pool_says_so_and_serves_again_as_soon_as_a_pod_goes() {
    if !netns_available() {
        return;
    }
    let node = TestNode::new();
    let mut config = node_config();
    config["spec"]["cidr6"] = serde_json::json!([]);
    config["spec"]["cidr4"] = serde_json::json!(["198.51.100.0/30"]);
    node.put(&config);
    node.start();
    node.wait_ready();
    let (first, second) = (Netns::new(), Netns::new());
    let added = node.add("c1", &first).unwrap();
    for round in 0..3 {
        let error = node.add("c2", &second).unwrap_err();
        assert_eq!(error.code(), code::TRY_AGAIN);
        assert!(error.to_string().contains("198.51.100.0/30: 1 in use, 0 cooling down"), "{error}");
        node.del("c2").unwrap();
        node.del(if round == 0 { "c1" } else { "c3" }).unwrap();
        let again = node.add("c3", &Netns::new()).unwrap();
        assert_eq!(addresses(&again), addresses(&added), "nothing else is free");
    }
    node.del("c3").unwrap();
    let third = node.add("c4", &second).unwrap();
    node.assert_reached(addresses(&third));
    node.del("c4").unwrap();
    node.assert_empty();
}

#[test]
fn a_pod_that_goes_while_the_agent_is_dead_is_deleted_afterwards() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    node.add("c1", &pod).unwrap();
    node.kill();
    drop(pod);
    let links = || node.netns.output("ip", &["-o", "link", "show", "type", "veth"]);
    eventually("the kernel takes the link with the namespace", || links().is_empty(), links);
    node.start();
    node.wait_ready();
    assert_eq!(node.report()["allocations"].as_array().unwrap().len(), 1, "until the runtime says DEL");
    node.wait_routes("118", &[]);
    node.del("c1").unwrap();
    node.assert_empty();
}

#[test]
fn a_second_agent_changes_nothing_before_it_is_refused() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    let added = node.add("c1", &pod).unwrap();
    let state = fs::read(node.state_file()).unwrap();
    // The first agent must not repair what the second one does.
    node.signal(Signal::SIGSTOP);
    let unfinished = node.state_file().with_extension("json.tmp");
    fs::write(&unfinished, "of the first agent").unwrap();
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    node.netns.run(|| fs::write(forwarding, "0").unwrap());
    let elsewhere = node.dir.path().join("elsewhere/allocations.json").into_os_string();
    for state_path in [node.state_file().into_os_string(), elsewhere] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flock-agent"));
        let first = node.command();
        let theirs = first.get_args().map(ToOwned::to_owned);
        command.args(theirs.map(|it| if it == *node.state_file() { state_path.clone() } else { it }));
        let output = node.netns.run(|| command.output().unwrap());
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("another agent"), "{stderr}");
        assert_eq!(fs::read(node.state_file()).unwrap(), state);
        assert_eq!(fs::read_to_string(&unfinished).unwrap(), "of the first agent");
        assert_eq!(node.netns.run(|| fs::read_to_string(forwarding).unwrap()).trim(), "0");
    }
    node.signal(Signal::SIGCONT);
    assert_eq!(node.add("c1", &pod).unwrap(), added);
}

#[test]
fn allocations_of_another_boot_are_dropped() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let pod = Netns::new();
    let added = node.add("c1", &pod).unwrap();
    node.kill();
    node.netns.output("ip", &["link", "del", &added.host_ifname]);
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(node.state_file()).unwrap()).unwrap();
    state["bootId"] = "0123".into();
    fs::write(node.state_file(), state.to_string()).unwrap();
    node.start();
    node.wait_ready();
    assert_eq!(node.report()["allocations"], serde_json::json!([]));
    let text = fs::read_to_string(node.state_file()).unwrap();
    assert!(!text.contains("c1/eth0") && !text.contains("0123\""), "not for the next start either: {text}");
    node.del("c1").unwrap();
    let added = node.add("c2", &pod).unwrap();
    node.assert_reached(addresses(&added));
    node.del("c2").unwrap();
    node.assert_empty();
}

#[test]
fn what_is_no_network_namespace_of_a_pod_is_refused() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let (own, file) = (node.netns.path(), node.dir.path().join("file"));
    fs::write(&file, "").unwrap();
    let file = file.display().to_string();
    let directory = node.dir.path().display().to_string();
    let cases = [
        (own.as_str(), "it is the node's own"),
        ("/run/netns/flock-has-no-such", "No such file or directory"),
        (&file, "Invalid argument"),
        (&directory, "Invalid argument"),
        ("run/netns/relative", "absolute path"),
    ];
    for (path, reason) in cases {
        let error = node.add_with(plain_add("c1", path)).unwrap_err();
        assert_eq!(error.code(), code::INVALID_ENVIRONMENT, "{path}: {error}");
        assert!(error.to_string().contains(path), "{path}: {error}");
        assert!(error.to_string().contains(reason), "{path}: {error}");
        node.assert_empty();
    }
}
