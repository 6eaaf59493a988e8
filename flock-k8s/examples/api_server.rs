//! A [`FakeApiServer`](flock_k8s::testing::FakeApiServer) as a process of its own, for whoever measures an agent from
//! outside: `api_server KUBECONFIG` listens on the loopback address and writes a kubeconfig that leads to it. Each line
//! of its standard input is an object to put, as JSON; an empty one is answered with one as soon as every watch has
//! been told of everything before it. It ends with its standard input.
#![allow(clippy::print_stdout, reason = "its answers go there")]

use std::io::{Write, stdin, stdout};

use flock_k8s::testing::FakeApiServer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: api_server KUBECONFIG")?;
    let server = FakeApiServer::start();
    server.kubeconfig(path.as_ref());
    for line in stdin().lines() {
        match line?.as_str() {
            "" => {
                server.eventually("everything is told", FakeApiServer::has_told_all);
                println!();
                stdout().flush()?;
            }
            object => server.put(serde_json::from_str(object)?),
        }
    }
    Ok(())
}
