//! Identity in an address: the published vectors, read from the documentation itself, and the laws of both
//! directions.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use flock_core::ids::{AttachmentId, PodKey};
use flock_core::iid::{Embedding, Field, Identity, IidError};
use flock_core::ipam::{Ipam, IpamError, Pools, Request, Want};
use flock_core::time::Timestamp;
use ipnet::Ipv6Net;
use proptest::prelude::*;

const DOCUMENT: &str = include_str!("../../../docs/embedding.md");

const POD: Identity<'_> =
    Identity { namespace: "shop", pod: "web-0", image: Some("registry.example/web:1.2") };

/// The cells of the table rows whose first cell starts with `start`.
fn rows(start: &str) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    let rows: Vec<Vec<&str>> = DOCUMENT.lines().filter(|line| line.starts_with('|')).map(cells).collect();
    rows.into_iter().filter(|row| row.first().is_some_and(|cell| cell.starts_with(start))).collect()
}

fn fields(words: &str) -> Vec<Field> {
    let field = |word| Field::ALL.into_iter().find(|field| field.as_str() == word).unwrap();
    words.split(',').map(field).collect()
}

/// What a field of `width` nibbles holds. With `length` as the prefix length there is room for exactly that.
fn folded(field: Field, width: u8) -> String {
    let length = 128 - 4 * (width + 1);
    let prefix = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length).unwrap();
    let address = Embedding::new(&[field], &POD).unwrap().embed(prefix, 0).unwrap();
    format!("{:0width$x}", address.to_bits() >> 4, width = usize::from(width))
}

#[test]
fn the_hashes_are_the_published_ones() {
    for field in Field::ALL {
        let rows = rows(field.as_str());
        let row = rows.iter().find(|row| row.len() == 10).unwrap();
        let text = match field {
            Field::Namespace => POD.namespace,
            Field::Pod => POD.pod,
            Field::Image => POD.image.unwrap(),
        };
        assert_eq!(row[1], text);
        let expected: Vec<String> = (1..=8).rev().map(|width| folded(field, width)).collect();
        assert_eq!(row[2..], expected, "{field}");
    }
}

#[test]
fn the_addresses_are_the_published_ones_in_both_directions() {
    let rows = rows("2001:db8:");
    assert!(rows.len() >= 18, "the table is not where it was: {rows:?}");
    for row in rows {
        let [prefix, words, width, parts, lowest, highest] = row[..] else { panic!("{row:?}") };
        let prefix: Ipv6Net = prefix.parse().unwrap();
        let fields = fields(words);
        let embedding = Embedding::new(&fields, &POD).unwrap();
        let width: u8 = width.parse().unwrap();
        let expected: Vec<_> = fields.iter().map(|field| folded(*field, width)).collect();
        assert_eq!(parts, expected.join(" "), "{row:?}");
        let other =
            Embedding::new(&fields, &Identity { namespace: "blog", pod: "db-0", image: Some("db:2") });
        for (text, random) in [(lowest, 0), (highest, u128::MAX)] {
            let address: Ipv6Addr = text.parse().unwrap();
            assert_eq!(embedding.embed(prefix, random), Ok(address), "{row:?}");
            assert_eq!(embedding.matches(address, prefix), Ok(true), "{row:?}");
            assert_eq!(other.as_ref().unwrap().matches(address, prefix), Ok(false), "{row:?}");
        }
    }
}

/// Every non-empty choice of fields, in every order.
fn choices() -> Vec<Vec<Field>> {
    let mut choices: Vec<Vec<Field>> = vec![vec![]];
    let mut grown = choices.clone();
    for _ in 0..Field::ALL.len() {
        let longer = |choice: &Vec<Field>| {
            let rest = Field::ALL.into_iter().filter(|field| !choice.contains(field)).collect::<Vec<_>>();
            rest.into_iter().map(|field| [choice.as_slice(), &[field]].concat()).collect::<Vec<_>>()
        };
        grown = grown.iter().flat_map(longer).collect();
        choices.extend(grown.clone());
    }
    choices.retain(|choice| !choice.is_empty());
    choices
}

