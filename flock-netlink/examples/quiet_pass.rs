//! What a pass over the routes, and a look at the links, cost when nothing has changed:
//! `cargo run --release -p flock-netlink --example quiet_pass [PODS [SHARED [RUNS]]]`, as root. Makes a node in a
//! network namespace of its own with PODS (250) pods that share SHARED (50) anycast addresses, half of them IPv6,
//! and measures RUNS (200) passes: CPU time of the process, in the kernel and outside.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use flock_core::app::{AttachRequest, LinksSynced, Node, Ports, RoutesSynced};
use flock_core::config::{BgpSpec, NodeConfigSpec};
use flock_core::ids::AttachmentId;
use flock_core::leak::GRACE;
use flock_core::ports::{Netlink, NetnsPath, NodeConfigView};
use flock_core::route::RouteSet;
use flock_core::testing::{FakePodSource, World, pod_view};
use flock_core::time::Timestamp;
use flock_netlink::KernelNetlink;
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};

fn main() {
    let argument = |at| std::env::args().nth(at).map(|text| text.parse().unwrap());
    let (pods, shared) = (argument(1).unwrap_or(250), argument(2).unwrap_or(50));
    let runs = argument(3).unwrap_or(200);
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(measure(pods, shared, runs));
    })
    .join()
    .unwrap();
}

async fn measure(pods: u32, shared: u32, runs: u32) {
    let kernel = Arc::new(KernelNetlink::new().unwrap());
    kernel.prepare_node().await.unwrap();
    let world = World::default();
    let source = Arc::clone(&world.pods);
    let spec = NodeConfigSpec {
        cidr6: vec!["2001:db8:f001::/64".to_owned()],
        cidr4: vec!["192.0.2.0/24".to_owned(), "198.51.100.0/24".to_owned()],
        bgp: BgpSpec { asn: 64500, ..BgpSpec::default() },
        ..NodeConfigSpec::default()
    };
    source.set_node_config(Some(NodeConfigView { generation: 1, spec: Ok(spec) }));
    let ports = Ports { netlink: kernel.clone(), ..world.ports() };
    let (node, _) = Node::start(World::settings("boot"), ports, Timestamp::from_millis(1)).await.unwrap();
    node.sync_config();
    let mut namespaces = Vec::new();
    for number in 0..pods {
        namespaces.push(add(&node, &source, number, shared).await);
    }
    let RoutesSynced::Done(first) = node.sync_routes().await.unwrap() else { return };
    println!("{pods} pods, {shared} addresses shared, {} routes written at first", first.replace.len());

    let mut written = 0;
    let mut whole = Vec::new();
    for _ in 0..runs {
        let before = cpu();
        if let RoutesSynced::Done(diff) = node.sync_routes().await.unwrap() {
            written += diff.replace.len() + diff.remove.len();
        }
        whole.push(cpu().checked_sub(before).unwrap());
    }
    report("a quiet pass", whole);
    println!("                written {written}");

    // Nothing to decide: what reading and comparing costs.
    let mut read = Vec::new();
    for _ in 0..runs {
        let before = cpu();
        kernel
            .sync_routes(&|observed| observed.iter().filter_map(as_wanted).collect::<RouteSet>())
            .await
            .unwrap();
        read.push(cpu().checked_sub(before).unwrap());
    }
    report("without deciding", read);

    let mut looks = Vec::new();
    for _ in 0..runs {
        let before = cpu();
        let synced = node.sync_links(GRACE, &|| Timestamp::from_millis(1)).await.unwrap();
        looks.push(cpu().checked_sub(before).unwrap());
        assert_eq!(synced, LinksSynced::default());
    }
    report("a quiet look", looks);
    let mut tended = Vec::new();
    for _ in 0..runs {
        let before = cpu();
        kernel.tend_links().await.unwrap();
        tended.push(cpu().checked_sub(before).unwrap());
    }
    report("without deciding", tended);
}

/// What is there, wanted as it is.
fn as_wanted(seen: &flock_core::route::ObservedRoute) -> Option<flock_core::route::Route> {
    let (destination, protocol) = (seen.destination, seen.protocol);
    Some(flock_core::route::Route { destination, protocol, next_hop: seen.next_hop.clone()? })
}

async fn add(node: &Node, source: &FakePodSource, number: u32, shared: u32) -> File {
    let netns = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let netns = netns.join().unwrap();
    let mut pod = pod_view(&format!("default/pod-{number}"));
    if let Some(group) = number.checked_rem(shared / 2) {
        let anycast = format!("2001:db8:a::{:x}, 203.0.113.{}", group + 1, group + 1);
        pod.annotations = BTreeMap::from([("flock.fritzlab.net/anycast".to_owned(), anycast)]);
    }
    let key = pod.key.clone();
    source.set_pod(pod);
    let guard = node.lock(AttachmentId::parse(&format!("{number:064x}/eth0")).unwrap()).await;
    let request = AttachRequest {
        netns: NetnsPath::parse(&format!("/proc/self/fd/{}", netns.as_raw_fd())).unwrap(),
        entrance: None,
        pod: Some(key),
        uid: None,
        annotations: None,
        mtu: None,
        loopback_runs: false,
    };
    let clock = || Timestamp::from_millis(1);
    node.attach(&guard, &request, &clock, u64::from(number), &|| false).await.unwrap();
    netns
}

/// CPU time this process has used.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().into()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let rank = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1].as_micros();
    println!("{what:<16} CPU median {} us, p95 {} us, worst {} us", rank(50), rank(95), rank(100));
}
