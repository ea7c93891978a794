//! A device's local time: a fixed offset from UTC that stands in a configuration, because no answer says it. Loggers and
//! meters do not keep summer time unless they are told to, and then their clock is no time scale at all.

use std::fmt;
use std::str::FromStr;

use crate::time::Timestamp;

/// Widest offset that is in use on Earth, in minutes.
const MINUTES_MAX: i32 = 14 * 60;

/// Local time minus UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Zone {
    minutes: i32,
}

/// Not an offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no offset from UTC: write it as on the logger's clock, such as \"+01:00\", \"-07:00\" or \"+00:00\""
)]
pub struct ZoneError(String);

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        parse(text).map(|minutes| Self { minutes }).ok_or_else(|| ZoneError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<i32> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two = |digits: &str| {
        let is_two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i32>().ok().filter(|_| is_two)
    };
    let (hours, minutes) = (two(hours)?, two(minutes).filter(|minutes| *minutes < 60)?);
    Some(sign * (hours * 60 + minutes)).filter(|all| all.abs() <= MINUTES_MAX)
}

/// `+01:00`
impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, all) = (if self.minutes < 0 { '-' } else { '+' }, self.minutes.abs());
        write!(f, "{sign}{:02}:{:02}", all / 60, all % 60)
    }
}

impl Zone {
    fn ms(self) -> i64 {
        i64::from(self.minutes) * 60_000
    }

    /// The instant of a local time that was taken for UTC.
    #[must_use]
    pub fn to_utc(self, local: Timestamp) -> Timestamp {
        local.plus_ms(-self.ms())
    }

    /// The local time of an instant, as if it were UTC.
    #[must_use]
    pub fn to_local(self, at: Timestamp) -> Timestamp {
        at.plus_ms(self.ms())
    }

    /// An instant as the logger writes it: `2012-05-03T17:23:30`, with a fraction only where there is one.
    #[must_use]
    pub fn local(self, at: Timestamp) -> String {
        self.to_local(at).to_string().trim_end_matches('Z').to_owned()
    }

    /// The instant of a time as the logger writes it; `None` where it is none. Finer than a millisecond is cut off.
    #[must_use]
    pub fn instant(self, local: &str) -> Option<Timestamp> {
        let plain = |byte: u8| byte.is_ascii_digit() || b"-:.".contains(&byte);
        let (day, time) = local.split_once(['T', ' '])?;
        if !day.bytes().chain(time.bytes()).all(plain) {
            return None;
        }
        let as_utc: Timestamp = format!("{day}T{time}Z").parse().ok()?;
        Some(self.to_utc(as_utc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_times() {
        let zone: Zone = "+01:00".parse().unwrap();
        let at = zone.instant("2026-01-01T00:30:00").unwrap();
        assert_eq!(at.to_string(), "2025-12-31T23:30:00Z");
        assert_eq!(zone.local(at), "2026-01-01T00:30:00");
        assert_eq!(zone.instant("2026-01-01T00:30:00.25"), Some(at.plus_ms(250)));
        assert_eq!(zone.local(at.plus_ms(50)), "2026-01-01T00:30:00.05");
        assert_eq!("-09:30".parse::<Zone>().unwrap().to_string(), "-09:30");
        for bad in ["", "1", "01:00", "+1:00", "+15:00", "+01:60", "+01", "Z", "+é1:00", "++1:00"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
        for bad in
            ["", "2026-01-01", "2026-13-01T00:00:00", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00+01:00"]
        {
            assert_eq!(zone.instant(bad), None, "{bad}");
        }
    }
}
