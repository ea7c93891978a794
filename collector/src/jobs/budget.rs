//! What a source allows: so many calls in a time, so many at once. As a limit nears, what is less urgent is put off, so that
//! what is urgent still finds room; and what can wait is more urgent the longer it has waited, so that nothing waits for ever.
//!
//! The queue of jobs counts what it begins by it, and an account of a remote API each of its calls.

use std::collections::VecDeque;

use gapless_common::time::Timestamp;

use super::quota::Quota;

/// Share of the calls that may be used by what can wait.
const SHARE_SPARE: f64 = 0.5;
/// Share that may be used by what is not stale yet.
const SHARE_AGEING: f64 = 0.7;
/// Share that may be used by what is stale, and nobody waits for.
const SHARE_STALE: f64 = 0.9;
/// From this score on, and where a person waits, all may be used.
const URGENT: f64 = 2.0;
/// What a person waits for goes before all that has not waited so many times what it may: somebody who asks again and again
/// must not have everything else wait for ever.
const ASKED: f64 = 10.0;
/// Where no call was made and all are kept for others, it is seen again so much later.
const KEPT_MS: i64 = 1_000;
/// A call counts from its answer on, which may be somewhat later than now; what is later by more is of a clock that was set back.
pub(super) const AHEAD_MS_MAX: i64 = 300_000;

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
    /// Of what can wait for `may_ms` and has waited for `waited_ms`: once that is over it is as what is stale, and more urgent
    /// the longer it goes on.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio of durations")]
    pub fn waiting(waited_ms: i64, may_ms: i64) -> Self {
        let score = waited_ms.max(0) as f64 / may_ms.max(1) as f64;
        if score < 1.0 { Self::Spare } else { Self::Score(score) }
    }

    /// What goes first where there is room for one only: the greater.
    #[must_use]
    pub fn rank(self) -> f64 {
        match self {
            Self::Spare => -1.0,
            Self::Score(score) => score,
            Self::Asked => ASKED,
        }
    }

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

/// How many of so many calls may be used by who has this share of them. At least one: a source that allows a single call must be
/// asked at all.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive whole number below 2^32"
)]
pub(super) fn room(calls_max: u32, share: f64) -> usize {
    (f64::from(calls_max) * share).floor().max(1.0) as usize
}

/// What was used of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// In order.
    calls: VecDeque<Timestamp>,
    under_way: u32,
    /// What the source itself says.
    quota: Option<Quota>,
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
        Self { calls: calls.into(), under_way: 0, quota: None }
    }

    /// Whether a call may go out at `now`.
    pub fn may(&mut self, limits: &Limits, urgency: Urgency, now: Timestamp) -> Verdict {
        self.may_beside(limits, urgency, 0, now)
    }

    /// The same where so many calls are `kept` for others.
    pub(super) fn may_beside(
        &mut self,
        limits: &Limits,
        urgency: Urgency,
        kept: usize,
        now: Timestamp,
    ) -> Verdict {
        self.clamp(now);
        let longest_ms = limits.per_ms_max();
        while self.calls.front().is_some_and(|at| at.plus_ms(longest_ms) <= now) {
            self.calls.pop_front();
        }
        if self.under_way >= limits.at_once_max {
            return Verdict::Wait;
        }
        let not_before = |rate: &Rate| self.not_before(*rate, urgency.share(), kept, now);
        let said = self.quota.and_then(|quota| quota.not_before(urgency.share(), kept, now));
        let until = limits.rates.iter().filter_map(not_before).chain(said).max();
        until.map_or(Verdict::Go, Verdict::NotBefore)
    }

    /// Calls of a time that has not come were made before the clock was set back: nobody knows when, so they are taken for made
    /// now, and not for in the way until that time.
    fn clamp(&mut self, now: Timestamp) {
        if self.calls.back().is_some_and(|at| at.since_ms(now) > AHEAD_MS_MAX) {
            self.calls.iter_mut().for_each(|at| *at = now.min(*at));
        }
    }

    /// The first instant at which so many calls have left the time of this rate that there is room; `None` where there is.
    fn not_before(&self, rate: Rate, share: f64, kept: usize, now: Timestamp) -> Option<Timestamp> {
        let room = room(rate.calls_max, share);
        let gone = self.calls.partition_point(|at| at.plus_ms(rate.per_ms) <= now);
        let used = self.calls.len() - gone;
        let leaving = (used + kept).checked_sub(room)?;
        // Where all of them leave and that is still not enough, who has a right to them comes before.
        let last = self.calls.get(gone + leaving).or_else(|| self.calls.back().filter(|_| used > 0));
        Some(last.map_or(now.plus_ms(KEPT_MS), |at| at.plus_ms(rate.per_ms)))
    }

    /// The source says what is left of its own count.
    pub fn said(&mut self, limit: Option<u32>, left: u32, until: Timestamp) {
        self.quota = Some(Quota::said(self.quota, limit, left, until));
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
        // A clock that was a year ahead does not keep everybody waiting for a year: the call is taken for made now.
        let long_ago = Timestamp(-366 * 86_400_000);
        assert_eq!(used.may(&limits, Urgency::Asked, long_ago), Verdict::NotBefore(long_ago.plus_ms(100)));
        assert_eq!(used.may(&limits, Urgency::Asked, long_ago.plus_ms(100)), Verdict::Go);
    }

    #[test]
    fn what_can_wait_becomes_urgent_with_the_time_that_it_has_waited() {
        let rows = [
            (-5, Urgency::Spare),
            (0, Urgency::Spare),
            (99, Urgency::Spare),
            (100, Urgency::Score(1.0)),
            (250, Urgency::Score(2.5)),
        ];
        for (waited_ms, expected) in rows {
            assert_eq!(Urgency::waiting(waited_ms, 100), expected, "{waited_ms}");
        }
        let ranks =
            [Urgency::Spare, Urgency::Score(0.0), Urgency::Score(9.9), Urgency::Asked, Urgency::Score(10.1)];
        assert!(ranks.windows(2).all(|pair| pair[0].rank() < pair[1].rank()));
    }
}
