//! Which epochs of this start of the machine may have readings by the boot clock, and of which of them the collector
//! has to be told what that clock meant. Writes no record.

use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::reading::Record;
use gapless_common::wire::{RecordKind, decode_record};

use crate::outbox::{Outbox, ReadLimits};

/// The epochs; see the module.
#[derive(Debug, Default)]
pub(super) struct UnsetEpochs {
    /// Not told of yet.
    open: Vec<Epoch>,
    /// Told of. Readings of these may still be copied to another epoch.
    told: Vec<Epoch>,
}

impl UnsetEpochs {
    /// `epoch` has a reading by the boot clock, or may get one.
    pub(super) fn mark(&mut self, epoch: Epoch) {
        if !self.open.contains(&epoch) {
            self.open.push(epoch);
        }
    }

    /// `new` takes over readings of `old`.
    pub(super) fn follow(&mut self, old: Epoch, new: Epoch) {
        if self.open.contains(&old) || self.told.contains(&old) {
            self.mark(new);
        }
    }

    /// Those not told of yet; from here on they are.
    pub(super) fn take(&mut self) -> Vec<Epoch> {
        let open = std::mem::take(&mut self.open);
        self.told.extend(open.iter().filter(|epoch| !self.told.contains(epoch)).copied().collect::<Vec<_>>());
        open
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Marks the epochs of earlier runs within `boot` that began before the wall clock was set. Their start records
    /// say so, as long as they are held.
    pub(super) fn find(&mut self, store: &mut dyn Outbox, boot: BootId) {
        let mut first = Vec::new();
        for held in store.held() {
            first.clear();
            let limits = ReadLimits { bytes: 1, records: 1 };
            let read = store.read(held.epoch, Seq(1), limits, &mut first);
            let Some(stored) = first.first().filter(|_| read.is_ok() && held.first <= Seq(1)) else {
                continue;
            };
            if stored.kind != RecordKind::Start as u8 {
                continue;
            }
            if let Ok(Record::Start(start)) = decode_record(&stored.bytes)
                && start.boot == boot
                && !start.clock_set
            {
                self.mark(held.epoch);
            }
        }
    }
}
