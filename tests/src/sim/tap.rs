//! A tap on an outbox: sees what becomes durable, what is acknowledged and what is given up, and changes nothing. It
//! holds the outbox to what can be told at once: no (epoch, seq) is used twice, nothing is acknowledged that the
//! collector has not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gapless_agent::outbox::{
    AppendError, Catalogs, NewRecord, Outbox, OwedRange, ReadError, ReadLimits, Stats, StoredRecord,
};
use gapless_common::id::{CatalogHash, Epoch, Seq};
use gapless_common::message::HeldEpoch;
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{Loss, Record};
use gapless_common::time::Timestamp;
use gapless_common::wire::decode_record;

/// A record that an outbox called durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// What it is.
    pub record: Record,
    /// Which disk it lies on: a replaced card has another number.
    pub card: u32,
}

/// All that one gateway's outboxes ever kept.
#[derive(Debug, Default)]
pub struct Log {
    /// By (epoch, seq).
    pub kept: BTreeMap<(Epoch, u64), Kept>,
    /// What was to be kept and was refused, because there was no room.
    pub refused: BTreeMap<(Epoch, u64), Record>,
    /// What was handed to an append that failed, or whose process was killed in it: the disk may have it all the same.
    pub in_doubt: Vec<((Epoch, u64), Record)>,
    /// What the agent was told is stored.
    pub acknowledged: BTreeMap<Epoch, RangeSet>,
    /// The same, of what was not owed again since as well.
    ever_acknowledged: BTreeMap<Epoch, RangeSet>,
    /// Losses that the outbox named.
    pub losses: Vec<Loss>,
    /// Of these, the ranges by epoch.
    pub lost: BTreeMap<Epoch, RangeSet>,
    /// What any database has committed of this gateway, whichever it was.
    pub committed: BTreeMap<Epoch, RangeSet>,
    /// What the outbox held when it was last written to: epochs with the first seq of each.
    pub held_from: BTreeMap<Epoch, u64>,
    /// Bits flipped on its disk since its outbox was opened: each opening reads all of it.
    pub has_rot: bool,
    /// Records that were cut off the end of an epoch where bits had flipped: nothing tells them from a torn write.
    pub cut_off: BTreeMap<Epoch, RangeSet>,
    /// The last write to this card: epoch, first and last seq.
    last_write: Option<(Epoch, u64, u64)>,
    /// An opening after bits had flipped found nothing of what its card held: to the agent it is another card.
    pub was_emptied: bool,
    /// The card in the gateway.
    pub card: u32,
    /// Openings that cut off a torn tail.
    pub torn: u64,
    /// What was seen to be wrong.
    pub wrong: Vec<(&'static str, String)>,
}

/// A log, shared by the gateway and the outboxes it opens one after the other.
pub type Shared = Arc<Mutex<Log>>;

/// The log, whoever holds it.
pub fn lock(log: &Shared) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    fn keep(&mut self, epoch: Epoch, seq: u64, bytes: &[u8]) {
        let Ok(record) = decode_record(bytes) else {
            return self.wrong.push(("integrity", format!("record {epoch}/{seq} does not decode")));
        };
        let kept = Kept { record, card: self.card };
        if let Some(before) = self.kept.insert((epoch, seq), kept) {
            self.wrong.push(("no reuse", format!("{epoch}/{seq} was used before, for {before:?}")));
        }
    }

    fn acknowledge(&mut self, epoch: Epoch, first: u64, last: u64) {
        let none = RangeSet::new();
        let committed = self.committed.get(&epoch).unwrap_or(&none);
        let lost = self.lost.get(&epoch).unwrap_or(&none);
        let early = self
            .kept
            .range((epoch, first)..=(epoch, last))
            .find(|((_, seq), _)| !committed.contains(*seq) && !lost.contains(*seq));
        if let Some(((_, seq), kept)) = early {
            let what = format!("{epoch}/{seq} is taken for stored and was never committed: {kept:?}");
            self.wrong.push(("acknowledged only what is committed", what));
        }
        self.acknowledged.entry(epoch).or_default().insert(first, last);
        self.ever_acknowledged.entry(epoch).or_default().insert(first, last);
    }

    /// Another disk stands in the gateway: what lies on the old one is not looked for.
    pub fn replace_card(&mut self) {
        self.card += 1;
        self.last_write = None;
    }

