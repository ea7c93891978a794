//! Resampling one series into periods: mean, sum, minimum, maximum, count and coverage, as its aggregation allows.
//!
//! Pure: readings in, in order of time; finished periods out. Angles are averaged as vectors, counters give
//! their rise instead of a mean, and a period without a value has a count of 0 and no numbers.

use gapless_common::catalog::Aggregation;
use gapless_common::time::{Interval, SlotGrid, Timestamp};

/// One period of a resampled series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Period {
    /// Its begin; it ends where the next one begins.
    pub(super) from: Timestamp,
    /// Mean of the values; vector mean for angles (degrees, 0 to 360); `None` for counters and empty periods.
    pub(super) mean: Option<f64>,
    /// Least value; `None` for angles, which have none.
    pub(super) minimum: Option<f64>,
    /// Greatest value; `None` for angles.
    pub(super) maximum: Option<f64>,
    /// For counters: the rise within the period since the reading before it, a reset counted from zero.
    pub(super) rise: Option<f64>,
    /// For what is a sum over its period, such as the energy of a quarter of an hour: the sum of the values.
    pub(super) sum: Option<f64>,
    /// Number of values.
    pub(super) count: u64,
    /// How many of them another device measured.
    pub(super) lent: u64,
    /// Values ÷ slots due, at most 1; `None` where the device has no schedule.
    pub(super) coverage: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Sums {
    period: i64,
    count: u64,
    lent: u64,
    sum: f64,
    east: f64,
    north: f64,
    least: f64,
    greatest: f64,
    rise: f64,
}

impl Sums {
    const fn new(period: i64) -> Self {
        let (least, greatest) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { period, count: 0, lent: 0, sum: 0.0, east: 0.0, north: 0.0, least, greatest, rise: 0.0 }
    }

    fn add(&mut self, value: f64, is_lent: bool, before: Option<f64>) {
        let (sin, cos) = value.to_radians().sin_cos();
        self.count += 1;
        self.lent += u64::from(is_lent);
        self.sum += value;
        self.east += sin;
        self.north += cos;
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
        self.rise += match before {
            Some(before) if value >= before => value - before,
            Some(_) => value,
            None => 0.0,
        };
    }
}

/// Gathers one series; call [`push`](Self::push) for each value in order of time, or [`enter`](Self::enter) for each instant and
/// [`add`](Self::add) where it has a value; then [`finish`](Self::finish) once.
#[derive(Debug)]
pub(super) struct Resampler {
    every: SlotGrid,
    due: Option<SlotGrid>,
    aggregation: Aggregation,
    range: (Timestamp, Timestamp),
    current: Option<Sums>,
    before: Option<f64>,
}

impl Resampler {
    /// Periods of `every`, aligned to 1970-01-01T00:00:00Z; `due` is the device's schedule; `range` is what the
    /// values are of, half open, which may cut the first and the last period; `before` is the last value before it.
    pub(super) const fn new(
        every: Interval,
        due: Option<SlotGrid>,
        aggregation: Aggregation,
        range: (Timestamp, Timestamp),
        before: Option<f64>,
    ) -> Self {
        Self { every: SlotGrid::every(every), due, aggregation, range, current: None, before }
    }

    /// Takes a value, and whether another device measured it; gives the period before it, once that is over.
    pub(super) fn push(&mut self, at: Timestamp, value: f64, is_lent: bool) -> Option<Period> {
        let over = self.enter(at);
        self.add(value, is_lent);
        over
    }

    /// Goes on to the period of an instant, which is there from then on, though no value comes; gives the one before it, once
    /// that is over.
    pub(super) fn enter(&mut self, at: Timestamp) -> Option<Period> {
        let period = self.every.slot_at(at).0;
        match self.current {
            Some(sums) if sums.period == period => None,
            other => {
                self.current = Some(Sums::new(period));
                other.map(|sums| self.period(&sums))
            }
        }
    }

    /// Takes a value of the period that was entered last.
    pub(super) fn add(&mut self, value: f64, is_lent: bool) {
        let before = self.before.replace(value);
        if let Some(sums) = &mut self.current {
            sums.add(value, is_lent, before);
        }
    }

    /// The last period, if there was any.
    pub(super) fn finish(&mut self) -> Option<Period> {
        let sums = self.current.take()?;
        Some(self.period(&sums))
    }

