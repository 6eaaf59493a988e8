//! What an attach and a detach cost: `cargo run --release -p flock-netlink --example attach_cost [PODS]`, as
//! root. Makes a node in a network namespace of its own and PODS (200) pods on it, one after another.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use flock_core::ids::AttachmentId;
use flock_core::ipam::Addresses;
use flock_core::ports::{LinkIdentity, Netlink, NetnsPath, PodLink};
use flock_netlink::KernelNetlink;
use futures::future::join_all;
use nix::sched::{CloneFlags, unshare};

fn main() {
    let pods = std::env::args().nth(1).map_or(200, |pods| pods.parse().unwrap());
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(measure(pods));
    })
    .join()
    .unwrap();
}

async fn measure(pods: u16) {
    let kernel = KernelNetlink::new().unwrap();
    kernel.prepare_node().await.unwrap();
    let links: Vec<(PodLink, File)> = (1..=pods).map(pod).collect();
    let mut attaches = Vec::new();
    for (link, _) in &links {
        let start = Instant::now();
        kernel.attach(link).await.unwrap();
        attaches.push(start.elapsed());
    }
    report("attach", attaches);
    let mut again = Vec::new();
    for (link, _) in &links {
        let start = Instant::now();
        kernel.attach(link).await.unwrap();
        again.push(start.elapsed());
    }
    report("attach again", again);
    let start = Instant::now();
    let listed = kernel.attachments().await.unwrap().len();
    println!("attachments    {listed} in {} us", start.elapsed().as_micros());
    let mut detaches = Vec::new();
    for (link, _) in &links {
        let start = Instant::now();
        kernel.detach(&link.identity.attachment).await.unwrap();
        detaches.push(start.elapsed());
    }
    report("detach", detaches);

    let burst: Vec<(PodLink, File)> = (pods + 1..=pods + 100).map(pod).collect();
    let start = Instant::now();
    for attached in join_all(burst.iter().map(|(link, _)| kernel.attach(link))).await {
        attached.unwrap();
    }
    println!("100 at once    {} ms", start.elapsed().as_millis());
    let start = Instant::now();
    for detached in join_all(burst.iter().map(|(link, _)| kernel.detach(&link.identity.attachment))).await {
        detached.unwrap();
    }
    println!("and away again {} ms", start.elapsed().as_millis());
}

/// A pod with addresses of both families, and its namespace, held open.
fn pod(number: u16) -> (PodLink, File) {
    let netns = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let netns = netns.join().unwrap();
    let [_, low] = number.to_be_bytes();
    let link = PodLink {
        identity: LinkIdentity {
            attachment: AttachmentId::parse(&format!("{number:064x}/eth0")).unwrap(),
            pod: None,
            uid: None,
            addresses: Addresses {
                v6: format!("2001:db8::{number:x}").parse().ok(),
                v4: format!("192.0.2.{low}").parse().ok(),
            },
            more: false,
        },
        netns: NetnsPath::parse(&format!("/proc/self/fd/{}", netns.as_raw_fd())).unwrap(),
        mtu: 1500,
        extra: Vec::new(),
        anycast: Vec::new(),
        announced: BTreeSet::new(),
    };
    (link, netns)
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0, Duration::as_micros);
    println!("{what:<14} median {:>5} us, p95 {:>5} us, max {:>5} us", at(50), at(95), at(100).max(at(99)));
}
