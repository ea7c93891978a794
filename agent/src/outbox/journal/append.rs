//! Writing a batch: frames into one buffer, one write, one sync; the next segment where one is full.
//!
//! Does not choose what is recycled: see `recycle`.

use gapless_common::id::{CatalogHash, Seq};
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use super::format::{
    DATA_AT, FIRST, FRAME_HEADER_BYTES, FrameHeader, INTERNAL, KIND_CLEAN, KIND_CURSOR, KIND_OPENED,
    KIND_REFUSED, Lead, REFUSED_BYTES, SegmentHeader, encode_refused, is_word,
};
use super::{Journal, Segment};
use crate::outbox::acks::CURSOR_BYTES_MAX;
use crate::outbox::spans::{Entry, Spans};
use crate::outbox::{AppendError, NewRecord, is_full, to_u64, to_usize};

/// Payload of [`KIND_OPENED`].
const OPENED_BYTES: usize = 24;
/// Most bytes that can stand before the first record of a segment.
const PREAMBLE_BYTES_MAX: usize =
    DATA_AT + 4 * FRAME_HEADER_BYTES + 2 * REFUSED_BYTES + OPENED_BYTES + CURSOR_BYTES_MAX;

impl Journal {
    pub(super) fn append_batch(&mut self, batch: &[NewRecord<'_>]) -> Result<Seq, AppendError> {
        self.check_usable()?;
        self.check_lengths(batch)?;
        let mut rest = batch;
        let mut first_refused = None;
        while !rest.is_empty() {
            let written = self.write_part(rest)?;
            rest = &rest[written..];
            let Some(next) = rest.first() else { break };
            if self.rotate()? || (next.is_essential && self.rotate_for_essential()?) {
                continue;
            }
            let ordinary = rest.iter().position(|record| record.is_essential);
            let (refused, others) = rest.split_at(ordinary.filter(|&n| n > 0).unwrap_or(rest.len()));
            first_refused = first_refused.or(Some(Seq(self.next())));
            self.refuse(refused)?;
            rest = others;
        }
        let last = Seq(self.next() - 1);
        first_refused.map_or(Ok(last), |first| Err(AppendError::Refused { first, last }))
    }

    /// The longest record that fits into a segment.
    fn record_bytes_max(&self) -> usize {
        to_usize(self.options.segment_bytes()) - PREAMBLE_BYTES_MAX - FRAME_HEADER_BYTES
    }

    fn check_lengths(&self, batch: &[NewRecord<'_>]) -> Result<(), AppendError> {
        let max = self.record_bytes_max();
        match batch.iter().map(|record| record.bytes.len()).find(|&bytes| bytes > max) {
            Some(bytes) => Err(AppendError::TooLarge { bytes, max }),
            None => Ok(()),
        }
    }

    /// Writes as many records as the segment has room for; returns how many.
    fn write_part(&mut self, records: &[NewRecord<'_>]) -> Result<usize, AppendError> {
        let Some(active) = self.segments.last() else { return Ok(0) };
        let (begin, room) = (active.end, to_usize(active.len - active.end));
        let reserve = if self.spares.is_empty() { to_usize(self.options.reserve_bytes()) } else { 0 };
        let mut next = self.next();
        self.begin_write(begin == 0);
        let mut entries = Vec::with_capacity(records.len());
        let mut payload_bytes = 0;
        for record in records {
            let room = if record.is_essential { room } else { room.saturating_sub(reserve) };
            if self.buffer.len() + FRAME_HEADER_BYTES + record.bytes.len() > room {
                break;
            }
            entries.push(Entry {
                epoch: self.opening.epoch,
                seq: next,
                catalog: record.catalog,
                at: record.at,
                from: Lead::between(record.from, record.at).before(record.at),
                is_word: is_word(record.kind),
                offset: begin + to_u64(self.buffer.len()),
            });
            let lead = Lead::between(record.from, record.at);
            self.push_frame((0, record.kind, lead), (next, record.at, record.catalog), record.bytes);
            payload_bytes += to_u64(record.bytes.len());
            next += 1;
        }
        if entries.is_empty() {
            // What the cursor took out goes into the next segment.
            self.needs_whole_cursor = true;
            return Ok(0);
        }
        self.finish_write()?;
        self.is_announced = true;
        self.advance(next);
        self.counters.appended_records += to_u64(entries.len());
        self.counters.appended_bytes += payload_bytes;
        if let Some(active) = self.segments.last_mut() {
            entries.iter().for_each(|entry| active.spans.push(entry));
        }
        if begin == 0 {
            self.make_spare_after_rotation();
        }
        Ok(entries.len())
    }

    /// Starts the buffer of a write with what goes before the records.
    fn begin_write(&mut self, is_new_segment: bool) {
        self.buffer.clear();
        self.batch = self.batch.wrapping_add(1);
        if is_new_segment {
            let header = SegmentHeader {
                number: self.last_number,
                epoch: self.opening.epoch,
                first: self.first_of_segment(),
                boot: self.opening.boot,
            };
            self.buffer.extend_from_slice(&header.encode());
        }
        let place = (self.next() - 1, Timestamp::default(), CatalogHash::default());
        for refused in [self.refused_before, self.refused].into_iter().flatten() {
            let payload = encode_refused(&refused);
            self.push_frame((INTERNAL, KIND_REFUSED, Lead::NONE), place, &payload);
        }
        if !self.is_announced {
            self.push_frame((INTERNAL, KIND_OPENED, Lead::NONE), place, &self.opened_payload());
        }
        let whole = is_new_segment || self.needs_whole_cursor;
        self.needs_whole_cursor = false;
        let cursor = self.acks.take_cursor(whole);
        if !cursor.is_empty() {
            self.push_frame((INTERNAL, KIND_CURSOR, Lead::NONE), place, &cursor);
        }
    }

    /// The first position that a segment which is begun now has to account for.
    fn first_of_segment(&self) -> Seq {
        self.refused.map_or(Seq(self.next()), |refused| refused.first)
    }

    fn opened_payload(&self) -> [u8; OPENED_BYTES] {
        let (epoch, next) = self.previous.map_or((0, 0), |(epoch, next)| (epoch.0, next.0));
        let mut payload = [0; OPENED_BYTES];
        payload[..8].copy_from_slice(&self.opening.boot.0.to_le_bytes());
        payload[8..16].copy_from_slice(&epoch.to_le_bytes());
        payload[16..].copy_from_slice(&next.to_le_bytes());
        payload
    }

    fn push_frame(
        &mut self,
        (flags, kind, lead): (u8, u8, Lead),
        (seq, at, catalog): (u64, Timestamp, CatalogHash),
        payload: &[u8],
    ) {
        let header_only = self.buffer.len() == DATA_AT && self.buffer[0] == b'G';
        let first = if self.buffer.is_empty() || header_only { FIRST } else { 0 };
        let frame = FrameHeader {
            flags: flags | first,
            kind,
            batch: self.batch,
            length: payload.len(),
            epoch: self.opening.epoch,
            seq: Seq(seq),
            lead,
            at,
            catalog,
            payload_crc: 0,
        };
        frame.encode(self.last_number, payload, &mut self.buffer);
    }

    /// Writes and syncs the buffer at the end of the active segment.
    fn finish_write(&mut self) -> Result<(), AppendError> {
        let Some(active) = self.segments.last() else { return Ok(()) };
        let (name, end) = (active.name.clone(), active.end);
        loop {
            match self.disk.write_at(&name, end, &self.buffer) {
                Ok(()) => break,
                // Only where the file system allocates on overwriting: give it what the oldest segment takes.
                Err(e) if is_full(&e) && self.give_back_oldest_of_full_disk()? => {}
                Err(e) => return Err(self.fail("write a segment", e)),
            }
        }
        if !planted::has(Bug::SkipFsync) {
            self.disk.sync(&name).map_err(|e| self.fail("sync a segment", e))?;
        }
        self.counters.syncs += 1;
        self.counters.written_bytes += to_u64(self.buffer.len());
        if let Some(active) = self.segments.last_mut() {
            active.end += to_u64(self.buffer.len());
        }
        (self.refused_before, self.refused) = (None, None);
        self.forget_told_losses()
    }

    /// The write that was just made durable has the cursor that says what became of the losses told of.
    fn forget_told_losses(&mut self) -> Result<(), AppendError> {
        if self.told.is_empty() {
            return Ok(());
        }
        let told = std::mem::take(&mut self.told);
        let done = self.losses.recorded(self.disk.as_mut(), &told);
        done.map_err(|e| self.fail("clear the losses that records tell of", e))
    }

    /// Takes the spare file as the next segment; `false` where there is none to be had.
    pub(super) fn rotate(&mut self) -> Result<bool, AppendError> {
        if self.spares.is_empty() {
            self.make_spare()?;
        }
        let Some(spare) = self.spares.pop() else { return Ok(false) };
        self.last_number += 1;
        self.segments.push(Segment {
            name: spare.name,
            len: spare.len,
            number: self.last_number,
            end: 0,
            spans: Spans::default(),
        });
        Ok(true)
    }

    /// Gives up the oldest segment, whatever the policy, for a record without which the others mean nothing; `false`
    /// where only the active one is left.
    fn rotate_for_essential(&mut self) -> Result<bool, AppendError> {
        let mut given_up = 0;
        while self.segments.len() > 1 {
            given_up += self.segments[0].len;
            self.recycle(0)?;
            if self.spares.is_empty() && given_up >= self.options.segment_bytes() {
                // Files of another budget's length are removed: one of this length takes their room.
                self.make_file()?;
            }
            if self.rotate()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Issues the positions of what is refused, and names them as lost.
    fn refuse(&mut self, records: &[NewRecord<'_>]) -> Result<(), AppendError> {
        let first = Seq(self.next());
        let last = Seq(self.next() - 1 + to_u64(records.len()));
        let loss = Loss {
            epoch: self.opening.epoch,
            first,
            last,
            from: records.iter().map(|record| record.from).min().unwrap_or_default(),
            to: records.iter().map(|record| record.at).max().unwrap_or_default(),
            cause: Cause::BudgetFull,
        };
        self.record_losses(&[loss])?;
        self.advance(last.0 + 1);
        // Nothing was written since, so that this follows what was refused before.
        self.refused = Some(match self.refused {
            Some(before) => Loss {
                first: before.first,
                from: before.from.min(loss.from),
                to: before.to.max(loss.to),
                ..loss
            },
            None => loss,
        });
        Ok(())
    }

    /// Makes losses durable.
    pub(super) fn record_losses(&mut self, losses: &[Loss]) -> Result<(), AppendError> {
        let done = self.losses.add(self.disk.as_mut(), losses);
        done.map_err(|e| self.fail("write a loss", e))?;
        let dropped = losses.iter().filter(|loss| loss.cause == Cause::BudgetFull);
        let dropped = dropped.map(|l| l.last.0 - l.first.0 + 1).sum::<u64>();
        self.counters.dropped_records += dropped;
        self.counters.dropped_disk_full += if self.is_disk_full { dropped } else { 0 };
        Ok(())
    }

    pub(super) fn write_goodbye(&mut self, at: Timestamp) -> Result<(), AppendError> {
        self.check_usable()?;
        // Without room, and nothing to make some: the last records' times say when it ended.
        if !self.try_goodbye(at)? && self.rotate()? {
            self.try_goodbye(at)?;
        }
        Ok(())
    }

    /// Writes the goodbye where the segment has room for it, as a write of its own, so that it proves the one before.
    fn try_goodbye(&mut self, at: Timestamp) -> Result<bool, AppendError> {
        let Some(active) = self.segments.last() else { return Ok(false) };
        let (is_new, room) = (active.end == 0, active.len - active.end);
        self.begin_write(is_new);
        let place = (self.next() - 1, at, CatalogHash::default());
        self.push_frame((INTERNAL, KIND_CLEAN, Lead::NONE), place, &[]);
        if to_u64(self.buffer.len()) > room {
            self.needs_whole_cursor = true;
            return Ok(false);
        }
        self.finish_write()?;
        self.is_announced = true;
        if is_new {
            self.make_spare_after_rotation();
        }
        Ok(true)
    }
}
