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
