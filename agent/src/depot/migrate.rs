//! Takes what an outbox in memory still owes along to the disk. Decides nothing about when.

use gapless_common::quality::Cause;
use gapless_common::reading::Loss;

use super::batch::{Stuck, append_all, is_essential, opens_epoch};
use crate::clock::Now;
use crate::outbox::{NewRecord, Outbox, OwedRange, ReadLimits};

/// How much is read at a time to be taken along to the disk.
const MIGRATE_LIMITS: ReadLimits = ReadLimits { bytes: 64 << 10, records: 1_024 };

/// Writes what `from` owes within `range` to `to`, but for what belongs to the epoch itself. What `to` refuses is in its
/// own losses.
pub(super) fn copy(from: &mut dyn Outbox, to: &mut dyn Outbox, range: OwedRange) -> Result<(), Stuck> {
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
            .filter(|r| !opens_epoch(r.kind))
            .map(|r| NewRecord {
                kind: r.kind,
                at: r.at,
                catalog: r.catalog,
                is_essential: is_essential(r.kind),
                bytes: &r.bytes,
            })
            .collect();
        if !batch.is_empty() {
            append_all(to, &batch)?;
        }
        next = last.next();
    }
    Ok(())
}

/// The seqs that an epoch in memory gives up. What it owed is written again under the epoch on the disk, so the loss
/// has no time: it ends before it begins, and explains no slot.
pub(super) fn not_kept(range: OwedRange, now: Now) -> Loss {
    Loss {
        epoch: range.epoch,
        first: range.first,
        last: range.last,
        from: now.wall.plus_ms(1),
        to: now.wall,
        cause: Cause::DiskFailed,
    }
}
