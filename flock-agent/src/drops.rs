//! `flock-agent drops`: follows what the firewall of this node drops, in words.
//!
//! ```text
//!   DropLog ---- thread flock-drops ----> queue ----> line by line    main loop
//!   the agent ---- pods of links, pods of addresses, policies ----^   names
//!   counters, once a second ---- what was dropped and not shown       tally
//! ```

mod line;
mod names;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use flock_core::ports::{Counters, Firewall, FirewallError};
use flock_netlink::{DropLog, Dropped, KernelFirewall};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::line::Line;
use self::names::Names;
use self::tally::{Budget, Tally};
use crate::args::{DropsArgs, OutputFormat};
use crate::print::print_on;

/// Lines a second that a person can follow.
const LINES: u32 = 50;

/// How often what was not shown is told.
const PERIOD: Duration = Duration::from_secs(1);

/// Packets that wait to be printed. More than these are not shown.
const QUEUE: usize = 1024;

/// Prints a line per packet until a signal, or until nobody reads them any more.
pub(crate) async fn run(args: &DropsArgs) -> anyhow::Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let log = DropLog::open().map_err(|error| anyhow!("cannot follow dropped packets: {error}"))?;
    let mut dropped = follow(log)?;
    let mut counters = Counting { firewall: KernelFirewall::new()?, missing: false };
    let (mut tally, mut budget) = (Tally::default(), Budget::new(LINES));
    let mut names = Names::new(&args.socket);
    counters.read(&mut tally).await;
    let mut ticks = interval_at(Instant::now() + PERIOD, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let line = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            packet = dropped.recv() => {
                let packet = packet.context("the thread that follows dropped packets ended")??;
                if !budget.spend(Instant::now()) {
                    continue;
                }
                tally.shown();
                Line::Packet(Box::new(names.explain(packet).await))
            }
            _ = ticks.tick() => match counters.read(&mut tally).await {
                0 => continue,
                not_shown => Line::not_shown(not_shown),
            },
        };
        let text = match args.output {
            OutputFormat::Json => serde_json::to_string(&line)?,
            OutputFormat::Table => line.to_string(),
        };
        if !print_on(&text)? {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the log on a thread of its own, which the end of the process ends.
fn follow(mut log: DropLog) -> anyhow::Result<mpsc::Receiver<Result<Dropped, FirewallError>>> {
    let (queue, dropped) = mpsc::channel(QUEUE);
    let read = move || {
        while !queue.is_closed() {
            match log.wait() {
                // What does not fit is not shown, and counted as such.
                Ok(packets) => packets.into_iter().for_each(|packet| drop(queue.try_send(Ok(packet)))),
                Err(error) => {
                    drop(queue.blocking_send(Err(error)));
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("flock-drops".to_owned()).spawn(read)?;
    Ok(dropped)
}

/// The counters of the firewall.
struct Counting {
    firewall: KernelFirewall,
    /// There is no table, and this has been said.
    missing: bool,
}

impl Counting {
    /// How many packets were dropped and not shown since the last time.
    async fn read(&mut self, tally: &mut Tally) -> u64 {
        let counted = self.firewall.counters().await;
        let missing = matches!(counted, Err(FirewallError::Missing));
        if missing && !self.missing {
            tracing::warn!("nothing is dropped: the nftables table inet flock is not there");
        }
        self.missing = missing;
        match counted {
            Ok(Counters { spoofed, shut, stray, refused, forbidden }) => {
                tally.count(spoofed + shut + stray + refused + forbidden)
            }
            Err(error) => {
                tracing::debug!(%error, "the counters cannot be read");
                0
            }
        }
    }
}
