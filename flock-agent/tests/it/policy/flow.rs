//! Connections that are open for long. Both ends are ours, so one thread keeps any number of them going.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::prober::Kind;
use crate::netns::Netns;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// The client asks as soon as it has its answer, and again if over UDP it has waited for a second.
    PingPong,
    /// The server sends by itself, as fast as the client reads.
    Push,
}

pub(super) const TCP_PING: (Kind, Manner) = (Kind::Tcp, Manner::PingPong);
pub(super) const UDP_PING: (Kind, Manner) = (Kind::Udp, Manner::PingPong);
pub(super) const TCP_PUSH: (Kind, Manner) = (Kind::Tcp, Manner::Push);
pub(super) const UDP_PUSH: (Kind, Manner) = (Kind::Udp, Manner::Push);

enum End {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl End {
    fn send(&mut self, message: [u8; 8]) {
        let sent = match self {
            Self::Tcp(stream) => stream.write(&message),
            Self::Udp(socket) => socket.send(&message),
        };
        match sent {
            Ok(length) => assert_eq!(length, message.len(), "buffers hold many messages"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }

    /// The next message, if it has come.
    fn receive(&mut self) -> Option<u64> {
        let mut message = [0; 8];
        let received = match self {
            Self::Tcp(stream) => stream.read(&mut message),
            Self::Udp(socket) => socket.recv(&mut message),
        };
        match received {
            Ok(length) => {
                assert_eq!(length, message.len(), "messages are not torn on their way between namespaces");
                Some(u64::from_be_bytes(message))
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }
}

/// An open connection.
pub(super) struct Flow {
    pub(super) name: String,
    manner: Manner,
    client: End,
    server: End,
    /// Messages the server has sent.
    sent: u64,
    /// Messages the client has.
    pub(super) delivered: u64,
    /// Messages of the client the server has.
    pub(super) asked: u64,
    /// Messages that got lost.
    pub(super) gaps: u64,
    /// When the client last asked or heard.
    turn: Instant,
}

impl Flow {
    /// Opens a connection to a port that is served on all addresses of `server`; `target` is where the client
    /// finds it.
    pub(super) fn open(
        (kind, manner): (Kind, Manner),
        client: &Netns,
        server: &Netns,
        port: u16,
        target: SocketAddr,
    ) -> Self {
        let any = (Ipv6Addr::UNSPECIFIED, port);
        let (client, server) = match kind {
            Kind::Tcp => {
                let listener = server.run(|| TcpListener::bind(any).unwrap());
                let client = client.run(|| TcpStream::connect_timeout(&target, PATIENCE).unwrap());
                let server = listener.accept().unwrap().0;
                for end in [&client, &server] {
                    end.set_nodelay(true).unwrap();
                    end.set_nonblocking(true).unwrap();
                }
                (End::Tcp(client), End::Tcp(server))
            }
            Kind::Udp => {
                let socket = server.run(|| UdpSocket::bind(any).unwrap());
                let client = client.run(|| {
                    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
                    socket.connect(mapped(target)).unwrap();
                    socket
                });
                client.send(b"hello").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect(socket.recv_from(&mut [0; 8]).unwrap().1).unwrap();
                for end in [&client, &socket] {
                    end.set_nonblocking(true).unwrap();
                }
                (End::Udp(client), End::Udp(socket))
            }
            Kind::Icmp => panic!("there are no connections"),
        };
        let name = format!("{kind:?} {manner:?} to {target}");
        let mut flow = Self {
            name,
            manner,
            client,
            server,
            sent: 0,
            delivered: 0,
            asked: 0,
            gaps: 0,
            turn: Instant::now(),
        };
        if manner == Manner::PingPong {
            flow.client.send(0_u64.to_be_bytes());
        }
        flow
    }

    /// One step of each end.
    fn pump(&mut self) {
        match self.manner {
            Manner::PingPong => {
                while let Some(asked) = self.server.receive() {
                    self.asked += 1;
                    self.server.send((asked + 1).to_be_bytes());
                }
            }
            // TCP keeps what does not get through, and takes no more at some time.
            Manner::Push if matches!(self.server, End::Tcp(_)) && self.sent > self.delivered + 50 => {}
            Manner::Push => {
                self.sent += 1;
                self.server.send(self.sent.to_be_bytes());
            }
        }
        while let Some(number) = self.client.receive() {
            self.delivered += 1;
            self.turn = Instant::now();
            if self.manner == Manner::PingPong {
                self.client.send(number.to_be_bytes());
            } else {
                self.gaps = number - self.delivered;
            }
        }
        let is_silent = self.manner == Manner::PingPong && self.turn.elapsed() > AGAIN;
        if is_silent && matches!(self.client, End::Udp(_)) {
            self.gaps += 1;
            self.client.send(self.delivered.to_be_bytes());
            self.turn = Instant::now();
        }
    }
}

/// How long a client waits for an answer over UDP.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);

/// An address as sockets of both families have it.
fn mapped(target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => target,
    }
}

/// Connections that are kept going.
pub(super) struct Flows {
    flows: Mutex<Vec<Flow>>,
}

impl Flows {
    pub(super) fn of(flows: Vec<Flow>) -> Self {
        Self { flows: Mutex::new(flows) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Flow>> {
        self.flows.lock().unwrap()
    }

    /// Keeps them going while `story` is told.
    pub(super) fn during<T>(&self, story: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ends = Ending(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.lock().iter_mut().for_each(Flow::pump);
                    // Whoever wants to look must get its turn.
                    thread::sleep(Duration::from_micros(200));
                }
            });
            story()
        })
    }

    /// Messages each client has.
    pub(super) fn delivered(&self) -> Vec<u64> {
        self.lock().iter().map(|flow| flow.delivered).collect()
    }
}

/// Says that it is over, also where the story ends in a panic.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
