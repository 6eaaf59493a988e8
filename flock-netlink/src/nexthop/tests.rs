use proptest::prelude::*;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkSerializable};

use super::*;
use crate::reply::messages;

/// What the kernel would answer: its own message has the form of the request.
fn echo(request: Request) -> Option<Object> {
    let mut message = NetlinkMessage::from(request.message);
    message.finalize();
    let mut bytes = vec![0; message.header.length as usize];
    message.serialize(&mut bytes);
    messages(&bytes).next().and_then(|message| Object::read(&message))
}

fn object(kind: Kind) -> Object {
    Object { id: 7, protocol: 118, kind }
}

#[test]
fn what_is_written_reads_back() {
    for gateway in ["2001:db8::1", "192.0.2.1"] {
        let way = Way { gateway: gateway.parse().unwrap(), ifindex: 9 };
        assert_eq!(echo(add_way(7, way)), Some(object(Kind::Way(way))));
    }
    let entries: Vec<Entry> =
        [255, 1, 256, 65535].into_iter().zip(1..).map(|(weight, id)| Entry { id, weight }).collect();
    for form in [Form::Plain, Form::RESILIENT] {
        for is_there in [false, true] {
            let written = echo(write_group(7, form, &entries, is_there));
            assert_eq!(written, Some(object(Kind::Group(form, entries.clone()))));
        }
    }
    assert_eq!(echo(add_blackhole(7)), Some(object(Kind::Other)));
    assert_eq!(echo(delete(7)), None, "no description of an object");
}

#[test]
fn weights_are_one_less_on_the_wire() {
    let request = write_group(7, Form::Plain, &[Entry { id: 1, weight: 255 }], false);
    let mut bytes = vec![0; request.message.buffer_len()];
    request.message.serialize(&mut bytes);
    assert_eq!(bytes[20..28], [1u32.to_ne_bytes(), [254, 0, 0, 0]].concat());
}

#[test]
fn a_way_that_is_not_onlink_is_not_flocks() {
    let way = Way { gateway: "192.0.2.1".parse().unwrap(), ifindex: 9 };
    let Body::Nexthop(mut message) = add_way(7, way).message else { panic!("another message") };
    message.header[4..].copy_from_slice(&0u32.to_ne_bytes());
    assert_eq!(echo(request("", 0, message)), Some(object(Kind::Other)));
}

proptest! {
    #[test]
    fn noise_is_passed_over(
        header in prop::collection::vec(any::<u8>(), 0..12),
        attributes in prop::collection::vec((0u16..16, prop::collection::vec(any::<u8>(), 0..24)), 0..8),
    ) {
        let mut payload = header;
        for (kind, value) in attributes {
            payload.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(&value);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(RTM_NEWNEXTHOP.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        for message in messages(&bytes) {
            let _ = Object::read(&message);
        }
    }
}
