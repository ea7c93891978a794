//! What follows from an answer, or from the lack of one: which records there are, and what is in them.

use std::ops::Range;

use gapless_common::profile::{Names, Way};
use gapless_common::quality::{Cause, ExceptionCode};
use gapless_common::time::Timestamp;

use super::super::Settings;
use super::super::extent::Extent;
use super::super::newest::{self, Verdict};
use super::super::pointers::Change;
use super::super::record::{self, Record};
use super::{Asked, Doing, Reader, Surprise, Took, Why};
use crate::clock::Now;
use crate::modbus::pdu::ResponseData;

impl Reader {
    /// The answer to what was asked.
    pub fn took(&mut self, data: &ResponseData, now: Now) -> Took {
        match self.doing.take() {
            Some(Doing::Pointers) => {
                let passed = self.passed(now);
                if let Some(extent) = self.pointers.took(&self.settings, data, (self.before, passed), now) {
                    self.take_extent(extent, passed, now);
                }
                Took::More
            }
            Some(Doing::Select { no, .. }) => {
                let pause_ms = match self.settings.load.way {
                    Way::Window { pause_ms, .. } => pause_ms,
                    Way::Mapped { .. } | Way::File { .. } => 0,
                };
                self.selected = Some(no);
                self.pause_until_ms = now.boot_ms.saturating_add(u64::from(pause_ms));
                Took::More
            }
            Some(Doing::Read { run, why }) => {
                let words = records_of(&self.settings, data);
                self.batch.won(words.len());
                self.take_run(&run, why, &words, now)
            }
            None => Took::More,
        }
    }

    /// The meter refused what was asked.
    pub fn refused(&mut self, code: ExceptionCode, now: Now) -> Took {
        let Some(doing) = self.doing.take() else { return Took::More };
        self.selected = None;
        let asked = doing.asked();
        if asked == Asked::Several {
            // It may be too much, or there is one among them that it refuses.
            self.batch.lost();
            return Took::More;
        }
        match doing {
            // Where there is no such address or value, there is no such record.
            Doing::Read { run: Range { start: no, .. }, why } | Doing::Select { no, why }
                if is_absence(code) =>
            {
                self.take_run(&(no..no + 1), why, &[Vec::new()], now)
            }
            Doing::Pointers => {
                self.pointers.restart();
                Took::Refused(code, asked)
            }
            Doing::Read { .. } | Doing::Select { .. } => Took::Refused(code, asked),
        }
    }

    /// No answer came that can be used; says to what.
    pub fn failed(&mut self, cause: Cause) -> Asked {
        self.selected = None;
        let asked = self.doing.take().map_or(Asked::Pointers, |doing| doing.asked());
        match asked {
            Asked::Pointers => self.pointers.restart(),
            // It may be too much for the meter, or for the line; not where there is no line.
            Asked::Several if cause != Cause::NotConnected => self.batch.lost(),
            Asked::Several | Asked::One(..) => {}
        }
        asked
    }

    /// Forgets all that is known of the memory.
    pub fn forget(&mut self) {
        self.marks.clear();
        self.newest.forget();
        self.look_again();
        (self.before, self.doubted, self.probes, self.stepped) = (None, None, (None, 0), None);
        self.is_emptied = false;
        self.generation += 1;
    }

    /// Records that time has made since the pointers were read.
    fn passed(&self, now: Now) -> i64 {
        let passed_ms = i64::try_from(now.boot_ms.saturating_sub(self.before_at_ms)).unwrap_or(i64::MAX);
        passed_ms / self.settings.load.interval.as_ms()
    }

    fn take_extent(&mut self, named: Extent, passed: i64, now: Now) {
        (self.selected, self.is_used) = (None, false);
        self.is_emptied = named.is_empty() && self.before.is_some_and(|before| !before.is_empty());
        if self.is_emptied {
            // It may be so for an instant only: what was known is kept, to see what has become of it.
            (self.extent, self.extent_at_ms) = (Some(named), now.boot_ms);
            return;
        }
        // As long as the newest record is looked for, the one that it names is no more whole than it was, and another one
        // that it names by then may take as long.
        self.stepped = self.stepped.filter(|no| *no <= named.newest).map(|_| named.newest);
        let extent = self.stepped.map_or(named, |no| Extent { newest: no - 1, ..named });
        if let Some(before) = self.before {
            let change = Change::between(before, named, self.settings.load.held, passed);
            self.was_cleared |= change.is_cleared;
            if change.is_strange {
                self.marks.clear();
                self.generation += 1;
            }
        }
        self.marks.keep(named);
        self.newest.keep(extent.newest);
        (self.extent, self.extent_at_ms) = (Some(extent), now.boot_ms);
        (self.before, self.before_at_ms) = (Some(named), now.boot_ms);
    }

