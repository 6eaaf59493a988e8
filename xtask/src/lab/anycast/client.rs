//! Flows from a client: one at a time, many while something happens, and some that stay open.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use super::serve;
use crate::lab::topology::Family;

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Between two requests of a worker: as many as a few busy clients have, and no more than the machine bears.
const PAUSE: Duration = Duration::from_millis(2);

/// Connections per family that stay open.
const OPEN: usize = 16;

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// One worker for each.
const WORKERS: [(Family, Transport); 4] = [
    (Family::V6, Transport::Udp),
    (Family::V4, Transport::Udp),
    (Family::V6, Transport::Tcp),
    (Family::V4, Transport::Tcp),
];

/// A request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) family: Family,
    pub(super) transport: Transport,
    pub(super) started: Instant,
    /// Which pod answered.
    pub(super) answer: io::Result<String>,
}

/// Sends a datagram from a port (0: any) and returns the name of the pod that answers.
pub(super) fn ask(family: Family, port: u16) -> io::Result<String> {
    let from: IpAddr = match family {
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((from, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(serve::at(family))?;
    socket.send(b"who?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).trim().to_owned())
}

/// A connection to a pod.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    /// The pod at the other end.
    pub(crate) pod: String,
}

impl Connection {
    fn open(family: Family) -> io::Result<Self> {
        Self::to(serve::at(family), PATIENCE)
    }

    /// Opens one and waits for the first answer, for `patience` each; so long may every other answer take, too.
    pub(crate) fn to(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        // One whose end does not reach its server would hold the namespace.
        setsockopt(&stream, Linger, &serve::at_once())?;
        let mut connection = Self { stream: BufReader::new(stream), pod: String::new() };
        connection.pod = connection.line()?;
        Ok(connection)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.ends_with('\n') {
            Ok(line.trim().to_owned())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Whether the other end still answers.
    pub(crate) fn works(&mut self) -> bool {
        self.stream.get_mut().write_all(b"still there?").is_ok()
            && self.line().is_ok_and(|pod| pod == self.pod)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}

/// Opens some connections per family.
pub(super) fn open_some() -> Result<Vec<Connection>> {
    let families = Family::ALL.into_iter().flat_map(|family| std::iter::repeat_n(family, OPEN));
    families
        .map(|family| {
            Connection::open(family).with_context(|| format!("cannot connect to {}", serve::at(family)))
        })
        .collect()
}

/// Requests without end, in both families and over both transports.
#[derive(Debug, Default)]
pub(super) struct Load {
    stop: AtomicBool,
    done: [AtomicUsize; WORKERS.len()],
}

impl Load {
    /// Asks until it is told to stop; everything that was asked. From the namespace it is called in.
    pub(super) fn run(&self) -> Result<Vec<Asked>> {
        thread::scope(|scope| {
            let workers: Vec<_> = WORKERS
                .into_iter()
                .zip(&self.done)
                .map(|((family, transport), done)| scope.spawn(move || self.work(family, transport, done)))
                .collect();
            let mut asked = Vec::new();
            for worker in workers {
                asked.extend(worker.join().map_err(|_| anyhow!("a client thread panicked"))?);
            }
            Ok(asked)
        })
    }

    fn work(&self, family: Family, transport: Transport, done: &AtomicUsize) -> Vec<Asked> {
        let mut asked = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let answer = match transport {
                Transport::Udp => ask(family, 0),
                Transport::Tcp => Connection::open(family).map(|mut open| std::mem::take(&mut open.pod)),
            };
            asked.push(Asked { family, transport, started, answer });
            done.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
        asked
    }

    /// How many requests each worker has finished.
    pub(super) fn done(&self) -> [usize; WORKERS.len()] {
        std::array::from_fn(|worker| self.done.get(worker).map_or(0, |done| done.load(Ordering::Relaxed)))
    }

    /// Lets it end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
