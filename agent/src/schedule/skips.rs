//! The slots of a device that steps of the wall clock went over, kept for when it steps back: what was told of them then
//! was told by a clock that may have been ahead, and the collector believes no miss of a day that is still to come. Knows
//! no clock.

use gapless_common::ranges::RangeSet;
use gapless_common::time::Slot;

/// Ranges that are kept; beyond it the oldest slots are forgotten, which have most likely been told by a clock that was
/// right.
const SKIPS_MAX: usize = 16;

/// What was skipped, and has not been polled or missed for another cause since.
#[derive(Debug, Default)]
pub(super) struct Skips {
    slots: RangeSet,
    /// The first slot of the course that the clock has taken since its last step.
    since: Option<Slot>,
}

impl Skips {
    /// The clock steps: each slot from the last step up to `cursor` has its own account.
    pub(super) fn end_course(&mut self, cursor: Option<Slot>) {
        if let Some((first, last)) = self.since.zip(cursor).and_then(inclusive) {
            self.slots.remove(first, last);
        }
    }

    /// From `cursor` on the clock runs again.
    pub(super) const fn begin_course(&mut self, cursor: Option<Slot>) {
        self.since = cursor;
    }

    /// A step went over `first` up to before `end`.
    pub(super) fn add(&mut self, first: Slot, end: Slot) {
        let Some((first, last)) = inclusive((first, end)) else { return };
        self.slots.insert(first, last);
        let oldest = self.slots.iter().next().filter(|_| self.slots.len() > SKIPS_MAX);
        if let Some((first, last)) = oldest {
            self.slots.remove(first, last);
        }
    }

    /// Runs of what was skipped before `end`: first slot and number.
    pub(super) fn before(&self, end: Slot) -> Vec<(Slot, i64)> {
        let run = |(first, last): (u64, u64)| {
            let (first, last) = (i64::try_from(first).ok()?, i64::try_from(last).ok()?.min(end.0 - 1));
            (first <= last).then(|| (Slot(first), last - first + 1))
        };
        self.slots.iter().filter_map(run).collect()
    }
}

/// `first..end` with its last slot; `None` where nothing is in it. No clock says an instant before 1970.
fn inclusive((first, end): (Slot, Slot)) -> Option<(u64, u64)> {
    let range = (u64::try_from(first.0).ok()?, u64::try_from(end.0).ok()?.checked_sub(1)?);
    (range.0 <= range.1).then_some(range)
}
