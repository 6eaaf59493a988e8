//! The anycast addresses of a pod, noted on its host veth so that an agent without a state file knows
//! them: one further name of the link for each,
//!
//! ```text
//! flock7ac7509f.c6336401    flock7ac7509f.20010db8000a00000000000000000001
//! ```
//!
//! The alias has no room for them, and the pod's `lo` is not to be trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flock_core::ids::IfName;

/// The name that notes an address on a link.
pub(crate) fn encode(ifname: &IfName, address: IpAddr) -> String {
    match address {
        IpAddr::V6(address) => format!("{ifname}.{:032x}", u128::from(address)),
        IpAddr::V4(address) => format!("{ifname}.{:08x}", u32::from(address)),
    }
}

/// The address a name of a link notes; `None` for any name [`encode`] does not give.
pub(crate) fn decode(ifname: &str, name: &str) -> Option<IpAddr> {
    let digits = name.strip_prefix(ifname)?.strip_prefix('.')?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)) {
        return None;
    }
    match digits.len() {
        32 => u128::from_str_radix(digits, 16).ok().map(|bits| Ipv6Addr::from(bits).into()),
        8 => u32::from_str_radix(digits, 16).ok().map(|bits| Ipv4Addr::from(bits).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `ALTIFNAMSIZ - 1`.
    const MAX_LEN: usize = 127;

    proptest! {
        #[test]
        fn a_note_reads_back_and_fits(address in any::<IpAddr>()) {
            let ifname = IfName::parse("fifteen-letters").unwrap();
            let name = encode(&ifname, address);
            prop_assert!(name.len() <= MAX_LEN);
            prop_assert_eq!(decode(ifname.as_str(), &name), Some(address));
            prop_assert_eq!(decode("flock7ac7509f", &name), None);
        }

        #[test]
        fn no_name_makes_the_decoder_panic(name in "\\PC{0,60}") {
            let _ = decode("flock7ac7509f", &format!("flock7ac7509f.{name}"));
        }
    }

    #[test]
    fn only_names_flock_gives_are_notes() {
        let read = |name: &str| decode("flock7ac7509f", name);
        assert_eq!(read("flock7ac7509f.c6336401"), "198.51.100.1".parse().ok());
        assert_eq!(read("flock7ac7509f.20010db8000a00000000000000000001"), "2001:db8:a::1".parse().ok());
        for name in [
            "",
            "flock7ac7509f",
            "flock7ac7509f.",
            "flock7ac7509f.c633640",
            "flock7ac7509f.C6336401",
            "flock7ac7509f.+6336401",
            "flock7ac7509fc6336401",
            "flock00000000.c6336401",
            "enp0s1",
        ] {
            assert_eq!(read(name), None, "{name}");
        }
    }
}
