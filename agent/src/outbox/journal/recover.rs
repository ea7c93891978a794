//! Opening: finding the segments, cutting off what a crash tore, quarantining what is damaged, naming what is missing.
//!
//! The only writes are zeros over a torn tail, the quarantine, and losses; doing all of it twice gives the same.

use std::collections::BTreeMap;
use std::io;

use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use super::format::{
    DATA_AT, FIRST, FrameHeader, Item, KIND_CLEAN, KIND_CURSOR, KIND_OPENED, SegmentHeader, guess_number,
    scan, u64_at,
};
use super::{Counters, Journal, SEGMENT_SUFFIX, Segment, SpareFile};
use crate::outbox::acks::Acks;
use crate::outbox::catalogs;
use crate::outbox::disk::Disk;
use crate::outbox::losses::{self, LossBook};
use crate::outbox::quarantine::Quarantine;
use crate::outbox::spans::{Entry, Spans};
use crate::outbox::{AppendError, Found, OpenError, Opening, Options, RecoveryReport, to_u64, to_usize};

/// Longer files are none of ours.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// How many numbers are tried for a segment that has lost both headers.
const GUESSES_MAX: u64 = 4096;

pub(super) fn open(
    mut disk: Box<dyn Disk>,
    options: &Options,
    opening: Opening,
) -> Result<(Journal, Found), OpenError> {
    let files = disk.list().map_err(|e| failed("list its files", e))?;
    disk.forget_cache(losses::FILE);
    let book = LossBook::open(disk.as_mut(), &files).map_err(|e| failed("read its losses", e))?;
    let quarantine = Quarantine::open(disk.as_mut(), &files, options.quarantine_bytes())
        .map_err(|e| failed("read its quarantine", e))?;
    let mut recovery = Recovery { book, quarantine, repairs: true, ..Recovery::default() };
    let (lives, spares) = recovery.find(disk.as_mut(), &files)?;
    recovery.read_all(disk.as_mut(), lives)?;
    recovery.finish(disk.as_mut())?;
    if recovery.epochs.iter().any(|&(epoch, _)| epoch == opening.epoch) {
        return Err(OpenError::EpochUsed(opening.epoch));
    }
    let found = recovery.found();
    let mut journal = recovery.journal(disk, (*options, opening), spares, catalogs::bytes_of(&files));
    journal.start().map_err(|e| match e {
        AppendError::Io { action, source } => failed(action, source),
        other => failed("make room", io::Error::other(other)),
    })?;
    Ok((journal, found))
}

fn failed(action: &str, source: io::Error) -> OpenError {
    OpenError::Io { action: action.to_owned(), source }
}

/// A segment's file and what its header says.
#[derive(Debug)]
struct Life {
    name: String,
    len: u64,
    number: u64,
    header: Option<SegmentHeader>,
}

/// What is known so far, as the segments are gone through in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    pub(super) book: LossBook,
    quarantine: Quarantine,
    /// Whether to write; not beside a running agent.
    repairs: bool,
    pub(super) segments: Vec<Segment>,
    pub(super) epochs: Vec<(Epoch, u64)>,
    pub(super) acks: Acks,
    pub(super) boot: Option<BootId>,
    is_clean: bool,
    last_at: Option<Timestamp>,
    batch: u8,
    /// The record that should come next, where that is known.
    expected: Option<(Epoch, u64)>,
    missing: Vec<Loss>,
    pub(super) report: RecoveryReport,
}

impl Recovery {
    /// A recovery that looks and does not touch.
    pub(super) fn without_repairs(disk: &mut dyn Disk, files: &[(String, u64)]) -> Result<Self, OpenError> {
        let book = LossBook::read(disk).unwrap_or_default();
        let mut recovery = Self { book, ..Self::default() };
        let (lives, _) = recovery.find(disk, files)?;
        recovery.read_all(disk, lives)?;
        Ok(recovery)
    }

