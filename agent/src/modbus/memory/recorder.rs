//! One device that is collected from its meter's memory: what is read next, and what follows from it.
//!
//! Contract: that of [`Collect`]; requests are asked for, and their answers, or why there is none, handed back.
//!
//! # Order
//! The newest record first, when one is due; then windows that the collector asks for; then holes. A hole is read without
//! being asked for by anybody: what lies before the first record that is seen, as far back as is configured, and what lies
//! between two that were seen one after the other. So whatever length of outage, its records come by themselves.
//!
//! # What is gone
//! A slot of a hole without a record is told with its cause: *overwritten* before the oldest record of a memory that is
//! full, was cleared, or was seen to hold older ones; *not recorded* elsewhere; *corrupt* where a record cannot be read.
//!
//! # Clocks
//! Records carry the meter's own time. Where its clock is off by more than the limit, a person is told, and its records are
//! marked *uncertain: clock* for as long.

use std::collections::{BTreeSet, VecDeque};

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::Acquired;
use gapless_common::time::{Slot, Timestamp};

use super::Settings;
use super::reader::{self, Goal, Reader, STRIKES_MAX, Surprise, Took, drift_text};
use super::record::Record;
use crate::clock::Now;
use crate::event::{BusEvent, DeviceCondition};
use crate::modbus::Answer;
use crate::modbus::pdu::{Refusal, Request};
use crate::modbus::plan::PlanError;
use crate::records::account::Account;
use crate::records::cadence::Cadence;
use crate::records::collect::{Collect, Step};
use crate::records::standing::Standing;
use crate::records::wishes::Wishes;

/// Holes that wait at most; more are joined, and what lies between is read once more.
const HOLES_MAX: usize = 64;
/// Slots around a step of the meter's clock that are looked at again.
const STEP_SLOTS: i64 = 8;
/// So many failures in a row at one record make it a lost one.
const CORRUPT_MAX: u8 = 4;

/// Why no answer came that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// [`Cause::NotConnected`], [`Cause::NoAnswer`] or [`Cause::Corrupt`].
    pub cause: Cause,
    /// For people.
    pub why: String,
}

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Newest,
    Wish,
    Hole,
}

/// A stretch of slots that is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    cursor: Slot,
    end: Slot,
    /// Times do not rise in it: all of the memory is looked through.
    is_mixed: bool,
}

/// How far the task in hand has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    task: Option<Task>,
    /// The next record, as far as numbers mean what they meant.
    next: Option<(u64, i64)>,
    strikes: u8,
    failures: u8,
    is_scan: bool,
    /// Slots of it that came while the whole memory is looked through.
    came: BTreeSet<Slot>,
    /// A record of it cannot be read.
    is_spoilt: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Recorder {
    settings: Settings,
    reader: Reader,
    account: Account,
    standing: Standing,
    cadence: Cadence,
    wishes: Wishes,
    holes: VecDeque<Hole>,
    progress: Progress,
    /// Of the task that waits for the newest record.
    resting: Progress,
    /// The newest record that was told.
    last: Option<(Slot, Timestamp)>,
    /// The oldest slot that a record was seen of.
    witness: Option<Slot>,
    was_cleared: bool,
    is_asked: bool,
    due_ms: u64,
    is_off: bool,
    waiting_until_ms: u64,
    /// When the newest record was asked for last, and when that one was whose answer is known, on the boot clock.
    asked_ms: u64,
    caught_up_ms: u64,
}

impl Recorder {
    /// Slots from `begun` on are to be accounted for, once that look at the clocks is an instant.
    ///
    /// # Errors
    /// [`PlanError`] where the meter's pointers cannot be asked for.
    pub fn new(bus: BusId, settings: Settings, begun: Now, now: Now) -> Result<Self, PlanError> {
        let device = std::iter::once((settings.device, settings.paused));
        Ok(Self {
            reader: Reader::new(settings.clone())?,
            account: Account::new(settings.device, settings.grid, begun),
            standing: Standing::new(bus, device, now).as_guest(),
            cadence: Cadence::new(settings.grid),
            wishes: Wishes::default(),
            holes: VecDeque::new(),
            progress: Progress::default(),
            resting: Progress::default(),
            last: None,
            witness: None,
            was_cleared: false,
            is_asked: false,
            due_ms: now.boot_ms,
            is_off: false,
            waiting_until_ms: 0,
            asked_ms: now.boot_ms,
            caught_up_ms: now.boot_ms,
            settings,
        })
    }

