//! Devices that are polled no more, or again, by a command of the collector: they are described so a little later, so that many
//! of them make one catalog. Up to then their slots are due; of those that nobody polls any more it is said why. Of a device
//! that is described as paused nothing is due: that its slots pass is not told, only what was asked for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use gapless_common::catalog::{Catalog, Device};
use gapless_common::id::DeviceIndex;
use gapless_common::message::Outcome;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::{Misses, Record};
use gapless_common::time::{Slot, SlotGrid, Timestamp};

use super::Engine;
use crate::clock::Now;
use crate::depot::DepotError;
use crate::event::BusEvent;

/// Pauses that come within this time of each other make one catalog: where many agreements end at once, each would cost one.
const DESCRIBE_WAIT_MS: u64 = 5_000;

/// What of that is still to be described, and what is.
#[derive(Debug)]
pub(super) struct Pauses {
    /// What buses have said, and nobody has described: command, device, and whether it is polled no more.
    said: Vec<(u64, DeviceIndex, bool)>,
    describe_at_ms: Option<u64>,
    /// Devices that the catalog in force has as paused, and the instant from which on it says so.
    in_force: BTreeMap<DeviceIndex, Timestamp>,
    /// Devices that go on, from when on, and the last slot before that: their buses have not told of it yet.
    went_on: BTreeMap<DeviceIndex, (Timestamp, Slot)>,
    /// When the agent began.
    began: Now,
}

impl Pauses {
    /// Of an agent that begins.
    pub(super) fn begin(began: Now) -> Self {
        let (said, describe_at_ms) = (Vec::new(), None);
        Self { said, describe_at_ms, in_force: BTreeMap::new(), went_on: BTreeMap::new(), began }
    }

    /// A bus polls a device no more, or again.
    pub(super) fn said(&mut self, said: (u64, DeviceIndex, bool), now: Now) {
        self.said.push(said);
        let at_ms = now.boot_ms.saturating_add(DESCRIBE_WAIT_MS);
        self.describe_at_ms.get_or_insert(at_ms);
    }

    /// When that is described, on the boot clock.
    pub(super) const fn describe_at_ms(&self) -> Option<u64> {
        self.describe_at_ms
    }

    /// Another catalog is in force.
    pub(super) fn are_described_by(&mut self, catalog: &Catalog, now: Now) {
        let since = if now.wall_set { now.wall } else { Timestamp(i64::MIN) };
        let paused = (0..).map(DeviceIndex).zip(&catalog.devices).filter(|(_, device)| device.paused);
        self.in_force = paused.map(|(index, _)| (index, since)).collect();
    }

    /// Whether a device is described as paused by now: not where the clock was set back to before the instant of that.
    fn is_described(&self, device: DeviceIndex, now: Now) -> bool {
        self.in_force.get(&device).is_some_and(|since| *since <= now.wall)
    }

    /// Whether an event speaks of slots that are not due, of a device that is described as paused or has gone on since.
    fn hides(&mut self, event: &BusEvent, now: Now) -> bool {
        match event {
            BusEvent::Missed(Misses { device, cause: Cause::Paused, .. }) => self.is_described(*device, now),
            BusEvent::Through { device, slot } => {
                // A clock that was set back takes slots back.
                let is_over = |(since, last): &mut (Timestamp, Slot)| *slot >= *last || now.wall < *since;
                if let Entry::Occupied(mut entry) = self.went_on.entry(*device)
                    && is_over(entry.get_mut())
                {
                    entry.remove();
                }
                self.is_described(*device, now) || self.went_on.contains_key(device)
            }
            _ => false,
        }
    }
}

impl Engine {
    /// Those that were paused or go on are described so, and the collector is told.
    pub(super) fn describe_paused(&mut self, now: Now) -> Result<(), DepotError> {
        self.pauses.describe_at_ms = None;
        let said = std::mem::take(&mut self.pauses.said);
        let changes =
            said.iter().map(|&(_, device, paused)| (device, move |known: &mut Device| known.paused = paused));
        self.describe_anew(changes.collect(), now)?;
        self.end_polls(said.into_iter().map(|(command, ..)| command).collect(), &Outcome::Done, now);
        Ok(())
    }

    /// Accounts for the slots that end with the catalog in force, before the one that follows it: those of devices that nobody polls
    /// any more are missed, and of those that go on nothing was due. Where the one in force is in memory alone, as the disk has
    /// failed, it may be gone with that: the next one is the first to say what is paused.
    pub(super) fn account_for_paused(&mut self, described: &Catalog, now: Now) {
        let is_lasting = self.depot.failure().is_none();
        for (index, device) in (0_u16..).map(DeviceIndex).zip(&described.devices) {
            let was_paused = self.pauses.in_force.contains_key(&index);
            if device.paused && !(was_paused && is_lasting) {
                if !planted::has(Bug::PausedUnsaid) {
                    self.miss_open(index, device.grid, now);
                }
            } else if was_paused && !device.paused && now.wall_set {
                let last = last_before(device.grid, now);
                self.account.through(index, last);
                self.pauses.went_on.insert(index, (now.wall, last));
            }
        }
    }

    /// Whether an event says nothing that the collector is to know. While the disk has failed all is told: the catalog that says that
    /// nothing is due may be in memory alone.
    pub(super) fn is_hidden(&mut self, event: &BusEvent, now: Now) -> bool {
        self.pauses.hides(event, now) && self.depot.failure().is_none()
    }

    /// The slots of a device up to now of which its bus has not said anything: it does not poll them any more.
    fn miss_open(&mut self, device: DeviceIndex, grid: SlotGrid, now: Now) {
        if !now.wall_set {
            return;
        }
        let before_first = || grid.first_from(now.instant_of(self.pauses.began)).plus(-1);
        let through = self.account.accounted(device).unwrap_or_else(before_first);
        let last = last_before(grid, now);
        let count = last.0.saturating_sub(through.0);
        if let Some(count) = u32::try_from(count).ok().filter(|count| *count > 0) {
            let missed = Misses { device, first: through.plus(1), count, cause: Cause::Paused };
            self.gather(&Record::Misses(missed), now.wall, now);
            self.account.through(device, last);
        }
    }
}

/// The last slot that begins before now: where a catalog ends now it is the last one that this has due.
fn last_before(grid: SlotGrid, now: Now) -> Slot {
    grid.first_from(now.wall).plus(-1)
}
