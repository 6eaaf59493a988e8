//! Who a link belongs to, written into the alias of its host side: an agent without a state file reads it
//! back. Seven words, and an eighth where the pod has more addresses than these two:
//!
//! ```text
//! flock1 CONTAINER IFNAME UID IPV6 IPV4 NAMESPACE/NAME [+]    `.` where there is none
//! ```
//!
//! The kernel takes 255 bytes. Where that is not enough the pod's name is left out, and in the rarest of
//! cases the addresses are written as numbers to the base 36.

use std::net::{Ipv4Addr, Ipv6Addr};

use flock_core::ids::{AttachmentId, ContainerId, IfName, PodKey, PodUid};
use flock_core::ipam::Addresses;
use flock_core::ports::LinkIdentity;

/// Longest alias the kernel takes, in bytes (`IFALIASZ - 1`).
pub(crate) const MAX_LEN: usize = 255;

/// The first word: which form this is.
const VERSION: &str = "flock1";

/// A word no value can be, not even a pod UID.
const ABSENT: &str = ".";

/// The last word where there are more addresses.
const MORE: &str = "+";

const BASE: u32 = 36;

/// The alias of a link; never longer than [`MAX_LEN`].
pub(crate) fn encode(identity: &LinkIdentity) -> String {
    let Addresses { v6, v4 } = identity.addresses;
    let pod = identity.pod.as_ref();
    let text = |pod: Option<&PodKey>| join(identity, word(v6), word(v4), pod);
    let tight = || {
        join(
            identity,
            word(v6.map(|a| number(a.into()))),
            word(v4.map(|a| number(u32::from(a).into()))),
            None,
        )
    };
    [text(pod), text(None)].into_iter().find(|alias| alias.len() <= MAX_LEN).unwrap_or_else(tight)
}

fn join(identity: &LinkIdentity, v6: String, v4: String, pod: Option<&PodKey>) -> String {
    let attachment = &identity.attachment;
    let mut words = vec![
        VERSION.to_owned(),
        attachment.container().to_string(),
        attachment.ifname().to_string(),
        word(identity.uid.as_ref()),
        v6,
        v4,
        word(pod),
    ];
    words.extend(identity.more.then(|| MORE.to_owned()));
    words.join(" ")
}

fn word(value: Option<impl ToString>) -> String {
    value.map_or_else(|| ABSENT.to_owned(), |value| value.to_string())
}

fn number(mut value: u128) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(value % u128::from(BASE)).ok().and_then(|d| char::from_digit(d, BASE));
        digits.extend(digit);
        value /= u128::from(BASE);
        if value == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

/// Reads an alias back; `None` for anything [`encode`] does not write.
pub(crate) fn decode(alias: &[u8]) -> Option<LinkIdentity> {
    let mut words = std::str::from_utf8(alias).ok()?.split(' ');
    if words.next()? != VERSION {
        return None;
    }
    let container = ContainerId::parse(words.next()?).ok()?;
    let ifname = IfName::parse(words.next()?).ok()?;
    let uid = optional(words.next()?, |uid| PodUid::parse(uid).ok()).ok()?;
    let v6 = optional(words.next()?, |v6| {
        v6.parse().ok().or_else(|| u128::from_str_radix(v6, BASE).ok().map(Ipv6Addr::from))
    })
    .ok()?;
    let v4 = optional(words.next()?, |v4| {
        v4.parse().ok().or_else(|| u32::from_str_radix(v4, BASE).ok().map(Ipv4Addr::from))
    })
    .ok()?;
    let pod = optional(words.next()?, |pod| PodKey::parse(pod).ok()).ok()?;
    let more = match (words.next(), words.next()) {
        (None, _) => false,
        (Some(MORE), None) => true,
        _ => return None,
    };
    let attachment = AttachmentId::new(container, ifname);
    Some(LinkIdentity { attachment, pod, uid, addresses: Addresses { v6, v4 }, more })
}