    /// Which device it is.
    #[must_use]
    pub const fn device(&self) -> DeviceIndex {
        self.settings.device
    }

    /// Time passes: settles slots whose time is over.
    pub fn observe(&mut self, now: Now) {
        if self.standing.observe(now) {
            self.account.step_back(now, &mut self.standing.out);
        }
        self.account.begin(now);
        // An agent that stood still asks before it says that there is nothing.
        let overdue = self.cadence.overdue(now.instant_at(self.caught_up_ms));
        let open = self.account.open_from().unwrap_or(overdue);
        // What is still to be read is not over.
        let asked = self.holes.iter().filter(|hole| hole.end > open).map(|hole| hole.cursor.max(open));
        let end = asked.min().map_or(overdue, |first| first.min(overdue));
        let failing = self.standing.absent();
        self.account.pass(self.settings.paused, failing, Some(end), now, &mut self.standing.out);
    }

    /// The bus has no connection.
    pub fn unplugged(&mut self, why: &str, now: Now) {
        self.standing.missing(Cause::NotConnected, why, now);
        self.observe(now);
    }

    fn pick(&self, now: Now) -> Option<Task> {
        if self.is_asked || (!self.settings.paused && self.due_ms <= now.boot_ms) {
            return Some(Task::Newest);
        }
        let wish = self.wishes.front().map(|_| Task::Wish);
        wish.or_else(|| self.holes.front().filter(|_| !self.settings.paused).map(|_| Task::Hole))
    }

    /// What is wanted of the memory for a task.
    fn goal(&self, task: Task) -> Option<Goal> {
        let progress = &self.progress;
        let next = progress.next.filter(|(generation, _)| *generation == self.reader.generation());
        match (task, next, progress.is_scan) {
            (Task::Newest, ..) => Some(Goal::Newest),
            (_, next, true) => Some(Goal::Scan(next.map_or(i64::MIN, |(_, no)| no))),
            (_, Some((_, no)), false) => Some(Goal::Number(no)),
            (Task::Wish, None, false) => self.wishes.front().map(|wish| Goal::From(wish.cursor)),
            (Task::Hole, None, false) => self.holes.front().map(|hole| Goal::From(hole.cursor)),
        }
    }

    fn begin(&mut self, task: Task, now: Now) {
        if self.progress.task != Some(task) {
            if task == Task::Newest {
                self.resting = std::mem::take(&mut self.progress);
            }
            // Times that do not rise are looked for everywhere.
            let is_scan = task == Task::Hole && self.holes.front().is_some_and(|hole| hole.is_mixed);
            self.progress = Progress { task: Some(task), is_scan, ..Progress::default() };
            if task == Task::Newest {
                self.reader.look_again();
                self.asked_ms = now.boot_ms;
            }
        }
    }

    /// What was put off for the newest record goes on.
    fn end_task(&mut self) {
        self.progress = std::mem::take(&mut self.resting);
    }

    /// All records that there are have been seen, or none is of this time or later.
    fn nowhere(&mut self, task: Task, now: Now) {
        match task {
            Task::Newest => {
                self.is_asked = false;
                self.caught_up_ms = self.asked_ms;
                self.due_ms = self.cadence.next_due_ms(self.newest_slot(), now);
            }
            Task::Wish => {
                if let Some(wish) = self.wishes.front_mut() {
                    wish.advance(0, wish.end);
                }
                self.wishes.end(&mut self.standing.out);
            }
            Task::Hole => {
                if let Some(hole) = self.holes.pop_front() {
                    let has_none = self.reader.extent().is_none_or(|extent| extent.is_empty());
                    let cause = if has_none { self.cause_of_old(hole.end) } else { Cause::NotRecorded };
                    self.end_hole(hole, cause, now);
                }
            }
        }
        self.end_task();
    }

