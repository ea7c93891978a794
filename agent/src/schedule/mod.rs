//! Decides what a bus does next, and accounts for every slot of its devices. Pure: reads no clock, knows no port.
//!
//! Contract: whenever the bus is free call [`Schedule::next`] and do the [`Step`] it names; report a connection
//! attempt by [`Schedule::connected`] or [`Schedule::connect_failed`], a poll by [`Schedule::answered`] *before*
//! each answer is passed on and by [`Schedule::finished`] at its end; after every call pass on what
//! [`Schedule::drain`] yields, in order; end with [`Schedule::stop`].
//!
//! # Order
//! Earliest deadline first, where a device's deadline is the end of its current slot. In overload, that is once
//! a slot has ended before its poll began, who has waited longest goes first, so nobody starves and a device of a
//! long interval does not pay for one that asks too much. A poll is always for the slot that is current when it
//! starts; slots that passed before are misses.
//!
//! # Devices that do not answer
//! After [`FAILURES_MAX`] failed polls in a row a device is set aside: its next probe is 2, 4, 8 … slots away,
//! never more than [`PROBE_DISTANCE_MS_MAX`] (or one slot, where slots are further apart). A probe is one request
//! without retry. It goes out when its time-out fits before the next slot of any healthy device; once it has
//! waited for an interval, when every healthy device can still be polled within its slot; and at the latest when
//! it has waited for [`FORCED_SHARE`] times its time-out, which bounds what probes take from the neighbours to 1 %.
//!
//! # Clocks
//! Slots lie on the wall clock, waiting is done on the boot clock, and each call compares the two:
//! - the clock steps forward: the slots skipped are one run of misses ([`Cause::ClockStepped`]), the slot that is
//!   current then is polled;
//! - it steps back: slots that come again are polled again, and both readings are kept; those that an earlier step
//!   had skipped and that lie in the past now are told as missed once more, by a clock that may be right at last;
//! - it is not set: polls go on at the interval of the boot clock, without slots and without misses; once it is set,
//!   the slots between are misses ([`Cause::ClockNotSet`]), from the agent's start on.
//!
//! A difference below [`STEP_MS_MIN`] is drift, and only moves what is next.

mod entry;
mod fit;
mod skips;

use std::collections::VecDeque;

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::quality::Cause;
use gapless_common::reading::Acquired;
use gapless_common::time::{Slot, SlotGrid};

use crate::clock::Now;
use crate::event::{BusEvent, LinkState};
use entry::Entry;

/// Failed polls in a row after which a device is set aside.
pub const FAILURES_MAX: u32 = 3;
/// Longest distance of two probes, unless the device's interval is longer.
pub const PROBE_DISTANCE_MS_MAX: i64 = 300_000;
/// A probe that would delay its neighbours past their slots waits this many times its own length: 1 % of the time.
pub const FORCED_SHARE: i64 = 100;
/// A change between wall and boot clock from which on it is a step.
pub const STEP_MS_MIN: i64 = 250;
/// A run of misses is passed on at the latest after this time.
pub const RUN_AGE_MS_MAX: i64 = 60_000;
/// Longest wait, so that a clock step is noticed soon.
pub const WAIT_MS_MAX: i64 = 1_000;
/// First and longest wait between attempts to open the port or connection.
pub const RECONNECT_MS: (i64, i64) = (500, 10_000);

/// One device as the schedule sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Which.
    pub device: DeviceIndex,
    /// When it is due.
    pub grid: SlotGrid,
    /// Configuration says not to poll it.
    pub paused: bool,
    /// How long an answered poll takes, at first; later polls are measured.
    pub poll_ms: u32,
    /// How long one request without answer takes: transmission, time-out and settling.
    pub probe_ms: u32,
}

/// What the bus does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Open the port or connection.
    Connect,
    /// Poll a device.
    Poll(Poll),
    /// Nothing until this instant of the boot clock, or until a command comes.
    Wait {
        /// CLOCK_BOOTTIME in milliseconds.
        until_boot_ms: u64,
    },
}

