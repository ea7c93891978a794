//! What a remote API of a run says of what has changed, besides the windows that it answers: a word for each meter that is another
//! one once there is anything new, and the changes since a cursor, by name or with their rows. And what is wrong with that.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;
use gapless_simulators::remote::meter::{INVALID, Meter};
use serde_json::{Value as Json, json};

use super::api::UTILITIES;
use super::listing::Page;

/// A value that was put right.
#[derive(Debug, Clone)]
pub struct Correction {
    /// Of which meter.
    pub utility: String,
    /// The instant of the value.
    pub at: Timestamp,
    /// When it was, by the API's clock.
    pub since: Timestamp,
    /// Whether the API says so.
    pub is_told: bool,
}

/// A change that was said.
#[derive(Debug, Clone)]
pub struct Change {
    /// Of which meter.
    pub utility: String,
    /// The instant of what is another value now, or is there now.
    pub at: Timestamp,
    /// When it was first said, or could have been.
    pub since: Timestamp,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Feed {
    /// All that was put right.
    pub corrections: Vec<Correction>,
    /// All changes, in the order in which they are told.
    pub log: Vec<Change>,
    /// Changes in an answer at most; the rest is asked for with its cursor.
    pub most: usize,
    /// The meters.
    pub utilities: &'static [&'static str],
    /// Those of which it does not tell.
    pub hushed: BTreeSet<String>,
    /// Values that come without a word.
    pub unsaid: BTreeSet<(String, Timestamp)>,
    /// It says nothing new until then, in ms of the run.
    pub behind_until_ms: u64,
    /// Cursors of another generation are forgotten.
    generation: u32,
    /// What has come and is in the log, or never will be.
    come: BTreeSet<(String, Timestamp)>,
    /// Corrections that are in the log, or never will be.
    corrected: usize,
    /// The last word for each meter.
    words: BTreeMap<String, String>,
}

impl Feed {
    /// One that tells so many changes in an answer.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, utilities: &UTILITIES, ..Self::default() }
    }

    /// It does not know any cursor any more that it gave.
    pub const fn forget(&mut self) {
        self.generation += 1;
    }

    /// Whether anything was put right in silence at that instant.
    #[must_use]
    pub fn is_secret(&self, utility: &str, at: Timestamp) -> bool {
        self.corrections.iter().any(|one| !one.is_told && one.utility == utility && one.at == at)
    }

    /// Notes what has come by `now`.
    fn catch_up(&mut self, meter: &Meter, (now, at_ms): (Timestamp, u64)) {
        if at_ms < self.behind_until_ms {
            return;
        }
        for utility in self.utilities.iter().map(|utility| (*utility).to_owned()) {
            let is_told = !meter.withdrawn.contains(&utility) && !self.hushed.contains(&utility);
            for at in instants(meter, now).filter(|at| meter.has(&utility, *at, now)) {
                let place = (utility.clone(), at);
                if self.come.insert(place.clone()) && is_told && !self.unsaid.contains(&place) {
                    self.log.push(Change { utility: utility.clone(), at, since: now });
                }
            }
        }
        let new = self.corrections.iter().skip(self.corrected).filter(|one| {
            let is_silent = meter.withdrawn.contains(&one.utility) || self.hushed.contains(&one.utility);
            one.is_told && meter.has(&one.utility, one.at, now) && !is_silent
        });
        self.log.extend(new.map(|one| Change { utility: one.utility.clone(), at: one.at, since: now }));
        self.corrected = self.corrections.len();
    }

    /// The word for a meter: another one once there is anything new.
    pub(super) fn word(&mut self, meter: &Meter, utility: &str, (now, at_ms): (Timestamp, u64)) -> Json {
        let word = match self.words.get(utility).filter(|_| at_ms < self.behind_until_ms) {
            Some(word) => word.clone(),
            None => {
                let count = instants(meter, now).filter(|at| meter.has(utility, *at, now)).count();
                let is_it = |one: &&Correction| one.is_told && one.utility == utility;
                format!("{count}.{}", self.corrections.iter().filter(is_it).count())
            }
        };
        self.words.insert(utility.to_owned(), word.clone());
        json!({"is": {"revision": word}})
    }

    /// What changed since a cursor, `latest`, or an instant; `None` of a cursor that is forgotten.
    pub(super) fn since(
        &mut self,
        meter: &Meter,
        (cursor, has_rows): (&str, bool),
        now: (Timestamp, u64),
    ) -> Option<Json> {
        self.catch_up(meter, now);
        let from = match cursor.split_once('-') {
            Some((generation, no)) if generation == self.generation.to_string() => no.parse().ok()?,
            Some(_) => return None,
            None if cursor == "latest" => self.log.len(),
            None => {
                let instant = minute(cursor)?;
                self.log.partition_point(|change| change.since <= instant)
            }
        };
        let to = self.log.len().min(from + self.most);
        let change = |change: &Change| match has_rows {
            false => json!({"meter": change.utility}),
            true => {
                let (at, value) = (change.at.to_string(), meter.told(&change.utility, change.at));
                let value = if meter.invalid.contains(&change.at) { json!(INVALID) } else { json!(value) };
                let at = at.get(..16).unwrap_or_default().replace('T', " ");
                json!({"meter": change.utility, "timestamp": at, "value": value})
            }
        };
        let changes: Vec<_> = self.log.get(from..to).unwrap_or_default().iter().map(change).collect();
        let (next, more) = (format!("{}-{to}", self.generation), to < self.log.len());
        Some(json!({"changes": changes, "next": next, "more": more}))
    }
}

