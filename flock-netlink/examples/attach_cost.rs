//! What an attach and a detach cost: `cargo run --release -p flock-netlink --example attach_cost [PODS [SHARED]]`,
//! as root. Makes a node in a network namespace of its own and PODS (200) pods on it, one after another. With
//! SHARED (0), they share that many addresses among them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use flock_core::ids::AttachmentId;
use flock_core::ipam::Addresses;
use flock_core::ports::{LinkIdentity, Netlink, NetnsPath, PodLink};
use flock_core::route::{Member, Members, NextHop, Route, RouteProtocol, RouteSet, Weight, host_prefix};
use flock_netlink::KernelNetlink;
use futures::future::join_all;
use nix::sched::{CloneFlags, unshare};

fn main() {
    let argument = |at| std::env::args().nth(at).map(|text| text.parse().unwrap());
    let (pods, shared) = (argument(1).unwrap_or(200), argument(2).unwrap_or(0));
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(measure(pods, shared));
    })
    .join()
    .unwrap();
}

async fn measure(pods: u16, shared: u16) {
    let kernel = KernelNetlink::new().unwrap();
    kernel.prepare_node().await.unwrap();
    let links: Vec<(PodLink, File)> = (1..=pods).map(|number| pod(number, shared)).collect();
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
    passes(&kernel, &links).await;
    let mut detaches = Vec::new();
    for (link, _) in &links {
        let start = Instant::now();
        kernel.detach(&link.identity.attachment).await.unwrap();
        detaches.push(start.elapsed());
    }
    report("detach", detaches);

    let burst: Vec<(PodLink, File)> = (pods + 1..=pods + 100).map(|number| pod(number, 0)).collect();
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

/// Passes over the routes: all groups are new, nothing has changed, one pod has left every group it was in.
async fn passes(kernel: &KernelNetlink, links: &[(PodLink, File)]) {
    let everybody = wanted(links.iter().map(|(link, _)| link), None);
    let without_one = wanted(links.iter().map(|(link, _)| link), links.first().map(|(link, _)| link));
    for (what, wanted) in [
        ("first", &everybody),
        ("unchanged", &everybody),
        ("one left", &without_one),
        ("one joined", &everybody),
    ] {
        let start = Instant::now();
        let diff = kernel.sync_routes(&|_| wanted.clone()).await.unwrap();
        println!("pass, {what:<10} {} written in {} us", diff.replace.len(), start.elapsed().as_micros());
    }
}

fn wanted<'a>(links: impl Iterator<Item = &'a PodLink>, left: Option<&PodLink>) -> RouteSet {
    let mut routes = Vec::new();
    let mut groups: BTreeMap<IpAddr, Vec<Member>> = BTreeMap::new();
    for link in links {
        let ifname = link.identity.attachment.host_ifname();
        routes.extend(link.addresses().map(|address| Route {
            destination: host_prefix(address),
            protocol: link.protocol_of(address),
            next_hop: NextHop::Link(ifname.clone()),
        }));
        for address in link.anycast.iter().filter(|_| Some(link) != left) {
            let gateway = link.identity.addresses.v6.unwrap().into();
            let member = Member { gateway, link: ifname.clone(), weight: Weight::Full };
            groups.entry(*address).or_default().push(member);
        }
    }
    let group = |(address, members)| Route {
        destination: host_prefix(address),
        protocol: RouteProtocol::Announce,
        next_hop: NextHop::Group(Members::new(members).unwrap()),
    };
    routes.into_iter().chain(groups.into_iter().map(group)).collect()
}

/// A pod with addresses of both families, and its namespace, held open.
fn pod(number: u16, shared: u16) -> (PodLink, File) {
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
        loopback_runs: false,
        anycast: (shared > 0)
            .then(|| format!("2001:db8:a::{:x}", number % shared).parse().unwrap())
            .into_iter()
            .collect(),
        announced: BTreeSet::new(),
    };
    (link, netns)
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0, Duration::as_micros);
    println!("{what:<14} median {:>5} us, p95 {:>5} us, max {:>5} us", at(50), at(95), at(100).max(at(99)));
}
