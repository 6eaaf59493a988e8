use std::io;
use std::sync::mpsc;

use flock_core::ports::FirewallError;
use tokio::sync::oneshot;

use super::socket::Socket;

type Job = Box<dyn FnOnce(&mut Socket) + Send>;

/// A thread with a socket, which does one thing after another.
#[derive(Debug)]
pub(super) struct Worker(mpsc::Sender<Job>);

impl Worker {
    /// In the network namespace of the caller. It ends with this.
    pub(super) fn start(mut socket: Socket) -> Result<Self, FirewallError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || queue.into_iter().for_each(|job| job(&mut socket));
        std::thread::Builder::new().name("flock-firewall".to_owned()).spawn(work).map_err(no_thread)?;
        Ok(Self(jobs))
    }

    /// Does something short, when it is its turn.
    pub(super) async fn inline<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Socket) -> Result<T, FirewallError> + Send + 'static,
    ) -> Result<T, FirewallError> {
        let (reply, answer) = oneshot::channel();
        // A result nobody waits for any more is dropped.
        self.give(Box::new(move |socket| drop(reply.send(work(socket)))), answer).await
    }

    /// Does something that takes its time, on a thread of its own.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FirewallError> + Send + 'static,
    ) -> Result<T, FirewallError> {
        let (reply, answer) = oneshot::channel();
        let start = move |_: &mut Socket| {
            let work = move || drop(reply.send(work()));
            // Without a thread the reply is dropped, and whoever waits is told so.
            if let Err(error) = std::thread::Builder::new().name("flock-nftables".to_owned()).spawn(work) {
                tracing::warn!(%error, "cannot start a thread for the firewall");
            }
        };
        self.give(Box::new(start), answer).await
    }

    async fn give<T>(
        &self,
        job: Job,
        answer: oneshot::Receiver<Result<T, FirewallError>>,
    ) -> Result<T, FirewallError> {
        self.0.send(job).map_err(|_| lost())?;
        answer.await.unwrap_or_else(|_| Err(lost()))
    }
}

fn no_thread(source: io::Error) -> FirewallError {
    FirewallError::Kernel { step: "start a thread", source }
}

fn lost() -> FirewallError {
    let source = io::Error::other("the thread ended without a result");
    FirewallError::Kernel { step: "finish a thread", source }
}
