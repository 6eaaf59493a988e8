//! A small cluster: nodes on a segment with a host outside of it, nine pods in three namespaces, and what the cluster
//! says of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_cni::wire::Added;
use serde_json::{Value, json};

use super::oracle::{self, Party, Service};
use super::prober::{Cell, Family, Kind, Spot};
use super::server::Servers;
use crate::cluster::Source;
use crate::harness::{TestNode, add_of, addresses, attachment};
use crate::netns::Netns;
use crate::object::{self, namespace, node_config_of, text};

/// Ports everybody serves, over TCP and UDP.
pub(super) const PORTS: [u16; 2] = [80, 81];

/// Where the host outside is.
pub(super) const OUTSIDE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(203, 0, 113, 9), Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 9));

/// The pools of a node.
const POOLS: [(&str, &str); 2] =
    [("2001:db8:f001::/64", "198.51.100.0/25"), ("2001:db8:f002::/64", "198.51.100.128/25")];

const NODES: [&str; 2] = ["n1", "n2"];

/// The namespace of the pods that tell which policies are in force.
const BEACONS: &str = "beacons";

pub(super) struct World {
    pub(super) outside: Netns,
    pub(super) nodes: Vec<TestNode>,
    /// Those of x, y and z first, then a beacon on each node.
    pub(super) pods: Vec<TestPod>,
    namespaces: BTreeMap<String, Value>,
    policies: BTreeMap<String, Value>,
    /// Counts the sets of policies.
    beacon: usize,
    _servers: Servers,
}

pub(super) struct TestPod {
    pub(super) object: Value,
    pub(super) netns: Netns,
    pub(super) node: usize,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl TestPod {
    /// As in `x/a`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", text(&self.object, "namespace"), text(&self.object, "name"))
    }

    /// Containers have names of their own, in whatever namespace their pod is.
    fn container(&self) -> String {
        text(&self.object, "uid").to_owned()
    }
}

impl World {
    /// A cluster of so many nodes in which everything runs and no policy is.
    pub(super) fn start(nodes: usize) -> Self {
        Self::of(nodes, Source::Manifests)
    }

    pub(super) fn of(nodes: usize, source: Source) -> Self {
        let names = NODES.into_iter().take(nodes);
        let nodes: Vec<TestNode> = names.map(|name| TestNode::named(name, source)).collect();
        let outside = segment(&nodes);
        let namespaces = [
            namespace("x", &json!({"ns": "x", "team": "red"})),
            namespace("y", &json!({"ns": "y", "team": "red", "empty": ""})),
            namespace("z", &json!({"ns": "z"})),
            namespace(BEACONS, &json!({})),
        ];
        let namespaces: BTreeMap<_, _> =
            namespaces.into_iter().map(|it| (text(&it, "name").to_owned(), it)).collect();
        for (node, (v6, v4)) in nodes.iter().zip(POOLS) {
            node.put(&node_config_of(node.name(), v6, v4));
            for namespace in namespaces.values() {
                node.put(namespace);
            }
            node.start();
        }
        let objects = ["x", "y", "z"]
            .into_iter()
            .flat_map(|namespace| ["a", "b", "c"].into_iter().map(move |name| pod(namespace, name)));
        let beacons = (0..nodes.len()).map(|node| plain_pod(BEACONS, &format!("beacon-{node}")));
        let pods: Vec<TestPod> = objects
            .enumerate()
            // Every namespace has pods on every node, and so has every name.
            .map(|(n, object)| (n % nodes.len(), object))
            .chain(beacons.enumerate())
            .map(|(node, mut object)| {
                object["spec"]["nodeName"] = json!(nodes[node].name());
                let (v4, v6) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
                TestPod { object, netns: Netns::new(), node, v4, v6 }
            })
            .collect();
        let served: Vec<&Netns> = pods.iter().map(|pod| &pod.netns).chain([&outside]).collect();
        let served: Vec<&Netns> = served.into_iter().chain(nodes.iter().map(|node| &node.netns)).collect();
        let servers = Servers::start(&served, &PORTS);
        let policies = BTreeMap::new();
        let mut world = Self { outside, nodes, pods, namespaces, policies, beacon: 0, _servers: servers };
        world.nodes.iter().for_each(TestNode::wait_ready);
        (0..world.pods.len()).for_each(|pod| world.attach(pod));
        world
    }

    /// Starts a pod as its object says, and has the cluster show its addresses as the kubelet does.
    pub(super) fn attach(&mut self, pod: usize) {
        let node = &self.nodes[self.pods[pod].node];
        let TestPod { object, netns, v4, v6, .. } = &mut self.pods[pod];
        node.put(object);
        let mut add = add_of(object, netns);
        add.attachment = attachment(text(object, "uid"));
        let added: Added = node.add_with(add).unwrap();
        for address in addresses(&added) {
            match address {
                IpAddr::V4(address) => *v4 = address,
                IpAddr::V6(address) => *v6 = address,
            }
        }
        object["status"]["podIPs"] = json!([{"ip": v6.to_string()}, {"ip": v4.to_string()}]);
        object["status"]["phase"] = json!("Running");
        self.show(pod);
    }