/// A value that may be absent, but not unreadable.
fn optional<T>(word: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, ()> {
    if word == ABSENT { Ok(None) } else { parse(word).map(Some).ok_or(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option::of;
    use proptest::prelude::*;

    fn identity() -> impl Strategy<Value = LinkIdentity> {
        let ifname = "[!-.0-9;-~]{1,15}".prop_filter_map("reserved", |name| IfName::parse(&name).ok());
        let pod = ("[a-z0-9]{1,63}", "[a-z0-9]([a-z0-9.]{0,250}[a-z0-9])?")
            .prop_filter_map("not a pod name", |(namespace, name)| PodKey::new(&namespace, &name).ok());
        (
            "[A-Za-z0-9][A-Za-z0-9_.-]{0,127}",
            ifname,
            of("[A-Za-z0-9-]{1,64}"),
            of(any::<u128>()),
            of(any::<u32>()),
            of(pod),
            any::<bool>(),
        )
            .prop_map(|(container, ifname, uid, v6, v4, pod, more)| LinkIdentity {
                attachment: AttachmentId::new(ContainerId::parse(&container).unwrap(), ifname),
                pod,
                uid: uid.map(|uid| PodUid::parse(&uid).unwrap()),
                addresses: Addresses { v6: v6.map(Ipv6Addr::from), v4: v4.map(Ipv4Addr::from) },
                more,
            })
    }

    proptest! {
        #[test]
        fn alias_reads_back_and_fits(identity in identity()) {
            let alias = encode(&identity);
            prop_assert!(alias.len() <= MAX_LEN, "{} bytes", alias.len());
            let read = decode(alias.as_bytes()).unwrap();
            let without_pod = LinkIdentity { pod: None, ..identity.clone() };
            prop_assert!(read == identity || read == without_pod, "{read:?}");
        }

        #[test]
        fn no_byte_string_makes_the_decoder_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&noise);
        }

        #[test]
        fn an_alias_cut_short_is_not_half_read(identity in identity(), keep in 0.0..1.0f64) {
            let alias = encode(&identity);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                reason = "a random position in a short string")]
            let cut = (alias.len() as f64 * keep) as usize;
            // The last word may lose its tail and still be a name; everything before is whole or refused.
            if let Some(read) = decode(&alias.as_bytes()[..cut]) {
                prop_assert_eq!(read.attachment, identity.attachment);
                prop_assert_eq!(read.addresses, identity.addresses);
            }
        }
    }

    fn longest(pod: &str) -> LinkIdentity {
        LinkIdentity {
            attachment: AttachmentId::parse(&format!("{}/fifteen-letters", "f".repeat(128))).unwrap(),
            pod: Some(PodKey::parse(pod).unwrap()),
            uid: Some(PodUid::parse(&"a".repeat(64)).unwrap()),
            addresses: Addresses { v6: Some(Ipv6Addr::from(u128::MAX)), v4: Some(Ipv4Addr::BROADCAST) },
            more: true,
        }
    }

    #[test]
    fn the_longest_identity_fits_without_its_pod() {
        let alias = encode(&longest("a/b"));
        assert_eq!(alias.len(), 254);
        let read = decode(alias.as_bytes()).unwrap();
        assert_eq!(read, LinkIdentity { pod: None, ..longest("a/b") });
    }

    #[test]
    fn an_ordinary_alias_is_readable() {
        let identity = LinkIdentity {
            attachment: AttachmentId::parse("0123abcd/eth0").unwrap(),
            pod: Some(PodKey::parse("default/web-0").unwrap()),
            uid: None,
            addresses: Addresses { v6: "2001:db8::5".parse().ok(), v4: "192.0.2.5".parse().ok() },
            more: false,
        };
        assert_eq!(encode(&identity), "flock1 0123abcd eth0 . 2001:db8::5 192.0.2.5 default/web-0");
        let more = LinkIdentity { more: true, ..identity };
        assert_eq!(encode(&more), "flock1 0123abcd eth0 . 2001:db8::5 192.0.2.5 default/web-0 +");
    }

    #[test]
    fn what_flock_did_not_write_is_not_read() {
        for alias in [
            "",
            "flock1",
            "flock2 a eth0 . . . .",
            "flock1 a eth0 . . .",
            "flock1 a eth0 . . . . .",
            "flock1 a eth0 . . . . + +",
            "flock1 a eth0 . . . . ++",
            "flock1 a eth0 . 2001:db8::x . .",
            "flock1 a eth0 . . 192.0.2.256 .",
            "flock1 a eth0 . . . b",
            "uplink to rack 4",
        ] {
            assert_eq!(decode(alias.as_bytes()), None, "{alias:?}");
        }
        assert!(decode(b"flock1 a eth0 . . . .").is_some());
    }
}
