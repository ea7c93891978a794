//! Making room: new files while the budget allows, then the archive, then, by policy, what is still owed.
//!
//! Order of every step: the loss is durable before the header is erased, and the header before the file is used again.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::id::Epoch;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::{Loss, Record};
use gapless_common::text::format_bytes;
use gapless_common::wire::decode_record;

use super::format::DATA_AT;
use super::{Journal, SEGMENT_SUFFIX, SpareFile};
use crate::outbox::losses::FILE_BYTES;
use crate::outbox::spans::Span;
use crate::outbox::{AppendError, DropPolicy, ReadLimits, is_full};

/// Least number of segment files, whatever catalogs take of the budget: the active one, one sealed, one spare.
const FILES_MIN: usize = 3;

impl Journal {
    /// Makes the next spare file after the last one was taken. The batch that took it is durable: a failure here is
    /// told by the next append.
    pub(super) fn make_spare_after_rotation(&mut self) {
        // `make_spare` marks the handle as dead on failure.
        let _ = self.make_spare();
    }

    /// Sees to it that there is a spare file, as far as the policy allows.
    pub(super) fn make_spare(&mut self) -> Result<(), AppendError> {
        self.shrink()?;
        if !self.spares.is_empty() || self.grow()? {
            return Ok(());
        }
        if let Some(index) = self.pick() {
            self.recycle(index)?;
        }
        Ok(())
    }

    /// Bytes that segment files may take together.
    fn files_bytes_max(&self) -> u64 {
        let fixed = FILE_BYTES + self.options.quarantine_bytes() + self.catalog_bytes;
        self.options.budget().saturating_sub(fixed)
    }

    /// Makes a new file; `false` where budget or disk have no room.
    fn grow(&mut self) -> Result<bool, AppendError> {
        let len = self.options.segment_bytes();
        let count = self.segments.len() + self.spares.len();
        if count >= FILES_MIN && self.file_bytes() + len > self.files_bytes_max() {
            self.note_disk_full(false);
            return Ok(false);
        }
        self.make_file()
    }

    /// Makes a spare file, whatever the budget says; `false` where the disk has no room.
    pub(super) fn make_file(&mut self) -> Result<bool, AppendError> {
        let len = self.options.segment_bytes();
        let name = self.free_name();
        match self.disk.create(&name, len) {
            Ok(()) => {
                self.note_disk_full(false);
                self.counters.written_bytes += len;
                self.spares.push(SpareFile { name, len });
                Ok(true)
            }
            Err(e) if is_full(&e) => {
                self.note_disk_full(true);
                Ok(false)
            }
            Err(e) => Err(self.fail("make a segment", e)),
        }
    }

    /// Whether it is the disk that has no room for what the budget allows: said when that begins, and when it ends.
    pub(super) fn note_disk_full(&mut self, is_full: bool) {
        if is_full == std::mem::replace(&mut self.is_disk_full, is_full) {
            return;
        }
        let (has, may) = (format_bytes(self.file_bytes()), format_bytes(self.files_bytes_max()));
        if is_full {
            tracing::warn!(
                "the disk is full, and the outbox has {has} of the {may} that its budget allows: new records take the place of \
                 old ones, or are refused, as the policy says; free the rest, or give the outbox a smaller budget"
            );
        } else {
            tracing::warn!(
                "the disk is no longer too full for the outbox, which has {has} of the {may} that its budget allows"
            );
        }
    }

    fn free_name(&self) -> String {
        let taken = |name: &String| {
            self.segments.iter().any(|s| s.name == *name) || self.spares.iter().any(|s| s.name == *name)
        };
        let mut names = (0u32..).map(|n| format!("{n:04}{SEGMENT_SUFFIX}"));
        names.find(|name| !taken(name)).expect("there are fewer files than u32 numbers")
    }

    /// The segment to give up next: the oldest one of the archive, else the oldest by policy. Never the active one.
    fn pick(&self) -> Option<usize> {
        let sealed = self.segments.len().saturating_sub(1);
        let archive = (0..sealed).find(|&i| !self.segments[i].spans.is_owed(&self.acks));
        let oldest = (self.options.policy == DropPolicy::OldestFirst && sealed > 0).then_some(0);
        archive.or(oldest)
    }

    /// Turns a segment into a spare file.
    pub(super) fn recycle(&mut self, index: usize) -> Result<(), AppendError> {
        self.take_back_words(index)?;
        let losses = if planted::has(Bug::DropInSilence) { Vec::new() } else { self.losses_of(index) };
        self.record_losses(&losses)?;
        let segment = self.segments.remove(index);
        let erased = self.disk.write_at(&segment.name, 0, &[0; DATA_AT]);
        let erased = erased.and_then(|()| self.disk.sync(&segment.name));
        erased.map_err(|e| self.fail("recycle a segment", e))?;
        // Reading ahead may have made large folios of it; see `disk` on what they do to small appends.
        self.disk.forget_cache(&segment.name);
        self.counters.syncs += 1;
        if segment.len == self.options.segment_bytes() {
            self.spares.push(SpareFile { name: segment.name, len: segment.len });
        } else {
            // Made under another budget.
            self.remove_file(&segment.name)?;
        }
        self.forget_epochs();
        Ok(())
    }

