//! The API of a half-hourly electricity and gas meter: `GET /{utility}/consumption/1?start=YYYYMMDDHHMM&end=YYYYMMDDHHMM`,
//! energy per half hour under the time at which it ends, in UTC; windows of 90 days at most; half hours that it has not;
//! values that mean *invalid*; too many calls, with headers that say how many are left; consent withdrawn.
//!
//! Does not simulate: summer time, tariffs.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;

use super::quota::Quota;
use super::{Remote, Request, refused};

/// Distance of the values.
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
    /// How long a value takes to arrive there, in ms.
    pub lag_ms: i64,
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
            lag_ms: 0,
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
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    pub fn value(utility: &str, at: Timestamp) -> f64 {
        let n = at.0.div_euclid(HALF_HOUR_MS);
        let (base, most) = if utility == "gas" { (0.0, 97) } else { (0.125, 89) };
        base + n.rem_euclid(most) as f64 / 64.0
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
        let until = to.min(now.plus_ms(-self.lag_ms));
        let first = from.max(self.oldest).0;
        let first = first + (-first).rem_euclid(HALF_HOUR_MS);
        let mut values = Vec::new();
        let instants =
            (0..).map(|n| Timestamp(first + n * HALF_HOUR_MS)).take_while(|at| *at < to && *at <= until);
        for at in instants {
            if self.holes.get(utility).is_some_and(|holes| holes.contains(&at)) {
                continue;
            }
            let value = match self.invalid.contains(&at) {
                true => serde_json::json!(INVALID),
                false => serde_json::json!(Self::value(utility, at)),
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
}