    /// What of a hole did not come will not.
    fn end_hole(&mut self, hole: Hole, cause: Cause, now: Now) {
        let cause = if self.progress.is_spoilt { Cause::Corrupt } else { cause };
        let mut first = hole.cursor;
        let came = std::mem::take(&mut self.progress.came);
        for slot in came.into_iter().chain([hole.end]).filter(|slot| (hole.cursor..=hole.end).contains(slot))
        {
            if slot > first {
                self.account.gone((first, slot.plus(-1)), cause, now, &mut self.standing.out);
            }
            first = first.max(slot.plus(1));
        }
    }

    /// Why there is nothing before the oldest record: `end` is the first slot behind what lacks.
    fn cause_of_old(&self, end: Slot) -> Cause {
        let is_full = self.reader.blank().is_none()
            && self
                .reader
                .extent()
                .is_some_and(|extent| extent.count() >= i64::from(self.settings.load.capacity));
        let was_seen = self.witness.is_some_and(|seen| seen < end);
        if is_full || was_seen || self.was_cleared { Cause::Overwritten } else { Cause::NotRecorded }
    }

    fn newest_slot(&self) -> Option<Slot> {
        let interval = self.settings.grid.interval.as_ms();
        let written = self.last.map(|(_, at)| reader::written_at(self.settings.load.label, at, interval));
        written.map(|at| self.settings.grid.slot_at(at))
    }

    fn took_records(&mut self, task: Task, first: i64, records: &[Option<Record>], now: Now) {
        self.progress.failures = 0;
        if self.reader.take_cleared() && self.last.is_some() {
            self.was_cleared = true;
            tracing::warn!(device = %self.settings.name, "the meter's memory was cleared, or its numbers begin anew");
        }
        self.note_drift(self.reader.drift_ms());
        match (task, self.progress.is_scan) {
            (Task::Newest, _) => self.take_newest(records.first().and_then(Option::as_ref), now),
            (_, true) => self.take_scanned(task, first, records),
            (Task::Wish, false) => self.take_wish(first, records),
            (Task::Hole, false) => self.take_hole(first, records, now),
        }
    }

    fn take_newest(&mut self, record: Option<&Record>, now: Now) {
        let was_asked = std::mem::take(&mut self.is_asked);
        self.caught_up_ms = self.asked_ms;
        if let Some(record) = record {
            let slot = self.settings.grid.slot_at(record.at);
            let is_new = self.last.is_none_or(|(_, at)| at != record.at);
            if self.reader.drift_ms().is_none() && now.wall_set {
                // A meter that does not say its time shows at least when it is ahead.
                let interval = self.settings.grid.interval.as_ms();
                let written = reader::written_at(self.settings.load.label, record.at, interval);
                self.note_drift(Some(written.since_ms(now.wall).max(0)));
            }
            if is_new {
                self.follow(slot, record.at);
                self.last = Some((slot, record.at));
            }
            if is_new || was_asked {
                self.tell(record);
            }
        }
        self.due_ms = self.cadence.next_due_ms(self.newest_slot(), now);
        self.end_task();
    }

    /// What lies between the newest record that we had and the one that came is a hole, if it is anything.
    fn follow(&mut self, slot: Slot, at: Timestamp) {
        let grid = self.settings.grid;
        let hole = match self.last {
            None => Hole {
                cursor: grid.first_from(at.plus_ms(-self.settings.first_ms)),
                end: slot,
                is_mixed: false,
            },
            Some((known, before)) if before < at => {
                Hole { cursor: known.plus(1), end: slot, is_mixed: false }
            }
            Some((known, _)) => {
                tracing::warn!(device = %self.settings.name, "the meter's clock was set back, or its memory cleared");
                Hole { cursor: slot.plus(-STEP_SLOTS), end: known.plus(STEP_SLOTS), is_mixed: true }
            }
        };
        if hole.cursor < hole.end {
            self.add_hole(hole);
        }
    }

    fn add_hole(&mut self, hole: Hole) {
        let is_full = self.holes.len() >= HOLES_MAX;
        match self.holes.back_mut().filter(|_| is_full) {
            Some(last) => last.end = last.end.max(hole.end),
            None => self.holes.push_back(hole),
        }
    }