    /// Whatever was durable on this card, was never acknowledged and was not given up by name, is owed still. (That a
    /// database which was put back owes it again is written down with the next append, which the disk may lose: then
    /// the collector says it again, and the end shows whether it was sent.)
    fn check_opened(&mut self, outbox: &dyn Outbox) {
        if std::mem::take(&mut self.has_rot) {
            self.note_cut_off(&outbox.held());
            self.note_emptied(&outbox.held());
        }
        let owed = outbox.owed();
        let mut held: BTreeMap<Epoch, RangeSet> = BTreeMap::new();
        owed.iter()
            .for_each(|range| held.entry(range.epoch).or_default().insert(range.first.0, range.last.0));
        let is_in = |of: &BTreeMap<Epoch, RangeSet>, epoch: Epoch, seq: u64| {
            of.get(&epoch).is_some_and(|ranges| ranges.contains(seq))
        };
        let gone = self.kept.iter().find(|((epoch, seq), kept)| {
            kept.card == self.card
                && ![&held, &self.ever_acknowledged, &self.lost, &self.cut_off]
                    .into_iter()
                    .any(|of| is_in(of, *epoch, *seq))
        });
        if let Some(((epoch, seq), kept)) = gone {
            let what = format!("{epoch}/{seq} was durable, and the outbox knows it no more: {kept:?}");
            self.wrong.push(("conservation", what));
        }
    }

    /// A loss that counts as recorded stands in a record, which the collector will get.
    fn check_recorded(&mut self, epoch: Epoch, losses: &[Loss]) {
        let records = self.kept.range((epoch, 0)..=(epoch, u64::MAX)).map(|(_, kept)| &kept.record);
        let told: Vec<&Loss> = records
            .filter_map(|record| if let Record::Loss(loss) = record { Some(loss) } else { None })
            .collect();
        if let Some(silent) = losses.iter().find(|loss| !told.contains(loss)) {
            self.wrong.push(("conservation", format!("no record tells the collector of {silent:?}")));
        }
    }

    fn note_emptied(&mut self, held: &[HeldEpoch]) {
        let is_held = |epoch: Epoch| held.iter().any(|held| held.epoch == epoch);
        let mut here = self.kept.iter().filter(|(_, kept)| kept.card == self.card).peekable();
        self.was_emptied |= here.peek().is_some() && !here.any(|((epoch, _), _)| is_held(*epoch));
    }

    fn note_cut_off(&mut self, held: &[HeldEpoch]) {
        for epoch in held {
            let known = self.kept.range((epoch.epoch, epoch.next.0)..=(epoch.epoch, u64::MAX));
            let last = known.filter(|(_, kept)| kept.card == self.card).map(|((_, seq), _)| *seq).next_back();
            if let Some(last) = last {
                self.cut_off.entry(epoch.epoch).or_default().insert(epoch.next.0, last);
            }
        }
        // Where the last write was all that told of its epoch nothing does any more.
        if let Some((epoch, first, last)) = self.last_write
            && !held.iter().any(|held| held.epoch == epoch)
        {
            self.cut_off.entry(epoch).or_default().insert(first, last);
        }
    }

    /// All that was handed to an outbox, with its place: what it kept, and what it had no room for.
    pub fn written(&self) -> impl Iterator<Item = (&(Epoch, u64), &Record)> {
        self.kept.iter().map(|(place, kept)| (place, &kept.record)).chain(&self.refused)
    }

    /// Whether a record on this card was never committed anywhere, nor given up.
    pub fn is_owed(&self) -> bool {
        let told = [&self.committed, &self.lost, &self.cut_off];
        self.kept.iter().any(|((epoch, seq), kept)| {
            let is_told = told.iter().any(|of| of.get(epoch).is_some_and(|ranges| ranges.contains(*seq)));
            kept.card == self.card && !is_told
        })
    }

    /// Whether a record is no longer in the outbox: acknowledged, and its place in the archive taken.
    pub fn is_gone(&self, epoch: Epoch, seq: u64) -> bool {
        self.held_from.get(&epoch).is_none_or(|first| seq < *first)
    }

    /// Whether a record was cut off the end of an epoch where bits had flipped.
    pub fn is_cut_off(&self, (epoch, seq): (Epoch, u64)) -> bool {
        self.cut_off.get(&epoch).is_some_and(|cut| cut.contains(seq))
    }

    /// Whether a record was given up under a loss of this cause.
    pub fn is_lost_by(&self, cause: Cause, (epoch, seq): (Epoch, u64)) -> bool {
        let holds = |loss: &&Loss| loss.epoch == epoch && (loss.first.0..=loss.last.0).contains(&seq);
        self.losses.iter().filter(holds).any(|loss| loss.cause == cause)
    }

    /// What the collector was told of as lost: by a record that `came` to it, or, where that itself fell victim to rot or
    /// went with a card, was to be told by it.
    pub fn told_as_lost(&self, came: impl Fn((Epoch, u64)) -> bool) -> BTreeMap<Epoch, RangeSet> {
        let mut told: BTreeMap<Epoch, RangeSet> = BTreeMap::new();
        for (&(epoch, seq), kept) in &self.kept {
            let Record::Loss(loss) = &kept.record else { continue };
            let is_excused = kept.card < self.card
                || self.is_cut_off((epoch, seq))
                || self.is_lost_by(Cause::Quarantined, (epoch, seq));
            if is_excused || came((epoch, seq)) {
                told.entry(loss.epoch).or_default().insert(loss.first.0, loss.last.0);
            }
        }
        told
    }

