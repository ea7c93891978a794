//! The committer: owns the one read-write connection and the ledger, and turns messages into committed rows and the
//! answers to them. Has no thread, queue, clock or random source: whoever holds it (the writer's thread, or a
//! simulation) says what time it is, sends what it answers, and tries again what failed.
//!
//! Calling contract: call [`begin`](Committer::begin) and
//! [`try_parked_again`](Committer::try_parked_again) once after opening, then [`attempt`](Committer::attempt) for
//! each group of messages, again with the same group after an error, and with the rest where it took only a part;
//! and [`replay`](Committer::replay) while it [`owes_replay`](Committer::owes_replay).
//!
//! What a failed transaction left in memory is never used: it would take frames for stored that are not. So the
//! ledger is loaded anew before the next one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gapless_common::id::Commit;
use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;
use gapless_common::topic::{AgentPath, Down};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

use super::apply::{Answers, Apply};
use super::borrow::Lending;
use super::memory::{Memory, load};
use super::orders::{Act, Ask};
use super::{Inbound, Order, Outbound, Refused, Viewing, errands, housekeep, keep, warn};
use crate::alerts::absence::Absence;
use crate::alerts::delivery::Answer;
use crate::alerts::limits::Rules;
use crate::alerts::notice::Told;
use crate::freshness::Allowances;
use crate::gaps::Policies;
use crate::gaps::donate::Donor;
use crate::housekeeping::Policy;
use crate::ledger::{Agent, AgentNo};
use crate::live::{self, Granted};
use crate::store::alerts::Measure;
use crate::store::batch::Batch;
use crate::store::model::{Head, PendingJob, ReceiverName};
use crate::store::receivers::{self, Gone, Owed};
use crate::store::unasked::LeftBefore;
use crate::store::{Borrowed, commands, hearing, leases, parked, sources, sqlite, traffic};

/// Rows after which a transaction takes no further message: a frame of 100 bytes may hold a quarter of a million
/// readings. So a transaction holds fewer rows in memory than these and one frame's.
const GROUP_ROWS_MAX: usize = 64 << 10;
/// Bytes of parked frames per agent at most.
pub const PARK_BYTES_MAX: i64 = 16 << 20;
/// How often it is written down that messages could come, in ms: after a kill so much of its absence counts as the agents' own.
const HEARD_EVERY_MS: i64 = 600_000;
/// A catalog that was asked for is asked for again after this time, in ms; so is an agent told of a lease that has not answered.
const REMIND_MS: i64 = 60_000;
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
    /// When the broker was away, the last ones of it, and since when it is.
    unheard: Vec<Absence>,
    unheard_since: Option<Timestamp>,
    heard_until: Option<Timestamp>,
}

/// The job of each ask, and what agents are told.
pub type Refreshed = (Vec<Result<Option<PendingJob>, Refused>>, Vec<Outbound>);

