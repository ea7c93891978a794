//! Whether a gap has its true cause: whatever it names was done to that agent, at a time that fits the slot.

use std::collections::BTreeSet;

use gapless_common::id::{DeviceIndex, Epoch};
use gapless_common::quality::Cause;
use gapless_common::reading::{Acquired, Record};
use gapless_common::time::{Slot, Timestamp};

use super::clock::{BEGAN_MS, MS_NS, signed, truth};
use super::judge::{Case, Findings};
use super::oracle::{AnswerKey, Known, Life, Stop};

/// Slots of a gap that are looked at one by one; of a longer one so many, evenly spread.
const SLOTS_MAX: i64 = 2_000;
/// How long a run of misses may wait before it is told (see `schedule`), and a commit after it, in ms.
const UNTOLD_MS: i64 = 75_000;
/// How long what is wrong with a line has its consequences, in ms: the pause before it is opened again, the attempts to do so,
/// and a poll that ends after its slot.
const AFTER_TROUBLE_MS: i64 = 15_000;
/// A clock that is ahead by more than this is not believed in what it declares, in ms.
const AHEAD_MAX_MS: i64 = 86_400_000;
/// A clock that drifts is off by one ms in so many, at most.
pub(super) const DRIFT_ONE_IN: i64 = 5_000;