/// One poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// Who.
    pub device: DeviceIndex,
    /// The slot it is for; `None` where the wall clock is not set.
    pub slot: Option<Slot>,
    /// One request, no retry.
    pub probe: bool,
}

impl Poll {
    /// What an answer of this poll that was complete at `now` carries.
    #[must_use]
    pub fn acquired(&self, now: Now) -> Acquired {
        self.slot.map_or(Acquired::SinceBoot(now.boot_ms), Acquired::InSlot)
    }
}

/// How a poll ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// At least one of its requests was answered.
    Answered,
    /// None was. [`Cause::NotConnected`] means that the link is gone: [`Schedule::link_lost`] follows, and the slot
    /// is polled again if the link is back before it ends.
    Missed(Cause),
    /// Its answers were no longer awaited, as the bus is to stop: [`Schedule::stop`] follows, and says so of its slot.
    GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Nobody has tried to open it: a slot that ends before is the agent's delay.
    Untried,
    Open {
        answered: bool,
    },
    Absent {
        at: i64,
    },
}

/// The schedule of one bus.
#[derive(Debug)]
pub struct Schedule {
    bus: BusId,
    entries: Vec<Entry>,
    link: Link,
    attempts: u32,
    /// Wall clock minus boot clock at the last call; `None` while the wall clock is not set.
    offset: Option<i64>,
    forced_after: i64,
    out: VecDeque<BusEvent>,
}

pub(crate) fn boot(now: Now) -> i64 {
    i64::try_from(now.boot_ms).unwrap_or(i64::MAX)
}

impl Schedule {
    /// The schedule of `tasks`. Slots from `started` on are its to account for, once that look at the clocks is an
    /// instant.
    #[must_use]
    pub fn new(bus: BusId, tasks: &[Task], started: Now, now: Now) -> Self {
        let entries = tasks.iter().map(|task| Entry::new(*task, started, now)).collect();
        let mut new = Self {
            bus,
            entries,
            link: Link::Untried,
            attempts: 0,
            offset: now.wall_set.then(|| now.wall.0.saturating_sub(boot(now))),
            forced_after: i64::MIN,
            out: VecDeque::new(),
        };
        for entry in &mut new.entries {
            entry.tell_pause(&mut new.out);
        }
        new
    }

    /// What to do now.
    pub fn next(&mut self, now: Now) -> Step {
        self.observe(now);
        match self.link {
            Link::Untried => Step::Connect,
            Link::Absent { at } if at <= boot(now) => Step::Connect,
            Link::Absent { at } => wait(at.min(self.wake(now)), now),
            Link::Open { .. } => match self.pick(now) {
                Some(index) => Step::Poll(self.start(index, now)),
                None => wait(self.wake(now), now),
            },
        }
    }

    /// The port is open, or the connection is up.
    pub fn connected(&mut self, now: Now) {
        self.observe(now);
        self.link = Link::Open { answered: false };
        self.out.push_back(BusEvent::Bus { bus: self.bus.clone(), link: LinkState::Open });
    }

    /// It could not be opened. Slots that ended while that was tried are missed for this reason.
    pub fn connect_failed(&mut self, now: Now, why: &str) {
        self.absent(now, why);
        self.observe(now);
    }

    /// It was closed by its other end, or the port is gone. Slots wait, and become misses when they end; those that
    /// ended while the poll in hand found out were not served for the same reason.
    pub fn link_lost(&mut self, now: Now, why: &str) {
        if let Link::Open { answered } = self.link {
            if answered {
                self.attempts = 0;
                self.link = Link::Absent { at: boot(now) };
                self.out.push_back(self.absence(why));
            } else {
                self.absent(now, why);
            }
        }
        self.observe(now);
    }

