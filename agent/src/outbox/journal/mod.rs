//! The segmented log: appends go to the end of a pre-allocated file and cost one write and one `fdatasync`.
//!
//! **Files.** `NNNN.seg`, all of one length, zero-filled when made: their blocks are allocated and written, so that a
//! sync has no metadata to write. A file lives many lives, each under a new segment number; `format` draws the
//! bytes. One file is always spare.
//!
//! **Append.** The bytes of a batch, and before them what changed of the acknowledgements, go out in one write. Where
//! the segment is full the spare one is taken; its header goes out with its first batch, and all acknowledgements
//! with it. Only then a new spare is made: a new file while the budget allows, else the oldest segment of the
//! archive, else, by policy, the oldest one at all, after its loss was made durable. A recycled segment's header
//! is erased at once, so that what was given up never comes back.
//!
//! **Opening** (`recover`) reads all segments. What came with the last write is torn where it is not whole: cut off.
//! Anything before the last write was durable, so damage there is damage: quarantined.
//!
//! **Reading** (`read`) starts at a mark of the index, or where the last reading ended.
//!
//! Does not look into records, and keeps none in memory: the newest ones are in the page cache.

mod append;
mod forgone;
mod format;
mod read;
mod recover;
mod recycle;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use gapless_common::id::{CatalogHash, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use self::forgone::Forgone;
use self::read::ReadHint;
pub use self::summary::Summary;
use super::acks::Acks;
use super::catalogs::Catalogs;
use super::disk::Disk;
use super::losses::{LossBook, is_told};
use super::quarantine::Quarantine;
use super::spans::Spans;
use super::{
    AppendError, Found, NewRecord, OpenError, Opening, Options, Outbox, OwedRange, ReadError, ReadLimits,
    Stats, StoredRecord, to_u64,
};

/// Ends the name of a segment's file.
const SEGMENT_SUFFIX: &str = ".seg";

/// One life of a segment's file.
#[derive(Debug)]
struct Segment {
    /// The file.
    name: String,
    /// The file's length.
    len: u64,
    /// Number of this life.
    number: u64,
    /// Where the next frame goes, and the frames end; 0 while not even the header is written.
    end: u64,
    /// What it holds.
    spans: Spans,
}

/// A segment's file without a life.
#[derive(Debug)]
struct SpareFile {
    name: String,
    len: u64,
}

/// The store.
pub struct Journal {
    disk: Box<dyn Disk>,
    options: Options,
    opening: Opening,
    previous: Option<(Epoch, Seq)>,
    /// In the order of their numbers; the last one is being written.
    segments: Vec<Segment>,
    spares: Vec<SpareFile>,
    /// The greatest number ever given to a segment.
    last_number: u64,
    /// Every epoch met, oldest first, with the first seq not yet issued; the current one is last.
    epochs: Vec<(Epoch, u64)>,
    /// Number of the last write.
    batch: u8,
    /// Whether this epoch's opening has been written.
    is_announced: bool,
    /// Whether the next cursor has to be a whole one.
    needs_whole_cursor: bool,
    acks: Acks,
    losses: LossBook,
    /// Positions refused at the end of the epoch before, and of this one since the last write; the next one says so.
    refused_before: Option<Loss>,
    refused: Option<Loss>,
    /// Losses that records tell of, kept in the book until the next write has made the acknowledgement of them durable.
    told: Vec<Loss>,
    forgone: Forgone,
    quarantine: Quarantine,
    catalog_bytes: u64,
    buffer: Vec<u8>,
    chunk: Vec<u8>,
    hint: Option<ReadHint>,
    has_failed: bool,
    /// The disk has no room, though the budget has.
    is_disk_full: bool,
    counters: Counters,
}

/// What is counted since the opening.
#[derive(Debug, Default)]
struct Counters {
    appended_records: u64,
    appended_bytes: u64,
    written_bytes: u64,
    syncs: u64,
    quarantined_records: u64,
    dropped_records: u64,
    dropped_disk_full: u64,
}

impl Journal {
    /// Opens the journal on `disk`, makes it where there is none, repairs it where it is damaged.
    ///
    /// # Errors
    /// [`OpenError`]. Damaged contents are no error.
    pub fn open(
        disk: Box<dyn Disk>,
        options: &Options,
        opening: Opening,
    ) -> Result<(Self, Found), OpenError> {
        recover::open(disk, options, opening)
    }

    fn next(&self) -> u64 {
        self.epochs.last().map_or(1, |&(_, next)| next)
    }

    fn advance(&mut self, next: u64) {
        if let Some(last) = self.epochs.last_mut() {
            last.1 = next;
        }
    }

    fn check_usable(&self) -> Result<(), AppendError> {
        if self.has_failed { Err(AppendError::Unusable) } else { Ok(()) }
    }

    /// The handle is dead from here on.
    fn fail(&mut self, action: &'static str, source: std::io::Error) -> AppendError {
        self.has_failed = true;
        AppendError::Io { action, source }
    }

    fn file_bytes(&self) -> u64 {
        let segments: u64 = self.segments.iter().map(|s| s.len).sum();
        let spares: u64 = self.spares.iter().map(|s| s.len).sum();
        segments + spares
    }

