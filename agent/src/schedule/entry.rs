//! One device's place in the schedule: when it is due, which of its slots are accounted for, how it is doing.
//! Knows nothing of the other devices of its bus.

use std::collections::VecDeque;

use gapless_common::planted::{self, Bug};
use gapless_common::quality::{Cause, ExceptionCode};
use gapless_common::reading::Misses;
use gapless_common::time::Slot;

use super::skips::Skips;
use super::{FAILURES_MAX, Outcome, PROBE_DISTANCE_MS_MAX, Poll, RUN_AGE_MS_MAX, Task, boot};
use crate::clock::Now;
use crate::event::{BusEvent, DeviceCondition};

type Out = VecDeque<BusEvent>;

#[derive(Debug, Clone, Copy)]
struct Run {
    first: Slot,
    count: i64,
    cause: Cause,
    opened: i64,
}

#[derive(Debug, Clone, Copy)]
struct InHand {
    slot: Option<Slot>,
    /// Whether the slot was still to be accounted for; a poll out of turn may repeat a slot that was.
    counts: bool,
    probe: bool,
    started: i64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) task: Task,
    /// Polled as soon as the bus is free.
    pub(super) asked: bool,
    /// When the agent began to account for slots.
    begun: Now,
    /// First slot not accounted for; `None` until the wall clock is set.
    cursor: Option<Slot>,
    /// Slots from the cursor on that are passed over before the next probe.
    skip: i64,
    /// Due on the boot clock, while the wall clock is not set.
    unset_due: i64,
    /// When the oldest slot that ended since the last poll had begun, on the boot clock.
    overdue: Option<i64>,
    /// When the next probe became due, if it did.
    probe_since: Option<i64>,
    failures: u32,
    in_hand: Option<InHand>,
    run: Option<Run>,
    skips: Skips,
    told: Option<(DeviceCondition, Option<Cause>)>,
}

impl Entry {
    pub(super) fn new(task: Task, begun: Now, now: Now) -> Self {
        let cursor = now.wall_set.then(|| task.grid.first_from(now.instant_of(begun)));
        let mut skips = Skips::default();
        skips.begin_course(cursor);
        Self {
            task,
            asked: false,
            begun,
            cursor,
            skip: 0,
            unset_due: boot(now),
            overdue: None,
            probe_since: None,
            failures: 0,
            in_hand: None,
            run: None,
            skips,
            told: None,
        }
    }

    pub(super) fn is_polled(&self) -> bool {
        self.in_hand.is_some()
    }

    pub(super) fn is_aside(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    pub(super) fn is_healthy(&self) -> bool {
        !self.is_aside() && !self.task.paused
    }

    pub(super) fn poll_ms(&self) -> i64 {
        i64::from(self.task.poll_ms)
    }

    pub(super) fn probe_ms(&self) -> i64 {
        i64::from(self.task.probe_ms)
    }

    fn interval(&self) -> i64 {
        self.task.grid.interval.as_ms()
    }

    /// The instant of `slot` on the boot clock, as the clocks stand now.
    fn boot_of(&self, slot: Slot, now: Now) -> i64 {
        boot(now).saturating_add(self.task.grid.at(slot).since_ms(now.wall))
    }

    /// When it is due next, on the boot clock.
    pub(super) fn due(&self, now: Now) -> i64 {
        match self.cursor.filter(|_| now.wall_set) {
            Some(cursor) => self.boot_of(cursor.plus(self.skip), now),
            None => self.unset_due,
        }
    }

    pub(super) fn is_due(&self, now: Now) -> bool {
        self.due(now) <= boot(now)
    }

    pub(super) fn is_probe_due(&self, now: Now) -> bool {
        self.is_aside() && !self.task.paused && (self.probe_since.is_some() || self.is_due(now))
    }

    /// How long its probe has been due.
    pub(super) fn waited_ms(&self, now: Now) -> i64 {
        boot(now).saturating_sub(self.probe_since.unwrap_or_else(|| self.due(now)))
    }

    /// The end of the oldest slot not served, on the boot clock.
    pub(super) fn deadline(&self, now: Now) -> i64 {
        self.waiting_since(now).saturating_add(self.interval())
    }

    /// Whether a slot has ended since its last poll.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue.is_some()
    }

    /// The begin of the oldest slot not served, on the boot clock.
    pub(super) fn waiting_since(&self, now: Now) -> i64 {
        self.overdue.unwrap_or_else(|| self.due(now))
    }

    /// Whether a further request of the poll in hand leaves the device's own next slot alone.
    pub(super) fn may_retry(&self, cost_ms: i64, now: Now) -> bool {
        let Some(in_hand) = self.in_hand else { return false };
        !in_hand.probe && boot(now).saturating_add(cost_ms) <= self.due(now)
    }

