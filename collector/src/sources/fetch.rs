//! The seam between whoever looks after a source and how what it has is reached.

use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::describe::Asked;
use super::failure::Failure;
use super::rows::{Parsed, Row};
use crate::jobs::budget::Urgency;
use crate::store::model::{DropChanges, DropRow, FileRow, Named};

/// A part of what has come to a source that says by itself what is new.
#[derive(Debug, Default)]
pub(super) struct News {
    /// In no order.
    pub(super) rows: Vec<Row>,
    /// There is no more of it for now.
    pub(super) end: Option<End>,
}

/// What is known once all that is new was read.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Slots within these, half open, that have no row have one that cannot be read.
    pub(super) corrupt: Vec<(Timestamp, Timestamp)>,
    /// Slots within these, half open, may have a row where nobody could look.
    pub(super) unseen: Vec<(Timestamp, Timestamp)>,
    /// What of it cannot be read, and why: where, for people.
    pub(super) trouble: Option<String>,
}

impl End {
    /// Why a slot of that instant has no row.
    pub(super) fn cause(&self, at: Timestamp) -> Cause {
        let is_in = |all: &[(Timestamp, Timestamp)]| all.iter().any(|(from, to)| (*from..*to).contains(&at));
        if is_in(&self.corrupt) {
            Cause::Corrupt
        } else if is_in(&self.unseen) {
            Cause::NotConnected
        } else {
            Cause::NotRecorded
        }
    }
}

/// What an earlier process knew of a device.
#[derive(Debug, Default)]
pub(super) struct Recalled {
    /// Since when it is due.
    pub(super) due_since: Option<Timestamp>,
    /// What was read of its files; nothing where they were not looked at, or by an earlier program.
    pub(super) files: Option<(DropRow, Vec<Named<FileRow>>)>,
}

/// What one device of a source has, however it is reached. Each call may take its time; only the worker that has its source makes them.
pub(super) trait Fetch: Send {
    /// How far back there is anything, on the device's grid.
    fn oldest(&mut self, now: Timestamp) -> Result<Timestamp, Failure>;

    /// The rows of the instants from `from` up to, but not at, `to`: no longer than [`Pace::window_ms`].
    fn fetch(&mut self, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure>;

    /// A word that is another one once there is anything new; nothing where the source offers none, and is always fetched.
    fn probe(&mut self) -> Result<Option<String>, Failure>;

    /// It is asked for in another way from now on, by whoever asked before.
    fn renew(&mut self, _asked: Asked) {}

    /// How urgent what is asked from now on is; of no use where calls are not counted.
    fn set_urgency(&mut self, _urgency: Urgency) {}

    /// What has come since this was asked last, whatever its times; nothing of a source that is asked for windows instead. At
    /// first only what begins at `from`, and what is [missing](Self::missing), need be told.
    fn news(&mut self, _from: Timestamp) -> Result<Option<News>, Failure> {
        Ok(None)
    }

    /// Nothing of it was ever proven, though it began in an earlier process.
    fn was_never_read(&mut self) {}

    /// These stretches, half open, are missing at a start, and still asked for.
    fn missing(&mut self, _gaps: Vec<(Timestamp, Timestamp)>) {}

    /// What was known of it when an earlier process ended; told before anything is asked.
    fn recall(&mut self, _recalled: Recalled) {}

    /// What is to be known of its files after a restart, and is not written down yet: true once all rows that it gave are stored.
    fn unwritten(&self) -> Option<DropChanges> {
        None
    }

    /// That is written down.
    fn written(&mut self) {}
}

/// What whoever looks after a source goes by, whatever its kind.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// What the source is called in the log.
    pub(super) name: String,
    /// The longest window of one call, in ms.
    pub(super) window_ms: i64,
    /// How far before what is new is read again, in ms.
    pub(super) overlap_ms: i64,
    /// What is not there so long after its time is taken for missing, in ms.
    pub(super) lag_ms: i64,
    /// How often a device is asked that the source cannot reach, in ms.
    pub(super) unreachable_every_ms: i64,
}