    /// Ends a pod; `change` makes the next one of that name out of its object, and that one gets other addresses.
    pub(super) fn replace(&mut self, pod: usize, change: impl FnOnce(&mut Value)) {
        let old = &self.pods[pod];
        self.nodes.iter().for_each(|node| node.delete(&old.object));
        self.nodes[old.node].del(&old.container()).unwrap();
        let object = &mut self.pods[pod].object;
        object["metadata"]["uid"] = json!(format!("{}-again", text(object, "uid")));
        object["status"].as_object_mut().unwrap().remove("podIPs");
        change(object);
        self.attach(pod);
    }

    /// Changes what the cluster says of a pod.
    pub(super) fn edit_pod(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let pod = self.pod(name);
        change(&mut self.pods[pod].object);
        self.show(pod);
    }

    pub(super) fn edit_namespace(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let object = self.namespaces.get_mut(name).unwrap();
        change(object);
        self.nodes.iter().for_each(|node| node.put(object));
    }

    /// All nodes hear of a pod.
    fn show(&self, pod: usize) {
        self.nodes.iter().for_each(|node| node.put(&self.pods[pod].object));
    }

    /// The number of a pod.
    pub(super) fn pod(&self, name: &str) -> usize {
        self.pods.iter().position(|pod| pod.name() == name).unwrap()
    }

    /// Has exactly these policies in the cluster, and one more, about the beacons only, that is never the same twice
    /// in a row: by what it lets through one knows that the others are in force, even where they change nothing.
    pub(super) fn apply(&mut self, policies: &[Value]) {
        self.beacon += 1;
        let port = PORTS[self.beacon % PORTS.len()];
        let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP", "port": port}]}]});
        let beacon = policy(BEACONS, &spec);
        // It comes last: who has read it has read the others.
        self.apply_only(&[policies, &[beacon]].concat());
    }

    /// The same policies again: what has changed otherwise before this is in force when this is.
    pub(super) fn touch(&mut self) {
        let policies: Vec<Value> = self.policies().into_iter().cloned().collect();
        self.apply(&policies);
    }

    /// Has exactly these policies in the cluster.
    pub(super) fn apply_only(&mut self, policies: &[Value]) {
        let mut wanted = BTreeMap::new();
        for policy in policies {
            let name = format!("{} {}", text(policy, "namespace"), text(policy, "name"));
            assert_eq!(wanted.insert(name, policy.clone()), None, "two policies of one name");
        }
        for (_, gone) in self.policies.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
            self.nodes.iter().for_each(|node| node.delete(gone));
        }
        for policy in policies {
            let name = format!("{} {}", text(policy, "namespace"), text(policy, "name"));
            if self.policies.get(&name) != Some(policy) {
                self.nodes.iter().for_each(|node| node.put(policy));
            }
        }
        self.policies = wanted;
    }

    /// The policies in the cluster, but for the beacons'.
    pub(super) fn policies(&self) -> Vec<&Value> {
        self.policies.values().filter(|policy| text(policy, "namespace") != BEACONS).collect()
    }

    /// Everybody: the pods, the host outside, the nodes.
    pub(super) fn spots(&self) -> Vec<Spot<'_>> {
        let pods =
            self.pods.iter().map(|pod| Spot { name: pod.name(), netns: &pod.netns, v4: pod.v4, v6: pod.v6 });
        let outside = Spot { name: "outside".to_owned(), netns: &self.outside, v4: OUTSIDE.0, v6: OUTSIDE.1 };
        let nodes = self.nodes.iter().zip(0..).map(|(node, n)| {
            let (v4, v6) = addresses_of_node(n);
            Spot { name: node.name().to_owned(), netns: &node.netns, v4, v6 }
        });
        pods.chain([outside]).chain(nodes).collect()
    }

    /// All that is asked: from everybody to everybody else, as far as a pod has part in it, and two ports of each
    /// beacon.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let asked = [(Kind::Icmp, 0), (Kind::Tcp, 80), (Kind::Tcp, 81), (Kind::Udp, 80), (Kind::Udp, 81)];
        let pods = self.pods.len() - self.nodes.len();
        let (outside, all) = (self.pods.len(), self.pods.len() + 1 + self.nodes.len());
        let mut cells = Vec::new();
        let others: Vec<usize> = (0..pods).chain(outside..all).collect();
        for from in &others {
            for to in others.iter().filter(|to| *to != from && (**to).min(*from) < pods) {
                for (kind, port) in asked {
                    cells.extend(both(Cell { from: *from, to: *to, kind, port, family: Family::V4 }));
                }
            }
        }
        for beacon in pods..outside {
            for port in PORTS {
                cells.extend(both(Cell {
                    from: outside,
                    to: beacon,
                    kind: Kind::Udp,
                    port,
                    family: Family::V4,
                }));
            }
        }
        cells
    }

    /// What Kubernetes promises of these cells with these policies, and with that of the beacons as it is now.
    pub(super) fn expected(&self, cells: &[Cell], policies: &[Value]) -> Vec<bool> {
        let beacon = self.policies.values().filter(|policy| text(policy, "namespace") == BEACONS);
        let policies: Vec<Value> = policies.iter().chain(beacon).cloned().collect();
        let namespaces: Vec<Value> = self.namespaces.values().cloned().collect();
        let cluster = oracle::Cluster { namespaces: &namespaces, policies: &policies };
        let spots = self.spots();
        let party = |spot: usize, family| {
            let node = spot.checked_sub(self.pods.len() + 1).map(|node| self.nodes[node].name());
            let pod = self.pods.get(spot);
            Party {
                pod: pod.map(|pod| &pod.object),
                node: pod.map(|pod| self.nodes[pod.node].name()).or(node),
                address: spots[spot].address(family),
            }
        };
        let admits = |cell: &Cell| {
            let service = Service { kind: cell.kind, port: cell.port };
            cluster.admits(&party(cell.from, cell.family), &party(cell.to, cell.family), service)
        };
        cells.iter().map(admits).collect()
    }

    /// The same with the policies that are in the cluster now.
    pub(super) fn expected_now(&self, cells: &[Cell]) -> Vec<bool> {
        self.expected(cells, &self.policies().into_iter().cloned().collect::<Vec<_>>())
    }
}

