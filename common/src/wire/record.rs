//! One record by itself: in the outbox, and as a row of a data frame. No checksum: whoever stores it adds one.
//!
//! ```text
//! kind (1) | body
//! body of readings: drawn in `row`; of any other kind: postcard of the type in `v1`
//! ```

use crate::reading::Record;

use super::bytes::Input;
use super::row::{self, Budget};
use super::{DecodeError, v1};

/// Which record it is. Codes are written to disk and wire: the list only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// An answer of a device.
    Readings = 1,
    /// A catalog comes into force.
    Catalog = 2,
    /// Start of an epoch.
    Start = 3,
    /// Slots polled in vain.
    Misses = 4,
    /// A time without agent.
    Downtime = 5,
    /// How far the account is complete.
    Complete = 6,
    /// Records given up.
    Loss = 7,
    /// The clock was set.
    ClockCorrection = 8,
}

impl RecordKind {
    /// The kind of a code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Readings,
            2 => Self::Catalog,
            3 => Self::Start,
            4 => Self::Misses,
            5 => Self::Downtime,
            6 => Self::Complete,
            7 => Self::Loss,
            8 => Self::ClockCorrection,
            _ => return None,
        })
    }
}

/// Which kind `record` is.
#[must_use]
pub const fn record_kind(record: &Record) -> RecordKind {
    match record {
        Record::Readings(_) => RecordKind::Readings,
        Record::Catalog(_) => RecordKind::Catalog,
        Record::Start(_) => RecordKind::Start,
        Record::Misses(_) => RecordKind::Misses,
        Record::Downtime(_) => RecordKind::Downtime,
        Record::Complete(_) => RecordKind::Complete,
        Record::Loss(_) => RecordKind::Loss,
        Record::ClockCorrection(_) => RecordKind::ClockCorrection,
    }
}

/// The bytes of one record, its kind first. A record that breaks a rule of its type is written as it is, and
/// refused when it is read.
#[must_use]
pub fn encode_record(record: &Record) -> Vec<u8> {
    let mut out = vec![record_kind(record) as u8];
    match record {
        Record::Readings(readings) => row::encode(&mut out, readings),
        other => out.extend_from_slice(&v1::record(other)),
    }
    out
}

/// Reads the bytes of one record.
///
/// # Errors
/// [`DecodeError::Malformed`] where they are cut off, of an unknown kind or make no sense.
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    decode_within(bytes, &mut Budget::default())
}

/// Reads the bytes of one record, whose samples count towards `budget`.
pub(super) fn decode_within(bytes: &[u8], budget: &mut Budget) -> Result<Record, DecodeError> {
    let mut input = Input::new(bytes);
    let kind =
        RecordKind::from_code(input.byte()?).ok_or(DecodeError::Malformed("an unknown record kind"))?;
    match kind {
        RecordKind::Readings => Ok(Record::Readings(row::decode(input, budget)?)),
        other => v1::read_record(other, input.rest()),
    }
}
