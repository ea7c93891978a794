//! Where in a memory a time is: records are numbered and their times rise, but a meter without power writes none, so that
//! numbers and slots do not run alike. What is known of a few records narrows down where the next one must be. Asks for
//! nothing.

use std::collections::BTreeMap;

use gapless_common::time::{Slot, Timestamp};

use super::extent::Extent;

/// Records that are remembered at most; the oldest are forgotten.
const MARKS_MAX: usize = 64;

/// Where a record is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// It is this one.
    Here(i64),
    /// What is at this place tells more.
    Probe(i64),
    /// All records are older.
    Nowhere,
    /// What is known cannot be of one memory whose times rise.
    Mixed,
}

/// What is known of a memory.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    known: BTreeMap<i64, (Slot, Timestamp)>,
    /// The last place that was never written: all before it are so, too.
    blank: Option<i64>,
}

impl Marks {
    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets what is no longer there.
    pub fn keep(&mut self, extent: Extent) {
        self.known.retain(|no, _| extent.has(*no));
        // A place that is next to be written may be by now.
        self.blank = self.blank.filter(|no| extent.has(*no) && *no < extent.newest - 1);
    }

    /// Nothing was ever written there.
    pub fn note_blank(&mut self, no: i64) {
        self.blank = self.blank.max(Some(no));
    }

    /// The last place that was never written.
    #[must_use]
    pub const fn blank(&self) -> Option<i64> {
        self.blank
    }

    /// Takes in a record; `false` where its time does not lie between those of its neighbours, which cannot be.
    pub fn note(&mut self, no: i64, slot: Slot, at: Timestamp) -> bool {
        let before = self.known.range(..no).next_back();
        let after = self.known.range(no + 1..).next();
        let same = self.known.get(&no).is_none_or(|known| known.1 == at);
        let fits =
            before.is_none_or(|(_, known)| known.1 < at) && after.is_none_or(|(_, known)| at < known.1);
        if fits && same {
            self.known.insert(no, (slot, at));
            if self.known.len() > MARKS_MAX {
                self.known.pop_first();
            }
        }
        fits && same
    }

    /// What is known of a record.
    #[must_use]
    pub fn at(&self, no: i64) -> Option<(Slot, Timestamp)> {
        self.known.get(&no).copied()
    }

    /// Whether a time is that of a known record, or later than all.
    #[must_use]
    pub fn is_newest_or_known(&self, at: Timestamp) -> bool {
        self.known.values().all(|(_, known)| *known < at)
            || self.known.values().any(|(_, known)| *known == at)
    }

    /// Where the first record of `slot` or later is.
    #[must_use]
    pub fn find(&self, extent: Extent, slot: Slot) -> Where {
        let first = extent.oldest.max(self.blank.map_or(i64::MIN, |no| no + 1));
        if first > extent.newest {
            return Where::Nowhere;
        }
        let within = || self.known.range(first..=extent.newest);
        let before = within().rfind(|(_, (known, _))| *known < slot).map(|(no, (known, _))| (*no, *known));
        let after = within().find(|(_, (known, _))| *known >= slot).map(|(no, (known, _))| (*no, *known));
        // A slot has one record at most: the place is no further from a known one than its time is.
        let least = before.map_or(first, |(no, _)| no + 1);
        let least = after.map_or(least, |(no, known)| least.max(no.saturating_sub(known.0 - slot.0)));
        let most = after.map_or(extent.newest + 1, |(no, _)| no);
        let most = before.map_or(most, |(no, known)| most.min(no.saturating_add(slot.0 - known.0)));
        match (before, after) {
            _ if least > extent.newest => Where::Nowhere,
            _ if least > most => Where::Mixed,
            _ if least == most => Where::Here(least),
            // The one before the newest: that may be half written.
            (None, None) => Where::Probe((extent.newest - 1).max(first)),
            (None, Some(_)) => Where::Probe(least),
            (Some(_), None) if most > extent.newest => Where::Probe(extent.newest),
            (Some(_), _) => Where::Probe(least + (most - least) / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(marks: &mut Marks, no: i64, slot: i64) -> bool {
        marks.note(no, Slot(slot), Timestamp(slot * 1_000))
    }

    #[test]
    fn times_must_rise_with_the_numbers() {
        let mut marks = Marks::default();
        let rows = [(10, 100, true), (20, 110, true), (15, 105, true), (15, 105, true), (16, 105, false)];
        let rows =
            rows.into_iter().chain([(14, 120, false), (15, 104, false), (21, 111, true), (9, 100, false)]);
        for (no, slot, fits) in rows {
            assert_eq!(mark(&mut marks, no, slot), fits, "{no} at {slot}");
        }
    }

    /// Looks for `slot` among records at `slots`, the number of the first being `oldest`; says which one was found, and
    /// after how many probes.
    fn look_for(slots: &[i64], oldest: i64, slot: i64) -> (Option<i64>, usize) {
        let count = i64::try_from(slots.len()).unwrap();
        let extent = Extent { oldest, newest: oldest + count - 1 };
        let mut marks = Marks::default();
        for probes in 0.. {
            match marks.find(extent, Slot(slot)) {
                Where::Here(no) => return (Some(no), probes),
                Where::Nowhere => return (None, probes),
                Where::Mixed => panic!("{slots:?}"),
                Where::Probe(no) => {
                    let known = slots[usize::try_from(no - oldest).unwrap()];
                    assert!(mark(&mut marks, no, known));
                }
            }
        }
        unreachable!("a loop without end")
    }

    #[test]
    fn a_memory_without_holes_is_found_in_at_two_probes() {
        let slots: Vec<i64> = (5_000..8_000).collect();
        assert_eq!(look_for(&slots, 70, 6_000), (Some(1_070), 2));
        assert_eq!(look_for(&slots, 70, 4_000), (Some(70), 2));
        assert_eq!(look_for(&slots, 70, 7_999), (Some(3_069), 1));
        assert_eq!(look_for(&slots, 70, 8_000), (None, 2));
    }

    proptest! {
        #[test]
        fn the_first_record_of_a_time_is_found_however_many_lack(
            steps in prop::collection::vec(prop_oneof![9 => Just(1_i64), 1 => 2_i64..500], 1..300),
            from in -5_i64..3_000,
        ) {
            let slots: Vec<i64> = steps.iter().scan(0, |at, step| { *at += step; Some(*at) }).collect();
            let expected = slots.iter().position(|slot| *slot >= from).map(|at| i64::try_from(at).unwrap() + 7);
            let (found, probes) = look_for(&slots, 7, from);
            prop_assert_eq!(found, expected);
            prop_assert!(probes <= 14, "{} probes for {} records", probes, slots.len());
        }
    }
}
