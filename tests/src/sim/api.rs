//! Remote APIs of a run: the simulators' API of meters, called without a socket, and what is wrong with it.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;
use gapless_simulators::remote::meter::{INVALID, Meter};
use gapless_simulators::remote::quota::Quota;
use gapless_simulators::remote::{self as simulated, Remote as _};

use super::clock::truth;
use super::feed::{Correction, Feed};
use super::listing::{self, List};
use super::rng::Rng;

/// The key that the APIs want, as the shipped description has it.
const KEY: &str = "secret";
/// The two meters of an API.
pub const UTILITIES: [&str; 2] = ["electricity", "gas"];

/// An API, and what is wrong with it.
#[derive(Debug)]
pub struct Api {
    /// What it has.
    pub meter: Meter,
    /// It gives no answer until then, in ms of the run.
    pub away_until_ms: u64,
    /// It wants no calls until then.
    pub too_many_until_ms: u64,
    /// It answers with a fault of its own until then.
    pub fails_until_ms: u64,
    /// Its answers cannot be read until then.
    pub garbled_until_ms: u64,
    /// Its answers are empty until then, by utility.
    pub empty_until_ms: BTreeMap<String, u64>,
    /// It cannot reach a meter until then.
    pub unreachable_until_ms: BTreeMap<String, u64>,
    /// What it says of what has changed.
    pub feed: Feed,
    /// The list of its meters, where it has one.
    pub list: Option<List>,
}

impl Api {
    /// One that has all values from `oldest` on, each so long after its time; `quota` is how often it may be asked, where it says so.
    #[must_use]
    pub fn new(oldest: Timestamp, interval_ms: i64, lag_ms: i64, quota: Option<Quota>) -> Self {
        let mut meter = Meter::new(KEY, oldest);
        (meter.interval_ms, meter.lag_ms, meter.quota) = (interval_ms, lag_ms, quota);
        Self {
            meter,
            away_until_ms: 0,
            too_many_until_ms: 0,
            fails_until_ms: 0,
            garbled_until_ms: 0,
            empty_until_ms: BTreeMap::new(),
            unreachable_until_ms: BTreeMap::new(),
            feed: Feed::new(usize::MAX),
            list: None,
        }
    }

    /// Nothing is wrong with it any more; what it gives late, has put right or withdrawn stays so.
    pub fn make_good(&mut self) {
        (self.away_until_ms, self.too_many_until_ms) = (0, 0);
        (self.fails_until_ms, self.garbled_until_ms) = (0, 0);
        self.empty_until_ms.clear();
        self.unreachable_until_ms.clear();
        self.feed.behind_until_ms = 0;
        self.list.iter_mut().for_each(List::make_good);
    }

    /// A value is put right at an instant by its clock, and said so or not.
    pub(super) fn put_right(
        &mut self,
        utility: &str,
        at: Timestamp,
        by: f64,
        (since, is_told): (Timestamp, bool),
    ) {
        *self.meter.corrected.entry(utility.to_owned()).or_default().entry(at).or_default() += by;
        self.feed.corrections.push(Correction { utility: utility.to_owned(), at, since, is_told });
    }

    /// Whether it has a meter that it names, or has no list.
    #[must_use]
    pub fn names(&self, utility: &str, at_ms: u64) -> bool {
        self.list
            .as_ref()
            .is_none_or(|list| list.names(utility, at_ms) && !self.meter.withdrawn.contains(utility))
    }

    /// What it answers at `at_ms`.
    pub(super) fn answer(&mut self, target: &str, head: &str, at_ms: u64, rng: &mut Rng) -> Answer {
        if at_ms < self.too_many_until_ms {
            return Answer::too_many(at_ms, rng);
        }
        if at_ms < self.fails_until_ms {
            let status = *rng.pick(&[500, 500, 502, 503, 400, 401]);
            return Answer { status, body: "a fault".to_owned(), ..Answer::default() };
        }
        let during = |until: &BTreeMap<String, u64>| {
            until
                .iter()
                .filter(|(_, until_ms)| at_ms < **until_ms)
                .map(|(utility, _)| utility.clone())
                .collect()
        };
        self.meter.empty = during(&self.empty_until_ms);
        self.meter.unreachable = during(&self.unreachable_until_ms);
        let request = simulated::Request { target, head, body: "" };
        self.feed.hushed = self.list.as_ref().map(|list| list.hushed(at_ms)).unwrap_or_default();
        let page = listing::page(&request);
        let is_cut = page.zip(self.list.as_ref()).is_some_and(|(page, list)| list.is_cut(page, at_ms));
        if is_cut && rng.one_in(2) {
            return Answer { status: 500, body: "a fault".to_owned(), ..Answer::default() };
        }
        let (status, body) = match self.changes(&request, at_ms) {
            Some(answer) => answer,
            None => self.meter.answer(&request, truth(at_ms)),
        };
        let headers: Vec<(String, String)> =
            self.meter.headers().into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        let rest = spent_until(&headers).map(Rest::Until);
        let answer = Answer { status, body, headers, rest, is_garbled: false };
        // A word that nobody can read is another word: that two such answers are the same is no fault of who goes by it.
        let is_word = target.ends_with("/summary");
        let is_garbled = status == 200 && at_ms < self.garbled_until_ms && !is_word;
        match () {
            () if is_garbled => answer.garbled(rng),
            () if is_cut && status == 200 => answer.halved(),
            () => answer,
        }
    }

