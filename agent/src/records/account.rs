//! Which slots of a table are settled: received, or told as missed. A record comes when it comes, so the slots between
//! may be open for long; what is declared complete stops at the first open one. Knows no records and no link.

use std::collections::VecDeque;

use gapless_common::id::DeviceIndex;
use gapless_common::quality::Cause;
use gapless_common::ranges::RangeSet;
use gapless_common::reading::Misses;
use gapless_common::time::{Slot, SlotGrid};

use crate::clock::Now;
use crate::event::BusEvent;

/// Events in the order in which they are to be told.
pub type Out = VecDeque<BusEvent>;

/// A run of misses is told at the latest after this time, in ms.
const RUN_AGE_MS_MAX: u64 = 60_000;

/// Settled ranges that are remembered; beyond it the oldest are forgotten, and at worst told as missed once more, which
/// no reading is lost by.
const SETTLED_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Run {
    first: Slot,
    count: i64,
    cause: Cause,
    opened_ms: u64,
}

/// The slots of one table.
#[derive(Debug)]
pub struct Account {
    device: DeviceIndex,
    grid: SlotGrid,
    begun: Now,
    /// The first slot that is the agent's to account for; `None` until the wall clock is set.
    since: Option<Slot>,
    /// The first slot that is open.
    next: Slot,
    settled: RangeSet,
    run: Option<Run>,
    told: Option<Slot>,
}

impl Account {
    /// Slots from `begun` on are to be accounted for, once that look at the clocks is an instant.
    #[must_use]
    pub fn new(device: DeviceIndex, grid: SlotGrid, begun: Now) -> Self {
        Self {
            device,
            grid,
            begun,
            since: None,
            next: Slot(0),
            settled: RangeSet::new(),
            run: None,
            told: None,
        }
    }

    /// To be called before anything is settled: from now on the wall clock names slots.
    pub fn begin(&mut self, now: Now) {
        if self.since.is_none() && now.wall_set {
            let first = self.grid.first_from(now.instant_of(self.begun));
            (self.since, self.next) = (Some(first), first);
            self.advance();
        }
    }

    /// The wall clock was set back: slots come again.
    pub fn step_back(&mut self, now: Now, out: &mut Out) {
        let again = self.grid.first_from(now.wall);
        if let Some(since) = self.since.filter(|_| again < self.next) {
            self.flush(out);
            // What comes again is accounted for, and where the clock was ahead at the begin, before that, too.
            (self.since, self.next) = (Some(since.min(again)), again);
            self.advance();
        }
    }

    /// A record of this slot is about to be told.
    pub fn received(&mut self, slot: Slot, out: &mut Out) {
        self.flush(out);
        self.insert(slot, slot);
        self.advance();
    }

    /// The logger will never have a record of these slots.
    pub fn gone(&mut self, (first, last): (Slot, Slot), cause: Cause, now: Now, out: &mut Out) {
        let Some(since) = self.since.filter(|_| now.wall_set) else { return };
        // Nobody believes a miss of the future: what is still to come is settled when its time is over.
        let (first, last) = (first.max(since), last.min(self.grid.slot_at(now.wall).plus(-1)));
        if first <= last {
            self.flush(out);
            self.tell(first, last.0 - first.0 + 1, cause, out);
            self.insert(first, last);
            self.advance();
        }
    }

    /// What is open before `end` is missed.
    pub fn settle(&mut self, end: Slot, cause: Cause, now: Now, out: &mut Out) {
        if self.since.is_none() || end <= self.next {
            return;
        }
        let (Ok(next), Ok(last)) = (u64::try_from(self.next.0), u64::try_from(end.0 - 1)) else { return };
        let open: Vec<(u64, u64)> = self.settled.holes(next, last).collect();
        for (first, last) in open {
            let (Ok(first), Ok(count)) = (i64::try_from(first), i64::try_from(last - first + 1)) else {
                continue;
            };
            self.miss(Slot(first), count, cause, now, out);
        }
        self.next = end;
        self.advance();
    }

