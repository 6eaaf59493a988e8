//! Real packets: what the links are for.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use flock_core::ports::{Netlink, NetnsPath, PodLink};
use flock_core::route::{GATEWAY6, host_prefix};
use futures::TryStreamExt;
use ipnet::IpNet;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};

use crate::world::{World, edit, eventually, index_of, inside, on_node};

const NODE6: &str = "2001:db8:ffff::1";
const NODE4: &str = "198.51.100.1";

/// Forwarding on, and an address of each family on the node.
async fn ready(world: &World) {
    world.kernel.prepare_node().await.unwrap();
    edit(None, async |handle| {
        for address in [NODE6, NODE4] {
            let net = host_prefix(address.parse().unwrap());
            let mut add = handle.address().add(1, net.addr(), net.prefix_len());
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            add.execute().await.unwrap();
        }
    });
}

fn node_address(like: IpAddr) -> IpAddr {
    if like.is_ipv6() { NODE6.parse().unwrap() } else { NODE4.parse().unwrap() }
}

/// A socket of a pod, or of the node.
fn udp(netns: Option<&NetnsPath>, address: IpAddr) -> UdpSocket {
    let socket = inside(netns, || {
        UdpSocket::bind(SocketAddr::new(address, 0)).unwrap_or_else(|error| panic!("{address}: {error}"))
    });
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// One datagram there and one back.
fn talk(a: &UdpSocket, b: &UdpSocket) {
    let (mut buffer, there, back) = ([0; 16], b"there".as_slice(), b"back".as_slice());
    a.send_to(there, b.local_addr().unwrap()).unwrap();
    let (length, from) = b.recv_from(&mut buffer).expect("the first packet arrives");
    assert_eq!((&buffer[..length], from), (there, a.local_addr().unwrap()));
    b.send_to(back, from).unwrap();
    let (length, from) = a.recv_from(&mut buffer).expect("the answer arrives");
    assert_eq!((&buffer[..length], from), (back, b.local_addr().unwrap()));
}

/// Every frame on every interface of a namespace.
struct Sniffer(OwnedFd);

impl Sniffer {
    fn open() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Self(socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap())
    }

    /// Frames so far: all, and those that ask or tell who has an address.
    fn count(&self) -> (usize, usize) {
        let (mut all, mut asking) = (0, 0);
        let mut frame = [0; 2048];
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            all += 1;
            asking += usize::from(is_asking(&frame[..length]));
        }
        (all, asking)
    }
}

/// ARP, or ICMP for IPv6: router and neighbour discovery (types 133 to 137).
fn is_asking(frame: &[u8]) -> bool {
    match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x06, ..] => true,
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, packet @ ..] => {
            packet.get(6) == Some(&58) && matches!(packet.get(40), Some(133..=137))
        }
        _ => false,
    }
}

#[test]
fn the_sniffer_sees_who_asks() {
    let v6 = |kind: u8| {
        [vec![0; 12], vec![0x86, 0xdd], vec![0, 0, 0, 0, 0, 0, 58], vec![0; 33], vec![kind]].concat()
    };
    assert!(is_asking(&[[0; 12].as_slice(), &[0x08, 0x06]].concat()));
    assert!(is_asking(&v6(135)) && !is_asking(&v6(128)));
}

#[test]
fn node_and_pods_talk_at_once_and_nobody_asks_for_neighbours() {
    on_node(async |world| {
        ready(world).await;
        let sniffer = Sniffer::open();
        let pods = [
            world.pod("dual", Some("2001:db8::1"), Some("192.0.2.1")),
            world.pod("six", Some("2001:db8::2"), None),
            world.pod("four", None, Some("192.0.2.3")),
        ];
        for link in &pods {
            world.kernel.attach(link).await.unwrap();
            for address in link.identity.addresses.iter() {
                let pod = udp(Some(&link.netns), address);
                talk(&udp(None, node_address(address)), &pod);
                talk(&pod, &udp(None, node_address(address)));
            }
        }
        let (frames, asking) = sniffer.count();
        assert!(frames >= 16, "each of 16 datagrams crossed a link, {frames} seen");
        assert_eq!(asking, 0);
    });
}

