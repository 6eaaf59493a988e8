//! Anycast addresses beside the `loopback` plugin, which a runtime of Kubernetes runs at the same time: it brings `lo`
//! up, looks at its addresses, and fails when there are others than its own.

use std::net::IpAddr;

use flock_core::ports::{Netlink, NetnsPath, PodLink};
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressAttribute;

use crate::world::{World, edit, eventually, index_of, inside, on_node, set_up};

const ANYCAST: [&str; 2] = ["2001:db8:a::53", "203.0.113.53"];
const LO: u32 = 1;

fn sharing(world: &World) -> PodLink {
    let anycast = ANYCAST.map(|address| address.parse().unwrap()).into();
    PodLink { anycast, loopback_runs: true, ..world.pod("a", Some("2001:db8::2"), Some("192.0.2.2")) }
}

/// Addresses on a link of the pod, link-local ones left out.
fn addresses(netns: &NetnsPath, index: u32) -> Vec<String> {
    let found: Vec<IpAddr> = edit(Some(netns), async |handle| {
        let messages = handle.address().get().set_link_index_filter(index).execute().into_stream();
        let messages: Vec<_> = messages.map(Result::unwrap).collect().await;
        let own = |attribute: AddressAttribute| match attribute {
            AddressAttribute::Address(address) => Some(address),
            _ => None,
        };
        messages.into_iter().filter_map(|message| message.attributes.into_iter().find_map(own)).collect()
    });
    let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
    found.retain(|address| !address.starts_with("fe80"));
    found.sort();
    found
}

#[test]
fn the_plugin_finds_lo_as_it_must_be_and_the_pod_has_its_anycast_addresses_in_the_end() {
    on_node(async |world| {
        let link = sharing(world);
        let netns = link.netns.clone();
        let plugin = std::thread::spawn(move || {
            // As late as can be: the rest of the attachment is there.
            let eth0 = || inside(Some(&netns), || index_of("eth0"));
            eventually("the pod has its addresses", || {
                eth0().is_some_and(|eth0| addresses(&netns, eth0) == ["192.0.2.2", "2001:db8::2"])
            });
            edit(Some(&netns), async |handle| set_up(&handle, LO).await);
            addresses(&netns, LO)
        });
        world.kernel.attach(&link).await.unwrap();
        assert_eq!(plugin.join().unwrap(), ["127.0.0.1", "::1"]);
        assert_eq!(addresses(&link.netns, LO), ["127.0.0.1", ANYCAST[0], ANYCAST[1], "::1"]);
    });
}

#[test]
fn a_runtime_that_runs_no_such_plugin_has_its_pod_attached_all_the_same() {
    on_node(async |world| {
        let link = sharing(world);
        world.kernel.attach(&link).await.unwrap();
        assert_eq!(addresses(&link.netns, LO), ["127.0.0.1", ANYCAST[0], ANYCAST[1], "::1"]);
    });
}
