//! Takes what an outbox in memory still owes along to the disk. Decides nothing about when.

use gapless_common::id::Seq;
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use super::batch::{Stuck, append_all, is_essential, opens_epoch};
use crate::clock::Now;
use crate::outbox::{NewRecord, Outbox, OwedRange, ReadLimits};

/// How much is read at a time to be taken along to the disk.
const MIGRATE_LIMITS: ReadLimits = ReadLimits { bytes: 64 << 10, records: 1_024 };

/// Writes what `from` holds within `range` to `to`, as far as its kind is `wanted`. What `to` refuses is in its own
/// losses. Returns the time of what it left out.
pub(super) fn copy(
    from: &mut dyn Outbox,
    to: &mut dyn Outbox,
    range: OwedRange,
    wanted: fn(u8) -> bool,
) -> Result<Option<(Timestamp, Timestamp)>, Stuck> {
    let (mut records, mut left_out) = (Vec::new(), None);
    let mut next = range.first;
    while next <= range.last {
        records.clear();
        // Memory does not fail; where it does, the loss that follows says what was not copied.
        if from.read(range.epoch, next, MIGRATE_LIMITS, &mut records).is_err() {
            break;
        }
        let Some(last) = records.last().map(|record| record.seq) else { break };
        records.retain(|r| r.seq <= range.last);
        let (taken, left): (Vec<_>, Vec<_>) = records.iter().partition(|r| wanted(r.kind));
        for (from, at) in left.into_iter().map(|r| (r.from, r.at)) {
            let (first, last) = left_out.unwrap_or((from, at));
            left_out = Some((from.min(first), at.max(last)));
        }
        let batch: Vec<NewRecord<'_>> = taken
            .into_iter()
            .map(|r| NewRecord {
                kind: r.kind,
                at: r.at,
                from: r.from,
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
    Ok(left_out)
}

/// Of what is owed: all but what belongs to the epoch itself.
pub(super) const fn is_owed(kind: u8) -> bool {
    !opens_epoch(kind)
}

/// Of what the collector has acknowledged: what counts by its place in the chain, which memory has none in, and what
/// is told once. A database that is put back asks for the rest in vain, see [`is_gone`].
pub(super) const fn is_told_again(kind: u8) -> bool {
    is_essential(kind) && !opens_epoch(kind)
}

/// What is held of an epoch in the order it was written, each stretch with whether it is owed: what counts by its place,
/// as a downtime before the declaration after it, must keep it.
pub(super) fn stretches(held: &HeldEpoch, owed: &[OwedRange]) -> Vec<(OwedRange, bool)> {
    let mut stretches = Vec::new();
    let mut next = held.first;
    for range in owed.iter().filter(|range| range.epoch == held.epoch) {
        stretches.extend(between(held, next, range.first).map(|before| (before, false)));
        stretches.push((*range, true));
        next = next.max(range.last.next());
    }
    stretches.extend(between(held, next, held.next).map(|rest| (rest, false)));
    stretches
}

fn between(held: &HeldEpoch, first: Seq, next: Seq) -> Option<OwedRange> {
    (first < next).then(|| OwedRange { epoch: held.epoch, first, last: Seq(next.0 - 1) })
}

/// What memory gave up after it was acknowledged: a collector that has it ignores this, and to one whose database was
/// put back it says why those slots are missing.
pub(super) fn is_gone(range: OwedRange, (from, to): (Timestamp, Timestamp)) -> Loss {
    let OwedRange { epoch, first, last } = range;
    Loss { epoch, first, last, from, to, cause: Cause::DiskFailed }
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
