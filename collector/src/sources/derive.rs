//! Values that are the product of two others of the same period: there where both are, and missing where one is. Pure.

use std::collections::BTreeMap;

use gapless_common::catalog::PeriodLabel;
use gapless_common::quality::{Cause, Quality};
use gapless_common::time::{SlotGrid, Timestamp};

use super::rows::{Cell, Row};

/// How the times of a series name its periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Periods {
    /// Its slots.
    pub(crate) grid: SlotGrid,
    /// Which end of a period the instant of a slot names.
    pub(crate) label: PeriodLabel,
}

impl Periods {
    /// The begin of the period that a reading of that time is of.
    pub(crate) fn begin(&self, at: Timestamp) -> Timestamp {
        let slot = self.grid.at(self.grid.slot_at(at));
        match self.label {
            PeriodLabel::Start => slot,
            PeriodLabel::End => slot.plus_ms(-self.interval_ms()),
        }
    }

    /// The instant of the slot whose period begins there.
    pub(crate) fn instant(&self, begin: Timestamp) -> Timestamp {
        match self.label {
            PeriodLabel::Start => begin,
            PeriodLabel::End => begin.plus_ms(self.interval_ms()),
        }
    }

    /// Whether each of its periods is one of `other`, too.
    pub(crate) fn are_those_of(&self, other: &Self) -> bool {
        let aligned = |at| other.begin(other.instant(at)) == at;
        self.grid.interval == other.grid.interval
            && aligned(self.begin(self.grid.at(self.grid.slot_at(Timestamp(0)))))
    }

    fn interval_ms(&self) -> i64 {
        self.grid.interval.as_ms()
    }
}

/// What is known of an input in a range.
#[derive(Debug, Clone, Default)]
pub(crate) struct Input {
    /// Its readings, by the begin of their period.
    pub(crate) cells: BTreeMap<Timestamp, Cell>,
    /// Begins of periods (half open) that are missing, and why.
    pub(crate) gaps: Vec<(Timestamp, Timestamp, Cause)>,
    /// Begins of periods (half open) that were due at all.
    pub(crate) due: Vec<(Timestamp, Timestamp)>,
}

impl Input {
    fn cause(&self, begin: Timestamp) -> Option<Cause> {
        let mut holding = self.gaps.iter().filter(|(from, to, _)| *from <= begin && begin < *to);
        let cause = holding.next().map(|(.., cause)| *cause);
        let is_due = || self.due.iter().any(|(from, to)| *from <= begin && begin < *to);
        // What was not due then is nobody's gap, and yet nothing can be computed from it.
        cause.or_else(|| (!self.cells.contains_key(&begin) && !is_due()).then_some(Cause::Paused))
    }
}

/// The rows of the product, where both inputs say something.
pub(crate) fn product(periods: &Periods, [a, b]: &[Input; 2]) -> Vec<Row> {
    let both = a.cells.iter().filter_map(|(begin, cell)| Some((begin, cell, b.cells.get(begin)?)));
    both.map(|(begin, a, b)| Row { at: periods.instant(*begin), cells: vec![Some(times(*a, *b))] }).collect()
}

/// Why there is none for a period.
pub(crate) fn why(inputs: &[Input; 2], begin: Timestamp) -> Cause {
    inputs.iter().find_map(|input| input.cause(begin)).unwrap_or(Cause::NotRecorded)
}

fn times(a: Cell, b: Cell) -> Cell {
    let worse = if a.1 == Quality::Good { b.1 } else { a.1 };
    match (a.0, b.0) {
        (Some(x), Some(y)) if (x * y).is_finite() => (Some(x * y), worse),
        (Some(_), Some(_)) => (None, Quality::BadInvalid),
        (None, _) => (None, a.1),
        (_, None) => (None, b.1),
    }
}

#[cfg(test)]
mod tests {
    use gapless_common::time::Interval;

    use super::*;

    const HALF_HOUR_MS: i64 = 1_800_000;

    fn every(ms: u64, label: PeriodLabel) -> Periods {
        Periods { grid: SlotGrid::every(Interval::from_ms(ms).unwrap()), label }
    }

    fn half_hours(label: PeriodLabel) -> Periods {
        every(1_800_000, label)
    }

    fn good(value: f64) -> Cell {
        (Some(value), Quality::Good)
    }

    #[test]
    fn a_period_has_one_begin_whichever_end_its_time_names() {
        let (start, end) = (half_hours(PeriodLabel::Start), half_hours(PeriodLabel::End));
        let begin = Timestamp(10 * HALF_HOUR_MS);
        assert_eq!(start.begin(begin.plus_ms(3)), begin);
        assert_eq!(end.begin(begin.plus_ms(HALF_HOUR_MS)), begin);
        assert_eq!((start.instant(begin), end.instant(begin)), (begin, begin.plus_ms(HALF_HOUR_MS)));
        assert!(start.are_those_of(&end) && end.are_those_of(&start));
        let other = every(900_000, PeriodLabel::Start);
        assert!(!other.are_those_of(&start));
        let mut shifted = start;
        shifted.grid.phase_ms = 60_000;
        assert!(!shifted.are_those_of(&start));
    }

    #[test]
    fn a_value_is_there_where_both_are_and_as_bad_as_the_worse() {
        let at = |n: i64| Timestamp(n * HALF_HOUR_MS);
        let a = [(1, good(2.0)), (2, good(3.0)), (3, (None, Quality::BadInvalid)), (4, good(1e300))];
        let b = [(1, good(100.0)), (3, good(7.0)), (4, good(1e300)), (5, good(1.0))];
        let input = |cells: &[(i64, Cell)], gaps| Input {
            cells: cells.iter().map(|(n, cell)| (at(*n), *cell)).collect(),
            gaps,
            due: vec![(at(0), at(7))],
        };
        let inputs = [
            input(&a, vec![(at(5), at(6), Cause::NoAnswer)]),
            input(&b, vec![(at(2), at(3), Cause::BudgetFull)]),
        ];
        let rows = product(&half_hours(PeriodLabel::End), &inputs);
        let rows: Vec<_> = rows.iter().map(|row| (row.at.0 / HALF_HOUR_MS, row.cells[0].unwrap())).collect();
        let invalid = (None, Quality::BadInvalid);
        assert_eq!(rows, [(2, good(200.0)), (4, invalid), (5, invalid)], "under the ends of 1, 3 and 4");
        let causes: Vec<_> = [2, 5, 6, 7].iter().map(|n| why(&inputs, at(*n))).collect();
        assert_eq!(causes, [Cause::BudgetFull, Cause::NoAnswer, Cause::NotRecorded, Cause::Paused]);
    }
}
