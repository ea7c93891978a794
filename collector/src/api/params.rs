//! Query parameters: RFC 3339 instants in half-open ranges, series selectors, limits, cursors. Every error
//! names the parameter and says what would be right.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use gapless_common::id::{DeviceId, NameError, SiteId};
use gapless_common::time::{Interval, Timestamp};
use serde::de::DeserializeOwned;

use super::Problem;
use crate::store::model::SeriesRow;

/// Most rows of one page of a list.
pub(super) const PAGE_ROWS_MAX: usize = 10_000;

/// Rows of a page where the caller names no limit.
pub(super) const PAGE_ROWS: usize = 1_000;

/// The range that is answered where the caller names none.
const RANGE_MS_DEFAULT: i64 = 24 * 3_600_000;

/// The last instant that can be told: 9999-12-30T22:00:00Z, which is in the year 9999 by every clock of the earth.
const LAST: Timestamp = Timestamp(253_402_207_200_000);

/// A query string, with unknown and malformed parameters as problems.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(unreadable(&rejection.body_text())),
        }
    }
}

/// What is wrong with a query string, from the words of serde and of what tells where it was: `limit: invalid digit found in
/// string`, ``unit: unknown field `unit`, expected `series` or `from` ``, ``missing field `series` ``.
fn unreadable(text: &str) -> Problem {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let named = |before: &str| text.split_once(before)?.1.split_once('`');
    if let Some((name, rest)) = named("unknown field `") {
        let known = rest.trim_start_matches(", expected ").trim_start_matches("one of ");
        return Problem::parameter(name, format!("there is none of that name here, but {known}"));
    }
    if let Some((name, _)) = named("missing field `") {
        return Problem::parameter(name, "is needed");
    }
    if let Some((name, _)) = named("duplicate field `") {
        return Problem::parameter(name, "is there twice; write it once");
    }
    match text.split_once(": ") {
        // All that is not a text is a whole number.
        Some((name, why)) if !name.contains(' ') => {
            Problem::parameter(name, format!("write a whole number such as 100 ({why})"))
        }
        _ => Problem::parameter("query", text),
    }
}

/// A half-open range of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeRange {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// Whether an instant is of the last two days of the year 9999, which come after [`LAST`]; many write so for the end of time.
fn is_beyond(text: &str) -> bool {
    let of_last_year = text.strip_prefix("9999-").map(|rest| format!("9998-{rest}").parse::<Timestamp>());
    of_last_year.is_some_and(|parsed| parsed.is_ok())
}

fn instant(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    // A `+` of an offset arrives as a space where the client did not escape it.
    let parse = |text: &str| {
        let text = text.replace(' ', "+");
        text.parse().or_else(|e| if is_beyond(&text) { Ok(LAST) } else { Err(Problem::parameter(name, e)) })
    };
    text.map(parse).transpose()
}

/// `from` (inclusive) and `to` (exclusive): the last day up to `now` where they are missing.
pub(super) fn time_range(from: Option<&str>, to: Option<&str>, now: Timestamp) -> Result<TimeRange, Problem> {
    let to = instant("to", to)?.unwrap_or(now);
    let from = instant("from", from)?.unwrap_or(to.plus_ms(-RANGE_MS_DEFAULT));
    in_order(from, to)?;
    Ok(TimeRange { from, to })
}

impl TimeRange {
    /// The range from the begin of its first period to the end of its last one, as far as that is over, so that none is cut.
    pub(super) fn of_whole_periods(self, every: Interval, now: Timestamp) -> Self {
        let begin = |at: Timestamp| at.0.div_euclid(every.as_ms()) * every.as_ms();
        let last = self.to.plus_ms(-1).max(self.from);
        let end = Timestamp(begin(last).saturating_add(every.as_ms())).min(now).max(self.to);
        Self { from: Timestamp(begin(self.from)), to: if self.from == self.to { self.to } else { end } }
    }
}

/// That a range does not end before it begins.
pub(super) fn in_order(from: Timestamp, to: Timestamp) -> Result<(), Problem> {
    if from > to {
        return Err(Problem::parameter("from", format!("{from} is after `to`, {to}")));
    }
    Ok(())
}

/// Both ends, where they are given.
pub(super) fn open_range(
    from: Option<&str>,
    to: Option<&str>,
) -> Result<(Option<Timestamp>, Option<Timestamp>), Problem> {
    let (from, to) = (instant("from", from)?, instant("to", to)?);
    if let (Some(from), Some(to)) = (from, to) {
        in_order(from, to)?;
    }
    Ok((from, to))
}

/// A page size within its bounds.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(PAGE_ROWS),
        Some(n) if (1..=PAGE_ROWS_MAX).contains(&n) => Ok(n),
        Some(n) => Err(Problem::parameter("limit", format!("1 to {PAGE_ROWS_MAX}, got {n}"))),
    }
}

/// A cursor of a list: the id that the page before ended with.
pub(super) fn cursor(text: Option<&str>) -> Result<Option<i64>, Problem> {
    let parse = |text: &str| {
        text.parse().map_err(|_| Problem::parameter("cursor", "take `next` of the page before, unchanged"))
    };
    text.map(parse).transpose()
}

