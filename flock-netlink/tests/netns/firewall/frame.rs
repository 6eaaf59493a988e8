//! Frames a pod makes up itself.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};

use super::bench::Host;
use crate::world::inside;

pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;

/// Adds up pairs of bytes as checksums do.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

fn fold(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    sum.to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V6(v6) => v6.octets().into(),
        IpAddr::V4(v4) => v4.octets().into(),
    }
}

/// A packet, with the checksum at its place in the payload.
pub(crate) fn packet(source: IpAddr, target: IpAddr, protocol: u8, mut payload: Vec<u8>) -> Vec<u8> {
    let at = if protocol == UDP { 6 } else { 2 };
    let length = u16::try_from(payload.len()).unwrap();
    let (source, target) = (octets(source), octets(target));
    let pseudo = sum(&source) + sum(&target) + u32::from(length) + u32::from(protocol);
    let checksum = fold(pseudo + sum(&payload));
    payload[at..at + 2].copy_from_slice(&checksum);
    let header = if source.len() == 16 {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([protocol, 255]);
        [header, source, target].concat()
    } else {
        let mut header = vec![0x45, 0];
        header.extend((length + 20).to_be_bytes());
        header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        header.extend([source, target].concat());
        let checksum = fold(sum(&header));
        header[10..12].copy_from_slice(&checksum);
        header
    };
    [header, payload].concat()
}

pub(crate) fn datagram(source: IpAddr, target: IpAddr, port: u16, text: &[u8]) -> Vec<u8> {
    let mut payload = 4000_u16.to_be_bytes().to_vec();
    payload.extend(port.to_be_bytes());
    payload.extend(u16::try_from(8 + text.len()).unwrap().to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(text);
    packet(source, target, UDP, payload)
}

/// A pod sends a packet, straight onto its link to the node.
pub(crate) fn send(pod: &Host, packet: &[u8]) {
    inside(pod.netns.as_ref(), || {
        let mut link = getifaddrs().unwrap().filter(|found| found.interface_name == "eth0");
        let link = link.find_map(|found| found.address?.as_link_addr().copied()).unwrap();
        let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        let frame = [pod.gateway.as_slice(), &link.addr().unwrap(), &kind, packet].concat();
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let sent = sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    });
}
