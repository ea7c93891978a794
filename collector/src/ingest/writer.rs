//! The writer: one thread that owns the one read-write connection and the ledger. Takes what waits, applies it
//! in one transaction, commits, and only then answers. A transaction that fails is tried again with a growing
//! pause, with the ledger loaded anew; nothing of it is acknowledged, and the bounded queue holds the rest back.
//! What a failed transaction left in memory is never used: it would take frames for stored that are not.

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

use super::apply::{Answers, Apply};
use super::memory::{Memory, load};
use super::{Inbound, Outbound};
use crate::api::Health;
use crate::clock;
use crate::ledger::AgentNo;
use crate::store::batch::Batch;
use crate::store::model::Head;
use crate::store::{commands, parked, sqlite};

/// Messages per transaction at most.
const GROUP_MESSAGES_MAX: usize = 256;
/// Bytes per transaction at most.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Rows after which a transaction takes no further message: a frame of 100 bytes may hold a quarter of a million
/// readings. So a transaction holds fewer rows in memory than these and one frame's.
const GROUP_ROWS_MAX: usize = 64 << 10;
/// How long a group may gather while more keeps coming.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);
/// First pause after a failed transaction; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failed transaction.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Bytes of parked frames per agent at most.
pub const PARK_BYTES_MAX: i64 = 16 << 20;

/// Parked frames that are tried again in one transaction at the start.
const PARKED_GROUP: usize = 64;

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
    let connection = sqlite::open_writer(path)?;
    let failed = |source| StartError::Load { path: path.to_owned(), source };
    let memory = Some(load(&connection).map_err(failed)?);
    let head = sqlite::head(&connection).map_err(failed)?;
    let (commits, seen) = watch::channel(head.commit);
    let mut writer = Writer { connection, memory, head, outbound, commits, health, park_bytes_max };
    if let Err(error) = writer.nobody_connected() {
        tracing::error!(%error, "agents that may have gone are still shown as connected");
        writer.forget_failed().map_err(failed)?;
    }
    if let Err(error) = writer.try_parked_again() {
        tracing::error!(%error, "parked frames could not be tried again: they stay parked");
        writer.forget_failed().map_err(failed)?;
    }
    let watch = Watch { head: writer.head, commits: seen };
    let run = move || writer.run(inbound);
    let thread = std::thread::Builder::new().name("writer".into()).spawn(run).map_err(StartError::Thread)?;
    Ok((watch, thread))
}

struct Writer {
    connection: Connection,
    /// `None` after a failed transaction.
    memory: Option<Memory>,
    head: Head,
    outbound: mpsc::Sender<Outbound>,
    commits: watch::Sender<Commit>,
    health: Arc<Health>,
    park_bytes_max: i64,
}

