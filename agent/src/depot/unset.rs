//! Which epochs of this start of the machine may have readings by the boot clock, and of which of them the collector
//! has to be told what that clock meant. Writes no record.

use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::reading::{EpochStart, Record};
use gapless_common::time::Timestamp;
use gapless_common::wire::{RecordKind, decode_record};

use crate::outbox::{Outbox, ReadLimits};

/// The epochs; see the module.
#[derive(Debug, Default)]
pub(super) struct UnsetEpochs {
    /// Not told of yet.
    open: Vec<Open>,
    /// Told of. Readings of these may still be copied to another epoch.
    told: Vec<Told>,
}

/// What the collector is to be told of an epoch.
#[derive(Debug, Clone, Copy)]
struct Open {
    epoch: Epoch,
    /// When the boot clock began, where another epoch has decided it.
    began: Option<Timestamp>,
    /// The first seq that it has not issued, where no more are written to it: once all is acknowledged it may be held no
    /// longer, and the collector has its readings by the boot clock all the same.
    next: Option<Seq>,
}

/// What the collector was told of an epoch.
#[derive(Debug, Clone, Copy)]
struct Told {
    epoch: Epoch,
    /// The first seq that it was not told of.
    next: Seq,
    /// When the boot clock began.
    began: Timestamp,
}

impl UnsetEpochs {
    /// `epoch` has a reading by the boot clock, or may get one.
    pub(super) fn mark(&mut self, epoch: Epoch) {
        self.mark_with(Open { epoch, began: None, next: None });
    }

    /// As [`mark`](Self::mark), of an epoch in memory. What it holds is copied to one epoch, which has one begin of the boot
    /// clock: the one that was told first, by which the collector has some of its readings already.
    pub(super) fn mark_in_memory(&mut self, epoch: Epoch) {
        self.mark_with(Open { epoch, began: self.told_of(epoch), next: None });
    }

    /// When the boot clock began, as the collector was last told of `epoch`.
    fn told_of(&self, epoch: Epoch) -> Option<Timestamp> {
        self.told.iter().rev().find(|told| told.epoch == epoch).map(|told| told.began)
    }

    fn mark_with(&mut self, mark: Open) {
        match self.open.iter_mut().find(|open| open.epoch == mark.epoch) {
            Some(open) => {
                open.began = open.began.or(mark.began);
                open.next = open.next.max(mark.next);
            }
            None => self.open.push(mark),
        }
    }

    /// `new` takes over readings of `old`, which has issued the seqs before `next`. The collector may have both, and what it
    /// is told of one reading twice must be one instant: wall and boot clock do not keep their distance.
    pub(super) fn follow(&mut self, (old, next): (Epoch, Seq), new: Epoch) {
        let told = self.told_of(old);
        let open = self.open.iter().find(|open| open.epoch == old).map(|open| open.began);
        if let Some(began) = open {
            self.mark_with(Open { epoch: old, began: told, next: Some(next) });
            self.mark_with(Open { epoch: new, began: told.or(began), next: None });
        } else if told.is_some() {
            self.mark_with(Open { epoch: new, began: told, next: None });
        }
    }

    /// Those not told of yet, each with its first seq that was not, the first one after it that it has not issued, as
    /// `held` says where it is held, and when the boot clock began: `began`, as the clocks stand now. From here on they are
    /// told of.
    pub(super) fn take(
        &mut self,
        held: &[HeldEpoch],
        began: Timestamp,
    ) -> Vec<(Epoch, (Seq, Seq), Timestamp)> {
        let mut taken = Vec::new();
        for Open { epoch, began: decided, next } in std::mem::take(&mut self.open) {
            let issued = held.iter().find(|held| held.epoch == epoch).map(|held| held.next);
            // Neither: an epoch without a durable record, which never was; or one of a disk that failed while it was
            // opened, which is found when the disk is back.
            let Some(next) = issued.or(next) else { continue };
            let before = self.told.iter().rev().find(|told| told.epoch == epoch);
            let first = before.map_or(Seq(1), |told| told.next);
            let began = decided.unwrap_or(began);
            self.told.retain(|told| told.epoch != epoch);
            self.told.push(Told { epoch, next, began });
            taken.push((epoch, (first, next), began));
        }
        taken
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Marks the epochs of earlier runs within `boot` that began before the wall clock was set. Their start records
    /// say so, as long as they are held.
    pub(super) fn find(&mut self, store: &mut dyn Outbox, boot: BootId) {
        for held in store.held() {
            if start_of(store, held).is_some_and(|start| start.boot == boot && !start.clock_set) {
                self.mark_with(Open { epoch: held.epoch, began: None, next: Some(held.next) });
            }
        }
    }

    /// `disk` was opened again, and holds more than could be known when it failed: records of an append that was called
    /// failed, and epochs that are not among those `known`, left of attempts to go back, which had taken readings of
    /// `memory` along. Nobody held these until now, so what was told before has left them out.
    pub(super) fn find_more(
        &mut self,
        disk: &mut dyn Outbox,
        known: &[HeldEpoch],
        (memory, boot): (Epoch, BootId),
    ) {
        let told_of_memory = self.told_of(memory);
        let open_in_memory = self.open.iter().find(|open| open.epoch == memory).map(|open| open.began);
        let current = disk.epoch();
        for held in disk.held().into_iter().filter(|held| held.epoch != current) {
            let (epoch, next) = (held.epoch, Some(held.next));
            let is_known = known.iter().any(|known| known.epoch == epoch);
            if let Some(told) = self.told.iter().find(|told| told.epoch == epoch) {
                if told.next < held.next {
                    self.mark_with(Open { epoch, began: Some(told.began), next });
                }
            } else if self.open.iter().any(|open| open.epoch == epoch) {
                self.mark_with(Open { epoch, began: None, next });
            } else if !is_known
                && (told_of_memory.is_some() || open_in_memory.is_some())
                && start_of(disk, held).is_some_and(|start| start.boot == boot)
            {
                self.mark_with(Open { epoch, began: told_of_memory.or(open_in_memory.flatten()), next });
            }
        }
    }
}

/// The start record of an epoch, as long as it is held.
fn start_of(store: &mut dyn Outbox, held: HeldEpoch) -> Option<EpochStart> {
    let (limits, mut first) = (ReadLimits { bytes: 1, records: 1 }, Vec::new());
    if held.first > Seq(1) || store.read(held.epoch, Seq(1), limits, &mut first).is_err() {
        return None;
    }
    let stored = first.first().filter(|stored| stored.kind == RecordKind::Start as u8)?;
    match decode_record(&stored.bytes) {
        Ok(Record::Start(start)) => Some(start),
        _ => None,
    }
}
