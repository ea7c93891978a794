//! One table of a logger: what is asked of it next, and what follows from the answer. Knows no link and no other table.

use std::collections::VecDeque;

use gapless_common::id::DeviceIndex;
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::Acquired;
use gapless_common::time::{Slot, SlotGrid, Timestamp};

use super::csijson::{Answer, Record};
use super::hole::{Hole, Mark};
use super::query::{self, Mode};
use crate::clock::Now;
use crate::event::BusEvent;
use crate::records::account::{Account, Out};
use crate::records::cadence::Cadence;
use crate::records::layout::{Channels, Layout};
use crate::records::wishes::Wishes;
use crate::records::zone::Zone;

/// A table as it is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Which device it is.
    pub device: DeviceIndex,
    /// Its name in the logger.
    pub table: Box<str>,
    /// When a record is due.
    pub grid: SlotGrid,
    /// The logger's local time.
    pub zone: Zone,
    /// How far back records are read at the start, in ms.
    pub first_ms: i64,
    /// What is read of a record.
    pub channels: Channels,
    /// Nothing is read.
    pub paused: bool,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The newest record: at the start, after a long time, and when somebody asks.
    Newest,
    /// What came since the newest record that we have.
    Since,
    /// A window of the first hole, up to this slot.
    Window(Slot),
    /// A window of what the collector asks for, up to this slot.
    History(Slot),
}

/// Records that are asked for at once, until their length is known.
const RECORDS_FIRST: i64 = 50;
/// Most records that are ever asked for at once.
const RECORDS_MAX: i64 = 500;
/// How long an answer may get: small beside the memory that an agent has.
const ANSWER_BYTES_WANTED: usize = 96 << 10;
/// Answers with fewer records say little of the length of one.
const RECORDS_TELLING: usize = 10;

/// Holes that wait at most; more are joined, and what lies between is read once more.
const HOLES_MAX: usize = 64;
/// So many unreadable answers in a row of a single record make it a lost one.
const CORRUPT_MAX: u32 = 4;

/// Pause between two windows, in ms: the outbox and the logger's other work go on beside it.
pub const WINDOW_PAUSE_MS: u64 = 200;

/// After so many sparse records in a row a person is told.
const SPARSE_TOLD: u8 = 5;

/// A table being collected.
#[derive(Debug)]
pub struct Table {
    /// As configured.
    pub settings: Settings,
    /// Its slots.
    pub account: Account,
    /// When it is to be asked next, on the boot clock.
    pub due_ms: u64,
    /// Not to be asked before, on the boot clock: its last answer could not be used.
    pub retry_at_ms: u64,
    /// When its next window may be asked for, on the boot clock.
    pub window_at_ms: u64,
    /// Asked for out of turn.
    pub is_asked: bool,
    layout: Option<Layout>,
    newest: Option<Mark>,
    /// When it was asked last for what is new, on the boot clock.
    asked_ms: u64,
    /// When that question was put whose answer held all there was, on the boot clock. Of later records nothing is known.
    caught_up_ms: u64,
    holes: VecDeque<Hole>,
    wishes: Wishes,
    records_max: i64,
    cadence: Cadence,
    corrupt: u32,
    /// Records in a row that came slots after the one before, though nothing was between them.
    sparse: u8,
}

impl Table {
    /// To be asked at once.
    #[must_use]
    pub fn new(settings: Settings, begun: Now, now: Now) -> Self {
        Self {
            account: Account::new(settings.device, settings.grid, begun),
            due_ms: now.boot_ms,
            retry_at_ms: 0,
            window_at_ms: 0,
            is_asked: false,
            layout: None,
            newest: None,
            asked_ms: now.boot_ms,
            caught_up_ms: now.boot_ms,
            holes: VecDeque::new(),
            wishes: Wishes::default(),
            records_max: RECORDS_FIRST,
            cadence: Cadence::new(settings.grid),
            corrupt: 0,
            sparse: 0,
            settings,
        }
    }

    fn interval(&self) -> i64 {
        self.settings.grid.interval.as_ms()
    }

