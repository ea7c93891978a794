//! Time as the product speaks of it: UTC milliseconds, intervals, and the grid of slots at which a device's
//! schedule makes a reading due. Reads no clock.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An instant: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX time).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Not an instant in RFC 3339 form (section 5.6: `2026-01-31T12:00:00Z`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an RFC 3339 instant such as 2026-01-31T12:00:00Z: {why}")]
pub struct TimestampError {
    text: String,
    why: String,
}

impl Timestamp {
    /// The instant `ms` later; saturates at the ends of the range.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`, negative where `earlier` is the later one.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// RFC 3339 in UTC with milliseconds only where there are any.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let parsed: Result<jiff::Timestamp, jiff::Error> = text.parse();
        parsed
            .map(|instant| Self(instant.as_millisecond()))
            .map_err(|e| TimestampError { text: text.to_owned(), why: e.to_string() })
    }
}

/// How often something is due: 10 ms to 49 days, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Interval(u32);

/// An interval outside what a bus can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an interval is 10 ms to 49 days, got {0} ms")]
pub struct IntervalError(pub u64);

impl Interval {
    /// The shortest interval: a character time at 9600 baud is 1 ms, an exchange takes ten or more.
    pub const MIN_MS: u32 = 10;

    /// The interval of `ms` milliseconds.
    ///
    /// # Errors
    /// Below [`Interval::MIN_MS`] or above `u32::MAX` ms.
    pub fn from_ms(ms: u64) -> Result<Self, IntervalError> {
        match u32::try_from(ms) {
            Ok(short) if short >= Self::MIN_MS => Ok(Self(short)),
            _ => Err(IntervalError(ms)),
        }
    }

    /// Milliseconds.
    #[must_use]
    pub const fn as_ms(self) -> i64 {
        self.0 as i64
    }
}

impl TryFrom<u32> for Interval {
    type Error = IntervalError;
    fn try_from(ms: u32) -> Result<Self, IntervalError> {
        Self::from_ms(u64::from(ms))
    }
}

impl From<Interval> for u32 {
    fn from(interval: Interval) -> u32 {
        interval.0
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::text::format_duration_ms(u64::from(self.0)))
    }
}

/// Number of a slot on its grid; neighbours differ by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub i64);

impl Slot {
    /// The slot `n` further on.
    #[must_use]
    pub const fn plus(self, n: i64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

/// The instants at which a device is due: `slot × interval + phase` since 1970, so that every agent and every
/// restart agrees on them without being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotGrid {
    /// Distance of two slots.
    pub interval: Interval,
    /// Milliseconds that every slot is shifted by; below the interval.
    pub phase_ms: u32,
}

impl SlotGrid {
    /// A grid without phase.
    #[must_use]
    pub const fn every(interval: Interval) -> Self {
        Self { interval, phase_ms: 0 }
    }

    /// The instant of `slot`.
    #[must_use]
    pub const fn at(&self, slot: Slot) -> Timestamp {
        Timestamp(slot.0.saturating_mul(self.interval.as_ms()).saturating_add(self.phase_ms as i64))
    }

    /// The last slot at or before `t`.
    #[must_use]
    pub const fn slot_at(&self, t: Timestamp) -> Slot {
        Slot(t.0.saturating_sub(self.phase_ms as i64).div_euclid(self.interval.as_ms()))
    }

    /// The first slot at or after `t`.
    #[must_use]
    pub const fn first_from(&self, t: Timestamp) -> Slot {
        let before = self.slot_at(t);
        if self.at(before).0 == t.0 { before } else { before.plus(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_rfc_3339() {
        let rows = [
            (0, "1970-01-01T00:00:00Z"),
            (1_767_225_600_250, "2026-01-01T00:00:00.25Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ];
        for (ms, text) in rows {
            assert_eq!(Timestamp(ms).to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap(), Timestamp(ms));
        }
        assert_eq!("2026-01-01T01:00:00+01:00".parse::<Timestamp>().unwrap(), Timestamp(1_767_225_600_000));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn slots_cover_all_of_time() {
        let grid = SlotGrid { interval: Interval::from_ms(1_000).unwrap(), phase_ms: 200 };
        for (t, before, from) in [(0, -1, 0), (199, -1, 0), (200, 0, 0), (201, 0, 1), (-801, -2, -1)] {
            assert_eq!(grid.slot_at(Timestamp(t)), Slot(before), "slot at {t}");
            assert_eq!(grid.first_from(Timestamp(t)), Slot(from), "first from {t}");
        }
    }
}
