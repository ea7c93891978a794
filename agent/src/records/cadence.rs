//! When the next record of a device that remembers is asked for: soon after its slot, a little later where devices write
//! late. Knows no device and no link.

use gapless_common::time::{Slot, SlotGrid, Timestamp};

use crate::clock::Now;

/// Least and longest wait for a record that is late, in ms, and how often it is waited for.
const LATE_MS: (i64, i64) = (250, 30_000);
const LATE_TRIES_MAX: u8 = 3;
/// A record that has not come after two intervals and this time is not waited for, in ms: the device's clock may be slow.
const GRACE_MS: i64 = 30_000;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Cadence {
    grid: SlotGrid,
    /// How long after its slot a record is asked for.
    delay_ms: i64,
    late_tries: u8,
}

impl Cadence {
    /// Records come shortly after their slots.
    #[must_use]
    pub fn new(grid: SlotGrid) -> Self {
        Self { grid, delay_ms: (grid.interval.as_ms() / 20).clamp(50, 5_000), late_tries: 0 }
    }

    /// When the record after `newest` will be there, on the boot clock.
    pub fn next_due_ms(&mut self, newest: Option<Slot>, now: Now) -> u64 {
        let interval = self.grid.interval.as_ms();
        if !now.wall_set {
            return now.boot_ms.saturating_add(interval.unsigned_abs());
        }
        let current = self.grid.slot_at(now.wall);
        let is_late = newest == Some(current.plus(-1));
        if is_late && self.late_tries < LATE_TRIES_MAX {
            self.late_tries += 1;
            let wait = (interval / 10).clamp(LATE_MS.0.min(interval), LATE_MS.1);
            self.delay_ms = self.delay_ms.saturating_add(wait).min(interval - interval / 10);
            return now.boot_ms.saturating_add(wait.unsigned_abs());
        }
        self.late_tries = 0;
        let due = self.grid.at(current.plus(1)).plus_ms(self.delay_ms);
        now.boot_ms.saturating_add(u64::try_from(due.since_ms(now.wall)).unwrap_or(0))
    }

    /// The first slot whose record may still come after all that was there at `seen` has been read.
    #[must_use]
    pub fn overdue(&self, seen: Timestamp) -> Slot {
        let grace = 2 * self.grid.interval.as_ms() + GRACE_MS + self.delay_ms;
        self.grid.slot_at(seen.plus_ms(-grace))
    }
}
