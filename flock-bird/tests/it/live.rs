//! Rendered configurations in real BIRDs: they parse, sessions come up, and exactly the marked routes
//! travel.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use flock_core::bird;
use flock_core::ports::{Applied, PeerState, PeerStatus, Routing, RoutingConfig, RoutingPeer};
use flock_core::testing::{routing_examples, routing_peer};

use crate::support::{Bird, Netns, capable, eventually};

#[test]
fn golden_texts_parse() {
    if !capable() {
        return;
    }
    let mut texts = vec![("bootstrap", bird::bootstrap("192.0.2.10".parse().unwrap()).unwrap())];
    texts.extend(routing_examples().into_iter().map(|(name, config)| (name, bird::render(&config).unwrap())));
    for (name, text) in texts {
        let mut parser =
            Command::new("bird").args(["-p", "-c", "/dev/stdin"]).stdin(Stdio::piped()).spawn().unwrap();
        parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(parser.wait().unwrap().success(), "{name}:\n{text}");
    }
}

/// A node with a bootstrap configuration, and a router that takes what it is told into its kernel.
struct Pair {
    node: Netns,
    router: Netns,
    node_bird: Bird,
    _router_bird: Bird,
}

impl Pair {
    async fn start(router_peers: &str) -> Self {
        let (node, router) = (Netns::new(), Netns::new());
        node.join(&router);
        for (netns, n) in [(&node, 2), (&router, 1)] {
            netns.ip(&format!("addr add 2001:db8:0:a::{n}/64 dev up0 nodad"));
            netns.ip(&format!("addr add 192.0.2.{n}/24 dev up0"));
        }
        router.ip("addr add 2001:db8:ffff::1/128 dev lo");
        node.ip("route add 2001:db8:ffff::1/128 via 2001:db8:0:a::1 proto static");
        let router_bird = Bird::start(
            &router,
            &format!(
                "log stderr all; router id 192.0.2.1;
                 protocol device {{ }}
                 protocol direct {{ ipv6; ipv4; }}
                 protocol kernel k6 {{ ipv6 {{ export where source = RTS_BGP; }}; }}
                 protocol kernel k4 {{ ipv4 {{ export where source = RTS_BGP; }}; }}
                 template bgp node {{ connect delay time 1; connect retry time 1; error wait time 1,1; }}
                 {router_peers}"
            ),
        )
        .await;
        let node_bird = Bird::start(&node, &bird::bootstrap("192.0.2.2".parse().unwrap()).unwrap()).await;
        Self { node, router, node_bird, _router_bird: router_bird }
    }

    /// Waits until the router has learnt exactly these prefixes, and returns how it reaches them.
    async fn router_learns(&self, expect: &[&str]) -> Vec<String> {
        let expect: BTreeSet<&str> = expect.iter().copied().collect();
        eventually("the router learns", async || {
            let routes =
                self.router.ip("-6 route show proto bird") + &self.router.ip("-4 route show proto bird");
            let lines: Vec<String> = routes.lines().map(str::to_owned).collect();
            let prefixes: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
            if prefixes == expect { Ok(lines.clone()) } else { Err(routes) }
        })
        .await
    }

    async fn all_established(&self, routing: &dyn Routing) -> Vec<PeerStatus> {
        eventually("all sessions are up", async || {
            let peers = routing.status().await.unwrap().peers;
            let up = peers.iter().all(|peer| peer.state == PeerState::Established);
            if up { Ok(peers) } else { Err(peers) }
        })
        .await
    }
}

const DIRECT: &str = "
    protocol bgp n6 from node { local 2001:db8:0:a::1 as 65000; neighbor 2001:db8:0:a::2 as 65101;
      ipv6 { import all; export none; }; }
    protocol bgp n4 from node { local 192.0.2.1 as 65000; neighbor 192.0.2.2 as 65101;
      ipv4 { import all; export none; }; }";

fn direct(address: &str, local: &str) -> RoutingPeer {
    RoutingPeer { local: Some(local.parse().unwrap()), ..routing_peer(address) }
}

fn config(peers: Vec<RoutingPeer>) -> RoutingConfig {
    RoutingConfig { router_id: "192.0.2.2".parse().unwrap(), asn: 65101, peers, ipv6: true, ipv4: true }
}

