//! Records gathered for one append. Encodes them, and knows no outbox.

use gapless_common::id::CatalogHash;
use gapless_common::reading::Record;
use gapless_common::time::Timestamp;
use gapless_common::wire::{RecordKind, encode_record, record_kind};

use crate::outbox::NewRecord;

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
    end: usize,
}

impl Batch {
    pub(super) fn push(&mut self, record: &Record, at: Timestamp) {
        self.bytes.extend_from_slice(&encode_record(record));
        self.records.push(Entry { kind: record_kind(record) as u8, at, end: self.bytes.len() });
        self.weight += match record {
            Record::Readings(readings) => u64::try_from(readings.samples.len()).unwrap_or(u64::MAX),
            _ => 1,
        };
    }

    pub(super) fn borrow(&self, catalog: CatalogHash) -> Vec<NewRecord<'_>> {
        let mut from = 0;
        let entries = self.records.iter().map(|entry| {
            let bytes = &self.bytes[from..entry.end];
            from = entry.end;
            NewRecord {
                kind: entry.kind,
                at: entry.at,
                catalog,
                is_essential: is_essential(entry.kind),
                bytes,
            }
        });
        entries.collect()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.weight = 0;
    }
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
