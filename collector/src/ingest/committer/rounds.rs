//! What is looked after in rounds, between the messages: gaps, jobs, alerts, what comes of age. Each finds out first whether
//! there is anything to do, so that a round in which there is not costs no transaction.

use gapless_common::time::Timestamp;

use super::{Answers, Apply, Committer};
use crate::ingest::{Outbound, errands, housekeep, keep, warn};
use crate::store::alerts::Measure;
use crate::store::{commands, leases, parked};

/// A catalog that was asked for is asked for again after this time, in ms; so is an agent told of a lease that has not answered.
const REMIND_MS: i64 = 60_000;

impl Committer {
    /// Has what other devices recorded of the same time stand in for what is missing, as much as one transaction may. Returns
    /// whether there may be more.
    /// Where nothing has changed nothing is read, and where nothing is to be filled there is no commit.
    ///
    /// # Errors
    /// The database failed: it is found again.
    pub fn lend(&mut self, now: Timestamp) -> rusqlite::Result<bool> {
        let Some(memory) = self.memory.as_ref() else { return Ok(false) };
        let Some(loan) = self.lending.look(&self.connection, memory, self.head.commit.0)? else {
            return Ok(false);
        };
        self.counted(now, |apply| apply.borrow(&loan))?;
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
        if keep::is_due(&self.connection, now, self.hearing.away(now))? {
            told.extend(self.counted(now, |apply| apply.look_after_gaps())?);
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
                unasked.iter().try_for_each(|(no, hash)| apply.ask_catalog(*no, *hash))
            };
            told.extend(self.uncounted(now, ask)?);
        }
        Ok(told)
    }

    /// Ends leases that were granted before the clock was set back: agents may hold them, and whoever watches takes another one.
    fn end_left_over(&mut self, now: Timestamp) -> rusqlite::Result<Vec<Outbound>> {
        let left_over = leases::left_over(&self.connection, now)?;
        if left_over.is_empty() {
            return Ok(Vec::new());
        }
        self.uncounted(now, |apply| left_over.iter().try_for_each(|site| apply.unwatch(*site)))
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
        self.uncounted(now, |apply| apply.look_after_jobs(&wishes))
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
        let (unheard, unheard_since) = (self.hearing.unheard(now), self.hearing.unheard_since);
        let (rules, allowances, unheard) = (&self.rules, &self.allowances, unheard.as_slice());
        let measure = Measure { rules, allowances, listening_since, unheard, unheard_since, now };
        let spoke = self.memory.as_mut().map(|memory| std::mem::take(&mut memory.spoke)).unwrap_or_default();
        let found = warn::sweep(&self.connection, measure, &spoke)?;
        if found.is_empty() {
            return Ok(());
        }
        self.uncounted(now, |apply| apply.warn(&found)).map(drop)
    }

    /// Tidies away what has come of age, as far as it is its turn, and confirms devices where nobody else is to. Returns what agents
    /// are told. Where there is nothing to do there is no transaction.
    ///
    /// # Errors
    /// The database failed: it is found again in the next round.
    pub fn housekeep(&mut self, now: Timestamp) -> rusqlite::Result<Vec<Outbound>> {
        let found = housekeep::sweep(&self.connection, &self.housekeeping, now)?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        self.uncounted(now, |apply| apply.housekeep(&found))
    }
}