    fn take_hole(&mut self, first: i64, records: &[Option<Record>], now: Now) {
        let Some(mut hole) = self.holes.front().copied() else { return self.end_task() };
        let mut no = first;
        for record in records {
            if let Some(record) = record {
                let slot = self.settings.grid.slot_at(record.at);
                let until = slot.min(hole.end);
                if until > hole.cursor {
                    let is_oldest = self.reader.extent().is_some_and(|extent| no == extent.oldest)
                        || self.reader.blank() == Some(no - 1);
                    let cause = if is_oldest { self.cause_of_old(until) } else { Cause::NotRecorded };
                    self.end_hole(Hole { end: until, ..hole }, cause, now);
                }
                if slot >= hole.end {
                    self.holes.pop_front();
                    return self.end_task();
                }
                if slot >= hole.cursor {
                    self.tell(record);
                    hole.cursor = slot.plus(1);
                    self.progress.is_spoilt = false;
                }
            }
            no += 1;
        }
        if let Some(front) = self.holes.front_mut() {
            *front = hole;
        }
        if hole.cursor >= hole.end {
            self.holes.pop_front();
            return self.end_task();
        }
        self.progress.next = Some((self.reader.generation(), no));
    }

    fn take_wish(&mut self, first: i64, records: &[Option<Record>]) {
        let Some((mut cursor, end)) = self.wishes.front().map(|wish| (wish.cursor, wish.end)) else {
            return self.end_task();
        };
        let mut found = 0;
        for record in records.iter().flatten() {
            let slot = self.settings.grid.slot_at(record.at);
            if (cursor..end).contains(&slot) {
                self.tell(record);
                found += 1;
            }
            cursor = cursor.max(slot.plus(1)).min(end);
        }
        let behind = first + i64::try_from(records.len()).unwrap_or(1);
        self.progress.next = Some((self.reader.generation(), behind));
        if let Some(wish) = self.wishes.front_mut() {
            wish.advance(found, cursor);
        }
        if cursor >= end {
            self.wishes.end(&mut self.standing.out);
            self.end_task();
        }
    }

    /// While all of the memory is looked through, whatever of the task is found counts.
    fn take_scanned(&mut self, task: Task, first: i64, records: &[Option<Record>]) {
        let wanted = match task {
            Task::Wish => self.wishes.front().map(|wish| (wish.cursor, wish.end)),
            _ => self.holes.front().map(|hole| (hole.cursor, hole.end)),
        };
        let Some((from, to)) = wanted else { return self.end_task() };
        for record in records.iter().flatten() {
            let slot = self.settings.grid.slot_at(record.at);
            if (from..to).contains(&slot) {
                self.tell(record);
                self.progress.came.insert(slot);
                if let (Task::Wish, Some(wish)) = (task, self.wishes.front_mut()) {
                    wish.advance(1, from);
                }
            }
        }
        let oldest = self.reader.extent().map_or(first, |extent| extent.oldest);
        let behind = first.max(oldest) + i64::try_from(records.len()).unwrap_or(1);
        self.progress.next = Some((self.reader.generation(), behind));
    }

    fn tell(&mut self, record: &Record) {
        let slot = self.settings.grid.slot_at(record.at);
        self.witness = Some(self.witness.map_or(slot, |seen| seen.min(slot)));
        self.account.received(slot, &mut self.standing.out);
        let mut samples = record.samples.clone();
        if self.is_off {
            let good = samples.iter_mut().filter(|sample| sample.quality == Quality::Good);
            good.for_each(|sample| sample.quality = Quality::UncertainClock);
        }
        if !samples.is_empty() {
            let (device, acquired) = (self.settings.device, Acquired::Recorded(slot));
            self.standing.out.push_back(BusEvent::Answered { device, acquired, at: record.at, samples });
        }
    }

    /// Tells a person once where the meter's clock is off, and once where it is right again.
    fn note_drift(&mut self, drift_ms: Option<i64>) {
        let Some(drift_ms) = drift_ms else { return };
        let is_off = drift_ms.unsigned_abs() > u64::from(self.settings.load.clock_limit_ms);
        if is_off && !self.is_off {
            tracing::warn!(
                device = %self.settings.name,
                "the meter's clock is {}: set it, or correct `zone`; its records are marked until then",
                drift_text(drift_ms)
            );
        } else if self.is_off && !is_off {
            tracing::info!(device = %self.settings.name, "the meter's clock is right again");
        }
        self.is_off = is_off;
    }

