//! The agent's socket: one connection per request, one line of JSON each way (interfaces.md section 7).
//! A request runs in a task of its own, so that a client that goes away leaves nothing half done.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flock_cni::error::code;
use flock_cni::wire::{self as cni, Call, Failure, MAX_REQUEST, Outcome, PROTOCOL_VERSION, Reply, Response};
use flock_core::app::Node;
use flock_core::ids::PodKey;
use flock_core::policy::FlowError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, UCred};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{clock, entrance, wire};

/// How long a client may take to send its line, and to read the answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Read at once; more than most requests have.
const FIRST_BYTES: usize = 16 << 10;

/// How long one ADD may take once it holds its lock.
const ADD_DEADLINE: Duration = Duration::from_secs(30);

/// How long requests under way may go on after the signal to stop.
const DRAIN: Duration = Duration::from_secs(35);

/// A bound socket.
pub(crate) struct Server {
    listener: UnixListener,
}

impl Server {
    /// Binds the socket, mode 0600 from its first moment: it is made under another name, restricted, and
    /// moved into place, which also takes over from an agent that is gone. Who connects before
    /// [`serve`](Self::serve) waits for it.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers on this socket"));
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, path)?;
        Ok(Self { listener })
    }

    /// Serves until `stop` turns true, then lets what is under way end. The socket file stays: a successor
    /// may have put its own there.
    pub(crate) async fn serve(self, node: Arc<Node>, mut stop: watch::Receiver<bool>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        clients.spawn(serve_client(Arc::clone(&node), stream));
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: those in use come back.
                        tracing::error!(op = "accept", %error, "cannot take a request");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = clients.join_next() => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        drop(self.listener);
        let drained = timeout(DRAIN, async { while clients.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(requests = clients.len(), "requests under way are cut off");
        }
    }
}

/// The way back to the client, for one line.
struct Answer(OwnedWriteHalf);

impl Answer {
    /// Whether nobody can hear it any more. A client that has only closed its own side still can.
    fn is_unwanted(&self) -> bool {
        let mut client = [PollFd::new(self.0.as_ref().as_fd(), PollFlags::empty())];
        let _ = poll(&mut client, PollTimeout::ZERO);
        client.iter().filter_map(PollFd::revents).any(|events| events.contains(PollFlags::POLLHUP))
    }

    async fn send(mut self, outcome: Outcome) {
        let sent = timeout(CLIENT_PATIENCE, async {
            let mut line = serde_json::to_vec(&Response::new(outcome)).map_err(io::Error::from)?;
            line.push(b'\n');
            self.0.write_all(&line).await?;
            self.0.shutdown().await
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(op = "answer", %error, "the client is gone"),
            Err(_) => tracing::debug!(op = "answer", "the client does not read its answer"),
        }
    }

    async fn done(self, result: Result<(), Failure>) {
        self.send(result.map_or_else(Outcome::Error, |()| Outcome::Ok(Reply::Done))).await;
    }
}

async fn serve_client(node: Arc<Node>, stream: UnixStream) {
    let allowed = stream.peer_cred().and_then(|client| only_root(&client));
    let (read, write) = stream.into_split();
    let answer = Answer(write);
    let call = match allowed {
        Ok(()) => read_request(read).await,
        Err(error) => Err(wire::failure(code::INTERNAL, error.to_string())),
    };
    match call {
        Ok(Some((call, netns))) => handle(&node, call, netns.as_ref(), answer).await,
        Ok(None) => {}
        Err(failure) => answer.send(Outcome::Error(failure)).await,
    }
}

/// The file mode says so already; the kernel's word for who connected says it again.
fn only_root(client: &UCred) -> io::Result<()> {
    if client.uid() == 0 || client.uid() == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("user {} may not talk to the agent: root only", client.uid()),
    ))
}

