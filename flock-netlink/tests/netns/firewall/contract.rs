//! The laws every implementation of the port keeps, on the kernel.

use std::net::IpAddr;
use std::process::Command;

use async_trait::async_trait;
use flock_core::ids::IfName;
use flock_core::ports::Firewall;
use flock_core::testing::contract::firewall::{FirewallWorld, Law};
use flock_core::testing::require;
use flock_netlink::KernelFirewall;

use super::bench::nft;
use crate::world::on_node;

struct Node(KernelFirewall);

fn run(law: Law) {
    if !require("nft", Command::new("nft").arg("--version").output().is_ok()) {
        return;
    }
    on_node(async move |_| law(&Node(KernelFirewall::new().unwrap())).await);
}

flock_core::firewall_contract!(run);

#[async_trait(?Send)]
impl FirewallWorld for Node {
    fn firewall(&self) -> &dyn Firewall {
        &self.0
    }

    async fn flush(&self) {
        nft("flush ruleset");
    }

    async fn disturb(&self) {
        nft("add table inet somebody");
    }

    async fn tamper(&self, link: &IfName, source: IpAddr) {
        let set = if source.is_ipv6() { "src6" } else { "src4" };
        nft(&format!("delete element inet flock {set} {{ \"{link}\" . {source} }}"));
    }
}
