//! Flows the kernel tracks.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use flock_core::policy::Stamp;
use flock_core::ports::FirewallError;

use super::socket::{HEADER, Socket};
use super::wire::{self, Head, Messages};
use crate::reply::{Message, attributes, ip};

const NEW: u16 = wire::ct(0);
const GET: u16 = wire::ct(1);
const DELETE: u16 = wire::ct(2);

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;
const TUPLE_IP: u16 = 1;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The stamp and what a judgement notes beside it.
const OURS: u32 = 0xffff_0000;

/// How many requests go out at once: a refusal of each has to fit into the receive buffer.
const REQUESTS: usize = 256;

/// What names one flow, as the kernel wrote it.
#[derive(Debug, Default)]
struct Flow {
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

/// Deletes the flows from and to these addresses, before and after translation; returns how many there were.
pub(super) fn forget(addresses: &BTreeSet<IpAddr>) -> Result<usize, FirewallError> {
    let is_one = |message: &Message<'_>| ends(message.payload).any(|address| addresses.contains(&address));
    let families = [(AF_INET6, true), (AF_INET, false)];
    let asked = families.iter().filter(|(_, six)| addresses.iter().any(|address| address.is_ipv6() == *six));
    each(asked.map(|(family, _)| *family), "forget flows", is_one, |_| DELETE)
}

/// The addresses of a flow, before and after translation.
fn ends(payload: &[u8]) -> impl Iterator<Item = IpAddr> {
    attributes(payload, HEADER)
        .filter(|(kind, _)| matches!(*kind, TUPLE_ORIGINAL | TUPLE_REPLY))
        .flat_map(|(_, tuple)| attributes(tuple, 0).filter(|(kind, _)| *kind == TUPLE_IP))
        .flat_map(|(_, ends)| attributes(ends, 0))
        .filter_map(|(_, address)| ip(address))
}

/// Takes the stamp off flows that have another one than `current`.
pub(super) fn forget_stamps(current: Stamp) -> Result<(), FirewallError> {
    let is_old = |message: &Message<'_>| {
        let mark = attributes(message.payload, HEADER).find(|(kind, _)| *kind == MARK);
        let mark = mark.and_then(|(_, value)| value.first_chunk()).map(|raw| u32::from_be_bytes(*raw));
        mark.and_then(Stamp::from_mark).is_some_and(|stamp| stamp != current)
    };
    let unmark = |request: &mut wire::Attributes| {
        request.put(MARK, &0_u32.to_be_bytes());
        request.put(MARK_MASK, &OURS.to_be_bytes());
        NEW
    };
    each([AF_INET6, AF_INET].into_iter(), "take stamps off flows", is_old, unmark).map(drop)
}

/// Looks at all flows, and makes a request of each that matters: `ask` adds to it, and says of which type it is.
fn each(
    families: impl Iterator<Item = u8>,
    step: &'static str,
    matters: impl Fn(&Message<'_>) -> bool,
    ask: impl Fn(&mut wire::Attributes) -> u16,
) -> Result<usize, FirewallError> {
    if nothing_is_tracked() {
        return Ok(0);
    }
    let mut socket = Socket::open()?;
    let mut done = 0;
    for family in families {
        let head = Head { kind: GET, flags: 0, family, resource: 0 };
        let flows = socket.dump(
            "list the flows",
            head,
            |_| {},
            |message, flows: &mut Vec<Flow>| {
                if message.kind == NEW && matters(message) {
                    flows.push(Flow::read(message));
                }
            },
        )?;
        for chunk in flows.chunks(REQUESTS) {
            let mut requests = Messages::default();
            for flow in chunk {
                let mut extra = wire::Attributes::default();
                let kind = ask(&mut extra);
                requests.push(Head { kind, flags: 0, family, resource: 0 }, |request| {
                    flow.write(request);
                    request.append(&extra);
                });
            }
            done += socket.run_each(step, requests)?;
        }
    }
    Ok(done)
}

impl Flow {
    fn read(message: &Message<'_>) -> Self {
        let mut flow = Self::default();
        for (kind, value) in attributes(message.payload, HEADER) {
            match kind {
                TUPLE_ORIGINAL => flow.tuple = value.to_vec(),
                ZONE => flow.zone = Some(value.to_vec()),
                ID => flow.id = Some(value.to_vec()),
                _ => {}
            }
        }
        flow
    }

    /// The identity sees to it that a new flow in the place of the old one is left alone.
    fn write(&self, request: &mut wire::Attributes) {
        request.nest(TUPLE_ORIGINAL, |inner| inner.raw(&self.tuple));
        if let Some(zone) = &self.zone {
            request.put(ZONE, zone);
        }
        if let Some(id) = &self.id {
            request.put(ID, id);
        }
    }
}

/// Whether there is no flow at all, which is so while there are no policies; a look at all of them takes 13 ms even then.
fn nothing_is_tracked() -> bool {
    match std::fs::read_to_string(crate::sysctl::root().join("netfilter/nf_conntrack_count")) {
        Ok(count) => count.trim() == "0",
        // Tracking is not even loaded.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_flow_is_too_odd_to_be_read(payload: Vec<u8>, inner: Vec<u8>) {
            let mut wire = Messages::default();
            wire.push(Head { kind: NEW, flags: 0, family: AF_INET, resource: 0 }, |attributes| {
                attributes.nest(TUPLE_ORIGINAL, |tuple| tuple.nest(TUPLE_IP, |ends| ends.raw(&inner)));
                attributes.put(ID, &payload);
            });
            for payload in [payload.as_slice(), wire.bytes.get(16..).unwrap_or_default()] {
                let message = Message { kind: NEW, flags: 0, sequence: 0, payload };
                prop_assert!(ends(payload).count() <= payload.len());
                Flow::read(&message).write(&mut wire::Attributes::default());
            }
        }
    }
}
