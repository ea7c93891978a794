//! The committer: owns the one read-write connection and the ledger, and turns messages into committed rows and the
//! answers to them. Has no thread, queue, clock or random source: whoever holds it (the writer's thread, or a
//! simulation) says what time it is, sends what it answers, and tries again what failed.
//!
//! Calling contract: call [`begin`](Committer::begin) and
//! [`try_parked_again`](Committer::try_parked_again) once after opening, then [`attempt`](Committer::attempt) for
//! each group of messages, again with the same group after an error, and with the rest where it took only a part;
//! and [`replay`](Committer::replay) while it [`owes_replay`](Committer::owes_replay).
//!
//! Here is what carries a transaction; what is done in it is told in [`wishes`], in [`rounds`] between the messages, in
//! [`notices`], and in [`hearing`].
//!
//! What a failed transaction left in memory is never used: it would take frames for stored that are not. So the
//! ledger is loaded anew before the next one.

mod hearing;
mod notices;
mod rounds;
mod wishes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gapless_common::id::Commit;
use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;
use gapless_common::topic::{AgentPath, Down};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

use self::hearing::Hearing;
pub use self::wishes::{Refreshed, Watched};
use super::apply::{Answers, Apply, Done};
use super::borrow::Lending;
use super::memory::{Memory, load};
use super::{Inbound, Outbound};
use crate::alerts::limits::Rules;
use crate::freshness::Allowances;
use crate::gaps::Policies;
use crate::gaps::donate::Donor;
use crate::housekeeping::Policy;
use crate::ledger::{Agent, AgentNo};
use crate::store::batch::Batch;
use crate::store::model::Head;
use crate::store::{Borrowed, commands, parked, sqlite, traffic};

/// Rows after which a transaction takes no further message: a frame of 100 bytes may hold a quarter of a million
/// readings. So a transaction holds fewer rows in memory than these and one frame's.
const GROUP_ROWS_MAX: usize = 64 << 10;
/// Bytes of parked frames per agent at most.
pub const PARK_BYTES_MAX: i64 = 16 << 20;
/// Parked frames that are tried again in one transaction at the start.
const PARKED_GROUP: usize = 64;

/// Why a database cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be opened.
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
}

/// See the module's text.
#[derive(Debug)]
pub struct Committer {
    connection: Connection,
    /// `None` after a failed transaction.
    memory: Option<Memory>,
    head: Head,
    park_bytes_max: i64,
    policies: Policies,
    lending: Lending,
    allowances: Allowances,
    /// Bytes of the last answers, which the next transaction counts.
    sent: BTreeMap<AgentNo, i64>,
    rules: Rules,
    housekeeping: Policy,
    /// When agents were last reminded of catalogs and leases.
    reminded_at: Timestamp,
    /// When alerts were first looked after: before that nobody was listening.
    listening_since: Option<Timestamp>,
    hearing: Hearing,
}

/// A transaction whose messages are applied and that is not committed. Dropping it is what a kill before the
/// commit is: nothing of it stays.
#[derive(Debug)]
#[must_use = "nothing is stored before `commit`"]
pub struct Applied<'a> {
    committer: &'a mut Committer,
    memory: Memory,
    answers: Answers,
    commit: Commit,
    now: Timestamp,
    taken: usize,
}

