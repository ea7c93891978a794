//! Where in a memory a time is: records are numbered and their times rise, but a meter without power writes none, so that
//! numbers and slots do not run alike. What is known of a few records narrows down where the next one must be. Asks for
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::{Slot, Timestamp};

use super::extent::Extent;

/// Records that are remembered at most, and places without one. What is farthest from the newest look is forgotten, never
/// what the next look depends on.
const MARKS_MAX: usize = 64;
const VOIDS_MAX: usize = 64;
/// A slot has one record, but where a clock was set or power came back it may have more: of so many records in a row one
/// may be in excess, and a few at any rate.
const EXCESS_SHARE: i64 = 8;
const EXCESS_MIN: i64 = 2;

/// Where a record is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// It is this one.
    Here(i64),
    /// What is at this place tells more.
    Probe(i64),
    /// All records are older.
    Nowhere,
    /// This place and all before it seem never to have been written.
    Blank(i64),
}

/// What is known of a memory.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    known: BTreeMap<i64, (Slot, Timestamp)>,
    /// Places without a record that can be read.
    voids: BTreeSet<i64>,
    /// Records that cannot be had, however often they are asked for.
    given_up: BTreeSet<i64>,
    /// The last place that was never written: all before it are so, too.
    blank: Option<i64>,
    /// The newest record when this was last looked through.
    newest: Option<i64>,
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
        let is_old = |no: &i64| extent.has(*no) && *no < extent.newest - 1;
        self.voids.retain(is_old);
        self.blank = self.blank.filter(is_old);
        // What was tried so often is tried again only where something has been written since.
        let is_same = self.newest.replace(extent.newest) == Some(extent.newest);
        self.given_up.retain(|no| extent.has(*no) && (is_same || *no < extent.newest - 1));
    }

    /// No record can be read there, however often it is asked for.
    pub fn give_up(&mut self, no: i64) {
        self.given_up.insert(no);
        if self.given_up.len() > VOIDS_MAX {
            self.given_up.pop_first();
        }
    }

    /// Whether it is one of those.
    #[must_use]
    pub fn is_given_up(&self, no: i64) -> bool {
        self.given_up.contains(&no)
    }

    /// This place and all before it were never written.
    pub fn note_blank(&mut self, no: i64) {
        self.blank = self.blank.max(Some(no));
        self.voids.retain(|void| *void > no);
    }

    /// The last place that was never written.
    #[must_use]
    pub const fn blank(&self) -> Option<i64> {
        self.blank
    }

    /// No record can be read there, which says nothing of other places.
    pub fn note_void(&mut self, no: i64) {
        self.voids.insert(no);
        if self.voids.len() > VOIDS_MAX
            && let (Some(low), Some(high)) = (self.voids.first().copied(), self.voids.last().copied())
        {
            self.voids.remove(if no.abs_diff(low) > no.abs_diff(high) { &low } else { &high });
        }
    }

    /// Takes in a record; `false` where it cannot be the one of this number: its time does not lie between those of its
    /// neighbours, or leaves no room for the records between.
    pub fn note(&mut self, no: i64, slot: Slot, at: Timestamp) -> bool {
        let before = self.known.range(..no).next_back();
        let after = self.known.range(no + 1..).next();
        let this = (no, (slot, at));
        let fits = self.known.get(&no).is_none_or(|known| known.1 == at)
            && before.is_none_or(|(other, known)| can_follow((*other, *known), this))
            && after.is_none_or(|(other, known)| can_follow(this, (*other, *known)));
        if fits {
            self.voids.remove(&no);
            self.known.insert(no, (slot, at));
            if self.known.len() > MARKS_MAX {
                self.thin_out(no);
            }
        }
        fits
    }

    /// Forgets the mark farthest from `no`; both ends and the neighbours of `no` stay, so that what is looked for remains
    /// between two marks.
    fn thin_out(&mut self, no: i64) {
        let ends = [self.known.keys().next(), self.known.keys().next_back()];
        let beside = [self.known.range(..no).next_back(), self.known.range(no + 1..).next()];
        let kept: Vec<i64> =
            ends.into_iter().chain(beside.map(|mark| mark.map(|(no, _)| no))).flatten().copied().collect();
        let loose = self.known.keys().filter(|other| **other != no && !kept.contains(other));
        if let Some(farthest) = loose.max_by_key(|other| other.abs_diff(no)).copied() {
            self.known.remove(&farthest);
        }
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
        if let Some(doubt) = self.doubt(first, extent.newest) {
            return doubt;
        }
        let within = || self.known.range(first..=extent.newest);
        let before = within().rfind(|(_, (known, _))| *known < slot).map(|(no, (known, _))| (*no, *known));
        let after = within().find(|(_, (known, _))| *known >= slot).map(|(no, (known, _))| (*no, *known));
        let least = before.map_or(first, |(no, _)| no + 1);
        let most = after.map_or(extent.newest + 1, |(no, _)| no);
        if least > extent.newest {
            return Where::Nowhere;
        }
        // A slot has one record as a rule: the place is no further from a known one than its time is.
        let low = after.map_or(least, |(no, known)| least.max(no.saturating_sub(known.0 - slot.0)));
        let high = before.map_or(most, |(no, known)| most.min(no.saturating_add(slot.0 - known.0)));
        let guess = match (before, after) {
            // The one before the newest: that may be half written.
            (None, None) => extent.newest - 1,
            // Where it was never full, all that is older than its first record begins there.
            (None, Some(_)) if self.blank.is_some() => low + (most - low) / 2,
            (None, Some(_)) => low,
            (Some(_), None) if high > extent.newest => extent.newest,
            (Some(_), _) if low <= high => low + (high - low) / 2,
            (Some(_), _) => least + (most - least) / 2,
        };
        match self.next_to_read(guess, least, most) {
            // Nothing else can be read there: reading tells as much as a look would.
            Some(no) if self.is_the_only_one(no, least, most) => Where::Here(least),
            Some(no) => Where::Probe(no),
            None => Where::Here(least),
        }
    }

    /// Whether all but this one cannot be had, and there are others.
    fn is_the_only_one(&self, no: i64, least: i64, most: i64) -> bool {
        let mut others = (least..most).filter(|other| *other != no);
        most - least > 1 && others.all(|other| self.is_given_up(other))
    }

    /// What is to be read at `guess` or near it, where that is known to bring nothing; `None` where nothing between is.
    fn next_to_read(&self, guess: i64, least: i64, most: i64) -> Option<i64> {
        if least >= most {
            return None;
        }
        let guess = guess.clamp(least, most - 1);
        let is_open = |no: &i64| !self.voids.contains(no) && !self.is_given_up(*no);
        (guess..most).find(is_open).or_else(|| (least..guess).rev().find(is_open))
    }

    /// A place without a record, and no record before it: was nothing ever written up to there, or can this one record not
    /// be read? The places before it and at the begin say which.
    fn doubt(&self, first: i64, newest: i64) -> Option<Where> {
        let lowest = self.known.range(first..=newest).next().map_or(newest + 1, |(no, _)| *no);
        let is_void = |no: i64| self.voids.contains(&no) || self.is_given_up(no);
        let no = self.voids.range(first..lowest).chain(self.given_up.range(first..lowest)).max().copied()?;
        if no > first && !is_void(no - 1) {
            return Some(Where::Probe(no - 1));
        }
        // Once it is known that the memory begins with such places, its first one says nothing more.
        if no > first && self.blank.is_none() && !is_void(first) {
            return Some(Where::Probe(first));
        }
        Some(Where::Blank(no))
    }
}

