//! Periods of a complete grid: each one in which a slot was due is there, and says why where it has no value.
//!
//! Pure: rows of the complete grid of one series in, in order of time; finished periods out. How values make a period is in
//! [`resample`](super::resample).

use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::Value;

use super::resample::{Period, Resampler};
use crate::store::model::{Absence, AbsentSlot, GridRow};

/// What there is of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// A reading of each slot.
    Received,
    /// Values, and slots without a reading.
    Partial,
    /// No value, and slots without a reading.
    Absent(Absence),
}

/// A period, and what stands beside it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Marked {
    pub(super) period: Period,
    pub(super) standing: Standing,
    /// Of the first reading, where none has a value that counts.
    pub(super) quality: Option<Quality>,
    /// Why slots have no reading.
    pub(super) cause: Option<Cause>,
    /// The gap that they are of.
    pub(super) gap: Option<i64>,
}

/// What was seen of a period.
#[derive(Debug, Default)]
struct Seen {
    quality: Option<Quality>,
    absent: Option<AbsentSlot>,
}

impl Seen {
    /// Of several slots that which tells most of what may still become of the period; of equal ones the first.
    fn lacks(&mut self, slot: &AbsentSlot) {
        if self.absent.as_ref().is_none_or(|first| weight(slot.absence) > weight(first.absence)) {
            self.absent = Some(*slot);
        }
    }

    fn mark(self, period: Period) -> Marked {
        let is_empty = period.count == 0;
        let standing = match &self.absent {
            None => Standing::Received,
            Some(_) if !is_empty => Standing::Partial,
            Some(slot) => Standing::Absent(slot.absence),
        };
        let (cause, gap) = self.absent.map_or((None, None), |slot| (slot.cause, slot.gap));
        Marked { period, standing, quality: self.quality.filter(|_| is_empty), cause, gap }
    }
}

/// What may still come says more than what never will.
const fn weight(absence: Absence) -> u8 {
    match absence {
        Absence::Pending => 3,
        Absence::Unknown => 2,
        Absence::NoData => 1,
        Absence::Missing => 0,
    }
}

/// Gathers one series; call [`push`](Self::push) for each row in order of time, then [`finish`](Self::finish) once.
#[derive(Debug)]
pub(super) struct CompletePeriods {
    resampler: Resampler,
    seen: Seen,
}

impl CompletePeriods {
    pub(super) fn new(resampler: Resampler) -> Self {
        Self { resampler, seen: Seen::default() }
    }

    /// Takes a row; gives the period before it, once that is over.
    pub(super) fn push(&mut self, row: &GridRow) -> Option<Marked> {
        let at = match row {
            GridRow::Reading(reading) => reading.at,
            GridRow::Absent(slot) => slot.at,
        };
        let over = self.resampler.enter(at).map(|period| std::mem::take(&mut self.seen).mark(period));
        match row {
            GridRow::Absent(slot) => self.seen.lacks(slot),
            GridRow::Reading(reading) => match reading.value {
                Some(Value::Number(value)) => self.resampler.add(value, reading.lent),
                _ => drop(self.seen.quality.get_or_insert(reading.quality)),
            },
        }
        over
    }

    /// The last period, if there was any row.
    pub(super) fn finish(&mut self) -> Option<Marked> {
        let period = self.resampler.finish()?;
        Some(std::mem::take(&mut self.seen).mark(period))
    }
}

#[cfg(test)]
mod tests {
    use gapless_common::catalog::Aggregation;
    use gapless_common::id::Commit;
    use gapless_common::time::{Interval, SlotGrid, Timestamp};

    use super::*;
    use crate::store::model::{SeriesNo, StoredReading};

    fn reading(at: i64, value: Option<f64>) -> GridRow {
        let (value, quality) = match value {
            Some(value) => (Some(Value::Number(value)), Quality::Good),
            None => (None, Quality::BadNoAnswer),
        };
        GridRow::Reading(StoredReading {
            series: SeriesNo(1),
            at: Timestamp(at),
            value,
            quality,
            lent: false,
            commit: Commit(1),
        })
    }

    fn absent(at: i64, absence: Absence, gap: Option<i64>) -> GridRow {
        let cause = gap.map(|_| Cause::NoAnswer);
        GridRow::Absent(AbsentSlot { series: SeriesNo(1), at: Timestamp(at), absence, cause, gap })
    }

    /// Number of values, and what stands beside.
    type Told = (u64, Standing, Option<Quality>, Option<i64>);

