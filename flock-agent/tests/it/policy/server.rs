//! Answers whoever asks, in every namespace, from one thread.

use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::Netns;

/// A socket of each protocol on one port, for both families and all addresses the namespace will ever have.
struct Port {
    tcp: TcpListener,
    udp: UdpSocket,
    /// Ends every answer over UDP: who gave it.
    signature: [u8; 8],
}

impl Port {
    /// Takes everything there is.
    fn serve(&self) {
        // Who is connected knows that it came through; there is nothing more to say.
        while self.tcp.accept().is_ok() {}
        let mut buffer = [0; 64];
        while let Ok((length, from)) = self.udp.recv_from(&mut buffer) {
            let answer = [&buffer[..length], &self.signature].concat();
            // Of somebody who has gone there is no way back.
            drop(self.udp.send_to(&answer, from));
        }
    }
}

/// The servers; they end with this value.
pub(super) struct Servers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Opens these ports in each of the namespaces. An answer over UDP is the question, the place of the namespace in
    /// the list, and the port.
    pub(super) fn start(namespaces: &[&Netns], ports: &[u16]) -> Self {
        let mut served = Vec::new();
        for (place, netns) in (0_u32..).zip(namespaces) {
            for port in ports {
                let (tcp, udp) = netns.run(|| {
                    let any = (Ipv6Addr::UNSPECIFIED, *port);
                    (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
                });
                tcp.set_nonblocking(true).unwrap();
                udp.set_nonblocking(true).unwrap();
                let words = u64::from(place) << 32 | u64::from(*port);
                served.push(Port { tcp, udp, signature: words.to_be_bytes() });
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let fds = served.iter().flat_map(|port| [port.tcp.as_fd(), port.udp.as_fd()]);
                let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                poll(&mut fds, PollTimeout::from(100_u8)).unwrap();
                let ready = served.iter().zip(fds.chunks_exact(2));
                ready
                    .filter(|(_, fds)| fds.iter().any(|fd| fd.any() == Some(true)))
                    .for_each(|(port, _)| port.serve());
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}