#[test]
fn pods_of_a_node_talk_to_each_other() {
    on_node(async |world| {
        ready(world).await;
        let pods = [
            world.pod("a", Some("2001:db8::1"), Some("192.0.2.1")),
            world.pod("b", Some("2001:db8::2"), Some("192.0.2.2")),
        ];
        let sniffer = Sniffer::open();
        for link in &pods {
            world.kernel.attach(link).await.unwrap();
        }
        let [a, b] = &pods;
        for (from, to) in a.identity.addresses.iter().zip(b.identity.addresses.iter()) {
            talk(&udp(Some(&a.netns), from), &udp(Some(&b.netns), to));
        }
        assert_eq!(sniffer.count().1, 0);
    });
}

#[test]
fn a_full_packet_fits_the_link() {
    on_node(async |world| {
        ready(world).await;
        for (container, mtu, host) in [("small", 1280, 1), ("jumbo", 9000, 2), ("huge", 65535, 3)] {
            let address = format!("2001:db8::{host}");
            let link = PodLink { mtu, ..world.pod(container, Some(&address), None) };
            world.kernel.attach(&link).await.unwrap();
            let (node, pod) =
                (udp(None, NODE6.parse().unwrap()), udp(Some(&link.netns), address.parse().unwrap()));
            let sniffer = Sniffer::open();
            let payload = vec![7; mtu as usize - 40 - 8];
            node.send_to(&payload, pod.local_addr().unwrap()).unwrap();
            let mut buffer = vec![0; 65536];
            assert_eq!(pod.recv(&mut buffer).unwrap(), payload.len());
            assert_eq!(sniffer.count().0, 1, "in one piece");
        }
    });
}

/// Addresses with their flags, of one interface.
fn addresses(netns: Option<&NetnsPath>, ifname: &str) -> Vec<(IpNet, AddressFlags)> {
    let index = inside(netns, || index_of(ifname)).unwrap();
    edit(netns, async |handle| {
        let mut found = Vec::new();
        let mut messages = handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) = messages.try_next().await.unwrap() {
            let (mut address, mut flags) = (None, AddressFlags::empty());
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Address(ip) => address = Some(*ip),
                    AddressAttribute::Flags(all) => flags = *all,
                    _ => {}
                }
            }
            found.push((IpNet::new(address.unwrap(), message.header.prefix_len).unwrap(), flags));
        }
        found.sort_by_key(|(net, _)| *net);
        found
    })
}

#[test]
fn addresses_are_ready_at_once_and_there_are_no_others() {
    on_node(async |world| {
        let link = world.pod("a", Some("2001:db8::1"), Some("192.0.2.1"));
        let state = world.kernel.attach(&link).await.unwrap();
        let in_pod = addresses(Some(&link.netns), "eth0");
        let on_host = addresses(None, state.host.ifname.as_str());
        for (net, flags) in in_pod.iter().chain(&on_host) {
            assert!(!flags.contains(AddressFlags::Tentative), "{net}: {flags:?}");
            assert!(flags.contains(AddressFlags::Permanent), "{net}: {flags:?}");
        }
        let nets = |found: &[(IpNet, AddressFlags)]| found.iter().map(|(net, _)| *net).collect::<Vec<_>>();
        assert_eq!(nets(&in_pod), ["192.0.2.1/32", "2001:db8::1/128"].map(|net| net.parse().unwrap()));
        assert_eq!(nets(&on_host), [IpNet::new(GATEWAY6.into(), 64).unwrap()]);
        assert_eq!(addresses(Some(&link.netns), "lo").len(), 2, "127.0.0.1 and ::1");
    });
}

fn sysctl(netns: Option<&NetnsPath>, name: &str) -> String {
    inside(netns, || std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap().trim().to_owned())
}

fn set_sysctl(netns: Option<&NetnsPath>, name: &str, value: &str) {
    inside(netns, || std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap());
}

