//! Takes what an outbox in memory still owes along to the disk. Decides nothing about when.

use gapless_common::id::Seq;
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::reading::{Loss, Record};
use gapless_common::time::Timestamp;
use gapless_common::wire::decode_record;

use super::batch::{Stuck, append_all, is_essential, opens_epoch};
use crate::clock::Now;
use crate::outbox::{NewRecord, Outbox, OwedRange, ReadLimits, StoredRecord};

/// How much is read at a time to be taken along to the disk.
const MIGRATE_LIMITS: ReadLimits = ReadLimits { bytes: 64 << 10, records: 1_024 };

/// Writes what `from` holds within `range` to `to`, as far as its kind is `wanted`. What `to` refuses is in its own
/// losses.
pub(super) fn copy(
    from: &mut dyn Outbox,
    to: &mut dyn Outbox,
    range: OwedRange,
    wanted: fn(u8) -> bool,
) -> Result<(), Stuck> {
    each(from, range, |records| {
        let taken = records.iter().filter(|r| wanted(r.kind)).map(|r| NewRecord {
            kind: r.kind,
            at: r.at,
            from: r.from,
            catalog: r.catalog,
            is_essential: is_essential(r.kind),
            bytes: &r.bytes,
        });
        let batch: Vec<NewRecord<'_>> = taken.collect();
        if batch.is_empty() { Ok(()) } else { append_all(to, &batch).map(drop) }
    })
}

/// The time of what [`copy`] leaves out, at `now`.
pub(super) fn left_out(
    from: &mut dyn Outbox,
    range: OwedRange,
    wanted: fn(u8) -> bool,
    now: Now,
) -> Result<Option<(Timestamp, Timestamp)>, Stuck> {
    let mut time = None;
    each(from, range, |records| {
        for record in records.iter().filter(|r| !wanted(r.kind)) {
            let (first, last) = time.unwrap_or((record.from, record.at));
            time = Some((record.from.min(first), end_of(record, now).max(last)));
        }
        Ok(())
    })?;
    Ok(time)
}

/// A logger's clock is believed to be ahead by so much at most, in ms: a loss explains the slots of all devices.
const AHEAD_MS_MAX: i64 = 86_400_000;

/// The latest instant that a record speaks of: a logger's clock may be ahead of the gateway's.
fn end_of(record: &StoredRecord, now: Now) -> Timestamp {
    match decode_record(&record.bytes) {
        Ok(Record::Readings(readings)) => readings.at.min(now.wall.plus_ms(AHEAD_MS_MAX)).max(record.at),
        _ => record.at,
    }
}

/// Goes through what is held within a range.
fn each(
    from: &mut dyn Outbox,
    range: OwedRange,
    mut take: impl FnMut(&[StoredRecord]) -> Result<(), Stuck>,
) -> Result<(), Stuck> {
    let mut records = Vec::new();
    let mut next = range.first;
    while next <= range.last {
        records.clear();
        // Memory does not fail; where it does, the loss that follows says what was not copied.
        if from.read(range.epoch, next, MIGRATE_LIMITS, &mut records).is_err() {
            break;
        }
        let Some(last) = records.last().map(|record| record.seq) else { break };
        records.retain(|r| r.seq <= range.last);
        take(&records)?;
        next = last.next();
    }
    Ok(())
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
