//! One device that is collected from its meter's memory: what is read next, and what follows where nothing comes of it.
//! What follows from records is [`records`]' business.
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
//! full, was cleared, or was seen to hold older ones; *not recorded* elsewhere; *refused*, *corrupt* or *no answer* where a
//! record cannot be read.
//!
//! # What cannot be had
//! One record that fails time and again while the meter says which ones it has is stepped over, so that it is in the way of
//! no other; where it is the newest, the next one is waited for.
//!
//! # Clocks
//! Records carry the meter's own time. Where its clock is off by more than the limit, a person is told, and what it records
//! meanwhile is marked *uncertain: clock*.

mod records;
#[cfg(test)]
mod tests;

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::quality::{Cause, ExceptionCode};
use gapless_common::time::{Slot, Timestamp};

use super::Settings;
use super::drift::Drift;
use super::holes::{Hole, Holes};
use super::progress::{InHand, Task};
use super::reader::{self, Asked, Goal, Reader, STRIKES_MAX, Surprise, Took};
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

/// So many failures at one record, while the meter says which ones it has, make it one that cannot be had.
const FAILURES_MAX: u8 = 4;
/// So many such records in a row end a command, and let a hole rest for an interval, within these bounds, in ms.
const PASSED_OVER_MAX: u8 = 4;
const REST_MS: (i64, i64) = (60_000, 900_000);

/// Why no answer came that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// [`Cause::NotConnected`], [`Cause::NoAnswer`] or [`Cause::Corrupt`].
    pub cause: Cause,
    /// For people.
    pub why: String,
}

/// The newest record that was told.
#[derive(Debug, Clone, Copy)]
struct Last {
    slot: Slot,
    at: Timestamp,
    /// Its generation and number.
    no: (u64, i64),
}

/// See the module.
#[derive(Debug)]
pub struct Recorder {
    settings: Settings,
    reader: Reader,
    account: Account,
    standing: Standing,
    cadence: Cadence,
    drift: Drift,
    wishes: Wishes,
    holes: Holes,
    in_hand: InHand,
    /// What was asked for last.
    task: Option<Task>,
    last: Option<Last>,
    /// The oldest slot that a record was seen of.
    witness: Option<Slot>,
    /// The memory was cleared: what was before this slot and is not there is overwritten.
    cleared: Option<Slot>,
    is_asked: bool,
    due_ms: u64,
    /// A record could not be had, and none has come since: that the meter says which ones it has means nothing then.
    is_denied: bool,
    /// The newest record could not be had: something else is tried before it is asked for again.
    gives_way: bool,
    /// Holes are not read before, on the boot clock.
    holes_rest_until_ms: u64,
    /// The meter has said that it has no records any more: that is so where it says it again from then on.
    emptied_ms: Option<u64>,
    waiting_until_ms: u64,
    /// When the newest record was asked for last, and when that one was whose answer is known, on the boot clock.
    asked_ms: u64,
    caught_up_ms: u64,
}

