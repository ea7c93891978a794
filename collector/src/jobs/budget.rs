//! What a source allows: so many calls in a time, so many at once. As the limit nears, what is less urgent is put off, so
//! that what is urgent still finds room.

use std::collections::VecDeque;

use gapless_common::time::Timestamp;

/// Share of the calls that may be used by what is not stale yet.
const SHARE_AGEING: f64 = 0.7;
/// Share that may be used by what is stale, and nobody waits for.
const SHARE_STALE: f64 = 0.9;
/// From this score on, and where a person waits, all may be used.
const URGENT: f64 = 2.0;

/// The limits of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls within [`per_ms`](Self::per_ms).
    pub calls_max: u32,
    /// The time that they are counted over.
    pub per_ms: i64,
    /// Calls under way at once.
    pub at_once_max: u32,
}

impl Limits {
    /// No limits but that of calls at once.
    #[must_use]
    pub const fn at_once(at_once_max: u32) -> Self {
        Self { calls_max: u32::MAX, per_ms: 0, at_once_max }
    }
}

/// What was used of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    calls: VecDeque<Timestamp>,
    under_way: u32,
}

/// Whether a call may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Now.
    Go,
    /// As soon as one that is under way has ended.
    Wait,
    /// Not before this instant.
    NotBefore(Timestamp),
}

impl Used {
    /// Whether a call of this score may go out at `now`.
    pub fn may(&mut self, limits: &Limits, score: f64, waited_for: bool, now: Timestamp) -> Verdict {
        while self.calls.front().is_some_and(|at| at.plus_ms(limits.per_ms) <= now) {
            self.calls.pop_front();
        }
        if self.under_way >= limits.at_once_max {
            return Verdict::Wait;
        }
        let share = match score {
            _ if waited_for || score >= URGENT => 1.0,
            _ if score >= 1.0 => SHARE_STALE,
            _ => SHARE_AGEING,
        };
        // At least one: a source that allows a single call must be asked at all.
        let room = (f64::from(limits.calls_max) * share).floor().max(1.0);
        let used = self.calls.len();
        #[expect(clippy::cast_precision_loss, reason = "calls of one window are few")]
        if (used as f64) < room {
            return Verdict::Go;
        }
        // The first instant at which so many have left the window that there is room.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive whole number"
        )]
        let leaving = used - (room as usize).min(used);
        let at = self.calls.get(leaving).map_or(now, |at| at.plus_ms(limits.per_ms));
        Verdict::NotBefore(at)
    }

    /// A call went out.
    pub fn began(&mut self, limits: &Limits, now: Timestamp) {
        self.under_way += 1;
        if limits.calls_max < u32::MAX {
            self.calls.push_back(now);
        }
    }

    /// A call has ended.
    pub fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_urgent_is_put_off_as_the_limit_nears() {
        let limits = Limits { calls_max: 10, per_ms: 1_000, at_once_max: 100 };
        let mut used = Used::default();
        let at = |ms| Timestamp(ms);
        for n in 0..7 {
            assert_eq!(used.may(&limits, 0.5, false, at(n)), Verdict::Go);
            used.began(&limits, at(n));
        }
        assert_eq!(used.may(&limits, 0.5, false, at(7)), Verdict::NotBefore(at(1_000)));
        for n in 7..9 {
            assert_eq!(used.may(&limits, 1.0, false, at(n)), Verdict::Go);
            used.began(&limits, at(n));
        }
        assert_eq!(used.may(&limits, 1.9, false, at(9)), Verdict::NotBefore(at(1_000)));
        assert_eq!(used.may(&limits, 0.0, true, at(9)), Verdict::Go, "a person waits");
        used.began(&limits, at(9));
        assert_eq!(used.may(&limits, 9.0, true, at(10)), Verdict::NotBefore(at(1_000)));
        assert_eq!(used.may(&limits, 9.0, true, at(1_000)), Verdict::Go);
        assert_eq!(used.may(&limits, 0.5, false, at(1_000)), Verdict::NotBefore(at(1_003)));
    }

    #[test]
    fn no_more_than_allowed_are_under_way() {
        let (limits, mut used) = (Limits::at_once(1), Used::default());
        used.began(&limits, Timestamp(0));
        assert_eq!(used.may(&limits, 5.0, true, Timestamp(9)), Verdict::Wait);
        used.ended();
        assert_eq!(used.may(&limits, 5.0, true, Timestamp(9)), Verdict::Go);
    }
}