#[tokio::test]
async fn exactly_the_routes_of_protocol_117_are_announced() {
    if !capable() {
        return;
    }
    let pair = Pair::start(DIRECT).await;
    let routing = pair.node_bird.adapter();
    let peers = vec![direct("2001:db8:0:a::1", "2001:db8:0:a::2"), direct("192.0.2.1", "192.0.2.2")];
    assert_eq!(routing.apply(&config(peers)).await.unwrap(), Applied::Reconfigured);
    pair.all_established(&routing).await;

    // What must stay goes in first, so that it had its chance when the rest arrives.
    pair.node.ip("route add unreachable 2001:db8:f008::/64 proto 118");
    pair.node.ip("route add unreachable 198.51.100.128/25 proto 118");
    pair.node.ip("route add unreachable 2001:db8:f009::/64 proto static");
    pair.node.ip("route add 203.0.113.9/32 dev up0 proto 116");
    pair.node.ip("route add unreachable 2001:db8:f001::/64 proto 117");
    pair.node.ip("route add unreachable 198.51.100.0/25 proto 117");
    pair.node.ip("route add 2001:db8:f001::7/128 dev up0 proto 117");
    let learned = pair.router_learns(&["2001:db8:f001::/64", "2001:db8:f001::7", "198.51.100.0/25"]).await;
    for route in learned {
        let next_hop = if route.starts_with("2001") { "via 2001:db8:0:a::2 " } else { "via 192.0.2.2 " };
        assert!(route.contains(next_hop), "{route}");
    }
    let sessions = pair.all_established(&routing).await;
    let counts: Vec<_> = sessions.iter().map(|row| (row.imported, row.exported)).collect();
    assert_eq!(counts, [(0, 1), (0, 2)]);

    // Eligibility is the protocol number alone.
    pair.node.ip("route replace 2001:db8:f001::7/128 dev up0 proto 118");
    pair.router_learns(&["2001:db8:f001::/64", "198.51.100.0/25"]).await;
    pair.node.ip("route replace 2001:db8:f001::7/128 dev up0 proto 117");
    pair.node.ip("route del unreachable 198.51.100.0/25 proto 117");
    pair.router_learns(&["2001:db8:f001::/64", "2001:db8:f001::7"]).await;
}

#[tokio::test]
async fn a_peer_added_or_removed_does_not_touch_the_other_sessions() {
    if !capable() {
        return;
    }
    let pair = Pair::start(DIRECT).await;
    let routing = pair.node_bird.adapter();
    let first = direct("2001:db8:0:a::1", "2001:db8:0:a::2");
    routing.apply(&config(vec![first.clone()])).await.unwrap();
    let before = pair.all_established(&routing).await;

    routing.apply(&config(vec![first.clone(), direct("192.0.2.1", "192.0.2.2")])).await.unwrap();
    let both = pair.all_established(&routing).await;
    assert_eq!(both.len(), 2);
    assert_eq!(both.get(1), before.first(), "the session is the one it was");

    routing.apply(&config(vec![first])).await.unwrap();
    assert_eq!(routing.status().await.unwrap().peers, before);
}

#[tokio::test]
async fn routes_stay_over_a_graceful_restart_and_go_with_down() {
    if !capable() {
        return;
    }
    let mut pair = Pair::start(DIRECT).await;
    let routing = pair.node_bird.adapter();
    let peers = vec![direct("2001:db8:0:a::1", "2001:db8:0:a::2"), direct("192.0.2.1", "192.0.2.2")];
    routing.apply(&config(peers)).await.unwrap();
    pair.all_established(&routing).await;
    pair.node.ip("route add unreachable 2001:db8:f001::/64 proto 117");
    pair.node.ip("route add unreachable 198.51.100.0/25 proto 117");
    pair.router_learns(&["2001:db8:f001::/64", "198.51.100.0/25"]).await;

    let history = pair.node_bird.dir().join("history");
    let mut monitor = pair.router.command("ip");
    let mut monitor =
        monitor.args(["monitor", "route"]).stdout(std::fs::File::create(&history).unwrap()).spawn().unwrap();
    eventually("the monitor watches", async || {
        pair.router.ip("route replace unreachable 203.0.113.0/24");
        pair.router.ip("route del unreachable 203.0.113.0/24");
        let seen = std::fs::read_to_string(&history).unwrap();
        if seen.contains("Deleted unreachable 203.0.113.0/24") { Ok(()) } else { Err(seen) }
    })
    .await;
    pair.node_bird.client().await.graceful_restart().await.unwrap();
    pair.node_bird.start_again(&pair.node).await;
    pair.all_established(&routing).await;
    // What is announced now comes after everything the restart may have done.
    pair.node.ip("route add unreachable 2001:db8:f002::/64 proto 117");
    pair.node.ip("route add unreachable 198.51.100.128/25 proto 117");
    let all = ["2001:db8:f001::/64", "198.51.100.0/25", "2001:db8:f002::/64", "198.51.100.128/25"];
    pair.router_learns(&all).await;
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    let seen = std::fs::read_to_string(&history).unwrap();
    let lost: Vec<&str> =
        seen.lines().filter(|line| line.contains("Deleted") && line.contains("proto bird")).collect();
    assert!(lost.is_empty(), "{lost:?}");

    pair.node_bird.client().await.down().await.unwrap();
    pair.router_learns(&[]).await;
}

#[tokio::test]
async fn a_peer_some_hops_away_gets_a_session_and_routes() {
    if !capable() {
        return;
    }
    let pair = Pair::start(
        "protocol bgp far from node { local 2001:db8:ffff::1 as 65000; neighbor 2001:db8:0:a::2 as 65101;
           multihop; ipv6 { import all; export none; }; }",
    )
    .await;
    let routing = pair.node_bird.adapter();
    routing.apply(&config(vec![routing_peer("2001:db8:ffff::1")])).await.unwrap();
    pair.all_established(&routing).await;
    pair.node.ip("route add unreachable 2001:db8:f001::/64 proto 117");
    let learned = pair.router_learns(&["2001:db8:f001::/64"]).await;
    assert!(learned.iter().all(|route| route.contains("via 2001:db8:0:a::2 ")), "{learned:?}");
}
