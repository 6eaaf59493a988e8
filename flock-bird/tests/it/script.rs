//! A control socket that answers from a script, well or badly.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flock_bird::{BirdSocket, Timing};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// What the server does with a command.
pub(crate) enum Answer {
    /// Sends this at once.
    Say(&'static str),
    /// Sends this one byte at a time.
    Slowly(&'static str),
    /// Sends these bytes, whatever they are.
    Bytes(Vec<u8>),
    /// Sends nothing, and keeps the connection.
    Silence,
    /// Sends this much and hangs up.
    HangUp(&'static str),
}

pub(crate) const GREETING: &str = "0001 BIRD 2.0.12 ready.\n";
pub(crate) const UP: &str = "1000-BIRD 2.0.12\n1011-Router ID is 192.0.2.10\n0013 Daemon is up and running\n";
pub(crate) const BUSY: &str = "1000-BIRD 2.0.12\n0013 Reconfiguration in progress\n";
pub(crate) const CHECKED: &str = "0002-Reading configuration from F\n0020 Configuration OK\n";
pub(crate) const DONE: &str = "0002-Reading configuration from F\n0003 Reconfigured\n";

/// What a healthy BIRD answers.
pub(crate) fn healthy(command: &str) -> Answer {
    Answer::Say(match verb(command) {
        "greeting" => GREETING,
        "show status" => UP,
        "configure" => DONE,
        "configure check" => CHECKED,
        _ => "9001 syntax error\n",
    })
}

/// A command without its file.
pub(crate) fn verb(command: &str) -> &str {
    command.split('"').next().unwrap().trim_end()
}

/// The server, its directory, and what it heard.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
    heard: Arc<Mutex<Heard>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Heard {
    commands: Vec<String>,
    /// The text of the configuration file at each `configure`.
    taken: Vec<String>,
}

impl Server {
    /// Answers with `script`, which is asked `greeting` first on each connection.
    pub(crate) fn start(script: impl FnMut(&str) -> Answer + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("bird.ctl")).unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let script = Arc::new(Mutex::new(script));
        let conf = dir.path().join("bird.conf");
        let record = heard.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), record.clone(), conf.clone()));
            }
        });
        Self { dir, heard, accepting }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("bird.ctl")
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.dir.path().join("bird.conf")
    }

    pub(crate) fn adapter(&self, timing: Timing) -> BirdSocket {
        BirdSocket::new(&self.conf(), &self.socket()).unwrap().with_timing(timing)
    }

    /// Every command but the greeting, in order. The directory in them is written `DIR`.
    pub(crate) fn commands(&self) -> Vec<String> {
        let dir = self.dir.path().to_str().unwrap();
        self.heard.lock().unwrap().commands.iter().map(|command| command.replace(dir, "DIR")).collect()
    }

    /// Returns once this [`verb`] has come.
    pub(crate) async fn heard(&self, awaited: &str) {
        while !self.commands().iter().any(|command| verb(command) == awaited) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The texts BIRD was told to take over.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.heard.lock().unwrap().taken.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    stream: UnixStream,
    script: Arc<Mutex<impl FnMut(&str) -> Answer>>,
    heard: Arc<Mutex<Heard>>,
    conf: PathBuf,
) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut command = "greeting".to_owned();
    loop {
        let answer = script.lock().unwrap()(&command);
        let sent = match answer {
            Answer::Say(text) => write.write_all(text.as_bytes()).await,
            Answer::Bytes(bytes) => write.write_all(&bytes).await,
            Answer::Slowly(text) => {
                for byte in text.bytes() {
                    // The other side may have given up; then the next read ends.
                    let _ = write.write_all(&[byte]).await;
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Answer::Silence => Ok(()),
            Answer::HangUp(text) => {
                let _ = write.write_all(text.as_bytes()).await;
                return;
            }
        };
        // Writing fails when the client has gone, and so does reading.
        let Ok(Some(next)) = (if sent.is_ok() { lines.next_line().await } else { Ok(None) }) else { return };
        record(&mut heard.lock().unwrap(), &next, &conf);
        command = next;
    }
}

fn record(heard: &mut Heard, command: &str, conf: &Path) {
    heard.commands.push(command.to_owned());
    if command == "configure" {
        heard.taken.push(std::fs::read_to_string(conf).unwrap());
    }
}

/// Long where a test expects an answer.
pub(crate) const PATIENT: Timing = Timing {
    reply: Duration::from_secs(30),
    reconfigure: Duration::from_secs(30),
    spacing: Duration::from_millis(1),
};

/// Short where a test expects none.
pub(crate) const HASTY: Timing = Timing {
    reply: Duration::from_secs(1),
    reconfigure: Duration::from_millis(300),
    spacing: Duration::from_millis(1),
};