    pub(super) fn start(&mut self, now: Now) -> Poll {
        let slot = now.wall_set.then(|| self.task.grid.slot_at(now.wall));
        let counts = slot.is_some() && self.cursor.is_some_and(|cursor| Some(cursor) <= slot);
        if counts {
            self.cursor = slot.map(|slot| slot.plus(1));
        }
        let behind = boot(now).saturating_sub(self.unset_due).max(0) / self.interval();
        self.unset_due = self.unset_due.saturating_add(self.interval().saturating_mul(behind + 1));
        let probe = self.is_aside();
        self.in_hand = Some(InHand { slot, counts, probe, started: boot(now) });
        (self.skip, self.overdue, self.probe_since, self.asked) = (0, None, None, false);
        Poll { device: self.task.device, slot, probe }
    }

    pub(super) fn finish(&mut self, outcome: Outcome, now: Now, out: &mut Out) {
        let Some(in_hand) = self.in_hand.take() else { return };
        match outcome {
            Outcome::Answered => self.served(in_hand, now, out),
            Outcome::Missed(Cause::NotConnected) | Outcome::GivenUp => self.put_back(in_hand),
            Outcome::Missed(cause) => self.failed(in_hand, cause, now, out),
        }
    }

    fn served(&mut self, in_hand: InHand, now: Now, out: &mut Out) {
        self.failures = 0;
        let took = boot(now).saturating_sub(in_hand.started).max(1);
        self.task.poll_ms = u32::try_from(took).unwrap_or(u32::MAX);
        self.tell(DeviceCondition::Online, None, out);
        self.flush(out);
        if in_hand.counts {
            self.tell_through(out);
        }
    }

    /// The slot is open again: the link may be back before it ends.
    fn put_back(&mut self, in_hand: InHand) {
        if in_hand.counts {
            self.cursor = in_hand.slot;
        }
        if in_hand.slot.is_none() {
            self.unset_due = in_hand.started;
        }
    }

    fn failed(&mut self, in_hand: InHand, cause: Cause, now: Now, out: &mut Out) {
        if let Some(slot) = in_hand.slot.filter(|_| in_hand.counts) {
            self.miss(slot, 1, cause, now, out);
        }
        self.failures = if is_alive(cause) { 0 } else { self.failures.saturating_add(1) };
        if self.is_aside() {
            self.skip = self.probe_distance() - 1;
            self.unset_due = self.unset_due.saturating_add(self.skip.saturating_mul(self.interval()));
        }
        let condition = match self.failures {
            0 => DeviceCondition::Online,
            n if n < FAILURES_MAX => DeviceCondition::Failing,
            _ => DeviceCondition::SetAside,
        };
        self.tell(condition, Some(cause), out);
    }

    /// Slots from one probe to the next: 2, 4, 8 …
    fn probe_distance(&self) -> i64 {
        let doublings = (self.failures - FAILURES_MAX + 1).min(16);
        (1_i64 << doublings).min(PROBE_DISTANCE_MS_MAX / self.interval()).max(1)
    }

    /// Turns slots that have ended into misses.
    pub(super) fn lapse(&mut self, absent: bool, now: Now, out: &mut Out) {
        let late = if planted::has(Bug::FalseMiss) { Cause::NoAnswer } else { Cause::Overrun };
        self.pass_over(self.cause(absent, late), now, out);
        if self.is_aside() && self.probe_since.is_none() && self.is_due(now) {
            self.probe_since = Some(self.due(now));
        }
    }

    /// Why a slot is not polled now; `healthy` where nothing is wrong with device and link.
    fn cause(&self, absent: bool, healthy: Cause) -> Cause {
        match (self.task.paused, absent, self.is_aside()) {
            (true, ..) => Cause::Paused,
            (_, true, _) => Cause::NotConnected,
            (.., true) => Cause::BackOff,
            _ => healthy,
        }
    }

    /// Accounts for every slot that has ended by `now`; the current one stays open.
    fn pass_over(&mut self, cause: Cause, now: Now, out: &mut Out) {
        let Some(cursor) = self.cursor.filter(|_| now.wall_set) else { return };
        let cause = if self.task.paused { Cause::Paused } else { cause };
        let current = self.task.grid.slot_at(now.wall);
        let count = current.0.saturating_sub(cursor.0);
        if count <= 0 {
            return;
        }
        if self.overdue.is_none() {
            self.overdue = Some(self.due(now));
        }
        if !(cause == Cause::BackOff && planted::has(Bug::SilentBackOff)) {
            self.miss(cursor, count, cause, now, out);
        }
        self.cursor = Some(current);
        self.skip = self.skip.saturating_sub(count).max(0);
    }

