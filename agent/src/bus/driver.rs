//! A bus without its thread: does what the schedule says, passes on what it yields. Reads no clock and opens no port:
//! time, bytes, commands and events come and go through its [`Ground`].
//!
//! Contract: after [`Driver::new`] call [`Driver::turn`] again and again, until it says [`Turn::Ended`]; where it says
//! [`Turn::WaitUntil`], not before that instant has come or a command is waiting. A turn during which nothing was due
//! does no harm. It ends after [`BusCommand::Stop`], or when nobody takes its events any more.

use std::collections::BTreeMap;
use std::time::Duration;

use gapless_common::id::DeviceIndex;
use gapless_common::message::Outcome as Answered;
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::Sample;
use gapless_common::time::Timestamp;

use super::BusCommand;
use super::ground::Ground;
use super::line::{Ask, ExchangeError, Line};
use super::memories::{Memories, Wanted};
use super::patience::{Inbox, Patience};
use super::poller::{Host, PollError, Poller};
use crate::clock::{Mono, Now};
use crate::config::Bus;
use crate::event::{BusEvent, BusTotals, METRICS_EVERY_MS};
use crate::modbus::Answer;
use crate::schedule::{Outcome, Poll, Schedule, Step, Task};
use crate::text::chain;

const MS: u64 = 1_000_000;

/// What a turn ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Something may be due already.
    Again,
    /// Nothing is due before this instant, unless a command comes.
    WaitUntil {
        /// CLOCK_BOOTTIME in milliseconds.
        boot_ms: u64,
    },
    /// Every slot up to now is accounted for, and the port is closed.
    Ended,
}

/// One bus.
#[derive(Debug)]
pub struct Driver {
    bus: Bus,
    schedule: Schedule,
    line: Line,
    /// In the order of the devices that are polled, which alone the bus has here.
    pollers: Vec<Poller>,
    /// Of the others.
    memories: Memories,
    /// In the same order.
    complaints: Vec<Complaint>,
    totals: BusTotals,
    told: (BusTotals, u64),
    inbox: Inbox,
    ended: bool,
    /// When each device answered last, by the wall clock.
    answered_at: BTreeMap<DeviceIndex, Timestamp>,
}

impl Driver {
    /// The bus as configured. Slots from `started` on are its to account for: the end of the downtime that the
    /// agent records.
    ///
    /// # Errors
    /// [`PollError::Plan`] where a device cannot be polled at all.
    pub fn new(mut bus: Bus, started: Now, now: Now) -> Result<Self, PollError> {
        let collected: Vec<_> = bus.devices.extract_if(.., |device| device.memory.is_some()).collect();
        let memories = Memories::new(&bus, &collected, started, now)?;
        let pollers = bus.devices.iter().map(Poller::new).collect::<Result<Vec<_>, _>>()?;
        let line = Line::new(&bus.link);
        let devices = bus.devices.iter().zip(&pollers);
        let tasks: Vec<Task> = devices
            .map(|(device, poller)| Task {
                device: device.index,
                grid: device.grid,
                paused: device.paused,
                poll_ms: millis(poller.poll_time(&line)),
                probe_ms: millis(poller.probe_time(&line)),
            })
            .collect();
        Ok(Self {
            schedule: Schedule::new(bus.id.clone(), &tasks, started, now),
            complaints: bus.devices.iter().map(|_| Complaint::default()).collect(),
            bus,
            line,
            pollers,
            memories,
            totals: BusTotals::default(),
            told: (BusTotals::default(), 0),
            inbox: Inbox::default(),
            ended: false,
            answered_at: BTreeMap::new(),
        })
    }

    /// Does one thing, if one is due: opens the port, polls a device, or ends.
    pub fn turn(&mut self, ground: &mut dyn Ground) -> Turn {
        if self.ended {
            return Turn::Ended;
        }
        self.take_commands(ground);
        if self.inbox.stopping {
            return self.end(ground);
        }
        if let Some(wanted) = self.with_room(ground.now()) {
            self.remember(&wanted, ground);
            return Turn::Again;
        }
        self.memories.observe(ground.now());
        let step = self.schedule.next(ground.now());
        self.pass_on(ground);
        let turn = match step {
            Step::Connect => self.connect(ground),
            Step::Poll(poll) => self.poll(poll, ground),
            Step::Wait { until_boot_ms } => {
                let soonest = ground.now().boot_ms + 1;
                Turn::WaitUntil { boot_ms: until_boot_ms.min(self.memories.due_ms().max(soonest)) }
            }
        };
        self.tell_totals(false, ground);
        if self.inbox.stopping { Turn::Again } else { turn }
    }

    /// What is to be read of a meter's memory, where polls leave room for it.
    fn with_room(&mut self, now: Now) -> Option<Wanted> {
        if !self.schedule.is_open() {
            return None;
        }
        let mut wanted = self.memories.wanted(&self.line, now).into_iter();
        wanted.find(|wanted| self.schedule.has_room(wanted.cost_ms, wanted.waited_ms, now))
    }

