//! What may be sent in a day where bytes cost money, pure: bytes published are counted per UTC day, or, while the wall
//! clock is not set, per 24 hours from the first event.
//!
//! Fresh records may spend all of a day's share at once. A backlog may spend no more than what of the day has passed
//! is worth, so that it gets only what fresh records leave, and does not take in the morning what they need in the
//! evening. What an epoch opens with counts as fresh: where fresh records take the whole budget, nobody would ever know what
//! they say, nor what is missing. The last frame may overdraw either. What was spent is not remembered across a restart: the share of the
//! first day is the part of the budget that falls on the rest of that day, and a backlog starts from nothing, so that
//! restarts, however many, send what is polled meanwhile, and of a backlog what the time in between is worth.
//!
//! Contract: [`turn`](Budget::turn) and [`wall`](Budget::wall) as time passes and the wall clock is looked at,
//! [`spend`](Budget::spend) for every message, [`allows`](Budget::allows) before a frame. Knows no frame and no link.

use gapless_common::time::Timestamp;

const DAY_MS: u64 = 86_400_000;

/// Whether records of each kind may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) live: bool,
    pub(super) backlog: bool,
}

/// What is counted in one day, by the core's clock.
#[derive(Debug, Clone, Copy)]
struct Day {
    /// Days since 1970-01-01 UTC; `None` while the wall clock is not set.
    number: Option<i64>,
    /// Its begin, or the first event where that is later.
    from_ms: u64,
    to_ms: u64,
    spent: u64,
}

/// The account of one agent.
#[derive(Debug)]
pub(super) struct Budget {
    daily: Option<u64>,
    day: Option<Day>,
}

impl Budget {
    /// Without `daily` everything is allowed, and counted.
    pub(super) const fn new(daily: Option<u64>) -> Self {
        Self { daily, day: None }
    }

    /// Time passes; says whether a day ended in which all was spent.
    pub(super) fn turn(&mut self, now_ms: u64) -> bool {
        let was_spent = self.is_spent();
        let first = Day { number: None, from_ms: now_ms, to_ms: now_ms.saturating_add(DAY_MS), spent: 0 };
        let day = self.day.get_or_insert(first);
        let over = day.to_ms <= now_ms;
        if over {
            let days = (now_ms - day.to_ms) / DAY_MS;
            let from_ms = day.to_ms.saturating_add(days.saturating_mul(DAY_MS));
            let passed = i64::try_from(days).unwrap_or(0).saturating_add(1);
            *day = Day {
                number: day.number.map(|number| number.saturating_add(passed)),
                from_ms,
                to_ms: from_ms.saturating_add(DAY_MS),
                spent: 0,
            };
        }
        over && was_spent
    }

    /// The wall clock is set and says this; says whether a day ended in which all was spent. A clock that is set for
    /// the first time, or back, goes on with what was spent.
    pub(super) fn wall(&mut self, wall: Timestamp, now_ms: u64) -> bool {
        let ended = self.turn(now_ms);
        let was_spent = self.is_spent();
        let Some(day) = &mut self.day else { return ended };
        let number = wall.0.div_euclid(DAY_MS.cast_signed());
        let passed_ms = wall.0.rem_euclid(DAY_MS.cast_signed()).cast_unsigned();
        let before = day.number.replace(number);
        day.to_ms = now_ms.saturating_add(DAY_MS - passed_ms);
        let is_later = before.is_some_and(|before| before < number);
        if before.is_some_and(|before| before != number) {
            day.from_ms = now_ms.saturating_sub(passed_ms);
        }
        if is_later {
            day.spent = 0;
        }
        ended || (is_later && was_spent)
    }

    /// A message went out.
    pub(super) fn spend(&mut self, bytes: u64, now_ms: u64) {
        self.turn(now_ms);
        if let Some(day) = &mut self.day {
            day.spent = day.spent.saturating_add(bytes);
        }
    }

    /// What may be sent now.
    pub(super) fn allows(&self, now_ms: u64) -> Room {
        let (Some(daily), Some(day)) = (self.daily, self.day) else {
            return Room { live: true, backlog: true };
        };
        let live = day.spent < day.share(daily);
        Room { live, backlog: live && day.spent < worth(daily, now_ms.saturating_sub(day.from_ms)) }
    }

    /// When more may be sent than now; `None` where everything may.
    pub(super) fn more_at_ms(&self, now_ms: u64) -> Option<u64> {
        let (daily, day) = (self.daily?, self.day?);
        match self.allows(now_ms) {
            Room { backlog: true, .. } => None,
            Room { live: false, .. } => Some(day.to_ms),
            Room { .. } => Some(day.from_ms.saturating_add(time_ms(daily, day.spent)).min(day.to_ms)),
        }
    }

    /// Whether nothing more may be sent until the day ends, but what must go.
    pub(super) fn is_spent(&self) -> bool {
        matches!((self.daily, &self.day), (Some(daily), Some(day)) if day.spent >= day.share(daily))
    }