    /// What a regular request asks for.
    #[must_use]
    pub fn regular(&self, now: Now) -> What {
        let passed = i64::try_from(now.boot_ms.saturating_sub(self.caught_up_ms)).unwrap_or(i64::MAX);
        let is_far_behind = passed / self.interval() > self.records_max;
        if self.newest.is_none() || is_far_behind || self.is_asked { What::Newest } else { What::Since }
    }

    /// What is to be read of the past: for the collector first, then by itself.
    #[must_use]
    pub fn past(&self) -> Option<What> {
        if let Some(wish) = self.wishes.front() {
            return Some(What::History(wish.cursor.plus(self.records_max).min(wish.end)));
        }
        self.holes.front().map(|hole| What::Window(hole.window(self.records_max).1))
    }

    /// The request as text; it is asked now.
    #[must_use]
    pub fn request(&mut self, what: What, now: Now) -> String {
        if let What::Newest | What::Since = what {
            self.asked_ms = now.boot_ms;
        }
        let grid = self.settings.grid;
        let between = |from: Slot, to: Slot| Mode::Between(grid.at(from), grid.at(to));
        let mode = match (what, self.newest, self.holes.front(), self.wishes.front()) {
            (What::Since, Some(newest), ..) => Mode::SinceRecord(newest.no),
            (What::Window(to), _, Some(hole), _) => between(hole.window(self.records_max).0, to),
            (What::History(to), _, _, Some(wish)) => between(wish.cursor, to),
            _ => Mode::Newest,
        };
        query::data(&self.settings.table, mode, self.settings.zone)
    }

    /// The collector wants these instants, half open; `false` where too much waits already.
    pub fn read_history(&mut self, command: u64, range: (Timestamp, Timestamp), out: &mut Out) -> bool {
        let is_taken = self.wishes.add(command, self.settings.grid, range);
        self.wishes.end(out);
        is_taken
    }

    /// An answer came, `bytes` long.
    pub fn answered(&mut self, what: What, answer: &Answer, bytes: usize, now: Now, out: &mut Out) {
        self.corrupt = 0;
        self.learn_length(answer.data.len(), bytes);
        let is_new = self.take_layout(answer, out);
        let records = self.understood(answer);
        match what {
            What::Newest | What::Since => self.take_live(&records, answer.more, is_new, now, out),
            What::Window(to) => self.take_window(&records, answer.more, to, now, out),
            What::History(to) => self.take_history(&records, answer.more, to, out),
        }
        if let What::Window(_) | What::History(_) = what {
            self.window_at_ms = now.boot_ms.saturating_add(WINDOW_PAUSE_MS);
        }
        self.wishes.end(out);
    }

    fn learn_length(&mut self, records: usize, bytes: usize) {
        if records >= RECORDS_TELLING {
            let fit = ANSWER_BYTES_WANTED / (bytes / records).max(1);
            self.records_max = i64::try_from(fit).unwrap_or(RECORDS_MAX).clamp(1, RECORDS_MAX);
        }
    }

    /// `true` where the program has changed.
    fn take_layout(&mut self, answer: &Answer, out: &mut Out) -> bool {
        if self.layout.as_ref().is_some_and(|layout| layout.is_of(answer.head.signature, &answer.head.fields))
        {
            return false;
        }
        let is_changed = self.layout.is_some();
        let (layout, all) = Layout::new(answer.head.signature, &answer.head.fields, &self.settings.channels);
        let (table, missing) = (&self.settings.table, layout.missing(&self.settings.channels));
        if is_changed {
            tracing::warn!(%table, program = %answer.head.environment.prog_name, "the logger's program has changed");
        }
        if !missing.is_empty() {
            tracing::warn!(%table, "the logger's program has no field {}", missing.join(", "));
        }
        if self.settings.channels == Channels::All {
            out.push_back(BusEvent::Channels { device: self.settings.device, channels: all });
        }
        self.layout = Some(layout);
        is_changed
    }