    /// An answer of the poll in hand is about to be passed on.
    pub fn answered(&mut self) {
        self.attempts = 0;
        if let Link::Open { answered } = &mut self.link {
            *answered = true;
        }
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.is_polled()) {
            entry.flush(&mut self.out);
        }
    }

    /// Whether another request of at most `cost_ms` may be sent for the poll in hand, after one that failed:
    /// never for a probe, and only if every device can still be polled within its slot.
    #[must_use]
    pub fn may_retry(&self, cost_ms: u32, now: Now) -> bool {
        let Some(index) = self.entries.iter().position(Entry::is_polled) else { return false };
        self.entries[index].may_retry(i64::from(cost_ms), now)
            && fit::all_in_time(&self.entries, index, i64::from(cost_ms), now)
    }

    /// Whether the port is open, or the connection up.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    /// Whether a request that is no poll, takes `cost_ms` and has waited for `waited_ms` may be sent now: where it ends
    /// before any healthy device is due and no probe is in its way; and at the latest when it has waited for
    /// [`FORCED_SHARE`] times its length, as a probe. Not to be asked with a poll in hand.
    pub fn has_room(&mut self, cost_ms: u32, waited_ms: u64, now: Now) -> bool {
        self.observe(now);
        if !self.is_open() || self.entries.iter().any(|entry| entry.asked) {
            return false;
        }
        let cost_ms = i64::from(cost_ms);
        let all = || self.entries.iter().enumerate();
        let has_probe = all().any(|(index, entry)| entry.is_probe_due(now) && self.probe_fits(index, now));
        if !has_probe && self.is_idle_for(cost_ms, now) {
            return true;
        }
        let share = cost_ms.saturating_mul(FORCED_SHARE);
        let is_forced =
            i64::try_from(waited_ms).unwrap_or(i64::MAX) >= share && boot(now) >= self.forced_after;
        if is_forced {
            self.forced_after = boot(now).saturating_add(share);
        }
        is_forced
    }

    fn is_idle_for(&self, cost_ms: i64, now: Now) -> bool {
        let end = boot(now).saturating_add(cost_ms);
        self.entries.iter().filter(|other| other.is_healthy()).all(|other| other.due(now) >= end)
    }

    /// The poll in hand has ended. Why the slots that ended during it were not served is said by what is called
    /// next: [`Schedule::link_lost`], or [`Schedule::next`].
    pub fn finished(&mut self, outcome: Outcome, now: Now) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.is_polled()) {
            entry.finish(outcome, now, &mut self.out);
        }
    }

    /// Polls `device` as soon as the bus is free, whether or not it is due, paused or set aside.
    pub fn poll_now(&mut self, device: DeviceIndex) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.task.device == device) {
            entry.asked = true;
        }
    }

    /// Polls a device no more, or again, as a command of the collector wants it; its slots that have ended are accounted for.
    pub fn pause(&mut self, (command, device): (u64, DeviceIndex), paused: bool, now: Now) {
        self.observe(now);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.task.device == device) {
            entry.pause(paused, &mut self.out);
            self.out.push_back(BusEvent::Paused { command, device, paused });
        }
    }

    /// Accounts for every slot up to now and passes on all runs. Not to be called with a poll in hand.
    pub fn stop(&mut self, now: Now) {
        self.observe(now);
        let absent = self.is_absent();
        for entry in &mut self.entries {
            entry.stop(absent, now, &mut self.out);
        }
    }

    /// The next event to pass on.
    pub fn drain(&mut self) -> Option<BusEvent> {
        self.out.pop_front()
    }

    /// Compares the clocks, and turns slots that have ended into misses.
    fn observe(&mut self, now: Now) {
        let offset = now.wall_set.then(|| now.wall.0.saturating_sub(boot(now)));
        let step = match (self.offset, offset) {
            (Some(old), Some(new)) => new.saturating_sub(old),
            _ => 0,
        };
        let absent = self.is_absent();
        for entry in &mut self.entries {
            match (self.offset, offset) {
                (None, Some(_)) => entry.clock_set(now, &mut self.out),
                (Some(_), None) => entry.clock_unset(now),
                (Some(_), Some(_)) if step.abs() >= STEP_MS_MIN => {
                    let unstepped = Now { wall: now.wall.plus_ms(step.saturating_neg()), ..now };
                    entry.lapse(absent, unstepped, &mut self.out);
                    entry.clock_stepped(now, &mut self.out);
                }
                _ => {}
            }
            entry.lapse(absent, now, &mut self.out);
            entry.flush_if_old(now, &mut self.out);
        }
        self.offset = offset;
    }

    const fn is_absent(&self) -> bool {
        matches!(self.link, Link::Absent { .. })
    }

    fn absent(&mut self, now: Now, why: &str) {
        let (first, longest) = RECONNECT_MS;
        let pause = (first << self.attempts.min(16)).min(longest);
        self.attempts = self.attempts.saturating_add(1);
        self.link = Link::Absent { at: boot(now).saturating_add(pause) };
        self.out.push_back(self.absence(why));
    }

    fn absence(&self, why: &str) -> BusEvent {
        BusEvent::Bus { bus: self.bus.clone(), link: LinkState::Absent(why.into()) }
    }

    fn start(&mut self, index: usize, now: Now) -> Poll {
        let probe_ms = self.entries[index].probe_ms();
        if self.entries[index].is_aside() && !fit::all_in_time(&self.entries, index, probe_ms, now) {
            self.forced_after = boot(now).saturating_add(probe_ms.saturating_mul(FORCED_SHARE));
        }
        self.entries[index].start(now)
    }

    fn pick(&self, now: Now) -> Option<usize> {
        let all = || self.entries.iter().enumerate();
        let overload = self.entries.iter().any(|entry| entry.is_healthy() && entry.is_overdue());
        all()
            .find(|(_, entry)| entry.asked)
            .or_else(|| longest(now, all().filter(|(_, entry)| self.is_forced(entry, now))))
            .or_else(|| {
                all().filter(|(_, entry)| entry.is_healthy() && entry.is_due(now)).min_by_key(|(_, entry)| {
                    if overload { entry.waiting_since(now) } else { entry.deadline(now) }
                })
            })
            .or_else(|| {
                longest(now, all().filter(|(i, entry)| entry.is_probe_due(now) && self.probe_fits(*i, now)))
            })
            .map(|(index, _)| index)
    }

    fn is_forced(&self, entry: &Entry, now: Now) -> bool {
        entry.is_probe_due(now)
            && boot(now) >= self.forced_after
            && entry.waited_ms(now) >= entry.probe_ms().saturating_mul(FORCED_SHARE)
    }

    fn probe_fits(&self, index: usize, now: Now) -> bool {
        let entry = &self.entries[index];
        self.is_idle_for(entry.probe_ms(), now)
            || (entry.waited_ms(now) >= entry.task.grid.interval.as_ms()
                && fit::all_in_time(&self.entries, index, entry.probe_ms(), now))
    }

    /// When something will be due next.
    fn wake(&self, now: Now) -> i64 {
        let dues = self.entries.iter().filter(|entry| !entry.task.paused).map(|entry| entry.due(now));
        dues.filter(|due| *due > boot(now)).min().unwrap_or(i64::MAX)
    }
}

/// The probe that has waited longest.
fn longest<'a>(now: Now, probes: impl Iterator<Item = (usize, &'a Entry)>) -> Option<(usize, &'a Entry)> {
    probes.max_by_key(|(_, entry)| entry.waited_ms(now))
}

/// A wait that ends at `until`, at the latest after [`WAIT_MS_MAX`], and never at once.
fn wait(until: i64, now: Now) -> Step {
    let until = until.clamp(boot(now).saturating_add(1), boot(now).saturating_add(WAIT_MS_MAX));
    Step::Wait { until_boot_ms: u64::try_from(until).unwrap_or(now.boot_ms) }
}

#[cfg(test)]
mod tests;
