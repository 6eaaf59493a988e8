//! Reads the table. Nothing is taken on trust: what is short or unknown is passed over, and then does not compare.

use std::collections::BTreeMap;

use flock_core::policy::Stamp;
use flock_core::policy::render::{self, TABLE, is_compared};
use flock_core::ports::{Counters, Digest, FirewallError, Observed};

use super::socket::{HEADER, Socket};
use super::wire::{self, Head, NFPROTO_INET};
use crate::reply::{Message, attributes, u32_at};

const SET_ANONYMOUS: u32 = 1;
const OBJECT_COUNTER: u32 = 1;

const fn head(kind: u16) -> Head {
    Head { kind, flags: 0, family: NFPROTO_INET, resource: 0 }
}

fn attribute(payload: &[u8], offset: usize, wanted: u16) -> Option<&[u8]> {
    attributes(payload, offset).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

pub(super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'))
}

fn be32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|raw| u32::from_be_bytes(*raw))
}

fn be64(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|raw| u64::from_be_bytes(*raw))
}

/// The number of the latest transaction of anybody.
pub(super) fn generation(socket: &mut Socket) -> Result<u32, FirewallError> {
    const STEP: &str = "show the generation of the tables";
    let read = |message: &Message<'_>| attribute(message.payload, HEADER, 1).and_then(be32);
    socket
        .get(STEP, Head { family: 0, ..head(wire::GETGEN) }, |_| {}, read)?
        .ok_or_else(|| FirewallError::Protocol { step: STEP, detail: "it has no generation".to_owned() })
}

/// The number of the table, if there is one.
pub(super) fn table(socket: &mut Socket) -> Result<Option<u64>, FirewallError> {
    let name = |request: &mut wire::Attributes| request.name(1, TABLE);
    let read = |message: &Message<'_>| {
        (message.kind == wire::NEWTABLE).then(|| attribute(message.payload, HEADER, 4).and_then(be64))?
    };
    socket.get("look up the table", head(wire::GETTABLE), name, read)
}

/// The objects of the table: older kernels send those of all tables.
fn is_ours(message: &Message<'_>, kind: u16) -> bool {
    let table = || attribute(message.payload, HEADER, 1).and_then(text);
    message.kind == kind && message.payload.first() == Some(&NFPROTO_INET) && table() == Some(TABLE)
}

/// What the table holds.
pub(super) fn observe(socket: &mut Socket) -> Result<Option<Observed>, FirewallError> {
    if table(socket)?.is_none() {
        return Ok(None);
    }
    let mut observed = Observed { chains: chains(socket)?, ..Observed::default() };
    for (set, flags) in sets(socket)? {
        if flags & SET_ANONYMOUS != 0 {
            continue;
        }
        if set == render::STAMP {
            observed.stamp = stamp(socket)?;
        } else if is_compared(&set) {
            let digest = digest(socket, &set)?;
            observed.sets.insert(set, digest);
        }
    }
    Ok(Some(observed))
}

/// How many rules each chain has.
pub(super) fn chains(socket: &mut Socket) -> Result<BTreeMap<String, u32>, FirewallError> {
    let all = |request: &mut wire::Attributes| request.name(1, TABLE);
    let mut found = socket.dump(
        "list the chains",
        head(wire::GETCHAIN),
        all,
        |message, found: &mut BTreeMap<_, _>| {
            let name = attribute(message.payload, HEADER, 3).and_then(text);
            if let Some(name) = name.filter(|_| is_ours(message, wire::NEWCHAIN)) {
                found.insert(name.to_owned(), 0);
            }
        },
    )?;
    let counts = socket.dump(
        "list the rules",
        head(wire::GETRULE),
        all,
        |message, found: &mut BTreeMap<_, u32>| {
            let chain = attribute(message.payload, HEADER, 2).and_then(text);
            if let Some(chain) = chain.filter(|_| is_ours(message, wire::NEWRULE)) {
                match found.get_mut(chain) {
                    Some(count) => *count += 1,
                    None => drop(found.insert(chain.to_owned(), 1)),
                }
            }
        },
    )?;
    found.extend(counts);
    Ok(found)
}

/// All sets and maps with their flags.
pub(super) fn sets(socket: &mut Socket) -> Result<BTreeMap<String, u32>, FirewallError> {
    let all = |request: &mut wire::Attributes| request.name(1, TABLE);
    socket.dump("list the sets", head(wire::GETSET), all, |message, found: &mut BTreeMap<_, _>| {
        let name = attribute(message.payload, HEADER, 2).and_then(text);
        if let Some(name) = name.filter(|_| is_ours(message, wire::NEWSET)) {
            found.insert(name.to_owned(), attribute(message.payload, HEADER, 3).and_then(be32).unwrap_or(0));
        }
    })
}

