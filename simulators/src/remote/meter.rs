//! The API of a half-hourly electricity and gas meter: `GET /{utility}/consumption/1?start=YYYYMMDDHHMM&end=YYYYMMDDHHMM`,
//! energy per half hour under the time at which it ends, in UTC; windows of 90 days at most; half hours that it has not;
//! values that mean *invalid*, that come late, and that are corrected; too many calls, with headers that say how many are left; consent withdrawn.
//!
//! Does not simulate: summer time, tariffs.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;

use super::quota::Quota;
use super::{Remote, Request, refused};

/// Usual distance of the values.
pub const HALF_HOUR_MS: i64 = 1_800_000;
/// The longest window.
pub const WINDOW_MS_MAX: i64 = 90 * 86_400_000;
/// The value that means *invalid*.
pub const INVALID: u32 = 16_777_215;

/// A call that was answered, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `electricity` or `gas`.
    pub utility: String,
    /// Begin of the window.
    pub from: Timestamp,
    /// End of the window.
    pub to: Timestamp,
    /// The HTTP status of the answer.
    pub status: u16,
}

/// What the API has, and what is wrong with it.
#[derive(Debug)]
pub struct Meter {
    /// The key that it wants in `x-api-key`.
    pub key: String,
    /// The first half hour that it has.
    pub oldest: Timestamp,
    /// Distance of the values, in ms.
    pub interval_ms: i64,
    /// How long a value takes to arrive there, in ms.
    pub lag_ms: i64,
    /// Values that arrive later than that, by utility, each with the instant at which it does.
    pub late: BTreeMap<String, BTreeMap<Timestamp, Timestamp>>,
    /// Values that are put right by so much, by utility.
    pub corrected: BTreeMap<String, BTreeMap<Timestamp, f64>>,
    /// Meters whose answers hold nothing, by utility.
    pub empty: BTreeSet<String>,
    /// Half hours that it has not, by utility.
    pub holes: BTreeMap<String, BTreeSet<Timestamp>>,
    /// Half hours with the value that means *invalid*.
    pub invalid: BTreeSet<Timestamp>,
    /// Calls that are answered with 429 and `Retry-After: 1` before any other.
    pub too_many: u32,
    /// What it allows, and says of it in the headers of each answer.
    pub quota: Option<Quota>,
    /// Meters that cannot be reached, by utility.
    pub unreachable: BTreeSet<String>,
    /// Meters for which consent is withdrawn, by utility.
    pub withdrawn: BTreeSet<String>,
    /// Every call.
    pub calls: Vec<Call>,
}

impl Meter {
    /// One that has all values from `oldest` on.
    #[must_use]
    pub fn new(key: &str, oldest: Timestamp) -> Self {
        Self {
            key: key.to_owned(),
            oldest,
            interval_ms: HALF_HOUR_MS,
            lag_ms: 0,
            late: BTreeMap::new(),
            corrected: BTreeMap::new(),
            empty: BTreeSet::new(),
            holes: BTreeMap::new(),
            invalid: BTreeSet::new(),
            too_many: 0,
            quota: None,
            unreachable: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            calls: Vec::new(),
        }
    }

    /// The true value of a half hour.
    #[must_use]
    pub fn value(utility: &str, at: Timestamp) -> f64 {
        value(utility, at.0.div_euclid(HALF_HOUR_MS))
    }

    /// What it says of a period, where it has that.
    #[must_use]
    pub fn told(&self, utility: &str, at: Timestamp) -> f64 {
        let by = self.corrected.get(utility).and_then(|corrected| corrected.get(&at));
        value(utility, at.0.div_euclid(self.interval_ms)) + by.copied().unwrap_or_default()
    }

    /// Whether it has a period's value at `now`.
    #[must_use]
    pub fn has(&self, utility: &str, at: Timestamp, now: Timestamp) -> bool {
        let late = self.late.get(utility).and_then(|late| late.get(&at));
        let is_there = late.copied().unwrap_or(at.plus_ms(self.lag_ms)) <= now;
        is_there && at >= self.oldest && !self.holes.get(utility).is_some_and(|holes| holes.contains(&at))
    }

