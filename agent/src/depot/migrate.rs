//! Takes what an outbox in memory still owes along to the disk. Decides nothing about when.

use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::wire::RecordKind;

use super::batch::is_essential;
use crate::clock::Now;
use crate::outbox::{AppendError, NewRecord, Outbox, OwedRange, ReadLimits};

/// How much is read at a time to be taken along to the disk.
const MIGRATE_LIMITS: ReadLimits = ReadLimits { bytes: 64 << 10, records: 1_024 };

/// Writes what `from` owes within `range` to `to`, but for what belongs to the epoch itself.
pub(super) fn copy(from: &mut dyn Outbox, to: &mut dyn Outbox, range: OwedRange) -> Result<(), AppendError> {
    let mut records = Vec::new();
    let mut next = range.first;
    while next <= range.last {
        records.clear();
        // Memory does not fail; where it does, the loss that follows says what was not copied.
        if from.read(range.epoch, next, MIGRATE_LIMITS, &mut records).is_err() {
            break;
        }
        let Some(last) = records.last().map(|record| record.seq) else { break };
        let batch: Vec<NewRecord<'_>> = records
            .iter()
            .filter(|r| r.seq <= range.last)
            .filter(|r| r.kind != RecordKind::Start as u8 && r.kind != RecordKind::Catalog as u8)
            .map(|r| NewRecord {
                kind: r.kind,
                at: r.at,
                catalog: r.catalog,
                is_essential: is_essential(r.kind),
                bytes: &r.bytes,
            })
            .collect();
        if !batch.is_empty() {
            to.append(&batch)?;
        }
        next = last.next();
    }
    Ok(())
}

/// The seqs that an epoch in memory gives up.
pub(super) fn not_kept(range: OwedRange, now: Now) -> Loss {
    // No time range: what it owed was written again under the epoch on the disk.
    Loss {
        epoch: range.epoch,
        first: range.first,
        last: range.last,
        from: now.wall,
        to: now.wall,
        cause: Cause::DiskFailed,
    }
}