    /// The wall clock has jumped.
    pub(super) fn clock_stepped(&mut self, now: Now, out: &mut Out) {
        self.jump(Cause::ClockStepped, now, out);
    }

    fn jump(&mut self, cause: Cause, now: Now, out: &mut Out) {
        self.skips.end_course(self.cursor);
        let before = self.cursor;
        self.pass_over(cause, now, out);
        if let Some((first, end)) = before.zip(self.cursor).filter(|_| !self.task.paused) {
            self.skips.add(first, end);
        }
        let again = self.task.grid.first_from(now.wall);
        if self.cursor.is_some_and(|cursor| cursor > again) {
            self.flush(out);
            // What an earlier step had skipped and time has gone over since: nobody believed a clock far ahead.
            for (first, count) in self.skips.before(again) {
                self.miss(first, count, Cause::ClockStepped, now, out);
            }
            self.cursor = Some(again);
        }
        self.skips.begin_course(self.cursor);
        self.overdue = None;
    }

    /// The wall clock was set: those that passed without one are missed, whether or not something was read.
    pub(super) fn clock_set(&mut self, now: Now, out: &mut Out) {
        if self.cursor.is_none() {
            self.cursor = Some(self.task.grid.first_from(now.instant_of(self.begun)));
        }
        self.jump(Cause::ClockNotSet, now, out);
    }

    /// The wall clock is no longer set: the next poll comes at its interval.
    pub(super) fn clock_unset(&mut self, now: Now) {
        self.unset_due = self.due(Now { wall_set: true, ..now }).clamp(
            boot(now),
            boot(now).saturating_add(self.interval().saturating_mul(self.skip.saturating_add(1))),
        );
        self.overdue = None;
    }

    pub(super) fn stop(&mut self, absent: bool, now: Now, out: &mut Out) {
        let open =
            self.cursor.filter(|_| now.wall_set).filter(|cursor| self.task.grid.at(*cursor) <= now.wall);
        if let Some(slot) = open {
            self.miss(slot, 1, self.cause(absent, Cause::Stopped), now, out);
            self.cursor = Some(slot.plus(1));
        }
        self.flush(out);
    }

    fn miss(&mut self, first: Slot, count: i64, cause: Cause, now: Now, out: &mut Out) {
        if let Some(run) = &mut self.run
            && run.cause == cause
            && run.first.plus(run.count) == first
        {
            run.count = run.count.saturating_add(count);
            return;
        }
        self.flush(out);
        self.run = Some(Run { first, count, cause, opened: boot(now) });
    }

    pub(super) fn flush_if_old(&mut self, now: Now, out: &mut Out) {
        if self.run.is_some_and(|run| boot(now).saturating_sub(run.opened) >= RUN_AGE_MS_MAX) {
            self.flush(out);
        }
    }

    /// Passes on the open run of misses, and how far the account is complete with it.
    pub(super) fn flush(&mut self, out: &mut Out) {
        let Some(run) = self.run.take() else { return };
        let end = run.first.plus(run.count);
        let mut first = run.first;
        while first < end {
            let count = u32::try_from(end.0.saturating_sub(first.0)).unwrap_or(u32::MAX);
            out.push_back(BusEvent::Missed(Misses {
                device: self.task.device,
                first,
                count,
                cause: run.cause,
            }));
            first = first.plus(i64::from(count));
        }
        out.push_back(BusEvent::Through { device: self.task.device, slot: end.plus(-1) });
    }

    fn tell_through(&self, out: &mut Out) {
        if let Some(cursor) = self.cursor {
            out.push_back(BusEvent::Through { device: self.task.device, slot: cursor.plus(-1) });
        }
    }

    pub(super) fn pause(&mut self, paused: bool, out: &mut Out) {
        self.flush(out);
        self.task.paused = paused && !planted::has(Bug::PolledOn);
        self.tell_pause(out);
    }

    pub(super) fn tell_pause(&mut self, out: &mut Out) {
        if self.task.paused {
            self.tell(DeviceCondition::Paused, None, out);
        }
    }

    fn tell(&mut self, condition: DeviceCondition, last_error: Option<Cause>, out: &mut Out) {
        let condition = if self.task.paused { DeviceCondition::Paused } else { condition };
        if self.told != Some((condition, last_error)) {
            self.told = Some((condition, last_error));
            out.push_back(BusEvent::Device { device: self.task.device, condition, last_error });
        }
    }
}

/// Whether a poll that ended so still shows a living device. A gateway's "no path" and "target did not respond"
/// (Modbus Application Protocol V1.1b3, section 7, codes 0A and 0B) speak of a dead one.
fn is_alive(cause: Cause) -> bool {
    matches!(cause, Cause::Refused(code) if !matches!(code, ExceptionCode(0x0A | 0x0B)))
}
