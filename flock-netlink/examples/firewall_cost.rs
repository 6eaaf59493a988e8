//! What the packet filter costs: `cargo run --release -p flock-netlink --example firewall_cost [PEERS]`, as root. Writes
//! the table of a node with 250 pods in a cluster with PEERS (693) selectors of 10 to some 200 pods each, in a network
//! namespace of its own, and changes it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::ids::IfName;
use flock_core::policy::{
    Action, Chain, ChainId, Direction, End, Gate, Guard, Peer, PeerId, Place, PodRules, PortRange, PortsId,
    Protocol, Rule, Ruleset, Stamp, Tier, Update,
};
use flock_core::ports::Firewall;
use flock_netlink::KernelFirewall;
use nix::sched::{CloneFlags, unshare};

const PODS: u32 = 250;
const RULES: u64 = 10;

fn main() {
    let peers = std::env::args().nth(1).map_or(693, |text| text.parse().unwrap());
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(measure(peers));
    })
    .join()
    .unwrap();
}

fn addresses(pod: u32) -> [IpAddr; 2] {
    let v6 = Ipv6Addr::from(0x2001_0db8_0001_u128 << 80 | u128::from(pod));
    // From the range for measurements, which has room for so many pods; nothing is sent.
    [v6.into(), Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() | pod).into()]
}

fn link(pod: u32) -> IfName {
    IfName::parse(&format!("flock{pod:08x}")).unwrap()
}

fn rules(peers: u64) -> Ruleset {
    let mut rules = Ruleset { judging: true, ..Ruleset::default() };
    for id in 0..peers {
        let count = 10 + id * 176 / peers.max(1);
        let pods = (0..count).map(|n| u32::try_from((id * 131 + n * 7) % 10_000).unwrap());
        rules.peers.insert(PeerId(id), Arc::new(pods.flat_map(addresses).collect()));
    }
    for id in 0..20 {
        let first = 80 + u16::try_from(id).unwrap();
        let ranges = [PortRange { first, last: first }, PortRange { first: 8000, last: 8999 }];
        rules.ports.insert(PortsId(id), Arc::from(ranges));
    }
    for pod in 0..PODS {
        let mut gates = BTreeMap::new();
        for (direction, odd) in [(Direction::Egress, 0), (Direction::Ingress, 1)] {
            let id = u64::from(pod) * 2 + odd;
            let rule = |n| Rule {
                peer: Peer::Pods(PeerId((id * RULES + n) % peers)),
                ports: Some((Protocol::Tcp, Some(PortsId(n % 20)))),
                action: Action::Accept,
            };
            let chain = Chain { direction, rules: (0..RULES).map(rule).collect(), end: End::Refuse };
            rules.chains.insert(ChainId(id), Arc::new(chain));
            gates.insert(Gate { direction, tier: Tier::Policy }, ChainId(id));
        }
        let sources = addresses(pod).into();
        rules.pods.insert(link(pod), PodRules { sources, place: Place::Judged(gates) });
    }
    rules
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() - 1) * part / 100).unwrap().as_micros();
    println!("{what:<28} median {:>8} us, p95 {:>8} us ({} times)", at(50), at(95), times.len());
}

async fn timed<T>(work: impl Future<Output = T>) -> Duration {
    let start = Instant::now();
    work.await;
    start.elapsed()
}

async fn measure(peers: u64) {
    let firewall = KernelFirewall::new().unwrap();
    let rules = rules(peers);
    let elements: usize = rules.peers.values().map(|members| members.len()).sum();
    let lines: usize = rules.chains.values().map(|chain| chain.rules.len() * 2 + 1).sum();
    println!("{elements} elements in {} sets, {} chains, {lines} rules", peers * 2, rules.chains.len());
    let mut stamp = Stamp::FIRST;
    let mut times = Vec::new();
    for _ in 0..3 {
        times.push(timed(async { firewall.replace(&rules, stamp).await.unwrap() }).await);
    }
    report("replace", times);
    let start = Instant::now();
    let observed = firewall.observe().await.unwrap().unwrap();
    println!("observe                      {} us", start.elapsed().as_micros());
    assert_eq!(observed, rules.as_observed(Some(stamp)));
    let start = Instant::now();
    rules.as_observed(Some(stamp));
    println!("as_observed                  {} us", start.elapsed().as_micros());

    let mut times = Vec::new();
    for pod in 1000..1200 {
        let guard = Guard { link: link(pod), sources: addresses(pod).into(), shut: true };
        times.push(timed(async { firewall.guard(&guard).await.unwrap() }).await);
    }
    report("guard", times);
    let mut times = Vec::new();
    for _ in 0..200 {
        times.push(timed(async { firewall.fingerprint().await.unwrap() }).await);
    }
    report("fingerprint", times);

    let member = |added: bool| {
        let mut to = rules.clone();
        let members = Arc::make_mut(to.peers.get_mut(&PeerId(peers / 2)).unwrap());
        members.insert("2001:db8:2::1".parse().unwrap());
        if added { Update::between(&rules, &to, stamp) } else { Update::between(&to, &rules, stamp) }
    };
    let (come, go) = (member(true), member(false));
    let mut times = Vec::new();
    for _ in 0..100 {
        times.push(timed(async { firewall.update(&come).await.unwrap() }).await);
        times.push(timed(async { firewall.update(&go).await.unwrap() }).await);
    }
    report("update of one element", times);

    let mut to = rules.clone();
    for id in 0..6 {
        let members = Arc::make_mut(to.peers.get_mut(&PeerId(id)).unwrap());
        members.extend((20_000..21_000).flat_map(addresses));
    }
    let (come, go) = (Update::between(&rules, &to, stamp), Update::between(&to, &rules, stamp));
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(timed(async { firewall.update(&come).await.unwrap() }).await);
        times.push(timed(async { firewall.update(&go).await.unwrap() }).await);
    }
    report("update of 12000 elements", times);

    let mut to = rules.clone();
    to.pods.get_mut(&link(7)).unwrap().place = Place::Open;
    let (open, judge) = (Update::between(&rules, &to, stamp), Update::between(&to, &rules, stamp));
    let mut times = Vec::new();
    for _ in 0..20 {
        times.push(timed(async { firewall.update(&open).await.unwrap() }).await);
        times.push(timed(async { firewall.update(&judge).await.unwrap() }).await);
    }
    report("pod judged or opened", times);

    let chain = Chain { direction: Direction::Egress, rules: Vec::new(), end: End::Refuse };
    let mut to = rules.clone();
    to.chains.insert(ChainId(99_999), Arc::new(chain));
    let (new, gone) = (Update::between(&rules, &to, stamp), Update::between(&to, &rules, stamp));
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(timed(async { firewall.update(&new).await.unwrap() }).await);
        times.push(timed(async { firewall.update(&gone).await.unwrap() }).await);
    }
    report("chain comes or goes (nft)", times);
    let mut times = Vec::new();
    for _ in 0..20 {
        stamp = stamp.next().0;
        let raised = Update::default().judging_again(stamp);
        times.push(timed(async { firewall.update(&raised).await.unwrap() }).await);
    }
    report("stamp raised (nft)", times);
    let gone: BTreeSet<IpAddr> = addresses(1).into();
    println!(
        "forget                       {:?}",
        timed(async { firewall.forget(&gone).await.unwrap() }).await
    );
}