impl Writer {
    fn run(&mut self, mut inbound: mpsc::Receiver<Inbound>) {
        while let Some(first) = inbound.blocking_recv() {
            let group = gather(first, &mut inbound);
            let mut rest = group.as_slice();
            while !rest.is_empty() {
                let (done, later) = rest.split_at(self.commit(rest));
                self.send(Outbound::Release(done.iter().map(|message| message.token).collect()));
                rest = later;
            }
        }
        // The write-ahead log is folded back, so that the file alone is the whole database.
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the write-ahead log stays beside the database");
        }
    }

    /// Commits the group's first messages, however long it takes, and answers. Returns how many they were: all
    /// where the shell is gone, at least one otherwise.
    fn commit(&mut self, group: &[Inbound]) -> usize {
        let mut pause = RETRY_FIRST;
        loop {
            match self.attempt(group) {
                Ok((answers, taken)) => {
                    self.health.set_writing(true);
                    self.commits.send_replace(self.head.commit);
                    let now = group.iter().map(|m| m.at).max().unwrap_or_else(clock::now);
                    self.answer(&answers, now);
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

    /// Returns the answers, and how many messages they are to.
    fn attempt(&mut self, group: &[Inbound]) -> rusqlite::Result<(Answers, usize)> {
        let now = group.iter().map(|m| m.at).max().unwrap_or_else(clock::now);
        let mut taken = 0;
        let each = |apply: &mut Apply<'_, '_>| {
            while let Some(message) = group.get(taken).filter(|_| apply.batch.taken() < GROUP_ROWS_MAX) {
                apply.message(message)?;
                taken += 1;
            }
            Ok(())
        };
        let done = self.transaction(now, each);
        if done.is_err() {
            self.forget_failed()?;
        }
        done.map(|answers| (answers, taken))
    }

    /// After a failed transaction: nothing that it left is used.
    fn forget_failed(&mut self) -> rusqlite::Result<()> {
        self.memory = None;
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        Ok(())
    }

    /// Runs `each` within one transaction and commits it. After an error call [`Self::forget_failed`].
    fn transaction(
        &mut self,
        now: Timestamp,
        each: impl FnOnce(&mut Apply<'_, '_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Answers> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK")?;
        }
        let mut memory = match self.memory.take() {
            Some(memory) => memory,
            None => {
                // A commit that reported an error may have reached the disk all the same.
                self.head = sqlite::head(&self.connection)?;
                load(&self.connection)?
            }
        };
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let commit = Commit(self.head.commit.0 + 1);
        let batch = Batch::new(&self.connection, commit.0, now);
        let mut apply = Apply::new(&mut memory, batch, self.park_bytes_max);
        each(&mut apply)?;
        let answers = apply.finish()?;
        self.connection.execute_batch("COMMIT")?;
        self.head.commit = commit;
        self.memory = Some(memory);
        Ok(answers)
    }

    /// Who is connected is not known before presence has been answered.
    fn nobody_connected(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT EXISTS (SELECT 1 FROM agents WHERE connected = 1)";
        if !self.connection.query_row(sql, [], |r| r.get::<_, bool>(0))? {
            return Ok(());
        }
        self.transaction(clock::now(), |apply| apply.new_session()).map(drop)
    }

    /// Frames that an earlier program could not read may be plain to this one.
    fn try_parked_again(&mut self) -> rusqlite::Result<()> {
        let candidates = parked::unreadable(&self.connection)?;
        for group in candidates.chunks(PARKED_GROUP) {
            let mut used = 0;
            self.transaction(clock::now(), |apply| {
                for &(id, no) in group {
                    let bytes = parked::bytes(apply.batch.connection, id)?;
                    used += usize::from(apply.try_again(no, id, &bytes)?);
                }
                Ok(())
            })?;
            if used > 0 {
                tracing::info!(used, "parked frames were usable after all");
            }
        }
        self.commits.send_replace(self.head.commit);
        Ok(())
    }

    fn answer(&self, answers: &Answers, now: Timestamp) {
        let Some(memory) = &self.memory else { return };
        for (&no, epochs) in &answers.acks {
            let also: Vec<_> = epochs.iter().copied().collect();
            let ack = memory.ledger.ack(no, &also, self.head.incarnation, self.head.commit);
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
        let Some(path) = self.memory.as_ref().and_then(|m| m.registry.path(no)) else { return };
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

#[cfg(test)]
mod tests {
    use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
    use gapless_common::id::{
        AgentId, BootId, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq, SiteId,
    };
    use gapless_common::message::{AgentState, DataFrame, HeldEpoch};
    use gapless_common::quality::Quality;
    use gapless_common::reading::{Acquired, CatalogRecord, Readings, Record, Sample, Value};
    use gapless_common::time::{Interval, Slot, SlotGrid};
    use gapless_common::topic::{AgentPath, Up};

    use super::*;

    fn path() -> AgentPath {
        AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
    }

    fn writer(dir: &Path) -> (Writer, mpsc::Receiver<Outbound>) {
        let connection = sqlite::open_writer(&dir.join("db")).unwrap();
        let memory = Some(load(&connection).unwrap());
        let head = sqlite::head(&connection).unwrap();
        let (outbound, answers) = mpsc::channel(64);
        let (commits, _) = watch::channel(head.commit);
        let health = Arc::default();
        let park_bytes_max = PARK_BYTES_MAX;
        (Writer { connection, memory, head, outbound, commits, health, park_bytes_max }, answers)
    }

    fn inbound(kind: Up, payload: Vec<u8>) -> Inbound {
        Inbound { topic: path().up(kind), payload, at: Timestamp(2_000_000), token: 1 }
    }

    /// 500 polls of 200 channels that never change: few bytes, 100,000 rows.
    fn dense(epoch: u64) -> Inbound {
        let grid = SlotGrid::every(Interval::from_ms(1_000).unwrap());
        let channel = |n: u16| Channel {
            id: ChannelId::new(&format!("c{n}")).unwrap(),
            unit: "V".into(),
            quantity: "".into(),
            aggregation: Aggregation::Instant,
            label: PeriodLabel::End,
            attributes: [].into(),
        };
        let channels = (0..200).map(channel).collect();
        let id = DeviceId::new("meter").unwrap();
        let device = Device { id, grid, paused: false, channels, attributes: [].into() };
        let catalog = Catalog { devices: vec![device] };
        let (hash, bytes) = wire::encode_catalog(&catalog);
        let sample =
            |n| Sample { channel: ChannelIndex(n), value: Some(Value::Number(1.0)), quality: Quality::Good };
        let polled = |slot| {
            Record::Readings(Readings {
                device: DeviceIndex(0),
                acquired: Acquired::InSlot(Slot(slot)),
                at: grid.at(Slot(slot)),
                samples: (0..200).map(sample).collect(),
            })
        };
        let first = i64::try_from(epoch).unwrap() * 1_000;
        let catalogs = std::iter::once(Record::Catalog(CatalogRecord { hash, since: None, bytes }));
        let frame = DataFrame {
            agent: path().tag(),
            connection: ConnectionId(1),
            epoch: Epoch(epoch),
            first: Seq(1),
            catalog: hash,
            records: catalogs.chain((first..first + 500).map(polled)).collect(),
        };
        inbound(Up::Data, wire::encode_data(&frame, &catalog).unwrap())
    }

    #[test]
    fn a_transaction_ends_when_it_holds_many_rows_however_few_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _answers) = writer(dir.path());
        let group = [dense(1), dense(2), dense(3)];
        assert!(group.iter().map(|m| m.payload.len()).sum::<usize>() < GROUP_BYTES_MAX);
        assert_eq!(writer.commit(&group), 1);
        assert_eq!(writer.commit(&group[1..]), 1);
        let sql = "SELECT count(*) FROM readings";
        assert_eq!(writer.connection.query_row(sql, [], |r| r.get(0)), Ok(200_000));
    }

    #[test]
    fn nobody_counts_as_connected_before_being_born_again() {
        let dir = tempfile::tempdir().unwrap();
        let birth = AgentState::Birth {
            path: path(),
            connection: ConnectionId(1),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch: Epoch(1),
            catalog: gapless_common::id::CatalogHash(1),
            held: vec![HeldEpoch { epoch: Epoch(1), first: Seq(1), next: Seq(2) }],
            durable: true,
            clock_set: true,
            flush_ms: 0,
        };
        let birth = inbound(Up::State, wire::encode(&Message::State(birth)).unwrap());
        let (mut writer, _answers) = writer(dir.path());
        let connected = |writer: &Writer| {
            let sql = "SELECT count(*) FROM agents WHERE connected = 1";
            writer.connection.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap()
        };
        for again in [false, true] {
            writer.commit(std::slice::from_ref(&birth));
            assert_eq!(connected(&writer), 1);
            if again {
                writer.nobody_connected().unwrap();
            } else {
                writer.commit(&[Inbound::new_session(clock::now())]);
            }
            assert_eq!(connected(&writer), 0);
        }
    }
}
