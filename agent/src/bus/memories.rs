//! What a bus reads of meters' memories beside its polls: one request at a time, where there is room for it. Decides
//! neither what is read (see [`crate::modbus::memory`]) nor when there is room (see [`crate::schedule`]).

use std::time::Duration;

use gapless_common::id::DeviceIndex;
use gapless_common::time::Timestamp;

use super::line::{Ask, ExchangeError, Line};
use super::poller::{ANSWER_DELAY, PollError, cause_of};
use crate::clock::Now;
use crate::config::{Bus, Device};
use crate::event::BusEvent;
use crate::modbus::memory::recorder::{Failure, Recorder};
use crate::modbus::pdu::Request;
use crate::modbus::{Answer, UnitId};
use crate::records::collect::{Collect as _, Step};
use crate::text::chain;

/// A device that is collected, and what of it is asked next.
#[derive(Debug)]
struct Memory {
    recorder: Recorder,
    unit: UnitId,
    timeout: Duration,
    turnaround: Duration,
    /// What it wants to be asked, and since when, on the boot clock.
    wanted: Option<(Request, u64)>,
    /// Nothing is wanted before, on the boot clock.
    rests_until_ms: u64,
    /// Its last request was passed over in silence, and the next one may be, too.
    was_silent: bool,
}

/// What may be asked now.
#[derive(Debug)]
pub(super) struct Wanted {
    place: usize,
    pub(super) unit: UnitId,
    pub(super) request: Request,
    pub(super) timeout: Duration,
    pub(super) turnaround: Duration,
    /// How long it will take, in ms: as long as an answer takes, or as long as silence where the last one was silence.
    pub(super) cost_ms: u32,
    /// How long it has waited, in ms.
    pub(super) waited_ms: u64,
}

impl Wanted {
    /// The request with what its device needs.
    pub(super) fn ask(&self) -> Ask<'_> {
        // Never a retry: a late answer to the same question speaks of another record.
        let (timeout, turnaround) = (self.timeout, self.turnaround);
        Ask { unit: self.unit, request: &self.request, timeout, turnaround, is_retry: false }
    }
}

/// All devices of a bus that are collected from their memories.
#[derive(Debug)]
pub(super) struct Memories {
    all: Vec<Memory>,
    /// Whose turn it is.
    turn: usize,
}

impl Memories {
    pub(super) fn new(bus: &Bus, devices: &[Device], begun: Now, now: Now) -> Result<Self, PollError> {
        let mut all = Vec::new();
        for device in devices {
            let Some(settings) = device.memory_settings() else { continue };
            let recorder = Recorder::new(bus.id.clone(), settings, begun, now)
                .map_err(|source| PollError::Plan { device: device.id.clone(), source })?;
            all.push(Memory {
                recorder,
                unit: UnitId(device.unit),
                timeout: Duration::from_millis(device.timeout_ms.into()),
                turnaround: Duration::from_millis(device.turnaround_ms.into()),
                wanted: None,
                rests_until_ms: 0,
                was_silent: false,
            });
        }
        Ok(Self { all, turn: 0 })
    }

    fn find(&mut self, device: DeviceIndex) -> Option<&mut Memory> {
        self.all.iter_mut().find(|memory| memory.recorder.device() == device)
    }

    /// Whether the device is one of these.
    pub(super) fn has(&self, device: DeviceIndex) -> bool {
        self.all.iter().any(|memory| memory.recorder.device() == device)
    }

    /// Somebody wants to see the device's newest record.
    pub(super) fn poll_now(&mut self, device: DeviceIndex) {
        if let Some(memory) = self.find(device) {
            memory.recorder.poll_now(device);
            memory.rests_until_ms = 0;
        }
    }

    /// The collector wants these instants from the device's memory; `false` where it has none.
    pub(super) fn read_history(
        &mut self,
        command: u64,
        device: DeviceIndex,
        range: (Timestamp, Timestamp),
    ) -> bool {
        let Some(memory) = self.find(device) else { return false };
        memory.recorder.read_history(command, device, range);
        memory.rests_until_ms = 0;
        true
    }

    /// The request that is next, if there is one: each device in turn.
    pub(super) fn wanted(&mut self, line: &Line, now: Now) -> Option<Wanted> {
        let count = self.all.len();
        for place in (0..count).map(|n| (self.turn + n) % count) {
            let memory = self.all.get_mut(place)?;
            memory.fill(now);
            if let Some((request, since_ms)) = &memory.wanted {
                return Some(Wanted {
                    place,
                    unit: memory.unit,
                    request: request.clone(),
                    timeout: memory.timeout,
                    turnaround: memory.turnaround,
                    cost_ms: memory.cost_ms(request, line),
                    waited_ms: now.boot_ms.saturating_sub(*since_ms),
                });
            }
        }
        None
    }

    /// What came of it.
    pub(super) fn took(&mut self, wanted: &Wanted, result: Result<Answer, ExchangeError>, now: Now) {
        let Some(memory) = self.all.get_mut(wanted.place) else { return };
        (memory.wanted, memory.rests_until_ms) = (None, 0);
        memory.was_silent = matches!(result, Err(ExchangeError::TimedOut));
        memory.recorder.took(result.map_err(|error| failure(&error)), now);
        self.turn = wanted.place + 1;
    }

    /// The bus has no connection.
    pub(super) fn unplugged(&mut self, why: &str, now: Now) {
        for memory in &mut self.all {
            memory.recorder.unplugged(why, now);
        }
    }

    /// Time passes.
    pub(super) fn observe(&mut self, now: Now) {
        self.all.iter_mut().for_each(|memory| memory.recorder.observe(now));
    }

    /// When something will be wanted next, on the boot clock.
    pub(super) fn due_ms(&self) -> u64 {
        let rests = self.all.iter().filter(|memory| memory.wanted.is_none());
        rests.map(|memory| memory.rests_until_ms).min().unwrap_or(u64::MAX)
    }

    /// The next event to pass on.
    pub(super) fn drain(&mut self) -> Option<BusEvent> {
        self.all.iter_mut().find_map(|memory| memory.recorder.drain())
    }

    /// Accounts for every slot up to now.
    pub(super) fn stop(&mut self, now: Now) {
        self.all.iter_mut().for_each(|memory| memory.recorder.stop(now));
    }
}

impl Memory {
    /// Asks the recorder what it wants, unless that is known.
    fn fill(&mut self, now: Now) {
        if self.wanted.is_some() || self.rests_until_ms > now.boot_ms {
            return;
        }
        match self.recorder.next(now) {
            Step::Ask(request) => self.wanted = Some((request, now.boot_ms)),
            Step::Wait { until_boot_ms } => self.rests_until_ms = until_boot_ms,
        }
    }

    fn cost_ms(&self, request: &Request, line: &Line) -> u32 {
        let answered = line.wire_time(request) + ANSWER_DELAY + self.turnaround;
        let silent = line.silence_time(request, self.timeout);
        super::driver::millis(if self.was_silent { silent } else { answered })
    }
}

fn failure(error: &ExchangeError) -> Failure {
    Failure { cause: cause_of(error), why: chain(error) }
}
