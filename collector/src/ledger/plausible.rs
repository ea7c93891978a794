//! What no honest agent says: seqs, instants, slots and counts that would make the ledger promise what cannot be, or
//! keep without a bound. Judges records by themselves and by the clock; what is kept of them is for others.
//!
//! What an agent says is believed, whatever its clock says, as long as it is an instant that can be written and asked
//! for: a step of a gateway's clock costs no reading. What it *declares* (a slot missed, a device accounted for, a
//! catalog in force) is [`believed`] up to now only where its clock is far ahead: proof of the future would call every
//! slot on the way a gap, and those slots come still, once the clock is right.

use gapless_common::id::{DeviceIndex, Epoch};
use gapless_common::message::{DataFrame, HeldEpoch};
use gapless_common::reading::{Acquired, ClockCorrection, EpochStart, Loss, Record};
use gapless_common::time::{Slot, SlotGrid, Timestamp};

/// Most seqs of an epoch: a million records a second for 285 years. Sums of them stay far from 64 bits.
pub const SEQ_MAX: u64 = 1 << 53;
/// Instants of records lie in `0..TIME_MAX`: from 1970 to 2200.
pub const TIME_MAX: Timestamp = Timestamp(7_258_118_400_000);
/// A gateway's clock may be ahead of the collector's by a day in what it declares, in ms.
pub const AHEAD_MAX_MS: i64 = 86_400_000;
/// Before this instant (2024) the collector's own clock is not set, and judges nobody's.
const CLOCK_SET_FROM: Timestamp = Timestamp(1_704_067_200_000);
/// A machine has been up for a century at most, in ms.
const BOOT_CLOCK_MS_MAX: u64 = 100 * 366 * 86_400_000;
/// Catalogs, starts, downtimes, losses and corrections in one frame, at most: each costs work for every device.
pub const STRUCTURAL_MAX: usize = 1_024;
/// Devices and channels of one catalog, at most.
pub const CATALOG_ENTRIES_MAX: usize = 1 << 16;

/// Whether seqs up to `last` can be.
#[must_use]
pub const fn seqs(last: u64) -> bool {
    last <= SEQ_MAX
}

/// What a declaration of `at` says by the collector's own clock: itself, or no more than `now` where the gateway's
/// clock is ahead by more than [`AHEAD_MAX_MS`].
#[must_use]
pub fn believed(at: Timestamp, now: Timestamp) -> Timestamp {
    if now >= CLOCK_SET_FROM && at > now.plus_ms(AHEAD_MAX_MS) { now } else { at }
}

/// Whether a birth's list of epochs can be.
#[must_use]
pub fn held(held: &[HeldEpoch]) -> bool {
    held.iter().all(|h| h.first.0 >= 1 && h.first <= h.next && seqs(h.next.0 - 1))
}

/// What is wrong with a frame whatever its catalog says; `None` where nothing is.
#[must_use]
pub fn nonsense(frame: &DataFrame) -> Option<&'static str> {
    let structural =
        |record: &&Record| !matches!(record, Record::Readings(_) | Record::Misses(_) | Record::Complete(_));
    if frame.records.iter().filter(structural).count() > STRUCTURAL_MAX {
        return Some("more catalogs, downtimes, losses and corrections than a frame may hold");
    }
    (frame.first.0..).zip(&frame.records).find_map(|(seq, record)| match record {
        Record::Start(start) => of_start(start),
        Record::Downtime(d) => instants([d.from, d.to]),
        Record::Catalog(catalog) => instants(catalog.since),
        Record::Loss(loss) => of_loss(loss, (frame.epoch, seq)),
        Record::ClockCorrection(correction) => of_correction(correction),
        Record::Readings(readings) => match readings.acquired {
            Acquired::SinceBoot(ms) if ms > BOOT_CLOCK_MS_MAX => Some("a boot clock beyond a century"),
            _ => instant(readings.at),
        },
        Record::Misses(_) | Record::Complete(_) => None,
    })
}

/// What is wrong with the slots of a frame; `grid` is that of a device, where the catalog has it.
#[must_use]
pub fn slot_nonsense(
    frame: &DataFrame,
    grid: impl Fn(DeviceIndex) -> Option<SlotGrid>,
) -> Option<&'static str> {
    frame.records.iter().find_map(|record| match record {
        Record::Readings(readings) => match readings.acquired {
            Acquired::InSlot(slot) | Acquired::Recorded(slot) => instant(grid(readings.device)?.at(slot)),
            Acquired::SinceBoot(_) => None,
        },
        Record::Misses(misses) => {
            let times = grid(misses.device)?;
            let last = misses.first.plus(i64::from(misses.count).saturating_sub(1));
            instants([times.at(misses.first), times.at(last)])
        }
        Record::Complete(complete) => {
            let at = |&(device, slot): &(DeviceIndex, Slot)| Some(grid(device)?.at(slot));
            instants(complete.through.iter().filter_map(at))
        }
        _ => None,
    })
}

fn of_start(start: &EpochStart) -> Option<&'static str> {
    if start.previous.is_some_and(|(_, end)| !seqs(end.0)) {
        return Some("a seq that no epoch reaches");
    }
    if start.boot_clock_ms > BOOT_CLOCK_MS_MAX {
        return Some("a boot clock beyond a century");
    }
    instant(start.at)
}

fn of_loss(loss: &Loss, (epoch, seq): (Epoch, u64)) -> Option<&'static str> {
    if loss.first > loss.last || !seqs(loss.last.0) {
        return Some("a loss of seqs that cannot be");
    }
    if loss.epoch == epoch && loss.last.0 >= seq {
        return Some("a loss of what was written after it");
    }
    instant(loss.from).or_else(|| instant(loss.to))
}

fn of_correction(correction: &ClockCorrection) -> Option<&'static str> {
    if correction.first > correction.last || !seqs(correction.last.0) {
        return Some("a correction of seqs that cannot be");
    }
    instant(correction.boot_began)
}

fn instant(at: Timestamp) -> Option<&'static str> {
    (at.0 < 0 || at >= TIME_MAX).then_some("an instant outside 1970 to 2200")
}

fn instants(all: impl IntoIterator<Item = Timestamp>) -> Option<&'static str> {
    all.into_iter().find_map(instant)
}