    /// Sorts the files into lives of segments, in the order of their numbers, and spare ones.
    fn find(
        &mut self,
        disk: &mut dyn Disk,
        files: &[(String, u64)],
    ) -> Result<(Vec<Life>, Vec<SpareFile>), OpenError> {
        let (mut lives, mut spares, mut nameless) = (BTreeMap::new(), Vec::new(), Vec::new());
        let is_segment = |name: &str, len: u64| {
            name.ends_with(SEGMENT_SUFFIX) && len > to_u64(DATA_AT) && len <= FILE_BYTES_MAX
        };
        for (name, len) in files.iter().filter(|(name, len)| is_segment(name, *len)) {
            let mut head = [0; DATA_AT];
            read(disk, name, &mut head)?;
            let (name, len) = (name.clone(), *len);
            match SegmentHeader::decode(&head) {
                Some(header) if !lives.contains_key(&header.number) => {
                    let number = header.number;
                    lives.insert(number, Life { name, len, number, header: Some(header) });
                }
                None if head.iter().any(|&byte| byte != 0) => nameless.push(SpareFile { name, len }),
                _ => spares.push(SpareFile { name, len }),
            }
        }
        for file in nameless {
            match recognise(disk, &file, &lives)? {
                Some(life) => drop(lives.insert(life.number, life)),
                None => {
                    self.report.quarantined_segments += 1;
                    spares.push(file);
                }
            }
        }
        Ok((lives.into_values().collect(), spares))
    }

    fn read_all(&mut self, disk: &mut dyn Disk, lives: Vec<Life>) -> Result<(), OpenError> {
        let count = lives.len();
        for (i, life) in lives.into_iter().enumerate() {
            self.read_segment(disk, life, i + 1 == count)?;
        }
        Ok(())
    }

    fn read_segment(&mut self, disk: &mut dyn Disk, life: Life, is_last: bool) -> Result<(), OpenError> {
        if is_last && self.repairs {
            // What the writer before wrote and did not sync is made durable before anyone relies on it, and is read
            // from the device: the cache may show what a failed sync has lost.
            disk.sync(&life.name).map_err(|e| failed("sync the newest segment", e))?;
            disk.forget_cache(&life.name);
        }
        let mut bytes = vec![0; to_usize(life.len)];
        read(disk, &life.name, &mut bytes)?;
        if is_last && self.repairs {
            // Reading ahead made large folios; see `disk` on what they do to small appends.
            disk.forget_cache(&life.name);
        }
        let mut items = scan(&bytes, life.number);
        let mut end = items.last().map_or(DATA_AT, end_of);
        if is_last {
            let kept = whole_items(&items);
            if let Some(&(cut, _)) = items.get(kept) {
                self.erase(disk, &life.name, cut, end)?;
                self.report.torn_bytes += to_u64(end - cut);
                items.truncate(kept);
                end = cut;
            }
        }
        self.begin_segment(&life);
        let mut spans = Spans::default();
        for &(offset, item) in &items {
            self.take(&bytes[offset..], offset, &item, &mut spans);
            if !matches!(item, Item::Frame(_)) {
                self.keep_aside(disk, life.number, offset, &bytes[offset..end_of(&(offset, item))])?;
            }
        }
        if is_last {
            self.report.torn_bytes += self.torn_frame_bytes(&bytes[end..]);
        }
        let Life { name, len, number, .. } = life;
        self.segments.push(Segment { name, len, number, end: to_u64(end), spans });
        Ok(())
    }

    /// Records of the last write that lie behind its first torn one are intact now and must not come back later.
    fn erase(&self, disk: &mut dyn Disk, name: &str, from: usize, to: usize) -> Result<(), OpenError> {
        if !self.repairs {
            return Ok(());
        }
        let done = disk.write_at(name, to_u64(from), &vec![0; to - from]).and_then(|()| disk.sync(name));
        done.map_err(|e| failed("erase a torn tail", e))
    }

