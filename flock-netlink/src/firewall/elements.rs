//! Transactions that change elements of sets that are there.

use std::sync::atomic::{AtomicU32, Ordering};

use flock_core::policy::Guard;
use flock_core::policy::render::{self, Element, ElementChange, SetName, TABLE, Verb};
use flock_core::ports::FirewallError;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO};

use super::socket::{Committed, Socket};
use super::wire::{self, Attributes, Head, Messages, NFPROTO_INET};

/// The verdict "jump", -3.
const JUMP: u32 = 0xffff_fffd;

/// Most bytes of elements in a message: an attribute has at most 64 KiB.
const MESSAGE: usize = 32 << 10;

/// A transaction to be.
#[derive(Debug)]
pub(super) struct Batch {
    messages: Messages,
    /// Where the flags of the last message are, which asks for an acknowledgement.
    last: Option<usize>,
}

impl Batch {
    fn new() -> Self {
        let mut messages = Messages::default();
        let frame = frame(wire::BATCH_BEGIN);
        messages.push(frame, |_| {});
        // Changes nothing, for the table is there, or else the elements are refused. But it carries the wish to be told
        // the generation that the transaction makes: nothing is told where it made none.
        let head = Head { kind: wire::NEWTABLE, flags: NLM_F_ECHO, family: NFPROTO_INET, resource: 0 };
        messages.push(head, |attributes| attributes.name(1, TABLE));
        Self { messages, last: None }
    }

    /// What a pod needs before its link is there. What is there already is no error.
    pub(super) fn guard(guard: &Guard) -> Self {
        let mut batch = Self::new();
        let mut elements = render::guard(guard);
        elements.sort_unstable();
        for of_set in elements.chunk_by(|a, b| a.0 == b.0) {
            let Some((set, _)) = of_set.first() else { continue };
            batch.put(Verb::Add, *set, of_set.iter().map(|(_, element)| element));
        }
        batch
    }

    pub(super) fn of(changes: Vec<ElementChange>) -> Self {
        let mut batch = Self::new();
        for ElementChange { verb, set, elements } in changes {
            batch.put(verb, set, elements.iter());
        }
        batch
    }

    fn put<'a>(&mut self, verb: Verb, set: SetName, elements: impl Iterator<Item = &'a Element>) {
        let mut elements = elements.peekable();
        let (kind, flags) = match verb {
            Verb::Add => (wire::NEWSETELEM, NLM_F_CREATE),
            Verb::Remove => (wire::DELSETELEM, 0),
        };
        while elements.peek().is_some() {
            self.last = Some(self.messages.bytes.len() + 6);
            let head = Head { kind, flags, family: NFPROTO_INET, resource: 0 };
            self.messages.push(head, |attributes| {
                attributes.name(wire::ELEMENTS_TABLE, TABLE);
                attributes.name(wire::ELEMENTS_SET, &set.to_string());
                attributes.nest(wire::ELEMENTS, |list| {
                    let end = list.len() + MESSAGE;
                    while list.len() < end
                        && let Some(element) = elements.next()
                    {
                        list.nest(wire::LIST_ELEM, |inner| put_element(inner, element));
                    }
                });
            });
        }
    }

    /// Sends it, and counts it if it changed anything. Without elements there is nothing to send.
    pub(super) fn send(
        mut self,
        socket: &mut Socket,
        step: &'static str,
        own: &AtomicU32,
    ) -> Result<(), FirewallError> {
        let Some(last) = self.last else { return Ok(()) };
        if let Some(flags) = self.messages.bytes.get_mut(last..).and_then(<[u8]>::first_chunk_mut) {
            *flags = (u16::from_ne_bytes(*flags) | NLM_F_ACK).to_ne_bytes();
        }
        self.messages.push(frame(wire::BATCH_END), |_| {});
        if socket.commit(step, self.messages)? == Committed::Changed {
            own.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

const fn frame(kind: u16) -> Head {
    Head { kind, flags: 0, family: 0, resource: wire::SUBSYS_NFTABLES }
}

fn put_element(element: &mut Attributes, Element { key, jump }: &Element) {
    element.nest(wire::ELEMENT_KEY, |inner| inner.put(wire::DATA_VALUE, &key.bytes()));
    let Some(chain) = jump else { return };
    element.nest(wire::ELEMENT_DATA, |data| {
        data.nest(wire::DATA_VERDICT, |verdict| {
            verdict.put(wire::VERDICT_CODE, &JUMP.to_be_bytes());
            verdict.name(wire::VERDICT_CHAIN, &chain.to_string());
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::{attributes, messages};

    fn guard(shut: bool) -> Batch {
        let sources = ["2001:db8::1", "192.0.2.1"].map(|text| text.parse().unwrap()).into();
        Batch::guard(&Guard { link: "flock00000001".parse().unwrap(), sources, shut })
    }

    #[test]
    fn guard_is_one_small_transaction() {
        let Batch { messages: batch, last } = guard(true);
        let kinds: Vec<u16> = messages(&batch.bytes).map(|message| message.kind).collect();
        let elements = [wire::NEWSETELEM; 5];
        assert_eq!(kinds, [[wire::BATCH_BEGIN, wire::NEWTABLE].as_slice(), &elements].concat());
        let sequence: Vec<u32> = messages(&batch.bytes).map(|message| message.sequence).collect();
        assert_eq!(sequence, (0..7).collect::<Vec<_>>());
        assert!(batch.bytes.len() < 600, "{}", batch.bytes.len());
        assert!(last.is_some_and(|at| at < batch.bytes.len()));
        assert_eq!(messages(&guard(false).messages.bytes).count(), 4);
    }

    #[test]
    fn element_is_laid_out_as_the_kernel_reads_it() {
        let guarded = guard(false);
        let message = messages(&guarded.messages.bytes).nth(3).unwrap();
        let expected = [
            // inet, version 0
            &[1, 0, 0, 0][..],
            &[10, 0, 1, 0],
            b"flock\0\0\0",
            &[9, 0, 2, 0],
            b"src4\0\0\0\0",
            // elements, element, key, value
            &[36, 0, 3, 0x80],
            &[32, 0, 1, 0x80],
            &[28, 0, 1, 0x80],
            &[24, 0, 1, 0],
            b"flock00000001\0\0\0",
            &[192, 0, 2, 1],
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(message.payload, expected.concat());
        }
    }

    #[test]
    fn many_elements_are_split_into_messages_that_fit() {
        let address = |n: u128| std::net::Ipv6Addr::from(0x2001_0db8 << 96 | n);
        let elements =
            (0..5000).map(|n| Element { key: render::Key::Address(address(n).into()), jump: None }).collect();
        let set = SetName::Peers6(flock_core::policy::PeerId(1));
        let batch = Batch::of(vec![ElementChange { verb: Verb::Remove, set, elements }]);
        let parts: Vec<usize> =
            messages(&batch.messages.bytes).skip(2).map(|part| part.payload.len()).collect();
        assert!(parts.len() > 3 && parts.iter().all(|length| *length < MESSAGE + 200), "{parts:?}");
        let lists = messages(&batch.messages.bytes).flat_map(|part| attributes(part.payload, 4));
        let lists = lists.filter(|(kind, _)| *kind == wire::ELEMENTS);
        assert_eq!(lists.map(|(_, list)| attributes(list, 0).count()).sum::<usize>(), 5000);
    }
}