    /// Losses that only records of this segment tell of are to be told once more: otherwise nobody would ever hear of them.
    /// They count as dropped already.
    fn take_back_words(&mut self, index: usize) -> Result<(), AppendError> {
        let words = self.words_of(index);
        let is_same = |told: &Loss, word: &Loss| {
            (told.epoch, told.cause) == (word.epoch, word.cause)
                && told.first <= word.last
                && word.first <= told.last
        };
        self.told.retain(|told| !words.iter().any(|word| is_same(told, word)));
        let done = self.losses.add(self.disk.as_mut(), &words);
        done.map_err(|e| self.fail("write a loss", e))
    }

    fn words_of(&mut self, index: usize) -> Vec<Loss> {
        let spans = self.segments.get(index).map(|s| s.spans.0.as_slice()).unwrap_or_default();
        let of_span = |span: &Span| span.words.iter().map(|&seq| (span.epoch, seq)).collect::<Vec<_>>();
        let mut owed: Vec<_> = spans.iter().flat_map(of_span).collect();
        owed.retain(|&(epoch, seq)| !self.acks.owed(epoch, seq, seq).is_empty());
        let mut words = Vec::new();
        for (epoch, seq) in owed {
            let (limits, mut found) = (ReadLimits { bytes: 1, records: 1 }, Vec::new());
            // Damage that is met here is a loss of its own, and so is what a device does not give.
            if let Err(e) = self.read_run(epoch, seq, limits, &mut found) {
                tracing::error!("a loss is dropped, as its record cannot be read: {e}");
            }
            let record = found.first().filter(|record| record.seq.0 == seq);
            if let Some(Ok(Record::Loss(loss))) = record.map(|record| decode_record(&record.bytes)) {
                words.push(loss);
            }
        }
        words
    }

    fn losses_of(&self, index: usize) -> Vec<Loss> {
        let spans = self.segments.get(index).map(|s| s.spans.0.as_slice()).unwrap_or_default();
        let owed = |span: &Span| span.losses(&self.acks, Cause::BudgetFull).collect::<Vec<_>>();
        spans.iter().flat_map(owed).collect()
    }

    /// Removes files beyond the budget: it was lowered, or catalogs take more of it.
    pub(super) fn shrink(&mut self) -> Result<(), AppendError> {
        while self.file_bytes() > self.files_bytes_max()
            && self.segments.len() + self.spares.len() > FILES_MIN
        {
            if self.spares.len() < 2 {
                let Some(index) = self.pick() else { return Ok(()) };
                self.recycle(index)?;
            }
            if self.spares.len() > 1
                && let Some(spare) = self.spares.pop()
            {
                self.remove_file(&spare.name)?;
            }
        }
        Ok(())
    }

    /// Gives the file system the room of the oldest segment; `false` where only the active one is left.
    pub(super) fn give_back_oldest(&mut self) -> Result<bool, AppendError> {
        let index = if self.spares.is_empty() { self.pick() } else { None };
        self.give_back(index)
    }

    /// The same, where the file system has just said that it has none.
    pub(super) fn give_back_oldest_of_full_disk(&mut self) -> Result<bool, AppendError> {
        self.note_disk_full(true);
        self.give_back_oldest()
    }

    /// The same whatever the policy, for what the other records mean nothing without.
    pub(super) fn give_back_whatever(&mut self) -> Result<bool, AppendError> {
        self.give_back((self.segments.len() > 1).then_some(0))
    }

    fn give_back(&mut self, segment: Option<usize>) -> Result<bool, AppendError> {
        let before = self.file_bytes();
        if let Some(index) = segment {
            self.recycle(index)?;
        }
        // A segment that was made under another budget has gone already.
        if self.file_bytes() == before
            && let Some(spare) = self.spares.pop()
        {
            self.remove_file(&spare.name)?;
        }
        Ok(self.file_bytes() < before)
    }

    fn remove_file(&mut self, name: &str) -> Result<(), AppendError> {
        let removed = self.disk.remove(name).and_then(|()| self.disk.sync_directory(name));
        removed.map_err(|e| self.fail("remove a segment", e))
    }

    /// Forgets what is known of epochs of which nothing is held any more.
    fn forget_epochs(&mut self) {
        let spans = self.segments.iter().flat_map(|s| &s.spans.0);
        let mut held: BTreeSet<Epoch> = spans.map(|span| span.epoch).collect();
        held.insert(self.opening.epoch);
        held.extend(self.previous.map(|(epoch, _)| epoch));
        self.epochs.retain(|(epoch, _)| held.contains(epoch));
        self.acks.retain(&held);
        let firsts: BTreeMap<Epoch, u64> =
            held.iter().filter_map(|&epoch| Some((epoch, self.first_held(epoch)?))).collect();
        self.forgone.retain(|epoch| firsts.get(&epoch).copied());
    }
}
