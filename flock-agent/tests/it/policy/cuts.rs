//! Connections that are open when policies change: those that are forbidden now end, the others do not notice.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::flow::{Flow, Flows, TCP_PING, TCP_PUSH, UDP_PUSH};
use super::prober::{Cell, Family, Kind};
use super::table::{Entry, check_now};
use super::world::{World, policy};
use crate::harness::eventually;
use crate::netns::netns_available;

/// Where the ports of the flows begin: in pods, and at the node for those that come in by way of it.
const IN_PODS: u16 = 7000;
const AT_THE_NODE: u16 = 8000;

/// So many messages more prove that a flow goes on, and are the time in which the others must not.
const MORE: u64 = 300;

/// Every flow with what its ends are in the table.
fn open(world: &World) -> (Vec<Flow>, Vec<Cell>) {
    let spots = world.spots();
    let spot = |name: &str| spots.iter().position(|spot| spot.name == name).unwrap();
    let (mut flows, mut cells) = (Vec::new(), Vec::new());
    let mut translations = String::new();
    let mut port = IN_PODS;
    for family in [Family::V4, Family::V6] {
        for (client, through_the_node) in [("y/a", false), ("outside", true)] {
            for (server, manner) in ["x/a", "x/b"]
                .into_iter()
                .flat_map(|server| [TCP_PING, TCP_PUSH, UDP_PUSH].map(|it| (server, it)))
            {
                port += 1;
                let (from, to) = (spot(client), spot(server));
                let address = spots[to].address(family);
                let mut target = SocketAddr::new(address, port);
                if through_the_node {
                    target = SocketAddr::new(spots[spot("n1")].address(family), port - IN_PODS + AT_THE_NODE);
                    translations += &translation(target, SocketAddr::new(address, port), manner.0);
                    let script = format!("add table inet hostports; {translations}");
                    nft(world, &script);
                    translations.clear();
                }
                flows.push(Flow::open(manner, spots[from].netns, spots[to].netns, port, target));
                cells.push(Cell { from, to, kind: manner.0, port, family });
            }
        }
    }
    (flows, cells)
}

/// What a `hostPort` is.
fn translation(from: SocketAddr, to: SocketAddr, kind: Kind) -> String {
    let family = if matches!(from.ip(), IpAddr::V4(_)) { "ip" } else { "ip6" };
    let protocol = if kind == Kind::Tcp { "tcp" } else { "udp" };
    format!(
        "add chain inet hostports in {{ type nat hook prerouting priority -100; }}; \
         add rule inet hostports in {family} daddr {} {protocol} dport {} dnat {family} to {to}",
        from.ip(),
        from.port()
    )
}

