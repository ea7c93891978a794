//! What a source allows: so many calls in a time, so many at once. As a limit nears, what is less urgent is put off, so that
//! what is urgent still finds room.
//!
//! The queue of jobs counts what it begins by it, and an account of a remote API each of its calls.

use std::collections::VecDeque;

use gapless_common::time::Timestamp;

/// Share of the calls that may be used by what can wait.
const SHARE_SPARE: f64 = 0.5;
/// Share that may be used by what is not stale yet.
const SHARE_AGEING: f64 = 0.7;
/// Share that may be used by what is stale, and nobody waits for.
const SHARE_STALE: f64 = 0.9;
/// From this score on, and where a person waits, all may be used.
const URGENT: f64 = 2.0;

/// So many calls in a time, whenever it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls within [`per_ms`](Self::per_ms).
    pub calls_max: u32,
    /// The time that they are counted over.
    pub per_ms: i64,
}

/// The limits of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// All of them hold.
    pub rates: Vec<Rate>,
    /// Calls under way at once.
    pub at_once_max: u32,
}

impl Limits {
    /// No limits but that of calls at once.
    #[must_use]
    pub const fn at_once(at_once_max: u32) -> Self {
        Self { rates: Vec::new(), at_once_max }
    }

    /// The longest time that calls are counted over.
    #[must_use]
    pub fn per_ms_max(&self) -> i64 {
        self.rates.iter().map(|rate| rate.per_ms).max().unwrap_or_default()
    }
}

/// How urgent a call is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Urgency {
    /// It can wait: what is asked only to save a call, or for what has been missing for long.
    Spare,
    /// By its score: staleness ÷ allowed staleness.
    Score(f64),
    /// A person waits for it.
    Asked,
}

impl Urgency {
    /// Whether it is for what is stale, or a person waits for it.
    #[must_use]
    pub fn is_pressing(self) -> bool {
        self.share() > SHARE_AGEING
    }

    /// The share of the calls that it may use.
    fn share(self) -> f64 {
        match self {
            Self::Spare => SHARE_SPARE,
            Self::Score(score) if score < 1.0 => SHARE_AGEING,
            Self::Score(score) if score < URGENT => SHARE_STALE,
            Self::Score(_) | Self::Asked => 1.0,
        }
    }
}