    /// The records whose time can be read.
    fn understood<'a>(&self, answer: &'a Answer) -> Vec<(Mark, Timestamp, &'a Record)> {
        let grid = self.settings.grid;
        let read = answer.data.iter().filter_map(|record| {
            let at = self.settings.zone.instant(&record.time);
            if at.is_none() {
                tracing::warn!(table = %self.settings.table, no = record.no, "no time: {:?}", record.time);
            }
            Some((Mark { no: record.no, slot: grid.slot_at(at?) }, at?, record))
        });
        read.collect()
    }

    fn tell(&mut self, (mark, at, record): (Mark, Timestamp, &Record), out: &mut Out) {
        let samples = self.layout.as_ref().map_or_else(Vec::new, |layout| layout.samples(&record.vals));
        self.account.received(mark.slot, out);
        let is_kept_back = planted::has(Bug::RecordNotTold) && mark.slot.0 % 7 == 0;
        if !samples.is_empty() && !is_kept_back {
            let (device, acquired) = (self.settings.device, Acquired::Recorded(mark.slot));
            out.push_back(BusEvent::Answered { device, acquired, at, samples });
        }
    }

    fn take_live(
        &mut self,
        records: &[(Mark, Timestamp, &Record)],
        more: bool,
        is_new: bool,
        now: Now,
        out: &mut Out,
    ) {
        let was_asked = std::mem::take(&mut self.is_asked);
        if is_new {
            self.erase();
        }
        let mut is_told = false;
        for &(mark, at, record) in records {
            let known = self.newest;
            let is_known = known == Some(mark) && (!is_new || is_told);
            if !is_known {
                self.follow(known, (mark, at), is_new && !is_told, now);
                (self.newest, is_told) = (Some(mark), true);
            }
            if !is_known || was_asked {
                self.tell((mark, at, record), out);
            }
        }
        if !more {
            self.caught_up_ms = self.asked_ms;
        }
        self.due_ms = if more && !records.is_empty() {
            now.boot_ms
        } else {
            self.cadence.next_due_ms(self.newest.map(|newest| newest.slot), now)
        };
    }

    /// What lies between the newest record that we had and the one that came is a hole, if it is anything.
    fn follow(&mut self, known: Option<Mark>, (mark, at): (Mark, Timestamp), is_new: bool, now: Now) {
        let Some(before) = known else {
            let first = self.settings.grid.first_from(at.plus_ms(-self.settings.first_ms));
            // What is due already may have been recorded since an earlier answer that held nothing. A logger whose clock is ahead
            // says nothing of that time.
            let open = self.account.open_from().filter(|_| at <= now.wall);
            let first = open.map_or(first, |open| first.min(open));
            return self.add_hole(Hole::new((first, mark.slot), None, Some(mark)));
        };
        let range = (before.slot.plus(1), mark.slot);
        let is_anew = is_new || mark.no <= before.no;
        if is_anew && !is_new {
            tracing::warn!(table = %self.settings.table, "the numbers of the records begin anew");
            self.erase();
        }
        if is_anew {
            self.add_hole(Hole::new(range, None, Some(mark)).map(Hole::erased));
        } else {
            self.note_distance(before, mark);
            self.add_hole(between(before, mark));
        }
    }

    /// Says so, once, where the table is written less often than the configuration says.
    fn note_distance(&mut self, before: Mark, mark: Mark) {
        let is_sparse = mark.no == before.no + 1 && mark.slot > before.slot.plus(1);
        self.sparse = if is_sparse { self.sparse.saturating_add(1) } else { 0 };
        if self.sparse == SPARSE_TOLD {
            let (table, ms) =
                (&self.settings.table, (mark.slot.0 - before.slot.0).saturating_mul(self.interval()));
            tracing::warn!(%table, "its records come every {} s, less often than `interval` says", ms / 1_000);
        }
    }

    fn erase(&mut self) {
        self.holes.iter_mut().for_each(|hole| *hole = hole.erased());
    }

    fn add_hole(&mut self, hole: Option<Hole>) {
        match (hole, self.holes.len() < HOLES_MAX, self.holes.back_mut()) {
            (Some(hole), false, Some(last)) => last.extend(&hole),
            (Some(hole), ..) => self.holes.push_back(hole),
            (None, ..) => {}
        }
    }

    fn take_window(
        &mut self,
        records: &[(Mark, Timestamp, &Record)],
        more: bool,
        to: Slot,
        now: Now,
        out: &mut Out,
    ) {
        records.iter().for_each(|record| self.tell(*record, out));
        let Some(hole) = self.holes.front_mut() else { return };
        let marks: Vec<Mark> = records.iter().map(|(mark, ..)| *mark).collect();
        let (gone, again) = hole.answered(&marks, more, to);
        if hole.is_over() {
            self.holes.pop_front();
        }
        self.holes.extend(again);
        for (range, cause) in gone {
            self.account.gone(range, cause, now, out);
        }
    }

    fn take_history(&mut self, records: &[(Mark, Timestamp, &Record)], more: bool, to: Slot, out: &mut Out) {
        records.iter().for_each(|record| self.tell(*record, out));
        let Some(wish) = self.wishes.front_mut() else { return };
        let broke_off = records.last().filter(|_| more).map(|(mark, ..)| mark.slot.plus(1));
        wish.advance(records.len(), broke_off.unwrap_or(to).max(wish.cursor.plus(1)));
    }

    /// The answer was longer than what is read.
    pub fn too_long(&mut self, what: What) {
        // All that it has came, because no record has the number that we know: the newest one is enough to go on from.
        self.is_asked |= what == What::Since;
        self.records_max = (self.records_max / 2).max(1);
        self.holes.iter_mut().for_each(|hole| hole.go_stepwise());
    }

    /// Whether a shorter answer can be asked for.
    #[must_use]
    pub const fn can_ask_for_less(&self, what: What) -> bool {
        !matches!(what, What::Newest) && self.records_max > 1
    }

    /// No answer that can be used: the commands that wait for one are answered at last.
    pub fn failed(&mut self, what: What, why: &str, out: &mut Out) {
        if let What::History(_) = what {
            self.wishes.failed(why, out);
        }
    }

    /// An answer that cannot be read: a shorter one may be, and a single record that never is must not be in the way of
    /// all others.
    pub fn unreadable(&mut self, what: What, now: Now, out: &mut Out) {
        self.corrupt += 1;
        let What::Window(_) = what else { return };
        let is_single = self.records_max == 1;
        self.too_long(what);
        if is_single && self.corrupt >= CORRUPT_MAX {
            self.corrupt = 0;
            let Some(hole) = self.holes.front_mut() else { return };
            let (range, cause) = hole.skip();
            if hole.is_over() {
                self.holes.pop_front();
            }
            self.account.gone(range, cause, now, out);
            self.records_max = RECORDS_FIRST;
        }
    }

    /// Settles the slots whose time is over; `failing` says why nothing comes at all.
    pub fn settle(&mut self, failing: Option<Cause>, now: Now, out: &mut Out) {
        self.account.begin(now);
        // An agent that stood still asks before it says that there is nothing.
        let overdue = self.cadence.overdue(now.instant_at(self.caught_up_ms));
        let open = self.account.open_from().unwrap_or(overdue);
        // What is still to be asked for is not over.
        let asked = self.holes.iter().filter(|hole| hole.end() > open).map(|hole| hole.first().max(open));
        let end = asked.min().map_or(overdue, |first| first.min(overdue));
        self.account.pass(self.settings.paused, failing, Some(end), now, out);
    }

    /// It is read no more, or again.
    pub fn pause(&mut self, paused: bool, out: &mut Out) {
        self.account.flush(out);
        self.settings.paused = paused;
    }

    /// Settles all that is open: the agent ends.
    pub fn stop(&mut self, failing: Option<Cause>, now: Now, out: &mut Out) {
        self.settle(failing, now, out);
        self.account.close(self.settings.paused, failing, now, out);
        self.wishes.stop(out);
    }
}

/// Where the records between two may be. Where the numbers say that nothing is missing, one request asks all the same: a
/// table may have been made anew and have come to just this number.
fn between(before: Mark, mark: Mark) -> Option<Hole> {
    let range = (before.slot.plus(1), mark.slot);
    let missing = i64::try_from(mark.no - before.no - 1).unwrap_or(i64::MAX);
    if missing == 0 || missing <= range.1.0.saturating_sub(range.0.0) {
        return Hole::new(range, Some(before), Some(mark));
    }
    // More records than slots: the clock was set back. They follow the one that we have, or go before the one that came.
    let first = range.0.min(mark.slot.plus(missing.saturating_neg()));
    Hole::new((first, before.slot.plus(missing).plus(1)), None, None).map(Hole::of_set_clock)
}
