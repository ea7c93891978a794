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

    /// The device is read no more, or again, as a command of the collector wants it; `false` where it is none of these.
    pub(super) fn pause(&mut self, whose: (u64, DeviceIndex), paused: bool, now: Now) -> bool {
        let Some(memory) = self.find(whose.1) else { return false };
        memory.recorder.pause(whose, paused, now);
        memory.rests_until_ms = 0;
        true
    }

    /// The requests that are next, one of each device at most, from the one on whose turn it is: where the line has no room
    /// for the first, it may have room for another.
    pub(super) fn wanted(&mut self, line: &Line, now: Now) -> Vec<Wanted> {
        let turn = self.turn.checked_rem(self.all.len()).unwrap_or(0);
        let (earlier, later) = self.all.split_at_mut(turn);
        let in_turn = (turn..).zip(later).chain((0..).zip(earlier));
        let wanted = in_turn.filter_map(|(place, memory)| {
            memory.fill(now);
            let (request, since_ms) = memory.wanted.as_ref()?;
            Some(Wanted {
                place,
                unit: memory.unit,
                request: request.clone(),
                timeout: memory.timeout,
                turnaround: memory.turnaround,
                cost_ms: memory.cost_ms(request, line),
                waited_ms: now.boot_ms.saturating_sub(*since_ms),
            })
        });
        wanted.collect()
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
            // What waits to be asked may be about what was selected before.
            (memory.wanted, memory.rests_until_ms) = (None, 0);
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

#[cfg(test)]
mod tests {
    use gapless_common::profile::ProfileSet;

    use super::*;
    use crate::config::Config;

    const BUS: &str = r#"
site = "s"
agent = "a"
uplink = { broker = "mqtt://localhost" }
outbox = { path = "/tmp/o" }
[[bus]]
id = "b"
serial = { port = "/dev/ttyS9", baud = 19200 }
timeout = "500ms"
[[bus.device]]
id = "one"
unit = 1
profile = "example-load-profile-window"
collect = "load-profile"
zone = "+01:00"
[[bus.device]]
id = "two"
unit = 2
profile = "example-load-profile-window"
collect = "load-profile"
zone = "+01:00"
"#;

    fn now(ms: i64) -> Now {
        let boot_ms = ms.unsigned_abs();
        Now { boot_ms, wall: Timestamp(1_767_225_600_000 + ms), wall_set: true }
    }

    fn memories() -> (Memories, Line) {
        let config = Config::parse("a.toml", BUS, &ProfileSet::embedded().unwrap()).unwrap();
        let bus = &config.buses[0];
        (Memories::new(bus, &bus.devices, now(0), now(0)).unwrap(), Line::new(&bus.link))
    }

    fn units(wanted: &[Wanted]) -> Vec<u8> {
        wanted.iter().map(|wanted| wanted.unit.0).collect()
    }

    #[test]
    fn a_silent_meter_does_not_stand_in_the_way_of_another_one() {
        let (mut memories, line) = memories();
        let wanted = memories.wanted(&line, now(0));
        assert_eq!(units(&wanted), [1, 2]);
        memories.took(&wanted[0], Err(ExchangeError::TimedOut), now(500));
        // Each has its turn, and one that was silent may cost more than the line has room for.
        let wanted = memories.wanted(&line, now(2_000));
        assert_eq!(units(&wanted), [2, 1]);
        assert!(wanted[0].cost_ms < 100 && wanted[1].cost_ms >= 500, "{wanted:?}");
        memories.took(&wanted[0], Err(ExchangeError::TimedOut), now(2_500));
        assert_eq!(units(&memories.wanted(&line, now(5_000))), [1, 2]);
    }

    #[test]
    fn what_waits_is_made_anew_when_the_link_is_back() {
        let (mut memories, line) = memories();
        assert_eq!(units(&memories.wanted(&line, now(0))), [1, 2]);
        memories.unplugged("no port", now(100));
        assert!(memories.all.iter().all(|memory| memory.wanted.is_none()));
        let wanted = memories.wanted(&line, now(5_000));
        assert!(wanted.iter().all(|wanted| wanted.waited_ms == 0), "{wanted:?}");
        assert_eq!(units(&wanted), [1, 2]);
    }
}