impl Recorder {
    /// Slots from `begun` on are to be accounted for, once that look at the clocks is an instant.
    ///
    /// # Errors
    /// [`PlanError`] where the meter's pointers or records cannot be asked for.
    pub fn new(bus: BusId, settings: Settings, begun: Now, now: Now) -> Result<Self, PlanError> {
        let device = std::iter::once((settings.device, settings.paused));
        Ok(Self {
            reader: Reader::new(settings.clone())?,
            account: Account::new(settings.device, settings.grid, begun),
            standing: Standing::new(bus, device, now).as_guest(),
            cadence: Cadence::new(settings.grid),
            drift: Drift::new(settings.name.clone(), settings.load.clock_limit_ms),
            wishes: Wishes::default(),
            holes: Holes::default(),
            in_hand: InHand::default(),
            task: None,
            last: None,
            witness: None,
            cleared: None,
            is_asked: false,
            due_ms: now.boot_ms,
            is_denied: false,
            gives_way: false,
            holes_rest_until_ms: 0,
            emptied_ms: None,
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
        let end = self.holes.first_from(open).map_or(overdue, |first| first.min(overdue));
        let failing = self.standing.absent();
        self.account.pass(self.settings.paused, failing, Some(end), now, &mut self.standing.out);
    }

    /// The bus has no connection.
    pub fn unplugged(&mut self, why: &str, now: Now) {
        self.reader.unplugged();
        self.wishes.failed(why, &mut self.standing.out);
        self.standing.missing(Cause::NotConnected, why, now);
        self.observe(now);
    }

    fn pick(&self, now: Now) -> Option<Task> {
        let may_be_read = !self.settings.paused && self.holes_rest_until_ms <= now.boot_ms;
        let wish = self.wishes.front().map(|_| Task::Wish);
        let other = wish.or_else(|| self.holes.front().filter(|_| may_be_read).map(|_| Task::Hole));
        let is_due = !self.settings.paused && self.due_ms <= now.boot_ms;
        match other {
            Some(_) if self.gives_way && !self.is_asked => other,
            _ if self.is_asked || is_due => Some(Task::Newest),
            _ => other,
        }
    }

    /// What is wanted of the memory for a task.
    fn goal(&mut self, task: Task) -> Option<Goal> {
        let generation = self.reader.generation();
        let progress = self.in_hand.of(task);
        let next = progress.next.filter(|next| next.0 == generation).map(|(_, no)| no);
        match (task, next, progress.is_scan) {
            (Task::Newest, ..) => Some(Goal::Newest),
            (_, next, true) => Some(Goal::Scan(next.unwrap_or(i64::MIN))),
            (_, Some(no), false) => Some(Goal::Number(no)),
            (Task::Wish, None, false) => self.wishes.front().map(|wish| Goal::From(wish.cursor)),
            (Task::Hole, None, false) => self.holes.front().map(|hole| Goal::From(hole.seek)),
        }
    }

    fn begin(&mut self, task: Task, now: Now) {
        let goes_on = self.task.replace(task) == Some(task);
        match task {
            Task::Newest if goes_on => {}
            Task::Newest => {
                self.in_hand.end(task);
                self.reader.look_anew();
                self.asked_ms = now.boot_ms;
            }
            Task::Wish => {
                let id = self.wishes.front().map(|wish| wish.command());
                id.into_iter().for_each(|id| _ = self.in_hand.begin(task, id));
            }
            Task::Hole => {
                let Some(hole) = self.holes.front() else { return };
                if self.in_hand.begin(task, hole.id) {
                    // Times that do not rise are looked for everywhere.
                    self.in_hand.of(task).is_scan = hole.is_mixed;
                }
            }
        }
    }

    fn end_task(&mut self, task: Task) {
        self.in_hand.end(task);
        self.task = None;
    }

    /// All records that there are have been seen, or none is of this time or later.
    fn nowhere(&mut self, task: Task, now: Now) {
        if task != Task::Newest && self.reader.is_emptied() && !self.settings.paused {
            // What it says for an instant only must not cost anything.
            self.waiting_until_ms = self.due_ms.max(now.boot_ms + 1);
            return;
        }
        if std::mem::take(&mut self.is_denied) {
            self.present();
        }
        match task {
            Task::Newest => {
                self.is_asked = false;
                self.caught_up_ms = self.asked_ms;
                self.due_ms = self.cadence.next_due_ms(self.newest_slot(), now);
                self.note_emptied();
                self.note_cleared(now);
            }
            Task::Wish => {
                if let Some(wish) = self.wishes.front_mut() {
                    wish.advance(0, wish.end);
                }
                self.end_wish();
            }
            Task::Hole => {
                if let Some(hole) = self.holes.pop() {
                    let has_none = self.reader.extent().is_none_or(|extent| extent.is_empty());
                    let cause = if has_none { self.cause_of_old(hole.end) } else { Cause::NotRecorded };
                    self.end_hole(hole, cause, now);
                }
            }
        }
        self.end_task(task);
    }

    fn note_emptied(&mut self) {
        self.emptied_ms = match self.emptied_ms.filter(|_| self.reader.is_emptied()) {
            Some(ms) if ms <= self.asked_ms => {
                self.reader.believe_emptied();
                None
            }
            None if self.reader.is_emptied() => Some(self.due_ms),
            known => known,
        };
    }

    /// All of the command was read. Where one of its records cannot be had, that is no lack of data, and it is to be asked
    /// for again, as a line that garbles answers will not always do so.
    fn end_wish(&mut self) {
        match self.in_hand.of(Task::Wish).why.take() {
            Some(why) => self.fail_wish(&why),
            None => self.wishes.end(&mut self.standing.out),
        }
    }

    fn fail_wish(&mut self, why: &str) {
        let command = self.wishes.front().map(|wish| wish.command());
        while command.is_some() && self.wishes.front().map(|wish| wish.command()) == command {
            self.wishes.failed(why, &mut self.standing.out);
        }
    }

    /// What of a hole did not come will not.
    fn end_hole(&mut self, hole: Hole, cause: Cause, now: Now) {
        let progress = self.in_hand.of(Task::Hole);
        let cause = progress.spoilt.unwrap_or(cause);
        let came = std::mem::take(&mut progress.came);
        let mut first = hole.cursor;
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
        let was_seen = self.witness.is_some_and(|seen| seen < end);
        let was_cleared = self.cleared.is_some_and(|cleared| end <= cleared.plus(1));
        if self.reader.is_full() || was_seen || was_cleared { Cause::Overwritten } else { Cause::NotRecorded }
    }

    fn note_cleared(&mut self, now: Now) {
        if self.reader.take_cleared() && self.last.is_some() {
            self.cleared = Some(self.settings.grid.slot_at(now.wall));
            tracing::warn!(device = %self.settings.name, "the meter's memory was cleared, or its numbers begin anew");
        }
    }

    fn newest_slot(&self) -> Option<Slot> {
        let interval = self.settings.grid.interval.as_ms();
        let written = self.last.map(|last| reader::written_at(self.settings.load.label, last.at, interval));
        written.map(|at| self.settings.grid.slot_at(at))
    }

    /// The memory is another than it was taken for: the task begins anew, or all of the memory is looked through.
    fn struck(&mut self, task: Task, surprise: Surprise) {
        let progress = self.in_hand.of(task);
        progress.strikes = progress.strikes.saturating_add(1);
        progress.next = None;
        let strikes = progress.strikes;
        tracing::debug!(device = %self.settings.name, strikes, ?surprise, "looked at again");
        progress.is_scan |= strikes >= STRIKES_MAX;
        if strikes > 1 {
            self.reader.forget();
        }
    }

    /// Nothing came that can be used.
    fn failed(&mut self, task: Task, asked: &Asked, (cause, why): (Cause, &str), now: Now) {
        if task == Task::Newest {
            self.is_asked = false;
        }
        match *asked {
            // The meter says nothing at all: nor would it to the collector's question.
            Asked::Pointers => self.wishes.failed(why, &mut self.standing.out),
            // Only where it then says which records it has is it for the record that it failed.
            Asked::Several => self.reader.look_again(),
            Asked::One(no, is_probe) => {
                self.reader.look_again();
                if self.in_hand.of(task).failed(no) >= FAILURES_MAX {
                    self.step_over(task, (no, is_probe), (cause, why), now);
                }
            }
        }
        self.is_denied |= *asked != Asked::Pointers;
        self.standing.missing(cause, why, now);
    }

    /// One record that cannot be had must not be in the way of all others.
    fn step_over(&mut self, task: Task, (no, is_probe): (i64, bool), (cause, why): (Cause, &str), now: Now) {
        tracing::warn!(device = %self.settings.name, why, "one record cannot be had: it is passed over");
        self.reader.give_up(no);
        let generation = self.reader.generation();
        let progress = self.in_hand.of(task);
        progress.came();
        match task {
            Task::Newest => {
                let is_known = self.last.is_some_and(|last| last.no == (generation, no - 1));
                if self.reader.awaits_older() || !is_known && self.reader.passes_newest(no) {
                    return;
                }
                self.gives_way = true;
                self.due_ms = self.cadence.next_due_ms(self.newest_slot(), now);
                return self.end_task(task);
            }
            Task::Wish => {
                progress.why = Some(why.to_owned());
                if let Some(wish) = self.wishes.front_mut() {
                    wish.spoil(why);
                }
            }
            Task::Hole => progress.spoilt = Some(cause),
        }
        self.gives_way = false;
        let progress = self.in_hand.of(task);
        if !is_probe {
            progress.next = Some((generation, no + 1));
        }
        progress.passed_over += 1;
        if progress.passed_over < PASSED_OVER_MAX {
            return;
        }
        // The meter says which records it has, and gives none.
        progress.passed_over = 0;
        if task == Task::Wish {
            self.fail_wish(why);
            return self.end_task(task);
        }
        let rest_ms = self.settings.grid.interval.as_ms().clamp(REST_MS.0, REST_MS.1);
        self.holes_rest_until_ms = now.boot_ms.saturating_add(rest_ms.unsigned_abs());
    }

    fn refused(&mut self, task: Task, code: ExceptionCode, asked: &Asked, now: Now) {
        let why = Refusal(code).to_string();
        self.failed(task, asked, (Cause::Refused(code), &why), now);
    }

    fn present(&mut self) {
        self.standing.present();
        self.standing.tell_device(0, DeviceCondition::Online, None);
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
                reader::Step::Mixed => self.struck(task, Surprise::Mixed),
            }
        }
        let due_ms = if self.pick(now).is_some() { self.waiting_until_ms } else { self.due_ms };
        Step::Wait { until_boot_ms: self.standing.wait(due_ms, now) }
    }

