//! A routing daemon in memory, and configurations that cover every form bird.conf takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;

use crate::bird;
use crate::ports::{
    Applied, PeerState, PeerStatus, Routing, RoutingConfig, RoutingError, RoutingPeer, RoutingStatus,
};

/// A [`Routing`] with state. It takes what bird.conf can express, and nothing else.
#[derive(Debug, Default)]
pub struct FakeRouting {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the daemon runs.
    running: Option<RoutingConfig>,
    /// The text the adapter knows to be running.
    known: Option<String>,
    applied: Vec<RoutingConfig>,
    attempts: usize,
    refusal: Option<String>,
    unreachable: bool,
    sessions: BTreeMap<IpAddr, PeerStatus>,
}

impl FakeRouting {
    pub fn new() -> Self {
        Self::default()
    }

    /// What the daemon runs.
    pub fn running(&self) -> Option<RoutingConfig> {
        self.state().running.clone()
    }

    /// Every configuration taken over, oldest first; an unchanged one is not taken over again.
    pub fn applied(&self) -> Vec<RoutingConfig> {
        self.state().applied.clone()
    }

    /// How often the daemon was told anything, whether it took it or not.
    pub fn attempts(&self) -> usize {
        self.state().attempts
    }

    /// Makes the daemon refuse every new configuration with this message; `None` heals it.
    pub fn refuse(&self, message: Option<&str>) {
        self.state().refusal = message.map(str::to_owned);
    }

    /// Makes the daemon stop answering, or answer again. It goes on running what it runs.
    pub fn set_reachable(&self, reachable: bool) {
        self.state().unreachable = !reachable;
    }

    /// Reports this session as such from now on. Without it a session is [`PeerState::Active`], and one
    /// with a peer that is not configured is not reported at all.
    pub fn set_session(&self, status: PeerStatus) {
        self.state().sessions.insert(status.peer, status);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn reach(&self) -> Result<(), RoutingError> {
        if self.unreachable {
            let source = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(RoutingError::Unreachable { socket: "fake".to_owned(), source });
        }
        Ok(())
    }
}

#[async_trait]
impl Routing for FakeRouting {
    async fn apply(&self, config: &RoutingConfig) -> Result<Applied, RoutingError> {
        let text = bird::render(config)?;
        let mut state = self.state();
        if state.known.as_ref() == Some(&text) {
            return Ok(Applied::Unchanged);
        }
        state.attempts += 1;
        state.reach()?;
        if let Some(message) = state.refusal.clone() {
            return Err(RoutingError::Refused { message });
        }
        state.known = Some(text);
        state.running = Some(config.clone());
        state.applied.push(config.clone());
        Ok(Applied::Reconfigured)
    }

    async fn status(&self) -> Result<RoutingStatus, RoutingError> {
        let state = self.state();
        state.reach()?;
        let configured = state.running.iter().flat_map(|config| &config.peers);
        let peers: BTreeSet<IpAddr> = configured.map(|peer| peer.address).collect();
        let session = |peer: &IpAddr| {
            state.sessions.get(peer).cloned().unwrap_or_else(|| PeerStatus {
                peer: *peer,
                state: PeerState::Active,
                since: "2026-01-01 00:00:00".to_owned(),
                last_error: None,
                imported: 0,
                exported: 0,
            })
        };
        Ok(RoutingStatus { daemon: "FAKE 1.0".to_owned(), peers: peers.iter().map(session).collect() })
    }
}

/// A peer without a local address, in AS 65000.
///
/// # Panics
///
/// When `address` is not an IP address.
pub fn routing_peer(address: &str) -> RoutingPeer {
    RoutingPeer { address: address.parse().unwrap(), asn: 65000, local: None }
}

/// One configuration for each form bird.conf takes, with a name. The golden texts are made from these,
/// and real BIRDs parse them.
///
/// # Panics
///
/// Never: the addresses are constants.
pub fn routing_examples() -> Vec<(&'static str, RoutingConfig)> {
    let config = |asn, peers, ipv6, ipv4| RoutingConfig {
        router_id: Ipv4Addr::new(192, 0, 2, 10),
        asn,
        peers,
        ipv6,
        ipv4,
    };
    let direct = |address: &str, asn, local: &str| RoutingPeer {
        address: address.parse().unwrap(),
        asn,
        local: Some(local.parse().unwrap()),
    };
    let v6 = direct("2001:db8:0:a::1", 65000, "2001:db8:0:a::10");
    let v4 = direct("192.0.2.1", 65000, "192.0.2.10");
    vec![
        ("dual_stack", config(65101, vec![v6.clone(), v4.clone()], true, true)),
        ("ipv6_only", config(65101, vec![v6.clone()], true, false)),
        ("ipv4_only", config(65101, vec![v4], false, true)),
        ("no_peers", config(65101, vec![], true, true)),
        ("pool_without_peer", config(65101, vec![v6], true, true)),
        (
            "several_hops_away",
            config(65101, vec![routing_peer("2001:db8:ffff::1"), routing_peer("203.0.113.1")], true, true),
        ),
        (
            "two_peers_one_inside",
            config(
                4_200_000_101,
                vec![
                    direct("2001:db8:0:b::1", 4_200_000_101, "2001:db8:0:b::10"),
                    direct("2001:db8:0:a::1", 4_294_967_294, "2001:db8:0:a::10"),
                ],
                true,
                false,
            ),
        ),
    ]
}