/// Reads the one line, and takes the namespace that comes with it. `None`: the client went away without asking
/// anything.
async fn read_request(mut read: OwnedReadHalf) -> Result<Option<(Call, Option<OwnedFd>)>, Failure> {
    let mut line = vec![0; FIRST_BYTES];
    let whole = async {
        let (length, netns) = entrance::receive(read.as_ref(), &mut line).await?;
        line.truncate(length);
        match line.iter().position(|byte| *byte == b'\n') {
            Some(end) => line.truncate(end + 1),
            None if line.is_empty() => {}
            None => {
                let limit = MAX_REQUEST.saturating_sub(length) as u64;
                BufReader::new((&mut read).take(limit)).read_until(b'\n', &mut line).await?;
            }
        }
        io::Result::Ok(netns)
    };
    let netns = match timeout(CLIENT_PATIENCE, whole).await {
        Ok(Ok(netns)) => netns,
        Ok(Err(error)) => {
            return Err(wire::failure(code::IO_FAILURE, format!("cannot read the request: {error}")));
        }
        Err(_) => return Err(wire::failure(code::WIRE, "the request did not arrive within 10 s")),
    };
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let why = if line.len() >= MAX_REQUEST { "is longer than 1 MiB" } else { "ends without a line feed" };
        return Err(wire::failure(code::WIRE, format!("the request {why}")));
    }
    parse(&line).map(|call| Some((call, netns)))
}

/// The version first: a request of another version may look different otherwise.
fn parse(line: &[u8]) -> Result<Call, Failure> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let unreadable = |error: serde_json::Error| {
        wire::failure(
            code::WIRE,
            format!("the request is not one of protocol version {PROTOCOL_VERSION}: {error}"),
        )
    };
    let version = serde_json::from_slice::<Version>(line).map_err(unreadable)?.version;
    if version != PROTOCOL_VERSION {
        return Err(wire::failure(
            code::WIRE,
            format!(
                "the request has protocol version {version}, this agent speaks {PROTOCOL_VERSION}: install the plugin of \
                 flock-agent {}",
                env!("CARGO_PKG_VERSION")
            ),
        ));
    }
    serde_json::from_slice::<cni::Request>(line).map(|request| request.call).map_err(unreadable)
}

async fn handle(node: &Node, call: Call, netns: Option<&OwnedFd>, answer: Answer) {
    match call {
        Call::Add(add) => handle_add(node, add, netns, answer).await,
        Call::Del(attachment) => answer.done(del(node, &attachment).await).await,
        Call::Check(check) => answer.done(self::check(node, check, netns).await).await,
        Call::Gc(gc) => answer.done(self::gc(node, &gc).await).await,
        Call::Status => {
            let ready = node.readiness().map_err(|reason| wire::failure(code::NOT_READY, reason));
            answer.done(ready).await;
        }
        Call::Report => answer.send(document(&node.report(clock::now()).await)).await,
        Call::Explain(pod) => answer.send(explain(node, &pod).await).await,
        Call::Flow(flow) => answer.send(explain_flow(node, &flow)).await,
    }
}

/// An answer that is a document of its own.
fn document(report: &impl serde::Serialize) -> Outcome {
    match serde_json::to_value(report) {
        Ok(report) => Outcome::Ok(Reply::Report { report }),
        Err(error) => Outcome::Error(wire::failure(code::INTERNAL, error.to_string())),
    }
}

async fn explain(node: &Node, pod: &cni::Pod) -> Outcome {
    let unknown = || {
        let msg = format!("node {} knows no pod {}/{}", node.name(), pod.namespace, pod.name);
        wire::failure(code::UNKNOWN_CONTAINER, msg)
    };
    match PodKey::new(&pod.namespace, &pod.name) {
        Ok(key) => node.explain(&key).await.map_or_else(|| Outcome::Error(unknown()), |told| document(&told)),
        Err(error) => Outcome::Error(wire::failure(code::INVALID_ENVIRONMENT, error.to_string())),
    }
}

fn explain_flow(node: &Node, flow: &cni::Flow) -> Outcome {
    let explained = || node.explain_flow(&flow.from.parse()?, &flow.to.parse()?, flow.service.parse()?);
    match explained() {
        Ok(told) => document(&told),
        Err(error @ FlowError::Unknown(_)) => {
            Outcome::Error(wire::failure(code::UNKNOWN_CONTAINER, error.to_string()))
        }
        Err(error) => Outcome::Error(wire::failure(code::INVALID_ENVIRONMENT, error.to_string())),
    }
}

