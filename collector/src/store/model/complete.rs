//! Rows of a complete grid: readings, and the slots that have none.

use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;

use super::{SeriesNo, StoredReading};

/// Why a slot has no reading, as far as it matters to whoever uses the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absence {
    /// It may be on its way, or its source will be or is being asked for it.
    Pending,
    /// Its source was asked and has nothing; it may be asked again.
    NoData,
    /// It is known to be missing, and nobody can be asked for it.
    Missing,
    /// Its agent has not been heard from.
    Unknown,
}

/// A slot of a series that has no reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbsentSlot {
    /// The series.
    pub series: SeriesNo,
    /// The instant at which it was due.
    pub at: Timestamp,
    /// What may still come of it.
    pub absence: Absence,
    /// Why, where that is known.
    pub cause: Option<Cause>,
    /// The gap that holds it, once it is proven.
    pub gap: Option<i64>,
}

/// A row of a complete grid.
#[derive(Debug, Clone, PartialEq)]
pub enum GridRow {
    /// A reading that is stored.
    Reading(StoredReading),
    /// A slot that has none.
    Absent(AbsentSlot),
}