    fn take_run(&mut self, run: &Range<i64>, why: Why, words: &[Vec<u16>], now: Now) -> Took {
        self.selected = None;
        let Some(extent) = self.extent else { return Took::More };
        let Settings { load, zone, .. } = &self.settings;
        let records: Vec<Option<Record>> =
            words.iter().map(|words| record::read(load, *zone, words)).collect();
        if why == Why::Before {
            return self.compare(records.first().and_then(Option::as_ref).map(|record| record.at));
        }
        if run.start == extent.newest
            && let Some(took) = self.take_newest(extent, why, &records, words, now)
        {
            return took;
        }
        if why == Why::Scan {
            return Took::Records(run.start, records);
        }
        match self.mark(run, &records) {
            Some(surprise) => self.strike(surprise),
            None if why == Why::Probe => Took::More,
            None => Took::Records(run.start, records),
        }
    }

    /// Remembers when these records are of; says so where that cannot be.
    fn mark(&mut self, run: &Range<i64>, records: &[Option<Record>]) -> Option<Surprise> {
        let grid = self.settings.grid;
        let mut surprise = None;
        for (no, record) in run.clone().zip(records) {
            match record {
                Some(record) if !self.marks.note(no, grid.slot_at(record.at), record.at) => {
                    let is_moved = self.marks.is_newest_or_known(record.at);
                    surprise = Some(if is_moved { Surprise::Moved } else { Surprise::Mixed });
                }
                Some(_) => {}
                None => self.marks.note_void(no),
            }
        }
        surprise
    }

    /// What was read of the newest record; `None` where that counts.
    fn take_newest(
        &mut self,
        extent: Extent,
        why: Why,
        records: &[Option<Record>],
        words: &[Vec<u16>],
        now: Now,
    ) -> Option<Took> {
        let no = extent.newest;
        let is_named = self.before.is_some_and(|before| before.newest == no);
        let written = records.first().and_then(Option::as_ref).filter(|record| !record.is_incomplete);
        if written.is_none() && is_named {
            // Some meters name the record that they are writing, or the place that is next.
            return Some(self.step_back(extent));
        }
        match self.newest.judge(no, words.first().map_or(&[], Vec::as_slice), now.boot_ms) {
            Verdict::Again => return Some(Took::More),
            Verdict::Running if is_named => return Some(self.step_back(extent)),
            Verdict::Running | Verdict::Sure => {}
        }
        let is_full = extent.count() >= i64::from(self.settings.load.capacity);
        let is_doubted = why == Why::Newest && is_named && is_full && !self.newest.is_proven();
        let record = written.filter(|_| is_doubted)?;
        let older = self.older(extent, no)?;
        self.newest.hold(no, record.clone());
        let before = self.marks.at(older).map(|(_, at)| at);
        Some(before.map_or(Took::More, |before| self.compare(Some(before))))
    }

    fn step_back(&mut self, extent: Extent) -> Took {
        self.newest.forget();
        self.stepped = Some(extent.newest);
        self.extent = Some(Extent { newest: extent.newest - 1, ..extent });
        Took::More
    }

    /// The newest record counts, unless the one before it shows that it is the oldest of a full ring.
    fn compare(&mut self, before: Option<Timestamp>) -> Took {
        let load = &self.settings.load;
        let (capacity, interval_ms) = (load.capacity, load.interval.as_ms());
        let held = if before.is_some() { self.newest.prove() } else { self.newest.release() };
        let Some((no, record)) = held else { return Took::More };
        if before.is_some_and(|before| newest::is_oldest(record.at, before, capacity, interval_ms)) {
            tracing::warn!(
                device = %self.settings.name,
                "its register names the place that is next, not the newest record: say `names = \"next\"` in its profile"
            );
            self.settings.load.names = Names::Next;
            self.before = self.before.map(|before| Extent { newest: before.newest - 1, ..before });
            self.look_again();
            return Took::More;
        }
        if let Some(surprise) = self.mark(&(no..no + 1), &[Some(record.clone())]) {
            return self.strike(surprise);
        }
        Took::Records(no, vec![Some(record)])
    }

    /// What was believed of the records is not so, or what was read now is not: nobody knows which.
    fn strike(&mut self, why: Surprise) -> Took {
        self.marks.clear();
        self.newest.forget();
        self.look_again();
        Took::Strike(why)
    }
}

/// The registers of each record of an answer.
fn records_of(settings: &Settings, data: &ResponseData) -> Vec<Vec<u16>> {
    match data {
        ResponseData::Registers(words) => {
            words.chunks(usize::from(settings.load.registers.max(1))).map(<[u16]>::to_vec).collect()
        }
        ResponseData::Records(records) => records.clone(),
        ResponseData::Bits(_) | ResponseData::Written => Vec::new(),
    }
}

/// "Illegal data address" and "illegal data value" (Modbus Application Protocol V1.1b3, section 7).
const fn is_absence(code: ExceptionCode) -> bool {
    matches!(code, ExceptionCode(0x02 | 0x03))
}
