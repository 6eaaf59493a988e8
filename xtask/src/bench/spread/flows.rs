//! Flows: pods that answer with their number, and a client that asks.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bench::netns::Netns;

/// Where the pods listen.
const PORT: u16 = 5353;

/// How long the client waits for an answer that takes a fraction of a millisecond.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a datagram is sent before it counts as lost.
const ATTEMPTS: usize = 3;

/// How many flows each pod got.
pub(super) type PerPod = BTreeMap<u8, usize>;

/// What answers in a pod. Dropping it ends it, as the pod's process would end: its sockets are closed.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers on these addresses with `number`.
    pub(super) fn start(netns: &Netns, addresses: &[IpAddr], number: u8) -> Result<Self> {
        let (listeners, datagrams) = netns.run(|| {
            let mut opened = (Vec::new(), Vec::new());
            for address in addresses {
                let at = SocketAddr::new(*address, PORT);
                let tcp = TcpListener::bind(at).context("cannot listen in a pod")?;
                let udp = UdpSocket::bind(at).context("cannot listen in a pod")?;
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                opened.0.push(tcp);
                opened.1.push(udp);
            }
            Ok(opened)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(&listeners, &datagrams, number, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It cannot panic, and nothing depends on it any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(listeners: &[TcpListener], datagrams: &[UdpSocket], number: u8, stop: &AtomicBool) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sockets = listeners.iter().map(AsFd::as_fd).chain(datagrams.iter().map(AsFd::as_fd));
        let sockets = sockets.chain(open.iter().map(AsFd::as_fd));
        let mut polled: Vec<_> = sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = poll(&mut polled, PollTimeout::from(50_u8));
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let streams = ready.get(listeners.len() + datagrams.len()..).unwrap_or_default();
        let mut place = 0;
        open.retain_mut(|stream| {
            let is_ready = streams.get(place).copied().unwrap_or(false);
            place += 1;
            !is_ready || answer(stream, number)
        });
        for listener in listeners {
            while let Ok((stream, _)) = listener.accept() {
                let _ = stream.set_nonblocking(true);
                open.push(stream);
            }
        }
        for socket in datagrams {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                let _ = socket.send_to(&[number], from);
            }
        }
    }
}

/// Answers what was asked on a connection; false once it has ended.
fn answer(stream: &mut TcpStream, number: u8) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(0) => false,
        Ok(_) => stream.write_all(&[number]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// An open connection and the pod at its other end.
pub(super) struct Connection {
    pub(super) pod: u8,
    stream: TcpStream,
}

impl Connection {
    fn open(address: IpAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), PATIENCE)
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut connection = Self { pod: 0, stream };
        connection.pod = connection.ask()?;
        Ok(connection)
    }

    fn ask(&mut self) -> Result<u8> {
        let mut answer = [0];
        self.stream.write_all(b"?").context("cannot ask")?;
        self.stream.read_exact(&mut answer).context("no answer")?;
        Ok(answer[0])
    }

    /// Whether the same pod still answers.
    pub(super) fn holds(&mut self) -> bool {
        self.ask().is_ok_and(|pod| pod == self.pod)
    }
}

/// Opens connections from the client.
pub(super) fn connections(client: &Netns, address: IpAddr, count: usize) -> Result<Vec<Connection>> {
    client.run(|| (0..count).map(|_| Connection::open(address)).collect())
}

/// How many of these connections each pod has.
pub(super) fn per_pod(connections: &[Connection]) -> PerPod {
    let mut counts = PerPod::new();
    for connection in connections {
        *counts.entry(connection.pod).or_default() += 1;
    }
    counts
}

/// Where datagrams from that many ports of the client go.
pub(super) fn datagrams(client: &Netns, address: IpAddr, count: usize) -> Result<PerPod> {
    let any: IpAddr =
        if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    client.run(|| {
        let sockets: Vec<UdpSocket> = (0..count)
            .map(|_| {
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(SocketAddr::new(address, PORT))?;
                socket.set_read_timeout(Some(Duration::from_secs(1)))?;
                Ok(socket)
            })
            .collect::<Result<_>>()?;
        let mut counts = PerPod::new();
        for socket in sockets {
            *counts.entry(ask(&socket)?).or_default() += 1;
        }
        Ok(counts)
    })
}

fn ask(socket: &UdpSocket) -> Result<u8> {
    for _ in 0..ATTEMPTS {
        let mut answer = [0];
        socket.send(b"?").context("cannot ask")?;
        if socket.recv(&mut answer).is_ok() {
            return Ok(answer[0]);
        }
    }
    bail!("nobody answers a datagram")
}

/// Connections in use: every one asks again and again until it is stopped.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Connection>, Vec<u8>)>,
}

impl Running {
    pub(super) fn start(mut connections: Vec<Connection>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut broken = Vec::new();
            let mut last = false;
            // Once more after the stop: all of them have been asked when everything is over.
            while !last {
                last = stopped.load(Ordering::Relaxed);
                connections.retain_mut(|connection| {
                    let holds = connection.holds();
                    if !holds {
                        broken.push(connection.pod);
                    }
                    holds
                });
            }
            (connections, broken)
        });
        Self { stop, thread }
    }

    /// The connections that hold, and the pods of those that do not.
    pub(super) fn stop(self) -> Result<(Vec<Connection>, Vec<u8>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a thread panicked"))
    }
}