    fn remember(&mut self, wanted: &Wanted, ground: &mut dyn Ground) {
        let (result, given_up) = self.exchange(&wanted.ask(), ground);
        let lost = match &result {
            Err(ExchangeError::Lost(error)) if !given_up => Some(chain(error)),
            Ok(_) => {
                self.schedule.answered();
                None
            }
            Err(_) => None,
        };
        if !given_up {
            self.memories.took(wanted, result, ground.now());
        }
        if let Some(why) = lost {
            self.lose(&why, ground);
        }
        self.pass_on(ground);
    }

    fn lose(&mut self, why: &str, ground: &mut dyn Ground) {
        self.line.close(ground.port());
        self.schedule.link_lost(ground.now(), why);
        self.memories.unplugged(why, ground.now());
    }

    /// One request and its answer; whether it was given up, as the bus is to stop.
    fn exchange(&mut self, ask: &Ask<'_>, ground: &mut dyn Ground) -> (Result<Answer, ExchangeError>, bool) {
        let begin = ground.port().mono();
        let mut port = Patience::new(&mut *ground, &mut self.inbox);
        if let Err(error) = port.check() {
            return (Err(ExchangeError::Lost(error)), true);
        }
        let result = self.line.exchange(&mut port, ask);
        let given_up = port.is_over;
        let busy = Duration::from_nanos(ground.port().mono().since_ns(begin));
        self.count(ask, &result, busy);
        (result, given_up)
    }

    fn end(&mut self, ground: &mut dyn Ground) -> Turn {
        self.schedule.stop(ground.now());
        self.memories.stop(ground.now());
        self.pass_on(ground);
        self.tell_totals(true, ground);
        self.line.close(ground.port());
        self.ended = true;
        Turn::Ended
    }

    fn take_commands(&mut self, ground: &mut dyn Ground) {
        while let Some(command) = self.inbox.take(ground) {
            match command {
                BusCommand::PollNow(device) if self.memories.has(device) => self.memories.poll_now(device),
                BusCommand::PollNow(device) => self.schedule.poll_now(device),
                BusCommand::ReadHistory { command, device, range } => {
                    if self.memories.read_history(command, device, range) {
                        continue;
                    }
                    let outcome = Answered::Failed("the device has no memory that can be read".into());
                    self.send(BusEvent::HistoryRead { command, outcome }, ground);
                }
                BusCommand::Pause { command, device, paused } => {
                    let (whose, now) = ((command, device), ground.now());
                    if !self.memories.pause(whose, paused, now) {
                        self.schedule.pause(whose, paused, now);
                    }
                }
                BusCommand::Stop => return self.inbox.stopping = true,
            }
        }
    }

    fn connect(&mut self, ground: &mut dyn Ground) -> Turn {
        match self.line.open(ground.port()) {
            Ok(()) => self.schedule.connected(ground.now()),
            Err(error) => {
                self.schedule.connect_failed(ground.now(), &chain(&error));
                self.memories.unplugged(&chain(&error), ground.now());
            }
        }
        self.pass_on(ground);
        Turn::Again
    }

    fn poll(&mut self, poll: Poll, ground: &mut dyn Ground) -> Turn {
        let Some(index) = self.bus.devices.iter().position(|device| device.index == poll.device) else {
            return Turn::Again;
        };
        self.await_next_ms(poll.device, ground);
        let mut poller = self.pollers.remove(index);
        let mut host = Scheduled { driver: self, ground: &mut *ground, poll, lost: None, given_up: false };
        let result = poller.poll(&mut host);
        let (lost, given_up) = (host.lost, host.given_up);
        if self.complaints[index].heard(&result) {
            let why = self.complaints[index].0.clone();
            if let Some(complaint) = &why {
                tracing::warn!(error = complaint, "nothing can be read");
            }
            self.send(BusEvent::Complaint { device: poll.device, why: why.map(Into::into) }, ground);
        }
        self.pollers.insert(index, poller);
        let outcome = if given_up && result.is_err() { Outcome::GivenUp } else { outcome(&result) };
        self.schedule.finished(outcome, ground.now());
        if let Some(why) = lost {
            self.lose(&why, ground);
        }
        self.pass_on(ground);
        Turn::Again
    }

    /// Waits for the next millisecond where the device's last answer stands in this one: an instant tells two
    /// readings of a series apart, and a device that is polled late may be due again at once.
    fn await_next_ms(&self, device: DeviceIndex, ground: &mut dyn Ground) {
        if self.answered_at.get(&device) == Some(&ground.now().wall) {
            let next = ground.port().mono().plus_ns(MS);
            ground.port().sleep_until(next);
        }
    }

    /// Passes on what the schedule yields; waits where there is no room.
    fn pass_on(&mut self, ground: &mut dyn Ground) {
        while let Some(event) = self.schedule.drain().or_else(|| self.memories.drain()) {
            self.send(event, ground);
        }
    }