type Mark = (i64, (Slot, Timestamp));

/// Whether both can be records of one memory: times rise, and each number between has a slot, as a rule.
fn can_follow((no, (slot, at)): Mark, (later_no, (later_slot, later_at)): Mark) -> bool {
    let numbers = later_no.saturating_sub(no);
    let slots = later_slot.0.saturating_sub(slot.0);
    at < later_at && numbers <= slots.saturating_add(EXCESS_MIN + numbers / EXCESS_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(marks: &mut Marks, no: i64, slot: i64) -> bool {
        marks.note(no, Slot(slot), Timestamp(slot * 1_000))
    }

    #[test]
    fn times_must_rise_with_the_numbers_and_leave_room_for_what_is_between() {
        let mut marks = Marks::default();
        let rows = [
            (10, 100, true),
            (20, 110, true),
            (15, 105, true),
            (15, 105, true),
            (16, 105, false),
            (14, 120, false),
            (15, 104, false),
            (21, 111, true),
            (9, 100, false),
            // Later than its neighbour before, earlier than the one behind, and still not this one.
            (121, 211, true),
            (30, 200, false),
            (30, 120, true),
            // After an outage of power; two more than there are slots, as after the clock was set.
            (200, 900, true),
            (220, 918, true),
            (240, 920, false),
        ];
        for (no, slot, fits) in rows {
            assert_eq!(mark(&mut marks, no, slot), fits, "{no} at {slot}");
        }
    }

    /// A memory whose first records were never written, or cannot be read here and there.
    struct Memory<'a> {
        oldest: i64,
        /// Of each record; `None` where there is none.
        slots: &'a [Option<i64>],
    }

    impl Memory<'_> {
        fn extent(&self) -> Extent {
            let count = i64::try_from(self.slots.len()).unwrap();
            Extent { oldest: self.oldest, newest: self.oldest + count - 1 }
        }

        /// Looks for `slot`; says which one was found, and after how many probes.
        fn look_for(&self, marks: &mut Marks, slot: i64) -> (Option<i64>, usize) {
            let mut probes = 0;
            loop {
                match marks.find(self.extent(), Slot(slot)) {
                    Where::Here(no) => return (Some(no), probes),
                    Where::Nowhere => return (None, probes),
                    Where::Blank(no) => marks.note_blank(no),
                    Where::Probe(no) => {
                        probes += 1;
                        assert!(probes < 100, "a loop without end: {slot} in {:?}", self.slots);
                        let place = usize::try_from(no - self.oldest).unwrap();
                        match self.slots[place] {
                            // Records of one slot follow each other.
                            Some(slot) => {
                                let at = Timestamp(slot * 1_000 + no % 1_000);
                                assert!(marks.note(no, Slot(slot), at), "{no} at {slot}");
                            }
                            None => marks.note_void(no),
                        }
                    }
                }
            }
        }
    }

    fn look_for(slots: impl IntoIterator<Item = i64>, oldest: i64, slot: i64) -> (Option<i64>, usize) {
        let slots: Vec<_> = slots.into_iter().map(Some).collect();
        Memory { oldest, slots: &slots }.look_for(&mut Marks::default(), slot)
    }

    #[test]
    fn a_memory_without_holes_is_found_in_at_a_few_probes() {
        assert_eq!(look_for(5_000..8_000, 70, 6_000), (Some(1_070), 3));
        assert_eq!(look_for(5_000..8_000, 70, 4_000), (Some(70), 2));
        assert_eq!(look_for(5_000..8_000, 70, 7_999), (Some(3_069), 2));
        assert_eq!(look_for(5_000..8_000, 70, 8_000), (None, 2));
    }

    #[test]
    fn one_record_without_a_time_hides_no_other() {
        for at in [0, 1, 50, 1_499, 2_998] {
            let mut slots: Vec<_> = (5_000..8_000).map(Some).collect();
            slots[at] = None;
            let memory = Memory { oldest: 70, slots: &slots };
            let mut marks = Marks::default();
            for slot in [7_990, 6_500, 5_051, 5_003] {
                // Reading begins at the record that brings nothing, where that is the one before.
                let expected = slot - 5_000 + 70;
                let expected =
                    if usize::try_from(slot - 5_000) == Ok(at + 1) { expected - 1 } else { expected };
                assert_eq!(memory.look_for(&mut marks, slot).0, Some(expected), "{slot}, and none at {at}");
            }
            assert!(marks.blank().is_none_or(|no| no == 70), "{at}: {:?}", marks.blank());
        }
    }

    #[test]
    fn a_memory_that_was_never_full_begins_where_its_first_record_is() {
        for written in [1, 2, 100, 2_999] {
            let slots: Vec<_> =
                (5_000..8_000).map(|slot| (slot >= 8_000 - written).then_some(slot)).collect();
            let memory = Memory { oldest: 70, slots: &slots };
            let mut marks = Marks::default();
            let (found, probes) = memory.look_for(&mut marks, 4_000);
            assert_eq!((found, marks.blank()), (Some(3_070 - written), Some(3_069 - written)));
            assert!(probes < 30, "{probes} probes where {written} were written");
        }
    }

    #[test]
    fn a_record_that_was_given_up_is_not_looked_at_again() {
        let extent = |newest| Extent { oldest: 1, newest };
        let mut marks = Marks::default();
        marks.keep(extent(100));
        assert_eq!(marks.find(extent(100), Slot(50)), Where::Probe(99));
        marks.give_up(99);
        marks.keep(extent(100));
        assert_eq!(marks.find(extent(100), Slot(50)), Where::Probe(98));
        assert!(mark(&mut marks, 98, 40));
        // Only the newest one is left to be looked at, which is as good as to be read.
        assert_eq!(marks.find(extent(100), Slot(50)), Where::Here(99));
        marks.keep(extent(101));
        assert!(marks.is_given_up(99), "what is further back stays so");
        marks.give_up(101);
        marks.keep(extent(102));
        assert!(!marks.is_given_up(101), "it may be whole by now");
    }

    proptest! {
        #[test]
        fn the_first_record_of_a_time_is_found_however_many_lack(
            steps in prop::collection::vec(prop_oneof![18 => Just(1_i64), 1 => Just(0), 2 => 2_i64..500], 1..300),
            unwritten in 0_usize..300,
            known in prop::bool::ANY,
            from in -5_i64..6_000,
        ) {
            // Clocks are not set several times in a row.
            let mut at = 0;
            let mut since = 0;
            let slots: Vec<Option<i64>> = std::iter::repeat_n(None, unwritten).chain(steps.iter().map(|step| {
                since += 1;
                let step = if *step == 0 && since < 10 { 1 } else { *step };
                since = if step == 0 { 0 } else { since };
                at += step;
                Some(at)
            })).collect();
            let memory = Memory { oldest: 7, slots: &slots };
            let mut marks = Marks::default();
            if known {
                // As many of the newest ones are known as are remembered.
                for place in (unwritten..slots.len()).rev().take(MARKS_MAX) {
                    let no = i64::try_from(place).unwrap() + 7;
                    let slot = slots[place].unwrap();
                    prop_assert!(marks.note(no, Slot(slot), Timestamp(slot * 1_000 + no % 1_000)));
                }
            }
            let expected = slots.iter().position(|slot| slot.is_some_and(|slot| slot >= from));
            let (found, probes) = memory.look_for(&mut marks, from);
            prop_assert_eq!(found, expected.map(|at| i64::try_from(at).unwrap() + 7));
            prop_assert!(probes <= 40, "{} probes for {} records", probes, slots.len());
        }
    }

    #[test]
    fn a_search_below_as_many_marks_as_are_remembered_ends() {
        // Written half, with an outage of power of 5000 slots in it, in which the time lies that is looked for.
        let slots: Vec<Option<i64>> = std::iter::repeat_n(None, 1_000)
            .chain((10_000..11_000).map(Some))
            .chain((16_000..16_500).map(Some))
            .collect();
        let memory = Memory { oldest: 7, slots: &slots };
        let mut marks = Marks::default();
        for no in 2_507 - 64..2_507 {
            assert!(mark(&mut marks, no, no - 2_007 + 16_000));
        }
        assert_eq!(memory.look_for(&mut marks, 12_000).0, Some(2_007));
        assert_eq!(memory.look_for(&mut marks, 9_000).0, Some(1_007));
    }
}
