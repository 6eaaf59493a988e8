//! Somebody else changes the table of the kernel.

use std::net::IpAddr;
use std::time::Instant;

use serde_json::json;

use super::flow::{Flow, Flows, TCP_PING, UDP_PING};
use super::table::{Entry, check_now};
use super::world::{World, policy};
use crate::harness::eventually;
use crate::netns::netns_available;

/// The table as `nft` shows it, in no order, without counts and stamps.
fn table(world: &World) -> Vec<String> {
    let text = world.nodes[0].netns.output("nft", &["--stateless", "list", "table", "inet", "flock"]);
    let mut parts: Vec<String> =
        text.split(['\n', ',', '{', '}']).map(|part| part.trim().to_owned()).collect();
    parts.retain(|part| !part.contains("0x"));
    parts.sort();
    parts
}

#[test]
fn a_table_that_others_change_is_repaired_and_open_flows_go_on() {
    if !netns_available() {
        return;
    }
    let mut world = World::start(1);
    let from = json!([{"podSelector": {"matchLabels": {"pod": "a"}}, "namespaceSelector": {"matchLabels": {"ns": "y"}}}]);
    let ports = json!([{"port": 1, "endPort": 65535, "protocol": "UDP"}, {"protocol": "TCP"}]);
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": from, "ports": ports}]});
    world.apply(&Entry::new("", [policy("x", &spec)]).policies);
    check_now(&world, "before");
    let (client, server) = (&world.pods[world.pod("y/a")], &world.pods[world.pod("x/a")]);
    let open = [
        (TCP_PING, IpAddr::from(server.v6), 7001),
        (UDP_PING, IpAddr::from(server.v6), 7002),
        (UDP_PING, IpAddr::from(server.v4), 7003),
    ];
    let open = open.map(|(manner, address, port)| {
        Flow::open(manner, &client.netns, &server.netns, port, (address, port).into())
    });
    let flows = Flows::of(open.into());
    flows.during(|| {
        let wanted = table(&world);
        let changes = [
            "flush ruleset",
            "delete table inet flock",
            "flush chain inet flock forward",
            "flush map inet flock in_np",
            "insert rule inet flock forward accept",
            "flush ruleset",
        ];
        for change in changes {
            let done =
                world.nodes[0].netns.run(|| std::process::Command::new("nft").arg(change).output().unwrap());
            assert!(done.status.success(), "{change}: {}", String::from_utf8_lossy(&done.stderr));
            assert_ne!(table(&world), wanted, "{change}");
            let began = Instant::now();
            eventually(change, || table(&world) == wanted, || format!("{:?}", table(&world)));
            println!("{change}: repaired after {:?}", began.elapsed());
            check_now(&world, change);
        }
        // What others have beside it is none of ours.
        let others = "add table inet others; add chain inet others in { type filter hook input priority 0; }";
        let before = table(&world);
        world.nodes[0].netns.output("nft", &[others]);
        check_now(&world, "a table of others");
        assert_eq!(table(&world), before);
        let then = flows.delivered();
        let go_on = || flows.delivered().into_iter().zip(&then).all(|(now, then)| now > then + 100);
        eventually("what is admitted goes on", go_on, || format!("{then:?}, {:?}", flows.delivered()));
    });
}
