//! How far a reading can be trusted, and why a slot has none: two closed lists with fixed codes.
//!
//! Codes are written to the wire, the outbox and the database, so they only grow. They follow the three
//! classes of OPC UA Part 8 (good, uncertain, bad) plus *no data* for a slot whose source says it has none.

use std::borrow::Cow;
use std::fmt;

/// A Modbus exception code (Modbus Application Protocol V1.1b3, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExceptionCode(pub u8);

impl ExceptionCode {
    /// The name the specification gives the code.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0x01 => "illegal function",
            0x02 => "illegal data address",
            0x03 => "illegal data value",
            0x04 => "server device failure",
            0x05 => "acknowledge",
            0x06 => "server device busy",
            0x07 => "negative acknowledge",
            0x08 => "memory parity error",
            0x0A => "gateway path unavailable",
            0x0B => "gateway target device failed to respond",
            _ => "exception unknown to the Modbus specification",
        }
    }
}

impl fmt::Display for ExceptionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.0)
    }
}

/// How far a reading can be trusted. Only good and uncertain readings carry a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quality {
    /// Read from the device and within its valid range.
    Good,
    /// The value is good; the gateway's clock had not been set when it was read.
    UncertainClock,
    /// The value was estimated, by the device or after the fact.
    UncertainEstimated,
    /// The device did not answer the request for this channel (others of the same poll may have been answered).
    BadNoAnswer,
    /// The device refused the request for this channel.
    BadRefused(ExceptionCode),
    /// The answer for this channel did not match its request (CRC, unit, function or count).
    BadCorrupt,
    /// Outside the channel's valid range, or an overflow.
    BadOutOfRange,
    /// The device's own "not available" or error value.
    BadInvalid,
    /// The bus of the device was not connected.
    BadNotConnected,
    /// The source says that it has no data for this slot.
    NoData,
}

impl Quality {
    /// The stored code: class and kind in the low byte, detail (exception code) in the high byte.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Good => 0x00,
            Self::UncertainClock => 0x40,
            Self::UncertainEstimated => 0x41,
            Self::BadNoAnswer => 0x80,
            Self::BadRefused(exception) => 0x81 | (exception.0 as u16) << 8,
            Self::BadCorrupt => 0x82,
            Self::BadOutOfRange => 0x83,
            Self::BadInvalid => 0x84,
            Self::BadNotConnected => 0x85,
            Self::NoData => 0xC0,
        }
    }

    /// The quality of a stored code; `None` for a code this version does not know.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Self> {
        let [kind, detail] = code.to_le_bytes();
        Some(match (kind, detail) {
            (0x81, exception) => Self::BadRefused(ExceptionCode(exception)),
            (0x00, 0) => Self::Good,
            (0x40, 0) => Self::UncertainClock,
            (0x41, 0) => Self::UncertainEstimated,
            (0x80, 0) => Self::BadNoAnswer,
            (0x82, 0) => Self::BadCorrupt,
            (0x83, 0) => Self::BadOutOfRange,
            (0x84, 0) => Self::BadInvalid,
            (0x85, 0) => Self::BadNotConnected,
            (0xC0, 0) => Self::NoData,
            _ => return None,
        })
    }

    /// Short name for APIs and exports: lower case, `_` between words, an exception by its number.
    #[must_use]
    pub fn label(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Good => "good",
            Self::UncertainClock => "uncertain_clock",
            Self::UncertainEstimated => "uncertain_estimated",
            Self::BadNoAnswer => "bad_no_answer",
            Self::BadRefused(exception) => return Cow::Owned(format!("bad_refused_{}", exception.0)),
            Self::BadCorrupt => "bad_corrupt",
            Self::BadOutOfRange => "bad_out_of_range",
            Self::BadInvalid => "bad_invalid",
            Self::BadNotConnected => "bad_not_connected",
            Self::NoData => "no_data",
        })
    }

    /// Whether a reading of this quality carries a value.
    #[must_use]
    pub const fn has_value(self) -> bool {
        matches!(self, Self::Good | Self::UncertainClock | Self::UncertainEstimated)
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::UncertainClock => f.write_str("uncertain: clock not set"),
            Self::UncertainEstimated => f.write_str("uncertain: estimated"),
            Self::BadNoAnswer => f.write_str("bad: no answer"),
            Self::BadRefused(exception) => write!(f, "bad: refused, {exception}"),
            Self::BadCorrupt => f.write_str("bad: corrupt answer"),
            Self::BadOutOfRange => f.write_str("bad: out of range"),
            Self::BadInvalid => f.write_str("bad: device reports an error value"),
            Self::BadNotConnected => f.write_str("bad: not connected"),
            Self::NoData => f.write_str("no data"),
        }
    }
}

