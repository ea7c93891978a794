//! How fresh a device's data is: its staleness beside the staleness that is allowed.
//!
//! Pure: time is given. Contract: [`Allowances::of`] says what a device may have, [`Verdict::of`] how it stands; what is
//! done about it is `jobs`' business.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;

/// What delivery may take beside interval and flush, in ms.
const DELIVERY_MS: i64 = 10_000;
/// From this score on data is ageing: half of what is allowed has passed.
pub const AGEING: f64 = 0.5;
/// From this score on data is stale.
pub const STALE: f64 = 1.0;

/// What is allowed, where somebody has said so; each in ms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowances {
    /// Of all devices.
    pub usual: Option<i64>,
    /// By the device's attribute `class`.
    pub of_class: BTreeMap<String, i64>,
    /// By site.
    pub of_site: BTreeMap<String, i64>,
    /// By `site/device`.
    pub of_device: BTreeMap<String, i64>,
}

/// What an allowance depends on.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its site.
    pub site: &'a str,
    /// Its name there.
    pub device: &'a str,
    /// Its attribute `class`.
    pub class: Option<&'a str>,
    /// The distance of its slots.
    pub interval_ms: i64,
    /// How long its agent gathers before it sends.
    pub flush_ms: i64,
}

impl Allowances {
    /// The staleness that a device may have, in ms: as said of the device, else of its site, else of its class, else of
    /// all; where nothing is said two intervals, the agent's flush interval, and 10 s for the way.
    #[must_use]
    pub fn of(&self, subject: &Subject<'_>) -> i64 {
        let named = || self.of_device.get(&format!("{}/{}", subject.site, subject.device));
        let said = (!self.of_device.is_empty())
            .then(named)
            .flatten()
            .or_else(|| self.of_site.get(subject.site))
            .or_else(|| self.of_class.get(subject.class?))
            .copied()
            .or(self.usual);
        let usual = || subject.interval_ms.saturating_mul(2).saturating_add(subject.flush_ms) + DELIVERY_MS;
        said.unwrap_or_else(usual).max(1)
    }
}

/// How a device's data stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Less than half of the allowed staleness.
    Fresh,
    /// Half of it or more.
    Ageing,
    /// All of it or more.
    Stale,
    /// Nothing has come yet.
    Unknown,
}

/// State and score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// See there.
    pub state: State,
    /// Staleness ÷ allowed staleness; `None` where nothing has come yet.
    pub score: Option<f64>,
}

impl Verdict {
    /// Of data whose latest reading is of `last`. A reading from the future, beyond `ahead_ms`, is as wrong as one from as
    /// far in the past; a little ahead is a clock that differs.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio of durations, for people")]
    pub fn of(last: Option<Timestamp>, allowed_ms: i64, ahead_ms: i64, now: Timestamp) -> Self {
        let Some(last) = last else { return Self { state: State::Unknown, score: None } };
        let age = now.since_ms(last);
        let staleness = if age < -ahead_ms { age.saturating_neg() } else { age.max(0) };
        let score = staleness as f64 / allowed_ms.max(1) as f64;
        let state = match score {
            _ if score >= STALE => State::Stale,
            _ if score >= AGEING => State::Ageing,
            _ => State::Fresh,
        };
        Self { state, score: Some((score * 1_000.0).round() / 1_000.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_about_a_device_counts() {
        let one = |key: &str, ms| BTreeMap::from([(key.to_owned(), ms)]);
        let subject = Subject {
            site: "farm",
            device: "mast",
            class: Some("logger"),
            interval_ms: 600_000,
            flush_ms: 900_000,
        };
        let mut said = Allowances::default();
        assert_eq!(said.of(&subject), 2 * 600_000 + 900_000 + 10_000);
        said.usual = Some(4);
        assert_eq!(said.of(&subject), 4);
        said.of_class = one("logger", 3);
        assert_eq!(said.of(&subject), 3);
        said.of_site = one("farm", 2);
        assert_eq!(said.of(&subject), 2);
        said.of_device = one("farm/mast", 1);
        assert_eq!(said.of(&subject), 1);
        assert_eq!(said.of(&Subject { site: "other", class: None, ..subject }), 4);
    }

    #[test]
    fn the_score_is_staleness_by_allowance() {
        let rows = [
            (Some(0), 0, State::Fresh, Some(0.0)),
            (Some(0), 499, State::Fresh, Some(0.499)),
            (Some(0), 500, State::Ageing, Some(0.5)),
            (Some(0), 999, State::Ageing, Some(0.999)),
            (Some(0), 1_000, State::Stale, Some(1.0)),
            (Some(60_000), 0, State::Fresh, Some(0.0)),
            (Some(61_000), 0, State::Stale, Some(61.0)),
            (None, 0, State::Unknown, None),
        ];
        for (last, now, state, score) in rows {
            let verdict = Verdict::of(last.map(Timestamp), 1_000, 60_000, Timestamp(now));
            assert_eq!(verdict, Verdict { state, score }, "{last:?} at {now}");
        }
    }
}
