//! How the answers of a source are written, times above all. Pure.

use gapless_common::time::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde::Deserialize;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON; `rows` is the path of the list.
    Json,
    /// CSV with a line of names.
    Csv,
}

/// Which end of its period a row's time names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// The begin.
    Start,
    /// The end.
    End,
}

/// How to read an answer. Paths of JSON are names with `.` between them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerSpec {
    /// See there.
    pub format: Format,
    /// The path of the list of rows.
    #[serde(default)]
    pub rows: String,
    /// The time of a row: path or column.
    pub time: String,
    /// The value of a row, where a channel does not say its own.
    pub value: Option<String>,
    /// What a row says about its value.
    pub status: Option<String>,
    /// The words of `status` that mean that the value is none.
    #[serde(default)]
    pub status_invalid: Vec<String>,
    /// The path of the oldest instant that there is anything of.
    pub oldest: Option<String>,
    /// How times are written (`strptime`), or `rfc3339`.
    pub time_format: String,
    /// How `{from}` and `{to}` are written; as `time_format` where it is not said.
    pub query_time_format: Option<String>,
    /// Whose local time they are in.
    #[serde(default)]
    pub zone: Zone,
    /// Which end of its period a time names.
    pub label: Label,
    /// Values by which the source says that it has none.
    #[serde(default)]
    pub invalid: Vec<f64>,
    /// Beyond it a value cannot be.
    pub overflow_above: Option<f64>,
}

/// A time zone: `UTC`, an offset such as `+01:00`, or a rule as of POSIX's `TZ`, such as `GMT0BST,M3.5.0/1,M10.5.0`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no zone: write UTC, +01:00, or a rule such as GMT0BST,M3.5.0/1,M10.5.0");
        if text == "UTC" {
            return Ok(Self(TimeZone::UTC));
        }
        if let Some((hours, minutes)) = text.split_once(':').filter(|_| text.starts_with(['+', '-'])) {
            let (hours, minutes): (i32, i32) =
                (hours.parse().map_err(|_| wrong())?, minutes.parse().map_err(|_| wrong())?);
            let sign = if text.starts_with('-') { -1 } else { 1 };
            let offset = Offset::from_seconds(hours * 3_600 + sign * minutes * 60).map_err(|_| wrong())?;
            return Ok(Self(TimeZone::fixed(offset)));
        }
        TimeZone::posix(&text).map(Self).map_err(|_| wrong())
    }
}

impl AnswerSpec {
    /// Whether times can be read and written.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn check(&self) -> Result<(), String> {
        let formats = [
            ("answer.time_format", Some(&self.time_format)),
            ("answer.query_time_format", self.query_time_format.as_ref()),
        ];
        let example = jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
        for (key, format) in formats.into_iter().filter_map(|(key, format)| Some((key, format?))) {
            let written = || {
                let text = jiff::fmt::strtime::format(format, &example)?;
                // Questions are only written.
                if key == "answer.time_format" {
                    jiff::civil::DateTime::strptime(format, &text).map(drop)
                } else {
                    Ok(())
                }
            };
            if format != "rfc3339"
                && let Err(error) = written()
            {
                return Err(format!(
                    "`{key}` \"{format}\": {error}: write such as \"%Y-%m-%dT%H:%M\", or \"rfc3339\""
                ));
            }
        }
        Ok(())
    }

    /// Reads a time. An hour that comes twice in autumn is the later one where the earlier is not after `last`, the time of
    /// the row before, oldest first.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_time(&self, text: &str, last: Option<Timestamp>) -> Result<Timestamp, String> {
        if self.time_format == "rfc3339" {
            return text.parse().map_err(|e| format!("{e}"));
        }
        let wrong = |e: jiff::Error| format!("the time `{text}` is not `{}`: {e}", self.time_format);
        let local = jiff::civil::DateTime::strptime(&self.time_format, text).map_err(wrong)?;
        let either = |late: bool| {
            let ambiguous = self.zone.0.to_ambiguous_timestamp(local);
            if late { ambiguous.later() } else { ambiguous.earlier() }
        };
        let earlier = Timestamp(either(false).map_err(wrong)?.as_millisecond());
        if last.is_some_and(|last| earlier <= last) {
            return Ok(Timestamp(either(true).map_err(wrong)?.as_millisecond()));
        }
        Ok(earlier)
    }

    /// Whether a time is in the hour that comes twice in autumn: which of both is meant only the rows before it say.
    pub(super) fn is_twofold(&self, text: &str) -> bool {
        self.time_format != "rfc3339"
            && jiff::civil::DateTime::strptime(&self.time_format, text)
                .is_ok_and(|local| self.zone.0.to_ambiguous_timestamp(local).is_ambiguous())
    }

    /// Writes a time for a query.
    #[must_use]
    pub fn write_time(&self, at: Timestamp) -> String {
        let format = self.query_time_format.as_deref().unwrap_or(&self.time_format);
        match jiff::Timestamp::from_millisecond(at.0) {
            Ok(instant) if format != "rfc3339" => {
                instant.to_zoned(self.zone.0.clone()).strftime(format).to_string()
            }
            _ => at.to_string(),
        }
    }
}
