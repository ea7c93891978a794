//! What the collector has acknowledged, per epoch, and how it is written down (the *cursor*).
//!
//! Losing a cursor costs only duplicates, so it is bounded: what does not fit is left out. Does no I/O.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::{Epoch, Seq};
use gapless_common::ranges::RangeSet;

/// Most ranges of one epoch in a cursor.
const CURSOR_RANGES_MAX: usize = 32;
/// Most bytes of a cursor: a small part of the smallest segment.
pub(super) const CURSOR_BYTES_MAX: usize = 4 << 10;
/// Bytes of one epoch in a cursor at most.
const EPOCH_BYTES_MAX: usize = 9 + 16 * CURSOR_RANGES_MAX;

/// Acknowledged positions of each epoch.
///
/// Call [`acknowledge`](Acks::acknowledge) and [`unacknowledge`](Acks::unacknowledge) as the collector speaks,
/// [`take_cursor`](Acks::take_cursor) with each append, [`restore`](Acks::restore) with each cursor found at
/// opening, in the order they were written.
#[derive(Debug, Default)]
pub(super) struct Acks {
    epochs: BTreeMap<Epoch, RangeSet>,
    changed: BTreeSet<Epoch>,
}

impl Acks {
    /// Adds all up to `watermark` and the ranges `above`.
    pub(super) fn acknowledge(&mut self, epoch: Epoch, watermark: Seq, above: &[(Seq, Seq)]) {
        let set = self.epochs.entry(epoch).or_default();
        let known = set.covers(1, watermark.0) && above.iter().all(|(f, l)| set.covers(f.0, l.0));
        if known && watermark.0 > 0 {
            return;
        }
        set.insert(1, watermark.0);
        for (first, last) in above {
            set.insert(first.0.max(1), last.0);
        }
        self.changed.insert(epoch);
    }

    /// Takes back all above `watermark`.
    pub(super) fn unacknowledge(&mut self, epoch: Epoch, watermark: Seq) {
        if let Some(set) = self.epochs.get_mut(&epoch) {
            set.remove(watermark.0.saturating_add(1), u64::MAX);
            self.changed.insert(epoch);
        }
    }

    /// What of `first..=last` is not acknowledged.
    pub(super) fn owed(&self, epoch: Epoch, first: u64, last: u64) -> Vec<(u64, u64)> {
        match self.epochs.get(&epoch) {
            Some(set) => set.holes(first, last).collect(),
            None => vec![(first, last)],
        }
    }

    /// Forgets epochs of which nothing is held any more.
    pub(super) fn retain(&mut self, held: &BTreeSet<Epoch>) {
        self.epochs.retain(|epoch, _| held.contains(epoch));
        self.changed.retain(|epoch| held.contains(epoch));
    }

    /// What changed since the last cursor, or all of it; empty where there is nothing to say.
    pub(super) fn take_cursor(&mut self, all: bool) -> Vec<u8> {
        let changed = std::mem::take(&mut self.changed);
        let wanted = self.epochs.iter().filter(|(epoch, _)| all || changed.contains(epoch));
        let mut bytes = Vec::new();
        for (epoch, set) in wanted {
            if bytes.len() + EPOCH_BYTES_MAX > CURSOR_BYTES_MAX {
                break;
            }
            encode_epoch(*epoch, set, &mut bytes);
        }
        bytes
    }

    /// Takes over what a cursor says; what is malformed in it is left out.
    pub(super) fn restore(&mut self, mut cursor: &[u8]) {
        while let Some((epoch, set, rest)) = decode_epoch(cursor) {
            self.epochs.insert(epoch, set);
            cursor = rest;
        }
    }
}

/// `epoch 8 | number of ranges 1 | (first 8 | last 8) …`, little endian.
fn encode_epoch(epoch: Epoch, set: &RangeSet, into: &mut Vec<u8>) {
    let ranges: Vec<_> = set.iter().take(CURSOR_RANGES_MAX).collect();
    into.extend_from_slice(&epoch.0.to_le_bytes());
    into.push(u8::try_from(ranges.len()).expect("at most CURSOR_RANGES_MAX"));
    for (first, last) in ranges {
        into.extend_from_slice(&first.to_le_bytes());
        into.extend_from_slice(&last.to_le_bytes());
    }
}

fn decode_epoch(bytes: &[u8]) -> Option<(Epoch, RangeSet, &[u8])> {
    let (epoch, rest) = bytes.split_first_chunk()?;
    let (&count, mut rest) = rest.split_first()?;
    let mut set = RangeSet::new();
    for _ in 0..count {
        let (first, after) = rest.split_first_chunk()?;
        let (last, after) = after.split_first_chunk()?;
        set.insert(u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        rest = after;
    }
    Some((Epoch(u64::from_le_bytes(*epoch)), set, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_brings_back_what_it_was_taken_from() {
        let mut acks = Acks::default();
        acks.acknowledge(Epoch(1), Seq(5), &[(Seq(8), Seq(9))]);
        acks.acknowledge(Epoch(2), Seq(0), &[]);
        let cursor = acks.take_cursor(false);
        let mut again = Acks::default();
        again.restore(&cursor);
        assert_eq!(again.owed(Epoch(1), 1, 10), [(6, 7), (10, 10)]);
        assert_eq!(again.owed(Epoch(2), 1, 2), [(1, 2)]);
        assert!(acks.take_cursor(false).is_empty());
        acks.acknowledge(Epoch(1), Seq(4), &[]);
        assert!(acks.take_cursor(false).is_empty(), "nothing new");
        acks.unacknowledge(Epoch(1), Seq(2));
        again.restore(&acks.take_cursor(false));
        assert_eq!(again.owed(Epoch(1), 1, 10), [(3, 10)]);
        for cut in 0..cursor.len() {
            Acks::default().restore(&cursor[..cut]);
        }
    }
}
