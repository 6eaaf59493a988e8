//! The contract of the port, on a real BIRD behind a relay that counts and disturbs.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use flock_bird::BirdSocket;
use flock_core::bird;
use flock_core::ports::Routing;
use flock_core::testing::contract::routing::{self, RoutingBench};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::support::{Bird, Netns, TIMING, capable};

/// A BIRD, and the adapter that reaches it through the relay only.
struct RealBird {
    relay: Arc<Relay>,
    listening: Mutex<Option<JoinHandle<()>>>,
    adapter: BirdSocket,
    bird: Bird,
    _netns: Netns,
}

/// Between the adapter and BIRD.
struct Relay {
    front: PathBuf,
    back: PathBuf,
    /// A file BIRD cannot parse.
    broken: PathBuf,
    commands: AtomicUsize,
    refusing: AtomicBool,
}

impl RealBird {
    async fn start() -> Self {
        let netns = Netns::new();
        let conf = bird::bootstrap("192.0.2.10".parse().unwrap()).unwrap();
        let bird = Bird::start(&netns, &conf).await;
        let relay = Arc::new(Relay {
            front: bird.dir().join("relay.ctl"),
            back: bird.socket(),
            broken: bird.dir().join("broken.conf"),
            commands: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
        });
        std::fs::write(&relay.broken, "protocol nonsense;").unwrap();
        let adapter = BirdSocket::new(&bird.conf(), &relay.front).unwrap().with_timing(TIMING);
        let bench = Self { relay, listening: Mutex::default(), adapter, bird, _netns: netns };
        bench.cut_off(false).await;
        bench
    }
}

async fn relay_all(relay: Arc<Relay>, listener: UnixListener) {
    while let Ok((front, _)) = listener.accept().await {
        tokio::spawn(relay_one(relay.clone(), front));
    }
}

/// Command by command; ends when either side does.
async fn relay_one(relay: Arc<Relay>, front: UnixStream) -> std::io::Result<()> {
    let (back_read, mut back_write) = UnixStream::connect(&relay.back).await?.into_split();
    let (front_read, mut front_write) = front.into_split();
    let replies = tokio::spawn(async move {
        let mut back_read = back_read;
        tokio::io::copy(&mut back_read, &mut front_write).await
    });
    let mut commands = BufReader::new(front_read).lines();
    while let Some(mut command) = commands.next_line().await? {
        relay.commands.fetch_add(1, Ordering::SeqCst);
        if relay.refusing.load(Ordering::SeqCst) && command.starts_with("configure check ") {
            command = format!("configure check \"{}\"", relay.broken.display());
        }
        back_write.write_all(format!("{command}\n").as_bytes()).await?;
    }
    drop(back_write);
    replies.await?.map(drop)
}

#[async_trait]
impl RoutingBench for RealBird {
    fn routing(&self) -> &dyn Routing {
        &self.adapter
    }

    fn trace(&self) -> String {
        let file = std::fs::metadata(self.bird.conf()).unwrap();
        let commands = self.relay.commands.load(Ordering::SeqCst);
        format!("{commands} commands, inode {} of {}.{}", file.ino(), file.mtime(), file.mtime_nsec())
    }

    async fn refuse(&self, refuse: bool) {
        self.relay.refusing.store(refuse, Ordering::SeqCst);
    }

    async fn cut_off(&self, cut_off: bool) {
        let mut listening = self.listening.lock().await;
        if let Some(listening) = listening.take() {
            listening.abort();
            std::fs::remove_file(&self.relay.front).unwrap();
        }
        if !cut_off {
            let listener = UnixListener::bind(&self.relay.front).unwrap();
            *listening = Some(tokio::spawn(relay_all(self.relay.clone(), listener)));
        }
    }
}

#[tokio::test]
async fn bird_keeps_the_contract_of_the_port() {
    if capable() {
        routing::routing(RealBird::start).await;
    }
}