/// Why a slot has no reading: the one closed list, used by misses, downtime, losses and gaps alike. Of two that are told
/// of one slot the first in this order stands: what a device's own memory says is the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The device had recorded it, and its own memory no longer holds it.
    Overwritten,
    /// The device itself has no record of it.
    NotRecorded,
    /// The device did not answer.
    NoAnswer,
    /// The device refused the whole poll.
    Refused(ExceptionCode),
    /// Only corrupt answers came.
    Corrupt,
    /// Port or TCP endpoint not there (unplugged, refused, unreachable).
    NotConnected,
    /// Not polled: the device had been silent and was set aside between probes.
    BackOff,
    /// Not polled: the bus was still busy with earlier slots.
    Overrun,
    /// The agent had been stopped by a person or by the system.
    Stopped,
    /// The agent had ended without a goodbye while the machine stayed up.
    Crashed,
    /// The machine had been off, or had restarted.
    PowerOff,
    /// The agent could not write: disk failed, full for others, or read-only.
    DiskFailed,
    /// Dropped by the outbox because its disk budget was full.
    BudgetFull,
    /// Found damaged on the agent's disk and quarantined.
    Quarantined,
    /// Issued by an outbox that was replaced, wiped or restored before it had delivered.
    StoreReplaced,
    /// The gateway's clock was not set, so the reading could not be given to a slot.
    ClockNotSet,
    /// The gateway's clock was stepped forward over the slot.
    ClockStepped,
    /// Polling was paused by configuration.
    Paused,
    /// Kept by the collector, but not usable (see its parked frames).
    Parked,
    /// The agent has not been heard from.
    Unreachable,
    /// The agent's own account names no reason. A defect of ours, never hidden.
    Unexplained,
}