fn nft(world: &World, script: &str) {
    let done = world.nodes[0].netns.run(|| std::process::Command::new("nft").arg(script).output().unwrap());
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

fn from(peers: &Value) -> Value {
    json!([{"from": peers}])
}

fn ingress(pod: &str, rules: &Value) -> Value {
    let selector = json!({"matchLabels": {"pod": pod}});
    policy("x", &json!({"podSelector": selector, "policyTypes": ["Ingress"], "ingress": rules}))
}

/// Opens the flows, has `change` happen, and looks which of them go on.
fn cut(before: &[Value], change: impl FnOnce(&mut World)) {
    if !netns_available() {
        return;
    }
    let mut world = World::start(1);
    world.apply(before);
    check_now(&world, "before");
    let (flows, cells) = open(&world);
    let flows = Flows::of(flows);
    flows.during(|| {
        let began = flows.delivered();
        let all = || flows.delivered().iter().zip(&began).all(|(now, then)| *now > then + MORE);
        eventually("every flow is going", all, || format!("{:?}", flows.delivered()));
        assert!(world.expected_now(&cells).iter().all(|admitted| *admitted), "before, all are admitted");

        change(&mut world);
        // New connections are judged by what is in force. So are the old ones, from the same moment on.
        check_now(&world, "after");
        let admitted = world.expected_now(&cells);
        assert!(admitted.contains(&false) && admitted.contains(&true), "some are denied: {admitted:?}");
        let counts = || flows.lock().iter().map(|flow| (flow.delivered, flow.asked)).collect::<Vec<_>>();
        let then = counts();
        let go_on = || {
            let progress = flows.delivered().into_iter().zip(&then).zip(&admitted);
            progress.filter(|(_, admitted)| **admitted).all(|((now, then), _)| now > then.0 + MORE)
        };
        let names = || flows.lock().iter().map(|flow| flow.name.clone()).collect::<Vec<_>>();
        eventually("what is admitted goes on", go_on, || {
            format!("{:?}", names().iter().zip(counts()).zip(&admitted).collect::<Vec<_>>())
        });
        for (((name, now), then), admitted) in names().iter().zip(counts()).zip(then).zip(&admitted) {
            assert!(*admitted || now == then, "{name} is denied and goes on: {then:?}, then {now:?}");
        }
        for (flow, admitted) in flows.lock().iter().zip(&admitted) {
            assert!(!admitted || flow.gaps == 0, "{} has lost {} messages", flow.name, flow.gaps);
        }
    });
}

#[test]
fn an_edit_ends_the_open_flows_it_denies_and_no_other() {
    let open = json!([{}]);
    let before = Entry::new("", [ingress("a", &open), ingress("b", &open)]).policies;
    let mut after = before.clone();
    after[0]["spec"]["ingress"] = from(&json!([{"namespaceSelector": {"matchLabels": {"ns": "z"}}}]));
    cut(&before, |world| world.apply(&after));
}

#[test]
fn a_new_policy_ends_the_open_flows_it_denies_and_no_other() {
    let before = Entry::new("", [ingress("b", &json!([{}]))]).policies;
    let after = Entry::new("", [ingress("b", &json!([{}])), ingress("a", &json!([]))]).policies;
    cut(&before, |world| world.apply(&after));
}

#[test]
fn a_policy_that_is_deleted_ends_the_open_flows_only_it_admitted() {
    let after = Entry::new("", [ingress("a", &json!([])), ingress("b", &json!([{}]))]).policies;
    let more =
        Entry::new("", [ingress("a", &json!([])), ingress("b", &json!([{}])), ingress("a", &json!([{}]))])
            .policies;
    cut(&more, |world| world.apply(&after));
}

#[test]
fn a_policy_of_egress_ends_open_flows_as_well() {
    let to = |peers: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers}]});
    let before = Entry::new("", [policy("y", &to(json!([{"namespaceSelector": {}}])))]).policies;
    let only_b = json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}]);
    let after = Entry::new("", [policy("y", &to(only_b))]).policies;
    cut(&before, |world| world.apply(&after));
}

#[test]
fn a_label_that_a_pod_loses_ends_its_open_flows() {
    let peers = json!([
        {"namespaceSelector": {"matchLabels": {"ns": "y"}}, "podSelector": {"matchLabels": {"tier": "front"}}},
        {"ipBlock": {"cidr": "203.0.113.0/24"}},
        {"ipBlock": {"cidr": "2001:db8:e::/64"}},
    ]);
    let before = Entry::new("", [ingress("a", &from(&peers))]).policies;
    cut(&before, |world| {
        world.edit_pod("y/a", |pod| pod["metadata"]["labels"]["tier"] = json!("back"));
        world.touch();
    });
}

#[test]
fn a_label_that_a_namespace_loses_ends_the_open_flows_of_its_pods() {
    let peers = json!([
        {"namespaceSelector": {"matchLabels": {"team": "red"}}},
        {"ipBlock": {"cidr": "203.0.113.0/24"}},
        {"ipBlock": {"cidr": "2001:db8:e::/64"}},
    ]);
    let before = Entry::new("", [ingress("a", &from(&peers))]).policies;
    cut(&before, |world| {
        world.edit_namespace("y", |it| it["metadata"]["labels"] = json!({"ns": "y"}));
        world.touch();
    });
}
