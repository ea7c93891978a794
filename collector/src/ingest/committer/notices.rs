//! Who is told of alerts, and what sources have called and read: written down before and after those who do it.

use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;

use super::Committer;
use crate::alerts::delivery::Answer;
use crate::alerts::notice::Told;
use crate::ingest::HasRead;
use crate::store::model::ReceiverName;
use crate::store::receivers::{self, Gone, Owed};
use crate::store::{drops, sources};

impl Committer {
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
        self.uncounted(now, |apply| {
            gone = receivers::know(apply.batch.connection, &names, now)?;
            Ok(())
        })?;
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
        self.uncounted(now, |apply| apply.told(receiver, through, answer)).map(drop)
    }

    /// A call is about to be made for an account; those before `since` count no more.
    ///
    /// # Errors
    /// The database failed: the call is not to be made.
    pub fn called(&mut self, account: &str, at: Timestamp, since: Timestamp) -> rusqlite::Result<()> {
        self.uncounted(at, |apply| sources::called(apply.batch.connection, account, at, since)).map(drop)
    }

    /// Whether all that was said of files before this is stored.
    #[must_use]
    pub fn has_stored(&self, read: &HasRead) -> bool {
        let (epoch, last) = read.said;
        planted::has(Bug::FileKnownTooSoon)
            || self.agent(&read.path).is_some_and(|agent| agent.is_committed(epoch, 1, last.0))
    }

    /// Files of a drop were read. Returns whether that is written down: not where what came of them is not stored.
    ///
    /// # Errors
    /// The database failed: they are not known to have been read.
    pub fn has_read(&mut self, read: &HasRead, now: Timestamp) -> rusqlite::Result<bool> {
        if !self.has_stored(read) {
            return Ok(false);
        }
        self.uncounted(now, |apply| drops::write(apply.batch.connection, &read.path, &read.changes))?;
        Ok(true)
    }
}
