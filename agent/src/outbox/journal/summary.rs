//! What an outbox holds, for a person, read beside the agent that writes it.
//!
//! Takes no lock and repairs nothing: what the agent does meanwhile may show as torn.

use std::path::Path;

use gapless_common::id::Seq;
use gapless_common::message::HeldEpoch;
use gapless_common::reading::Loss;

use super::recover::Recovery;
use crate::outbox::disk::{Disk, RealDisk};
use crate::outbox::{Found, OpenError, OwedRange};

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its file.
    pub file: String,
    /// Number of its present life.
    pub number: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Records held.
    pub records: u64,
    /// Of them, those nobody has acknowledged.
    pub owed: u64,
}

/// An outbox at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Segments with records, oldest first.
    pub segments: Vec<SegmentSummary>,
    /// Epochs held, oldest first.
    pub epochs: Vec<HeldEpoch>,
    /// What nobody has acknowledged.
    pub owed: Vec<OwedRange>,
    /// Losses that no record tells of yet.
    pub losses: Vec<Loss>,
    /// What an opening would find.
    pub found: Found,
    /// All files and their lengths.
    pub files: Vec<(String, u64)>,
}

impl Summary {
    /// Reads the journal in `directory` without touching it.
    ///
    /// # Errors
    /// [`OpenError`] where the directory or a file of it cannot be read.
    pub fn read(directory: &Path) -> Result<Self, OpenError> {
        let mut disk = RealDisk::open_read_only(directory)?;
        Self::of(&mut disk)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// [`OpenError`] where a file cannot be read.
    pub fn of(disk: &mut dyn Disk) -> Result<Self, OpenError> {
        let list = disk.list();
        let files = list.map_err(|source| OpenError::Io { action: "list its files".to_owned(), source })?;
        let recovery = Recovery::without_repairs(disk, &files)?;
        let mut summary = Self {
            segments: Vec::new(),
            epochs: Vec::new(),
            owed: Vec::new(),
            losses: recovery.book.pending().to_vec(),
            found: recovery.found(),
            files,
        };
        for segment in &recovery.segments {
            summary.add(segment, &recovery);
        }
        Ok(summary)
    }

    fn add(&mut self, segment: &super::Segment, recovery: &Recovery) {
        let mut owed_records = 0;
        for span in &segment.spans.0 {
            let next = recovery.epochs.iter().find(|(epoch, _)| *epoch == span.epoch).map_or(0, |&(_, n)| n);
            if !self.epochs.iter().any(|held| held.epoch == span.epoch) {
                let first = Seq(span.first);
                self.epochs.push(HeldEpoch { epoch: span.epoch, first, next: Seq(next) });
            }
            for (first, last) in recovery.acks.owed(span.epoch, span.first, span.last) {
                owed_records += last - first + 1;
                self.owed.push(OwedRange { epoch: span.epoch, first: Seq(first), last: Seq(last) });
            }
        }
        self.segments.push(SegmentSummary {
            file: segment.name.clone(),
            number: segment.number,
            used_bytes: segment.end,
            file_bytes: segment.len,
            records: segment.spans.0.iter().map(crate::outbox::spans::Span::len).sum(),
            owed: owed_records,
        });
    }
}
