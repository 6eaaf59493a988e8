//! The least an ADD can cost: the yardstick `cargo xtask bench add` holds the plugin against.
//!
//! Executed like a plugin (`CNI_COMMAND`, `CNI_NETNS` and `CNI_IFNAME` in the environment, configuration on
//! stdin, result on stdout), it gives a pod its link, addresses, neighbours and routes in as few system calls
//! as that takes, and nothing else: no agent, no socket, no state, no allocation, no waiting for what the
//! kernel finishes in the background. Name of the host link and both addresses are arguments.
//!
//! Its netlink is its own, on purpose: a yardstick that shared code with what it measures would shrink and
//! grow with it.

#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
mod pod;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    match run() {
        Ok(result) => {
            use std::io::Write;
            let written = writeln!(std::io::stdout(), "{result}");
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            use std::io::Write;
            // Nobody is left to tell when stderr is closed too.
            let _ = writeln!(std::io::stderr(), "add-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
fn run() -> Result<String, String> {
    use std::io::Read;
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let usage = "usage: add-floor HOST-LINK IPV6 IPV4, with CNI_COMMAND, CNI_NETNS and CNI_IFNAME set";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host_ifname, ip6, ip4] = arguments.as_slice() else { return Err(usage.to_owned()) };
    // The configuration says nothing the floor needs, but reading it is part of being a plugin.
    std::io::stdin().read_to_end(&mut Vec::new()).map_err(|error| format!("cannot read stdin: {error}"))?;
    match variable("CNI_COMMAND")?.as_str() {
        "ADD" => pod::Pod {
            host_ifname,
            netns: &variable("CNI_NETNS")?,
            ifname: &variable("CNI_IFNAME")?,
            ip6: ip6.parse().map_err(|_| format!("{ip6:?} is not an IPv6 address"))?,
            ip4: ip4.parse().map_err(|_| format!("{ip4:?} is not an IPv4 address"))?,
        }
        .add(),
        "DEL" => pod::del(host_ifname).map(|()| String::new()),
        other => Err(format!("CNI_COMMAND={other} has no floor: it is ADD or DEL")),
    }
}
