//! Reads what the kernel says. Only the few fields flock wants are looked at, and anything short, unknown
//! or odd is passed over: a kernel newer than flock, or somebody's exotic route, must not keep it from
//! seeing its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ports::Mac;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{DefaultNla, NLMSG_DONE, NLMSG_ERROR, NlasIterator};

const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

/// Set on a next hop that is taken at its word: its gateway need not be reachable otherwise.
const RTNH_F_ONLINK: u8 = 4;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// One netlink message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// How a request ended.
pub(crate) struct Outcome<'a> {
    /// `None` is success.
    pub(crate) errno: Option<Errno>,
    /// What the kernel has to say about it.
    pub(crate) text: Option<&'a str>,
}

/// The messages of a datagram, up to the first that is cut short.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let message = Message {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            sequence: u32_at(rest, 8)?,
            payload: rest.get(16..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

impl<'a> Message<'a> {
    /// How the request ended, if this message says so.
    pub(crate) fn outcome(&self) -> Option<Outcome<'a>> {
        let attributes_at = match self.kind {
            NLMSG_DONE => 4,
            NLMSG_ERROR if self.flags & NLM_F_CAPPED != 0 => 4 + 16,
            // The request as it was sent stands before the attributes.
            NLMSG_ERROR => 4 + (u32_at(self.payload, 4).unwrap_or(16) as usize).next_multiple_of(4),
            _ => return None,
        };
        // A DONE without a code is a success.
        let code = u32_at(self.payload, 0).map_or(0, u32::cast_signed);
        let errno = (code != 0).then(|| Errno::from_raw(code.wrapping_neg()));
        let mut text = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let said = attributes(self.payload, attributes_at).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG);
            text = said.and_then(|(_, value)| std::str::from_utf8(value).ok());
        }
        Some(Outcome { errno, text: text.map(|text| text.trim_end_matches('\0')) })
    }
}

/// Attributes from `offset` on, up to the first that is cut short.
pub(crate) fn attributes(payload: &[u8], offset: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let bytes = payload.get(offset..).unwrap_or_default();
    NlasIterator::new(bytes).map_while(Result::ok).map(move |attribute| {
        // The iterator has checked the length; the value is found by address arithmetic it hides.
        (attribute.kind(), attribute.into_inner().get(4..usize::from(attribute.length())).unwrap_or_default())
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|raw| u16::from_ne_bytes(*raw))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_ne_bytes(*raw))
}

pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// A link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) name: String,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    /// Is up and sees the other end up, or nobody may add a nexthop object to it.
    pub(crate) carrier: bool,
    /// Carries packets: the operational state is up (RFC 2863).
    pub(crate) running: bool,
    pub(crate) group: u32,
    pub(crate) veth: bool,
    /// Index of the other end of a veth, in the other end's namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) alias: Option<Vec<u8>>,
    /// Its further names.
    pub(crate) names: Vec<String>,
}