    fn note_losses(&mut self, losses: &[Loss]) {
        for loss in losses {
            self.lost.entry(loss.epoch).or_default().insert(loss.first.0, loss.last.0);
            if !self.losses.contains(loss) {
                self.losses.push(*loss);
            }
        }
    }
}

/// An outbox under a tap.
pub struct Tapped {
    inner: Box<dyn Outbox>,
    log: Shared,
}

impl Tapped {
    /// Puts the tap on a freshly opened outbox.
    #[must_use]
    pub fn new(inner: Box<dyn Outbox>, log: Shared) -> Self {
        {
            let mut opened = lock(&log);
            opened.note_losses(&inner.pending_losses());
            tracing::debug!(held = ?inner.held(), owed = ?inner.owed(), acknowledged = ?opened.acknowledged, lost = ?opened.lost, "an outbox is opened");
            opened.check_opened(inner.as_ref());
            opened.held_from = held_from(inner.as_ref());
        }
        Self { inner, log }
    }

    fn note_losses(&self) {
        if self.inner.stats().pending_losses > 0 {
            lock(&self.log).note_losses(&self.inner.pending_losses());
        }
    }
}

impl Outbox for Tapped {
    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }

    fn next_seq(&self) -> Seq {
        self.inner.next_seq()
    }

    fn append(&mut self, batch: &[NewRecord<'_>]) -> Result<Seq, AppendError> {
        let first = self.inner.next_seq().0;
        let done = self.inner.append(batch);
        // What was refused stands in the pending losses.
        self.note_losses();
        lock(&self.log).held_from = held_from(self.inner.as_ref());
        let (epoch, log) = (self.inner.epoch(), &mut *lock(&self.log));
        if matches!(done, Ok(_) | Err(AppendError::Refused { .. })) {
            log.last_write = Some((epoch, first, first + batch.len() as u64 - 1));
            for (seq, record) in (first..).zip(batch) {
                if !log.lost.get(&epoch).is_some_and(|lost| lost.contains(seq)) {
                    log.keep(epoch, seq, record.bytes);
                } else if let Ok(refused) = decode_record(record.bytes) {
                    log.refused.insert((epoch, seq), refused);
                }
            }
        } else {
            let handed = (first..).zip(batch);
            let decoded =
                handed.filter_map(|(seq, new)| Some(((epoch, seq), decode_record(new.bytes).ok()?)));
            log.in_doubt.extend(decoded);
        }
        done
    }

    fn read(
        &mut self,
        epoch: Epoch,
        from: Seq,
        limits: ReadLimits,
        out: &mut Vec<StoredRecord>,
    ) -> Result<(), ReadError> {
        let done = self.inner.read(epoch, from, limits, out);
        self.note_losses();
        done
    }

    fn acknowledge(&mut self, epoch: Epoch, watermark: Seq, above: &[(Seq, Seq)]) {
        let log = &mut *lock(&self.log);
        tracing::debug!(%epoch, watermark = watermark.0, ?above, "acknowledged");
        if watermark.0 > 0 {
            log.acknowledge(epoch, 1, watermark.0);
        }
        above.iter().for_each(|(first, last)| log.acknowledge(epoch, first.0, last.0));
        self.inner.acknowledge(epoch, watermark, above);
    }

    fn unacknowledge(&mut self, epoch: Epoch, watermark: Seq) {
        tracing::debug!(%epoch, watermark = watermark.0, "not acknowledged after all");
        if let Some(acknowledged) = lock(&self.log).acknowledged.get_mut(&epoch) {
            acknowledged.remove(watermark.0 + 1, u64::MAX);
        }
        self.inner.unacknowledge(epoch, watermark);
    }

    fn held(&self) -> Vec<HeldEpoch> {
        self.inner.held()
    }

    fn owed(&self) -> Vec<OwedRange> {
        self.inner.owed()
    }

    fn catalogs_held(&self) -> BTreeSet<CatalogHash> {
        self.inner.catalogs_held()
    }

    fn pending_losses(&self) -> Vec<Loss> {
        self.inner.pending_losses()
    }

    fn losses_recorded(&mut self, losses: &[Loss]) -> Result<(), AppendError> {
        tracing::debug!(?losses, "told");
        lock(&self.log).check_recorded(self.inner.epoch(), losses);
        self.inner.losses_recorded(losses)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn make_room(&mut self) -> Result<bool, AppendError> {
        let done = self.inner.make_room();
        self.note_losses();
        lock(&self.log).held_from = held_from(self.inner.as_ref());
        done
    }

    fn catalogs(&mut self) -> Catalogs<'_> {
        self.inner.catalogs()
    }

    fn close(&mut self, at: Timestamp) -> Result<(), AppendError> {
        self.inner.close(at)
    }
}

fn held_from(outbox: &dyn Outbox) -> BTreeMap<Epoch, u64> {
    outbox.held().into_iter().map(|held| (held.epoch, held.first.0)).collect()
}