    /// Settles the slots whose time is over: all up to now where the device is paused or `failing` says why nothing comes,
    /// otherwise those before `overdue`, of which the device has no record.
    pub fn pass(
        &mut self,
        is_paused: bool,
        failing: Option<Cause>,
        overdue: Option<Slot>,
        now: Now,
        out: &mut Out,
    ) {
        if !now.wall_set {
            return;
        }
        let current = self.grid.slot_at(now.wall);
        match (is_paused, failing, overdue) {
            (true, ..) => self.settle(current, Cause::Paused, now, out),
            (_, Some(cause), _) => self.settle(current, cause, now, out),
            (.., Some(overdue)) => self.settle(overdue, Cause::NotRecorded, now, out),
            (.., None) => {}
        }
        self.flush_if_due(now, out);
    }

    /// Settles all that is open: the agent ends.
    pub fn close(&mut self, is_paused: bool, failing: Option<Cause>, now: Now, out: &mut Out) {
        if now.wall_set {
            let cause = if is_paused { Cause::Paused } else { failing.unwrap_or(Cause::Stopped) };
            self.settle(self.grid.slot_at(now.wall).plus(1), cause, now, out);
        }
        self.flush(out);
    }

    /// The first slot that is open, once the wall clock is set.
    #[must_use]
    pub fn open_from(&self) -> Option<Slot> {
        self.since.map(|_| self.next)
    }

    /// Tells the run of misses in hand, and how far the account is complete.
    pub fn flush(&mut self, out: &mut Out) {
        if let Some(run) = self.run.take() {
            self.tell(run.first, run.count, run.cause, out);
        }
        self.declare(out);
    }

    /// The same, where the run is old enough, or there is none.
    pub fn flush_if_due(&mut self, now: Now, out: &mut Out) {
        if self.run.is_none_or(|run| now.boot_ms.saturating_sub(run.opened_ms) >= RUN_AGE_MS_MAX) {
            self.flush(out);
        }
    }

    fn declare(&mut self, out: &mut Out) {
        let through = self.next.plus(-1);
        if self.since.is_some_and(|since| through >= since) && self.told != Some(through) {
            self.told = Some(through);
            out.push_back(BusEvent::Through { device: self.device, slot: through });
        }
    }

    fn miss(&mut self, first: Slot, count: i64, cause: Cause, now: Now, out: &mut Out) {
        if let Some(run) = &mut self.run
            && run.cause == cause
            && run.first.plus(run.count) == first
        {
            run.count = run.count.saturating_add(count);
            return;
        }
        if let Some(run) = self.run.take() {
            self.tell(run.first, run.count, run.cause, out);
        }
        self.run = Some(Run { first, count, cause, opened_ms: now.boot_ms });
    }

    fn tell(&self, first: Slot, count: i64, cause: Cause, out: &mut Out) {
        let end = first.plus(count);
        let mut first = first;
        while first < end {
            let count = u32::try_from(end.0.saturating_sub(first.0)).unwrap_or(u32::MAX);
            out.push_back(BusEvent::Missed(Misses { device: self.device, first, count, cause }));
            first = first.plus(i64::from(count));
        }
    }

    fn insert(&mut self, first: Slot, last: Slot) {
        if let (Ok(first), Ok(last)) = (u64::try_from(first.0), u64::try_from(last.0)) {
            self.settled.insert(first, last);
        }
        let oldest = self.settled.iter().next().filter(|_| self.settled.len() > SETTLED_MAX);
        if let Some((first, last)) = oldest {
            self.settled.remove(first, last);
        }
    }