/// The instants of which a meter may have a value by `now`.
pub(super) fn instants(meter: &Meter, now: Timestamp) -> impl Iterator<Item = Timestamp> + use<> {
    let interval_ms = meter.interval_ms;
    let first = -(-meter.oldest.0).div_euclid(interval_ms);
    (first..).map(move |slot| Timestamp(slot * interval_ms)).take_while(move |at| *at <= now)
}

/// An instant as the description writes it: `202601010030`.
pub(super) fn minute(text: &str) -> Option<Timestamp> {
    let part = |from: usize, to: usize| text.get(from..to);
    let (date, time) = ((part(0, 4)?, part(4, 6)?, part(6, 8)?), (part(8, 10)?, part(10, 12)?));
    format!("{}-{}-{}T{}:{}:00Z", date.0, date.1, date.2, time.0, time.1).parse().ok()
}

/// What an answer said of what has changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// The word for the meter, where that was the question.
    pub word: Option<String>,
    /// The meters that have changed.
    pub named: BTreeSet<String>,
    /// What was told of them with that: values, as their bits; `None` where it told that there is none.
    pub rows: BTreeMap<(String, i64), Option<u64>>,
    /// A page of the list, where that was the question.
    pub page: Option<Page>,
}

impl Heard {
    /// What this body says, of an answer that can be read.
    pub(super) fn of(body: &str) -> Self {
        let Ok(json) = serde_json::from_str::<Json>(body) else { return Self::default() };
        let word = json["is"]["revision"].as_str().map(str::to_owned);
        let mut heard = Self { word, page: Page::of(&json), ..Self::default() };
        for change in json["changes"].as_array().into_iter().flatten() {
            let utility = change["meter"].as_str().unwrap_or_default().to_owned();
            if let Some((at, value)) = super::api::row(change) {
                heard.rows.insert((utility.clone(), at), value);
            }
            heard.named.insert(utility);
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_once_each_in_parts_until_cursors_are_forgotten() {
        let mut meter = Meter { interval_ms: 60_000, ..Meter::new("k", Timestamp(0)) };
        let mut feed = Feed::new(3);
        let named = |answer: &Option<Json>| {
            let changes = answer.as_ref().and_then(|answer| answer["changes"].as_array().cloned());
            changes.map(|all| {
                all.iter().map(|one| one["meter"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            })
        };
        let now = |ms: i64| (Timestamp(ms), ms.unsigned_abs());
        let first = feed.since(&meter, ("latest", false), now(60_000));
        assert_eq!((named(&first), &first.unwrap()["next"]), (Some(vec![]), &json!("0-4")));
        let is_told = true;
        let correction = |at, is_told| Correction { utility: "gas".into(), at, since: at, is_told };
        feed.corrections.extend([correction(Timestamp(0), is_told), correction(Timestamp(60_000), false)]);
        feed.unsaid.insert(("gas".to_owned(), Timestamp(120_000)));
        meter.withdrawn.insert("electricity".to_owned());
        let answer = feed.since(&meter, ("0-4", true), now(120_000));
        assert_eq!(named(&answer), Some(vec!["gas".to_owned()]));
        let heard = Heard::of(&answer.unwrap().to_string());
        assert_eq!(heard.rows.keys().collect::<Vec<_>>(), [&("gas".to_owned(), 0)]);
        meter.withdrawn.clear();
        feed.behind_until_ms = 900_000;
        let (word, later) = (feed.word(&meter, "gas", now(120_000)), feed.word(&meter, "gas", now(600_000)));
        assert_eq!(word, later);
        assert_eq!(named(&feed.since(&meter, ("0-5", false), now(600_000))), Some(vec![]));
        assert_ne!(word, feed.word(&meter, "gas", now(900_000)));
        let part = feed.since(&meter, ("0-5", false), now(900_000)).unwrap();
        assert_eq!((&part["next"], &part["more"]), (&json!("0-8"), &json!(true)));
        feed.forget();
        assert_eq!(feed.since(&meter, ("0-8", false), now(900_000)), None);
    }
}
