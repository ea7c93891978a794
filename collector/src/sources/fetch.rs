//! The seam between the thread of a source and how what it has is reached.

use gapless_common::time::Timestamp;

use super::failure::Failure;
use super::rows::Parsed;
use crate::jobs::budget::Urgency;

/// What one device of a source has, however it is reached. Each call may take its time; only the source's thread makes them.
pub(super) trait Fetch: Send {
    /// How far back there is anything, on the device's grid.
    fn oldest(&mut self, now: Timestamp) -> Result<Timestamp, Failure>;

    /// The rows of the instants from `from` up to, but not at, `to`: no longer than [`Pace::window_ms`].
    fn fetch(&mut self, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure>;

    /// A word that is another one once there is anything new; nothing where the source offers none, and is always fetched.
    fn probe(&mut self) -> Result<Option<String>, Failure>;

    /// How urgent what is asked from now on is; of no use where calls are not counted.
    fn set_urgency(&mut self, _urgency: Urgency) {}
}

/// What the thread of a source goes by, whatever its kind.
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