    /// The first seq of an epoch that a segment holds.
    fn first_held(&self, epoch: Epoch) -> Option<u64> {
        let spans = self.segments.iter().flat_map(|s| &s.spans.0);
        spans.filter(|span| span.epoch == epoch).map(|span| span.first).min()
    }

    fn owed_spans(&self) -> impl Iterator<Item = OwedRange> + '_ {
        let spans = self.segments.iter().flat_map(|s| &s.spans.0);
        spans.flat_map(|span| {
            let owed = self.acks.owed(span.epoch, span.first, span.last);
            let epoch = span.epoch;
            owed.into_iter().map(move |(f, l)| OwedRange { epoch, first: Seq(f), last: Seq(l) })
        })
    }
}

impl Outbox for Journal {
    fn epoch(&self) -> Epoch {
        self.opening.epoch
    }

    fn next_seq(&self) -> Seq {
        Seq(self.next())
    }

    fn append(&mut self, batch: &[NewRecord<'_>]) -> Result<Seq, AppendError> {
        self.append_batch(batch)
    }

    fn read(
        &mut self,
        epoch: Epoch,
        from: Seq,
        limits: ReadLimits,
        out: &mut Vec<StoredRecord>,
    ) -> Result<(), ReadError> {
        self.read_run(epoch, from.0.max(1), limits, out)
    }

    fn acknowledge(&mut self, epoch: Epoch, watermark: Seq, above: &[(Seq, Seq)]) {
        if self.epochs.iter().any(|&(known, _)| known == epoch) {
            self.acks.acknowledge(epoch, watermark, above);
        }
    }

    fn unacknowledge(&mut self, epoch: Epoch, watermark: Seq) {
        self.acks.unacknowledge(epoch, watermark);
    }

    fn held(&self) -> Vec<HeldEpoch> {
        let mut held = Vec::new();
        for &(epoch, next) in &self.epochs {
            let first = self.first_held(epoch);
            if first.is_some() || epoch == self.opening.epoch {
                held.push(HeldEpoch { epoch, first: Seq(first.unwrap_or(next)), next: Seq(next) });
            }
        }
        held
    }

    fn owed(&self) -> Vec<OwedRange> {
        let mut ranges: Vec<OwedRange> = Vec::new();
        for range in self.owed_spans() {
            match ranges.last_mut() {
                Some(last) if last.epoch == range.epoch && last.last.next() == range.first => {
                    last.last = range.last;
                }
                _ => ranges.push(range),
            }
        }
        ranges
    }

    fn catalogs_held(&self) -> BTreeSet<CatalogHash> {
        self.segments.iter().flat_map(|s| &s.spans.0).map(|span| span.catalog).collect()
    }

    fn pending_losses(&self) -> Vec<Loss> {
        let untold = self.losses.pending().iter().filter(|loss| !is_told(loss, &self.told));
        let mut losses: Vec<Loss> = untold.copied().collect();
        losses.extend(self.forgone.wanted(&self.acks, self.losses.pending(), |epoch| self.first_held(epoch)));
        losses
    }

    fn losses_recorded(&mut self, losses: &[Loss]) -> Result<(), AppendError> {
        self.check_usable()?;
        for loss in losses {
            self.acks.acknowledge(loss.epoch, Seq(0), &[(loss.first, loss.last)]);
        }
        self.told.extend_from_slice(losses);
        Ok(())
    }

    fn stats(&self) -> Stats {
        let spans = || self.segments.iter().flat_map(|s| &s.spans.0);
        Stats {
            disk_bytes: self.file_bytes()
                + super::losses::FILE_BYTES
                + self.quarantine.len()
                + self.catalog_bytes,
            budget_bytes: self.options.budget(),
            segments: to_u64(self.segments.iter().filter(|s| !s.spans.0.is_empty()).count()),
            held_records: spans().map(super::spans::Span::len).sum(),
            owed_records: self.owed_spans().map(|r| r.last.0 - r.first.0 + 1).sum(),
            appended_records: self.counters.appended_records,
            appended_bytes: self.counters.appended_bytes,
            written_bytes: self.counters.written_bytes,
            syncs: self.counters.syncs,
            quarantined_records: self.counters.quarantined_records,
            dropped_records: self.counters.dropped_records,
            dropped_disk_full: self.counters.dropped_disk_full,
            is_disk_full: self.is_disk_full,
            pending_losses: to_u64(self.pending_losses().len()),
        }
    }

    fn make_room(&mut self) -> Result<bool, AppendError> {
        self.check_usable()?;
        // The active segment and one to go on with stay.
        let is_least = self.segments.len() + self.spares.len() <= 2;
        Ok(!is_least && (self.give_back_oldest()? || self.give_back_whatever()?))
    }

    fn catalogs(&mut self) -> Catalogs<'_> {
        Catalogs { disk: self.disk.as_mut(), bytes: &mut self.catalog_bytes }
    }

    fn close(&mut self, at: Timestamp) -> Result<(), AppendError> {
        self.write_goodbye(at)
    }
}
