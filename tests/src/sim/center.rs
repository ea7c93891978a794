//! The simulated collector: the real committer over a real SQLite database in memory, killed between any two of its
//! steps, out of room for a while, and rolled back to an older backup.
//!
//! Not simulated: what its disk keeps (SQLite has no seam for one; its commits are cut from recorded system calls in the
//! crash tests), the HTTP API and the page.

use std::collections::VecDeque;

use gapless_collector::gaps::donate::Donor;
use gapless_collector::housekeeping::Policy;
use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Outbound};
use gapless_common::id::Commit;
use gapless_common::message::Presence;
use gapless_common::time::Timestamp;
use gapless_common::topic::presence;
use gapless_common::wire::{self, Message};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::clock::truth;
use super::heap;
use super::mishap::policies;
use super::people::receivers;
use super::rng::Rng;

/// The collector's name at the broker.
const NAME: &str = "center";
/// Messages of one transaction at most.
const GROUP_MAX: usize = 256;
/// Messages that wait at most; beyond it the connection is given up, as the shell does.
const WAITING_MAX: usize = 2_048;

/// As many pages as SQLite takes.
const PAGES_MAX: i64 = 0xffff_fffe;

/// At which of its steps a collector dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// With a transaction applied, and not committed.
    BeforeCommit,
    /// With a transaction committed, and not answered.
    BeforeAnswer,
}

/// What became of a group of messages.
pub struct Turn {
    /// Messages whose transaction was committed.
    pub committed: Vec<Inbound>,
    /// What goes out: topic and bytes.
    pub answers: Vec<(String, Vec<u8>)>,
    /// There was no room: the messages wait.
    pub has_failed: bool,
}

/// The collector.
pub struct Center {
    /// `None` while nothing runs.
    pub committer: Option<Committer>,
    /// The database while nothing runs.
    database: Option<Connection>,
    /// Last night's backup.
    backup: Option<Connection>,
    /// What waits for a transaction.
    pub(super) waiting: VecDeque<Inbound>,
    /// The last commit of which an agent was told, in this life of the database.
    told: u64,
    /// The commit up to which it was looked at what became of gaps.
    pub looked_at: Commit,
    /// Commits of which agents were told, and that were gone after a kill.
    pub forgotten: Vec<String>,
    /// Its connection.
    pub session: u64,
    /// Whether that is there, and messages can come.
    pub hears: bool,
    /// When they could last, in ms of the run.
    pub heard_ms: u64,
    /// How often it was started.
    pub starts: u64,
    /// How far its clock is ahead of the truth, in ms.
    pub ahead_ms: i64,
    /// The most that a process of it has held of memory, in bytes.
    pub held_bytes: u64,
    /// Whether its disk has no room.
    pub is_full: bool,
    /// How many looks after alerts it could not make because of that.
    pub looks_refused: u64,
    /// Whose readings stand in for whose.
    pub(super) donors: Vec<Donor>,
    /// What it tidies away.
    pub(super) housekeeping: Policy,
    rng: Rng,
}