    fn took(&mut self, answer: Self::Answer, now: Now) {
        let Some(task) = self.task else { return };
        let took = match answer {
            Err(Failure { cause, why }) => {
                let asked = self.reader.failed(cause);
                self.failed(task, &asked, (cause, &why), now);
                return self.observe(now);
            }
            Ok(Err(Refusal(code))) => self.reader.refused(code, now),
            Ok(Ok(data)) => self.reader.took(&data, now),
        };
        if let Took::Refused(code, asked) = &took {
            self.refused(task, *code, asked, now);
            return self.observe(now);
        }
        self.is_denied &= !matches!(took, Took::Records(..));
        self.gives_way &= !matches!(took, Took::Records(..));
        if !self.is_denied {
            self.present();
        }
        match took {
            Took::Records(first, records) => self.took_records(task, first, &records, now),
            Took::Strike(surprise) => self.struck(task, surprise),
            Took::More | Took::Refused(..) => {}
        }
        self.observe(now);
    }

    fn poll_now(&mut self, _: DeviceIndex) {
        (self.is_asked, self.waiting_until_ms) = (true, 0);
    }

    fn read_history(&mut self, command: u64, _: DeviceIndex, range: (Timestamp, Timestamp)) {
        if self.wishes.add(command, self.settings.grid, range) {
            self.wishes.end(&mut self.standing.out);
        } else {
            self.standing.refuse_history(command);
        }
    }

    fn pause(&mut self, (command, _): (u64, DeviceIndex), paused: bool, now: Now) {
        self.observe(now);
        self.account.flush(&mut self.standing.out);
        self.settings.paused = paused;
        self.standing.pause(command, 0, paused);
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