    fn send(&mut self, event: BusEvent, ground: &mut dyn Ground) {
        if !ground.emit(event) {
            self.inbox.stopping = true;
        }
    }

    fn tell_totals(&mut self, last: bool, ground: &mut dyn Ground) {
        let boot_ms = ground.now().boot_ms;
        let due = boot_ms.saturating_sub(self.told.1) >= METRICS_EVERY_MS;
        if self.totals != self.told.0 && (due || last) {
            self.told = (self.totals, boot_ms);
            self.send(BusEvent::Metrics { bus: self.bus.id.clone(), totals: self.totals }, ground);
        }
    }

    fn count(&mut self, ask: &Ask<'_>, result: &Result<Answer, ExchangeError>, busy: Duration) {
        let totals = &mut self.totals;
        totals.requests += 1;
        totals.busy_us += micros(busy);
        totals.discarded_bytes += self.line.take_discarded();
        match result {
            Ok(Ok(_)) => {
                totals.answered += 1;
                totals.wire_us += micros(self.line.wire_time(ask.request));
            }
            Ok(Err(_)) => totals.refused += 1,
            Err(ExchangeError::TimedOut) => totals.timed_out += 1,
            Err(ExchangeError::Corrupt(_) | ExchangeError::Truncated) => totals.corrupt += 1,
            Err(ExchangeError::Lost(_)) => {}
        }
    }
}

/// What a person must put right at a device, so that it is said once and not with every poll.
#[derive(Debug, Default)]
pub(super) struct Complaint(Option<String>);

impl Complaint {
    /// Whether it is another one now, or none any more. A poll that was not answered says nothing of the old one.
    pub(super) fn heard(&mut self, result: &Result<(), PollError>) -> bool {
        let now = match result {
            Ok(()) => None,
            Err(PollError::Missed { .. } | PollError::Open(_)) => return false,
            Err(
                error @ (PollError::NotSunSpec { .. }
                | PollError::NoModel { .. }
                | PollError::ShortModels { .. }
                | PollError::Plan { .. }),
            ) => Some(chain(error)),
        };
        let is_news = now != self.0;
        self.0 = now;
        is_news
    }
}

/// A poll in hand, as the poller sees it.
struct Scheduled<'a> {
    driver: &'a mut Driver,
    ground: &'a mut dyn Ground,
    poll: Poll,
    lost: Option<String>,
    /// An answer was no longer awaited, as the bus is to stop.
    given_up: bool,
}

impl Host for Scheduled<'_> {
    fn mono(&mut self) -> Mono {
        self.ground.port().mono()
    }

    fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        let (result, given_up) = self.driver.exchange(ask, self.ground);
        self.given_up |= given_up;
        if let Err(ExchangeError::Lost(error)) = &result
            && !self.given_up
        {
            self.lost = Some(chain(error));
        }
        result
    }

    fn may_retry(&mut self, ask: &Ask<'_>) -> bool {
        let late = self.driver.line.late_wait(ask, self.ground.port().mono());
        let cost = millis(late + self.driver.line.silence_time(ask.request, ask.timeout));
        self.driver.schedule.may_retry(cost, self.ground.now()) && !self.is_stopping()
    }

    fn is_probe(&self) -> bool {
        self.poll.probe
    }

    fn is_stopping(&mut self) -> bool {
        self.driver.inbox.look(self.ground)
    }

    fn retries(&mut self) {
        self.driver.totals.retries += 1;
    }

    fn answered(&mut self, mut samples: Vec<Sample>) {
        if self.poll.slot.is_none() {
            mark_uncertain(&mut samples);
        }
        let now = self.ground.now();
        self.driver.answered_at.insert(self.poll.device, now.wall);
        self.driver.schedule.answered();
        self.driver.pass_on(self.ground);
        let (device, acquired) = (self.poll.device, self.poll.acquired(now));
        self.driver.send(BusEvent::Answered { device, acquired, at: now.wall, samples }, self.ground);
    }
}

/// What was read under a clock that nobody vouches for.
fn mark_uncertain(samples: &mut [Sample]) {
    for sample in samples.iter_mut().filter(|sample| sample.quality == Quality::Good) {
        sample.quality = Quality::UncertainClock;
    }
}

fn outcome(result: &Result<(), PollError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Answered,
        Err(PollError::Missed { cause, .. }) => Outcome::Missed(*cause),
        // It answered, and refused or lacked what the channels need.
        Err(
            PollError::NotSunSpec { .. }
            | PollError::NoModel { .. }
            | PollError::ShortModels { .. }
            | PollError::Plan { .. },
        ) => Outcome::Missed(Cause::Refused(ExceptionCode(0x02))),
        Err(PollError::Open(_)) => Outcome::Missed(Cause::NotConnected),
    }
}

/// Rounded up, so that what is said to fit does.
pub(super) fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
