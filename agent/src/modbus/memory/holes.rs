//! Stretches of slots that are read without being asked for: what lies between two records that were seen one after the
//! other as the newest. Reads nothing.

use std::collections::VecDeque;

use gapless_common::time::{Slot, Timestamp};

/// Holes that wait at most; more are joined, and what lies between is read once more.
const HOLES_MAX: usize = 64;

/// A stretch of slots that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Tells it from all others; given by [`Holes::add`].
    pub id: u64,
    /// The first slot of which neither a record nor its lack was told.
    pub cursor: Slot,
    /// The first slot behind it.
    pub end: Slot,
    /// Where reading begins: one slot can have several records.
    pub seek: Slot,
    /// Records of it are later than this, and earlier than the next.
    pub after: Timestamp,
    /// See above.
    pub until: Timestamp,
    /// The record at `until`: generation and number.
    pub until_no: Option<(u64, i64)>,
    /// Times do not rise in it: all of the memory is looked through.
    pub is_mixed: bool,
}

impl Hole {
    /// Whether nothing of it is left, when `next` is the record that follows: generation and number.
    #[must_use]
    pub fn is_over(&self, next: (u64, i64)) -> bool {
        let has_more = self.until_no.is_some_and(|(generation, no)| generation == next.0 && next.1 < no);
        self.cursor >= self.end && !has_more
    }

    /// A record of it was told.
    pub fn told(&mut self, slot: Slot, at: Timestamp) {
        self.after = at;
        self.seek = slot;
        self.cursor = self.cursor.max(slot.plus(1)).min(self.end);
    }
}

/// All that wait, the first one in front.
#[derive(Debug, Default)]
pub struct Holes {
    all: VecDeque<Hole>,
    added: u64,
}

impl Holes {
    /// One more.
    pub fn add(&mut self, hole: Hole) {
        let is_full = self.all.len() >= HOLES_MAX;
        self.added += 1;
        match self.all.back_mut().filter(|_| is_full) {
            Some(last) => {
                last.cursor = last.cursor.min(hole.cursor);
                last.seek = last.seek.min(hole.seek);
                last.after = last.after.min(hole.after);
                last.is_mixed |= hole.is_mixed;
                last.end = last.end.max(hole.end);
                last.until = last.until.max(hole.until);
                last.until_no = hole.until_no;
            }
            None => self.all.push_back(Hole { id: self.added, ..hole }),
        }
    }

    /// The one whose turn it is.
    #[must_use]
    pub fn front(&self) -> Option<&Hole> {
        self.all.front()
    }

    /// What of the one whose turn it is was read.
    pub fn set_front(&mut self, hole: Hole) {
        if let Some(front) = self.all.front_mut() {
            *front = hole;
        }
    }

    /// The one whose turn it was has been read.
    pub fn pop(&mut self) -> Option<Hole> {
        self.all.pop_front()
    }

    /// The first slot from `open` on that is still to be read.
    #[must_use]
    pub fn first_from(&self, open: Slot) -> Option<Slot> {
        self.all.iter().filter(|hole| hole.end > open).map(|hole| hole.cursor.max(open)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_place_any_more_is_joined_and_nothing_of_it_is_lost() {
        let hole = |cursor: i64, end: i64, is_mixed: bool| Hole {
            id: 0,
            cursor: Slot(cursor),
            end: Slot(end),
            seek: Slot(cursor - 1),
            after: Timestamp(cursor),
            until: Timestamp(end),
            until_no: None,
            is_mixed,
        };
        let mut holes = Holes::default();
        for place in 0..i64::try_from(HOLES_MAX).unwrap() {
            holes.add(hole(1_000 + 10 * place, 1_005 + 10 * place, false));
        }
        let rows = [(2_000, 2_005, false, (1_630, 2_005)), (1_500, 1_700, true, (1_500, 2_005))];
        for (cursor, end, is_mixed, (first, last)) in rows {
            holes.add(hole(cursor, end, is_mixed));
            let id = holes.added.min(HOLES_MAX.try_into().unwrap());
            let expected = Hole { id, ..hole(first, last, is_mixed) };
            assert_eq!(holes.all.back(), Some(&expected), "{cursor} to {end}");
            assert_eq!(holes.all.len(), HOLES_MAX);
        }
    }
}
