//! A stretch of slots of which no record has come, though the logger may have them: asked for again window by window,
//! the oldest first, because those are overwritten next. What does not come is gone, and the numbers of the records on
//! both sides say why. Knows no table and no link.

use gapless_common::quality::Cause;
use gapless_common::time::Slot;

/// A record that came, by what holes need of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub no: u64,
    /// Its slot.
    pub slot: Slot,
}

/// Slots that no record will come of, and why.
pub type Gone = ((Slot, Slot), Cause);

/// How often a part of a window is asked for by itself where its numbers say that records of it exist.
const TRIES_MAX: u8 = 2;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// The first slot whose fate is not known.
    missing: Slot,
    /// The first slot that was not asked for.
    cursor: Slot,
    /// The first slot that is not part of it.
    end: Slot,
    before: Option<Mark>,
    after: Option<Mark>,
    /// Why a record is missing where numbers of before and after say nothing of each other.
    known: Option<Cause>,
    /// The numbers say nothing of how much is in it.
    is_stepwise: bool,
    tries: u8,
}

impl Hole {
    /// The slots from `first` up to before `end`, between two records; `None` where there are none.
    #[must_use]
    pub fn new((first, end): (Slot, Slot), before: Option<Mark>, after: Option<Mark>) -> Option<Self> {
        let new = Self {
            missing: first,
            cursor: first,
            end,
            before,
            after,
            known: None,
            is_stepwise: false,
            tries: 0,
        };
        (first < end).then_some(new)
    }

    /// The table was made anew: what it had is gone.
    #[must_use]
    pub const fn erased(self) -> Self {
        Self { known: Some(Cause::Overwritten), ..self }
    }

    /// The logger's clock was set back: some of it may never have been recorded.
    #[must_use]
    pub const fn of_set_clock(self) -> Self {
        Self { known: Some(Cause::NotRecorded), ..self }
    }

    /// The first slot whose fate is not known.
    #[must_use]
    pub const fn first(&self) -> Slot {
        self.missing
    }

    /// The first slot that is not part of it.
    #[must_use]
    pub const fn end(&self) -> Slot {
        self.end
    }

    /// From now on it is asked for slot by slot, whatever its numbers say.
    pub const fn go_stepwise(&mut self) {
        self.is_stepwise = true;
    }

    /// The next slots to ask for, half open: at most `count`, or all where the numbers say that there are no more records.
    #[must_use]
    pub fn window(&self, count: i64) -> (Slot, Slot) {
        let held =
            self.before.zip(self.after).and_then(|(before, after)| after.no.checked_sub(before.no + 1));
        let are_few = held.and_then(|held| i64::try_from(held).ok()).is_some_and(|held| held <= count);
        if are_few && self.known.is_none() && !self.is_stepwise {
            return (self.cursor, self.end);
        }
        (self.cursor, self.cursor.plus(count.max(1)).min(self.end))
    }

    /// Takes in what was answered of the window up to `to`: what is gone, and parts that are to be asked for again by
    /// themselves. `more` says that the answer broke off after its last record.
    pub fn answered(&mut self, marks: &[Mark], more: bool, to: Slot) -> (Vec<Gone>, Vec<Self>) {
        let (mut gone, mut again) = (Vec::new(), Vec::new());
        let first_no = marks.first().map(|mark| mark.no);
        for mark in marks {
            if mark.slot > self.missing {
                let range = (self.missing, mark.slot);
                // Behind the first record of an answer nothing was overwritten: what has a number is there.
                let is_inner = first_no != Some(mark.no);
                let cause = self.cause(Some(*mark));
                match Self::new(range, self.before, Some(*mark)) {
                    Some(part) if is_inner && cause == Cause::Overwritten && self.tries < TRIES_MAX => {
                        again.push(Self { tries: self.tries + 1, ..part });
                    }
                    _ => gone.push(((range.0, range.1.plus(-1)), cause)),
                }
            }
            self.missing = self.missing.max(mark.slot.plus(1));
            (self.before, self.known) = (Some(*mark), None);
        }
        let broke_off = marks.last().filter(|_| more).map(|last| last.slot.plus(1));
        self.cursor =
            broke_off.unwrap_or(to).max(self.cursor.plus(i64::from(broke_off.is_some()))).min(self.end);
        if self.is_over() && self.missing < self.end {
            gone.push(((self.missing, self.end.plus(-1)), self.cause(self.after)));
            self.missing = self.end;
        }
        (gone, again)
    }

    /// Gives up the slot that is next to be asked for: no answer of it can be read.
    pub fn skip(&mut self) -> Gone {
        let gone = ((self.cursor, self.cursor), Cause::Corrupt);
        self.cursor = self.cursor.plus(1);
        self.missing = self.cursor;
        gone
    }

