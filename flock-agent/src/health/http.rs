//! The endpoint: plain HTTP for the kubelet and for people, on the loopback address unless told otherwise.
//! Anybody on the node can connect, so connections are few and short.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use axum::serve::Listener;
use flock_core::app::Node;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::{Check, Health, answer};

/// Connections at a time; a further one waits.
const CONNECTIONS: usize = 32;

/// How long one connection may last, slow or idle.
const LIFETIME: Duration = Duration::from_secs(30);

/// A bound address.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

/// Who is asked.
#[derive(Clone)]
struct Asked {
    health: Arc<Health>,
    node: Arc<Node>,
}

impl Endpoint {
    /// Binds the address; who connects before [`serve`](Self::serve) waits for it.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, free: Arc::new(Semaphore::new(CONNECTIONS)) })
    }

    /// Answers for ever.
    pub(crate) async fn serve(self, health: Arc<Health>, node: Arc<Node>) -> io::Result<()> {
        let router = Router::new().route("/livez", get(livez)).route("/readyz", get(readyz));
        axum::serve(self, router.with_state(Asked { health, node })).await
    }
}

async fn livez(State(asked): State<Asked>, uri: Uri) -> (StatusCode, String) {
    reply(&asked.health.livez(), &uri)
}

async fn readyz(State(asked): State<Asked>, uri: Uri) -> (StatusCode, String) {
    let mut checks = vec![Check { name: "node", outcome: asked.node.readiness() }];
    checks.extend(asked.health.readyz());
    reply(&checks, &uri)
}

/// `?exclude=NAME`, as in the API server: a component that is somebody else's to look after.
fn reply(checks: &[Check], uri: &Uri) -> (StatusCode, String) {
    let query = uri.query().unwrap_or_default();
    let excluded: Vec<_> = query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).collect();
    let (well, text) = answer(checks, &excluded);
    (if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

impl Listener for Endpoint {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Never closed; if it were, without a limit is better than not at all.
            let permit = Arc::clone(&self.free).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let end = Box::pin(sleep(LIFETIME));
                    return (Connection { stream, end, _permit: permit }, address);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: those in use come back.
                    tracing::error!(op = "accept", %error, "cannot take a health check");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that ends in time.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Fails once its time is over, and wakes whoever waits for the stream then.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
