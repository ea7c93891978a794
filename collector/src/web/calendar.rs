//! The share of due slots that were received, day by day (UTC). Pure.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;

use crate::store::model::{SlotState, StripRun};

/// A day of UTC, in ms.
pub(super) const DAY_MS: i64 = 86_400_000;

/// A day, counted from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(pub(super) i64);

impl Day {
    /// The one that holds an instant.
    pub(super) const fn of(t: Timestamp) -> Self {
        Self(t.0.div_euclid(DAY_MS))
    }

    /// Its first instant.
    pub(super) const fn begin(self) -> Timestamp {
        Timestamp(self.0 * DAY_MS)
    }

    /// 0 for a Monday (1970-01-01 was a Thursday).
    pub(super) const fn weekday(self) -> i64 {
        (self.0 + 3).rem_euclid(7)
    }
}

/// What became of the slots of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count {
    /// A reading is stored.
    pub(super) received: u64,
    /// It is known why there is none.
    pub(super) missing: u64,
    /// The agent has not been heard from, or its source not been read.
    pub(super) unknown: u64,
    /// Its reading may still be on its way.
    pub(super) late: u64,
}

impl Count {
    /// The share received of what should be here by now, in permille, rounded down so that only a whole day is 1,000;
    /// `None` where nothing should be.
    pub(super) const fn permille(&self) -> Option<u64> {
        let due = self.received + self.missing + self.unknown;
        (self.received * 1_000).checked_div(due)
    }
}

/// Sorts the slots of `runs` into days.
pub(super) fn days(runs: &[StripRun]) -> BTreeMap<Day, Count> {
    let mut days: BTreeMap<Day, Count> = BTreeMap::new();
    for run in runs {
        let Ok(slots) = i64::try_from(run.slots) else { continue };
        let interval = run.to.since_ms(run.from) / slots.max(1);
        if interval <= 0 {
            continue;
        }
        // Slots of the run before an instant.
        let before =
            |t: Timestamp| (t.since_ms(run.from) + interval - 1).div_euclid(interval).clamp(0, slots);
        let mut day = Day::of(run.from);
        while day.begin() < run.to {
            let n = before(Day(day.0 + 1).begin()) - before(day.begin());
            if let Ok(n @ 1..) = u64::try_from(n) {
                let count = days.entry(day).or_default();
                *match run.state {
                    SlotState::Received => &mut count.received,
                    SlotState::Missed(_) | SlotState::Lost(_) => &mut count.missing,
                    SlotState::Unknown => &mut count.unknown,
                    SlotState::Late => &mut count.late,
                } += n;
            }
            day = Day(day.0 + 1);
        }
    }
    days
}

#[cfg(test)]
mod tests {
    use gapless_common::quality::Cause;

    use super::*;

    fn run(from: i64, slots: i64, interval: i64, state: SlotState) -> StripRun {
        let to = Timestamp(from + slots * interval);
        StripRun { from: Timestamp(from), to, slots: slots.cast_unsigned(), state }
    }

    #[test]
    fn every_slot_counts_on_its_own_day() {
        // Every 7 hours from 1 h on: 1, 8, 15, 22 | 5, 12, 19 | 2 …
        let hour = 3_600_000;
        let found = days(&[
            run(hour, 5, 7 * hour, SlotState::Received),
            run(36 * hour, 2, 7 * hour, SlotState::Lost(Cause::Unexplained)),
            run(50 * hour, 1, 7 * hour, SlotState::Late),
        ]);
        let rows = [
            (0, Count { received: 4, ..Count::default() }, Some(1_000)),
            (1, Count { received: 1, missing: 2, ..Count::default() }, Some(333)),
            (2, Count { late: 1, ..Count::default() }, None),
        ];
        assert_eq!(found.len(), rows.len());
        for (day, count, permille) in rows {
            assert_eq!((found[&Day(day)], found[&Day(day)].permille()), (count, permille), "day {day}");
        }
    }

    #[test]
    fn only_a_whole_day_is_whole() {
        let day = Count { received: 99_999, missing: 1, ..Count::default() };
        assert_eq!(day.permille(), Some(999));
        assert_eq!((Day(0).weekday(), Day(4).weekday(), Day(-4).weekday()), (3, 0, 6));
    }
}
