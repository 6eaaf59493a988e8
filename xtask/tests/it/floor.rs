//! The yardstick must really connect a pod, or everything measured against it is worth nothing.
#![cfg(target_os = "linux")]

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use flock_core::testing::require;

#[path = "../../src/bench/netns.rs"]
mod netns;

use netns::Netns;

const HOST_LINK: &str = "floor0";
const IP6: &str = "2001:db8:f001::77";
const IP4: &str = "198.51.100.77";

fn run(program: &str, args: &str) -> Result<Output> {
    Ok(Command::new(program).args(args.split(' ')).stdin(Stdio::null()).output()?)
}

fn succeed(program: &str, args: &str) -> Result<String> {
    let done = run(program, args).with_context(|| format!("{program} {args}"))?;
    let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    ensure!(done.status.success(), "{program} {args}: {text}");
    Ok(text)
}

fn floor(command: &str, pod: &Netns) -> Result<String> {
    let mut floor = Command::new(env!("CARGO_BIN_EXE_add-floor"));
    floor.args([HOST_LINK, IP6, IP4]).env("CNI_COMMAND", command).env("CNI_IFNAME", "eth0");
    let done = floor.env("CNI_NETNS", pod.path()).stdin(Stdio::null()).output()?;
    ensure!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

#[test]
fn host_and_pod_reach_each_other_and_nothing_is_left() {
    let tools = ["ip", "ping"].iter().all(|tool| run(tool, "-V").is_ok());
    if !require("root, ip and ping", tools && nix::unistd::geteuid().is_root()) {
        return;
    }
    let host = Netns::new().unwrap();
    let pod = Netns::new().unwrap();
    let seen = host.run(|| {
        succeed("ip", "link set lo up")?;
        succeed("ip", "addr add 2001:db8::1/128 dev lo nodad")?;
        succeed("ip", "addr add 192.0.2.1/32 dev lo")?;
        let result: serde_json::Value = serde_json::from_str(&floor("ADD", &pod)?)?;
        ensure!(result["interfaces"][0]["name"] == HOST_LINK, "{result}");
        // Until one is answered: the kernel gives a new link its last touches in the background.
        succeed("ping", &format!("-6 -c 1 -w 10 -i 0.2 -I 2001:db8::1 {IP6}"))?;
        succeed("ping", &format!("-4 -c 1 -w 10 -i 0.2 -I 192.0.2.1 {IP4}"))?;
        pod.run(|| {
            succeed("ping", "-6 -c 1 -w 10 -i 0.2 2001:db8::1")
                .and_then(|_| succeed("ping", "-4 -c 1 -w 10 -i 0.2 192.0.2.1"))
        })?;
        let host_side = succeed("ip", &format!("address show dev {HOST_LINK}"))?;
        ensure!(host_side.matches("inet6").count() == 1, "only fe80::1: {host_side}");
        let pod_side = pod.run(|| succeed("ip", "address show dev eth0"))?;
        ensure!(pod_side.matches("inet").count() == 2, "only the pod's own: {pod_side}");
        floor("DEL", &pod)?;
        floor("DEL", &pod)?;
        Ok(succeed("ip", "-o link")?
            + &succeed("ip", "-6 route show proto 118")?
            + &succeed("ip", "route show proto 118")?)
    });
    let left = seen.unwrap();
    assert_eq!(left.lines().count(), 1, "only lo is left: {left}");
}
