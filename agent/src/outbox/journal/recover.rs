//! Opening: finding the segments, cutting off what a crash tore, quarantining what is damaged, naming what is missing.
//!
//! `files` sorts the files, `tail` says where the newest segment ends, `account` says what the frames mean; here they
//! are put together, and the journal is made of what they give. The only writes are zeros over what is torn, the
//! quarantine, and losses; doing all of it twice gives the same.

mod account;
mod files;
mod tail;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use gapless_common::id::{BootId, Epoch, Seq};
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::Loss;
use gapless_common::time::Timestamp;

use self::files::Life;
use self::tail::{end_of, torn_frame_bytes, whole_items};
use super::forgone::Forgone;
use super::format::{DATA_AT, Item, scan};
use super::{Counters, Journal, Segment, SpareFile};
use crate::outbox::acks::Acks;
use crate::outbox::catalogs;
use crate::outbox::disk::Disk;
use crate::outbox::losses::{self, LossBook};
use crate::outbox::quarantine::Quarantine;
use crate::outbox::spans::Spans;
use crate::outbox::{
    AppendError, Found, OpenError, Opening, Options, RecoveryReport, to_u64, to_usize, unreadable,
};

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
    files::distrust_newest(disk.as_mut(), &files)?;
    let (lives, spares) = recovery.find(disk.as_mut(), &files)?;
    recovery.read_all(disk.as_mut(), lives)?;
    files::erase_unbegun(disk.as_mut(), &spares, recovery.segments.last().map_or(0, |s| s.number))?;
    recovery.finish(disk.as_mut())?;
    recovery.tell_damage();
    let is_used = recovery.epochs.iter().any(|&(epoch, _)| epoch == opening.epoch);
    if is_used && !planted::has(Bug::ReuseSeq) {
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

/// What is known so far, as the segments are gone through in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    pub(super) book: LossBook,
    quarantine: Quarantine,
    /// Whether to write; not beside a running agent.
    repairs: bool,
    pub(super) segments: Vec<Segment>,
    pub(super) epochs: Vec<(Epoch, u64)>,
    /// Epochs that another one names as the one before it.
    succeeded: BTreeSet<Epoch>,
    pub(super) acks: Acks,
    pub(super) boot: Option<BootId>,
    is_clean: bool,
    last_at: Option<Timestamp>,
    batch: u8,
    /// The record that should come next, where that is known.
    expected: Option<(Epoch, u64)>,
    missing: Vec<Loss>,
    forgone: Forgone,
    /// What was refused at the end of the newest epoch, which no frame says yet.
    refused_tail: Option<Loss>,
    pub(super) report: RecoveryReport,
    /// Bytes of damage that is new, by the file that it is in.
    damaged: BTreeMap<String, u64>,
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

    fn read_all(&mut self, disk: &mut dyn Disk, lives: Vec<Life>) -> Result<(), OpenError> {
        let count = lives.len();
        for (i, life) in lives.into_iter().enumerate() {
            self.read_segment(disk, life, i + 1 == count)?;
        }
        self.know_from_book();
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
        let refused = read(disk, &life.name, &mut bytes)?;
        self.give_up(disk, &life.name, &refused, is_last)?;
        if is_last && self.repairs {
            // Reading ahead made large folios; see `disk` on what they do to small appends.
            disk.forget_cache(&life.name);
        }
        let mut items = scan(&bytes, life.number);
        let mut end = items.last().map_or(DATA_AT, end_of);
        if is_last {
            // What a crash tore can be read. Behind a page that cannot lie records that had been durable.
            let kept = if refused.is_empty() { whole_items(&items) } else { items.len() };
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
                self.keep_aside(disk, &life, offset, &bytes[offset..end_of(&(offset, item))])?;
            }
        }
        if is_last {
            self.report.torn_bytes += torn_frame_bytes(&bytes[end..], self.epochs.last().copied());
        }
        let Life { name, len, number, .. } = life;
        self.segments.push(Segment { name, len, number, end: to_u64(end), spans });
        Ok(())
    }

    /// Counts pages that the device refused, and writes over them.
    pub(super) fn give_up(
        &mut self,
        disk: &mut dyn Disk,
        name: &str,
        pages: &[u64],
        is_needed: bool,
    ) -> Result<(), OpenError> {
        let bytes = to_u64(pages.len() * unreadable::PAGE_BYTES);
        self.report.unreadable_bytes += bytes;
        if bytes > 0 {
            self.note_damage(name, bytes);
        }
        if !self.repairs {
            return Ok(());
        }
        match unreadable::mend(disk, name, pages) {
            // Nothing will be appended here, and the next opening can try again.
            Err(e) if !is_needed && unreadable::is_unreadable(&e) => Ok(()),
            done => done.map_err(|e| failed("write over what cannot be read", e)),
        }
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
        life: &Life,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        let is_new = !self.repairs
            || self
                .quarantine
                .add(disk, life.number, to_u64(offset), bytes)
                .or_else(|e| {
                    if crate::outbox::is_full(&e) || unreadable::is_unreadable(&e) {
                        Ok(true)
                    } else {
                        Err(e)
                    }
                })
                .map_err(|e| failed("write the quarantine", e))?;
        if is_new {
            self.report.quarantined_bytes += to_u64(bytes.len());
            self.note_damage(&life.name, to_u64(bytes.len()));
        }
        Ok(())
    }

    pub(super) fn note_damage(&mut self, file: &str, bytes: u64) {
        *self.damaged.entry(file.to_owned()).or_default() += bytes;
    }

    /// A disk that goes bad is to be changed before it takes more.
    fn tell_damage(&self) {
        for (file, bytes) in &self.damaged {
            tracing::warn!(file, bytes, "the outbox is damaged: what cannot be read of it is quarantined");
        }
        let records = self.report.quarantined_records;
        if records > 0 {
            tracing::warn!(records, "records are lost to damage of the outbox: the collector hears which");
        }
    }

    /// The newest epoch, and the first seq that it never issued.
    fn previous(&self) -> Option<(Epoch, Seq)> {
        self.epochs.last().map(|&(epoch, next)| (epoch, Seq(next)))
    }

    pub(super) fn found(&self) -> Found {
        Found {
            previous: self.previous(),
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
        let previous = self.previous();
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
            refused_before: self.refused_tail,
            refused: None,
            told: Vec::new(),
            forgone: self.forgone,
            quarantine: self.quarantine,
            catalog_bytes,
            buffer: Vec::new(),
            chunk: Vec::new(),
            hint: None,
            has_failed: false,
            is_disk_full: false,
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

/// Reads from the begin of a file; returns the pages that the device refused.
fn read(disk: &mut dyn Disk, name: &str, into: &mut [u8]) -> Result<Vec<u64>, OpenError> {
    unreadable::read(disk, name, 0, into).map_err(|e| failed(&format!("read {name}"), e))
}