impl Committer {
    /// Opens the database at `path`, makes or migrates it, and loads its ledger.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Self::load(sqlite::open_writer(path)?)
    }

    /// The same over a connection that is open already, in memory or to a file. `fresh_incarnation` is taken where
    /// the database has none or is a restored backup.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn from_connection(connection: Connection, fresh_incarnation: u64) -> Result<Self, LoadError> {
        Self::load(sqlite::make_writer(connection, fresh_incarnation)?)
    }

    fn load(connection: Connection) -> Result<Self, LoadError> {
        let loaded = load(&connection).and_then(|memory| Ok((memory, sqlite::head(&connection)?)));
        match loaded {
            Ok((memory, head)) => {
                let (memory, park_bytes_max) = (Some(memory), PARK_BYTES_MAX);
                let (policies, allowances) = (Policies::default(), Allowances::default());
                let sent = BTreeMap::new();
                let (rules, listening_since) = (Rules::default(), None);
                Ok(Self {
                    connection,
                    memory,
                    head,
                    park_bytes_max,
                    policies,
                    lending: Lending::default(),
                    allowances,
                    sent,
                    rules,
                    housekeeping: Policy::default(),
                    reminded_at: Timestamp(0),
                    listening_since,
                    hearing: Hearing::default(),
                })
            }
            Err(source) => Err(LoadError::Load { path: sqlite::path_of(&connection), source }),
        }
    }

    /// Another bound on the parked bytes of an agent than [`PARK_BYTES_MAX`].
    #[must_use]
    pub fn with_park_bytes_max(self, park_bytes_max: i64) -> Self {
        Self { park_bytes_max, ..self }
    }

    /// Other ways of asking for what is missing than the usual ones.
    #[must_use]
    pub fn with_policies(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    /// Devices that stand in for others.
    #[must_use]
    pub fn with_donors(self, donors: Vec<Donor>) -> Self {
        Self { lending: Lending::new(donors), ..self }
    }

    /// Other allowances than the usual ones.
    #[must_use]
    pub fn with_allowances(self, allowances: Allowances) -> Self {
        Self { allowances, ..self }
    }

    /// Other limits than the usual ones from which on people are told.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// Another housekeeping than the usual one.
    #[must_use]
    pub fn with_housekeeping(self, housekeeping: Policy) -> Self {
        Self { housekeeping, ..self }
    }

    /// Where the database stands.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// What the ledger holds of an agent; `None` where there is none of that name, or after a failed transaction.
    #[must_use]
    pub fn agent(&self, path: &AgentPath) -> Option<&Agent> {
        let memory = self.memory.as_ref()?;
        memory.ledger.agent(memory.registry.number(path)?)
    }

    /// The connection, to read from.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The questions of API and page, answered from this very connection.
    #[must_use]
    pub fn store(&self) -> Borrowed<'_> {
        Borrowed::new(&self.connection).with_allowances(self.allowances.clone())
    }

    /// What a kill at this instant leaves: the database as of its last commit, nothing of what was in memory.
    ///
    /// # Errors
    /// A transaction was open, and the database failed to take it back.
    pub fn into_connection(self) -> rusqlite::Result<Connection> {
        self.roll_back()?;
        Ok(self.connection)
    }

    /// Folds the write-ahead log back, so that the file alone is the whole database.
    ///
    /// # Errors
    /// The database failed; the log stays beside it, and nothing is lost.
    pub fn fold(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
    }

    /// Frames that an earlier program could not read may be plain to this one. Returns how many were; the agents are
    /// answered when they speak next.
    ///
    /// # Errors
    /// The database failed: what was not tried stays parked.
    pub fn try_parked_again(&mut self, now: Timestamp) -> rusqlite::Result<usize> {
        let candidates = parked::unreadable(&self.connection)?;
        let (mut used, mut left) = (0, candidates.as_slice());
        while !left.is_empty() {
            let each = |apply: &mut Apply<'_, '_>| {
                let mut tried = 0;
                for &(id, no) in left.iter().take(PARKED_GROUP) {
                    if apply.batch.taken() >= GROUP_ROWS_MAX {
                        break;
                    }
                    let bytes = parked::bytes(apply.batch.connection, id)?;
                    used += usize::from(apply.try_again(no, id, &bytes)?);
                    tried += 1;
                }
                Ok(tried)
            };
            let applied = self.transaction(now, each)?;
            left = left.split_at_checked(applied.taken()).map_or(&[], |(_, left)| left);
            applied.commit()?;
        }
        Ok(used)
    }

    /// Whether frames wait whose catalog has come: call [`replay`](Self::replay) until they do not.
    #[must_use]
    pub fn owes_replay(&self) -> bool {
        self.memory.as_ref().is_none_or(|memory| !memory.replays.is_empty())
    }

    /// Uses frames that waited for a catalog which is here, as many as one transaction may.
    ///
    /// # Errors
    /// The database failed: they go on waiting.
    pub fn replay(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        self.counted(now, |apply| apply.replay(GROUP_ROWS_MAX)).map(drop)
    }

    /// Commits the group's first messages in one transaction: all of them, or as many as a transaction's rows allow,
    /// at least one. Returns the answers to them, made after the commit and true of it, and how many they were.
    ///
    /// # Errors
    /// The database failed: nothing of the group is stored. (A commit that reported an error may have reached the
    /// disk all the same; then the same group comes again as repetitions.)
    pub fn attempt(&mut self, group: &[Inbound], now: Timestamp) -> rusqlite::Result<(Vec<Outbound>, usize)> {
        let applied = self.apply(group, now)?;
        let taken = applied.taken();
        Ok((applied.commit()?, taken))
    }

    /// The first half of [`attempt`](Self::attempt): all but the commit.
    ///
    /// # Errors
    /// The database failed: nothing of the group is stored.
    pub fn apply(&mut self, group: &[Inbound], now: Timestamp) -> rusqlite::Result<Applied<'_>> {
        self.transaction(now, |apply| {
            let mut taken = 0;
            while let Some(message) = group.get(taken).filter(|_| apply.batch.taken() < GROUP_ROWS_MAX) {
                apply.message(message)?;
                taken += 1;
            }
            apply.replay(GROUP_ROWS_MAX)?;
            Ok(taken)
        })
    }

    /// A whole transaction; returns what agents are told.
    fn counted(
        &mut self,
        now: Timestamp,
        each: impl FnOnce(&mut Apply<'_, '_>) -> Done,
    ) -> rusqlite::Result<Vec<Outbound>> {
        self.transaction(now, |apply| each(apply).map(|()| 0))?.commit()
    }

    /// The same where nothing of what `changes` tells is written: it is not counted as a commit.
    fn uncounted(
        &mut self,
        now: Timestamp,
        each: impl FnOnce(&mut Apply<'_, '_>) -> Done,
    ) -> rusqlite::Result<Vec<Outbound>> {
        self.transaction_of(false, now, |apply| each(apply).map(|()| 0))?.commit()
    }

    /// Runs `each`, which counts what it took, within a transaction that stays open.
    fn transaction(
        &mut self,
        now: Timestamp,
        each: impl FnOnce(&mut Apply<'_, '_>) -> rusqlite::Result<usize>,
    ) -> rusqlite::Result<Applied<'_>> {
        self.transaction_of(true, now, each)
    }

    /// A transaction that is counted as a commit, or, where nothing of what `changes` tells is written, is not.
    fn transaction_of(
        &mut self,
        is_counted: bool,
        now: Timestamp,
        each: impl FnOnce(&mut Apply<'_, '_>) -> rusqlite::Result<usize>,
    ) -> rusqlite::Result<Applied<'_>> {
        match self.try_transaction(is_counted, now, each) {
            Ok((memory, answers, taken)) => {
                let commit = if is_counted { self.next_commit() } else { self.head.commit };
                Ok(Applied { committer: self, memory, answers, commit, now, taken })
            }
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    fn try_transaction(
        &mut self,
        is_counted: bool,
        now: Timestamp,
        each: impl FnOnce(&mut Apply<'_, '_>) -> rusqlite::Result<usize>,
    ) -> rusqlite::Result<(Memory, Answers, usize)> {
        if planted::has(Bug::AcknowledgeBeforeCommit) && !self.connection.is_autocommit() {
            self.connection.execute_batch("COMMIT")?;
        }
        self.roll_back()?;
        let mut memory = match self.memory.take() {
            Some(memory) => memory,
            None => {
                // A commit that reported an error may have reached the disk all the same.
                self.head = sqlite::head(&self.connection)?;
                load(&self.connection)?
            }
        };
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for (&no, &bytes) in &self.sent {
            traffic::sent(&self.connection, no, bytes, now)?;
        }
        let (commit, away) =
            (if is_counted { self.next_commit() } else { self.head.commit }, self.hearing.away(now));
        let batch = Batch::new(&self.connection, commit.0, now);
        let mut apply =
            Apply::new(&mut memory, batch, self.park_bytes_max, (&self.policies, &self.allowances), away);
        let taken = each(&mut apply)?;
        let answers = apply.finish()?;
        Ok((memory, answers, taken))
    }

    fn next_commit(&self) -> Commit {
        Commit(self.head.commit.0 + 1)
    }

    fn commit(&self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    fn roll_back(&self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() { Ok(()) } else { self.connection.execute_batch("ROLLBACK") }
    }

    /// After a failed transaction: nothing that it left is used.
    fn give_up(&mut self) {
        self.memory = None;
        // Where that fails too, the next transaction begins with it, and says so.
        let _ = self.roll_back();
    }

    fn answers(&self, memory: &Memory, answers: &Answers, now: Timestamp) -> Vec<(AgentNo, Outbound)> {
        let mut out = Vec::new();
        for (&no, epochs) in &answers.acks {
            let also: Vec<_> = epochs.iter().copied().collect();
            let ack = memory.ledger.ack(no, &also, self.head.incarnation, self.head.commit);
            out.extend(publish(memory, no, Down::Ack, &Message::Ack(ack)));
        }
        let asked = answers.commands.iter().map(|(no, id)| (*no, Some(*id)));
        for (no, id) in asked.chain(answers.births.iter().map(|no| (*no, None))) {
            match commands::open(&self.connection, no, now) {
                Ok(open) => {
                    let wanted = open.into_iter().filter(|c| id.is_none_or(|id| id == c.id));
                    out.extend(
                        wanted.filter_map(|c| publish(memory, no, Down::Command, &Message::Command(c))),
                    );
                }
                // They are sent at the next birth.
                Err(error) => tracing::warn!(%error, "commands could not be read"),
            }
        }
        out
    }
}

impl Applied<'_> {
    /// How many messages of the group it holds.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Commits, and returns the answers, which are made after it and true of it.
    ///
    /// # Errors
    /// As [`Committer::attempt`].
    pub fn commit(self) -> rusqlite::Result<Vec<Outbound>> {
        let Self { committer, memory, answers, commit, now, .. } = self;
        let late = planted::has(Bug::AcknowledgeBeforeCommit);
        if !late && let Err(error) = committer.commit() {
            committer.give_up();
            return Err(error);
        }
        committer.head.commit = commit;
        let out = committer.answers(&memory, &answers, now);
        committer.memory = Some(memory);
        committer.sent.clear();
        for (no, answer) in &out {
            let bytes = i64::try_from(answer.link_bytes()).unwrap_or(i64::MAX);
            *committer.sent.entry(*no).or_default() += bytes;
        }
        Ok(out.into_iter().map(|(_, answer)| answer).collect())
    }
}

