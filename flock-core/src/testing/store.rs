//! A disk in memory.

use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;

use crate::ipam::Snapshot;
use crate::ports::{StateStore, StoreError};

/// A [`StateStore`] that keeps the snapshot in memory, fails and crashes when told to. The value outlives
/// the crash, as a disk does.
#[derive(Debug, Default)]
pub struct FakeStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    content: Content,
    /// Saves that still succeed before one fails.
    fails_after: Option<usize>,
    /// Saves that still reach the disk before the crash.
    crashes_after: Option<usize>,
    crashed: bool,
    broken: bool,
}

#[derive(Debug, Default)]
enum Content {
    #[default]
    Nothing,
    Saved(Snapshot),
    Garbage,
}

impl FakeStore {
    /// Makes the next save fail; nothing of it reaches the disk.
    pub fn fail_next(&self) {
        self.fail_after(0);
    }

    /// Makes one save fail after `saves` good ones.
    pub fn fail_after(&self, saves: usize) {
        self.state().fails_after = Some(saves);
    }

    /// Makes every save fail, or work again.
    pub fn set_broken(&self, broken: bool) {
        self.state().broken = broken;
    }

    /// After `saves` more good ones nothing reaches the disk and every call fails, until
    /// [`recover`](Self::recover).
    pub fn crash_after(&self, saves: usize) {
        self.state().crashes_after = Some(saves);
    }

    /// The process after the crash: what had reached the disk is there.
    pub fn recover(&self) {
        let mut state = self.state();
        state.crashed = false;
        state.crashes_after = None;
    }

    /// Replaces what is saved by something unreadable.
    pub fn corrupt(&self) {
        self.state().content = Content::Garbage;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn alive(&self) -> Result<(), StoreError> {
        if self.crashed { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Whether the next save goes through.
    fn admit(&mut self) -> Result<(), StoreError> {
        match self.crashes_after.as_mut() {
            Some(0) => self.crashed = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.alive()?;
        let fails = self.broken || self.fails_after == Some(0);
        self.fails_after = self.fails_after.and_then(|left| left.checked_sub(1));
        if fails {
            let source = std::io::Error::other("told to fail");
            return Err(StoreError::Io { step: "write", path: "memory".to_owned(), source });
        }
        Ok(())
    }
}

#[async_trait]
impl StateStore for FakeStore {
    async fn load(&self) -> Result<Option<Snapshot>, StoreError> {
        let state = self.state();
        state.alive()?;
        match &state.content {
            Content::Nothing => Ok(None),
            Content::Saved(snapshot) => Ok(Some(snapshot.clone())),
            Content::Garbage => {
                Err(StoreError::Corrupt { path: "memory".to_owned(), reason: "garbage".to_owned() })
            }
        }
    }

    async fn save(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        let mut state = self.state();
        state.admit()?;
        match &state.content {
            Content::Saved(held)
                if held.boot_id == snapshot.boot_id && held.generation >= snapshot.generation => {}
            _ => state.content = Content::Saved(snapshot),
        }
        Ok(())
    }
}
