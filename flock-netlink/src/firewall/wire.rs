//! Messages of nfnetlink: the header of netlink, that of netfilter, and attributes within attributes.

use rtnetlink::packet_core::{NLA_F_NESTED, NLM_F_REQUEST};

/// Family of a table for both protocols.
pub(super) const NFPROTO_INET: u8 = 1;

/// Subsystems, the upper half of the type of a message.
const SUBSYS_CTNETLINK: u16 = 1;
const SUBSYS_ULOG: u16 = 4;
pub(super) const SUBSYS_NFTABLES: u16 = 10;

pub(super) const BATCH_BEGIN: u16 = 16;
pub(super) const BATCH_END: u16 = 17;

/// The type of a message about tables.
pub(super) const fn nft(message: u16) -> u16 {
    SUBSYS_NFTABLES << 8 | message
}

/// The type of a message about tracked flows.
pub(super) const fn ct(message: u16) -> u16 {
    SUBSYS_CTNETLINK << 8 | message
}

/// The type of a message about the log of packets.
pub(super) const fn ulog(message: u16) -> u16 {
    SUBSYS_ULOG << 8 | message
}

pub(super) const NEWTABLE: u16 = nft(0);
pub(super) const GETTABLE: u16 = nft(1);
pub(super) const NEWCHAIN: u16 = nft(3);
pub(super) const GETCHAIN: u16 = nft(4);
pub(super) const NEWRULE: u16 = nft(6);
pub(super) const GETRULE: u16 = nft(7);
pub(super) const NEWSET: u16 = nft(9);
pub(super) const GETSET: u16 = nft(10);
pub(super) const NEWSETELEM: u16 = nft(12);
pub(super) const GETSETELEM: u16 = nft(13);
pub(super) const DELSETELEM: u16 = nft(14);
pub(super) const NEWGEN: u16 = nft(15);
pub(super) const GETGEN: u16 = nft(16);
pub(super) const NEWOBJ: u16 = nft(18);
pub(super) const GETOBJ: u16 = nft(19);

pub(super) const LIST_ELEM: u16 = 1;
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

/// Attributes under construction.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        self.nest_as(kind, |inner| inner.0.extend_from_slice(value));
    }

    /// Names end with a zero byte.
    pub(super) fn name(&mut self, kind: u16, name: &str) {
        self.nest_as(kind, |inner| {
            inner.0.extend_from_slice(name.as_bytes());
            inner.0.push(0);
        });
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nest_as(kind | NLA_F_NESTED, fill);
    }

    fn nest_as(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(self);
        // What is longer than an attribute can be is refused by the kernel; callers split before.
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        let header = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        if let Some(space) = self.0.get_mut(start..start + 4) {
            space.copy_from_slice(&header);
        }
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Attributes as they were read.
    pub(super) fn raw(&mut self, attributes: &[u8]) {
        self.0.extend_from_slice(attributes);
    }

    pub(super) fn append(&mut self, others: &Self) {
        self.raw(&others.0);
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// One message behind another.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) bytes: Vec<u8>,
    /// How many.
    pub(super) count: u32,
}

/// What stands before the attributes of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) family: u8,
    /// The subsystem of a batch, zero elsewhere.
    pub(super) resource: u16,
}

impl Messages {
    /// Appends one; the first has the sequence number 0 until it is [`number`](Self::number)ed.
    pub(super) fn push(&mut self, head: Head, fill: impl FnOnce(&mut Attributes)) {
        let start = self.bytes.len();
        let mut attributes = Attributes(std::mem::take(&mut self.bytes));
        attributes.0.extend_from_slice(&[0; 4]);
        attributes.0.extend_from_slice(&head.kind.to_ne_bytes());
        attributes.0.extend_from_slice(&(head.flags | NLM_F_REQUEST).to_ne_bytes());
        attributes.0.extend_from_slice(&self.count.to_ne_bytes());
        attributes.0.extend_from_slice(&[0, 0, 0, 0, head.family, 0]);
        attributes.0.extend_from_slice(&head.resource.to_be_bytes());
        fill(&mut attributes);
        self.bytes = attributes.0;
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(space) = self.bytes.get_mut(start..start + 4) {
            space.copy_from_slice(&length.to_ne_bytes());
        }
        self.count += 1;
    }

    /// Adds to all sequence numbers.
    pub(super) fn number(&mut self, first: u32) {
        let mut at = 0;
        while let Some(header) = self.bytes.get_mut(at..at + 12) {
            let (Some(length), Some(sequence)) = (header.first_chunk().copied(), header.last_chunk_mut())
            else {
                return;
            };
            *sequence = u32::from_ne_bytes(*sequence).wrapping_add(first).to_ne_bytes();
            at += (u32::from_ne_bytes(length) as usize).max(16);
        }
    }
}