    /// Whether all of it has been asked for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.cursor >= self.end
    }

    /// Takes over what lies behind it, too.
    pub fn extend(&mut self, other: &Self) {
        (self.end, self.after) = (self.end.max(other.end), other.after);
    }

    /// Why there is no record between the last one that came and `after`.
    fn cause(&self, after: Option<Mark>) -> Cause {
        if let Some(cause) = self.known {
            return cause;
        }
        match (self.before, after) {
            (Some(before), Some(after)) if after.no == before.no + 1 => Cause::NotRecorded,
            // Number 0 is the first record of a table.
            (None, Some(Mark { no: 0, .. })) => Cause::NotRecorded,
            _ => Cause::Overwritten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(no: u64, slot: i64) -> Mark {
        Mark { no, slot: Slot(slot) }
    }

    fn hole(first: i64, end: i64, before: Option<Mark>, after: Option<Mark>) -> Hole {
        Hole::new((Slot(first), Slot(end)), before, after).unwrap()
    }

    fn told(gone: &[Gone]) -> String {
        let each =
            gone.iter().map(|((first, last), cause)| format!("{}-{} {}", first.0, last.0, cause.slug()));
        each.collect::<Vec<_>>().join(", ")
    }

    /// (slots of the hole, record before, record after, records that come, what is gone)
    type Row<'a> = (i64, i64, Option<Mark>, Option<Mark>, &'a [Mark], &'a str);

    #[test]
    fn numbers_say_why_a_record_is_missing() {
        let all: Vec<Mark> = (10_i64..20).map(|n| mark(n.unsigned_abs(), n)).collect();
        let rows: [Row<'_>; 8] = [
            (10, 20, Some(mark(9, 9)), Some(mark(20, 20)), &all, ""),
            (10, 20, Some(mark(9, 9)), Some(mark(20, 20)), &all[4..], "10-13 overwritten"),
            (10, 20, Some(mark(9, 9)), Some(mark(20, 20)), &[], "10-19 overwritten"),
            (10, 20, Some(mark(9, 9)), Some(mark(10, 20)), &[], "10-19 not_recorded"),
            (10, 20, Some(mark(13, 9)), Some(mark(20, 20)), &all[4..], "10-13 not_recorded"),
            (10, 20, None, Some(mark(20, 20)), &all[4..], "10-13 overwritten"),
            (10, 20, None, Some(mark(3, 20)), &[mark(0, 17), mark(1, 18), mark(2, 19)], "10-16 not_recorded"),
            (
                10,
                20,
                Some(mark(9, 9)),
                Some(mark(11, 20)),
                &[mark(10, 15)],
                "10-14 not_recorded, 16-19 not_recorded",
            ),
        ];
        for (first, end, before, after, marks, expected) in rows {
            let mut hole = hole(first, end, before, after);
            let (gone, again) = hole.answered(marks, false, Slot(end));
            assert_eq!((told(&gone).as_str(), again.len(), hole.is_over()), (expected, 0, true), "{hole:?}");
        }
    }

    #[test]
    fn windows_follow_one_another_and_a_hole_that_is_partly_gone_is_read_to_its_end() {
        let mut hole = hole(0, 10, None, Some(mark(10, 10)));
        assert_eq!(hole.window(4), (Slot(0), Slot(4)));
        assert_eq!(hole.answered(&[], false, Slot(4)), (vec![], vec![]));
        assert_eq!(hole.window(4), (Slot(4), Slot(8)));
        let (gone, _) = hole.answered(&[mark(5, 5), mark(6, 6)], true, Slot(8));
        assert_eq!(told(&gone), "0-4 overwritten");
        assert_eq!((hole.window(4), hole.first()), ((Slot(7), Slot(10)), Slot(7)));
        let (gone, _) = hole.answered(&[mark(7, 7), mark(8, 8), mark(9, 9)], false, Slot(10));
        assert_eq!((gone, hole.is_over()), (vec![], true));
    }

    #[test]
    fn what_lacks_in_the_middle_of_an_answer_is_asked_for_by_itself_and_not_for_ever() {
        let mut hole = hole(0, 4, Some(mark(9, -1)), Some(mark(14, 4)));
        let (gone, again) = hole.answered(&[mark(10, 0), mark(13, 3)], false, Slot(4));
        assert_eq!((gone, again.len()), (vec![], 1));
        let mut part = again[0];
        assert_eq!(part.window(100), (Slot(1), Slot(3)));
        let (gone, again) = part.answered(&[], false, Slot(3));
        assert_eq!((told(&gone).as_str(), again.len()), ("1-2 overwritten", 0));
    }

    #[test]
    fn a_table_made_anew_has_lost_what_it_had() {
        let mut hole = hole(0, 10, Some(mark(70, -1)), Some(mark(2, 10))).erased();
        let (gone, _) = hole.answered(&[mark(0, 8), mark(1, 9)], false, Slot(10));
        assert_eq!(told(&gone), "0-7 overwritten");
    }

    #[test]
    fn a_slot_that_cannot_be_read_is_skipped() {
        let mut hole = hole(0, 2, None, None);
        assert_eq!(told(&[hole.skip()]), "0-0 corrupt");
        assert_eq!((hole.window(5), hole.is_over()), ((Slot(1), Slot(2)), false));
    }
}