impl Link {
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        const IFF_UP: u32 = 1;
        const IFF_LOWER_UP: u32 = 1 << 16;
        const IF_OPER_UP: &[u8] = &[6];
        const IFLA_INFO_KIND: u16 = 1;
        const IFLA_PROP_LIST: u16 = 52;
        const IFLA_ALT_IFNAME: u16 = 53;
        let payload = (message.kind == RTM_NEWLINK).then_some(message.payload)?;
        let flags = u32_at(payload, 8)?;
        let (up, carrier) = (flags & IFF_UP != 0, flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP);
        let mut link = Self { index: u32_at(payload, 4)?, up, carrier, ..Self::default() };
        for (kind, value) in attributes(payload, 16) {
            match kind {
                1 => link.mac = value.try_into().unwrap_or_default(),
                3 => link.name = text(value),
                4 => link.mtu = u32_at(value, 0)?,
                5 => link.peer = u32_at(value, 0),
                16 => link.running = value == IF_OPER_UP,
                18 => {
                    let is_veth = |(kind, value)| kind == IFLA_INFO_KIND && without_nul(value) == b"veth";
                    link.veth = attributes(value, 0).any(is_veth);
                }
                20 => link.alias = Some(without_nul(value).to_vec()),
                27 => link.group = u32_at(value, 0)?,
                IFLA_PROP_LIST => {
                    let names = attributes(value, 0).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                    link.names = names.map(|(_, name)| text(name)).collect();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(without_nul(value)).into_owned()
}

fn without_nul(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

/// An address of an interface.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) ifindex: u32,
    pub(crate) net: IpNet,
    /// `IFA_F_*`.
    pub(crate) flags: u32,
}

impl Address {
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let payload = (message.kind == RTM_NEWADDR).then_some(message.payload)?;
        let (prefix_len, short_flags) = (*payload.get(1)?, *payload.get(2)?);
        let (mut address, mut local, mut flags) = (None, None, u32::from(short_flags));
        for (kind, value) in attributes(payload, 8) {
            match kind {
                1 => address = ip(value),
                2 => local = ip(value),
                8 => flags = u32_at(value, 0)?,
                _ => {}
            }
        }
        // On a point-to-point interface the first is the other end.
        let net = IpNet::new(local.or(address)?, prefix_len).ok()?;
        Some(Self { ifindex: u32_at(payload, 4)?, net, flags })
    }
}

/// A neighbour.
#[derive(Debug, Clone)]
pub(crate) struct Neighbour {
    pub(crate) ifindex: u32,
    pub(crate) address: IpAddr,
    pub(crate) permanent: bool,
}

impl Neighbour {
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        const NUD_PERMANENT: u16 = 0x80;
        let payload = (message.kind == RTM_NEWNEIGH).then_some(message.payload)?;
        let (_, address) = attributes(payload, 12).find(|(kind, _)| *kind == 1)?;
        let permanent = u16_at(payload, 8)? & NUD_PERMANENT != 0;
        Some(Self { ifindex: u32_at(payload, 4)?, address: ip(address)?, permanent })
    }
}

/// A route of whatever kind.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    pub(crate) scope: u8,
    /// `RTN_*`.
    pub(crate) kind: u8,
    pub(crate) metric: u32,
    pub(crate) oif: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    /// Type of service: routes of one prefix that differ in it are different routes (IPv4).
    pub(crate) tos: u8,
    /// What says where the route leads in place of one interface and gateway, as the kernel wrote it: several
    /// next hops, or a nexthop object.
    pub(crate) hops: Option<DefaultNla>,
    /// Several next hops; the kernel may tell those of a nexthop object too.
    pub(crate) several: Vec<Hop>,
    /// The nexthop object.
    pub(crate) nexthop: Option<u32>,
    /// The gateway is taken at its word.
    pub(crate) onlink: bool,
    /// Has something flock never writes: a type of service, an encapsulation, a gateway of the other family.
    pub(crate) exotic: bool,
    /// Not a route but what a lookup made of one.
    pub(crate) cloned: bool,
}

/// One of several next hops of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) ifindex: u32,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) weight: u16,
    pub(crate) onlink: bool,
}

impl Route {
    /// Leads to a group, in any of the forms flock gives one, and so belongs to no single link.
    pub(crate) fn is_spread(&self) -> bool {
        self.hops.is_some() || (self.gateway.is_some() && self.onlink)
    }

    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        const RTM_F_CLONED: u32 = 0x200;
        const RTA_MULTIPATH: u16 = 9;
        const RTA_NH_ID: u16 = 30;
        let payload = (message.kind == RTM_NEWROUTE).then_some(message.payload)?;
        let &[family, prefix_len, _, tos, table, protocol, scope, kind] = payload.first_chunk()?;
        let flags = u32_at(payload, 8)?;
        let (cloned, onlink) = (flags & RTM_F_CLONED != 0, flags & u32::from(RTNH_F_ONLINK) != 0);
        let any: IpAddr = match family {
            AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut destination = any;
        let (mut metric, mut oif, mut gateway, mut source) = (0, None, None, None);
        let (mut table, mut exotic, mut hops) = (u32::from(table), tos != 0, None);
        let (mut several, mut nexthop) = (Vec::new(), None);
        for (kind, value) in attributes(payload, 12) {
            match kind {
                1 => destination = ip(value)?,
                4 => oif = u32_at(value, 0),
                5 => gateway = ip(value),
                6 => metric = u32_at(value, 0)?,
                7 => source = ip(value),
                RTA_MULTIPATH => {
                    several = read_hops(value);
                    let first = several.first();
                    oif = first.map(|hop| hop.ifindex);
                    gateway = first.and_then(|hop| hop.gateway);
                    hops = hops.or_else(|| Some(DefaultNla::new(kind, value.to_vec())));
                }
                15 => table = u32_at(value, 0)?,
                18 | 22 => exotic = true,
                // The kernel may say what is in the object too, but does not want to hear it.
                RTA_NH_ID => {
                    nexthop = u32_at(value, 0);
                    hops = Some(DefaultNla::new(kind, value.to_vec()));
                }
                _ => {}
            }
        }
        let destination = IpNet::new(destination, prefix_len).ok()?;
        Some(Self {
            destination,
            table,
            protocol,
            scope,
            kind,
            metric,
            oif,
            gateway,
            source,
            tos,
            hops,
            several,
            nexthop,
            onlink,
            exotic,
            cloned,
        })
    }
}

