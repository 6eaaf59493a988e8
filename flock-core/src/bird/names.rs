//! Names of BIRD protocols. They carry the peer's address, so a status row leads back to its peer
//! without a table, also after a restart of the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Kernel protocol of the IPv6 table; with an address behind it, a session.
pub(super) const V6: &str = "flk6";
/// The same for IPv4.
pub(super) const V4: &str = "flk4";

/// The name of the BIRD protocol that holds the session with this peer, such as
/// `flk6_2001_db8__1`. A BIRD symbol in every version: letters, digits and `_`, at most 44 bytes (BIRD
/// takes 64), and no keyword, since it is prefixed. Different peers have different names.
pub fn protocol_name(peer: IpAddr) -> String {
    match peer {
        // Groups alone: the dotted tail `Display` gives an IPv4-mapped address would make two addresses
        // share a name.
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
            let groups = address.segments().map(|group| format!("{group:x}"));
            format!("{V6}_{}", groups.join("_"))
        }
        IpAddr::V6(address) => format!("{V6}_{}", address.to_string().replace(':', "_")),
        IpAddr::V4(address) => format!("{V4}_{}", address.to_string().replace('.', "_")),
    }
}

/// The peer behind a name of [`protocol_name`]; `None` for any other protocol of BIRD.
pub fn peer_of(protocol: &str) -> Option<IpAddr> {
    let (family, address) = protocol.split_once('_')?;
    let peer = match family {
        V6 => IpAddr::V6(address.replace('_', ":").parse::<Ipv6Addr>().ok()?),
        V4 => IpAddr::V4(address.replace('_', ".").parse::<Ipv4Addr>().ok()?),
        _ => return None,
    };
    // One address, one name: another spelling of the address is not ours.
    (protocol_name(peer) == protocol).then_some(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn protocol_names_read_like_their_address() {
        let check = |peer: &str, name: &str| assert_eq!(protocol_name(peer.parse().unwrap()), name);
        check("2001:db8:0:a::1", "flk6_2001_db8_0_a__1");
        check("192.0.2.1", "flk4_192_0_2_1");
        check("::ffff:192.0.2.1", "flk6_0_0_0_0_0_ffff_c000_201");
        check("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "flk6_ffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff");
    }

    #[test]
    fn other_protocols_have_no_peer() {
        for other in [
            "",
            "device1",
            "flk6",
            "flk4",
            "flk_up",
            "flk6_",
            "flk4_192_0_2",
            "flk4_2001_db8__1",
            "flk6_2001_0db8__1",
        ] {
            assert_eq!(peer_of(other), None, "{other:?}");
        }
    }

    fn any_peer() -> impl Strategy<Value = IpAddr> {
        // Zero groups are common in addresses, and where `::` makes the text ambiguous to the eye.
        let group = prop_oneof![Just(0), Just(0xffff), any::<u16>()];
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            proptest::array::uniform8(group).prop_map(IpAddr::from),
        ]
    }

    proptest! {
        #[test]
        fn a_name_leads_back_to_its_peer_and_is_a_symbol(peer in any_peer()) {
            let name = protocol_name(peer);
            prop_assert_eq!(peer_of(&name), Some(peer));
            prop_assert!(name.len() <= 44);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            prop_assert!(name.starts_with("flk"));
        }

        #[test]
        fn any_text_is_a_name_or_is_not(text in "\\PC*|flk[46]_[0-9a-f_]{0,40}") {
            if let Some(peer) = peer_of(&text) {
                prop_assert_eq!(protocol_name(peer), text);
            }
        }
    }
}
