//! NetworkPolicy as packets see it: worlds of pods that ask each other for everything there is, and an oracle that
//! says what Kubernetes promises.

mod broken;
mod cuts;
mod flow;
mod flush;
mod oracle;
mod peers;
mod ports;
mod prober;
mod server;
mod stacks;
mod table;
mod tiers;
mod updates;
mod window;
mod world;

use serde_json::{Value, json};

use self::table::{Entry, check, check_now};
use self::world::{World, policy};
use crate::cluster::Source;
use crate::netns::netns_available;

/// The two directions, as words of the API.
const INGRESS: (&str, &str, &str) = ("Ingress", "ingress", "from");
const EGRESS: (&str, &str, &str) = ("Egress", "egress", "to");

/// A policy of one rule about all pods of x.
fn one_rule((kind, rules, peers): (&str, &str, &str), peer: &Value, ports: &Value) -> Value {
    let mut rule = json!({});
    for (key, value) in [(peers, peer), ("ports", ports)] {
        if !value.is_null() {
            rule[key] = value.clone();
        }
    }
    let mut spec = json!({"podSelector": {}, "policyTypes": [kind]});
    spec[rules] = json!([rule]);
    policy("x", &spec)
}

fn of_peers(world: &World, direction: (&str, &str, &str)) -> Vec<Entry> {
    let of = |(name, peers): (&str, Value)| {
        Entry::new(format!("{}: {name}", direction.0), [one_rule(direction, &peers, &Value::Null)])
    };
    peers::lists(world).into_iter().map(of).collect()
}

/// Ports of all destinations, and those of some: a name means the numbers of just these.
fn of_ports(direction: (&str, &str, &str)) -> Vec<Entry> {
    let peers = [Value::Null, json!([{"namespaceSelector": {"matchLabels": {"team": "red"}}}])];
    let of = |peers: &Value, (name, ports): (&str, Value)| {
        let whom = if peers.is_null() { "anybody" } else { "some" };
        Entry::new(format!("{} of {whom}: {name}", direction.0), [one_rule(direction, peers, &ports)])
    };
    peers.iter().flat_map(|peers| ports::lists().into_iter().map(|ports| of(peers, ports))).collect()
}

fn run(nodes: usize, entries: fn(&World) -> Vec<Entry>) {
    if netns_available() {
        let mut world = World::start(nodes);
        let entries = entries(&world);
        check(&mut world, entries);
    }
}

#[test]
fn truth_table_of_peers_of_ingress() {
    run(1, |world| of_peers(world, INGRESS));
}

#[test]
fn truth_table_of_peers_of_egress() {
    run(1, |world| of_peers(world, EGRESS));
}

#[test]
fn truth_table_of_ports_of_ingress() {
    run(1, |_| of_ports(INGRESS));
}

#[test]
fn truth_table_of_ports_of_egress() {
    run(1, |_| of_ports(EGRESS));
}

#[test]
fn truth_table_of_subjects_and_types() {
    run(1, |_| [stacks::subjects(), stacks::types()].into_iter().flatten().collect());
}

#[test]
fn truth_table_of_stacks() {
    run(1, stacks::stacks);
}

/// All the tables.
fn everything(world: &World) -> Vec<Entry> {
    let tables = [
        of_peers(world, INGRESS),
        of_peers(world, EGRESS),
        of_ports(INGRESS),
        of_ports(EGRESS),
        stacks::subjects(),
        stacks::types(),
        stacks::stacks(world),
    ];
    tables.into_iter().flatten().collect()
}

#[test]
fn truth_table_between_two_nodes() {
    run(2, |world| everything(world).into_iter().step_by(3).collect());
}

#[test]
fn truth_table_with_an_api_server() {
    if netns_available() {
        let mut world = World::of(2, Source::ApiServer);
        let entries = everything(&world).into_iter().skip(1).step_by(7).collect();
        check(&mut world, entries);
    }
}

#[test]
fn without_policies_everybody_reaches_everybody() {
    if netns_available() {
        check_now(&World::start(2), "no policies");
    }
}
