//! What the frames of the segments, in their order, say: the epochs and how far each came, what is acknowledged, and
//! what should be there and is not. Reads no file; only the losses found are written, by the book of losses.

use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use super::super::format::{
    FrameHeader, Item, KIND_CLEAN, KIND_CURSOR, KIND_OPENED, KIND_REFUSED, count_at, decode_refused, u64_at,
};
use super::files::Life;
use super::{Recovery, failed};
use crate::outbox::disk::Disk;
use crate::outbox::spans::{Entry, Spans};
use crate::outbox::{OpenError, to_u64};

impl Recovery {
    pub(super) fn begin_segment(&mut self, life: &Life) {
        let follows = self.segments.last().is_some_and(|before| before.number + 1 == life.number);
        if !follows && self.report.quarantined_segments == 0 {
            // What lay between was recycled, in good order.
            self.expected = None;
        }
        if let Some(header) = life.header {
            if self.expected.is_some() {
                self.expect(header.epoch, header.first.0, self.last_at.unwrap_or_default());
            }
            self.expected = Some((header.epoch, header.first.0));
            self.know(header.epoch, header.first.0);
            self.boot = Some(header.boot);
        } else if self.expected.is_none() {
            // Neither it nor the segment before says where it began: what is owed of its epoch before the first frame
            // that can be read is missing. No epoch is 0, so that the count is from 1.
            self.expected = Some((Epoch(0), 1));
        }
    }

    pub(super) fn take(&mut self, bytes: &[u8], offset: usize, item: &Item, spans: &mut Spans) {
        let (header, is_intact) = match item {
            Item::Frame(header) => (header, true),
            Item::Damaged(header) => (header, false),
            Item::Unknown(_) => return spans.break_run(),
        };
        if !is_intact {
            spans.break_run();
        }
        self.batch = header.batch;
        self.is_clean = false;
        if !header.is_record() {
            if let Some(payload) = header.payload(bytes) {
                self.take_internal(header, payload);
            }
            return;
        }
        let (epoch, seq) = (header.epoch, header.seq.0);
        self.expect(epoch, seq, header.at);
        let from = header.from();
        if is_intact {
            let (catalog, at, is_word) = (header.catalog, header.at, header.is_word());
            spans.push(&Entry { epoch, seq, catalog, at, from, is_word, offset: to_u64(offset) });
        } else {
            self.miss(epoch, (seq, seq), (from, header.at));
        }
        self.expected = Some((epoch, seq.saturating_add(1)));
        self.know(epoch, seq.saturating_add(1));
        self.last_at = Some(header.at);
    }

    fn take_internal(&mut self, header: &FrameHeader, payload: &[u8]) {
        if header.kind == KIND_REFUSED {
            return decode_refused(payload)
                .into_iter()
                .for_each(|refused| self.take_refused(header, refused));
        }
        let next = header.seq.0.saturating_add(1);
        self.know(header.epoch, next);
        if header.kind != KIND_OPENED {
            // It says how far its epoch had come.
            self.expect(header.epoch, next, self.last_at.unwrap_or(header.at));
            self.expected = Some((header.epoch, next));
        }
        match header.kind {
            KIND_CURSOR => self.acks.restore(payload),
            KIND_CLEAN => {
                self.is_clean = true;
                self.last_at = Some(header.at);
            }
            KIND_OPENED => {
                self.boot = u64_at(payload, 0).map(BootId);
                if let (Some(epoch), Some(next)) = (u64_at(payload, 8).map(Epoch), count_at(payload, 16)) {
                    self.succeeded.insert(epoch);
                    let at = self.last_at.unwrap_or_default();
                    if self.expected.is_some_and(|(e, _)| e == epoch) {
                        self.expect(epoch, next, at);
                    }
                    if self.epochs.iter().any(|&(e, _)| e == epoch) {
                        self.know(epoch, next);
                    }
                }
                // What was refused of an epoch before it could write stands before its first frame.
                let refused = self.missing.iter().filter(|l| l.epoch == header.epoch && l.first == Seq(1));
                let next = refused.map(|l| l.last.0.saturating_add(1)).max().unwrap_or(1);
                self.expected = Some((header.epoch, next));
            }
            _ => {}
        }
    }

    /// What is missing there has been named; it is named again where the acknowledgement of that is gone.
    fn take_refused(&mut self, header: &FrameHeader, refused: Loss) {
        let next = refused.last.0.saturating_add(1);
        if self.expected.is_none_or(|(epoch, _)| epoch == refused.epoch) {
            self.expect(refused.epoch, refused.first.0, refused.from);
            self.expected = Some((refused.epoch, next));
        }
        // Of the epoch before it may be all that is left: that one is the older of the two.
        let is_known = self.epochs.iter().any(|&(known, _)| known == refused.epoch);
        match self.epochs.iter().position(|&(known, _)| known == header.epoch) {
            Some(place) if !is_known => self.epochs.insert(place, (refused.epoch, next)),
            _ => self.know(refused.epoch, next),
        }
        self.missing.push(refused);
    }

