//! Who goes next where an account has no call left: what was refused one keeps a claim, and a call that comes free is kept for
//! the most urgent claim, whoever happens to ask first.
//!
//! Contract: [`Claims::may`] before each call, in place of [`Used::may`]; who was refused asks again by the instant that it was
//! told, or loses its claim.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;

use super::budget::{AHEAD_MS_MAX, Limits, Urgency, Used, Verdict};
use super::quota::UNTIL_MS_MAX;

/// Who asks: each that can wait by itself has a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who(pub u64);

/// A claim lasts for this part of the longest time of a limit after the call could be made, within bounds: long enough for who
/// is tried again after a pause, and short beside what the limit counts over.
const KEPT_PART: i64 = 8;
/// Those bounds, in ms.
const KEPT_MS_RANGE: (i64, i64) = (2_000, 320_000);

/// What waits.
#[derive(Debug)]
struct Claim {
    rank: f64,
    until: Timestamp,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<Who, Claim>);

impl Claims {
    /// Whether `who` may make a call at `now`.
    pub fn may(
        &mut self,
        used: &mut Used,
        limits: &Limits,
        (who, urgency): (Who, Urgency),
        now: Timestamp,
    ) -> Verdict {
        let (least, most) = KEPT_MS_RANGE;
        // None is of a later time unless the clock was set back.
        let latest = now.plus_ms(limits.per_ms_max().max(UNTIL_MS_MAX) + AHEAD_MS_MAX + most);
        self.0.retain(|_, claim| now < claim.until && claim.until <= latest);
        let rank = urgency.rank();
        let kept = self.0.iter().filter(|(other, claim)| **other != who && claim.rank > rank).count();
        let verdict = used.may_beside(limits, urgency, kept, now);
        match verdict {
            Verdict::Go => {
                self.0.remove(&who);
            }
            Verdict::NotBefore(at) => {
                let until = at.plus_ms((limits.per_ms_max() / KEPT_PART).clamp(least, most));
                // Who asks for two things keeps the claim of the more urgent one.
                let rank = self.0.get(&who).map_or(rank, |claim| claim.rank.max(rank));
                self.0.insert(who, Claim { rank, until });
            }
            Verdict::Wait => {}
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Rate;
    use super::*;

    fn limits(calls_max: u32, per_ms: i64) -> Limits {
        Limits { rates: vec![Rate { calls_max, per_ms }], at_once_max: 1 }
    }

    /// Plays an hour in which everybody asks each half second, in order, and one call takes no time. `growth` is by
    /// how many thousandths a second the urgency of each grows; returns how often each was served.
    fn play(limits: &Limits, growth: &[i64]) -> Vec<u32> {
        let (mut claims, mut used) = (Claims::default(), Used::default());
        let mut served = vec![(0, 0); growth.len()];
        for half in 0..7_200 {
            let now = Timestamp(half * 500);
            for (no, (growth, (count, score))) in (0..).zip(growth.iter().zip(&mut served)) {
                *score += growth / 2;
                let asks = (Who(no), Urgency::waiting(*score, 1_000));
                if claims.may(&mut used, limits, asks, now) == Verdict::Go {
                    used.began(limits, now);
                    used.ended_last(now);
                    (*count, *score) = (*count + 1, 0);
                }
            }
        }
        served.into_iter().map(|(count, _)| count).collect()
    }

    #[test]
    fn nobody_waits_for_ever_whatever_the_order_in_which_they_ask() {
        // Five devices of which each would have all calls, and a list that grows urgent twenty times as slowly.
        let growth = [1_000, 1_000, 1_000, 1_000, 1_000, 50];
        for limits in [limits(1, 5_000), limits(10, 60_000), limits(3, 90_000)] {
            let served = play(&limits, &growth);
            assert!(served.iter().all(|count| *count > 0), "{limits:?}: {served:?}");
            assert!(served[..5].iter().all(|count| *count >= served[5]), "spare work yields: {served:?}");
            let all = 3_600_000 / limits.per_ms_max() * i64::from(limits.rates[0].calls_max);
            let used = i64::from(served.iter().sum::<u32>());
            assert!(used * 10 >= all * 9, "hardly any call is wasted: {used} of {all}");
        }
    }

    #[test]
    fn a_call_that_comes_free_is_kept_for_the_most_urgent_until_it_has_lost_its_claim() {
        let (limits, mut claims, mut used) = (limits(1, 8_000), Claims::default(), Used::default());
        let (device, list) = ((Who(0), Urgency::Score(3.0)), (Who(1), Urgency::Score(5.0)));
        let mut may = |asks, ms| claims.may(&mut used, &limits, asks, Timestamp(ms));
        assert_eq!(may(device, 0), Verdict::Go);
        used.began(&limits, Timestamp(0));
        used.ended_last(Timestamp(0));
        let mut may = |asks, ms| claims.may(&mut used, &limits, asks, Timestamp(ms));
        let until = Verdict::NotBefore(Timestamp(8_000));
        assert_eq!((may(device, 1), may(list, 2)), (until, until));
        assert!(matches!(may(device, 8_000), Verdict::NotBefore(_)), "the list has waited for longer");
        assert_eq!(may((Who(2), Urgency::Asked), 8_000), Verdict::Go, "a person waits");
        // Whose claim is over has it no more: it did not come back.
        assert!(matches!(may(device, 9_999), Verdict::NotBefore(_)));
        assert_eq!(may(device, 10_000), Verdict::Go);
    }

    #[test]
    fn a_claim_of_before_the_clock_was_set_back_is_none() {
        let (limits, mut claims, mut used) = (limits(1, 8_000), Claims::default(), Used::default());
        let (device, list) = ((Who(0), Urgency::Score(3.0)), (Who(1), Urgency::Score(5.0)));
        let year_ms = 366 * 86_400_000;
        used.began(&limits, Timestamp(year_ms));
        used.ended_last(Timestamp(year_ms));
        assert!(matches!(claims.may(&mut used, &limits, list, Timestamp(year_ms)), Verdict::NotBefore(_)));
        // What was counted then is taken for made now.
        assert_eq!(
            claims.may(&mut used, &limits, device, Timestamp(0)),
            Verdict::NotBefore(Timestamp(8_000))
        );
        assert_eq!(claims.may(&mut used, &limits, device, Timestamp(8_000)), Verdict::Go);
    }
}
