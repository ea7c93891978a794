//! Whether a meter's clock is right, and when it was not: a record is as uncertain as the clock was when it was written,
//! however much later it is read. Reads no clock.

use std::collections::VecDeque;

use gapless_common::time::Timestamp;

/// Stretches that are remembered at most; the oldest are joined.
const SPANS_MAX: usize = 16;

/// See the module. All instants are by the meter's own clock, as its records are.
#[derive(Debug)]
pub struct Drift {
    device: Box<str>,
    limit_ms: u64,
    /// When it was looked at last.
    seen: Option<Timestamp>,
    /// When it was off: after the first of two instants, up to the second or until now.
    spans: VecDeque<(Timestamp, Option<Timestamp>)>,
}

impl Drift {
    /// A clock that nobody has looked at; off is what is more than the limit.
    #[must_use]
    pub fn new(device: Box<str>, limit_ms: u32) -> Self {
        Self { device, limit_ms: limit_ms.into(), seen: None, spans: VecDeque::new() }
    }

    /// Whether it was off at the last look.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.spans.back().is_some_and(|(_, to)| to.is_none())
    }

    /// Whether the time of a record may be off: between a look at which the clock was right and one at which it was not,
    /// nobody knows.
    #[must_use]
    pub fn is_uncertain(&self, at: Timestamp) -> bool {
        self.spans.iter().any(|(from, to)| *from < at && to.is_none_or(|to| at <= to))
    }

    /// A look at the meter's clock, which was so much ahead of ours at `wall`. Tells a person once where it is off, and once
    /// where it is right again.
    pub fn note(&mut self, drift_ms: i64, wall: Timestamp) {
        let (shown, was_off) = (wall.plus_ms(drift_ms), self.is_off());
        let is_off = drift_ms.unsigned_abs() > self.limit_ms;
        let seen = self.seen.replace(shown);
        if is_off && !was_off {
            tracing::warn!(
                device = %self.device,
                "the meter's clock is {}: set it, or correct `zone`; what it records is marked until then",
                drift_text(drift_ms)
            );
            let from = seen.map_or(Timestamp(i64::MIN), |seen| seen.min(shown));
            self.spans.push_back((from, None));
            self.join();
        } else if was_off && !is_off {
            tracing::info!(device = %self.device, "the meter's clock is right again");
            if let Some((_, to)) = self.spans.back_mut() {
                *to = Some(seen.map_or(shown, |seen| seen.max(shown)));
            }
        }
    }

    fn join(&mut self) {
        if self.spans.len() > SPANS_MAX
            && let Some((from, _)) = self.spans.pop_front()
            && let Some(second) = self.spans.front_mut()
        {
            second.0 = second.0.min(from);
        }
    }
}

fn drift_text(drift_ms: i64) -> String {
    let (ahead, span) = (drift_ms > 0, drift_ms.unsigned_abs());
    let span = gapless_common::text::format_duration_ms(span / 1_000 * 1_000);
    if ahead { format!("{span} ahead") } else { format!("{span} behind") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_marked_by_the_clock_of_its_own_time() {
        // Looks at the clock: when, by ours, and how far it is ahead; in minutes.
        let looks = [(0, 0), (60, 0), (120, -5), (180, -6), (240, 0), (300, 0), (360, 9), (420, 0)];
        // Records by their own times, and whether they are marked.
        let rows =
            [(-100, false), (59, false), (61, true), (114, true), (200, true), (240, true), (241, false)];
        let rows = rows.into_iter().chain([(299, false), (301, true), (369, true), (425, false)]);
        let mut drift = Drift::new("m".into(), 60_000);
        let minutes = |minutes: i64| Timestamp(minutes * 60_000);
        for (at, ahead) in looks {
            drift.note(ahead * 60_000, minutes(at));
            assert_eq!(drift.is_off(), ahead != 0, "at {at}");
        }
        for (at, is_marked) in rows {
            assert_eq!(drift.is_uncertain(minutes(at)), is_marked, "a record of {at}");
        }
    }

    #[test]
    fn what_was_before_the_first_look_is_as_it_was_then() {
        let mut drift = Drift::new("m".into(), 60_000);
        assert!(!drift.is_uncertain(Timestamp(0)));
        drift.note(61_000, Timestamp(1_000_000));
        assert!(drift.is_uncertain(Timestamp(0)));
        for look in 0..100 {
            drift.note(if look % 2 == 0 { 0 } else { -61_000 }, Timestamp(2_000_000 + look * 100_000));
        }
        assert!(drift.spans.len() <= SPANS_MAX + 1 && drift.is_uncertain(Timestamp(0)));
    }

    #[test]
    fn a_person_is_told_how_far_it_is_off() {
        for (ms, text) in [(120_400, "2m ahead"), (-3_600_000, "1h behind")] {
            assert_eq!(drift_text(ms), text);
        }
    }
}