    /// Minutes with a slot every 15 s.
    fn periods_of(rows: &[GridRow]) -> Vec<Marked> {
        let every = |ms| Interval::from_ms(ms).unwrap();
        let due = Some(SlotGrid::every(every(15_000)));
        let range = (Timestamp(0), Timestamp(600_000));
        let resampler = Resampler::new(every(60_000), due, Aggregation::Counter, range, Some(1.0));
        let mut periods = CompletePeriods::new(resampler);
        let mut all: Vec<_> = rows.iter().filter_map(|row| periods.push(row)).collect();
        all.extend(periods.finish());
        all
    }

    /// Of each minute: begin in seconds, and the rest.
    fn told(rows: &[GridRow]) -> Vec<(i64, Told)> {
        let all = periods_of(rows);
        for marked in all.iter().filter(|marked| marked.period.count == 0) {
            let period = marked.period;
            let values = [period.mean, period.minimum, period.maximum, period.rise];
            assert_eq!((values, period.coverage), ([None; 4], Some(0.0)), "no value is no zero: {marked:?}");
        }
        let row = |m: &Marked| (m.period.from.0 / 1_000, (m.period.count, m.standing, m.quality, m.gap));
        all.iter().map(row).collect()
    }

    #[test]
    fn a_period_says_what_there_is_of_it_and_why_where_that_is_nothing() {
        use Absence::{Missing, NoData, Pending, Unknown};
        let (good, bad) = (reading(0, Some(2.0)), Some(Quality::BadNoAnswer));
        let rows: [(&[GridRow], Told); 8] = [
            (&[good.clone(), reading(15_000, Some(3.0))], (2, Standing::Received, None, None)),
            (&[good.clone(), reading(15_000, None)], (1, Standing::Received, None, None)),
            (&[reading(0, None)], (0, Standing::Received, bad, None)),
            (&[good, absent(15_000, Missing, Some(7))], (1, Standing::Partial, None, Some(7))),
            (
                &[reading(0, None), absent(15_000, NoData, Some(7))],
                (0, Standing::Absent(NoData), bad, Some(7)),
            ),
            (
                &[
                    absent(0, Missing, Some(7)),
                    absent(15_000, NoData, Some(8)),
                    absent(30_000, NoData, Some(9)),
                ],
                (0, Standing::Absent(NoData), None, Some(8)),
            ),
            (
                &[absent(0, Unknown, None), absent(15_000, Pending, None)],
                (0, Standing::Absent(Pending), None, None),
            ),
            (
                &[absent(0, Unknown, None), absent(15_000, Missing, Some(7))],
                (0, Standing::Absent(Unknown), None, None),
            ),
        ];
        for (rows, expected) in rows {
            assert_eq!(told(rows), [(0, expected)], "{rows:?}");
        }
    }

    #[test]
    fn a_period_says_how_many_of_its_values_another_device_measured() {
        let lent = |at: i64, value: Option<f64>| match reading(at, value) {
            GridRow::Reading(reading) => GridRow::Reading(StoredReading { lent: true, ..reading }),
            row @ GridRow::Absent(_) => row,
        };
        let missing = |at| absent(at, Absence::Missing, Some(7));
        let rows = [
            reading(0, Some(1.0)),
            lent(15_000, Some(2.0)),
            lent(30_000, Some(3.0)),
            missing(45_000),
            lent(60_000, Some(4.0)),
            reading(120_000, Some(5.0)),
            lent(180_000, None),
        ];
        let periods = periods_of(&rows);
        let told: Vec<_> = periods.iter().map(|m| (m.period.count, m.period.lent)).collect();
        assert_eq!(told, [(3, 2), (1, 1), (1, 0), (0, 0)], "what counts is a value");
    }

    #[test]
    fn each_period_with_a_slot_is_there_once_and_in_order() {
        let missing = |at| absent(at, Absence::Missing, Some(7));
        let rows = [
            missing(45_000),
            reading(60_000, Some(2.0)),
            missing(120_000),
            missing(135_000),
            reading(185_000, Some(9.0)),
        ];
        let stands = [Standing::Absent(Absence::Missing), Standing::Received];
        let told: Vec<_> =
            told(&rows).into_iter().map(|(from, (count, standing, ..))| (from, count, standing)).collect();
        assert_eq!(told, [(0, 0, stands[0]), (60, 1, stands[1]), (120, 0, stands[0]), (180, 1, stands[1])]);
    }
}
