//! How a source of records stands, and what of it was told: whether it is there, how its devices do, what it counted, and
//! how the gateway's clock moved. What is told again and again is told once.

use std::collections::VecDeque;

use gapless_common::id::{BusId, DeviceIndex};
use gapless_common::message::Outcome;
use gapless_common::quality::Cause;

use crate::clock::Now;
use crate::event::{BusEvent, BusTotals, DeviceCondition, LinkState, METRICS_EVERY_MS};

/// Longest wait, so that ended slots are told soon.
const WAIT_MS_MAX: u64 = 1_000;
/// First and longest wait after a failure, in ms.
const RETRY_MS: (u64, u64) = (500, 10_000);
/// A step of the wall clock back that counts, in ms.
const STEP_MS_MIN: i64 = 250;

/// One device, and what was told of it last.
#[derive(Debug, Clone)]
struct Told {
    device: DeviceIndex,
    paused: bool,
    last: Option<(DeviceCondition, Option<Cause>)>,
}

/// See the module. Devices are named by their place in the order in which they were given.
#[derive(Debug)]
pub struct Standing {
    bus: BusId,
    devices: Vec<Told>,
    /// Why the source is not there; `None` while it is.
    absent: Option<Cause>,
    attempts: u32,
    retry_at_ms: u64,
    offset: Option<i64>,
    /// Somebody else tells of the link.
    is_guest: bool,
    link: Option<LinkState>,
    /// What was counted; who asks counts here.
    pub totals: BusTotals,
    told_totals: (BusTotals, u64),
    /// What is to be passed on.
    pub out: VecDeque<BusEvent>,
}

impl Standing {
    /// A source that nobody has asked yet, with its devices and whether each is paused.
    pub fn new(bus: BusId, devices: impl Iterator<Item = (DeviceIndex, bool)>, now: Now) -> Self {
        let devices = devices.map(|(device, paused)| Told { device, paused, last: None }).collect();
        let mut new = Self {
            bus,
            devices,
            absent: Some(Cause::NotConnected),
            attempts: 0,
            retry_at_ms: now.boot_ms,
            offset: None,
            is_guest: false,
            link: None,
            totals: BusTotals::default(),
            told_totals: (BusTotals::default(), 0),
            out: VecDeque::new(),
        };
        for index in 0..new.devices.len() {
            if new.devices[index].paused {
                new.tell_device(index, DeviceCondition::Paused, None);
            }
        }
        new
    }

    /// The same on a bus whose link and counters somebody else tells of.
    #[must_use]
    pub fn as_guest(self) -> Self {
        Self { is_guest: true, ..self }
    }

    /// Why the source is not there; `None` while it is.
    #[must_use]
    pub fn absent(&self) -> Option<Cause> {
        self.absent
    }

    /// Whether it may be asked now.
    #[must_use]
    pub fn is_ready(&self, now: Now) -> bool {
        self.retry_at_ms <= now.boot_ms
    }

    /// When to look again, by the boot clock, if the devices want nothing before `due_ms`.
    #[must_use]
    pub fn wait(&self, due_ms: u64, now: Now) -> u64 {
        due_ms.max(self.retry_at_ms).clamp(now.boot_ms + 1, now.boot_ms.saturating_add(WAIT_MS_MAX))
    }

    /// It answered.
    pub fn present(&mut self) {
        (self.absent, self.attempts) = (None, 0);
        self.tell_link(LinkState::Open);
    }

    /// It is not there: all its devices fail, and wait.
    pub fn missing(&mut self, cause: Cause, why: &str, now: Now) {
        self.absent = Some(cause);
        self.retry_at_ms = now.boot_ms.saturating_add(back_off(self.attempts));
        self.attempts = self.attempts.saturating_add(1);
        self.tell_link(LinkState::Absent(why.into()));
        for index in 0..self.devices.len() {
            self.tell_device(index, DeviceCondition::Failing, Some(cause));
        }
    }

    /// A device is read no more, or again, as a command of the collector wants it; its slots are accounted for.
    pub fn pause(&mut self, command: u64, index: usize, paused: bool) {
        self.devices[index].paused = paused;
        if paused {
            self.tell_device(index, DeviceCondition::Paused, None);
        }
        let device = self.devices[index].device;
        self.out.push_back(BusEvent::Paused { command, device, paused });
    }

    /// How a device does, unless that was told already.
    pub fn tell_device(&mut self, index: usize, condition: DeviceCondition, last_error: Option<Cause>) {
        let told = &mut self.devices[index];
        let condition = if told.paused { DeviceCondition::Paused } else { condition };
        if told.last != Some((condition, last_error)) {
            told.last = Some((condition, last_error));
            self.out.push_back(BusEvent::Device { device: told.device, condition, last_error });
        }
    }

    /// A command of the collector is refused, because too many wait already.
    pub fn refuse_history(&mut self, command: u64) {
        let outcome = Outcome::Failed("too many of the collector's questions wait already".into());
        self.out.push_back(BusEvent::HistoryRead { command, outcome });
    }

    /// What was counted, now and then, and at the end.
    pub fn tell_totals(&mut self, now: Now, last: bool) {
        let is_due = now.boot_ms.saturating_sub(self.told_totals.1) >= METRICS_EVERY_MS;
        if self.totals != self.told_totals.0 && (is_due || last) {
            self.told_totals = (self.totals, now.boot_ms);
            self.out.push_back(BusEvent::Metrics { bus: self.bus.clone(), totals: self.totals });
        }
    }

    /// Whether the wall clock was set back since the last look, so that slots may be due again.
    pub fn observe(&mut self, now: Now) -> bool {
        let offset =
            now.wall_set.then(|| now.wall.0.saturating_sub(i64::try_from(now.boot_ms).unwrap_or(i64::MAX)));
        let is_back =
            self.offset.zip(offset).is_some_and(|(old, new)| old.saturating_sub(new) >= STEP_MS_MIN);
        self.offset = offset;
        is_back
    }

    fn tell_link(&mut self, link: LinkState) {
        if !self.is_guest && self.link.as_ref() != Some(&link) {
            self.link = Some(link.clone());
            self.out.push_back(BusEvent::Bus { bus: self.bus.clone(), link });
        }
    }
}

/// How long to wait after so many failures in a row, in ms.
#[must_use]
pub fn back_off(attempts: u32) -> u64 {
    (RETRY_MS.0 << attempts.min(16)).min(RETRY_MS.1)
}
