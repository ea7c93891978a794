//! How values, sets and causes stand in a column. Pure translation, both ways.

use gapless_common::quality::{Cause, Quality};
use gapless_common::ranges::RangeSet;
use gapless_common::reading::Value;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::ReadError;

/// Marks a BLOB as a number that SQLite would not keep as REAL: NaN becomes NULL there, and -0.0 becomes 0.0.
/// No UTF-8 text begins with this byte.
const NUMBER_MARK: u8 = 0xFF;

/// A value as it stands in a column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Real(f64),
    Blob(Box<[u8]>),
}

impl Cell {
    pub(crate) fn of(value: Option<&Value>) -> Self {
        match value {
            None => Self::Null,
            Some(Value::Text(text)) => Self::Blob(text.as_bytes().into()),
            Some(Value::Number(x)) if x.is_nan() || (*x == 0.0 && x.is_sign_negative()) => {
                Self::Blob([&[NUMBER_MARK], x.to_le_bytes().as_slice()].concat().into())
            }
            Some(Value::Number(x)) => Self::Real(*x),
        }
    }

    /// As it stands in a column.
    pub(crate) fn stored(column: ValueRef<'_>) -> Self {
        match column {
            ValueRef::Real(x) => Self::Real(x),
            ValueRef::Blob(bytes) => Self::Blob(bytes.into()),
            _ => Self::Null,
        }
    }

    /// Equal bit for bit.
    pub(crate) fn same(&self, stored: ValueRef<'_>) -> bool {
        match (self, stored) {
            (Self::Null, ValueRef::Null) => true,
            (Self::Real(a), ValueRef::Real(b)) => a.to_bits() == b.to_bits(),
            (Self::Blob(a), ValueRef::Blob(b)) => a.as_ref() == b,
            _ => false,
        }
    }
}

impl rusqlite::ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Real(x) => ValueRef::Real(*x),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The value that a column holds.
pub(crate) fn value(column: ValueRef<'_>) -> Result<Option<Value>, ReadError> {
    let unknown = || ReadError::Unknown { what: "value", value: format!("{column:?}") };
    match column {
        ValueRef::Null => Ok(None),
        ValueRef::Real(x) => Ok(Some(Value::Number(x))),
        ValueRef::Blob([NUMBER_MARK, bits @ ..]) => {
            let bits: [u8; 8] = bits.try_into().map_err(|_| unknown())?;
            Ok(Some(Value::Number(f64::from_le_bytes(bits))))
        }
        ValueRef::Blob(text) => {
            let text = std::str::from_utf8(text).map_err(|_| unknown())?;
            Ok(Some(Value::Text(text.into())))
        }
        _ => Err(unknown()),
    }
}

/// What is added to the code of a quality where the reading is of another device, which stands in: codes end below it.
pub(crate) const LENT: i64 = 1 << 16;

/// Whether the reading of a stored quality is of another device.
pub(crate) const fn is_lent(code: i64) -> bool {
    code >= LENT
}

/// The quality of a stored code, whoever measured it.
pub(crate) fn quality(code: i64) -> Result<Quality, ReadError> {
    let known =
        u16::try_from(if is_lent(code) { code - LENT } else { code }).ok().and_then(Quality::from_code);
    known.ok_or_else(|| ReadError::Unknown { what: "quality", value: code.to_string() })
}

pub(crate) fn cause(code: i64) -> Result<Cause, ReadError> {
    let known = u16::try_from(code).ok().and_then(Cause::from_code);
    known.ok_or_else(|| ReadError::Unknown { what: "cause", value: code.to_string() })
}

/// The cause of a stored code for the ledger, which a code of a later version must not stop: it is told, and
/// stands as unexplained.
pub(crate) fn known_cause(code: i64) -> Cause {
    cause(code).unwrap_or_else(|e| {
        tracing::warn!("{e}; taken as unexplained");
        Cause::Unexplained
    })
}

fn numbers(blob: &[u8]) -> impl Iterator<Item = u64> + '_ {
    blob.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default()))
}

/// Pairs of first and last.
pub(crate) fn set_blob(set: &RangeSet) -> Vec<u8> {
    set.iter().flat_map(|(f, l)| [f.to_le_bytes(), l.to_le_bytes()]).flatten().collect()
}

pub(crate) fn set_of(blob: &[u8]) -> RangeSet {
    let all: Vec<u64> = numbers(blob).collect();
    all.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Triples of first, last and cause.
pub(crate) fn lost_blob(lost: &[(u64, u64, Cause)]) -> Vec<u8> {
    let rows = lost.iter().flat_map(|&(f, l, cause)| [f, l, u64::from(cause.code())]);
    rows.flat_map(u64::to_le_bytes).collect()
}

pub(crate) fn lost_of(blob: &[u8]) -> Vec<(u64, u64, Cause)> {
    let all: Vec<u64> = numbers(blob).collect();
    all.chunks_exact(3).map(|row| (row[0], row[1], known_cause(row[2].cast_signed()))).collect()
}

/// Any list of u64.
pub(crate) fn list_blob(list: impl IntoIterator<Item = u64>) -> Vec<u8> {
    list.into_iter().flat_map(u64::to_le_bytes).collect()
}

pub(crate) fn list_of(blob: &[u8]) -> Vec<u64> {
    numbers(blob).collect()
}