async fn handle_add(node: &Node, add: cni::Add, netns: Option<&OwnedFd>, answer: Answer) {
    let pod = add.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
    let parsed = wire::attachment(&add.attachment).and_then(|id| Ok((id, wire::attach_request(add, netns)?)));
    let (attachment, request) = match parsed {
        Ok(parsed) => parsed,
        Err(failure) => return answer.send(Outcome::Error(failure)).await,
    };
    let guard = node.lock(attachment).await;
    let container_id = guard.attachment().container().clone();
    // The runtime gave up, and its DEL may have been served already: nobody would undo what is done now. A DEL
    // sent after this moment waits for the lock.
    if answer.is_unwanted() {
        tracing::info!(pod, %container_id, op = "add", "the client is gone: not attached");
        return;
    }
    let abandoned = AtomicBool::new(false);
    let is_abandoned = || abandoned.load(Ordering::Acquire);
    let mut work = std::pin::pin!(node.attach(&guard, &request, &clock::now, rand::random(), &is_abandoned));
    match timeout(ADD_DEADLINE, &mut work).await {
        Ok(Ok(attached)) => {
            answer.send(Outcome::Ok(Reply::Added(wire::added(&attached)))).await;
            let addresses: Vec<_> = attached.addresses.iter().map(|address| address.to_string()).collect();
            tracing::info!(pod, %container_id, op = "add", addresses = addresses.join(" "), "attached");
        }
        Ok(Err(error)) => {
            tracing::warn!(pod, %container_id, op = "add", label = error.label(), %error, "refused");
            answer.send(Outcome::Error(wire::attach_failure(&error))).await;
        }
        Err(_) => {
            abandoned.store(true, Ordering::Release);
            tracing::error!(pod, %container_id, op = "add", "took more than 30 s: taking it back");
            answer
                .send(Outcome::Error(wire::failure(code::TRY_AGAIN, "the node did not finish within 30 s")))
                .await;
            // It may have passed the point of no return just before it was told.
            let taken_back = match work.await {
                Ok(_) => {
                    node.detach(&guard, clock::now()).await.map(|_| ()).map_err(|error| error.to_string())
                }
                Err(error) => {
                    tracing::info!(pod, %container_id, op = "add", %error, "given up");
                    Ok(())
                }
            };
            match taken_back {
                Ok(()) => tracing::info!(pod, %container_id, op = "add", "taken back"),
                Err(error) => tracing::error!(pod, %container_id, op = "add", error, "not wholly taken back"),
            }
        }
    }
}

async fn del(node: &Node, attachment: &cni::Attachment) -> Result<(), Failure> {
    let guard = node.lock(wire::attachment(attachment)?).await;
    let container_id = guard.attachment().container();
    match node.detach(&guard, clock::now()).await {
        Ok(true) => {
            tracing::info!(%container_id, op = "del", "detached");
            Ok(())
        }
        Ok(false) => {
            tracing::debug!(%container_id, op = "del", "nothing to detach");
            Ok(())
        }
        Err(error) => {
            tracing::error!(%container_id, op = "del", label = error.label(), %error, "not wholly removed");
            Err(wire::detach_failure(&error))
        }
    }
}

async fn check(node: &Node, check: cni::Check, netns: Option<&OwnedFd>) -> Result<(), Failure> {
    let guard = node.lock(wire::attachment(&check.attachment)?).await;
    let request = wire::check_request(check, netns)?;
    node.check(&guard, &request).await.map_err(|error| wire::check_failure(&error))
}

async fn gc(node: &Node, gc: &cni::Gc) -> Result<(), Failure> {
    match node.gc(&wire::keep(gc), clock::now()).await {
        Ok(removed) => {
            for attachment in removed {
                tracing::info!(%attachment, op = "gc", "removed");
            }
            Ok(())
        }
        Err(error) => {
            tracing::error!(op = "gc", %error, "not wholly removed");
            Err(wire::gc_failure(&error))
        }
    }
}
