//! How often a source is asked: less where nobody looks, more where somebody does, within bounds.

use gapless_common::time::Timestamp;

/// Who looked so recently is taken to be looking still, in ms.
const LOOKING_MS: i64 = 15 * 60_000;
/// A rhythm is kept for so long after the last look; after it, it halves with each further such time.
const REMEMBERED_MS: i64 = 86_400_000;
/// Halved no more often than this.
const HALVED_MAX: i64 = 16;

/// The rhythm of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// As long as somebody has looked within a day, in ms.
    pub usual_ms: i64,
    /// While somebody looks.
    pub least_ms: i64,
    /// Where nobody has looked for long.
    pub most_ms: i64,
}

impl Cadence {
    /// The distance of the next call from the one before; `looked` is the last time somebody did.
    #[must_use]
    pub fn interval_ms(&self, looked: Option<Timestamp>, now: Timestamp) -> i64 {
        let away = looked.map_or(i64::MAX, |at| now.since_ms(at).max(0));
        if away < LOOKING_MS {
            return self.least_ms.min(self.usual_ms);
        }
        let halved = (away / REMEMBERED_MS).min(HALVED_MAX);
        self.usual_ms.saturating_mul(1 << halved).min(self.most_ms.max(self.usual_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rhythm_relaxes_and_tightens_within_bounds() {
        let cadence = Cadence { usual_ms: 30, least_ms: 5, most_ms: 200 };
        let day = REMEMBERED_MS;
        let rows = [
            (Some(0), 0, 5),
            (Some(0), LOOKING_MS - 1, 5),
            (Some(0), LOOKING_MS, 30),
            (Some(0), day - 1, 30),
            (Some(0), day, 60),
            (Some(0), 2 * day, 120),
            (Some(0), 3 * day, 200),
            (None, 0, 200),
            (Some(10 * day), 10 * day, 5),
        ];
        for (looked, now, expected) in rows {
            let got = cadence.interval_ms(looked.map(Timestamp), Timestamp(now));
            assert_eq!(got, expected, "looked {looked:?}, now {now}");
        }
    }
}
