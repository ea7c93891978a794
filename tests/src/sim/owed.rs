//! From which slot on a device is due, by what happened to its gateway: from the begin of the first life of its agent of
//! which the collector knows.

use gapless_common::reading::Record;
use gapless_common::time::SlotGrid;

use super::judge::{Case, Findings};
use super::oracle::Life;

impl Case<'_> {
    /// The first slot that the collector takes for due is so. Where a clock was wrong, slots are no measure of time. Where the
    /// record that says the begin was lost, one that a memory `was_told` to hold from shortly before stands for it.
    pub(super) fn check_first(
        &self,
        name: &str,
        grid: SlotGrid,
        (first, was_told): (i64, bool),
        findings: &mut Findings,
    ) {
        let history = self.history();
        if history.has_odd_clock {
            return;
        }
        let slot = |life: &Life| grid.first_from(life.began.1).0;
        let earliest = history.lives.first().map(slot);
        let known = history.lives.iter().find(|life| self.is_known(life)).map(slot);
        let is_told = was_told && !self.log.losses.is_empty();
        if earliest.is_some_and(|earliest| first < earliest && !is_told)
            || known.is_some_and(|known| first > known)
        {
            let what = format!("{name}: due from slot {first} on, and not from {earliest:?} or {known:?}");
            findings.push(("true gaps", what));
        }
    }

    /// Whether the collector has the record that says what is due since this life's begin: it was stored, and no database
    /// that had it was put back. Where an outbox gave it up, a loss tells of the time alone, and not of devices.
    fn is_known(&self, life: &Life) -> bool {
        let is_of_life = |record: &Record| match record {
            Record::Catalog(catalog) => catalog.since == Some(life.began.1),
            _ => false,
        };
        self.oracle.rolled_back.is_empty()
            && self.log.kept.iter().any(|((epoch, seq), kept)| {
                let is_stored = self.log.committed.get(epoch).is_some_and(|ever| ever.contains(*seq));
                is_stored && is_of_life(&kept.record)
            })
    }
}
