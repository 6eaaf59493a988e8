//! Identity in an address, and back: `cargo run -p flock-core --example embed_and_recognise`.
//! The algorithm and test vectors for other tools are in `docs/embedding.md`.
#![allow(clippy::print_stdout)] // an example talks to its reader

use std::net::Ipv6Addr;

use flock_core::iid::{Embedding, Field, Identity};
use ipnet::Ipv6Net;

const FIELDS: [Field; 2] = [Field::Namespace, Field::Pod];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool: Ipv6Net = "2001:db8:f001::/64".parse()?;
    let candidates = [("shop", "web-0"), ("shop", "web-1"), ("shop", "db-0"), ("blog", "web-0")];
    let embedding =
        |(namespace, pod): (&str, &str)| Embedding::new(&FIELDS, &Identity { namespace, pod, image: None });

    // The random bits are the caller's; flock takes them from its allocator, see `Ipam`.
    let address = embedding(("shop", "web-1"))?.embed(pool, 0x2a)?;
    println!(
        "shop/web-1 may have {address}, or any other of {:?}",
        embedding(("shop", "web-1"))?.ranges(pool)?
    );

    let stranger: Ipv6Addr = "2001:db8:f001::1234".parse()?;
    for seen in [address, stranger] {
        let mut found = Vec::new();
        for pod in candidates {
            if embedding(pod)?.matches(seen, pool)? {
                found.push(format!("{}/{}", pod.0, pod.1));
            }
        }
        println!(
            "{seen} belongs to {}",
            if found.is_empty() { "none of them".to_owned() } else { found.join(", ") }
        );
    }
    Ok(())
}
