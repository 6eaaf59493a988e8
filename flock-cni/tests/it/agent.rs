//! A stand-in for flock-agent that answers as it is told and remembers what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use flock_cni::wire::{Added, AddedIp, Failure, Outcome, Reply, Request, Response};
use tempfile::TempDir;

/// What the agent does with a request.
type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// What the agent writes before it closes the connection.
pub(crate) enum Answer {
    /// A line of the protocol.
    Say(Outcome),
    /// These bytes.
    Raw(Vec<u8>),
    /// Nothing, and the connection stays open until the agent is dropped.
    Hang,
}

pub(crate) struct FakeAgent {
    socket: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl FakeAgent {
    pub(crate) fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let dir = TempDir::new().unwrap();
        Self::start_at(&dir.path().join("agent.sock"), dir, script)
    }

    pub(crate) fn start_at(
        socket: &Path,
        dir: TempDir,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (requests, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (requests, stop) = (Arc::clone(&requests), Arc::clone(&stop));
            let script: Arc<Script> = Arc::new(script);
            move || {
                let held = Arc::default();
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (requests, script, held) =
                        (Arc::clone(&requests), Arc::clone(&script), Arc::clone(&held));
                    thread::spawn(move || serve(stream.unwrap(), &requests, &*script, &held));
                }
            }
        });
        Self { socket: socket.to_owned(), requests, stop, thread: Some(thread), _dir: dir }
    }

    /// An agent that answers every request with the same.
    pub(crate) fn saying(outcome: Outcome) -> Self {
        Self::start(move |_| Answer::Say(outcome.clone()))
    }

    /// An agent that writes the same bytes whatever it is asked.
    pub(crate) fn writing(bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        Self::start(move |_| Answer::Raw(bytes.clone()))
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Everything asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept, which then sees the flag.
        let woken = UnixStream::connect(&self.socket);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            thread.join().unwrap();
        }
    }
}

fn serve(
    mut stream: UnixStream,
    requests: &Mutex<Vec<Request>>,
    script: &Script,
    held: &Mutex<Vec<UnixStream>>,
) {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let request: Request = serde_json::from_str(&line).unwrap();
    requests.lock().unwrap().push(request.clone());
    // The plugin may have gone by now; that is its business.
    let _ = match script(&request) {
        Answer::Say(outcome) => {
            let mut line = serde_json::to_vec(&Response::new(outcome)).unwrap();
            line.push(b'\n');
            stream.write_all(&line)
        }
        Answer::Raw(bytes) => stream.write_all(&bytes),
        Answer::Hang => {
            held.lock().unwrap().push(stream);
            return;
        }
    };
    let _ = stream.shutdown(Shutdown::Both);
}

/// A dual-stack pod.
pub(crate) fn added() -> Added {
    let ip = |address: &str, gateway: &str| AddedIp {
        address: address.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    };
    Added {
        host_ifname: "flock7ac7509f".into(),
        host_mac: "02:00:5e:00:53:01".into(),
        pod_mac: "02:00:5e:00:53:02".into(),
        mtu: 1500,
        ips: vec![ip("2001:db8:f001::a", "fe80::1"), ip("192.0.2.5", "169.254.1.1")],
    }
}

pub(crate) fn done() -> Outcome {
    Outcome::Ok(Reply::Done)
}

pub(crate) fn refused(code: u32, msg: &str, details: &str) -> Outcome {
    Outcome::Error(Failure { code, msg: msg.into(), details: details.into() })
}
