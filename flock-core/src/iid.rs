//! Identity in the address: the annotation `ip-algo` and its inverse. The algorithm, with test vectors for
//! other tools, is in `docs/embedding.md`.
//!
//! ```
//! use flock_core::iid::{Embedding, Field, Identity};
//!
//! let identity = Identity { namespace: "shop", pod: "web-0", image: None };
//! let embedding = Embedding::new(&[Field::Namespace, Field::Pod], &identity)?;
//! let pool = "2001:db8:f001::/64".parse()?;
//!
//! // Seven nibbles for the namespace, seven for the pod, two random ones.
//! assert_eq!(embedding.ranges(pool)?, ["2001:db8:f001:0:847e:a35:b7b5:8b00/120".parse()?]);
//! let address = embedding.embed(pool, 0x2a)?;
//! assert_eq!(address, "2001:db8:f001:0:847e:a35:b7b5:8b2a".parse::<std::net::Ipv6Addr>()?);
//!
//! assert!(embedding.matches(address, pool)?);
//! let other = Identity { pod: "web-1", ..identity };
//! assert!(!Embedding::new(&[Field::Namespace, Field::Pod], &other)?.matches(address, pool)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
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

impl Field {
    /// Every field.
    pub const ALL: [Self; 3] = [Self::Namespace, Self::Pod, Self::Image];

    /// The word for it in the annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Pod => "pod",
            Self::Image => "image",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub pod: &'a str,
    /// Image of its first container as written in the spec, where known.
    pub image: Option<&'a str>,
}

/// Hashes of a pod's identity, in the order they are embedded; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding(Vec<u32>);

/// Why an identity cannot be embedded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IidError {
    /// There is nothing to embed.
    #[error("there is no field to embed: name at least one of namespace, pod, image")]
    NoField,
    /// The image is to be embedded and not known.
    #[error("the image is to be embedded, but is not known")]
    NoImage,
    /// The prefix leaves too few bits.
    #[error(
        "{prefix} has no room to embed {}: a /{longest} or shorter has",
        if *fields == 1 { "1 field".to_owned() } else { format!("{fields} fields") }
    )]
    NoRoom {
        /// The prefix.
        prefix: Ipv6Net,
        /// How many fields.
        fields: usize,
        /// The longest usable prefix length.
        longest: u8,
    },
}

/// Where the fields are in an address: bits counted from the lowest.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Bits of one field, a multiple of 4, at most 32.
    width: u32,
    /// Bits below the last field: random, at least 4.
    random: u32,
    /// Bits between the prefix and the first field: random, at most 3.
    odd: u32,
}

impl Embedding {
    /// Hashes an identity.
    pub fn new(fields: &[Field], identity: &Identity<'_>) -> Result<Self, IidError> {
        let hash = |field: &Field| {
            let text = match field {
                Field::Namespace => identity.namespace,
                Field::Pod => identity.pod,
                Field::Image => identity.image.ok_or(IidError::NoImage)?,
            };
            Ok(fnv1a(text.as_bytes()))
        };
        let hashes = fields.iter().map(hash).collect::<Result<Vec<_>, _>>()?;
        if hashes.is_empty() { Err(IidError::NoField) } else { Ok(Self(hashes)) }
    }

    /// The sub-prefixes of `prefix` whose addresses carry this identity, ascending: one, or 2, 4 or 8 where
    /// the odd top bits of a prefix length that is not a multiple of 4 stay random.
    pub fn ranges(&self, prefix: Ipv6Net) -> Result<Vec<Ipv6Net>, IidError> {
        let layout = self.layout(prefix)?;
        let length = 128 - u8::try_from(layout.random).unwrap_or(128);
        let base = prefix.network().to_bits() | self.carried(layout);
        let top = layout.random + layout.width * self.count();
        let range = |odd: u128| {
            let address = Ipv6Addr::from_bits(base | shift(odd, top));
            // A length of at most 128 is a prefix length.
            Ipv6Net::new(address, length).unwrap_or(prefix)
        };
        Ok((0..1_u128 << layout.odd).map(range).collect())
    }

    /// Whether an address of `prefix` carries this identity. An address outside it does not. Different
    /// identities may share a hash: with fields of b bits one in 2^b does.
    pub fn matches(&self, address: Ipv6Addr, prefix: Ipv6Net) -> Result<bool, IidError> {
        let layout = self.layout(prefix)?;
        let fields = shift(mask(layout.width * self.count()), layout.random);
        Ok(prefix.contains(&address) && address.to_bits() & fields == self.carried(layout))
    }

    /// An address that carries this identity; the bits of the host part that are not a field's are taken from
    /// `random`. It may be a reserved one: see [`Ipam`](crate::ipam::Ipam) for addresses to hand out.
    pub fn embed(&self, prefix: Ipv6Net, random: u128) -> Result<Ipv6Addr, IidError> {
        let layout = self.layout(prefix)?;
        let fields = shift(mask(layout.width * self.count()), layout.random);
        let free = mask(128 - u32::from(prefix.prefix_len())) & !fields;
        Ok(Ipv6Addr::from_bits(prefix.network().to_bits() | self.carried(layout) | random & free))
    }

    fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn layout(&self, prefix: Ipv6Net) -> Result<Layout, IidError> {
        let host = 128 - u32::from(prefix.prefix_len());
        let nibbles = host / 4;
        let width = (nibbles.saturating_sub(1) / self.count()).min(8);
        if width == 0 {
            // One nibble for each field, and a random one.
            let longest = 128_u32.saturating_sub(4 * self.count().saturating_add(1));
            return Err(IidError::NoRoom {
                prefix,
                fields: self.0.len(),
                longest: u8::try_from(longest).unwrap_or(0),
            });
        }
        Ok(Layout { width: 4 * width, random: 4 * (nibbles - width * self.count()), odd: host % 4 })
    }

    /// The fields in their places; every other bit is zero.
    fn carried(&self, layout: Layout) -> u128 {
        let append = |bits: u128, hash: &u32| bits << layout.width | u128::from(fold(*hash, layout.width));
        shift(self.0.iter().fold(0, append), layout.random)
    }
}

/// The lowest `bits` bits set.
fn mask(bits: u32) -> u128 {
    1_u128.checked_shl(bits).map_or(u128::MAX, |bit| bit - 1)
}

fn shift(value: u128, bits: u32) -> u128 {
    value.checked_shl(bits).unwrap_or(0)
}

/// FNV-1a of 32 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): short enough to be written again in any
/// language.
fn fnv1a(bytes: &[u8]) -> u32 {
    const OFFSET_BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

/// Xor-folds a hash to `bits` bits, as the authors of FNV advise.
fn fold(hash: u32, bits: u32) -> u32 {
    match 1_u32.checked_shl(bits) {
        Some(limit) => ((hash >> bits) ^ hash) & (limit - 1),
        None => hash,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_gives_the_published_values() {
        for (text, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text:?}");
        }
    }

    #[test]
    fn folding_keeps_the_lowest_bits_and_mixes_the_next_in() {
        for (bits, folded) in [(32, 0xbf9c_f968), (28, 0xf9c_f963), (16, 0x46f4), (8, 0x91), (4, 0xe)] {
            assert_eq!(fold(0xbf9c_f968, bits), folded, "{bits}");
        }
    }
}