    /// Notes what is missing before `seq` of `epoch`.
    fn expect(&mut self, epoch: Epoch, seq: u64, at: Timestamp) {
        let Some((expected, next)) = self.expected else { return };
        let next = if expected == epoch { next } else { 1 };
        if seq > next {
            self.miss(epoch, (next, seq - 1), (self.last_at.unwrap_or(at), at));
        }
    }

    fn miss(&mut self, epoch: Epoch, (first, last): (u64, u64), (a, b): (Timestamp, Timestamp)) {
        self.missing.push(Loss {
            epoch,
            first: Seq(first),
            last: Seq(last),
            from: a.min(b),
            to: a.max(b),
            cause: Cause::Quarantined,
        });
    }

    /// Notes that `epoch` exists and that `next` is the least seq that it may not have issued.
    fn know(&mut self, epoch: Epoch, next: u64) {
        match self.epochs.iter_mut().find(|(known, _)| *known == epoch) {
            Some((_, known)) => *known = next.max(*known),
            None => self.epochs.push((epoch, next.max(1))),
        }
    }

    /// Adds what the book of losses knows of epochs. One that no segment knows is older than all of them: its last
    /// segment was recycled. Only one whose every record was refused is newer.
    pub(super) fn know_from_book(&mut self) {
        let mut only_in_book: Vec<Loss> = Vec::new();
        let newest = self.epochs.last().copied();
        for loss in self.book.pending().to_vec() {
            if self.epochs.iter().any(|&(known, _)| known == loss.epoch) {
                if let Some((epoch, next)) = newest
                    && (epoch, Cause::BudgetFull) == (loss.epoch, loss.cause)
                    && loss.last.0 >= next
                {
                    self.refused_tail = Some(Loss { first: loss.first.max(Seq(next)), ..loss });
                }
                self.know(loss.epoch, loss.last.0.saturating_add(1));
            } else {
                only_in_book.push(loss);
            }
        }
        only_in_book.sort_by_key(|loss| loss.from);
        let (refused, recycled): (Vec<Loss>, Vec<Loss>) =
            only_in_book.iter().partition(|loss| self.was_refused(loss, &only_in_book));
        let in_segments = std::mem::take(&mut self.epochs);
        recycled.iter().for_each(|loss| self.know(loss.epoch, loss.last.0.saturating_add(1)));
        self.epochs.extend(in_segments);
        refused.iter().for_each(|loss| self.know(loss.epoch, loss.last.0.saturating_add(1)));
    }

    /// Whether the epoch of `loss` came after all that the segments hold and wrote nothing: it lost its first record
    /// to the budget, not before the last one held, and no other epoch names it as the one before.
    fn was_refused(&self, loss: &Loss, only_in_book: &[Loss]) -> bool {
        let first = only_in_book.iter().filter(|l| l.epoch == loss.epoch).min_by_key(|l| l.first);
        !self.succeeded.contains(&loss.epoch)
            && first.is_some_and(|l| {
                l.first == Seq(1) && l.cause == Cause::BudgetFull && Some(l.from) >= self.last_at
            })
    }

    /// Turns what is missing, owed and not told of yet into losses.
    pub(super) fn finish(&mut self, disk: &mut dyn Disk) -> Result<(), OpenError> {
        let mut losses = Vec::new();
        for missing in std::mem::take(&mut self.missing) {
            let told = self.book.pending().iter().filter(|l| l.epoch == missing.epoch);
            let told: RangeSet = told.map(|l| (l.first.0, l.last.0)).collect();
            for (first, last) in self.acks.owed(missing.epoch, missing.first.0, missing.last.0) {
                let untold = told.holes(first, last);
                losses.extend(untold.map(|(f, l)| Loss { first: Seq(f), last: Seq(l), ..missing }));
            }
            // Beside a segment that is gone, what was recycled in good order looks missing, too.
            if self.report.quarantined_segments == 0 {
                self.forgone.note([missing]);
            }
        }
        let damaged = losses.iter().filter(|loss| loss.cause == Cause::Quarantined);
        self.report.quarantined_records += damaged.map(|l| l.last.0 - l.first.0 + 1).sum::<u64>();
        self.book.add(disk, &losses).map_err(|e| failed("write a loss", e))
    }
}