#[test]
fn the_longest_usable_length_is_exact() {
    assert_eq!(choices().len(), 3 + 6 + 6);
    for choice in choices() {
        let embedding = Embedding::new(&choice, &POD).unwrap();
        let longest = 124 - 4 * u8::try_from(choice.len()).unwrap();
        for length in 0..=128 {
            let prefix = Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length).unwrap();
            let outcome = embedding.embed(prefix, 0);
            if length <= longest {
                assert!(outcome.is_ok(), "{choice:?} {prefix}");
            } else {
                let refused = IidError::NoRoom { prefix, fields: choice.len(), longest };
                assert_eq!(outcome, Err(refused), "{choice:?}");
            }
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

proptest! {
    #[test]
    fn recognising_inverts_embedding_wherever_there_is_room(
        (namespace, pod, image) in (name(), name(), "[a-z/.:]{1,40}"),
        choice in prop::sample::select(choices()),
        (bits, random, length) in (any::<u128>(), any::<u128>(), 0_u8..=120),
    ) {
        let identity = Identity { namespace: &namespace, pod: &pod, image: Some(&image) };
        let embedding = Embedding::new(&choice, &identity).unwrap();
        let prefix = Ipv6Net::new(Ipv6Addr::from_bits(bits), length).unwrap().trunc();
        let Ok(address) = embedding.embed(prefix, random) else { return Ok(()) };
        prop_assert!(prefix.contains(&address));
        prop_assert_eq!(embedding.matches(address, prefix), Ok(true));
        let ranges = embedding.ranges(prefix).unwrap();
        prop_assert_eq!(ranges.iter().filter(|range| range.contains(&address)).count(), 1);
        // What is random is kept as it is, and no other bit is.
        let fields = address.to_bits() ^ embedding.embed(prefix, !random).unwrap().to_bits();
        prop_assert_eq!((address.to_bits() ^ random) & fields, 0);
        // One bit of a field, and it is another identity's; one random bit, and it is not.
        for bit in 0..128 - u32::from(length) {
            let other = Ipv6Addr::from_bits(address.to_bits() ^ 1 << bit);
            prop_assert_eq!(embedding.matches(other, prefix), Ok(fields >> bit & 1 == 1), "bit {}", bit);
        }
    }
}

/// A sequence of well-mixed numbers, the same in every run.
fn noise(seed: u64) -> impl Iterator<Item = u128> {
    let mut state = u128::from(seed) | 1;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(0x5851_f42d);
        state ^ state >> 64 ^ state << 64
    })
}

#[test]
fn noise_matches_no_more_often_than_the_hash_allows() {
    const DRAWS: usize = 1 << 16;
    // Field bits in all, and so how many of the draws may match: the expectation, and generously more.
    for (prefix, choice, bits) in [
        ("2001:db8::/120", "pod", 4),
        ("2001:db8::/116", "namespace,pod", 8),
        ("2001:db8::/112", "namespace,pod,image", 12),
        ("2001:db8::/96", "namespace,pod", 24),
        ("2001:db8::/64", "namespace,pod", 56),
    ] {
        let prefix: Ipv6Net = prefix.parse().unwrap();
        let embedding = Embedding::new(&fields(choice), &POD).unwrap();
        let host = (1 << (128 - prefix.prefix_len())) - 1;
        let address = |noise: u128| Ipv6Addr::from_bits(prefix.network().to_bits() | noise & host);
        let hits = noise(7)
            .take(DRAWS)
            .filter(|noise| embedding.matches(address(*noise), prefix) == Ok(true))
            .count();
        let expected = DRAWS.checked_shr(bits).unwrap_or(0);
        assert!(hits <= expected + expected / 2 + 8, "{prefix} {choice}: {hits} for {expected}");
        assert!(hits >= expected / 2, "{prefix} {choice}: {hits} for {expected}");
    }
}

#[test]
fn a_collision_changes_random_nibbles_only() {
    // One random nibble below the fields; a /117 has three odd bits besides.
    for (prefix, words, size) in
        [("2001:db8:f001::/116", "namespace,pod", 16_usize), ("2001:db8:f001::/117", "pod", 8 * 16)]
    {
        let pool: Ipv6Net = prefix.parse().unwrap();
        let embedding = Embedding::new(&fields(words), &POD).unwrap();
        let mut ipam = Ipam::default();
        ipam.reconfigure(Pools { v6: vec![pool], v4: vec![] }, BTreeSet::new());
        let mut given = BTreeSet::new();
        let refused = loop {
            let request = Request {
                attachment: AttachmentId::parse(&format!("c{}/eth0", given.len())).unwrap(),
                pod: Some(PodKey::new(POD.namespace, POD.pod).unwrap()),
                uid: None,
                netns: None,
                v6: Want::Any,
                v4: Want::No,
                given: vec![],
                anycast: vec![],
                embed: Some(embedding.clone()),
            };
            match ipam.allocate(&request, Timestamp::from_millis(0), given.len() as u64) {
                Ok(held) => assert!(given.insert(held.addresses.v6.unwrap()), "given twice"),
                Err(refused) => break refused,
            }
        };
        for address in &given {
            assert_eq!(embedding.matches(*address, pool), Ok(true), "{address}");
        }
        assert_eq!(given.len(), size, "{prefix}: every address that carries the identity");
        assert!(matches!(refused, IpamError::Exhausted { in_use, .. } if in_use == size as u64), "{refused}");
    }
}