    fn answer_to(
        &mut self,
        utility: &str,
        (from, to): (Timestamp, Timestamp),
        key: Option<&str>,
        now: Timestamp,
    ) -> (u16, String) {
        if key != Some(self.key.as_str()) {
            return refused(401, "no such key");
        }
        if self.withdrawn.contains(utility) {
            return refused(403, "the occupant has changed");
        }
        if self.unreachable.contains(utility) {
            return refused(404, "the meter cannot be reached");
        }
        if self.quota.as_mut().is_some_and(|quota| !quota.take(now)) {
            return refused(429, "no call is left");
        }
        if self.too_many > 0 {
            self.too_many -= 1;
            return refused(429, "too many calls");
        }
        if from > to || to.since_ms(from) > WINDOW_MS_MAX {
            return refused(400, "90 days at most");
        }
        let first = from.max(self.oldest).0;
        let first = first + (-first).rem_euclid(self.interval_ms);
        let mut values = Vec::new();
        let instants = (0..).map(|n| Timestamp(first + n * self.interval_ms));
        let instants = instants.take_while(|at| *at < to && *at <= now);
        for at in instants.filter(|at| !self.empty.contains(utility) && self.has(utility, *at, now)) {
            let value = match self.invalid.contains(&at) {
                true => serde_json::json!(INVALID),
                false => serde_json::json!(self.told(utility, at)),
            };
            values.push(serde_json::json!({"timestamp": written(at), "value": value}));
        }
        let range = serde_json::json!({"start": written(self.oldest), "end": written(now)});
        (200, serde_json::json!({"availableCacheRange": range, "values": values}).to_string())
    }
}

impl Remote for Meter {
    fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, String) {
        let Some((utility, from, to)) = understood(request.target) else {
            return refused(400, "no such resource");
        };
        let (status, body) = self.answer_to(&utility, (from, to), request.header("x-api-key"), now);
        self.calls.push(Call { utility, from, to, status });
        (status, body)
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        self.quota.as_ref().map_or_else(Vec::new, Quota::headers)
    }
}

#[expect(clippy::cast_precision_loss, reason = "some hundreds")]
fn value(utility: &str, period: i64) -> f64 {
    let (base, most) = match utility {
        "gas" => (0.0, 97),
        "heat" => (0.25, 83),
        "water" => (0.375, 79),
        _ => (0.125, 89),
    };
    base + period.rem_euclid(most) as f64 / 64.0
}

/// `2026-01-01 00:30`
fn written(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

/// `202601010030`
fn instant(text: &str) -> Option<Timestamp> {
    let part = |range: std::ops::Range<usize>| text.get(range);
    let (date, time) = ((part(0..4)?, part(4..6)?, part(6..8)?), (part(8..10)?, part(10..12)?));
    format!("{}-{}-{}T{}:{}:00Z", date.0, date.1, date.2, time.0, time.1).parse().ok()
}

fn understood(target: &str) -> Option<(String, Timestamp, Timestamp)> {
    let (path, query) = target.split_once('?')?;
    let utility = path.strip_prefix('/')?.strip_suffix("/consumption/1")?;
    let field = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    Some((utility.to_owned(), instant(field("start")?)?, instant(field("end")?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_the_api_does() {
        let oldest: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut meter = Meter::new("k", oldest);
        let now = oldest.plus_ms(86_400_000);
        let ask = |meter: &mut Meter, key, end| {
            let target = format!("/gas/consumption/1?start=202512310000&end={end}");
            meter.answer(&Request { target: &target, head: &format!("\r\nX-Api-Key: {key}"), body: "" }, now)
        };
        let (status, body) = ask(&mut meter, "k", "202601010100");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, body["values"].as_array().unwrap().len()), (200, 2));
        assert_eq!(body["values"][1]["timestamp"], "2026-01-01 00:30");
        assert_eq!(ask(&mut meter, "other", "202601010100").0, 401);
        assert_eq!(ask(&mut meter, "k", "202604010000").0, 400);
        meter.too_many = 1;
        assert_eq!(ask(&mut meter, "k", "202601010100").0, 429);
        meter.withdrawn.insert("gas".to_owned());
        assert_eq!(ask(&mut meter, "k", "202601010100").0, 403);
        assert_eq!(meter.calls.len(), 5);
    }

    #[test]
    fn a_value_may_come_late_and_be_put_right() {
        let oldest: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut meter = Meter { interval_ms: 60_000, lag_ms: 30_000, ..Meter::new("k", oldest) };
        let (late, put_right) = (oldest.plus_ms(60_000), oldest.plus_ms(120_000));
        meter.late.insert("gas".to_owned(), BTreeMap::from([(late, oldest.plus_ms(600_000))]));
        meter.corrected.insert("gas".to_owned(), BTreeMap::from([(put_right, 0.5)]));
        let mut ask = |after_ms: i64| {
            let target = "/gas/consumption/1?start=202601010000&end=202601010100";
            let (_, body) = meter
                .answer(&Request { target, head: "\r\nX-Api-Key: k", body: "" }, oldest.plus_ms(after_ms));
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            let row = |row: &serde_json::Value| (row["timestamp"].to_string(), row["value"].as_f64());
            body["values"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
        };
        let at = |minute: i64, by: f64| {
            let at = oldest.plus_ms(minute * 60_000);
            (format!("\"{}\"", written(at)), Some(value("gas", at.0 / 60_000) + by))
        };
        assert_eq!(ask(120_000), [at(0, 0.0)]);
        assert_eq!(ask(150_000), [at(0, 0.0), at(2, 0.5)]);
        assert_eq!(ask(600_000)[..3], [at(0, 0.0), at(1, 0.0), at(2, 0.5)]);
    }
}