    fn advance(&mut self) {
        if let (true, Ok(next)) = (self.since.is_some(), u64::try_from(self.next.0)) {
            self.next =
                Slot(i64::try_from(self.settled.watermark(next).saturating_add(1)).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gapless_common::time::{Interval, Timestamp};

    fn at(second: i64, wall_set: bool) -> Now {
        Now { boot_ms: second.unsigned_abs() * 1_000, wall: Timestamp(second * 1_000), wall_set }
    }

    fn account(wall_set: bool) -> Account {
        let grid = SlotGrid::every(Interval::from_ms(1_000).unwrap());
        let mut account = Account::new(DeviceIndex(0), grid, at(100, wall_set));
        account.begin(at(100, wall_set));
        account
    }

    fn told(out: &mut Out) -> String {
        let each = out.drain(..).map(|event| match event {
            BusEvent::Missed(run) => format!("{}+{} {}", run.first.0, run.count, run.cause.slug()),
            BusEvent::Through { slot, .. } => format!("through {}", slot.0),
            other => panic!("{other:?}"),
        });
        each.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_is_declared_stops_at_the_first_open_slot() {
        let (mut account, mut out) = (account(true), Out::new());
        for slot in [100, 101, 104] {
            account.received(Slot(slot), &mut out);
        }
        account.flush(&mut out);
        assert_eq!(told(&mut out), "through 100, through 101");
        account.settle(Slot(106), Cause::NotConnected, at(106, true), &mut out);
        account.settle(Slot(107), Cause::NotConnected, at(107, true), &mut out);
        account.flush_if_due(at(107, true), &mut out);
        assert_eq!(told(&mut out), "102+2 not_connected");
        account.received(Slot(107), &mut out);
        assert_eq!(told(&mut out), "105+2 not_connected, through 106");
        account.flush(&mut out);
        assert_eq!(told(&mut out), "through 107");
    }

    #[test]
    fn what_is_gone_is_told_and_nothing_of_the_future() {
        let (mut account, mut out) = (account(true), Out::new());
        account.gone((Slot(90), Slot(102)), Cause::Overwritten, at(105, true), &mut out);
        account.gone((Slot(104), Slot(200)), Cause::NotRecorded, at(106, true), &mut out);
        account.flush(&mut out);
        assert_eq!(told(&mut out), "100+3 overwritten, through 102, 104+2 not_recorded");
        account.settle(Slot(104), Cause::NoAnswer, at(106, true), &mut out);
        account.flush(&mut out);
        assert_eq!(told(&mut out), "103+1 no_answer, through 105");
    }

    #[test]
    fn without_a_clock_nothing_is_missed_and_what_comes_counts_all_the_same() {
        let (mut account, mut out) = (account(false), Out::new());
        account.received(Slot(1_001), &mut out);
        account.gone((Slot(0), Slot(5)), Cause::NotRecorded, at(3, false), &mut out);
        account.settle(Slot(200), Cause::NoAnswer, at(3, false), &mut out);
        account.flush(&mut out);
        assert_eq!(told(&mut out), "");
        // Set two seconds after the begin: the slots since then are owed.
        let now = Now { boot_ms: 102_000, wall: Timestamp(1_002_000), wall_set: true };
        account.begin(now);
        account.settle(Slot(1_002), Cause::NoAnswer, now, &mut out);
        account.flush(&mut out);
        assert_eq!(told(&mut out), "1000+1 no_answer, through 1001");
        account.step_back(Now { wall: Timestamp(1_000_500), ..now }, &mut out);
        account.settle(Slot(1_002), Cause::NoAnswer, now, &mut out);
        account.flush(&mut out);
        assert_eq!(told(&mut out), "");
    }

    /// An agent that begins a quarter of an hour ahead.
    #[test]
    fn a_clock_that_was_ahead_at_the_begin_puts_off_nothing_once_it_is_right() {
        let (mut account, mut out) =
            (Account::new(DeviceIndex(0), account(true).grid, at(1_000, true)), Out::new());
        account.begin(at(1_000, true));
        account.step_back(at(102, true), &mut out);
        account.received(Slot(102), &mut out);
        account.gone((Slot(90), Slot(103)), Cause::Overwritten, at(105, true), &mut out);
        account.flush(&mut out);
        assert_eq!(told(&mut out), "through 102, 102+2 overwritten, through 103");
    }
}
