//! Which records a segment holds, and roughly where: runs without a hole, with a mark every few KiB.
//!
//! Memory: one run for each epoch, catalog or hole in a segment, and a mark (16 bytes) for each
//! [`MARK_EVERY_BYTES`] of it. Does no I/O.

use gapless_common::id::Seq;
use gapless_common::id::{CatalogHash, Epoch};
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use super::acks::Acks;

/// Distance of two marks: what has to be read in vain at most to find a record.
const MARK_EVERY_BYTES: u64 = 16 << 10;

/// A run of records of one epoch and catalog, without a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) epoch: Epoch,
    pub(super) catalog: CatalogHash,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Earliest instant that a record speaks of.
    pub(super) from: Timestamp,
    /// Latest time of a record.
    pub(super) to: Timestamp,
    /// Records that tell of losses: who drops them has to tell of these once more.
    pub(super) words: Vec<u64>,
    /// (seq, offset) in order; the first one is that of `first`.
    marks: Vec<(u64, u64)>,
}

impl Span {
    /// Number of records.
    pub(super) const fn len(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The last mark at or before `seq`, which lies in the run.
    pub(super) fn mark(&self, seq: u64) -> (u64, u64) {
        let after = self.marks.partition_point(|&(s, _)| s <= seq);
        self.marks.get(after.saturating_sub(1)).copied().unwrap_or((self.first, 0))
    }

    /// What of it nobody has acknowledged, as losses for `cause`.
    pub(super) fn losses(&self, acks: &Acks, cause: Cause) -> impl Iterator<Item = Loss> + '_ {
        acks.owed(self.epoch, self.first, self.last).into_iter().map(move |(first, last)| Loss {
            epoch: self.epoch,
            first: Seq(first),
            last: Seq(last),
            from: self.from,
            to: self.to,
            cause,
        })
    }
}

/// A record as the index sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    pub(super) catalog: CatalogHash,
    pub(super) at: Timestamp,
    pub(super) from: Timestamp,
    /// It tells of a loss.
    pub(super) is_word: bool,
    pub(super) offset: u64,
}

/// The runs of one segment, in the order they lie there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Spans(pub(super) Vec<Span>, IsBroken);

/// Whether damage lies behind the last record, so that reading on from it would run into that.
type IsBroken = bool;

impl Spans {
    /// Adds the record that follows all others.
    pub(super) fn push(&mut self, entry: &Entry) {
        let is_broken = std::mem::take(&mut self.1);
        match self.0.last_mut() {
            Some(span)
                if !is_broken
                    && span.epoch == entry.epoch
                    && span.catalog == entry.catalog
                    && span.last + 1 == entry.seq =>
            {
                span.last = entry.seq;
                span.from = span.from.min(entry.from);
                span.to = span.to.max(entry.at);
                span.words.extend(entry.is_word.then_some(entry.seq));
                if span.marks.last().is_none_or(|&(_, o)| entry.offset >= o + MARK_EVERY_BYTES) {
                    span.marks.push((entry.seq, entry.offset));
                }
            }
            _ => self.0.push(Span {
                epoch: entry.epoch,
                catalog: entry.catalog,
                first: entry.seq,
                last: entry.seq,
                from: entry.from,
                to: entry.at,
                words: entry.is_word.then_some(entry.seq).into_iter().collect(),
                marks: vec![(entry.seq, entry.offset)],
            }),
        }
    }

    /// The next record begins a run of its own, even where no record is missing before it.
    pub(super) const fn break_run(&mut self) {
        self.1 = true;
    }

    /// The first run of `epoch` that reaches `from` or beyond.
    pub(super) fn find(&self, epoch: Epoch, from: u64) -> Option<&Span> {
        self.0.iter().find(|span| span.epoch == epoch && span.last >= from)
    }

    /// Whether any record is not acknowledged.
    pub(super) fn is_owed(&self, acks: &Acks) -> bool {
        self.0.iter().any(|span| !acks.owed(span.epoch, span.first, span.last).is_empty())
    }

    /// Records that `self` holds and `other` does not, as runs of (epoch, first, last).
    pub(super) fn missing_in(&self, other: &Self) -> Vec<Loss> {
        let mut missing = Vec::new();
        for span in &self.0 {
            let there: gapless_common::ranges::RangeSet =
                other.0.iter().filter(|o| o.epoch == span.epoch).map(|o| (o.first, o.last)).collect();
            missing.extend(there.holes(span.first, span.last).map(|(first, last)| Loss {
                epoch: span.epoch,
                first: Seq(first),
                last: Seq(last),
                from: span.from,
                to: span.to,
                cause: Cause::Quarantined,
            }));
        }
        missing
    }
}