/// The lease that a viewer was granted, and what agents are told.
pub type Watched = (Option<Granted>, Vec<Outbound>);

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
                    unheard: Vec::new(),
                    unheard_since: None,
                    heard_until: None,
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

    /// To be told as the collector starts: who is connected is not known, and since messages could come last, as far as that was
    /// written down, nobody was heard, and nobody is blamed for it.
    ///
    /// # Errors
    /// The database failed: agents that may have gone are still shown as connected, or that time counts as their own absence.
    pub fn begin(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        self.nobody_connected(now)?;
        self.heard_until = hearing::heard_until(&self.connection)?;
        if let Some(until) = self.heard_until.filter(|until| *until < now) {
            hearing::is_back(&self.connection, (until, now))?;
        }
        self.unheard = hearing::absences(&self.connection, now)?;
        Ok(())
    }

    /// Who is connected is not known before presence has been answered.
    fn nobody_connected(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        let sql = "SELECT EXISTS (SELECT 1 FROM agents WHERE connected = 1)";
        if !self.connection.query_row(sql, [], |r| r.get::<_, bool>(0))? {
            return Ok(());
        }
        self.transaction(now, |apply| apply.new_session().map(|()| 0))?.commit().map(drop)
    }

    /// Whether messages of agents can come, now that it is `now`; to be told every second where that can change. Where they
    /// cannot nobody counts as connected, and nobody is blamed for it.
    ///
    /// # Errors
    /// The database failed: agents are still shown as connected.
    pub fn hears(&mut self, can_come: bool, now: Timestamp) -> rusqlite::Result<()> {
        match (can_come, self.unheard_since) {
            (true, None) => self.note_heard(now),
            (false, Some(_)) => Ok(()),
            (false, None) => {
                self.nobody_connected(now)?;
                self.unheard_since = Some(now);
                Ok(())
            }
            (true, Some(since)) => {
                hearing::is_back(&self.connection, (since, now))?;
                self.unheard_since = None;
                self.unheard = hearing::absences(&self.connection, now)?;
                self.note_heard(now)
            }
        }
    }

    /// Writes down now and then up to when messages could come.
    fn note_heard(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        match self.heard_until.map(|until| now.since_ms(until)) {
            Some(0..HEARD_EVERY_MS) => return Ok(()),
            // The clock was set back.
            Some(..0) => self.unheard = hearing::absences(&self.connection, now)?,
            _ => {}
        }
        // Where that fails it is tried again no sooner: nobody needs an error each second while a disk is full.
        self.heard_until = Some(now);
        hearing::hears(&self.connection, now)
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
        self.transaction(now, |apply| apply.replay(GROUP_ROWS_MAX).map(|()| 0))?.commit().map(drop)
    }

    /// Fills gaps with what other devices recorded of the same time, as much as one transaction may; to be called before
    /// [`look_after_gaps`](Self::look_after_gaps), as what is here is asked of nobody. Returns whether there may be more.
    /// Where nothing has changed nothing is read, and where nothing is to be filled there is no commit.
    ///
    /// # Errors
    /// The database failed: it is found again.
    pub fn lend(&mut self, now: Timestamp) -> rusqlite::Result<bool> {
        let Some(memory) = self.memory.as_ref() else { return Ok(false) };
        let Some(loan) = self.lending.look(&self.connection, memory, self.head.commit.0)? else {
            return Ok(false);
        };
        self.transaction(now, |apply| apply.borrow(&loan).map(|()| 0))?.commit()?;
        self.lending.is_lent(&loan);
        Ok(true)
    }

    /// Asks for the gaps that have come due, and ends requests whose time is over. Returns the requests, and those for
    /// catalogs that were not answered, and leases: such a command may be lost on its way, and frames or viewers wait for it.
    /// Where nothing is due there is no commit.
    ///
    /// # Errors
    /// The database failed: everything stays due.
    pub fn look_after_gaps(&mut self, now: Timestamp) -> rusqlite::Result<Vec<Outbound>> {
        let mut told = self.reminders(now)?;
        if keep::is_due(&self.connection, now, self.away(now))? {
            told.extend(self.transaction(now, |apply| apply.look_after_gaps().map(|()| 0))?.commit()?);
        }
        Ok(told)
    }

    fn reminders(&mut self, now: Timestamp) -> rusqlite::Result<Vec<Outbound>> {
        if now.since_ms(self.reminded_at).abs() < REMIND_MS {
            return Ok(Vec::new());
        }
        self.reminded_at = now;
        let mut told = self.end_left_over(now)?;
        let Some(memory) = self.memory.as_ref() else { return Ok(told) };
        let since = now.plus_ms(-REMIND_MS);
        let awaited = commands::unanswered(&self.connection, since, now)?;
        let answers = Answers { commands: awaited, ..Answers::default() };
        told.extend(self.answers(memory, &answers, now).into_iter().map(|(_, told)| told));
        let unasked = parked::unasked(&self.connection, since, now)?;
        if !unasked.is_empty() {
            let ask = |apply: &mut Apply<'_, '_>| {
                let mut asked = unasked.iter();
                asked.try_for_each(|(no, hash)| apply.ask_catalog(*no, *hash)).map(|()| 0)
            };
            told.extend(self.transaction_of(false, now, ask)?.commit()?);
        }
        Ok(told)
    }

    /// Ends leases that were granted before the clock was set back: agents may hold them, and whoever watches takes another one.
    fn end_left_over(&mut self, now: Timestamp) -> rusqlite::Result<Vec<Outbound>> {
        let left_over = leases::left_over(&self.connection, now)?;
        if left_over.is_empty() {
            return Ok(Vec::new());
        }
        let end = |apply: &mut Apply<'_, '_>| {
            left_over.iter().try_for_each(|site| apply.unwatch(*site)).map(|()| 0)
        };
        self.transaction_of(false, now, end)?.commit()
    }

    /// Sees which devices are stale, as far as it is their turn, begins the jobs that are due, and ends those whose time is
    /// over. Returns what agents are told. Where there is nothing to do there is no commit.
    ///
    /// # Errors
    /// The database failed: everything stays due.
    pub fn look_after_jobs(&mut self, now: Timestamp) -> rusqlite::Result<Vec<Outbound>> {
        let queue = self.memory.as_ref().map(|memory| &memory.jobs);
        let wishes = errands::sweep(&self.connection, &self.allowances, queue, now)?;
        let is_due = queue.map_or(Ok(true), |queue| errands::is_due(&self.connection, queue, now))?;
        if wishes.is_empty() && !is_due {
            return Ok(Vec::new());
        }
        self.transaction_of(false, now, |apply| apply.look_after_jobs(&wishes).map(|()| 0))?.commit()
    }

    /// Makes jobs of what is asked for, and begins those that are due. Returns the job of each, where there is need of one,
    /// and what agents are told. Where all of it is under way already there is no commit.
    ///
    /// # Errors
    /// The database failed: nothing has changed.
    pub fn refresh(&mut self, asks: &[Ask], now: Timestamp) -> rusqlite::Result<Refreshed> {
        let queue = self.memory.as_ref().map(|memory| &memory.jobs);
        let mut same = Some(Vec::new());
        for ask in asks {
            let is_noted = errands::is_noted(&self.connection, ask)?;
            let job = queue.filter(|_| is_noted).and_then(|queue| errands::same(queue, ask, now));
            same = same.zip(job).map(|(mut jobs, job)| {
                jobs.push(job);
                jobs
            });
        }
        if let Some(jobs) = same {
            return Ok((jobs.into_iter().map(|job| Ok(Some(job))).collect(), Vec::new()));
        }
        let mut answers = Vec::new();
        let applied = self.transaction_of(false, now, |apply| {
            answers = apply.refresh(asks)?;
            apply.look_after_jobs(&[]).map(|()| 0)
        })?;
        Ok((answers, applied.commit()?))
    }

    /// Grants a viewer of a site its lease, or ends it: then, and where nobody watches, there is none. Returns what agents are
    /// told, too. Where the lease that stands is enough there is no transaction.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn watch(&mut self, watch: &Viewing, now: Timestamp) -> Result<Watched, Refused> {
        let failed = |error: rusqlite::Error| {
            tracing::error!(%error, "a lease could not be written down");
            Refused::Database
        };
        let site = leases::site(&self.connection, &watch.site).map_err(failed)?;
        let site = site.ok_or_else(|| Refused::NoSite(watch.site.clone()))?;
        let standing = leases::standing(&self.connection, site, now).map_err(failed)?;
        let granted = watch.minutes.map(|minutes| live::take(standing, minutes, now));
        let applied = match granted {
            Some(granted) if !granted.is_new => return Ok((Some(granted), Vec::new())),
            None if standing.is_none() => return Ok((None, Vec::new())),
            Some(Granted { until, .. }) => {
                self.transaction_of(false, now, |apply| apply.watch(site, until).map(|()| 0))
            }
            None => self.transaction_of(false, now, |apply| apply.unwatch(site).map(|()| 0)),
        };
        let told = applied.and_then(Applied::commit).map_err(failed)?;
        Ok((granted, told))
    }

    /// Raises and resolves alerts, as far as it is the turn of a device or an agent, and makes messages of what was gathered.
    /// Where there is nothing new there is no transaction.
    ///
    /// # Errors
    /// The database failed: it is found again in the next round.
    pub fn look_after_alerts(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        // No later than now, though the clock was set back since: nobody would be told of anything until then.
        let listening_since = self.listening_since.map_or(now, |since| since.min(now));
        self.listening_since = Some(listening_since);
        let (unheard, unheard_since) = (self.unheard(now), self.unheard_since);
        let (rules, allowances, unheard) = (&self.rules, &self.allowances, unheard.as_slice());
        let measure = Measure { rules, allowances, listening_since, unheard, unheard_since, now };
        let spoke = self.memory.as_mut().map(|memory| std::mem::take(&mut memory.spoke)).unwrap_or_default();
        let found = warn::sweep(&self.connection, measure, &spoke)?;
        if found.is_empty() {
            return Ok(());
        }
        self.transaction_of(false, now, |apply| apply.warn(&found).map(|()| 0))?.commit().map(drop)
    }

    /// Tidies away what has come of age, as far as it is its turn, and confirms devices where nobody else is to. Where there
    /// is nothing to do there is no transaction.
    ///
    /// # Errors
    /// The database failed: it is found again in the next round.
    pub fn housekeep(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        let found = housekeep::sweep(&self.connection, &self.housekeeping, now)?;
        if found.is_empty() {
            return Ok(());
        }
        self.transaction_of(false, now, |apply| apply.housekeep(&found).map(|()| 0))?.commit().map(drop)
    }

    /// These are the receivers of alerts; to be called once after opening. What is owed to one that is gone is said, and kept
    /// for a month: told where it comes back, or to the one that is named as having had its name.
    ///
    /// # Errors
    /// The database failed: those that it knew before are told.
    pub fn know_receivers(&mut self, mut names: Vec<ReceiverName>, now: Timestamp) -> rusqlite::Result<()> {
        names.sort_unstable();
        if receivers::knows(&self.connection, &names, now)? {
            return Ok(());
        }
        let mut gone = Vec::new();
        let each = |apply: &mut Apply<'_, '_>| {
            gone = receivers::know(apply.batch.connection, &names, now)?;
            Ok(0)
        };
        self.transaction_of(false, now, each)?.commit()?;
        for Gone { name, owed, is_forgotten } in
            gone.into_iter().filter(|gone| gone.owed > 0 || gone.is_forgotten)
        {
            let what = if is_forgotten {
                "a receiver of alerts has been out of the configuration for a month: what it was owed is forgotten"
            } else {
                "a receiver of alerts is not in the configuration any more: what it is owed is kept for a month; name it \
                 again, or say `formerly` at the one that takes its place"
            };
            tracing::warn!(receiver = name, owed, "{what}");
        }
        Ok(())
    }

    /// The message that a receiver is due by `now`: its last event, and what it tells. The answer goes to [`told`](Self::told).
    ///
    /// # Errors
    /// The database failed.
    pub fn owed(&self, receiver: &str, now: Timestamp) -> rusqlite::Result<Option<(i64, Vec<Told>)>> {
        let owed = receivers::owed(&self.connection, receiver, now)?;
        Ok(owed.map(|Owed { through, told }| (through, told)))
    }

    /// A receiver has answered to the message that ends with the event `through`.
    ///
    /// # Errors
    /// The database failed: it is not known to have answered.
    pub fn told(
        &mut self,
        receiver: &str,
        through: i64,
        answer: &Answer,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let each = |apply: &mut Apply<'_, '_>| apply.told(receiver, through, answer).map(|()| 0);
        self.transaction_of(false, now, each)?.commit().map(drop)
    }

    /// A call is about to be made for an account; those before `since` count no more.
    ///
    /// # Errors
    /// The database failed: the call is not to be made.
    pub fn called(&mut self, account: &str, at: Timestamp, since: Timestamp) -> rusqlite::Result<()> {
        let each = |apply: &mut Apply<'_, '_>| {
            sources::called(apply.batch.connection, account, at, since).map(|()| 0)
        };
        self.transaction_of(false, at, each)?.commit().map(drop)
    }

    /// Does what a person wishes about an alert or a device.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn act(&mut self, act: &Act, now: Timestamp) -> Result<(), Refused> {
        let failed = |error: rusqlite::Error| {
            tracing::error!(%error, "a wish could not be carried out");
            Refused::Database
        };
        let mut answer = Ok(());
        let each = |apply: &mut Apply<'_, '_>| apply.act(act).map(|done| answer = done).map(|()| 0);
        self.transaction_of(false, now, each).map_err(failed)?.commit().map_err(failed)?;
        answer
    }

    /// Does what a person wishes.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn carry_out(&mut self, order: &Order, now: Timestamp) -> Result<(), Refused> {
        let failed = |error: rusqlite::Error| {
            tracing::error!(%error, "an order could not be carried out");
            Refused::Database
        };
        let mut answer = Ok(());
        let each = |apply: &mut Apply<'_, '_>| apply.carry_out(order).map(|done| answer = done).map(|()| 0);
        let applied = self.transaction(now, each).map_err(failed)?;
        // Where it is refused nothing was written but the number of the commit.
        applied.commit().map_err(failed)?;
        answer
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
        let (commit, away) = (if is_counted { self.next_commit() } else { self.head.commit }, self.away(now));
        let batch = Batch::new(&self.connection, commit.0, now);
        let mut apply =
            Apply::new(&mut memory, batch, self.park_bytes_max, (&self.policies, &self.allowances), away);
        let taken = each(&mut apply)?;
        let answers = apply.finish()?;
        Ok((memory, answers, taken))
    }

    /// When the broker was away, in order, up to `now`.
    fn unheard(&self, now: Timestamp) -> Vec<Absence> {
        let until_now = self.unheard_since.map(|since| (since, now));
        self.unheard.iter().copied().chain(until_now).collect()
    }

    /// Who counts as away.
    fn away(&self, now: Timestamp) -> LeftBefore {
        LeftBefore::of(now, &self.unheard(now))
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
    use crate::store::ReadStore;

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
