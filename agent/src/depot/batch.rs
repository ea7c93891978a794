//! Records gathered for one append, and the append that gives up as little as it can. Opens no outbox.

use gapless_common::id::CatalogHash;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::{Acquired, Loss, Misses, Readings, Record};
use gapless_common::time::{SlotGrid, Timestamp};
use gapless_common::wire::{RecordKind, decode_record, encode_record, record_kind};

use crate::outbox::{AppendError, NewRecord, Outbox};

/// Encoded records, in one buffer that is kept.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    pub(super) records: Vec<Entry>,
    /// What they add to a frame: samples, and 1 for any other record.
    pub(super) weight: u64,
}

pub(super) struct Entry {
    kind: u8,
    at: Timestamp,
    from: Timestamp,
    end: usize,
}

impl Batch {
    /// Adds a record of `at` that speaks of nothing before `from`.
    pub(super) fn push_from(&mut self, record: &Record, (from, at): (Timestamp, Timestamp)) {
        self.bytes.extend_from_slice(&encode_record(record));
        self.records.push(Entry { kind: record_kind(record) as u8, at, from, end: self.bytes.len() });
        self.weight += match record {
            Record::Readings(readings) => u64::try_from(readings.samples.len()).unwrap_or(u64::MAX),
            _ => 1,
        };
    }

    /// Adds a record that speaks of its own time alone.
    pub(super) fn push(&mut self, record: &Record, at: Timestamp) {
        self.push_from(record, (at, at));
    }

    /// Adds a record of each loss.
    pub(super) fn push_losses(&mut self, losses: &[Loss], at: Timestamp) {
        for loss in losses.iter().filter(|_| !planted::has(Bug::LossNotSent)) {
            self.push(&Record::Loss(*loss), at);
        }
    }

    pub(super) fn borrow(&self, catalog: CatalogHash) -> Vec<NewRecord<'_>> {
        let mut from = 0;
        let entries = self.records.iter().map(|entry| {
            let bytes = &self.bytes[from..entry.end];
            from = entry.end;
            NewRecord {
                kind: entry.kind,
                at: entry.at,
                from: entry.from,
                catalog,
                is_essential: is_essential(entry.kind),
                bytes,
            }
        });
        entries.collect()
    }

    /// How many records stand behind the last one that brings a catalog; `None` where none does.
    pub(super) fn behind_catalog(&self) -> Option<u64> {
        let is_catalog = |entry: &Entry| entry.kind == RecordKind::Catalog as u8;
        self.records.iter().rev().position(is_catalog).and_then(|behind| u64::try_from(behind).ok())
    }

    /// Takes out the first `count` records, and of the others those that open an epoch: they belong to that one alone.
    pub(super) fn move_on(&mut self, count: usize) {
        let mut old = std::mem::take(self);
        let mut from = 0;
        for (place, entry) in old.records.drain(..).enumerate() {
            if place >= count && !opens_epoch(entry.kind) {
                self.bytes.extend_from_slice(&old.bytes[from..entry.end]);
                self.records.push(Entry { end: self.bytes.len(), ..entry });
            }
            from = entry.end;
        }
        self.weight = old.weight;
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.weight = 0;
    }
}

/// The earliest instant that a record of `at` speaks of, as far as the slots of `grids` say: a run of misses is written
/// behind its last slot, and an answer may come behind the slot after its own. Of a slot it is the last instant, which
/// is in no other one.
pub(super) fn begin_of(record: &Record, grids: &[SlotGrid], at: Timestamp) -> Timestamp {
    let (device, slot) = match record {
        Record::Misses(misses) => (misses.device, misses.first),
        Record::Readings(Readings {
            device,
            acquired: Acquired::InSlot(slot) | Acquired::Recorded(slot),
            ..
        }) => (*device, *slot),
        _ => return at,
    };
    grids.get(usize::from(device.0)).map_or(at, |grid| at.min(grid.at(slot.plus(1)).plus_ms(-1)))
}

/// Whether records of `kind` are stored even where the outbox refuses new ones: they are few, and the account of
/// all others rests on them.
pub(super) const fn is_essential(kind: u8) -> bool {
    const START: u8 = RecordKind::Start as u8;
    const DOWNTIME: u8 = RecordKind::Downtime as u8;
    const CATALOG: u8 = RecordKind::Catalog as u8;
    const LOSS: u8 = RecordKind::Loss as u8;
    const CORRECTION: u8 = RecordKind::ClockCorrection as u8;
    matches!(kind, START | DOWNTIME | CATALOG | LOSS | CORRECTION)
}

/// Whether records of `kind` belong to the epoch that they stand in, and are never copied to another one.
pub(super) const fn opens_epoch(kind: u8) -> bool {
    const START: u8 = RecordKind::Start as u8;
    const CATALOG: u8 = RecordKind::Catalog as u8;
    matches!(kind, START | CATALOG)
}

/// An append that the outbox did not survive.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) error: AppendError,
    /// So many records, from the first one on, are durable.
    pub(super) done: usize,
}

/// Appends `records`; `true` where some were refused, which the outbox names itself. Of a record longer than a
/// segment a miss remains, and a line in the log.
pub(super) fn append_all(to: &mut dyn Outbox, records: &[NewRecord<'_>]) -> Result<bool, Stuck> {
    match to.append(records) {
        Ok(_) => Ok(false),
        Err(AppendError::Refused { .. }) => Ok(true),
        Err(AppendError::TooLarge { .. }) => append_singly(to, records),
        Err(error) => Err(Stuck { error, done: 0 }),
    }
}

fn append_singly(to: &mut dyn Outbox, records: &[NewRecord<'_>]) -> Result<bool, Stuck> {
    let mut is_refused = false;
    for (done, record) in records.iter().enumerate() {
        let appended = match to.append(std::slice::from_ref(record)) {
            Err(e @ AppendError::TooLarge { .. }) => {
                tracing::error!(kind = record.kind, "a record is given up: {e}");
                append_stand_in(to, record)
            }
            other => other.map(drop),
        };
        match appended {
            Err(error) if !error.is_usable() => return Err(Stuck { error, done }),
            Err(_) => is_refused = true,
            Ok(()) => {}
        }
    }
    Ok(is_refused)
}

/// What says that the slot of a record was read, and could not be kept.
fn append_stand_in(to: &mut dyn Outbox, record: &NewRecord<'_>) -> Result<(), AppendError> {
    let Ok(Record::Readings(readings)) = decode_record(record.bytes) else { return Ok(()) };
    let (Acquired::InSlot(first) | Acquired::Recorded(first)) = readings.acquired else { return Ok(()) };
    let miss = Misses { device: readings.device, first, count: 1, cause: Cause::DiskFailed };
    let kind = RecordKind::Misses as u8;
    let bytes = encode_record(&Record::Misses(miss));
    to.append(&[NewRecord { kind, bytes: &bytes, ..*record }]).map(drop)
}