/// A site's name, where one is given.
pub(super) fn site(text: Option<&str>) -> Result<Option<SiteId>, Problem> {
    text.map(SiteId::new).transpose().map_err(|e: NameError| Problem::parameter("site", e))
}

/// A device's name, where one is given.
pub(super) fn device(text: Option<&str>) -> Result<Option<DeviceId>, Problem> {
    text.map(DeviceId::new).transpose().map_err(|e: NameError| Problem::parameter("device", e))
}

/// Which series: `site/device/channel`, each part a name or `*`, several with `,` between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeriesSelector(Vec<[String; 3]>);

impl SeriesSelector {
    /// Reads the parameter `series`.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let shape = |one: &str| {
            let why =
                format!("`site/device/channel`, each a name or `*`, with `,` between several; got `{one}`");
            Problem::parameter("series", why)
        };
        let one = |text: &str| {
            let parts: Vec<&str> = text.trim().split('/').collect();
            match parts.as_slice() {
                &[site, device, channel] if !parts.contains(&"") => {
                    Ok([site, device, channel].map(str::to_owned))
                }
                _ => Err(shape(text)),
            }
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Those that are meant; or, of the parts between the `,`, the first of which there is none.
    pub(super) fn pick(&self, all: Vec<SeriesRow>) -> Result<Vec<SeriesRow>, String> {
        let is_none = |parts: &&[String; 3]| !all.iter().any(|row| matches(parts, row));
        if let Some(parts) = self.0.iter().find(is_none) {
            return Err(parts.join("/"));
        }
        let is_any = |row: &SeriesRow| self.0.iter().any(|parts| matches(parts, row));
        Ok(all.into_iter().filter(is_any).collect())
    }
}

fn matches(parts: &[String; 3], row: &SeriesRow) -> bool {
    let names = [row.site.as_str(), row.device.as_str(), row.channel.as_str()];
    parts.iter().zip(names).all(|(part, name)| part == "*" || part == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open_and_default_to_a_day() {
        let now = Timestamp(1_767_225_600_000);
        let day = time_range(None, None, now).unwrap();
        assert_eq!(LAST.to_string(), "9999-12-30T22:00:00Z");
        assert_eq!((day.to, day.to.since_ms(day.from)), (now, RANGE_MS_DEFAULT));
        let rows = [
            (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00+01:00"), true),
            (Some("2026-01-01T00:00:00 01:00"), None, true),
            (Some("2026-01-02T00:00:00Z"), Some("2026-01-01T00:00:00Z"), false),
            (Some("2026-01-02T00:00:00Z"), Some("9999-12-31T23:59:59Z"), true),
            (Some("2026-01-02T00:00:00Z"), Some("9999-13-31T23:59:59Z"), false),
            (Some("yesterday"), None, false),
        ];
        for (from, to, good) in rows {
            assert_eq!(time_range(from, to, now).is_ok(), good, "{from:?} {to:?}");
        }
    }

    #[test]
    fn no_period_of_a_range_is_cut_but_the_one_that_is_not_over() {
        let every = Interval::from_ms(300).unwrap();
        let rows = [
            ((1_540, 1_840), 5_000, (1_500, 2_100)),
            ((1_500, 1_800), 5_000, (1_500, 1_800)),
            ((-10, 10), 5_000, (-300, 300)),
            // Up to now, and what is asked for beyond.
            ((1_540, 1_840), 1_900, (1_500, 1_900)),
            ((1_540, 4_000), 1_900, (1_500, 4_000)),
            ((1_540, 1_540), 5_000, (1_500, 1_540)),
        ];
        for ((from, to), now, expected) in rows {
            let range = TimeRange { from: Timestamp(from), to: Timestamp(to) };
            let whole = range.of_whole_periods(every, Timestamp(now));
            assert_eq!((whole.from.0, whole.to.0), expected, "{from} to {to} at {now}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_query_is_told_of_its_parameter() {
        let rows = [
            (
                "limit: invalid digit found in string",
                "parameter `limit`: write a whole number such as 100 (invalid",
            ),
            (
                "unit: unknown field `unit`, expected one of `series`, `from`",
                "parameter `unit`: there is none of that name here, but `series`, `from`",
            ),
            (
                "unknown field `unit`, expected `site` or `device`",
                "parameter `unit`: there is none of that name here, but `site` or `device`",
            ),
            ("missing field `series`", "parameter `series`: is needed"),
            ("to: duplicate field `to`", "parameter `to`: is there twice"),
            ("something else", "parameter `query`: something else"),
        ];
        for (text, expected) in rows {
            let told = unreadable(&format!("Failed to deserialize query string: {text}")).to_string();
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn selectors_have_three_parts() {
        for (text, good) in
            [("a/b/c", true), ("a/*/c,d/e/*", true), ("a/b", false), ("a//c", false), ("", false)]
        {
            assert_eq!(SeriesSelector::parse(text).is_ok(), good, "{text}");
        }
    }
}
