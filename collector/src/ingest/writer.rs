//! The writer: one thread around the [`Committer`]. Takes what waits, in turns by agent, has it committed in one
//! transaction, and only then sends the answers. A transaction that fails is tried again with a growing pause;
//! nothing of it is acknowledged, and the bounded queue holds the rest back.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gapless_common::id::Commit;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

use super::committer::{Committer, LoadError};
use super::turns::Turns;
use super::{Inbound, Outbound};
use crate::api::Health;
use crate::clock;
use crate::store::model::Head;

pub use super::committer::PARK_BYTES_MAX;

/// Messages per transaction at most.
const GROUP_MESSAGES_MAX: usize = 256;
/// Bytes per transaction at most.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Messages that wait in the writer for their turn at most, and their bytes; beyond it they wait in the queue. As many
/// as the queue holds several times over, so that who waits behind a flood there is soon among those whose turn comes.
const WAITING_MAX: usize = 2_048;
const WAITING_BYTES_MAX: usize = 32 << 20;
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
    let turns = Turns::default();
    let mut writer = Writer { committer, turns, outbound, commits, health };
    let run = move || writer.run(inbound);
    let thread = std::thread::Builder::new().name("writer".into()).spawn(run).map_err(StartError::Thread)?;
    Ok((Watch { head, commits: seen }, thread))
}

struct Writer {
    committer: Committer,
    turns: Turns,
    outbound: mpsc::Sender<Outbound>,
    commits: watch::Sender<Commit>,
    health: Arc<Health>,
}

impl Writer {
    fn run(&mut self, mut inbound: mpsc::Receiver<Inbound>) {
        while self.fill(&mut inbound) {
            let group = self.turns.group(GROUP_MESSAGES_MAX, GROUP_BYTES_MAX);
            let taken = self.commit(&group.messages);
            let done = group.messages.iter().take(taken);
            self.send(Outbound::Release(done.map(|message| message.token).collect()));
            self.turns.put_back(group, taken);
            if self.committer.owes_replay() {
                self.replay();
            }
        }
        if let Err(error) = self.committer.fold() {
            tracing::warn!(%error, "the write-ahead log stays beside the database");
        }
    }

    /// Takes in what has come, and waits where that is nothing; frames whose catalog has come are used meanwhile.
    /// Returns whether there is anything to do.
    fn fill(&mut self, inbound: &mut mpsc::Receiver<Inbound>) -> bool {
        let (began, mut works) = (Instant::now(), true);
        loop {
            let full = self.turns.len() >= WAITING_MAX || self.turns.bytes() >= WAITING_BYTES_MAX;
            if full || (!self.turns.is_empty() && began.elapsed() >= GROUP_TIME_MAX) {
                return true;
            }
            let next = match inbound.try_recv() {
                Ok(message) => Some(message),
                Err(_) if !self.turns.is_empty() => return true,
                Err(TryRecvError::Empty) if works && self.committer.owes_replay() => {
                    works = self.replay();
                    continue;
                }
                Err(_) => inbound.blocking_recv(),
            };
            match next {
                Some(message) => self.turns.push(message),
                None => return false,
            }
        }
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
