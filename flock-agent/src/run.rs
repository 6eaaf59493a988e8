//! `flock-agent run`: adapters, use cases and loops, put together.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flock_bird::BirdSocket;
use flock_core::app::{Node, Ports, Settings};
use flock_core::ids::NodeName;
use flock_core::ports::{Firewall, PodSource, Readiness};
use flock_netlink::{KernelFirewall, KernelNetlink};
use tokio::sync::watch;

use crate::args::{FirewallKind, RunArgs};
use crate::health::{self, Endpoint, Health};
use crate::server::Server;
use crate::store::FileStore;
use crate::{clock, cluster, reconcile, shutdown};

/// Serves until a signal says stop.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let mut stop = shutdown::on_signal().context("cannot listen for signals")?;
    let node = NodeName::parse(&args.node_name).context("--node-name")?;
    // Before everything else: a second agent must find out before it has touched anything of the one that runs.
    let store = FileStore::open(&args.state).context("cannot open the state file")?;
    let server =
        Server::bind(&args.socket).with_context(|| format!("cannot listen on {}", args.socket.display()))?;
    let endpoint = Endpoint::bind(args.metrics_addr)
        .await
        .with_context(|| format!("cannot listen on {}: set --metrics-addr", args.metrics_addr))?;
    let cluster = cluster::open(&args, &node).await?;
    let routing = BirdSocket::new(&args.bird_conf, &args.bird_socket).context("cannot use BIRD")?;
    let ports = Ports {
        firewall: firewall(args.firewall).await?,
        netlink: Arc::new(KernelNetlink::new().context("cannot open rtnetlink")?),
        pods: cluster.pods,
        routing: Arc::new(routing),
        status: cluster.status,
        store: Arc::new(store),
    };
    let settings = Settings { node, boot_id: clock::boot_id()?, mtu: args.mtu };
    let (node, notices) = Node::start(settings, ports.clone(), clock::now()).await.context("cannot start")?;
    for notice in notices {
        tracing::info!("{notice}");
    }
    let node = Arc::new(node);
    wait_for_pods(&*ports.pods, &mut stop).await;
    let health = Arc::new(Health::new());
    let mut loops = reconcile::start(&node, &ports.pods, &health, &stop);
    // These two change nothing: they end with the process.
    tokio::spawn(health::watch_bird(Arc::clone(&ports.routing), Arc::clone(&health)));
    tokio::spawn(endpoint.serve(health, Arc::clone(&node)));
    if let Some(kube) = cluster.kube {
        loops.add(&stop, kube.memory.follow(Arc::clone(&ports.pods)));
        let ready = Arc::clone(&node);
        let say = async move { kube.status.keep_network_available(|| ready.readiness().is_ok()).await };
        loops.add(&stop, say);
    }
    tracing::info!(node = %node.name(), socket = %args.socket.display(), "serving");
    if let Err(reason) = node.readiness() {
        tracing::warn!(reason, "no pod can be attached yet");
    }
    tokio::select! {
        () = server.serve(node, stop) => {}
        error = loops.broken() => return Err(error).context("a reconciler broke; routes, links and addresses stay"),
    }
    loops.finish().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// What enforces policies. Where nothing is to, nothing of an earlier run does either.
async fn firewall(kind: FirewallKind) -> anyhow::Result<Option<Arc<dyn Firewall>>> {
    let firewall = KernelFirewall::new().context("cannot open nftables")?;
    match kind {
        FirewallKind::Nftables => Ok(Some(Arc::new(firewall))),
        FirewallKind::Off => {
            if firewall.remove().await.context("cannot remove the firewall of an earlier run")? {
                tracing::warn!("the nftables table inet flock of an earlier run is removed");
            }
            tracing::warn!(
                "the firewall is off: NetworkPolicies are not enforced, and pods may use any source address"
            );
            Ok(None)
        }
    }
}

/// How long requests may wait in the socket's queue while the first lists of the cluster come in: longer than the source
/// waits for them, and shorter than STATUS waits for an answer.
const FIRST_LISTS: Duration = Duration::from_millis(1500);

/// Waits for the first lists, for a moment: an agent that takes the place of another one should not begin with "not
/// ready", which would take the pods of the node out of service.
async fn wait_for_pods(pods: &dyn PodSource, stop: &mut watch::Receiver<bool>) {
    let listed = async {
        loop {
            let seen = pods.snapshot().revision;
            if pods.ready() == Readiness::Ready {
                return;
            }
            pods.changed(seen).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(FIRST_LISTS, listed) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