#[test]
fn host_veth_forwards_whatever_the_node_inherits() {
    on_node(async |world| {
        for (setting, value) in [
            ("forwarding", "0"),
            ("proxy_arp", "1"),
            ("rp_filter", "1"),
            ("ignore_routes_with_linkdown", "0"),
        ] {
            set_sysctl(None, &format!("ipv4/conf/default/{setting}"), value);
        }
        let state = world.kernel.attach(&world.pod("a", None, Some("192.0.2.1"))).await.unwrap();
        let of = |setting: &str| sysctl(None, &format!("ipv4/conf/{}/{setting}", state.host.ifname));
        assert_eq!(
            ["forwarding", "proxy_arp", "rp_filter", "ignore_routes_with_linkdown"].map(of),
            ["1", "0", "0", "1"]
        );
    });
}

#[test]
fn ipv6_is_switched_on_where_a_pod_wants_it() {
    on_node(async |world| {
        ready(world).await;
        let dual = world.pod("dual", Some("2001:db8::1"), Some("192.0.2.1"));
        let four = world.pod("four", None, Some("192.0.2.2"));
        for link in [&dual, &four] {
            for scope in ["all", "default"] {
                set_sysctl(Some(&link.netns), &format!("ipv6/conf/{scope}/disable_ipv6"), "1");
            }
            world.kernel.attach(link).await.unwrap();
        }
        for address in dual.identity.addresses.iter() {
            talk(&udp(None, node_address(address)), &udp(Some(&dual.netns), address));
        }
        for scope in ["all", "default", "lo", "eth0"] {
            assert_eq!(sysctl(Some(&dual.netns), &format!("ipv6/conf/{scope}/disable_ipv6")), "0", "{scope}");
            assert_eq!(sysctl(Some(&four.netns), &format!("ipv6/conf/{scope}/disable_ipv6")), "1", "{scope}");
        }
        assert_eq!(addresses(Some(&dual.netns), "lo").len(), 2, "127.0.0.1 and ::1");
    });
}

#[test]
fn a_node_that_switches_ipv6_off_for_new_interfaces_still_serves_pods() {
    on_node(async |world| {
        ready(world).await;
        set_sysctl(None, "ipv6/conf/default/disable_ipv6", "1");
        let link = world.pod("a", Some("2001:db8::1"), Some("192.0.2.1"));
        let state = world.kernel.attach(&link).await.unwrap();
        assert_eq!(world.kernel.attach(&link).await.unwrap(), state);
        for address in link.identity.addresses.iter() {
            talk(&udp(None, node_address(address)), &udp(Some(&link.netns), address));
        }
        assert_eq!(sysctl(None, "ipv6/conf/default/disable_ipv6"), "1", "not ours to change");
    });
}

#[test]
fn a_pod_uses_its_address_for_its_own_connections() {
    on_node(async |world| {
        ready(world).await;
        let link = world.pod("a", Some("2001:db8::1"), Some("192.0.2.1"));
        world.kernel.attach(&link).await.unwrap();
        for address in link.identity.addresses.iter() {
            let any: IpAddr =
                if address.is_ipv6() { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
            let (pod, node) = (udp(Some(&link.netns), any), udp(None, node_address(address)));
            pod.send_to(b"hello", node.local_addr().unwrap()).unwrap();
            assert_eq!(node.recv_from(&mut [0; 16]).unwrap().1.ip(), address);
        }
    });
}

#[test]
fn nobody_answers_after_a_detach() {
    on_node(async |world| {
        ready(world).await;
        let link = world.pod("a", Some("2001:db8::1"), None);
        world.kernel.attach(&link).await.unwrap();
        let pod = udp(Some(&link.netns), "2001:db8::1".parse().unwrap());
        let node = udp(None, NODE6.parse().unwrap());
        talk(&node, &pod);
        world.detach(&link).await;
        let refused = node.send_to(b"late", pod.local_addr().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::NetworkUnreachable);
        eventually("the interface of the pod is gone", || {
            inside(Some(&link.netns), || index_of("eth0")).is_none()
        });
    });
}