fn publish(memory: &Memory, no: AgentNo, kind: Down, message: &Message) -> Option<(AgentNo, Outbound)> {
    let path = memory.registry.path(no)?;
    match wire::encode(message) {
        Ok(payload) => Some((no, Outbound::Publish { topic: path.down(kind), payload })),
        Err(error) => {
            tracing::error!(agent = %path, %error, "an answer could not be written");
            None
        }
    }
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
    use crate::ingest::HasRead;
    use crate::store::model::{DropChanges, DropRow};
    use crate::store::{ReadStore, drops};

    fn path() -> AgentPath {
        AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw").unwrap() }
    }

    const NOW: Timestamp = Timestamp(2_000_000);

    fn in_memory() -> Committer {
        Committer::from_connection(Connection::open_in_memory().unwrap(), 7).unwrap()
    }

    fn inbound(kind: Up, payload: Vec<u8>) -> Inbound {
        Inbound { topic: path().up(kind), payload, at: NOW, token: 1 }
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
        let mut committer = in_memory();
        let group = [dense(1), dense(2), dense(3)];
        assert!(group.iter().map(|m| m.payload.len()).sum::<usize>() < 64 << 10);
        assert_eq!(committer.attempt(&group, NOW).unwrap().1, 1);
        assert_eq!(committer.attempt(&group[1..], NOW).unwrap().1, 1);
        assert_eq!(readings(&committer), 200_000);
    }

    fn readings(committer: &Committer) -> i64 {
        committer.connection().query_row("SELECT count(*) FROM readings", [], |r| r.get(0)).unwrap()
    }

    #[test]
    fn a_kill_between_apply_and_commit_leaves_nothing_and_a_restart_takes_it_again() {
        let mut committer = in_memory();
        let group = [dense(1)];
        assert_eq!(committer.apply(&group, NOW).unwrap().taken(), 1);
        let before = committer.head();
        let mut again = Committer::from_connection(committer.into_connection().unwrap(), 8).unwrap();
        assert_eq!((readings(&again), again.head()), (0, before), "killed before the commit");
        let (answers, _) = again.attempt(&group, NOW).unwrap();
        assert_eq!(answers.len(), 1, "{answers:?}");
        let mut again = Committer::from_connection(again.into_connection().unwrap(), 9).unwrap();
        assert_eq!((readings(&again), again.head().commit.0), (100_000, before.commit.0 + 1));
        // The answer was lost with the kill: the repetition is answered the same way, and stored once.
        let (repeated, _) = again.attempt(&group, NOW).unwrap();
        assert_eq!(readings(&again), 100_000);
        assert_eq!((watermark(&answers), watermark(&repeated)), (501, 501));
        assert_eq!(again.store().stats().unwrap().counters.readings, 100_000);
    }

    fn watermark(answers: &[Outbound]) -> u64 {
        let Some(Outbound::Publish { payload, .. }) = answers.first() else { panic!("no answer") };
        let Ok(Message::Ack(ack)) = wire::decode(payload) else { panic!("no acknowledgement") };
        ack.epochs[0].watermark.0
    }

    #[test]
    fn files_are_known_to_have_been_read_only_once_what_came_of_them_is_stored() {
        let about = DropRow { reads: Some(1), from: Timestamp(0), spoilt: Vec::new() };
        let changes = DropChanges { about, is_anew: true, files: Vec::new() };
        let read = HasRead { path: path(), said: (Epoch(1), Seq(501)), changes };
        let later = HasRead { said: (Epoch(1), Seq(502)), changes: read.changes.clone(), path: path() };
        let mut committer = in_memory();
        let is_known =
            |committer: &Committer| drops::recall(committer.connection(), &path()).unwrap().is_some();
        assert!(!committer.has_read(&read, NOW).unwrap() && !is_known(&committer));
        drop(committer.apply(&[dense(1)], NOW).unwrap());
        assert!(!committer.has_read(&read, NOW).unwrap() && !is_known(&committer), "it was not committed");
        committer.attempt(&[dense(1)], NOW).unwrap();
        assert!(!committer.has_read(&later, NOW).unwrap() && !is_known(&committer), "not all of it");
        let before = committer.head();
        assert!(committer.has_read(&read, NOW).unwrap() && is_known(&committer));
        assert_eq!(committer.head(), before, "nothing of it is news");
    }

    #[test]
    fn an_applied_transaction_that_is_dropped_is_as_if_it_had_not_been() {
        let mut committer = in_memory();
        drop(committer.apply(&[dense(1)], NOW).unwrap());
        committer.attempt(&[dense(2)], NOW).unwrap();
        assert_eq!((readings(&committer), committer.head().commit.0), (100_000, 1));
    }

    #[test]
    fn nobody_counts_as_connected_before_being_born_again() {
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
        let mut committer = in_memory();
        let connected = |committer: &Committer| {
            let sql = "SELECT count(*) FROM agents WHERE connected = 1";
            committer.connection().query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap()
        };
        for again in [false, true] {
            committer.attempt(std::slice::from_ref(&birth), NOW).unwrap();
            assert_eq!(connected(&committer), 1);
            if again {
                committer.begin(NOW).unwrap();
            } else {
                committer.attempt(&[Inbound::new_session(NOW)], NOW).unwrap();
            }
            assert_eq!(connected(&committer), 0);
        }
    }
}
