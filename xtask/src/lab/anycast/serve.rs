//! What runs in pods that serve: it says which pod it is.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use crate::lab::topology::{Family, SHARED};

/// The port, of both transports.
const PORT: u16 = 53;

/// Where the service is in a family.
pub(super) fn at(family: Family) -> SocketAddr {
    SocketAddr::new(SHARED.of(family), PORT)
}

/// Answers with `name` on the shared addresses until it is killed: a datagram to every datagram, over TCP a line
/// at once and one more for everything it is sent. With `ports` over TCP only, there and on every address.
pub(crate) fn serve(name: &str, ports: &[u16]) -> Result<()> {
    let line = format!("{name}\n");
    for port in ports {
        answer_over_tcp((Ipv6Addr::UNSPECIFIED, *port).into(), line.clone())?;
    }
    let shared = if ports.is_empty() { &Family::ALL[..] } else { &[] };
    // On the very address: what answers from "any" answers from the pod's own.
    for address in shared.iter().copied().map(at) {
        let datagrams = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
        let to_datagrams = line.clone();
        thread::spawn(move || answer_datagrams(&datagrams, to_datagrams.as_bytes()));
        answer_over_tcp(address, line.clone())?;
    }
    loop {
        thread::park();
    }
}

/// Starts answering where both families are meant by `::`, as they are by default.
fn answer_over_tcp(address: SocketAddr, line: String) -> Result<()> {
    let connections = TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
    // Connections inherit it. One that is orphaned, its client being out of reach, would hold the namespace.
    setsockopt(&connections, Linger, &at_once()).context("cannot set SO_LINGER")?;
    thread::spawn(move || answer_connections(&connections, &line));
    Ok(())
}

/// A close that resets instead of waiting for the other end.
pub(super) fn at_once() -> libc::linger {
    libc::linger { l_onoff: 1, l_linger: 0 }
}

fn answer_datagrams(socket: &UdpSocket, line: &[u8]) {
    let mut asked = [0; 64];
    loop {
        // An error is of one client, such as one that has gone: the next one is waiting.
        if let Ok((_, client)) = socket.recv_from(&mut asked) {
            let _ = socket.send_to(line, client);
        }
    }
}

fn answer_connections(listener: &TcpListener, line: &str) {
    for client in listener.incoming().flatten() {
        let line = line.to_owned();
        thread::spawn(move || converse(client, line.as_bytes()));
    }
}

fn converse(mut client: TcpStream, line: &[u8]) {
    let mut asked = [0; 64];
    while client.write_all(line).is_ok() && client.read(&mut asked).is_ok_and(|length| length > 0) {}
}