/// Goes through the elements of a set: the bytes of the key, and the chain.
pub(super) fn elements<T: Default>(
    socket: &mut Socket,
    set: &str,
    each: impl Fn(&mut T, &[u8], &[u8]),
) -> Result<T, FirewallError> {
    let of_set = |request: &mut wire::Attributes| {
        request.name(wire::ELEMENTS_TABLE, TABLE);
        request.name(wire::ELEMENTS_SET, set);
    };
    socket.dump("list the elements of a set", head(wire::GETSETELEM), of_set, |message, found: &mut T| {
        if message.kind == wire::NEWSETELEM {
            read_elements(message.payload, |key, chain| each(found, key, chain));
        }
    })
}

fn read_elements(payload: &[u8], mut each: impl FnMut(&[u8], &[u8])) {
    let list = attribute(payload, HEADER, wire::ELEMENTS).unwrap_or_default();
    for (_, element) in attributes(list, 0).filter(|(kind, _)| *kind == wire::LIST_ELEM) {
        let key = attribute(element, 0, wire::ELEMENT_KEY);
        let key = key.and_then(|key| attribute(key, 0, wire::DATA_VALUE)).unwrap_or_default();
        let data = attribute(element, 0, wire::ELEMENT_DATA);
        let verdict = data.and_then(|data| attribute(data, 0, wire::DATA_VERDICT));
        let chain = verdict.and_then(|verdict| attribute(verdict, 0, wire::VERDICT_CHAIN));
        let chain = chain.map(|chain| chain.strip_suffix(&[0]).unwrap_or(chain)).unwrap_or_default();
        each(key, chain);
    }
}

fn digest(socket: &mut Socket, set: &str) -> Result<Digest, FirewallError> {
    elements(socket, set, |digest: &mut Digest, key, chain| digest.add(key, chain))
}

/// The stamp, if there is exactly one. A mark is in the byte order of the machine.
pub(super) fn stamp(socket: &mut Socket) -> Result<Option<Stamp>, FirewallError> {
    let marks = elements(socket, render::STAMP, |marks: &mut Vec<Option<u32>>, key, _| {
        marks.push(u32_at(key, 0));
    })?;
    Ok(match marks.as_slice() {
        [Some(mark)] => Stamp::from_mark(*mark),
        _ => None,
    })
}

/// Packets by the name of the counter.
pub(super) fn counters(socket: &mut Socket) -> Result<Counters, FirewallError> {
    let filter = |request: &mut wire::Attributes| {
        request.name(1, TABLE);
        request.put(3, &OBJECT_COUNTER.to_be_bytes());
    };
    let found =
        socket.dump("read the counters", head(wire::GETOBJ), filter, |message, found: &mut Vec<_>| {
            found.extend(read_counter(message));
        })?;
    if found.is_empty() {
        return Err(FirewallError::Missing);
    }
    let mut counters = Counters::default();
    for (name, packets) in found {
        let counter = match name.as_str() {
            "spoofed" => &mut counters.spoofed,
            "shut" => &mut counters.shut,
            "stray" => &mut counters.stray,
            "refused" => &mut counters.refused,
            "forbidden" => &mut counters.forbidden,
            _ => continue,
        };
        *counter = packets;
    }
    Ok(counters)
}

fn read_counter(message: &Message<'_>) -> Option<(String, u64)> {
    let counter = is_ours(message, wire::NEWOBJ).then_some(message.payload)?;
    let name = attribute(counter, HEADER, 2).and_then(text)?;
    let packets = attribute(counter, HEADER, 4).and_then(|data| attribute(data, 0, 2)).and_then(be64)?;
    Some((name.to_owned(), packets))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_answer_is_too_odd_to_be_read(payload: Vec<u8>, inet: bool, cut in 0..200_usize) {
            // Also what begins like an answer and ends anywhere.
            let mut wire = wire::Messages::default();
            wire.push(head(wire::NEWOBJ), |attributes| {
                attributes.name(1, TABLE);
                attributes.name(2, "spoofed");
                attributes.nest(4, |data| data.put(2, &payload));
                attributes.nest(wire::ELEMENTS, |list| list.nest(wire::LIST_ELEM, |one| one.raw(&payload)));
            });
            let begun = wire.bytes.get(16..).unwrap_or_default();
            let begun = begun.get(..begun.len().min(cut)).unwrap_or_default();
            for payload in [payload.as_slice(), if inet { begun } else { &[] }] {
                let message = Message { kind: wire::NEWOBJ, flags: 0, sequence: 0, payload };
                let _ = read_counter(&message);
                read_elements(payload, |key, chain| Digest::default().add(key, chain));
            }
        }
    }
}
