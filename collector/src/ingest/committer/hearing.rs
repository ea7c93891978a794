//! Whether messages of agents can come: where they cannot, nobody counts as connected, and nobody is blamed for it.

use gapless_common::time::Timestamp;

use super::Committer;
use crate::alerts::absence::Absence;
use crate::store::hearing;
use crate::store::unasked::LeftBefore;

/// How often it is written down that messages could come, in ms: after a kill so much of its absence counts as the agents' own.
const HEARD_EVERY_MS: i64 = 600_000;

/// Since when messages can come, and when they could not.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// The last times of it, in order, but for the one that lasts.
    unheard: Vec<Absence>,
    pub(super) unheard_since: Option<Timestamp>,
    heard_until: Option<Timestamp>,
}

impl Hearing {
    /// When the broker was away, in order, up to `now`.
    pub(super) fn unheard(&self, now: Timestamp) -> Vec<Absence> {
        let until_now = self.unheard_since.map(|since| (since, now));
        self.unheard.iter().copied().chain(until_now).collect()
    }

    /// Who counts as away.
    pub(super) fn away(&self, now: Timestamp) -> LeftBefore {
        LeftBefore::of(now, &self.unheard(now))
    }
}

impl Committer {
    /// To be told as the collector starts: who is connected is not known, and since messages could come last, as far as that was
    /// written down, nobody was heard, and nobody is blamed for it.
    ///
    /// # Errors
    /// The database failed: agents that may have gone are still shown as connected, or that time counts as their own absence.
    pub fn begin(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        self.nobody_connected(now)?;
        self.hearing.heard_until = hearing::heard_until(&self.connection)?;
        if let Some(until) = self.hearing.heard_until.filter(|until| *until < now) {
            hearing::is_back(&self.connection, (until, now))?;
        }
        self.hearing.unheard = hearing::absences(&self.connection, now)?;
        Ok(())
    }

    /// Who is connected is not known before presence has been answered.
    fn nobody_connected(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        let sql = "SELECT EXISTS (SELECT 1 FROM agents WHERE connected = 1)";
        if !self.connection.query_row(sql, [], |r| r.get::<_, bool>(0))? {
            return Ok(());
        }
        self.counted(now, |apply| apply.new_session()).map(drop)
    }

    /// Whether messages of agents can come, now that it is `now`; to be told every second where that can change. Where they
    /// cannot nobody counts as connected, and nobody is blamed for it.
    ///
    /// # Errors
    /// The database failed: agents are still shown as connected.
    pub fn hears(&mut self, can_come: bool, now: Timestamp) -> rusqlite::Result<()> {
        match (can_come, self.hearing.unheard_since) {
            (true, None) => self.note_heard(now),
            (false, Some(_)) => Ok(()),
            (false, None) => {
                self.nobody_connected(now)?;
                self.hearing.unheard_since = Some(now);
                Ok(())
            }
            (true, Some(since)) => {
                hearing::is_back(&self.connection, (since, now))?;
                // Both or none: where the first is known and the second not it is tried again.
                self.hearing.unheard = hearing::absences(&self.connection, now)?;
                self.hearing.unheard_since = None;
                self.note_heard(now)
            }
        }
    }

    /// Writes down now and then up to when messages could come.
    fn note_heard(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        match self.hearing.heard_until.map(|until| now.since_ms(until)) {
            Some(0..HEARD_EVERY_MS) => return Ok(()),
            // The clock was set back.
            Some(..0) => self.hearing.unheard = hearing::absences(&self.connection, now)?,
            _ => {}
        }
        // Where that fails it is tried again no sooner: nobody needs an error each second while a disk is full.
        self.hearing.heard_until = Some(now);
        hearing::hears(&self.connection, now)
    }
}