    fn keep_aside(
        &mut self,
        disk: &mut dyn Disk,
        number: u64,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        let is_new = !self.repairs
            || self
                .quarantine
                .add(disk, number, to_u64(offset), bytes)
                .or_else(|e| if super::append::is_full(&e) { Ok(true) } else { Err(e) })
                .map_err(|e| failed("write the quarantine", e))?;
        if is_new {
            self.report.quarantined_bytes += to_u64(bytes.len());
        }
        Ok(())
    }

    /// The bytes of a frame that was torn so that not even its header is whole, as far as they can be told from an
    /// earlier life of the segment.
    fn torn_frame_bytes(&self, tail: &[u8]) -> u64 {
        let torn = FrameHeader::decode_unchecked(tail);
        let is_next =
            |h: &FrameHeader| self.epochs.last().is_some_and(|&(e, n)| h.epoch == e && h.seq.0 + 1 >= n);
        torn.filter(is_next).map_or(0, |h| to_u64(h.total()))
    }

    fn begin_segment(&mut self, life: &Life) {
        let follows = self.segments.last().is_some_and(|before| before.number + 1 == life.number);
        if !follows {
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
        }
    }

    fn take(&mut self, bytes: &[u8], offset: usize, item: &Item, spans: &mut Spans) {
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
        if is_intact {
            let (catalog, at) = (header.catalog, header.at);
            spans.push(&Entry { epoch, seq, catalog, at, offset: to_u64(offset) });
        } else {
            self.miss(epoch, (seq, seq), (header.at, header.at));
        }
        self.expected = Some((epoch, seq.saturating_add(1)));
        self.know(epoch, seq.saturating_add(1));
        self.last_at = Some(header.at);
    }

    fn take_internal(&mut self, header: &FrameHeader, payload: &[u8]) {
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
                if let (Some(epoch), Some(next)) = (u64_at(payload, 8).map(Epoch), u64_at(payload, 16)) {
                    let at = self.last_at.unwrap_or_default();
                    if self.expected.is_some_and(|(e, _)| e == epoch) {
                        self.expect(epoch, next, at);
                    }
                    if self.epochs.iter().any(|&(e, _)| e == epoch) {
                        self.know(epoch, next);
                    }
                }
                self.expected = Some((header.epoch, 1));
            }
            _ => {}
        }
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

    /// Turns what is missing, owed and not told of yet into losses.
    fn finish(&mut self, disk: &mut dyn Disk) -> Result<(), OpenError> {
        for loss in self.book.pending().to_vec() {
            self.know(loss.epoch, loss.last.0.saturating_add(1));
        }
        let mut losses = Vec::new();
        for missing in std::mem::take(&mut self.missing) {
            let told = self.book.pending().iter().filter(|l| l.epoch == missing.epoch);
            let told: RangeSet = told.map(|l| (l.first.0, l.last.0)).collect();
            for (first, last) in self.acks.owed(missing.epoch, missing.first.0, missing.last.0) {
                let untold = told.holes(first, last);
                losses.extend(untold.map(|(f, l)| Loss { first: Seq(f), last: Seq(l), ..missing }));
            }
        }
        self.report.quarantined_records += losses.iter().map(|l| l.last.0 - l.first.0 + 1).sum::<u64>();
        self.book.add(disk, &losses).map_err(|e| failed("write a loss", e))
    }

    pub(super) fn found(&self) -> Found {
        Found {
            previous: self.epochs.last().map(|&(epoch, next)| (epoch, Seq(next))),
            last_durable_at: self.last_at,
            clean_stop: self.is_clean,
            boot: self.boot,
            report: self.report,
        }
    }

    fn journal(
        self,
        disk: Box<dyn Disk>,
        (options, opening): (Options, Opening),
        spares: Vec<SpareFile>,
        catalog_bytes: u64,
    ) -> Journal {
        let previous = self.epochs.last().map(|&(epoch, next)| (epoch, Seq(next)));
        let mut epochs = self.epochs;
        epochs.push((opening.epoch, 1));
        Journal {
            disk,
            options,
            opening,
            previous,
            last_number: self.segments.last().map_or(0, |s| s.number),
            segments: self.segments,
            spares,
            epochs,
            batch: self.batch,
            is_announced: false,
            needs_whole_cursor: true,
            acks: self.acks,
            losses: self.book,
            quarantine: self.quarantine,
            catalog_bytes,
            buffer: Vec::new(),
            chunk: Vec::new(),
            hint: None,
            has_failed: false,
            counters: Counters {
                quarantined_records: self.report.quarantined_records,
                ..Counters::default()
            },
        }
    }
}