/// What was used of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// In order.
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
    /// Calls that were made before, in any order.
    #[must_use]
    pub fn of(mut calls: Vec<Timestamp>) -> Self {
        calls.sort_unstable();
        Self { calls: calls.into(), under_way: 0 }
    }

    /// Whether a call may go out at `now`.
    pub fn may(&mut self, limits: &Limits, urgency: Urgency, now: Timestamp) -> Verdict {
        let longest_ms = limits.per_ms_max();
        while self.calls.front().is_some_and(|at| at.plus_ms(longest_ms) <= now) {
            self.calls.pop_front();
        }
        if self.under_way >= limits.at_once_max {
            return Verdict::Wait;
        }
        let until = limits.rates.iter().filter_map(|rate| self.not_before(*rate, urgency.share(), now)).max();
        until.map_or(Verdict::Go, Verdict::NotBefore)
    }

    /// The first instant at which so many calls have left the time of this rate that there is room; `None` where there is.
    fn not_before(&self, rate: Rate, share: f64, now: Timestamp) -> Option<Timestamp> {
        // At least one: a source that allows a single call must be asked at all.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive whole number below 2^32"
        )]
        let room = (f64::from(rate.calls_max) * share).floor().max(1.0) as usize;
        let gone = self.calls.partition_point(|at| at.plus_ms(rate.per_ms) <= now);
        let used = self.calls.len() - gone;
        let leaving = used.checked_sub(room)?;
        Some(self.calls.get(gone + leaving).map_or(now, |at| at.plus_ms(rate.per_ms)))
    }

    /// A call goes out.
    pub fn began(&mut self, limits: &Limits, now: Timestamp) {
        self.under_way += 1;
        if !limits.rates.is_empty() {
            // Where the clock was set back it counts for longer, not for less.
            let last = self.calls.back().copied().unwrap_or(now);
            self.calls.push_back(now.max(last));
        }
    }

    /// A call has ended.
    pub fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The call that began last has ended: when the source counted it, between its begin and now, nobody but the source
    /// knows, and it is taken for made now.
    pub fn ended_last(&mut self, now: Timestamp) {
        self.ended();
        if let Some(last) = self.calls.back_mut() {
            *last = now.max(*last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rates: &[(u32, i64)]) -> Limits {
        let rates = rates.iter().map(|(calls_max, per_ms)| Rate { calls_max: *calls_max, per_ms: *per_ms });
        Limits { rates: rates.collect(), at_once_max: 100 }
    }

    #[test]
    fn the_less_urgent_is_put_off_as_the_limit_nears() {
        use Urgency::{Asked, Score, Spare};
        let limits = limits(&[(10, 1_000)]);
        let mut used = Used::default();
        let at = |ms| Timestamp(ms);
        for n in 0..5 {
            assert_eq!(used.may(&limits, Spare, at(n)), Verdict::Go);
            used.began(&limits, at(n));
        }
        assert_eq!(used.may(&limits, Spare, at(5)), Verdict::NotBefore(at(1_000)));
        for n in 5..7 {
            assert_eq!(used.may(&limits, Score(0.5), at(n)), Verdict::Go);
            used.began(&limits, at(n));
        }
        assert_eq!(used.may(&limits, Score(0.5), at(7)), Verdict::NotBefore(at(1_000)));
        for n in 7..9 {
            assert_eq!(used.may(&limits, Score(1.0), at(n)), Verdict::Go);
            used.began(&limits, at(n));
        }
        assert_eq!(used.may(&limits, Score(1.9), at(9)), Verdict::NotBefore(at(1_000)));
        assert_eq!(used.may(&limits, Asked, at(9)), Verdict::Go, "a person waits");
        used.began(&limits, at(9));
        assert_eq!(used.may(&limits, Score(9.0), at(10)), Verdict::NotBefore(at(1_000)));
        assert_eq!(used.may(&limits, Score(9.0), at(1_000)), Verdict::Go);
        assert_eq!(used.may(&limits, Score(0.5), at(1_000)), Verdict::NotBefore(at(1_003)));
        assert_eq!(used.may(&limits, Spare, at(1_000)), Verdict::NotBefore(at(1_005)));
    }

    #[test]
    fn no_more_than_allowed_are_under_way() {
        let (limits, mut used) = (Limits::at_once(1), Used::default());
        used.began(&limits, Timestamp(0));
        assert_eq!(used.may(&limits, Urgency::Asked, Timestamp(9)), Verdict::Wait);
        used.ended();
        assert_eq!(used.may(&limits, Urgency::Asked, Timestamp(9)), Verdict::Go);
    }

    #[test]
    fn each_of_several_rates_holds_whenever_its_time_begins() {
        let rates = [(3, 10), (7, 100)];
        let (limits, mut used) = (limits(&rates), Used::of(vec![Timestamp(4), Timestamp(-3)]));
        let mut made = vec![-3, 4];
        for now in 0..1_000 {
            if used.may(&limits, Urgency::Asked, Timestamp(now)) == Verdict::Go {
                used.began(&limits, Timestamp(now));
                used.ended_last(Timestamp(now));
                made.push(now);
            }
        }
        for (most, per_ms) in rates {
            let within = |begin: i64| made.iter().filter(|at| (begin..begin + per_ms).contains(*at)).count();
            assert!((-10..1_000).all(|begin| within(begin) <= usize::try_from(most).unwrap()), "{made:?}");
        }
        // In each hundred the second rate is used up.
        assert!(made.len() >= 70, "{made:?}");
    }

    #[test]
    fn a_call_counts_from_its_answer_on_and_a_clock_that_is_set_back_frees_none() {
        let (limits, mut used) = (limits(&[(1, 100)]), Used::default());
        used.began(&limits, Timestamp(0));
        used.ended_last(Timestamp(30));
        assert_eq!(used.may(&limits, Urgency::Asked, Timestamp(100)), Verdict::NotBefore(Timestamp(130)));
        assert_eq!(used.may(&limits, Urgency::Asked, Timestamp(-500)), Verdict::NotBefore(Timestamp(130)));
    }
}