fn both(cell: Cell) -> [Cell; 2] {
    [cell, Cell { family: Family::V6, ..cell }]
}

fn addresses_of_node(n: u16) -> (Ipv4Addr, Ipv6Addr) {
    let last = u8::try_from(n + 1).unwrap();
    (Ipv4Addr::new(203, 0, 113, last), Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, n + 1))
}

/// Makes the host outside, which also is the segment the nodes are on. Everybody knows the way to every pool.
fn segment(nodes: &[TestNode]) -> Netns {
    let outside = Netns::new();
    outside.ip("link set lo up");
    outside.ip("link add lan type bridge");
    outside.ip("link set lan up");
    let (v4, v6) = OUTSIDE;
    outside.ip(&format!("address add {v6}/64 dev lan nodad"));
    outside.ip(&format!("address add {v4}/24 dev lan"));
    for (n, node) in (0..).zip(nodes) {
        let (v4, v6) = addresses_of_node(n);
        outside.ip(&format!("link add to{n} type veth peer name uplink netns {}", node.netns.path()));
        outside.ip(&format!("link set to{n} up master lan"));
        node.netns.ip("link set uplink up");
        node.netns.ip(&format!("address add {v6}/64 dev uplink nodad"));
        node.netns.ip(&format!("address add {v4}/24 dev uplink"));
    }
    for (n, (pool6, pool4)) in (0..).zip(POOLS).take(nodes.len()) {
        let (v4, v6) = addresses_of_node(n);
        let others = nodes.iter().enumerate().filter(|(other, _)| *other != usize::from(n));
        for netns in others.map(|(_, node)| &node.netns).chain([&outside]) {
            netns.ip(&format!("-6 route add {pool6} via {v6}"));
            netns.ip(&format!("-4 route add {pool4} via {v4}"));
        }
    }
    outside
}

/// A policy that gets its name where it is applied.
pub(super) fn policy(namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": "policy"},
        "spec": spec,
    })
}

fn plain_pod(namespace: &str, name: &str) -> Value {
    let mut pod = object::pod(name, &[]);
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["uid"] = json!(format!("uid-of-{namespace}-{name}"));
    pod
}

/// One of the nine. What a port is called differs from pod to pod: `web` is 80 here and 81 there, and in z/b it is
/// one of UDP.
pub(super) fn pod(namespace: &str, name: &str) -> Value {
    let mut pod = plain_pod(namespace, name);
    let port = |name, protocol, number| json!({"name": name, "protocol": protocol, "containerPort": number});
    let (labels, ports) = match name {
        "a" => (
            json!({"pod": "a", "tier": "front"}),
            json!([
                port("web", "TCP", 80),
                port("alt", "TCP", 81),
                port("dns", "UDP", 81),
                port("log", "UDP", 80)
            ]),
        ),
        "b" if namespace == "z" => {
            (json!({"pod": "b", "tier": "back", "empty": ""}), json!([port("web", "UDP", 80)]))
        }
        "b" => (
            json!({"pod": "b", "tier": "back", "empty": ""}),
            json!([port("web", "TCP", 80), port("dns", "UDP", 80)]),
        ),
        _ => (json!({"pod": "c"}), json!([{"name": "web", "containerPort": 81}, {"containerPort": 80}])),
    };
    pod["metadata"]["labels"] = labels;
    pod["spec"]["containers"][0]["ports"] = ports;
    if name == "c" {
        // A pod has all ports of all its containers.
        let second = json!({"name": "second", "image": "registry.example/second:1", "ports": [port("alt", "TCP", 80)]});
        pod["spec"]["containers"].as_array_mut().unwrap().push(second);
    }
    pod
}
