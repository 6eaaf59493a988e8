//! Nexthop objects (linux/nexthop.h, Linux 5.3): ways to go that routes refer to by number. The netlink
//! library has no messages for them, so the few that flock sends and reads are here.

use std::net::IpAddr;

use flock_core::route::RouteProtocol;
use rtnetlink::packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use crate::conn::{Body, Request};
use crate::reply::{self, attributes, ip, u16_at, u32_at};

mod table;

pub(crate) use table::{Changes, Group, IDS, Table, Way};

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP: u16 = 8;
const NHA_FDB: u16 = 11;
const NHA_RES_GROUP: u16 = 12;
const NHA_RES_GROUP_BUCKETS: u16 = 1;
const NHA_RES_GROUP_IDLE_TIMER: u16 = 2;
const NHA_RES_GROUP_UNBALANCED_TIMER: u16 = 3;

const GROUP_TYPE_MPATH: u16 = 0;
const GROUP_TYPE_RES: u16 = 1;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTNH_F_ONLINK: u32 = 4;

/// Who made a nexthop object: the number of quiet routes, whatever the routes that lead there.
pub(crate) const PROTOCOL: u8 = RouteProtocol::Quiet.number();

/// How a group spreads flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// By the share of each member: a change of members moves flows of the others (`mpath`).
    Plain,
    /// By buckets that stay with their member while they are in use (`resilient`, Linux 5.13).
    Resilient {
        /// How many. Fixed when the group is made.
        buckets: u16,
        /// How long a bucket rests before it may move to another member, in hundredths of a second.
        idle: u32,
        /// When buckets are moved even though they are in use, in hundredths of a second; 0 is never.
        unbalanced: u32,
    },
}

impl Form {
    /// What flock makes (datapath.md section 2): with few buckets all of them are always in use, and a new
    /// member gets nothing.
    pub(crate) const RESILIENT: Self = Self::Resilient { buckets: 4096, idle: 60 * 100, unbalanced: 0 };
}

/// A member of a group, and how much it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    pub(crate) weight: u16,
}

/// What a nexthop object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `via GATEWAY dev INTERFACE onlink`.
    Way(Way),
    /// Several of those.
    Group(Form, Vec<Entry>),
    /// Anything flock does not make.
    Other,
}

/// A nexthop object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) id: u32,
    pub(crate) protocol: u8,
    pub(crate) kind: Kind,
}

impl Object {
    pub(crate) fn read(message: &reply::Message<'_>) -> Option<Self> {
        let payload = (message.kind == RTM_NEWNEXTHOP).then_some(message.payload)?;
        let &[_, _, protocol, _] = payload.first_chunk()?;
        let onlink = u32_at(payload, 4)? & RTNH_F_ONLINK != 0;
        let (mut id, mut gateway, mut oif, mut odd) = (None, None, None, !onlink);
        let (mut entries, mut resilient, mut timers) = (None, None, (None, None, None));
        for (kind, value) in attributes(payload, 8) {
            match kind {
                NHA_ID => id = u32_at(value, 0),
                NHA_GROUP => entries = Some(read_entries(value)),
                NHA_GROUP_TYPE => resilient = u16_at(value, 0),
                NHA_OIF => oif = u32_at(value, 0),
                NHA_GATEWAY => gateway = ip(value),
                NHA_BLACKHOLE | NHA_ENCAP | NHA_FDB => odd = true,
                NHA_RES_GROUP => timers = read_timers(value),
                _ => {}
            }
        }
        let form = match (resilient, timers) {
            (Some(GROUP_TYPE_MPATH), _) => Some(Form::Plain),
            (Some(GROUP_TYPE_RES), (Some(buckets), Some(idle), Some(unbalanced))) => {
                Some(Form::Resilient { buckets, idle, unbalanced })
            }
            _ => None,
        };
        let kind = match (entries, form, gateway, oif) {
            (Some(entries), Some(form), _, _) => Kind::Group(form, entries),
            (None, _, Some(gateway), Some(ifindex)) if !odd => Kind::Way(Way { gateway, ifindex }),
            _ => Kind::Other,
        };
        Some(Self { id: id?, protocol, kind })
    }
}

fn read_entries(value: &[u8]) -> Vec<Entry> {
    let entry = |raw: &[u8]| {
        // The second byte of the weight is there since Linux 6.12 and was 0 before.
        let weight = u16::from_le_bytes([*raw.get(4)?, *raw.get(5)?]).saturating_add(1);
        Some(Entry { id: u32_at(raw, 0)?, weight })
    };
    value.chunks_exact(8).filter_map(entry).collect()
}

