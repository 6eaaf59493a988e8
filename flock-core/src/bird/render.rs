//! bird.conf, for BIRD 2.0.12 to 3.4.

use std::net::{IpAddr, Ipv4Addr};

use askama::Template;

use super::names;
use crate::ports::{RoutingConfig, RoutingPeer};
use crate::route::RouteProtocol;

/// Why a routing model has no bird.conf. A checked NodeConfig never gets here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Not an identifier BGP takes (RFC 6286).
    #[error("router ID 0.0.0.0 is reserved: use an IPv4 address of the node")]
    RouterId,
    /// An autonomous system number nobody may use (RFC 7607, RFC 7300).
    #[error("AS number {asn} of {whose} is reserved: use 1 to 4294967294")]
    Asn {
        /// The number.
        asn: u32,
        /// `this node` or the peer's address.
        whose: String,
    },
    /// An address no BGP session of ours leads to.
    #[error("peer {address} {reason}")]
    Peer {
        /// The peer's address.
        address: IpAddr,
        /// What is wrong with it, and what to use instead.
        reason: &'static str,
    },
    /// The text could not be put together.
    #[error("bird.conf cannot be rendered: {reason}")]
    Template {
        /// What the template engine said.
        reason: String,
    },
}

#[derive(Template)]
#[template(path = "bird.conf", escape = "none")]
struct BirdConf {
    router_id: Ipv4Addr,
    announce: u8,
    asn: u32,
    kernels: Vec<Kernel>,
    sessions: Vec<Session>,
}

struct Kernel {
    name: &'static str,
    channel: &'static str,
}

const KERNEL6: Kernel = Kernel { name: names::V6, channel: "ipv6" };
const KERNEL4: Kernel = Kernel { name: names::V4, channel: "ipv4" };

/// A session carries the family of its own addresses: the next hop it announces is then always one the
/// peer can use.
struct Session {
    name: String,
    neighbour: IpAddr,
    asn: u32,
    /// `None`: the peer is on no subnet of ours, so it is some hops away and BIRD finds the source address.
    local: Option<IpAddr>,
    channel: &'static str,
}

/// The text of bird.conf. The same configuration gives the same text, whatever the order of its peers.
pub fn render(config: &RoutingConfig) -> Result<String, RenderError> {
    check_asn(config.asn, || "this node".to_owned())?;
    let mut peers: Vec<&RoutingPeer> = config.peers.iter().collect();
    peers.sort();
    if let Some(twice) = peers.array_windows().find(|[one, other]| one.address == other.address) {
        let reason = "is there twice: keep one session per address";
        return Err(RenderError::Peer { address: twice[0].address, reason });
    }
    for peer in &peers {
        check_peer(peer)?;
    }

    let has_peer = |ipv6| peers.iter().any(|peer| peer.address.is_ipv6() == ipv6);
    let mut kernels = Vec::new();
    if config.ipv6 || has_peer(true) {
        kernels.push(KERNEL6);
    }
    if config.ipv4 || has_peer(false) {
        kernels.push(KERNEL4);
    }
    let sessions = peers.into_iter().map(|peer| Session {
        name: names::protocol_name(peer.address),
        neighbour: peer.address,
        asn: peer.asn,
        local: peer.local,
        channel: if peer.address.is_ipv6() { "ipv6" } else { "ipv4" },
    });
    text(config.router_id, config.asn, kernels, sessions.collect())
}

/// The bird.conf of a node without a NodeConfig: BIRD runs and learns, and talks to nobody.
pub fn bootstrap(router_id: Ipv4Addr) -> Result<String, RenderError> {
    text(router_id, 0, vec![KERNEL6, KERNEL4], Vec::new())
}

fn text(
    router_id: Ipv4Addr,
    asn: u32,
    kernels: Vec<Kernel>,
    sessions: Vec<Session>,
) -> Result<String, RenderError> {
    if router_id.is_unspecified() {
        return Err(RenderError::RouterId);
    }
    let announce = RouteProtocol::Announce.number();
    BirdConf { router_id, announce, asn, kernels, sessions }
        .render()
        .map_err(|error| RenderError::Template { reason: error.to_string() })
}

fn check_asn(asn: u32, whose: impl FnOnce() -> String) -> Result<(), RenderError> {
    if asn == 0 || asn == u32::MAX {
        return Err(RenderError::Asn { asn, whose: whose() });
    }
    Ok(())
}

fn check_peer(peer: &RoutingPeer) -> Result<(), RenderError> {
    let address = peer.address;
    check_asn(peer.asn, || format!("peer {address}"))?;
    let refused = |reason| Err(RenderError::Peer { address, reason });
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return refused("is no address of a router: use a unicast address of it");
    }
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return refused("is an IPv4-mapped address: write it as IPv4");
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            return refused(
                "is link-local and says nothing about the interface: use a global or unique local address",
            );
        }
        IpAddr::V4(v4) if v4.is_broadcast() => {
            return refused("is the broadcast address: use the router's own");
        }
        IpAddr::V6(_) | IpAddr::V4(_) => {}
    }
    match peer.local {
        Some(local) if local.is_ipv6() != address.is_ipv6() => {
            refused("is not of the family of our end of the session: use two addresses of one family")
        }
        _ => Ok(()),
    }
}

