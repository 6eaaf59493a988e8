//! What nobody deletes: pods that go without a DEL, links that are left of something that broke off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flock_core::app::{AttachRequest, CheckRequest, Node, Ports};
use flock_core::config::{BgpSpec, NodeConfigSpec};
use flock_core::ids::AttachmentId;
use flock_core::leak::{GRACE, Leak};
use flock_core::ports::{NetnsPath, NodeConfigView};
use flock_core::testing::World;
use flock_core::time::Timestamp;
use flock_netlink::KernelNetlink;
use serde_json::json;

use crate::harness::{TestNode, addresses, within};
use crate::netns::{Netns, netns_available};

#[test]
fn pods_that_go_without_a_del_are_swept_and_running_ones_are_not() {
    if !netns_available() {
        return;
    }
    let node = TestNode::serving();
    let (lives, whole, goes) = (Netns::new(), Netns::new(), Netns::new());
    let given = addresses(&node.add("lives", &lives).unwrap());
    let link = node.netns.output("ip", &["-br", "link", "show", "type", "veth"]);
    let (link, _) = link.split_once('@').unwrap();
    // Before the others: it is no less suspicious than they are.
    node.netns.output("ip", &["link", "delete", link]);
    node.add("whole", &whole).unwrap();
    let before = addresses(&node.add("goes", &goes).unwrap());
    drop(goes);
    for name in ["flock00000001", "flock00000002"] {
        node.netns.output("ip", &["link", "add", name, "type", "veth", "peer", "name", &name[5..]]);
    }
    node.netns.output("ip", &["link", "set", "flock00000002", "group", "1"]);
    let left = || {
        let report = node.report();
        let held: Vec<_> =
            report["allocations"].as_array().unwrap().iter().map(|it| it["attachment"].clone()).collect();
        let links = node.netns.output("ip", &["-o", "link", "show", "type", "veth"]).lines().count();
        (json!(held), links)
    };
    let wanted = (json!(["lives/eth0", "whole/eth0"]), 1);
    // The grace period, and two looks 10 s apart.
    within(
        GRACE + Duration::from_secs(45),
        "leaks are removed",
        || left() == wanted,
        || format!("{:?}", left()),
    );
    let log = node.log();
    for said in [
        "removed addresses of goes/eth0: its link and its network namespace are gone",
        "removed link flock00000001: it does not say whose it is",
        &before[1].to_string(),
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    let drift = node.check("lives", &lives, given.clone()).unwrap_err().to_string();
    assert!(drift.contains("is missing"), "{drift}");
    assert_eq!(addresses(&node.add("lives", &lives).unwrap()), given);
    for container in ["goes", "lives", "whole"] {
        node.del(container).unwrap();
    }
    node.assert_empty();
}

/// A node on the kernel, without a process of its own.
async fn node() -> Arc<Node> {
    let world = World::default();
    let spec = NodeConfigSpec {
        cidr6: vec!["2001:db8:f001::/64".to_owned()],
        cidr4: vec!["198.51.100.0/24".to_owned()],
        bgp: BgpSpec { asn: 64500, ..BgpSpec::default() },
        ..NodeConfigSpec::default()
    };
    world.pods.set_node_config(Some(NodeConfigView { generation: 1, spec: Ok(spec) }));
    let ports = Ports { netlink: Arc::new(KernelNetlink::new().unwrap()), ..world.ports() };
    let (node, _) = Node::start(World::settings("boot"), ports, now()).await.unwrap();
    node.sync_config();
    Arc::new(node)
}

fn now() -> Timestamp {
    Timestamp::from_millis(1)
}

#[test]
fn an_add_that_meets_the_sweep_keeps_its_link() {
    if !netns_available() {
        return;
    }
    let on = Netns::new();
    on.run(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            let node = node().await;
            let (looks, swept) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let sweeper = tokio::spawn({
                let (node, looks, swept) = (Arc::clone(&node), Arc::clone(&looks), Arc::clone(&swept));
                async move {
                    loop {
                        let synced = node.sync_links(Duration::ZERO, &now).await.unwrap();
                        let addresses = |leak: &&Leak| matches!(leak, Leak::Allocation(_));
                        let count = synced.swept.iter().filter(addresses).count();
                        swept.fetch_add(count as u64, Ordering::Relaxed);
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let attachment = AttachmentId::parse("c1/eth0").unwrap();
            let mut rounds = 0;
            // Until each has won often enough.
            while rounds < 60 || swept.load(Ordering::Relaxed) < 10 {
                rounds += 1;
                let pod = Netns::new();
                let netns = NetnsPath::parse(&pod.path()).unwrap();
                let request = AttachRequest {
                    netns: netns.clone(),
                    pod: None,
                    uid: None,
                    annotations: None,
                    mtu: None,
                    entrance: None,
                    loopback_runs: false,
                };
                let guard = node.lock(attachment.clone()).await;
                let attached = node.attach(&guard, &request, &now, rounds, &|| false).await.unwrap();
                drop(guard);
                let expected = attached.addresses.iter().collect();
                let since = looks.load(Ordering::Relaxed);
                while looks.load(Ordering::Relaxed) < since + 4 {
                    tokio::task::yield_now().await;
                }
                let guard = node.lock(attachment.clone()).await;
                node.check(&guard, &CheckRequest { netns, expected }).await.unwrap();
                drop(guard);
                // Without this it is the kernel that deletes it, some time later.
                if rounds % 3 > 0 {
                    on.output("ip", &["link", "delete", attachment.host_ifname().as_str()]);
                }
                drop(pod);
                // Sometimes the next ADD comes first, sometimes the sweep.
                let since = looks.load(Ordering::Relaxed);
                while looks.load(Ordering::Relaxed) < since + rounds % 5 {
                    tokio::task::yield_now().await;
                }
            }
            sweeper.abort();
        });
    });
}
