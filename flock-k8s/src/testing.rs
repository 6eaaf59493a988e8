//! An API server to test against: real HTTP on the loopback address, resource versions, lists in pages, watches with
//! field selectors and bookmarks, 410 Gone, the three kinds of PATCH that flock sends. It refuses what the real one
//! would refuse, above all what `deploy/rbac.yaml` does not allow. It can be told to fail, to stay silent, to
//! answer nonsense, to cut connections and to be away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]
#![allow(clippy::missing_panics_doc, clippy::single_match_else, reason = "what goes wrong here ends a test")]

mod answer;
mod http;
mod rules;
mod script;
mod store;
mod tls;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use self::http::Request;
pub use self::rules::{Access, allowed};
pub use self::script::{Answer, Then, error_event};
use self::store::Store;
pub use self::tls::Authority;

/// What the server does with what reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Well,
    /// Takes connections and requests and never says a word: a half-open connection, as its client sees it.
    Silent,
    /// Closes every connection at once.
    Away,
    /// Answers everything with this status.
    Failing(u16),
}

/// The server; it ends with this value.
#[derive(Debug)]
pub struct FakeApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something changed that a watch may be waiting for.
    news: Condvar,
    stopped: AtomicBool,
    /// Connections older than this are cut.
    epoch: AtomicU64,
}

#[derive(Debug)]
struct State {
    store: Store,
    mood: Mood,
    requests: Vec<Request>,
    /// Counts requests for bookmarks.
    bookmarks: u64,
    planned: Vec<Plan>,
    /// What `deploy/rbac.yaml` allows.
    allowed: BTreeSet<Access>,
    selective: bool,
    /// The definition of `ClusterNetworkPolicy` is installed.
    has_cluster_policies: bool,
    /// The watches that are open; the version and the bookmark each has been told of.
    told: BTreeMap<u64, (u64, u64)>,
    /// Counts watches.
    watch: u64,
}

/// Another answer than the right one, for requests of this verb whose path contains this.
#[derive(Debug)]
struct Plan {
    verb: &'static str,
    path: &'static str,
    answer: Answer,
    /// The next of them, or all.
    once: bool,
}