impl Case<'_> {
    /// Each slot of a gap has the cause that is told.
    pub(super) fn check_cause(
        &self,
        index: DeviceIndex,
        known: &Known,
        (first, last, cause): (i64, i64, Cause),
        findings: &mut Findings,
    ) {
        let step = ((last - first) / SLOTS_MAX).max(1);
        let mut slot = first;
        while slot <= last {
            if !self.is_true(index, known, slot, cause) {
                let seen: BTreeSet<_> = self.oracle.missed_causes(self.no, index, slot);
                let what = format!(
                    "{}: slot {slot} ({}) of the gap {first}..={last} has the cause {cause:?}; its bus said {seen:?}",
                    known.name,
                    known.grid.at(Slot(slot))
                );
                return findings.push(("true causes", what));
            }
            slot += step;
        }
    }

    /// Whether this is why the slot has no reading.
    fn is_true(&self, index: DeviceIndex, known: &Known, slot: i64, cause: Cause) -> bool {
        let (history, at) = (self.history(), known.grid.at(Slot(slot)));
        let interval_ms = known.open_ms;
        match cause {
            Cause::Unexplained | Cause::Unreachable | Cause::Parked => false,
            // Its bus does not poll it then; that it was due still is known to the agent alone.
            Cause::Paused => self.was_paused_in(index, known, slot),
            // A bus that was told to stop says so; whether its process came to its own end is another matter.
            Cause::Stopped => {
                self.was_down(at, interval_ms, &[Stop::Clean]) || self.bus_said(index, slot, cause)
            }
            // An agent whose disk had failed when it was stopped could leave no goodbye there.
            Cause::Crashed => {
                self.was_down(at, interval_ms, &[Stop::Killed])
                    || self.was_stopped_mute(at, interval_ms)
                    || self.was_refused(index, slot, at, &[Stop::Killed])
            }
            // Killed before it was switched off, or switched off while it was stopped.
            Cause::PowerOff => {
                self.was_down(at, interval_ms, &[Stop::PowerCut, Stop::Killed])
                    || self.was_stopped_mute(at, interval_ms)
                    || self.was_refused(index, slot, at, &[Stop::PowerCut, Stop::Killed])
            }
            Cause::DiskFailed => self.had_failed(at, interval_ms),
            Cause::BudgetFull => {
                let is_so = |place| self.log.is_lost_by(cause, place) || self.is_forgotten(place);
                self.was_lost(cause, at, interval_ms)
                    || self.is_named(index, slot, at, is_so)
                    || self.was_forgotten_from_memory(index, slot)
            }
            Cause::Quarantined => {
                let is_so = |place| self.log.is_lost_by(cause, place) || self.log.is_cut_off(place);
                self.was_lost(cause, at, interval_ms) || self.is_named(index, slot, at, is_so)
            }
            Cause::StoreReplaced => {
                let was_emptied = self.log.was_emptied && self.is_found_after(&history.rot, at, interval_ms);
                was_emptied || self.was_before_another_card(at, interval_ms)
            }
            Cause::Overrun => self.bus_said(index, slot, cause) && self.was_held_up(known, at),
            // What kept a device from its poll for long began with the line, too.
            Cause::BackOff => self.bus_said(index, slot, cause) && !self.has_good_lines,
            Cause::NotConnected | Cause::NoAnswer | Cause::Corrupt | Cause::Refused(_) => {
                self.bus_said(index, slot, cause) && self.had_trouble(known, at)
            }
            Cause::ClockStepped => {
                self.bus_said(index, slot, cause) || self.began_ahead((index, known), slot, at)
            }
            told => self.bus_said(index, slot, told),
        }
    }

    /// Whether an agent that was there by then had begun by a clock far ahead, and had read nothing of the device since.
    fn began_ahead(&self, (index, known): (DeviceIndex, &Known), slot: i64, at: Timestamp) -> bool {
        let range = (self.no, index, 0, i64::MIN)..=(self.no, index, u8::MAX, i64::MAX);
        self.history().lives.iter().any(|life| {
            let began = truth(life.began.0);
            let since = known.grid.slot_at(began).0;
            let mut read = self.oracle.issued.range::<AnswerKey, _>(range.clone());
            let is_since = |of: Slot| (since..=slot).contains(&of.0);
            began <= at
                && life.began.1 > at.plus_ms(AHEAD_MAX_MS)
                && !read.any(|(_, issued)| matches!(issued.acquired, Acquired::InSlot(of) if is_since(of)))
        })
    }

    /// Whether what was read of the slot found no room, in a process that ended so: it could not say that either.
    fn was_refused(&self, index: DeviceIndex, slot: i64, at: Timestamp, ends: &[Stop]) -> bool {
        self.history().lives.iter().any(|life| life.ended_as(ends).is_some())
            && self.is_named(index, slot, at, |place| self.log.refused.contains_key(&place))
    }

    fn bus_said(&self, index: DeviceIndex, slot: i64, cause: Cause) -> bool {
        self.oracle.missed_causes(self.no, index, slot).contains(&cause)
    }

    /// Whether something was wrong with the line or a device on it while the slot was due, or so shortly before that its bus
    /// could not be opened again by then.
    fn had_trouble(&self, known: &Known, at: Timestamp) -> bool {
        let at_ms = at.0 - BEGAN_MS;
        let slack_ms = AFTER_TROUBLE_MS + at_ms.max(0) / DRIFT_ONE_IN;
        let ns = |ms: i64| u64::try_from(ms).unwrap_or(0) * MS_NS;
        let (from, to) = (at_ms - slack_ms, at_ms + known.grid.interval.as_ms() + slack_ms);
        // A bus that waits for room in the queue finds out later what had happened to its line, and waits again with that.
        let blocked = self.history().blocked.iter().rev().filter(|(bus, ..)| *bus == known.bus);
        let from = blocked.fold(from, |from, &(_, began, ended)| {
            let is_in = signed(began) <= to && i64::try_from(ended).is_ok_and(|ended| ended >= from);
            if is_in { from.min(signed(began) - slack_ms) } else { from }
        });
        self.history().has_odd_clock || self.grounds[known.bus].line.had_trouble(ns(from), ns(to))
    }

    /// Whether something kept the bus from its poll in the slot: on lines that are always good only a loop that stood still,
    /// before it had started its buses or until there was room in its queue again.
    fn was_held_up(&self, known: &Known, at: Timestamp) -> bool {
        let history = self.history();
        if !self.has_good_lines || history.has_odd_clock {
            return true;
        }
        let at_ms = at.0 - BEGAN_MS;
        let slack_ms = 1 + at_ms.max(0) / DRIFT_ONE_IN;
        let is_in = |from_ms: u64, to_ms: u64| {
            let ends_ms = at_ms + known.grid.interval.as_ms() + slack_ms;
            signed(from_ms) <= ends_ms && i64::try_from(to_ms).unwrap_or(i64::MAX) >= at_ms - slack_ms
        };
        let starts = |from_ms: u64| history.lives.iter().any(|life| life.began.0 == from_ms);
        history.blocked.iter().any(|&(bus, from_ms, to_ms)| bus == known.bus && is_in(from_ms, to_ms))
            || history.still.iter().any(|&(from_ms, to_ms)| starts(from_ms) && is_in(from_ms, to_ms))
    }

    /// Whether the agent kept what it read of the slot in memory alone, as its disk had failed before that was to be durable;
    /// or a loss says so of it.
    fn had_failed(&self, at: Timestamp, interval_ms: i64) -> bool {
        let history = self.history();
        let (at_ms, slack_ms) = self.run_ms(at, interval_ms);
        let (at_ms, slack_ms) = (u64::try_from(at_ms).unwrap_or(0), slack_ms.unsigned_abs());
        let durable_ms = history.turned(at_ms, slack_ms);
        let was_then = |&(from_ms, until_ms): &(u64, u64)| {
            durable_ms >= from_ms && at_ms <= until_ms.saturating_add(slack_ms)
        };
        let is_so =
            self.was_lost(Cause::DiskFailed, at, interval_ms) || history.in_memory.iter().any(was_then);
        is_so || history.has_odd_clock && !history.in_memory.is_empty()
    }

    /// Whether the outbox named a loss of this cause in which the slot is.
    fn was_lost(&self, cause: Cause, at: Timestamp, interval_ms: i64) -> bool {
        let mut losses = self.log.losses.iter().filter(|loss| loss.cause == cause);
        losses.any(|loss| {
            let from = loss.from.plus_ms(-interval_ms);
            self.history().has_odd_clock || (from..=loss.to.plus_ms(interval_ms)).contains(&at)
        })
    }

    /// Whether a record speaks of the slot that is at a place of which this is so. A downtime speaks of the slots that it
    /// holds, and of those before it that were not written down when the agent ended.
    fn is_named(
        &self,
        index: DeviceIndex,
        slot: i64,
        at: Timestamp,
        is_so: impl Fn((Epoch, u64)) -> bool,
    ) -> bool {
        let speaks = |record: &Record| match record {
            Record::Readings(readings) if readings.device == index => match readings.acquired {
                Acquired::InSlot(of) | Acquired::Recorded(of) => of.0 == slot,
                Acquired::SinceBoot(_) => self.history().has_odd_clock,
            },
            Record::Misses(m) if m.device == index => {
                (m.first.0..m.first.0.saturating_add(i64::from(m.count))).contains(&slot)
            }
            Record::Downtime(downtime) => (downtime.from.plus_ms(-UNTOLD_MS)..downtime.to).contains(&at),
            _ => false,
        };
        let in_doubt = self.log.in_doubt.iter().map(|(place, record)| (place, record));
        let mut all = self.log.written().chain(in_doubt).filter(|(_, record)| speaks(record));
        all.any(|(place, _)| is_so(*place))
    }

    /// Whether a database that was put back had the record, and the outbox has it no more: it was acknowledged, and its
    /// place in the archive is taken.
    pub(super) fn is_forgotten(&self, (epoch, seq): (Epoch, u64)) -> bool {
        let was_there = self.log.committed.get(&epoch).is_some_and(|ever| ever.contains(seq));
        !self.oracle.rolled_back.is_empty() && was_there && self.log.is_gone(epoch, seq)
    }

    /// Whether an answer of the slot was in memory alone, a database that may have had it was put back, and the archive has let go
    /// of a record that tells of such a loss: then nobody can say more than that something is gone.
    fn was_forgotten_from_memory(&self, index: DeviceIndex, slot: i64) -> bool {
        let range = (self.no, index, 0, i64::MIN)..=(self.no, index, u8::MAX, i64::MAX);
        let answers = self.oracle.issued.range::<AnswerKey, _>(range).map(|(_, issued)| issued);
        let mut of_slot = answers.filter(|issued| issued.acquired == Acquired::InSlot(Slot(slot)));
        let tells = |record: &Record| matches!(record, Record::Loss(loss) if loss.cause == Cause::DiskFailed);
        let mut told = self.log.kept.iter().filter(|(_, kept)| tells(&kept.record));
        of_slot.any(|issued| self.was_in_memory(issued.told_ms) && self.was_put_back_after(issued.told_ms))
            && told.any(|(place, _)| self.is_forgotten(*place))
    }

    /// Whether the database was put back since.
    pub(super) fn was_put_back_after(&self, told_ms: u64) -> bool {
        self.oracle.rolled_back.iter().any(|at_ms| *at_ms > told_ms)
    }

    /// Whether what was told then was in memory alone, as the disk failed before it was to have it.
    pub(super) fn was_in_memory(&self, told_ms: u64) -> bool {
        let durable_ms = self.history().turned(told_ms, self.window_ms);
        self.history().in_memory.iter().any(|span| durable_ms >= span.0 && told_ms <= span.1)
    }

    /// Whether the slot was over before the first start of which another card kept a record. Whoever finds an empty card
    /// and cannot write to it leaves nothing that tells when that was.
    fn was_before_another_card(&self, at: Timestamp, interval_ms: i64) -> bool {
        let history = self.history();
        let is_before = |card: u32| {
            let starts = self.log.kept.values().filter(|kept| kept.card > card);
            let began = starts.filter_map(|kept| match &kept.record {
                Record::Start(start) => Some(start.at),
                _ => None,
            });
            began.min().is_none_or(|began| at <= began.plus_ms(interval_ms))
        };
        (0..).zip(&history.replaced).any(|(card, _)| history.has_odd_clock || is_before(card))
    }

    /// Whether the slot was over before an agent found, at its next start, what was done to its disk at one of these
    /// instants of the run: later slots have no part in it.
    fn is_found_after(&self, done: &[u64], at: Timestamp, interval_ms: i64) -> bool {
        let history = self.history();
        let (at_ms, slack_ms) = self.run_ms(at, interval_ms);
        let found = |done: u64| history.lives.iter().map(|life| life.began.0).find(|began| *began > done);
        let was_before =
            |done: &u64| found(*done).is_none_or(|found_ms| at_ms <= signed(found_ms) + slack_ms);
        done.iter().any(|done| history.has_odd_clock || was_before(done))
    }

    /// The instant of the run at which a clock that only drifts says `at`, and how far off that may be: by the drift, by
    /// a slot, and by what was not written down yet.
    fn run_ms(&self, at: Timestamp, interval_ms: i64) -> (i64, i64) {
        let at_ms = at.0 - BEGAN_MS;
        let window_ms = signed(self.window_ms);
        (at_ms, interval_ms + UNTOLD_MS + window_ms + at_ms.max(0) / DRIFT_ONE_IN)
    }

    /// Whether an agent was stopped while its disk had failed, or all was in memory, so that no goodbye of it was kept.
    fn was_stopped_mute(&self, at: Timestamp, interval_ms: i64) -> bool {
        let is_mute = |life: &&Life| {
            let ended = life.ended.filter(|(.., how)| *how == Stop::Clean);
            let history = self.history();
            let failed = |ended_ms: u64| {
                let in_memory = history.in_memory.iter().any(|(_, until_ms)| *until_ms == ended_ms);
                // It ends once its loop goes on after the goodbye.
                let fault = |f: &(u64, u64)| (f.0..=history.turned(f.1, 1)).contains(&ended_ms);
                in_memory || history.disk_faults.iter().any(fault)
            };
            ended.is_some_and(|(ended_ms, ..)| failed(ended_ms))
        };
        let mute: Vec<u64> =
            self.history().lives.iter().filter(is_mute).map(|life| life.generation).collect();
        self.was_down_after(at, interval_ms, &[Stop::Clean], |life| mute.contains(&life.generation))
    }

    /// Whether no agent could have read the slot, or written down what became of it, for one of these ends.
    fn was_down(&self, at: Timestamp, interval_ms: i64, ends: &[Stop]) -> bool {
        self.was_down_after(at, interval_ms, ends, |_| true)
    }

    /// Whether an outbox has kept the begin of this life.
    fn is_written(&self, life: &Life) -> bool {
        let is_its = |record: &Record| matches!(record, Record::Start(start) if start.at == life.began.1);
        self.log.kept.values().any(|kept| is_its(&kept.record))
    }

    fn was_down_after(
        &self,
        at: Timestamp,
        interval_ms: i64,
        ends: &[Stop],
        which: impl Fn(&Life) -> bool,
    ) -> bool {
        let history = self.history();
        if history.has_odd_clock || !history.replaced.is_empty() {
            let ended_so = |life: &&Life| life.ended_as(ends).is_some();
            return history.lives.iter().filter(ended_so).any(&which);
        }
        // Lives of which nothing became durable end no downtime: it goes on to the next.
        let until = |generation: u64| {
            let mut later = history.lives.iter().filter(|life| life.generation > generation);
            later.find(|life| self.is_written(life)).map_or(Timestamp(i64::MAX), |life| life.began.1)
        };
        history.lives.iter().filter(|life| which(life)).any(|life| {
            let Some((ended_ms, ended)) = life.ended_as(ends) else { return false };
            // What was kept in memory because the disk had failed goes with the process.
            let failed = history.in_memory.iter().filter(|span| span.0 <= ended_ms && ended_ms <= span.1);
            // So does what was written before and was to be durable by the time at which it failed.
            let since = |span: &(u64, u64)| history.turned_since(span.0, self.window_ms);
            let in_memory_ms = failed.map(|span| ended_ms - since(span)).max().unwrap_or(0);
            // What waited for a loop that stood still is not written down, and what came while it waited.
            let since_ms = history.turned_since(ended_ms, UNTOLD_MS.unsigned_abs());
            let ended = ended.plus_ms(-signed(in_memory_ms + history.still_ms(since_ms, ended_ms)));
            (ended.plus_ms(-UNTOLD_MS - interval_ms)..until(life.generation).plus_ms(interval_ms))
                .contains(&at)
        })
    }
}