    /// The memory is another than it was taken for: the task begins anew, or all of the memory is looked through.
    fn struck(&mut self, surprise: Surprise) {
        self.progress.strikes += 1;
        self.progress.next = None;
        tracing::debug!(device = %self.settings.name, strikes = self.progress.strikes, ?surprise, "looked at again");
        if self.progress.strikes > 1 {
            self.reader.forget();
        }
        let is_mixed = surprise == Surprise::Mixed && self.progress.strikes > 1;
        self.progress.is_scan |= is_mixed || self.progress.strikes >= STRIKES_MAX;
    }

    fn failed(&mut self, task: Task, cause: Cause, why: &str, now: Now) {
        self.reader.failed();
        if task == Task::Wish {
            self.wishes.failed(why, &mut self.standing.out);
        }
        self.is_asked = false;
        self.progress.failures = self.progress.failures.saturating_add(1);
        if cause == Cause::Corrupt && self.progress.failures >= CORRUPT_MAX {
            self.skip();
        }
        self.standing.missing(cause, why, now);
    }

    /// One record that never comes whole must not be in the way of all others.
    fn skip(&mut self) {
        if let Some((_, no)) = &mut self.progress.next {
            *no += 1;
            self.progress.failures = 0;
            self.progress.is_spoilt = true;
        }
    }

    fn refused(&mut self, task: Task, code: ExceptionCode, now: Now) {
        let why = Refusal(code).to_string();
        self.failed(task, Cause::Refused(code), &why, now);
    }
}

impl Collect for Recorder {
    type Ask = Request;
    type Answer = Result<Answer, Failure>;

    fn next(&mut self, now: Now) -> Step<Request> {
        self.observe(now);
        while self.standing.is_ready(now) && self.waiting_until_ms <= now.boot_ms {
            let Some(task) = self.pick(now) else { break };
            self.begin(task, now);
            let Some(goal) = self.goal(task) else { break };
            match self.reader.step(goal, now) {
                reader::Step::Ask(request) => return Step::Ask(request),
                reader::Step::Wait(until_ms) => self.waiting_until_ms = until_ms.max(now.boot_ms + 1),
                reader::Step::Nowhere => self.nowhere(task, now),
                reader::Step::Mixed => self.struck(Surprise::Mixed),
            }
        }
        let due_ms = if self.pick(now).is_some() { self.waiting_until_ms } else { self.due_ms };
        Step::Wait { until_boot_ms: self.standing.wait(due_ms, now) }
    }

    fn took(&mut self, answer: Self::Answer, now: Now) {
        let Some(task) = self.progress.task else { return };
        let took = match answer {
            Err(Failure { cause, why }) => {
                self.failed(task, cause, &why, now);
                return self.observe(now);
            }
            Ok(Err(Refusal(code))) => self.reader.refused(code, now),
            Ok(Ok(data)) => self.reader.took(&data, now),
        };
        if let Took::Refused(code) = took {
            self.refused(task, code, now);
            return self.observe(now);
        }
        self.standing.present();
        self.standing.tell_device(0, DeviceCondition::Online, None);
        match took {
            Took::Records(first, records) => self.took_records(task, first, &records, now),
            Took::Strike(surprise) => self.struck(surprise),
            Took::More | Took::Refused(_) => {}
        }
        self.observe(now);
    }

    fn poll_now(&mut self, _: DeviceIndex) {
        self.is_asked = true;
    }

    fn read_history(&mut self, command: u64, _: DeviceIndex, range: (Timestamp, Timestamp)) {
        if self.wishes.add(command, self.settings.grid, range) {
            self.wishes.end(&mut self.standing.out);
        } else {
            self.standing.refuse_history(command);
        }
    }

    fn drain(&mut self) -> Option<BusEvent> {
        self.standing.out.pop_front()
    }

    fn stop(&mut self, now: Now) {
        self.observe(now);
        let (paused, failing) = (self.settings.paused, self.standing.absent());
        self.account.close(paused, failing, now, &mut self.standing.out);
        self.wishes.stop(&mut self.standing.out);
    }
}
