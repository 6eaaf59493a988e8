//! Reads the headers of a packet a pod may have made up: bounds-checked, and in bounded time.

use std::net::IpAddr;

use flock_core::policy::Protocol;

/// Extension headers that are followed; a packet has one or two.
const EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ICMP4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMP6: u8 = 58;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// What is behind the addresses of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Ports.
    Ports {
        /// Whose.
        protocol: Protocol,
        /// The sender's.
        from: u16,
        /// The receiver's.
        to: u16,
    },
    /// ICMP, or `ICMPv6` between IPv6 addresses.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Another protocol by its number, a later fragment, or a packet that is too short.
    Other {
        /// The number in the header before it.
        protocol: u8,
    },
}

/// Addresses, and what is behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) payload: Payload,
}

/// Reads the first bytes of a packet; `None` where they hold no addresses.
pub(super) fn headers(packet: &[u8]) -> Option<Headers> {
    match packet.first()? >> 4 {
        4 => four(packet),
        6 => six(packet),
        _ => None,
    }
}

fn four(packet: &[u8]) -> Option<Headers> {
    let (from, to) = (at::<4>(packet, 12)?, at::<4>(packet, 16)?);
    let protocol = *packet.get(9)?;
    let length = usize::from(packet.first()? & 0xf) * 4;
    let offset = u16::from_be_bytes(at(packet, 6)?) & 0x1fff;
    let payload = if offset == 0 && length >= 20 {
        payload(protocol, packet.get(length..).unwrap_or_default())
    } else {
        Payload::Other { protocol }
    };
    Some(Headers { from: from.into(), to: to.into(), payload })
}

fn six(packet: &[u8]) -> Option<Headers> {
    let (from, to) = (at::<16>(packet, 8)?, at::<16>(packet, 24)?);
    let (mut protocol, mut rest) = (*packet.get(6)?, packet.get(40..)?);
    let mut later = false;
    for _ in 0..EXTENSIONS {
        let Some((next, length)) = extension(protocol, rest) else { break };
        later |= protocol == FRAGMENT && u16::from_be_bytes(at(rest, 2)?) & 0xfff8 != 0;
        protocol = next;
        rest = rest.get(length..).unwrap_or_default();
        if later {
            break;
        }
    }
    let payload = if later { Payload::Other { protocol } } else { payload(protocol, rest) };
    Some(Headers { from: from.into(), to: to.into(), payload })
}

/// What follows an extension header, and its length; `None` where it is none, or is cut short.
fn extension(protocol: u8, bytes: &[u8]) -> Option<(u8, usize)> {
    let [next, length] = at(bytes, 0)?;
    let length = usize::from(length);
    let length = match protocol {
        HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => (length + 1) * 8,
        FRAGMENT => 8,
        AUTHENTICATION => (length + 2) * 4,
        _ => return None,
    };
    (bytes.len() >= 8).then_some((next, length))
}

fn payload(protocol: u8, bytes: &[u8]) -> Payload {
    let with_ports = match protocol {
        TCP => Some(Protocol::Tcp),
        UDP => Some(Protocol::Udp),
        SCTP => Some(Protocol::Sctp),
        _ => None,
    };
    let ports = || Some((with_ports?, u16::from_be_bytes(at(bytes, 0)?), u16::from_be_bytes(at(bytes, 2)?)));
    if let Some((protocol, from, to)) = ports() {
        return Payload::Ports { protocol, from, to };
    }
    match (protocol, at(bytes, 0)) {
        (ICMP4 | ICMP6, Some([kind, code])) => Payload::Icmp { kind, code },
        _ => Payload::Other { protocol },
    }
}

fn at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        for host in [1, 2] {
            packet.extend(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host).octets());
        }
        packet.extend(rest);
        packet
    }

    fn v4(words: u8, offset: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x40 | words, 0, 0, 0, 0, 0];
        packet.extend(offset.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        packet.extend(rest);
        packet
    }

    const PORTS: [u8; 4] = [0x0f, 0xa0, 0, 80];

    fn ports(protocol: Protocol) -> Payload {
        Payload::Ports { protocol, from: 4000, to: 80 }
    }

    fn other(protocol: u8) -> Payload {
        Payload::Other { protocol }
    }

    #[test]
    fn ports_are_found_behind_options_and_extensions() {
        let options = [&[1; 8][..], &PORTS].concat();
        let chain = |kinds: &[u8], last: u8| {
            let nexts = kinds.iter().skip(1).chain([&last]);
            let headers = kinds.iter().zip(nexts).flat_map(|(_, next)| [*next, 0, 0, 0, 0, 0, 0, 0]);
            headers.chain(PORTS).collect::<Vec<u8>>()
        };
        let ah = [&[TCP, 4][..], &[0; 22], &PORTS].concat();
        let later = [&[TCP, 0, 0, 8, 0, 0, 0, 0][..], &PORTS].concat();
        let cases = [
            (v6(TCP, &PORTS), ports(Protocol::Tcp)),
            (v6(SCTP, &PORTS), ports(Protocol::Sctp)),
            (v6(ICMP6, &[128, 0]), Payload::Icmp { kind: 128, code: 0 }),
            (
                v6(HOP_BY_HOP, &chain(&[HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION], UDP)),
                ports(Protocol::Udp),
            ),
            (v6(AUTHENTICATION, &ah), ports(Protocol::Tcp)),
            (v6(FRAGMENT, &later), other(TCP)),
            (v6(DESTINATION, &chain(&[DESTINATION; 9], TCP)), other(DESTINATION)),
            (v6(HOP_BY_HOP, &[TCP, 200, 0, 0, 0, 0, 0, 0]), other(TCP)),
            (v6(TCP, &PORTS[..3]), other(TCP)),
            (v6(59, &[]), other(59)),
            (v4(5, 0, TCP, &PORTS), ports(Protocol::Tcp)),
            (v4(7, 0x4000, UDP, &options), ports(Protocol::Udp)),
            (v4(5, 0, ICMP4, &[8, 0]), Payload::Icmp { kind: 8, code: 0 }),
            (v4(5, 185, UDP, &PORTS), other(UDP)),
            (v4(4, 0, TCP, &PORTS), other(TCP)),
            (v4(15, 0, TCP, &PORTS), other(TCP)),
            (v4(5, 0, 47, &[]), other(47)),
        ];
        for (packet, expected) in cases {
            let found = headers(&packet).unwrap();
            assert_eq!(found.payload, expected, "{packet:?}");
            let ends = if packet[0] >> 4 == 6 {
                ["2001:db8:1::1", "2001:db8:1::2"]
            } else {
                ["192.0.2.1", "192.0.2.2"]
            };
            assert_eq!([found.from, found.to].map(|end| end.to_string()), ends);
        }
        for short in [vec![], vec![0x50; 60], v6(TCP, &[])[..39].to_vec(), v4(5, 0, TCP, &[])[..19].to_vec()]
        {
            assert_eq!(headers(&short), None, "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn no_packet_is_too_odd_to_be_read(start in 0..=255_u8, next in any::<u8>(), rest: Vec<u8>) {
            let _ = headers(&[&[start, 0, 0, 0, 0, 0, next], rest.as_slice()].concat());
            let _ = headers(&v6(next, &rest));
            let _ = headers(&v4(start & 0xf, 0, next, &rest));
        }
    }
}