    /// What it answers where it is asked for what has changed: `/UTILITY/summary`, `/changes?since=…` or `/rows?since=…`; and for its
    /// list, `/meters`.
    fn changes(&mut self, request: &simulated::Request<'_>, at_ms: u64) -> Option<(u16, String)> {
        let (path, now) = (request.target.split('?').next()?, (truth(at_ms), at_ms));
        let utility = path.strip_prefix('/').and_then(|path| path.strip_suffix("/summary"));
        let since = request.field("since").filter(|_| ["/changes", "/rows"].contains(&path));
        let page = listing::page(request);
        if utility.is_none() && since.is_none() && page.is_none() {
            return None;
        }
        let Self { meter, feed, list, .. } = self;
        if request.header("x-api-key") != Some(&meter.key) {
            return Some((401, "no such key".to_owned()));
        }
        if utility.is_some_and(|utility| meter.withdrawn.contains(utility)) {
            return Some((403, "the occupant has changed".to_owned()));
        }
        if utility.is_some_and(|utility| meter.unreachable.contains(utility)) {
            return Some((404, "the meter cannot be reached".to_owned()));
        }
        if meter.quota.as_mut().is_some_and(|quota| !quota.take(now.0)) {
            return Some((429, "no call is left".to_owned()));
        }
        if let Some((page, list)) = page.zip(list.as_ref()) {
            return Some((200, list.answer(page, &meter.withdrawn, at_ms).to_string()));
        }
        let answer = match (utility, since) {
            (Some(utility), _) => Some(feed.word(meter, utility, now)),
            (None, since) => feed.since(meter, (since.unwrap_or_default(), path == "/rows"), now),
        };
        Some(answer.map_or((410, "no such cursor any more".to_owned()), |answer| (200, answer.to_string())))
    }
}

/// What an API answers.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) headers: Vec<(String, String)>,
    /// It wants to be left alone.
    pub(super) rest: Option<Rest>,
    /// Nobody can read it.
    pub(super) is_garbled: bool,
}

/// How long an API wants to be left alone.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    /// For so long, in ms.
    For(u64),
    /// Until that instant, by its own clock.
    Until(Timestamp),
}

impl Answer {
    /// Who asks is not known.
    pub(super) fn unknown() -> Self {
        Self { status: 401, body: "no such token".to_owned(), ..Self::default() }
    }

    /// There are too many calls: for so long, until a date, or nobody knows.
    fn too_many(at_ms: u64, rng: &mut Rng) -> Self {
        let rest_ms = rng.within(6, 240) * 1_000;
        let date = Timestamp((truth(at_ms + rest_ms).0.div_euclid(1_000)) * 1_000);
        let (rest, text) = match rng.below(5) {
            0 => (None, None),
            1 => (Some(Rest::Until(date)), Some(http_date(date))),
            _ => (Some(Rest::For(rest_ms)), Some((rest_ms / 1_000).to_string())),
        };
        let headers = text.map(|text| ("Retry-After".to_owned(), text)).into_iter().collect();
        let status = if rng.one_in(4) { 503 } else { 429 };
        Self { status, body: "too many calls".to_owned(), headers, rest, is_garbled: false }
    }

    /// The same, so that nobody can read it.
    fn garbled(self, rng: &mut Rng) -> Self {
        let half = self.half();
        let whole = ["", "<html>in an hour</html>", "{}", "[]", "{\"values\": [{}]}", "{\"values\": 7}"];
        let body = if rng.one_in(3) { half } else { (*rng.pick(&whole)).to_owned() };
        Self { body, is_garbled: true, ..self }
    }

    /// The first half of it.
    fn halved(self) -> Self {
        Self { body: self.half(), is_garbled: true, ..self }
    }

    fn half(&self) -> String {
        self.body.get(..self.body.len() / 2).unwrap_or_default().to_owned()
    }
}

/// Until when no call is left, where the headers of a quota say that none is.
fn spent_until(headers: &[(String, String)]) -> Option<Timestamp> {
    let number = |name: &str| {
        headers.iter().find(|(found, _)| found == name).and_then(|(_, text)| text.parse::<i64>().ok())
    };
    let reset = number("X-RateLimit-Reset")?;
    (number("X-RateLimit-Remaining")? == 0).then_some(Timestamp(reset * 1_000))
}

/// A date as HTTP has it (RFC 9110, section 5.6.7).
fn http_date(at: Timestamp) -> String {
    let (days, text) = (at.0.div_euclid(86_400_000), at.to_string());
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let name = |of: &str, no: usize| of.get(3 * no..3 * no + 3).unwrap_or_default().to_owned();
    let weekday = name("ThuFriSatSunMonTueWed", usize::try_from(days.rem_euclid(7)).unwrap_or_default());
    let month = part(5, 7).parse::<usize>().unwrap_or(1) - 1;
    let month = name("JanFebMarAprMayJunJulAugSepOctNovDec", month);
    format!("{weekday}, {} {month} {} {} GMT", part(8, 10), part(0, 4), part(11, 19))
}

/// The rows of an answer.
pub(super) fn rows(body: &str) -> BTreeMap<i64, Option<u64>> {
    let json: serde_json::Value = serde_json::from_str(body).expect("the simulated API answers with JSON");
    json["values"].as_array().into_iter().flatten().filter_map(row).collect()
}

/// One of them: its instant, and its value as its bits.
pub(super) fn row(row: &serde_json::Value) -> Option<(i64, Option<u64>)> {
    let at = row["timestamp"].as_str()?.replace(' ', "T");
    let at: Timestamp = format!("{at}:00Z").parse().ok()?;
    let value = row["value"].as_f64()?;
    Some((at.0, (value < f64::from(INVALID)).then(|| value.to_bits())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_has_it() {
        for (at, expected) in [
            ("2026-11-06T08:49:37Z", "Fri, 06 Nov 2026 08:49:37 GMT"),
            ("1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("2026-12-30T23:59:59Z", "Wed, 30 Dec 2026 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(at.parse().unwrap()), expected);
        }
    }
}
