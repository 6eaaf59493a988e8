//! What runs in the pods that share an address: it says which pod it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
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
/// at once and one more for everything it is sent.
pub(crate) fn serve(name: &str) -> Result<()> {
    let line = format!("{name}\n");
    // On the very address: what answers from "any" answers from the pod's own.
    for address in Family::ALL.map(at) {
        let datagrams = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
        let connections = TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
        // Connections inherit it. One that is orphaned, its client being out of reach, would hold the namespace.
        setsockopt(&connections, Linger, &at_once()).context("cannot set SO_LINGER")?;
        let (to_datagrams, to_connections) = (line.clone(), line.clone());
        thread::spawn(move || answer_datagrams(&datagrams, to_datagrams.as_bytes()));
        thread::spawn(move || answer_connections(&connections, &to_connections));
    }
    loop {
        thread::park();
    }
}

/// A close that resets instead of waiting for the other end.
fn at_once() -> libc::linger {
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