fn read_timers(value: &[u8]) -> (Option<u16>, Option<u32>, Option<u32>) {
    let mut timers = (None, None, None);
    for (kind, value) in attributes(value, 0) {
        match kind {
            NHA_RES_GROUP_BUCKETS => timers.0 = u16_at(value, 0),
            NHA_RES_GROUP_IDLE_TIMER => timers.1 = u32_at(value, 0),
            NHA_RES_GROUP_UNBALANCED_TIMER => timers.2 = u32_at(value, 0),
            _ => {}
        }
    }
    timers
}

/// A request about nexthop objects: `struct nhmsg` and attributes.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    header: [u8; 8],
    attributes: Vec<DefaultNla>,
}

impl Message {
    fn new(kind: u16, family: u8, protocol: u8, flags: u32, attributes: Vec<DefaultNla>) -> Self {
        let mut header = [family, 0, protocol, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&flags.to_ne_bytes());
        Self { kind, header, attributes }
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.header.len() + self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        if let Some((header, rest)) = buffer.split_first_chunk_mut() {
            *header = self.header;
            self.attributes.as_slice().emit(rest);
        }
    }
}

fn request(step: &'static str, flags: u16, message: Message) -> Request {
    Request { step, flags, message: Body::Nexthop(message) }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn short(kind: u16, value: u16) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

/// Makes a way to go. What has its number already is somebody else's: refused with EEXIST.
pub(crate) fn add_way(id: u32, way: Way) -> Request {
    let (family, gateway) = match way.gateway {
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
    };
    let attributes =
        vec![number(NHA_ID, id), number(NHA_OIF, way.ifindex), DefaultNla::new(NHA_GATEWAY, gateway)];
    let message = Message::new(RTM_NEWNEXTHOP, family, PROTOCOL, RTNH_F_ONLINK, attributes);
    request("add a nexthop", NLM_F_CREATE | NLM_F_EXCL, message)
}

/// Makes a way that leads nowhere, only to see whether the kernel knows nexthop objects.
pub(crate) fn add_blackhole(id: u32) -> Request {
    let attributes = vec![number(NHA_ID, id), DefaultNla::new(NHA_BLACKHOLE, Vec::new())];
    let message = Message::new(RTM_NEWNEXTHOP, AF_INET, PROTOCOL, 0, attributes);
    request("try a nexthop", NLM_F_CREATE | NLM_F_EXCL, message)
}

/// Makes a group, or puts other members in the place of those it has.
pub(crate) fn write_group(id: u32, form: Form, entries: &[Entry], is_there: bool) -> Request {
    let entry = |entry: &Entry| {
        let [low, high] = entry.weight.saturating_sub(1).to_le_bytes();
        let [a, b, c, d] = entry.id.to_ne_bytes();
        [a, b, c, d, low, high, 0, 0]
    };
    let members = entries.iter().flat_map(entry).collect();
    let mut attributes = vec![number(NHA_ID, id), DefaultNla::new(NHA_GROUP, members)];
    match form {
        Form::Plain => attributes.push(short(NHA_GROUP_TYPE, GROUP_TYPE_MPATH)),
        Form::Resilient { buckets, idle, unbalanced } => {
            let timers = [
                short(NHA_RES_GROUP_BUCKETS, buckets),
                number(NHA_RES_GROUP_IDLE_TIMER, idle),
                number(NHA_RES_GROUP_UNBALANCED_TIMER, unbalanced),
            ];
            let mut value = vec![0; timers.as_slice().buffer_len()];
            timers.as_slice().emit(&mut value);
            attributes.push(short(NHA_GROUP_TYPE, GROUP_TYPE_RES));
            attributes.push(DefaultNla::new(NHA_RES_GROUP | NLA_F_NESTED, value));
        }
    }
    let message = Message::new(RTM_NEWNEXTHOP, AF_UNSPEC, PROTOCOL, 0, attributes);
    if is_there {
        request("change the members of a nexthop group", NLM_F_REPLACE, message)
    } else {
        request("add a nexthop group", NLM_F_CREATE | NLM_F_EXCL, message)
    }
}

/// Deletes an object; a group that loses its last member goes too, and the routes that refer to it.
pub(crate) fn delete(id: u32) -> Request {
    let message = Message::new(RTM_DELNEXTHOP, AF_UNSPEC, 0, 0, vec![number(NHA_ID, id)]);
    request("remove a nexthop", 0, message)
}

/// All objects, whoever made them: the kernel cannot tell them apart by that.
pub(crate) fn dump() -> Request {
    request("list the nexthops", 0, Message::new(RTM_GETNEXTHOP, AF_UNSPEC, 0, 0, Vec::new()))
}

#[cfg(test)]
mod tests;