    fn slots_due(&self, from: Timestamp) -> Option<i64> {
        let due = self.due?;
        let to = from.plus_ms(self.every.interval.as_ms()).min(self.range.1);
        let from = from.max(self.range.0);
        Some(due.first_from(to).0 - due.first_from(from).0)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of readings in a period are far below 2^53")]
    fn period(&self, sums: &Sums) -> Period {
        use gapless_common::time::Slot;
        let from = self.every.at(Slot(sums.period));
        let count = sums.count as f64;
        let (circular, counter) =
            (self.aggregation == Aggregation::CircularMean, self.aggregation == Aggregation::Counter);
        let mean = if circular {
            Some(sums.east.atan2(sums.north).to_degrees().rem_euclid(360.0))
        } else {
            Some(sums.sum / count)
        };
        // Of nothing there is no mean, and no rise of zero.
        let is_empty = sums.count == 0;
        let extreme = |value: f64| (!circular && !is_empty).then_some(value);
        Period {
            from,
            mean: mean.filter(|_| !counter && !is_empty),
            minimum: extreme(sums.least),
            maximum: extreme(sums.greatest),
            rise: (counter && !is_empty).then_some(sums.rise),
            sum: (self.aggregation == Aggregation::Sum && !is_empty).then_some(sums.sum),
            count: sums.count,
            lent: sums.lent,
            coverage: self.slots_due(from).filter(|&due| due > 0).map(|due| (count / due as f64).min(1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(aggregation: Aggregation, values: &[(i64, f64)]) -> Vec<Period> {
        within((0, 240_000), None, aggregation, values)
    }

    fn within(
        (from, to): (i64, i64),
        before: Option<f64>,
        aggregation: Aggregation,
        values: &[(i64, f64)],
    ) -> Vec<Period> {
        let minute = Interval::from_ms(60_000).unwrap();
        let due = SlotGrid::every(Interval::from_ms(15_000).unwrap());
        let mut resampler =
            Resampler::new(minute, Some(due), aggregation, (Timestamp(from), Timestamp(to)), before);
        let mut periods: Vec<_> =
            values.iter().filter_map(|&(at, v)| resampler.push(Timestamp(at), v, false)).collect();
        periods.extend(resampler.finish());
        periods
    }

    #[test]
    fn means_and_extremes_with_coverage() {
        let periods = run(Aggregation::Instant, &[(0, 1.0), (15_000, 2.0), (30_000, 6.0), (180_000, 5.0)]);
        assert_eq!(periods.len(), 2);
        let first = periods[0];
        assert_eq!((first.from, first.mean, first.count), (Timestamp(0), Some(3.0), 3));
        assert_eq!((first.minimum, first.maximum, first.coverage), (Some(1.0), Some(6.0), Some(0.75)));
        assert_eq!((periods[1].from, periods[1].coverage), (Timestamp(180_000), Some(0.25)));
    }

    #[test]
    fn only_what_is_a_sum_is_summed() {
        let sum = |aggregation| run(aggregation, &[(0, 0.25), (15_000, 0.5), (30_000, 1.25)])[0].sum;
        assert_eq!(sum(Aggregation::Sum), Some(2.0));
        for other in
            [Aggregation::Instant, Aggregation::Mean, Aggregation::Counter, Aggregation::CircularMean]
        {
            assert_eq!(sum(other), None, "{other:?}");
        }
    }

    #[test]
    fn angles_are_averaged_as_vectors() {
        let north = run(Aggregation::CircularMean, &[(0, 350.0), (15_000, 10.0)])[0];
        let mean = north.mean.unwrap();
        assert!(!(1e-9..=360.0 - 1e-9).contains(&mean), "{mean}");
        assert_eq!((north.minimum, north.maximum), (None, None));
    }

    #[test]
    fn a_range_may_cut_its_first_and_last_period() {
        let values = [(30_000, 12.0), (45_000, 14.0), (60_000, 15.0)];
        let rows = within((30_000, 75_000), Some(9.0), Aggregation::Counter, &values);
        let told: Vec<_> = rows.iter().map(|p| (p.rise, p.coverage)).collect();
        assert_eq!(told, [(Some(5.0), Some(1.0)), (Some(1.0), Some(1.0))]);
    }

    #[test]
    fn counters_rise_and_survive_a_reset() {
        let rows = run(Aggregation::Counter, &[(0, 10.0), (30_000, 14.0), (60_000, 15.0), (90_000, 2.0)]);
        assert_eq!((rows[0].rise, rows[0].mean), (Some(4.0), None));
        assert_eq!(rows[1].rise, Some(3.0));
    }
}