/// Several next hops (`struct rtnexthop`), up to the first that is cut short.
fn read_hops(value: &[u8]) -> Vec<Hop> {
    let mut rest = value;
    let next = || {
        let length = usize::from(u16_at(rest, 0)?);
        let &[_, _, flags, weight, ..] = rest.get(..length)?.first_chunk::<8>()?;
        let hop = rest.get(..length)?;
        let gateway = attributes(hop, 8).find(|(kind, _)| *kind == 5).and_then(|(_, value)| ip(value));
        let ifindex = u32_at(hop, 4)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Hop { ifindex, gateway, weight: u16::from(weight) + 1, onlink: flags & RTNH_F_ONLINK != 0 })
    };
    std::iter::from_fn(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_everything(datagram: &[u8]) {
        for message in messages(datagram) {
            message.outcome();
            let _ = (Link::read(&message), Address::read(&message));
            let _ = (Neighbour::read(&message), Route::read(&message));
        }
    }

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    proptest! {
        #[test]
        fn noise_is_passed_over(datagram in prop::collection::vec(any::<u8>(), 0..600)) {
            read_everything(&datagram);
        }

        #[test]
        fn short_and_odd_attributes_are_passed_over(
            kind in prop::sample::select(vec![2u16, 3, 16, 20, 24, 28]),
            flags in any::<u16>(),
            header in prop::collection::vec(any::<u8>(), 0..20),
            attributes in prop::collection::vec((0u16..32, prop::collection::vec(any::<u8>(), 0..20)), 0..8),
            cut in 0usize..8,
        ) {
            let mut payload = header;
            payload.extend(attributes.iter().flat_map(|(kind, value)| attribute(*kind, value)));
            let mut datagram = message(kind, flags, &payload);
            datagram.truncate(datagram.len().saturating_sub(cut));
            read_everything(&datagram);
        }
    }

    #[test]
    fn a_refusal_is_read_with_its_explanation() {
        let request = [20u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4], [7; 4]].concat();
        let text = attribute(NLMSGERR_ATTR_MSG, b"Invalid source address\0");
        let payload = [(-22i32).to_ne_bytes().to_vec(), request.clone(), text.clone()].concat();
        let capped = [(-22i32).to_ne_bytes().to_vec(), request[..16].to_vec(), text].concat();
        for (flags, payload) in [(NLM_F_ACK_TLVS, payload), (NLM_F_ACK_TLVS | NLM_F_CAPPED, capped)] {
            let datagram = message(NLMSG_ERROR, flags, &payload);
            let outcome = messages(&datagram).next().unwrap().outcome().unwrap();
            assert_eq!(outcome.errno, Some(Errno::EINVAL));
            assert_eq!(outcome.text, Some("Invalid source address"));
        }
    }

    #[test]
    fn an_acknowledgement_is_no_error() {
        for payload in [vec![0; 20], vec![]] {
            let datagram = message(NLMSG_ERROR, 0, &payload);
            assert!(messages(&datagram).next().unwrap().outcome().unwrap().errno.is_none());
        }
    }

    #[test]
    fn several_messages_share_a_datagram() {
        let datagram = [message(16, 0, &[0; 16]), message(20, 0, &[0; 8])].concat();
        assert_eq!(messages(&datagram).map(|message| message.kind).collect::<Vec<_>>(), [16, 20]);
    }
}
