//! The laws every implementation of the port keeps, on the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;
use flock_core::ids::{AttachmentId, IfName};
use flock_core::ports::{LinkState, Netlink, NetlinkError, NetnsPath, PodLink};
use flock_core::testing::contract::netlink::{Law, NetlinkWorld};
use futures::TryStreamExt;
use ipnet::IpNet;
use nix::net::if_::if_indextoname;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{LinkVeth, RouteMessageBuilder};

use crate::world::{World, append, edit, eventually, on_node, set_link};

fn run(law: Law) {
    on_node(async move |world| law(world).await);
}

flock_core::netlink_contract!(run);

/// Kernels that cannot spread flows as well as this one.
mod older {
    use flock_netlink::Spread;

    use super::Law;
    use crate::world::on_node_with;

    mod plain {
        fn run(law: super::Law) {
            super::on_node_with(super::Spread::Plain, async move |world| law(world).await);
        }

        flock_core::netlink_contract!(run);
    }

    mod multipath {
        fn run(law: super::Law) {
            super::on_node_with(super::Spread::Multipath, async move |world| law(world).await);
        }

        flock_core::netlink_contract!(run);
    }
}

#[async_trait(?Send)]
impl NetlinkWorld for World {
    fn netlink(&self) -> &dyn Netlink {
        &self.kernel
    }

    fn netns(&self) -> NetnsPath {
        self.new_netns()
    }

    async fn remove_netns(&self, netns: &NetnsPath) {
        let ends = edit(Some(netns), async |handle| {
            let mut links = handle.link().get().execute();
            let mut other_ends = Vec::new();
            while let Some(link) = links.try_next().await.unwrap() {
                other_ends.extend(link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::Link(index) => Some(index),
                    _ => None,
                }));
            }
            other_ends
        });
        Self::delete_netns(netns);
        // For an index nobody has this is an error in libc, and an empty name in nix 0.31.
        let is_gone = |index: &u32| if_indextoname(*index).is_ok_and(|name| name.is_empty());
        eventually("the other ends are gone", || ends.iter().all(is_gone));
    }

    async fn put_interface(&self, netns: &NetnsPath, ifname: &IfName) {
        edit(Some(netns), async |handle| {
            handle.link().add(LinkVeth::new(ifname.as_str(), "other").build()).execute().await.unwrap();
        });
    }

    async fn remove_alias(&self, attachment: &AttachmentId) {
        set_link(&attachment.host_ifname(), LinkAttribute::IfAlias(String::new()));
    }

    async fn put_route(&self, destination: IpNet, protocol: u8, metric: u32) {
        let mut message = match destination {
            IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .build(),
            IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .build(),
        };
        message.header.protocol = RouteProtocol::Other(protocol);
        message.header.kind = RouteType::Unreachable;
        if metric > 0 {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        append(message);
    }

    async fn routes(&self) -> BTreeSet<(IpNet, u8, u32)> {
        edit(None, async |handle| {
            let queries = [
                RouteMessageBuilder::<Ipv6Addr>::new().build(),
                RouteMessageBuilder::<Ipv4Addr>::new().build(),
            ];
            let mut found = BTreeSet::new();
            for query in queries {
                let mut routes = handle.route().get(query).execute();
                while let Some(route) = routes.try_next().await.unwrap() {
                    found.extend(as_triple(&route));
                }
            }
            found
        })
    }

    async fn link_is_gone(&self, ifname: &IfName) {
        Self::until_gone(ifname);
    }

    fn attach_now(&self, link: &PodLink) -> Result<LinkState, NetlinkError> {
        futures::executor::block_on(self.kernel.attach(link))
    }
}

fn as_triple(route: &RouteMessage) -> Option<(IpNet, u8, u32)> {
    let v6 = route.header.address_family == rtnetlink::packet_route::AddressFamily::Inet6;
    let mut address = if v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut metric = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(found)) => address = (*found).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(found)) => address = (*found).into(),
            RouteAttribute::Priority(found) => metric = *found,
            _ => {}
        }
    }
    let prefix = IpNet::new(address, route.header.destination_prefix_length).unwrap();
    (route.header.table == RouteHeader::RT_TABLE_MAIN).then_some((
        prefix,
        route.header.protocol.into(),
        metric,
    ))
}
