//! Times as files write them. The zone is a fixed offset from the configuration, unless the text says one. Reads no
//! clock.

use std::fmt;
use std::str::FromStr;

use crate::time::Timestamp;
use crate::zone::Zone;

/// How a time is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Stamp {
    /// `2026-01-31 12:00:00`, with `T` as well, without seconds, with a fraction, with a zone of its own.
    #[default]
    Iso,
    /// Seconds since 1970-01-01T00:00:00Z, with a fraction or without.
    Seconds,
    /// Milliseconds since then.
    Milliseconds,
    /// `%d.%m.%Y %H:%M:%S`.
    Pattern(Vec<Part>),
}

/// A part of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// This character.
    Literal(char),
    /// A number: which one, and how many digits it may have.
    Field(Field, usize),
}

/// A number of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Field {
    Year,
    ShortYear,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Fraction,
}

const FIELDS: [(char, Field, usize); 8] = [
    ('Y', Field::Year, 4),
    ('y', Field::ShortYear, 2),
    ('m', Field::Month, 2),
    ('d', Field::Day, 2),
    ('H', Field::Hour, 2),
    ('M', Field::Minute, 2),
    ('S', Field::Second, 2),
    ('f', Field::Fraction, 9),
];

/// Not a way to write a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no form of a time: write \"iso\", \"unix\", \"unix_ms\" or a pattern of %Y %y %m %d %H %M %S %f with a year, \
     a month and a day, such as \"%d.%m.%Y %H:%M\""
)]
pub struct StampError(String);

impl FromStr for Stamp {
    type Err = StampError;

    fn from_str(text: &str) -> Result<Self, StampError> {
        match text {
            "iso" => Ok(Self::Iso),
            "unix" => Ok(Self::Seconds),
            "unix_ms" => Ok(Self::Milliseconds),
            _ => pattern(text).map(Self::Pattern).ok_or_else(|| StampError(text.to_owned())),
        }
    }
}

fn pattern(text: &str) -> Option<Vec<Part>> {
    let (mut parts, mut chars) = (Vec::new(), text.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            parts.push(Part::Literal(c));
            continue;
        }
        let letter = chars.next()?;
        let (_, field, digits) = FIELDS.into_iter().find(|(known, ..)| *known == letter)?;
        parts.push(Part::Field(field, digits));
    }
    let has =
        |wanted: Field| parts.iter().any(|part| matches!(part, Part::Field(field, _) if *field == wanted));
    let has_day = has(Field::Month) && has(Field::Day) && (has(Field::Year) || has(Field::ShortYear));
    has_day.then_some(parts)
}

/// As it is configured.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iso => f.write_str("iso"),
            Self::Seconds => f.write_str("unix"),
            Self::Milliseconds => f.write_str("unix_ms"),
            Self::Pattern(parts) => parts.iter().try_for_each(|part| match part {
                Part::Literal(c) => write!(f, "{c}"),
                Part::Field(field, _) => {
                    let letter = FIELDS.into_iter().find(|(_, known, _)| known == field);
                    write!(f, "%{}", letter.map_or('?', |(letter, ..)| letter))
                }
            }),
        }
    }
}

impl Stamp {
    /// The instant that a text stands for; `None` where it is none.
    #[must_use]
    pub fn instant(&self, text: &str, zone: Zone) -> Option<Timestamp> {
        let text = text.trim();
        match self {
            Self::Iso => iso(text, zone),
            Self::Seconds => seconds(text),
            Self::Milliseconds => text.parse().ok().map(Timestamp),
            Self::Pattern(parts) => by_pattern(text, parts).and_then(|local| zone.instant(&local)),
        }
    }
}

fn iso(text: &str, zone: Zone) -> Option<Timestamp> {
    if let Some(found) = zone.instant(text) {
        return Some(found);
    }
    let (day, time) = text.split_once(['T', ' '])?;
    let is_short = time.len() == 5 && time.as_bytes().get(2) == Some(&b':');
    if is_short {
        return zone.instant(&format!("{text}:00"));
    }
    // It says its own zone.
    format!("{day}T{time}").parse().ok()
}

/// Exactly, where a binary number of seconds would be off by a part of a millisecond.
fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let (whole, ms): (i64, i64) = (whole.parse().ok()?, digits.parse().ok()?);
    let ms = if text.starts_with('-') { -ms } else { ms };
    whole.checked_mul(1_000)?.checked_add(ms).map(Timestamp)
}

/// The same time as `2026-01-31T12:00:00.0`.
fn by_pattern(text: &str, parts: &[Part]) -> Option<String> {
    let mut rest = text;
    let (mut date, mut time, mut fraction) = ([0_u32; 3], [0_u32; 3], "0");
    for part in parts {
        let (field, digits) = match part {
            Part::Literal(c) => {
                rest = rest.strip_prefix(*c)?;
                continue;
            }
            Part::Field(field, digits) => (*field, *digits),
        };
        let end = rest.bytes().take(digits).take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(end);
        rest = behind;
        let parsed: u32 = number.parse().ok()?;
        match field {
            Field::Year => date[0] = parsed,
            Field::ShortYear => date[0] = 2_000 + parsed,
            Field::Month => date[1] = parsed,
            Field::Day => date[2] = parsed,
            Field::Hour => time[0] = parsed,
            Field::Minute => time[1] = parsed,
            Field::Second => time[2] = parsed,
            Field::Fraction => fraction = number,
        }
    }
    let [year, month, day] = date;
    let [hour, minute, second] = time;
    rest.is_empty()
        .then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let rows = [
            ("iso", "2026-01-01 01:00:00", Some(0)),
            ("iso", "2026-01-01T01:00", Some(0)),
            ("iso", "2026-01-01 01:00:00.25", Some(250)),
            ("iso", "2026-01-01T00:00:05Z", Some(5_000)),
            ("iso", "2026-01-01T03:00:05+03:00", Some(5_000)),
            ("iso", "2026-01-01", None),
            ("iso", "2026-13-01 01:00:00", None),
            ("unix", "1767225600", Some(0)),
            ("unix", "1767225600.0375", Some(37)),
            ("unix", "1767225600.x", None),
            ("unix_ms", "1767225600005", Some(5)),
            ("%d.%m.%Y %H:%M", "01.01.2026 01:00", Some(0)),
            ("%d.%m.%y %H:%M:%S", "1.1.26 1:00:07", Some(7_000)),
            ("%m/%d/%Y %H:%M:%S.%f", "01/01/2026 01:00:07.5", Some(7_500)),
            ("%Y%m%d%H%M", "202601010100", Some(0)),
            ("%d.%m.%Y %H:%M", "01.01.2026 01:00:00", None),
            ("%d.%m.%Y %H:%M", "31.02.2026 01:00", None),
            ("%d.%m.%Y %H:%M", "01.01.2026 25:00", None),
            ("%d.%m.%Y %H:%M", "", None),
        ];
        let zone: Zone = "+01:00".parse().unwrap();
        for (form, text, expected) in rows {
            let stamp: Stamp = form.parse().unwrap();
            assert_eq!(stamp.to_string(), form);
            let found = stamp.instant(text, zone).map(|at| at.0 - 1_767_225_600_000);
            assert_eq!(found, expected, "{form}: {text}");
        }
        for bad in ["", "%Q", "%H:%M", "%Y-%m-%", "rfc"] {
            assert!(bad.parse::<Stamp>().is_err(), "{bad}");
        }
    }
}
