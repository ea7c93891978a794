//! What a collection of records has told, kept as the collector would keep it: readings by their instant, misses by the
//! first of their causes, how far the account goes.

use std::collections::BTreeMap;

use gapless_agent::event::BusEvent;
use gapless_common::message::Outcome;
use gapless_common::quality::Cause;
use gapless_common::reading::{Acquired, Misses, Sample};
use gapless_common::time::{Slot, SlotGrid, Timestamp};

/// Everything that was told of one device.
#[derive(Debug)]
pub struct Told {
    grid: SlotGrid,
    /// By their own time.
    pub readings: BTreeMap<i64, Vec<Sample>>,
    /// Readings of an instant of which there was one.
    pub twice: usize,
    /// By the time of their slot.
    pub missed: BTreeMap<i64, Cause>,
    /// The last slot that is accounted for.
    pub through: Option<Slot>,
    /// How commands of the collector ended.
    pub history: Vec<(u64, Outcome)>,
}

impl Told {
    /// Nothing yet.
    #[must_use]
    pub const fn new(grid: SlotGrid) -> Self {
        Self {
            grid,
            readings: BTreeMap::new(),
            twice: 0,
            missed: BTreeMap::new(),
            through: None,
            history: Vec::new(),
        }
    }

    /// Takes in an event.
    ///
    /// # Panics
    /// When a reading is not one of a device's memory, or its slot not that of its time.
    pub fn take(&mut self, event: BusEvent) {
        match event {
            BusEvent::Answered { acquired, at, samples, .. } => {
                assert_eq!(acquired, Acquired::Recorded(self.grid.slot_at(at)), "a record's own time");
                self.twice += usize::from(self.readings.insert(at.0, samples).is_some());
            }
            BusEvent::Missed(Misses { first, count, cause, .. }) => {
                for slot in first.0..first.0 + i64::from(count) {
                    // As the collector's ledger does: the first in the order of causes stands.
                    let known = self.missed.entry(self.grid.at(Slot(slot)).0).or_insert(cause);
                    *known = cause.min(*known);
                }
            }
            BusEvent::Through { slot, .. } => self.through = Some(slot),
            BusEvent::HistoryRead { command, outcome } => self.history.push((command, outcome)),
            BusEvent::Channels { .. }
            | BusEvent::Paused { .. }
            | BusEvent::Device { .. }
            | BusEvent::Complaint { .. }
            | BusEvent::Bus { .. }
            | BusEvent::Metrics { .. } => {}
        }
    }

    /// The misses that no reading came for. Each slot from `begin` to what is declared must be a reading or a miss.
    ///
    /// # Panics
    /// When one is neither.
    #[must_use]
    pub fn left(&self, begin: Timestamp) -> BTreeMap<i64, Cause> {
        let read: std::collections::BTreeSet<i64> =
            self.readings.keys().map(|at| self.grid.at(self.grid.slot_at(Timestamp(*at))).0).collect();
        let left: BTreeMap<i64, Cause> = self
            .missed
            .iter()
            .filter(|(at, _)| !read.contains(at))
            .map(|(at, cause)| (*at, *cause))
            .collect();
        let through = self.through.map_or(i64::MIN, |slot| slot.0);
        for slot in self.grid.first_from(begin).0..=through {
            let at = self.grid.at(Slot(slot)).0;
            assert!(
                read.contains(&at) || left.contains_key(&at),
                "{} is neither read nor missed",
                Timestamp(at)
            );
        }
        left
    }
}

/// How many misses each cause has.
#[must_use]
pub fn counts(left: &BTreeMap<i64, Cause>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    left.values().for_each(|cause| *counts.entry(cause.slug()).or_default() += 1);
    counts
}