    /// When the day ends in which all is spent.
    pub(super) fn spent_until_ms(&self) -> Option<u64> {
        self.day.filter(|_| self.is_spent()).map(|day| day.to_ms)
    }

    /// Bytes of this day so far.
    pub(super) fn spent(&self) -> u64 {
        self.day.map_or(0, |day| day.spent)
    }

    /// Bytes that this day may have; `None` where there is no bound.
    pub(super) fn share(&self) -> Option<u64> {
        let daily = self.daily?;
        Some(self.day.map_or(daily, |day| day.share(daily)))
    }
}

impl Day {
    fn share(&self, daily: u64) -> u64 {
        worth(daily, self.to_ms.saturating_sub(self.from_ms))
    }
}

/// What part of a day is worth, at most the whole.
fn worth(daily: u64, time_ms: u64) -> u64 {
    let part = u128::from(daily) * u128::from(time_ms.min(DAY_MS)) / u128::from(DAY_MS);
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// The least time that is worth more than `bytes`.
fn time_ms(daily: u64, bytes: u64) -> u64 {
    let time = (u128::from(bytes) + 1) * u128::from(DAY_MS);
    u64::try_from(time.div_ceil(u128::from(daily.max(1)))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// Each row: hours since the first event, the hour of the wall clock where it is looked at (24 and more is the
    /// next day), bytes spent then; live and backlog allowed after it, and the hundredth of an
    /// hour at which more is allowed.
    type Row = (u64, Option<i64>, u64, bool, bool, Option<u64>);

    fn check(name: &str, rows: &[Row]) {
        let mut budget = Budget::new(Some(2_400));
        for row in rows {
            let (hour, wall, bytes, live, backlog, more) = *row;
            let now_ms = hour * HOUR_MS;
            budget.turn(now_ms);
            if let Some(wall) = wall {
                budget.wall(Timestamp(wall * HOUR_MS.cast_signed()), now_ms);
            }
            budget.spend(bytes, now_ms);
            assert_eq!(budget.allows(now_ms), Room { live, backlog }, "{name}: {row:?} {budget:?}");
            assert_eq!(budget.more_at_ms(now_ms), more.map(|at| at * 36_000), "{name}: {row:?} {budget:?}");
        }
    }

    #[test]
    fn a_backlog_has_what_the_day_so_far_is_worth_and_live_records_the_day() {
        check(
            "a whole day",
            &[
                (0, Some(23), 0, true, false, Some(1)),
                (1, Some(24), 0, true, false, Some(101)),
                (2, Some(25), 99, true, true, None),
                (2, None, 1, true, false, Some(201)),
                (3, None, 2_299, true, false, Some(2500)),
                (3, None, 1, false, false, Some(2500)),
                (24, Some(47), 5_000, false, false, Some(2500)),
                (25, None, 0, true, false, Some(2501)),
                (26, Some(49), 0, true, true, None),
            ],
        );
    }

    #[test]
    fn a_first_day_is_worth_its_rest_and_an_unset_clock_counts_from_the_start() {
        check(
            "started at 18 hours",
            &[
                (0, Some(18), 0, true, false, Some(1)),
                (1, Some(19), 599, true, false, Some(600)),
                (1, None, 1, false, false, Some(600)),
                (6, None, 0, true, false, Some(601)),
            ],
        );
        check(
            "never set",
            &[
                (0, None, 0, true, false, Some(1)),
                (12, None, 2_400, false, false, Some(2400)),
                (24, None, 0, true, false, Some(2401)),
                (24 + 73, None, 0, true, true, None),
            ],
        );
        check(
            "set at 20 hours, three hours after the start",
            &[
                (0, None, 600, true, false, Some(601)),
                (3, Some(20), 0, true, false, Some(601)),
                (3, None, 100, false, false, Some(700)),
                (7, Some(24), 0, true, false, Some(701)),
            ],
        );
    }

    #[test]
    fn a_clock_that_steps_gives_nothing_twice_but_over_midnight() {
        check(
            "back within the day, back by a year, forward",
            &[
                (0, Some(24 * 400), 2_400, false, false, Some(2400)),
                (4, Some(24 * 400 + 2), 0, false, false, Some(2600)),
                (5, Some(24 * 35 + 6), 0, false, false, Some(2300)),
                (6, Some(24 * 36 + 12), 0, true, true, None),
            ],
        );
    }

    #[test]
    fn without_a_budget_everything_is_allowed_and_counted() {
        let mut budget = Budget::new(None);
        budget.spend(1 << 40, 5);
        assert_eq!((budget.allows(6), budget.more_at_ms(6)), (Room { live: true, backlog: true }, None));
        assert_eq!((budget.spent(), budget.share(), budget.is_spent()), (1 << 40, None, false));
        assert!(!budget.turn(DAY_MS + 5));
        assert_eq!(budget.spent(), 0);
    }
}