impl State {
    /// The answer for a request, if it is not the right one.
    fn planned(&mut self, request: &Request) -> Option<Answer> {
        let of = |plan: &Plan| plan.verb == request.verb() && request.path.contains(plan.path);
        let found = self.planned.iter().position(of)?;
        let plan = self.planned.get(found)?;
        let answer = plan.answer.clone();
        if plan.once {
            self.planned.remove(found);
        }
        Some(answer)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, longest: Duration) -> MutexGuard<'a, State> {
        self.news.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl FakeApiServer {
    /// Starts on a free port.
    pub fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Starts on a socket, which may be of another network namespace.
    pub fn on(listener: TcpListener) -> Self {
        let state = State {
            store: Store::default(),
            mood: Mood::Well,
            requests: Vec::new(),
            bookmarks: 0,
            planned: Vec::new(),
            allowed: rules::allowed(),
            selective: true,
            has_cluster_policies: false,
            told: BTreeMap::new(),
            watch: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            news: Condvar::new(),
            stopped: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
        });
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &server));
        Self { address, shared }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a kubeconfig that leads to it.
    pub fn kubeconfig(&self, path: &Path) {
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url()}}],
            "users": [{"name": "agent", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "agent"}}],
            "current-context": "fake",
        });
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Adds or replaces an object, as somebody else would; `apiVersion` and `kind` say which. A `ClusterNetworkPolicy`
    /// comes with its definition.
    pub fn put(&self, object: Value) {
        let mut state = self.shared.state();
        state.has_cluster_policies |= object["kind"] == "ClusterNetworkPolicy";
        state.store.put(object);
        drop(state);
        self.shared.news.notify_all();
    }

    /// Removes an object.
    pub fn delete(&self, plural: &str, namespace: Option<&str>, name: &str) {
        self.shared.state().store.delete(plural, namespace, name);
        self.shared.news.notify_all();
    }

    pub fn get(&self, plural: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.shared.state().store.get(plural, namespace, name)
    }

    /// Everything of a kind.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        self.shared.state().store.all(plural).iter().map(|object| Value::clone(object)).collect()
    }

    /// From now on; connections that are open are cut, unless it falls silent.
    pub fn set_mood(&self, mood: Mood) {
        self.shared.state().mood = mood;
        if mood != Mood::Silent {
            self.cut();
        }
        self.shared.news.notify_all();
    }

    /// Field selectors that say what to select select everything from now on; those that say what not to do not.
    pub fn ignore_selectors(&self) {
        self.shared.state().selective = false;
    }

    /// Installs the definition of `ClusterNetworkPolicy`, or removes it with its objects and cuts every connection.
    pub fn define_cluster_policies(&self, is_there: bool) {
        let plural = "clusternetworkpolicies";
        let mut state = self.shared.state();
        state.has_cluster_policies = is_there;
        if !is_there {
            for object in state.store.all(plural) {
                let name = object["metadata"]["name"].as_str().unwrap();
                state.store.delete(plural, None, name);
            }
        }
        drop(state);
        if !is_there {
            self.cut();
        }
        self.shared.news.notify_all();
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.shared.news.notify_all();
    }

    /// Forgets the past: a watch that wants to go on from it is told that it is gone.
    pub fn compact(&self) {
        self.shared.state().store.compact();
        self.shared.news.notify_all();
    }

    /// Sends a bookmark to every watch that takes them.
    pub fn bookmark(&self) {
        self.shared.state().bookmarks += 1;
        self.shared.news.notify_all();
    }

    /// Answers the next request of this verb whose path contains `path` otherwise than right.
    pub fn plan(&self, verb: &'static str, path: &'static str, answer: Answer) {
        self.shared.state().planned.push(Plan { verb, path, answer, once: true });
    }

    /// The same for every such request, until [`as_ever`](Self::as_ever).
    pub fn plan_always(&self, verb: &'static str, path: &'static str, answer: Answer) {
        self.shared.state().planned.push(Plan { verb, path, answer, once: false });
    }

    /// Gives the right answers again.
    pub fn as_ever(&self) {
        self.shared.state().planned.clear();
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// The watches that are open.
    pub fn watching(&self) -> usize {
        self.shared.state().told.len()
    }

    /// Whether every open watch has been sent every change, and the last bookmark.
    pub fn has_told_all(&self) -> bool {
        let state = self.shared.state();
        state.told.values().all(|told| *told == (state.store.version, state.bookmarks))
    }

    /// Waits for a condition; the deadline only keeps a broken test from hanging.
    pub fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}: not within a minute; {:#?}", self.requests());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for FakeApiServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.cut();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stopped.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                let shared = Arc::clone(shared);
                thread::spawn(move || serve(&stream, &shared));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return,
        }
    }
}

/// One connection. An error means that it is over.
fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    // So that a connection nobody uses notices that it is to be cut.
    stream.set_read_timeout(Some(Duration::from_millis(5)))?;
    let epoch = shared.epoch.load(Ordering::SeqCst);
    let is_over = || shared.epoch.load(Ordering::SeqCst) != epoch || shared.stopped.load(Ordering::SeqCst);
    let mut connection = http::Connection::new(stream);
    while let Some(request) = connection.read(&is_over)? {
        let planned = {
            let mut state = shared.state();
            state.requests.push(request.clone());
            match state.mood {
                Mood::Away => return Ok(()),
                Mood::Silent => {
                    while !is_over() {
                        state = shared.wait(state, Duration::from_millis(20));
                    }
                    return Ok(());
                }
                Mood::Failing(status) => Some(Answer::Status(status)),
                Mood::Well => state.planned(&request),
            }
        };
        let right = || {
            let answer = answer::answer(&mut shared.state(), &request);
            shared.news.notify_all();
            answer
        };
        if let Some(planned) = planned {
            planned.give(&mut connection, right, &is_over)?;
        } else if request.query.contains_key("watch") {
            answer::watch(&mut connection, shared, &request, &is_over)?;
        } else {
            let (status, body) = right();
            connection.write(status, &body)?;
        }
    }
    Ok(())
}