impl Center {
    /// A collector that has never run.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        let database = Some(Connection::open_in_memory().expect("memory takes a database"));
        let (waiting, session, ahead_ms) = (VecDeque::new(), 0, 0);
        let (told, forgotten, looked_at) = (0, Vec::new(), Commit(0));
        let (committer, backup, is_full) = (None, None, false);
        Self {
            committer,
            database,
            backup,
            waiting,
            told,
            looked_at,
            forgotten,
            session,
            hears: false,
            heard_ms: 0,
            starts: 0,
            ahead_ms,
            held_bytes: 0,
            is_full,
            looks_refused: 0,
            donors: Vec::new(),
            housekeeping: Policy::default(),
            rng,
        }
    }

    /// Starts it.
    ///
    /// # Panics
    /// Where its own database cannot be loaded: that is a finding.
    pub fn start(&mut self, at_ms: u64) {
        // Whoever starts it again has made room.
        self.make_room();
        let Some(database) = self.database.take() else { return };
        let committer = Committer::from_connection(database, self.rng.draw()).expect("its database loads");
        let mut committer = committer.with_policies(policies()).with_donors(self.donors.clone());
        committer = committer.with_housekeeping(self.housekeeping.clone());
        let now = self.now(at_ms);
        self.starts += 1;
        committer.know_receivers(receivers(), now).expect("memory does not fail");
        committer.begin(now).expect("memory does not fail");
        committer.try_parked_again(now).expect("memory does not fail");
        self.committer = Some(committer);
    }

    /// Its disk has no more room than what its database takes.
    pub fn fill_disk(&mut self) {
        if let Some(committer) = &self.committer {
            let pages: i64 = pragma(committer.connection(), "PRAGMA page_count");
            pragma(committer.connection(), &format!("PRAGMA max_page_count = {pages}"));
            self.is_full = true;
        }
    }

    /// It has.
    pub fn make_room(&mut self) {
        self.is_full = false;
        for database in self.committer.as_ref().map(Committer::connection).into_iter().chain(&self.database) {
            pragma(database, &format!("PRAGMA max_page_count = {PAGES_MAX}"));
        }
    }

    /// What a transaction gave; nothing where there is no room for it.
    ///
    /// # Panics
    /// Where it has failed for another reason: that is a finding.
    pub fn unless_full<T: Default>(&self, done: rusqlite::Result<T>) -> T {
        assert!(self.is_full || done.is_ok(), "memory does not fail: {:?}", done.err());
        done.unwrap_or_default()
    }

    /// It is killed: what waited is gone, and so is what was not committed.
    pub fn kill(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.hears = false;
        if let Some(committer) = self.committer.take() {
            let mut left = None;
            let freed_bytes = heap::freed_by(|| {
                drop(waiting);
                left = Some(committer.into_connection());
            });
            self.held_bytes = self.held_bytes.max(freed_bytes);
            let database = left.expect("it has ended").expect("memory does not fail");
            let sql = "SELECT value FROM meta WHERE key = 'commit_no'";
            let kept: i64 = database.query_row(sql, [], |r| r.get(0)).expect("memory does not fail");
            if kept.cast_unsigned() < self.told {
                self.forgotten.push(format!("agents know commit {}, the database is at {kept}", self.told));
            }
            self.database = Some(database);
        }
    }

    /// Backs the database up; `false` where it cannot be read at the moment.
    pub fn back_up(&mut self) -> bool {
        let from = self.committer.as_ref().map(Committer::connection).or(self.database.as_ref());
        let copied = from.and_then(copy);
        let is_copied = copied.is_some();
        self.backup = copied.or(self.backup.take());
        is_copied
    }

    /// Whether frames are parked.
    #[must_use]
    pub fn has_parked(&self) -> bool {
        let asks = |committer: &Committer| {
            let mut statement =
                committer.connection().prepare_cached("SELECT EXISTS (SELECT 1 FROM parked)")?;
            statement.query_row([], |r| r.get::<_, bool>(0))
        };
        self.committer.as_ref().is_some_and(|committer| asks(committer).unwrap_or(false))
    }

    /// Puts the backup in the place of the database of a collector that is not running; `false` where there is none.
    pub fn restore(&mut self) -> bool {
        let Some(backup) = self.backup.as_ref().filter(|_| self.committer.is_none()) else { return false };
        let Some(restored) = copy(backup) else { return false };
        let mark = "INSERT OR REPLACE INTO meta VALUES ('needs_incarnation', 1)";
        restored.execute(mark, []).expect("memory does not fail");
        (self.database, self.told, self.looked_at) = (Some(restored), 0, Commit(0));
        true
    }

    /// Takes a message in; `false` where too many wait.
    pub fn take(&mut self, topic: String, payload: Vec<u8>, at_ms: u64) -> bool {
        if self.waiting.len() >= WAITING_MAX {
            return false;
        }
        let at = truth(at_ms).plus_ms(self.ahead_ms);
        self.waiting.push_back(Inbound { topic, payload, at, token: 0 });
        true
    }

    /// Takes a message of its own sources in: they wait while it has too many, so none is refused.
    pub(super) fn take_own(&mut self, message: Inbound) {
        self.waiting.push_back(message);
    }

    /// A new connection: who is connected is not known.
    pub fn begin_session(&mut self, at_ms: u64) {
        self.hears = true;
        self.waiting.push_back(Inbound::new_session(truth(at_ms).plus_ms(self.ahead_ms)));
    }

    /// Whether anything waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() || self.committer.is_none()
    }

    /// Commits what waits, or as much as fits one transaction, and answers; or dies on the way.
    ///
    /// # Panics
    /// Where a transaction in memory fails: that is a finding.
    pub fn turn(&mut self, dies: Option<Death>, at_ms: u64) -> Turn {
        let mut turn = Turn { committed: Vec::new(), answers: Vec::new(), has_failed: false };
        let Some(committer) = self.committer.as_mut() else { return turn };
        let count = self.waiting.len().min(GROUP_MAX);
        let group: Vec<Inbound> = self.waiting.drain(..count).collect();
        if group.is_empty() {
            return turn;
        }
        let applied = match committer.apply(&group, truth(at_ms).plus_ms(self.ahead_ms)) {
            Ok(applied) => applied,
            Err(error) => {
                assert!(self.is_full, "memory does not fail: {error}");
                group.into_iter().rev().for_each(|message| self.waiting.push_front(message));
                turn.has_failed = true;
                return turn;
            }
        };
        if dies == Some(Death::BeforeCommit) {
            drop(applied);
            self.waiting.extend(group);
            self.kill();
            return turn;
        }
        let taken = applied.taken();
        let answers = match applied.commit() {
            Ok(answers) => answers,
            Err(error) => {
                assert!(self.is_full, "memory does not fail: {error}");
                group.into_iter().rev().for_each(|message| self.waiting.push_front(message));
                turn.has_failed = true;
                return turn;
            }
        };
        turn.committed = group[..taken].to_vec();
        group[taken..].iter().rev().for_each(|rest| self.waiting.push_front(rest.clone()));
        if dies == Some(Death::BeforeAnswer) {
            self.kill();
            return turn;
        }
        self.told = committer.head().commit.0;
        turn.answers = answers.into_iter().filter_map(published).collect();
        turn
    }

    /// What its clock shows.
    #[must_use]
    pub fn now(&self, at_ms: u64) -> Timestamp {
        truth(at_ms).plus_ms(self.ahead_ms)
    }

    /// Of what goes out that which goes to agents: topic and bytes.
    #[must_use]
    pub fn published(&self, out: Vec<Outbound>) -> Vec<(String, Vec<u8>)> {
        out.into_iter().filter_map(published).collect()
    }

    /// Topic and bytes of its presence, and whether it is kept.
    #[must_use]
    pub fn presence(&self, online: bool) -> (String, Vec<u8>, bool) {
        let incarnation = self.committer.as_ref().map(|c| c.head().incarnation).unwrap_or_default();
        let said = wire::encode(&Message::Presence(Presence { incarnation, online }));
        (presence(NAME), said.expect("a presence always encodes"), true)
    }
}

fn published(answer: Outbound) -> Option<(String, Vec<u8>)> {
    match answer {
        Outbound::Publish { topic, payload } => Some((topic, payload)),
        Outbound::Release(_) => None,
    }
}

fn pragma(database: &Connection, sql: &str) -> i64 {
    database.query_row(sql, [], |r| r.get(0)).expect("the database is open")
}

fn copy(from: &Connection) -> Option<Connection> {
    let mut to = Connection::open_in_memory().expect("memory takes a database");
    let backup = Backup::new(from, &mut to).expect("two databases");
    let done = backup.step(std::ffi::c_int::MAX);
    drop(backup);
    matches!(done, Ok(StepResult::Done)).then_some(to)
}