impl Cause {
    /// The stored code: kind in the low byte, detail (exception code) in the high byte.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::NoAnswer => 1,
            Self::Refused(exception) => 2 | (exception.0 as u16) << 8,
            Self::Corrupt => 3,
            Self::NotConnected => 4,
            Self::BackOff => 5,
            Self::Overrun => 6,
            Self::Stopped => 7,
            Self::Crashed => 8,
            Self::PowerOff => 9,
            Self::DiskFailed => 10,
            Self::BudgetFull => 11,
            Self::Quarantined => 12,
            Self::StoreReplaced => 13,
            Self::ClockNotSet => 14,
            Self::Paused => 15,
            Self::Parked => 16,
            Self::Unreachable => 17,
            Self::Unexplained => 18,
            Self::ClockStepped => 19,
            Self::Overwritten => 20,
            Self::NotRecorded => 21,
        }
    }

    /// The cause of a stored code; `None` for a code this version does not know.
    #[must_use]
    pub const fn from_code(code: u16) -> Option<Self> {
        let [kind, detail] = code.to_le_bytes();
        Some(match (kind, detail) {
            (2, exception) => Self::Refused(ExceptionCode(exception)),
            (1, 0) => Self::NoAnswer,
            (3, 0) => Self::Corrupt,
            (4, 0) => Self::NotConnected,
            (5, 0) => Self::BackOff,
            (6, 0) => Self::Overrun,
            (7, 0) => Self::Stopped,
            (8, 0) => Self::Crashed,
            (9, 0) => Self::PowerOff,
            (10, 0) => Self::DiskFailed,
            (11, 0) => Self::BudgetFull,
            (12, 0) => Self::Quarantined,
            (13, 0) => Self::StoreReplaced,
            (14, 0) => Self::ClockNotSet,
            (15, 0) => Self::Paused,
            (16, 0) => Self::Parked,
            (17, 0) => Self::Unreachable,
            (18, 0) => Self::Unexplained,
            (19, 0) => Self::ClockStepped,
            (20, 0) => Self::Overwritten,
            (21, 0) => Self::NotRecorded,
            _ => return None,
        })
    }

    /// Short name for APIs and metrics: lower case, `_` between words, no detail.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Overwritten => "overwritten",
            Self::NotRecorded => "not_recorded",
            Self::NoAnswer => "no_answer",
            Self::Refused(_) => "refused",
            Self::Corrupt => "corrupt",
            Self::NotConnected => "not_connected",
            Self::BackOff => "back_off",
            Self::Overrun => "overrun",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::PowerOff => "power_off",
            Self::DiskFailed => "disk_failed",
            Self::BudgetFull => "budget_full",
            Self::Quarantined => "quarantined",
            Self::StoreReplaced => "store_replaced",
            Self::ClockNotSet => "clock_not_set",
            Self::ClockStepped => "clock_stepped",
            Self::Paused => "paused",
            Self::Parked => "parked",
            Self::Unreachable => "unreachable",
            Self::Unexplained => "unexplained",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overwritten => f.write_str("the device's memory no longer holds it"),
            Self::NotRecorded => f.write_str("the device has no record of it"),
            Self::NoAnswer => f.write_str("the device did not answer"),
            Self::Refused(exception) => write!(f, "the device refused: {exception}"),
            Self::Corrupt => f.write_str("the answer was corrupt"),
            Self::NotConnected => f.write_str("the bus was not connected"),
            Self::BackOff => f.write_str("set aside after silence, between probes"),
            Self::Overrun => f.write_str("the bus was busy with earlier polls"),
            Self::Stopped => f.write_str("the agent was stopped"),
            Self::Crashed => f.write_str("the agent ended without a goodbye"),
            Self::PowerOff => f.write_str("the gateway was off or restarted"),
            Self::DiskFailed => f.write_str("the gateway's disk could not be written"),
            Self::BudgetFull => f.write_str("dropped: the outbox's disk budget was full"),
            Self::Quarantined => f.write_str("damaged on the gateway's disk"),
            Self::StoreReplaced => f.write_str("the gateway's outbox was replaced before it had delivered"),
            Self::ClockNotSet => f.write_str("the gateway's clock was not set"),
            Self::ClockStepped => f.write_str("the gateway's clock was stepped over it"),
            Self::Paused => f.write_str("paused by configuration or by the collector"),
            Self::Parked => f.write_str("received, but not usable: parked"),
            Self::Unreachable => f.write_str("the agent has not been heard from"),
            Self::Unexplained => f.write_str("the agent's account names no reason"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not change the codes: databases and outboxes in the field hold them.
    #[test]
    fn every_code_comes_back_as_itself() {
        let (mut qualities, mut causes) = (0, 0);
        for code in 0..=u16::MAX {
            if let Some(quality) = Quality::from_code(code) {
                assert_eq!(quality.code(), code);
                qualities += 1;
            }
            if let Some(cause) = Cause::from_code(code) {
                assert_eq!(cause.code(), code);
                causes += 1;
            }
        }
        assert_eq!((qualities, causes), (9 + 256, 20 + 256));
        assert_eq!(Quality::BadRefused(ExceptionCode(2)).code(), 0x0281);
        assert_eq!(Cause::Refused(ExceptionCode(11)).code(), 0x0B02);
    }
}
