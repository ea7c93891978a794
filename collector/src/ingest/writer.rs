//! The writer: one thread that owns the one read-write connection and the ledger. Takes what waits, applies it
//! in one transaction, commits, and only then answers. A transaction that fails is tried again with a growing
//! pause, with the ledger loaded anew; nothing of it is acknowledged, and the bounded queue holds the rest back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gapless_common::id::Commit;
use gapless_common::time::Timestamp;
use gapless_common::topic::Down;
use gapless_common::wire::{self, Message};
use rusqlite::Connection;
use tokio::sync::{mpsc, watch};

use super::apply::{Answers, Apply, Memory, load};
use super::{Inbound, Outbound};
use crate::api::Health;
use crate::clock;
use crate::ledger::AgentNo;
use crate::store::batch::Batch;
use crate::store::model::Head;
use crate::store::{commands, sqlite};

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
/// Bytes of parked frames per agent at most.
pub const PARK_BYTES_MAX: i64 = 16 << 20;

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
    /// The database could not be opened.
    #[error(transparent)]
    Open(#[from] sqlite::OpenError),
    /// What is in it could not be loaded.
    #[error("cannot load the ledger from {path}")]
    Load {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
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
    let connection = sqlite::open_writer(path)?;
    let failed = |source| StartError::Load { path: path.to_owned(), source };
    let memory = reload(&connection).map_err(failed)?;
    let head = sqlite::head(&connection).map_err(failed)?;
    let (commits, seen) = watch::channel(head.commit);
    let watch = Watch { head, commits: seen };
    let mut writer = Writer { connection, memory, head, outbound, commits, health };
    let run = move || writer.run(inbound);
    let thread = std::thread::Builder::new().name("writer".into()).spawn(run).map_err(StartError::Thread)?;
    Ok((watch, thread))
}

fn reload(connection: &Connection) -> rusqlite::Result<Memory> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let memory = load(connection);
    connection.execute_batch(if memory.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    memory
}

struct Writer {
    connection: Connection,
    memory: Memory,
    head: Head,
    outbound: mpsc::Sender<Outbound>,
    commits: watch::Sender<Commit>,
    health: Arc<Health>,
}

impl Writer {
    fn run(&mut self, mut inbound: mpsc::Receiver<Inbound>) {
        while let Some(first) = inbound.blocking_recv() {
            let group = gather(first, &mut inbound);
            self.commit(&group);
            let tokens = group.iter().map(|message| message.token).collect();
            self.send(Outbound::Release(tokens));
        }
        // The write-ahead log is folded back, so that the file alone is the whole database.
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the write-ahead log stays beside the database");
        }
    }

    /// Commits the group, however long it takes, and answers.
    fn commit(&mut self, group: &[Inbound]) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.attempt(group) {
                Ok(answers) => {
                    self.health.set_writing(true);
                    self.commits.send_replace(self.head.commit);
                    let now = group.iter().map(|m| m.at).max().unwrap_or_else(clock::now);
                    return self.answer(&answers, now);
                }
                Err(error) => {
                    tracing::error!(%error, retry_in = ?pause, "a transaction failed: nothing is acknowledged");
                    self.health.set_writing(false);
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_MAX);
            if self.outbound.is_closed() {
                return;
            }
        }
    }

    fn attempt(&mut self, group: &[Inbound]) -> rusqlite::Result<Answers> {
        match self.transaction(group) {
            Ok(done) => Ok(done),
            Err(error) => {
                if !self.connection.is_autocommit() {
                    self.connection.execute_batch("ROLLBACK")?;
                }
                self.memory = reload(&self.connection)?;
                self.head = sqlite::head(&self.connection)?;
                Err(error)
            }
        }
    }

    fn transaction(&mut self, group: &[Inbound]) -> rusqlite::Result<Answers> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let commit = Commit(self.head.commit.0 + 1);
        let now = group.iter().map(|m| m.at).max().unwrap_or_else(clock::now);
        let batch = Batch::new(&self.connection, commit.0, now);
        let mut apply = Apply::new(&mut self.memory, batch, PARK_BYTES_MAX);
        for message in group {
            apply.message(message)?;
        }
        let answers = apply.finish()?;
        self.connection.execute_batch("COMMIT")?;
        self.head.commit = commit;
        Ok(answers)
    }

    fn answer(&mut self, answers: &Answers, now: Timestamp) {
        for (&no, epochs) in &answers.acks {
            let also: Vec<_> = epochs.iter().copied().collect();
            let ack = self.memory.ledger.ack(no, &also, self.head.incarnation, self.head.commit);
            self.publish(no, Down::Ack, &Message::Ack(ack));
        }
        let asked = answers.commands.iter().map(|(no, id)| (*no, Some(*id)));
        let asked: Vec<_> = asked.chain(answers.births.iter().map(|no| (*no, None))).collect();
        for (no, id) in asked {
            match commands::open(&self.connection, no, now) {
                Ok(open) => {
                    for command in open.into_iter().filter(|c| id.is_none_or(|id| id == c.id)) {
                        self.publish(no, Down::Command, &Message::Command(command));
                    }
                }
                // They are sent at the next birth.
                Err(error) => tracing::warn!(%error, "commands could not be read"),
            }
        }
    }

    fn publish(&self, no: AgentNo, kind: Down, message: &Message) {
        let Some(path) = self.memory.registry.path(no) else { return };
        match wire::encode(message) {
            Ok(payload) => self.send(Outbound::Publish { topic: path.down(kind), payload }),
            Err(error) => tracing::error!(agent = %path, %error, "an answer could not be written"),
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
