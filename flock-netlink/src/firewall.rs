//! [`KernelFirewall`] implements [`flock_core::ports::Firewall`] with one nftables table.
//!
//! ```text
//!   guard, fingerprint, elements ---- thread flock-firewall: its socket          worker, elements
//!   replace, rules ---- one at a time: thread: nft -f -                          nft
//!   observe, counters ---- thread: dumps                                         observe
//!   read, links ---- thread: dumps, and rules made of them                       read
//!   forget, forget_stamps ---- thread: dump of the tracked flows                 flows
//!   DropLog ---- its own socket, on the thread of the caller                     drops, headers
//!                       \------------ socket, wire: netlink itself
//! ```
//!
//! What takes long is done on threads of its own, which `flock-firewall` starts: so all are in its network namespace,
//! and a pod that is added waits for nothing but the kernel.

mod drops;
mod elements;
mod flows;
mod headers;
mod nft;
mod observe;
mod read;
mod socket;
mod wire;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use flock_core::ids::IfName;
use flock_core::policy::render::{self, Rendered};
use flock_core::policy::{Guard, Ruleset, Stamp, Update};
use flock_core::ports::{Counters, Fingerprint, Firewall, FirewallError, Observed, ObservedLink};

use tokio::sync::Mutex;

pub use self::drops::{DropLog, DropLogError, Dropped};
pub use self::headers::Payload;

use self::elements::Batch;
use self::socket::Socket;
use self::worker::Worker;

/// The packet filter of the kernel, in the network namespace of the thread that made this.
#[derive(Debug)]
pub struct KernelFirewall {
    worker: Worker,
    /// Transactions of our own that changed anything.
    own: Arc<AtomicU32>,
    /// Held while a run of nft may change something: until it ends nobody can say whose change is whose.
    turn: Arc<Mutex<()>>,
}

impl KernelFirewall {
    /// Starts the thread. Fails where netlink sockets are not allowed.
    pub fn new() -> Result<Self, FirewallError> {
        let (own, turn) = (Arc::default(), Arc::default());
        Ok(Self { worker: Worker::start(Socket::open()?)?, own, turn })
    }

    /// Removes the table; whether there was one.
    pub async fn remove(&self) -> Result<bool, FirewallError> {
        if self.fingerprint().await?.table.is_none() {
            return Ok(false);
        }
        self.script(|| format!("delete table inet {}\n", render::TABLE), false).await.map(|()| true)
    }

    /// Runs nft once, for an update only of a table that is there. It runs to its end even if nobody waits for it any more, and others wait until then.
    async fn script(
        &self,
        text: impl FnOnce() -> String + Send + 'static,
        update: bool,
    ) -> Result<(), FirewallError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let own = Arc::clone(&self.own);
        self.worker
            .aside(move || {
                let done = nft::run(&text());
                if done.is_ok() {
                    own.fetch_add(1, Ordering::Relaxed);
                }
                drop(turn);
                match done {
                    Err(error) if update => Err(or_missing(&mut Socket::open()?, error)),
                    done => done,
                }
            })
            .await
    }
}

/// Whether a refusal is because there is no table at all.
fn or_missing(socket: &mut Socket, error: FirewallError) -> FirewallError {
    match observe::table(socket) {
        Ok(None) => FirewallError::Missing,
        _ => error,
    }
}

#[async_trait]
impl Firewall for KernelFirewall {
    async fn replace(&self, wanted: &Ruleset, stamp: Stamp) -> Result<(), FirewallError> {
        let (first, second) = (wanted.clone(), wanted.clone());
        let complaint = match self.script(move || render::table(&first, stamp), false).await {
            Err(FirewallError::Refused(complaint)) if render::is_about_log(&complaint) => complaint,
            done => return done,
        };
        self.script(move || render::without_log(&render::table(&second, stamp)), false).await?;
        tracing::warn!(
            error = complaint,
            "dropped packets are not logged: the kernel has no module nfnetlink_log or nft_log"
        );
        Ok(())
    }

    async fn update(&self, update: &Update) -> Result<(), FirewallError> {
        let (first, second) = update.clone().in_two();
        if let Rendered::Script(text) = render::update(&first) {
            self.script(move || text, true).await?;
        }
        let changes = match render::update(&second) {
            Rendered::Script(text) => return self.script(move || text, true).await,
            Rendered::Elements(changes) if changes.is_empty() => return Ok(()),
            Rendered::Elements(changes) => changes,
        };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let own = Arc::clone(&self.own);
        self.worker
            .inline(move |socket| {
                let batch = Batch::of(changes);
                let done = batch.send(socket, "change elements", &own);
                drop(turn);
                done.map_err(|error| or_missing(socket, error))
            })
            .await
    }

    async fn guard(&self, guard: &Guard) -> Result<(), FirewallError> {
        let batch = Batch::guard(guard);
        let own = Arc::clone(&self.own);
        self.worker
            .inline(move |socket| {
                let done = batch.send(socket, "admit the addresses of a pod", &own);
                done.map_err(|error| if is_missing(&error) { FirewallError::Missing } else { error })
            })
            .await
    }

    async fn forget(&self, addresses: &BTreeSet<IpAddr>) -> Result<usize, FirewallError> {
        if addresses.is_empty() {
            return Ok(0);
        }
        let addresses = addresses.clone();
        self.worker.aside(move || flows::forget(&addresses)).await
    }

    async fn forget_stamps(&self, current: Stamp) -> Result<(), FirewallError> {
        self.worker.aside(move || flows::forget_stamps(current)).await
    }

    async fn fingerprint(&self) -> Result<Fingerprint, FirewallError> {
        let _turn = self.turn.lock().await;
        let own = Arc::clone(&self.own);
        self.worker
            .inline(move |socket| {
                let foreign = observe::generation(socket)?.wrapping_sub(own.load(Ordering::Relaxed));
                Ok(Fingerprint { table: observe::table(socket)?, foreign })
            })
            .await
    }

    async fn observe(&self) -> Result<Option<Observed>, FirewallError> {
        self.worker.aside(|| observe::observe(&mut Socket::open()?)).await
    }

    async fn read(&self) -> Result<Option<(Ruleset, Option<Stamp>)>, FirewallError> {
        self.worker.aside(|| read::read(&mut Socket::open()?)).await
    }

    async fn links(&self) -> Result<BTreeMap<IfName, ObservedLink>, FirewallError> {
        self.worker.aside(|| read::links(&mut Socket::open()?)).await
    }

    async fn counters(&self) -> Result<Counters, FirewallError> {
        self.worker.aside(|| observe::counters(&mut Socket::open()?)).await
    }
}

fn is_missing(error: &FirewallError) -> bool {
    matches!(error, FirewallError::Kernel { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
