//! The writer: one thread around the [`Committer`]. Takes what waits, has it committed in one transaction, and only
//! then sends the answers. A transaction that fails is tried again with a growing pause; nothing of it is
//! acknowledged, and the bounded queue holds the rest back.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gapless_common::id::Commit;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

use super::committer::{Committer, LoadError};
use super::{Inbound, Outbound};
use crate::api::Health;
use crate::clock;
use crate::store::model::Head;

pub use super::committer::PARK_BYTES_MAX;

/// Messages per transaction at most.
const GROUP_MESSAGES_MAX: usize = 256;
/// Bytes per transaction at most.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How long a group may gather while more keeps coming.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);
/// First pause after a failed transaction; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failed transaction.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the rest of the program holds of the writer.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Where the database stood at the start.
    pub head: Head,
    /// The last commit; moves when there is news.
    pub commits: watch::Receiver<Commit>,
}

/// Why the writer could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be written to.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No thread.
    #[error("cannot start the writer's thread")]
    Thread(#[source] std::io::Error),
}

/// Opens the database and starts the thread. It ends when all senders of `inbound` are gone and everything
/// queued is committed.
///
/// # Errors
/// [`StartError`].
pub fn start(
    path: &Path,
    inbound: mpsc::Receiver<Inbound>,
    outbound: mpsc::Sender<Outbound>,
    health: Arc<Health>,
) -> Result<(Watch, JoinHandle<()>), StartError> {
    start_bounded(path, inbound, outbound, health, PARK_BYTES_MAX)
}

/// [`start`] with another bound on the parked bytes of an agent than [`PARK_BYTES_MAX`].
///
/// # Errors
/// [`StartError`].
pub fn start_bounded(
    path: &Path,
    inbound: mpsc::Receiver<Inbound>,
    outbound: mpsc::Sender<Outbound>,
    health: Arc<Health>,
    park_bytes_max: i64,
) -> Result<(Watch, JoinHandle<()>), StartError> {
    let mut committer = Committer::open(path)?.with_park_bytes_max(park_bytes_max);
    if let Err(error) = committer.nobody_connected(clock::now()) {
        tracing::error!(%error, "agents that may have gone are still shown as connected");
    }
    match committer.try_parked_again(clock::now()) {
        Ok(0) => {}
        Ok(used) => tracing::info!(used, "parked frames were usable after all"),
        Err(error) => {
            tracing::error!(%error, "parked frames could not be tried again: they stay parked");
        }
    }
    let head = committer.head();
    let (commits, seen) = watch::channel(head.commit);
    let mut writer = Writer { committer, outbound, commits, health };
    let run = move || writer.run(inbound);
    let thread = std::thread::Builder::new().name("writer".into()).spawn(run).map_err(StartError::Thread)?;
    Ok((Watch { head, commits: seen }, thread))
}

struct Writer {
    committer: Committer,
    outbound: mpsc::Sender<Outbound>,
    commits: watch::Sender<Commit>,
    health: Arc<Health>,
}

impl Writer {
    fn run(&mut self, mut inbound: mpsc::Receiver<Inbound>) {
        while let Some(first) = self.next(&mut inbound) {
            let group = gather(first, &mut inbound);
            let mut rest = group.as_slice();
            while !rest.is_empty() {
                let (done, later) = rest.split_at(self.commit(rest));
                self.send(Outbound::Release(done.iter().map(|message| message.token).collect()));
                rest = later;
            }
        }
        if let Err(error) = self.committer.fold() {
            tracing::warn!(%error, "the write-ahead log stays beside the database");
        }
    }

    /// The next message; frames whose catalog has come are used meanwhile.
    fn next(&mut self, inbound: &mut mpsc::Receiver<Inbound>) -> Option<Inbound> {
        let mut works = true;
        while works && self.committer.owes_replay() {
            match inbound.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => works = self.replay(),
            }
        }
        inbound.blocking_recv()
    }

    fn replay(&mut self) -> bool {
        match self.committer.replay(clock::now()) {
            Ok(()) => {
                self.commits.send_replace(self.committer.head().commit);
                true
            }
            Err(error) => {
                tracing::error!(%error, "frames whose catalog has come wait until something else works");
                false
            }
        }
    }

    /// Commits the group's first messages, however long it takes, and answers. Returns how many they were: all
    /// where the shell is gone, at least one otherwise.
    fn commit(&mut self, group: &[Inbound]) -> usize {
        let now = group.iter().map(|m| m.at).max().unwrap_or_else(clock::now);
        let mut pause = RETRY_FIRST;
        loop {
            match self.committer.attempt(group, now) {
                Ok((answers, taken)) => {
                    self.health.set_writing(true);
                    self.commits.send_replace(self.committer.head().commit);
                    answers.into_iter().for_each(|answer| self.send(answer));
                    return taken;
                }
                Err(error) => {
                    tracing::error!(%error, retry_in = ?pause, "a transaction failed: nothing is acknowledged");
                    self.health.set_writing(false);
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_MAX);
            if self.outbound.is_closed() {
                return group.len();
            }
        }
    }

    fn send(&self, outbound: Outbound) {
        // Where the shell is gone the agent sends again, and is answered then.
        let _ = self.outbound.blocking_send(outbound);
    }
}

/// What waits already, and what comes within the group's time while something keeps coming.
fn gather(first: Inbound, inbound: &mut mpsc::Receiver<Inbound>) -> Vec<Inbound> {
    let began = Instant::now();
    let mut bytes = first.payload.len();
    let mut group = vec![first];
    while group.len() < GROUP_MESSAGES_MAX && bytes < GROUP_BYTES_MAX && began.elapsed() < GROUP_TIME_MAX {
        let Ok(next) = inbound.try_recv() else { break };
        bytes += next.payload.len();
        group.push(next);
    }
    group
}
