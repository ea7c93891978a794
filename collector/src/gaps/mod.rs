//! Gaps close themselves: when a source is asked again for what is missing, and with which windows.
//!
//! Pure: time is given, and nothing here knows rows, agents or messages. What is a gap is the ledger's word; who asks
//! is `ingest`.

pub mod donate;
pub mod life;
pub mod plan;

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;

const DAY_MS: i64 = 86_400_000;
/// What a device gave arrives within this time after the agent's flush, behind what else the agent has to send, or it is
/// taken for not there until it comes.
pub(crate) const ARRIVAL_MS: i64 = 900_000;

/// An agent that has been gone for so long, in ms, may never come back: it is not waited for any more.
pub(crate) const AWAY_MS: i64 = 7 * DAY_MS;

/// How a kind of device is asked for what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The distance of each attempt from the one before in ms; of the first one from the proof of the gap.
    pub waits_ms: Vec<i64>,
    /// The longest window that one request may hold, in ms.
    pub window_ms: i64,
    /// Which windows are asked for first.
    pub order: plan::Order,
}

impl Default for Policy {
    /// At once, then after 3 days, 2 weeks and 4 weeks; windows of 90 days, the newest first.
    fn default() -> Self {
        Self {
            waits_ms: vec![0, 3 * DAY_MS, 14 * DAY_MS, 28 * DAY_MS],
            window_ms: 90 * DAY_MS,
            order: plan::Order::NewestFirst,
        }
    }
}

impl Policy {
    /// When the attempt after `attempts` others is due; `None` where that were enough.
    #[must_use]
    pub fn next_attempt(&self, attempts: u32, now: Timestamp) -> Option<Timestamp> {
        let wait = usize::try_from(attempts).ok().and_then(|done| self.waits_ms.get(done))?;
        Some(now.plus_ms(*wait))
    }

    /// How long a gap stays open that nobody can be asked for, once the attempt after `attempts` others is due: as long as the
    /// attempts behind that one would take, `least_ms` at least.
    #[must_use]
    pub fn open_ms(&self, attempts: u32, least_ms: i64) -> i64 {
        let done = usize::try_from(attempts).unwrap_or(usize::MAX).saturating_add(1);
        let left = self.waits_ms.iter().skip(done);
        left.fold(0_i64, |sum, wait| sum.saturating_add(*wait)).max(least_ms)
    }
}

/// The least time that a gap stays open which nobody can be asked for: while its device is away it grows slot by slot with
/// what its agent sends, and is one gap as long as it is open.
pub(crate) const fn open_least_ms(interval_ms: i64, flush_ms: i64) -> i64 {
    interval_ms.saturating_add(flush_ms).saturating_add(ARRIVAL_MS)
}

/// The policies of all kinds of devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    /// Of a device without a class, or of another one.
    pub usual: Policy,
    /// By the device's attribute `class`.
    pub of_class: BTreeMap<String, Policy>,
}

impl Policies {
    /// The policy of a class.
    #[must_use]
    pub fn of(&self, class: Option<&str>) -> &Policy {
        class.and_then(|class| self.of_class.get(class)).unwrap_or(&self.usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_is_asked_for_is_open_as_long_as_the_attempts_that_are_left_would_take() {
        let policy = Policy::default();
        let hasty = Policy { waits_ms: vec![0], ..Policy::default() };
        for (policy, attempts, least_ms, expected) in [
            (&policy, 0, 0, 45 * DAY_MS),
            (&policy, 0, 50 * DAY_MS, 50 * DAY_MS),
            (&policy, 1, 0, 42 * DAY_MS),
            (&policy, 3, 7, 7),
            (&policy, u32::MAX, 7, 7),
            (&hasty, 0, open_least_ms(60_000, 1_000), 961_000),
        ] {
            assert_eq!(policy.open_ms(attempts, least_ms), expected, "{attempts} {least_ms}");
        }
    }
}