impl Journal {
    /// Ends what a crash interrupted, and sees to an active segment and a spare one.
    fn start(&mut self) -> Result<(), AppendError> {
        self.recycle_what_was_given_up()?;
        if self.segments.is_empty() {
            self.make_spare()?;
            self.rotate()?;
        }
        self.make_spare()
    }

    /// Segments whose loss is durable and whose header is not erased yet.
    fn recycle_what_was_given_up(&mut self) -> Result<(), AppendError> {
        let mut given_up = Acks::default();
        let budget = self.losses.pending().iter().filter(|loss| loss.cause == Cause::BudgetFull);
        for loss in budget {
            given_up.acknowledge(loss.epoch, Seq(0), &[(loss.first, loss.last)]);
        }
        for index in (0..self.segments.len().saturating_sub(1)).rev() {
            let spans = &self.segments[index].spans;
            let told = |span: &crate::outbox::spans::Span| {
                let owed = self.acks.owed(span.epoch, span.first, span.last);
                owed.iter().all(|&(f, l)| given_up.owed(span.epoch, f, l).is_empty())
            };
            if spans.is_owed(&self.acks) && spans.0.iter().all(told) {
                self.recycle(index)?;
            }
        }
        Ok(())
    }
}

fn read(disk: &mut dyn Disk, name: &str, into: &mut [u8]) -> Result<(), OpenError> {
    disk.read_at(name, 0, into).map_err(|e| failed(&format!("read {name}"), e))
}

/// Finds the number of a segment that has lost both headers among those that are missing in the order.
fn recognise(
    disk: &mut dyn Disk,
    file: &SpareFile,
    lives: &BTreeMap<u64, Life>,
) -> Result<Option<Life>, OpenError> {
    let last = lives.last_key_value().map_or(0, |(&number, _)| number);
    let candidates = (last.saturating_sub(GUESSES_MAX)..=last + 1).filter(|n| !lives.contains_key(n));
    let mut bytes = vec![0; to_usize(file.len)];
    read(disk, &file.name, &mut bytes)?;
    let number = guess_number(&bytes, &candidates.collect::<Vec<_>>());
    Ok(number.map(|number| Life { name: file.name.clone(), len: file.len, number, header: None }))
}

fn end_of(&(offset, item): &(usize, Item)) -> usize {
    offset
        + match item {
            Item::Frame(header) | Item::Damaged(header) => header.total(),
            Item::Unknown(len) => len,
        }
}

/// How many of the items of the newest segment count: those before the first damage within the last write. What was
/// written before the last write had been durable, so damage there tears nothing off.
fn whole_items(items: &[(usize, Item)]) -> usize {
    let header = |item: &Item| match item {
        Item::Frame(header) | Item::Damaged(header) => Some(*header),
        Item::Unknown(_) => None,
    };
    let Some(last) = items.last().and_then(|(_, item)| header(item)) else { return items.len() };
    let is_last_write =
        |item: &Item| header(item).is_none_or(|h| h.epoch == last.epoch && h.batch == last.batch);
    let mut begin = items.iter().rposition(|(_, item)| !is_last_write(item)).map_or(0, |i| i + 1);
    // Unrecognised bytes before a frame that begins the write belong to the write before.
    if matches!(items[begin].1, Item::Unknown(_))
        && items.get(begin + 1).and_then(|(_, i)| header(i)).is_some_and(|h| h.flags & FIRST != 0)
    {
        begin += 1;
    }
    let torn = items[begin..].iter().position(|(_, item)| !matches!(item, Item::Frame(_)));
    torn.map_or(items.len(), |i| begin + i)
}
