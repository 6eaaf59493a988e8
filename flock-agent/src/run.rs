//! `flock-agent run`: adapters, use cases and loops, put together.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use flock_bird::BirdSocket;
use flock_core::app::{Node, Ports, Settings};
use flock_core::ids::NodeName;
use flock_netlink::KernelNetlink;

use crate::args::RunArgs;
use crate::health::{self, Endpoint, Health};
use crate::server::Server;
use crate::store::FileStore;
use crate::{clock, cluster, reconcile, shutdown};

/// Serves until a signal says stop.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
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
    let health = Arc::new(Health::new());
    let mut loops = reconcile::start(&node, &ports.pods, &health, &stop);
    // These two change nothing: they end with the process.
    tokio::spawn(health::watch_bird(Arc::clone(&ports.routing), Arc::clone(&health)));
    tokio::spawn(endpoint.serve(health, Arc::clone(&node)));
    if let Some(kube) = cluster.kube {
        loops.add(&stop, kube.memory.follow(Arc::clone(&ports.pods)));
        loops.add(&stop, cluster::keep_network_available(Arc::clone(&node), kube.status));
    }
    tracing::info!(node = %node.name(), socket = %args.socket.display(), "serving");
    tokio::select! {
        () = server.serve(node, stop) => {}
        error = loops.broken() => return Err(error).context("a reconciler broke; routes, links and addresses stay"),
    }
    loops.finish().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
