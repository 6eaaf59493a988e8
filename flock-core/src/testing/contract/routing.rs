//! What every [`Routing`] keeps to.

use async_trait::async_trait;

use crate::ports::{Applied, Retry, Routing, RoutingConfig, RoutingError};
use crate::testing::routing_peer;

/// A [`Routing`] with a daemon behind it that can be watched and disturbed. The daemon runs no
/// configuration with peers at first.
#[async_trait]
pub trait RoutingBench: Send + Sync {
    /// The port under test.
    fn routing(&self) -> &dyn Routing;

    /// Differs from an earlier answer when anything was written or the daemon was asked anything since.
    fn trace(&self) -> String;

    /// From now on the daemon refuses every new configuration, or takes it again.
    async fn refuse(&self, refuse: bool);

    /// From now on the daemon cannot be talked to, or can again. It goes on running what it runs.
    async fn cut_off(&self, cut_off: bool);
}

/// Runs every law on a bench of its own.
pub async fn routing<B: RoutingBench>(fresh: impl AsyncFn() -> B) {
    unchanged_means_nothing_is_written_and_nobody_is_asked(&fresh().await).await;
    every_change_reaches_the_daemon(&fresh().await).await;
    refused_configuration_keeps_the_old(&fresh().await).await;
    impossible_configuration_never_reaches_the_daemon(&fresh().await).await;
    apply_may_be_called_again_after_an_error(&fresh().await).await;
    status_has_one_row_per_peer_in_order(&fresh().await).await;
    newest_of_several_configurations_wins(&fresh().await).await;
}

fn config(peers: &[&str]) -> RoutingConfig {
    RoutingConfig {
        router_id: "192.0.2.10".parse().unwrap(),
        asn: 65101,
        peers: peers.iter().map(|peer| routing_peer(peer)).collect(),
        ipv6: true,
        ipv4: true,
    }
}

const A: &str = "2001:db8:a::1";
const B: &str = "2001:db8:b::1";
const C: &str = "192.0.2.1";

async fn apply(bench: &impl RoutingBench, peers: &[&str]) -> Result<Applied, RoutingError> {
    bench.routing().apply(&config(peers)).await
}

async fn takes(bench: &impl RoutingBench, peers: &[&str]) {
    assert_eq!(apply(bench, peers).await.unwrap(), Applied::Reconfigured, "{peers:?}");
}

async fn peers(bench: &impl RoutingBench) -> Vec<String> {
    let status = bench.routing().status().await.unwrap();
    status.peers.iter().map(|row| row.peer.to_string()).collect()
}

async fn unchanged_means_nothing_is_written_and_nobody_is_asked(bench: &impl RoutingBench) {
    takes(bench, &[A, C]).await;
    let before = bench.trace();
    for same in [[A, C], [C, A]] {
        assert_eq!(apply(bench, &same).await.unwrap(), Applied::Unchanged);
        assert_eq!(bench.trace(), before);
    }
}

async fn every_change_reaches_the_daemon(bench: &impl RoutingBench) {
    for now in [vec![A], vec![A, B], vec![B], vec![], vec![A]] {
        let before = bench.trace();
        takes(bench, &now).await;
        assert_ne!(bench.trace(), before, "a change was told to nobody");
        assert_eq!(peers(bench).await, now);
    }
}

async fn refused_configuration_keeps_the_old(bench: &impl RoutingBench) {
    takes(bench, &[A]).await;
    bench.refuse(true).await;
    for _ in 0..2 {
        let error = apply(bench, &[B]).await.unwrap_err();
        assert!(matches!(error, RoutingError::Refused { .. }), "{error}");
        assert_eq!(error.retry(), Retry::Never);
        assert_eq!(peers(bench).await, [A]);
    }
    bench.refuse(false).await;
    assert_eq!(apply(bench, &[A]).await.unwrap(), Applied::Unchanged, "the old one is still in force");
    takes(bench, &[B]).await;
    assert_eq!(peers(bench).await, [B]);
}

async fn impossible_configuration_never_reaches_the_daemon(bench: &impl RoutingBench) {
    takes(bench, &[A]).await;
    let before = bench.trace();
    let error = apply(bench, &[B, B]).await.unwrap_err();
    assert!(matches!(error, RoutingError::Invalid { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Never);
    assert_eq!(bench.trace(), before);
    assert_eq!(apply(bench, &[A]).await.unwrap(), Applied::Unchanged);
}

async fn apply_may_be_called_again_after_an_error(bench: &impl RoutingBench) {
    takes(bench, &[A]).await;
    bench.cut_off(true).await;
    for _ in 0..2 {
        let error = apply(bench, &[B]).await.unwrap_err();
        assert!(matches!(error, RoutingError::Unreachable { .. }), "{error}");
        assert_eq!(error.retry(), Retry::Later);
    }
    let error = bench.routing().status().await.unwrap_err();
    assert!(matches!(error, RoutingError::Unreachable { .. }), "{error}");
    bench.cut_off(false).await;
    takes(bench, &[B]).await;
    assert_eq!(apply(bench, &[B]).await.unwrap(), Applied::Unchanged);
    assert_eq!(peers(bench).await, [B]);
}

async fn status_has_one_row_per_peer_in_order(bench: &impl RoutingBench) {
    assert_eq!(peers(bench).await, [""; 0], "no peer is configured yet");
    takes(bench, &[B, A, C]).await;
    assert_eq!(peers(bench).await, [C, A, B]);
    let status = bench.routing().status().await.unwrap();
    assert!(!status.daemon.is_empty());
    for row in status.peers {
        assert!(!row.since.is_empty(), "{row:?}");
        assert_eq!((row.imported, row.exported), (0, 0), "{row:?}");
    }
}

async fn newest_of_several_configurations_wins(bench: &impl RoutingBench) {
    let (first, second, third) = (config(&[A]), config(&[A, B]), config(&[B]));
    let routing = bench.routing();
    let results = tokio::join!(routing.apply(&first), routing.apply(&second), routing.apply(&third));
    assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok(), "{results:?}");
    assert_eq!(peers(bench).await, [B]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeRouting;

    struct Fake(FakeRouting);

    #[async_trait]
    impl RoutingBench for Fake {
        fn routing(&self) -> &dyn Routing {
            &self.0
        }
        fn trace(&self) -> String {
            self.0.attempts().to_string()
        }
        async fn refuse(&self, refuse: bool) {
            self.0.refuse(refuse.then_some("no"));
        }
        async fn cut_off(&self, cut_off: bool) {
            self.0.set_reachable(!cut_off);
        }
    }

    #[tokio::test]
    async fn fake_routing_keeps_the_contract() {
        routing(async || Fake(FakeRouting::new())).await;
    }
}
