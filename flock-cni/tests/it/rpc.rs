//! Bounds of the call to the agent, with budgets a test can wait for.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use flock_cni::error::code;
use flock_cni::rpc::{Limits, RpcError, call};
use flock_cni::wire::{Attachment, Call, Gc, Reply, Request};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use crate::agent::{Answer, FakeAgent, done};

/// Longer than any test machine stalls.
const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(20);

fn status(socket: &Path, dial: Duration, answer: Duration) -> Result<Reply, RpcError> {
    call(socket, &Request::new(Call::Status), Limits { dial, restart: dial, answer })
}

#[test]
fn budgets_are_those_of_the_contract() {
    let (dial, answer) = (Duration::from_secs(2), Duration::from_secs(45));
    assert_eq!(Limits::DEFAULT, Limits { dial, restart: dial, answer });
}

#[test]
fn agent_that_comes_back_while_dialling_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let dialling = thread::spawn({
        let socket = socket.clone();
        move || status(&socket, LONG, LONG)
    });
    let _agent = FakeAgent::start_at(&socket, dir, |_| Answer::Say(done()));
    assert_eq!(dialling.join().unwrap().unwrap(), Reply::Done);
}

#[test]
fn only_an_agent_that_ran_is_waited_for_as_long_as_a_restart_takes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let ask = |dial, restart| {
        call(&socket, &Request::new(Call::Status), Limits { dial, restart, answer: LONG }).unwrap_err()
    };
    let error = ask(SHORT, LONG);
    assert!(matches!(error, RpcError::Absent { .. }), "{error}");
    // What a process leaves that has ended.
    drop(UnixListener::bind(&socket).unwrap());
    let error = ask(LONG, SHORT);
    assert!(matches!(error, RpcError::Absent { .. }), "{error}");
    let dialling = thread::spawn({
        let socket = socket.clone();
        let limits = Limits { dial: SHORT, restart: LONG, answer: LONG };
        move || call(&socket, &Request::new(Call::Status), limits)
    });
    let fresh = dir.path().join("fresh.sock");
    let _agent = FakeAgent::start_at(&fresh, dir, |_| Answer::Say(done()));
    std::fs::rename(fresh, socket).unwrap();
    assert_eq!(dialling.join().unwrap().unwrap(), Reply::Done);
}

#[test]
fn silent_agent_is_left_after_the_budget() {
    let agent = FakeAgent::start(|_| Answer::Hang);
    let error = status(agent.socket(), LONG, SHORT).unwrap_err();
    assert!(matches!(error, RpcError::Timeout { budget: SHORT }), "{error}");
    assert_eq!(error.code(), code::TRY_AGAIN);
}

#[test]
fn agent_that_trickles_does_not_stretch_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let trickling = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    let error = status(&path, LONG, SHORT).unwrap_err();
    assert!(matches!(error, RpcError::Timeout { .. }), "{error}");
    trickling.join().unwrap();
}

#[test]
fn agent_that_reads_nothing_is_left_after_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let kept = Attachment { container_id: "c".repeat(128), ifname: "eth0".into() };
    let request = Request::new(Call::Gc(Gc { keep: vec![kept; 6000] }));
    let error = call(&path, &request, Limits { dial: LONG, restart: LONG, answer: SHORT }).unwrap_err();
    assert!(matches!(error, RpcError::Timeout { .. }), "{error}");
}

#[test]
fn agent_that_takes_no_connection_is_left_after_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let address = UnixAddr::new(&path).unwrap();
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let mut queued = Vec::new();
    loop {
        let stream: UnixStream =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap().into();
        stream.set_nonblocking(true).unwrap();
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) => queued.push(stream),
            Err(errno) => break assert_eq!(errno, Errno::EAGAIN),
        }
    }
    let error = status(&path, SHORT, LONG).unwrap_err();
    assert!(matches!(error, RpcError::Stuck { .. }), "{error}");
    assert_eq!(error.code(), code::TRY_AGAIN);
}

#[test]
fn request_the_agent_would_cut_off_is_not_sent() {
    let agent = FakeAgent::saying(done());
    let kept = Attachment { container_id: "c".repeat(128), ifname: "eth0".into() };
    let request = Request::new(Call::Gc(Gc { keep: vec![kept; 7000] }));
    let error = call(agent.socket(), &request, Limits::DEFAULT).unwrap_err();
    assert!(matches!(error, RpcError::TooLong { .. }), "{error}");
    assert_eq!(agent.requests(), []);
}

#[test]
fn refusal_before_the_request_is_read_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let refusing = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"version\":1,\"error\":{\"code\":100,\"msg\":\"too much\"}}\n").unwrap();
    });
    let kept = Attachment { container_id: "c".repeat(128), ifname: "eth0".into() };
    let request = Request::new(Call::Gc(Gc { keep: vec![kept; 6000] }));
    let error = call(&path, &request, Limits { dial: LONG, restart: LONG, answer: LONG }).unwrap_err();
    assert!(matches!(&error, RpcError::Refused(failure) if failure.msg == "too much"), "{error}");
    refusing.join().unwrap();
}

#[test]
fn path_that_no_socket_can_have_is_an_io_error() {
    let long = format!("/{}", "x".repeat(200));
    for path in [long.as_str(), "/a\0b", "/dev/null/x"] {
        assert_eq!(status(Path::new(path), LONG, LONG).unwrap_err().code(), code::IO_FAILURE, "{path:?}");
    }
}
