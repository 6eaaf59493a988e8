//! Addresses for pods, from the pools of a node: `cargo run -p flock-core --example allocate`.
//! The allocator is a value: its owner brings time and entropy, and keeps the snapshot.
#![allow(clippy::print_stdout)] // an example talks to its reader

use flock_core::ids::{AttachmentId, PodKey};
use flock_core::ipam::{Ipam, Pools, Request, Want};
use flock_core::time::Timestamp;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut ipam = Ipam::default();
    let pools = Pools { v6: vec!["2001:db8:f001::/64".parse()?], v4: vec!["192.0.2.0/29".parse()?] };
    ipam.reconfigure(pools, ["192.0.2.2".parse()?].into());

    for second in 0..5 {
        let request = Request {
            attachment: AttachmentId::parse(&format!("container{second}/eth0"))?,
            pod: Some(PodKey::new("default", &format!("web-{second}"))?),
            uid: None,
            netns: None,
            v6: Want::Any,
            v4: if second == 0 { Want::Within(vec!["192.0.2.4/32".parse()?]) } else { Want::Any },
            given: vec![],
            anycast: vec![],
            embed: None,
        };
        match ipam.allocate(&request, Timestamp::from_millis(1000 * second), 0x5eed + second) {
            Ok(given) => println!("web-{second}: {:?}", given.addresses.iter().collect::<Vec<_>>()),
            Err(refused) => println!("web-{second}: {refused} (try again: {:?})", refused.retry()),
        }
        ipam.commit(&request.attachment);
    }

    let now = Timestamp::from_millis(6000);
    ipam.release(&AttachmentId::parse("container1/eth0")?, now);
    for pool in ipam.usage(now) {
        println!(
            "{}: {} of {} in use, {} cooling down",
            pool.cidr, pool.allocated, pool.capacity, pool.cooling
        );
    }
    let restored = Ipam::restore(ipam.snapshot("this boot"))?;
    println!("{} allocations after a restart", restored.allocations().count());
    Ok(())
}