impl From<RenderError> for crate::ports::RoutingError {
    fn from(error: RenderError) -> Self {
        Self::Invalid { reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{routing_examples, routing_peer};
    use proptest::prelude::*;

    #[test]
    fn golden_texts() {
        insta::assert_snapshot!("bootstrap", bootstrap(Ipv4Addr::new(192, 0, 2, 10)).unwrap());
        for (name, config) in routing_examples() {
            insta::assert_snapshot!(name, render(&config).unwrap());
        }
    }

    #[test]
    fn what_bgp_cannot_do_is_refused_with_a_way_out() {
        let check = |change: &dyn Fn(&mut RoutingConfig), expect: &str| {
            let mut config = RoutingConfig {
                router_id: Ipv4Addr::new(192, 0, 2, 10),
                asn: 65101,
                peers: vec![routing_peer("2001:db8::1")],
                ipv6: true,
                ipv4: true,
            };
            assert!(render(&config).is_ok());
            change(&mut config);
            assert_eq!(render(&config).unwrap_err().to_string(), expect);
        };
        let peer = |address: &'static str| {
            move |config: &mut RoutingConfig| config.peers[0].address = address.parse().unwrap()
        };
        check(
            &|config| config.router_id = Ipv4Addr::UNSPECIFIED,
            "router ID 0.0.0.0 is reserved: use an IPv4 address of the node",
        );
        check(&|config| config.asn = 0, "AS number 0 of this node is reserved: use 1 to 4294967294");
        check(
            &|config| config.peers[0].asn = u32::MAX,
            "AS number 4294967295 of peer 2001:db8::1 is reserved: use 1 to 4294967294",
        );
        check(
            &|config| config.peers.push(RoutingPeer { asn: 65001, ..config.peers[0].clone() }),
            "peer 2001:db8::1 is there twice: keep one session per address",
        );
        for address in ["::", "0.0.0.0", "::1", "127.0.0.1", "ff02::1", "224.0.0.1"] {
            let text = format!("peer {address} is no address of a router: use a unicast address of it");
            check(&peer(address), &text);
        }
        check(&peer("::ffff:192.0.2.1"), "peer ::ffff:192.0.2.1 is an IPv4-mapped address: write it as IPv4");
        check(
            &peer("fe80::2"),
            "peer fe80::2 is link-local and says nothing about the interface: use a global or unique local address",
        );
        check(
            &peer("255.255.255.255"),
            "peer 255.255.255.255 is the broadcast address: use the router's own",
        );
        check(
            &|config| config.peers[0].local = Some("192.0.2.10".parse().unwrap()),
            "peer 2001:db8::1 is not of the family of our end of the session: use two addresses of one family",
        );
    }

    fn any_config() -> impl Strategy<Value = RoutingConfig> {
        let address = |ipv6, low: u16| -> IpAddr {
            if ipv6 {
                IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, low])
            } else {
                let [high, low] = low.to_be_bytes();
                IpAddr::from([198, 51, high, low])
            }
        };
        let peers = proptest::collection::btree_map(
            (any::<bool>(), any::<u16>()),
            (1..u32::MAX, proptest::option::of(any::<u16>())),
            0..6,
        );
        let peers = peers.prop_map(move |peers| -> Vec<RoutingPeer> {
            let peer = |((ipv6, low), (asn, local)): ((bool, u16), (u32, Option<u16>))| RoutingPeer {
                address: address(ipv6, low),
                asn,
                local: local.map(|low| address(ipv6, low)),
            };
            peers.into_iter().map(peer).collect()
        });
        (1..u32::MAX, 1..u32::MAX, any::<bool>(), any::<bool>(), peers).prop_map(
            |(router_id, asn, ipv6, ipv4, peers)| {
                let router_id = Ipv4Addr::from_bits(router_id);
                RoutingConfig { router_id, asn, peers, ipv6, ipv4 }
            },
        )
    }

    proptest! {
        #[test]
        fn text_does_not_depend_on_the_order_of_the_peers(
            (sorted, shuffled) in any_config().prop_flat_map(|config| {
                let peers = Just(config.peers.clone()).prop_shuffle();
                (Just(config), peers)
            }),
        ) {
            let other = RoutingConfig { peers: shuffled, ..sorted.clone() };
            prop_assert_eq!(render(&sorted), render(&other));
        }

        #[test]
        fn every_peer_has_exactly_one_session_of_its_family(config in any_config()) {
            let text = render(&config).unwrap();
            let sessions: Vec<&str> = text.lines().filter(|line| line.starts_with("protocol bgp ")).collect();
            prop_assert_eq!(sessions.len(), config.peers.len());
            for peer in &config.peers {
                let name = names::protocol_name(peer.address);
                let (_, block) = text.split_once(&format!("protocol bgp {name} from")).unwrap();
                let (block, _) = block.split_once("\n}\n").unwrap();
                let neighbour = format!("neighbor {} as {};", peer.address, peer.asn);
                prop_assert!(block.contains(&neighbour));
                prop_assert_eq!(block.contains("ipv6 {"), peer.address.is_ipv6());
                prop_assert_eq!(block.contains("ipv4 {"), peer.address.is_ipv4());
                prop_assert_eq!(block.contains("multihop"), peer.local.is_none());
            }
            // Nothing is learnt of a family without pools and peers, and everything of the others.
            for (ipv6, pools, kernel) in [(true, config.ipv6, "kernel flk6 "), (false, config.ipv4, "kernel flk4 ")] {
                let peers = config.peers.iter().any(|peer| peer.address.is_ipv6() == ipv6);
                prop_assert_eq!(text.contains(kernel), pools || peers);
            }
        }
    }
}
