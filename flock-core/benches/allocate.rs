//! What a decision of the allocator costs beside 10,000 addresses in use, in prefixes of different size:
//! `cargo bench -p flock-core`. Flat in the size of the prefix, since only used addresses are stored.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement for people")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use flock_core::ids::AttachmentId;
use flock_core::iid::{Embedding, Field, Identity};
use flock_core::ipam::{Ipam, Pools, Request, Want};
use flock_core::time::Timestamp;

const IN_USE: u32 = 10_000;

const NOW: Timestamp = Timestamp::from_millis(0);

fn request(number: u32) -> Request {
    Request {
        attachment: AttachmentId::parse(&format!("{number:064x}/eth0")).unwrap(),
        pod: None,
        uid: None,
        netns: None,
        v6: Want::No,
        v4: Want::No,
        given: vec![],
        anycast: vec![],
        embed: None,
    }
}

/// One family only, so that each figure is that of its prefix.
fn of_pool(pool: &str, number: u32) -> Request {
    let (v6, v4) = if pool.contains(':') { (Want::Any, Want::No) } else { (Want::No, Want::Any) };
    Request { v6, v4, ..request(number) }
}

/// One address, by the annotations `cidr6` and `cidr4`.
fn pinned(pin: &str) -> Request {
    let v6 = pin.parse().map_or(Want::No, |net| Want::Within(vec![net]));
    let v4 = pin.parse().map_or(Want::No, |net| Want::Within(vec![net]));
    Request { v6, v4, ..request(IN_USE) }
}

fn full(pool: &str) -> Ipam {
    let mut ipam = Ipam::default();
    let pools =
        Pools { v6: pool.parse().ok().into_iter().collect(), v4: pool.parse().ok().into_iter().collect() };
    ipam.reconfigure(pools, [].into());
    for number in 0..IN_USE {
        ipam.allocate(&of_pool(pool, number), NOW, u64::from(number)).unwrap();
    }
    ipam
}

fn allocate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocate and release, 10,000 in use");
    for pool in [
        "192.0.0.0/18",
        "192.0.0.0/16",
        "192.0.0.0/12",
        "192.0.0.0/8",
        "2001:db8::/112",
        "2001:db8::/64",
        "2001:db8::/48",
        "2001:db8::/32",
    ] {
        let mut ipam = full(pool);
        let request = of_pool(pool, IN_USE);
        let mut entropy = 0;
        group.bench_function(pool, |bencher| {
            bencher.iter(|| {
                entropy += 1;
                let given = ipam.allocate(black_box(&request), NOW, entropy).unwrap();
                ipam.release(&request.attachment, NOW);
                given
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("allocate, 10,000 in use");
    let identity = Identity { namespace: "default", pod: "web-0", image: None };
    let embedding = Embedding::new(&[Field::Namespace, Field::Pod], &identity).unwrap();
    let given = ["2001:db8:c606::166", "203.0.113.166"].map(|address| address.parse().unwrap());
    for (what, pool, request) in [
        ("any of a /16", "192.0.0.0/16", of_pool("192.0.0.0/16", IN_USE)),
        ("any of a /64", "2001:db8::/64", of_pool("2001:db8::/64", IN_USE)),
        (
            "embedded in a /64",
            "2001:db8::/64",
            Request { embed: Some(embedding), ..of_pool("2001:db8::/64", IN_USE) },
        ),
        ("pinned in a /16", "192.0.0.0/16", pinned("192.0.200.77/32")),
        ("pinned in a /64", "2001:db8::/64", pinned("2001:db8::77/128")),
        ("given", "2001:db8::/64", Request { given: given.into(), ..request(IN_USE) }),
    ] {
        let full = full(pool);
        let mut entropy = 0;
        group.bench_function(what, |bencher| {
            bencher.iter_batched_ref(
                || full.clone(),
                |ipam| {
                    entropy += 1;
                    ipam.allocate(black_box(&request), NOW, entropy).unwrap()
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, allocate);
criterion_main!(benches);
