//! Devices that are polled no more, or again, by a command of the collector: they are described so a little later, so that many
//! of them make one catalog. Up to then their slots are due; of those that nobody polls any more it is said why. Of a device
//! that is described as paused nothing is due, and nothing is told.

use std::collections::BTreeSet;

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

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// What buses have said, and nobody has described: command, device, and whether it is polled no more.
    said: Vec<(u64, DeviceIndex, bool)>,
    describe_at_ms: Option<u64>,
    /// Devices that the catalog in force has as paused.
    in_force: BTreeSet<DeviceIndex>,
    /// When the first slots were due, where that was known then.
    began: Option<Timestamp>,
}

impl Pauses {
    /// Of an agent that begins.
    pub(super) fn begin(now: Now) -> Self {
        Self { began: now.wall_set.then_some(now.wall), ..Self::default() }
    }

    /// A bus polls a device no more, or again.
    pub(super) fn said(&mut self, said: (u64, DeviceIndex, bool), now: Now) {
        self.said.push(said);
        self.describe_at_ms = Some(now.boot_ms.saturating_add(DESCRIBE_WAIT_MS));
    }

    /// When that is described, on the boot clock.
    pub(super) const fn describe_at_ms(&self) -> Option<u64> {
        self.describe_at_ms
    }

    /// Another catalog is in force.
    pub(super) fn are_described_by(&mut self, catalog: &Catalog) {
        let devices = (0..).map(DeviceIndex).zip(&catalog.devices);
        self.in_force = devices.filter(|(_, device)| device.paused).map(|(index, _)| index).collect();
    }

    /// Whether an event speaks of slots that are not due.
    pub(super) fn hides(&self, event: &BusEvent) -> bool {
        match event {
            BusEvent::Missed(Misses { device, cause: Cause::Paused, .. })
            | BusEvent::Through { device, .. } => self.in_force.contains(device),
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
            let was_paused = self.pauses.in_force.contains(&index);
            if device.paused && !(was_paused && is_lasting) {
                if !planted::has(Bug::PausedUnsaid) {
                    self.miss_open(index, device.grid, now);
                }
            } else if was_paused && !device.paused && now.wall_set {
                self.account.through(index, last_due(device.grid, now));
            }
        }
    }

    /// Whether an event speaks of slots that are not due, as a catalog on the disk says already.
    pub(super) fn is_hidden(&self, event: &BusEvent) -> bool {
        self.depot.failure().is_none() && self.pauses.hides(event)
    }

    /// The slots of a device up to now of which its bus has not said anything: it does not poll them any more.
    fn miss_open(&mut self, device: DeviceIndex, grid: SlotGrid, now: Now) {
        let before_first = || self.pauses.began.map(|began| grid.first_from(began).plus(-1));
        let through = self.account.told(device).or_else(before_first);
        let Some(through) = through.filter(|_| now.wall_set) else { return };
        let last = last_due(grid, now);
        let count = last.0.saturating_sub(through.0);
        if let Some(count) = u32::try_from(count).ok().filter(|count| *count > 0) {
            let missed = Misses { device, first: through.plus(1), count, cause: Cause::Paused };
            self.gather(&Record::Misses(missed), now.wall, now);
            self.account.through(device, last);
        }
    }
}

/// The last slot that a catalog has due that ends now.
fn last_due(grid: SlotGrid, now: Now) -> Slot {
    grid.first_from(now.wall).plus(-1)
}
