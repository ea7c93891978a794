//! The thread of a bus: does what the schedule says, passes on what it yields. And its stand-in for a single poll.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use gapless_common::id::DeviceIndex;
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::Sample;
use gapless_common::time::Timestamp;

use super::line::{Ask, ExchangeError, Line};
use super::poller::{Host, PollError, Poller};
use super::{BusCommand, COMMANDS_MAX};
use crate::clock::{Clock, Now, mono};
use crate::config::Bus;
use crate::event::{BusEvent, BusTotals, METRICS_EVERY_MS};
use crate::modbus::Answer;
use crate::schedule::{Outcome, Poll, Schedule, Step, Task};
use crate::text::chain;

type Sink = Box<dyn FnMut(BusEvent) -> bool + Send>;

/// What connects a bus thread to the loop.
pub(super) struct Ends {
    pub(super) inbox: Receiver<BusCommand>,
    /// Says `false` when nobody receives any more.
    pub(super) sink: Sink,
}

/// Everything that a bus thread owns.
pub(super) struct Worker {
    bus: Bus,
    clock: Clock,
    inbox: Receiver<BusCommand>,
    sink: Sink,
    schedule: Schedule,
    line: Line,
    /// In the order of the bus's devices.
    pollers: Vec<Poller>,
    /// In the same order.
    complaints: Vec<Complaint>,
    totals: BusTotals,
    told: (BusTotals, u64),
    stopping: bool,
    /// Commands that came during a poll; at most [`COMMANDS_MAX`].
    asked: VecDeque<BusCommand>,
    /// When each device answered last, by the wall clock.
    answered_at: BTreeMap<DeviceIndex, Timestamp>,
}

impl Worker {
    pub(super) fn new(
        bus: Bus,
        pollers: Vec<Poller>,
        clock: Clock,
        started: Now,
        Ends { inbox, sink }: Ends,
    ) -> Self {
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
        let schedule = Schedule::new(bus.id.clone(), &tasks, started, clock.now());
        let (totals, told, asked) = (BusTotals::default(), (BusTotals::default(), 0), VecDeque::new());
        Self {
            complaints: bus.devices.iter().map(|_| Complaint::default()).collect(),
            bus,
            clock,
            inbox,
            sink,
            schedule,
            line,
            pollers,
            totals,
            told,
            stopping: false,
            asked,
            answered_at: BTreeMap::new(),
        }
    }

    /// Until it is told to stop, or nobody receives its events.
    pub(super) fn run(&mut self) {
        while !self.stopping {
            self.take_commands();
            let step = self.schedule.next(self.clock.now());
            self.pass_on();
            match step {
                Step::Connect => self.connect(),
                Step::Poll(poll) => self.poll(poll),
                Step::Wait { until_boot_ms } => self.wait(until_boot_ms),
            }
            self.tell_totals(false);
        }
        self.schedule.stop(self.clock.now());
        self.pass_on();
        self.tell_totals(true);
        self.line.close();
    }

    fn take_commands(&mut self) {
        loop {
            match self.asked.pop_front().map_or_else(|| self.inbox.try_recv(), Ok) {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.stopping = true,
            }
        }
    }

    fn obey(&mut self, command: BusCommand) {
        match command {
            BusCommand::PollNow(device) => self.schedule.poll_now(device),
            BusCommand::Stop => self.stopping = true,
        }
    }

    fn wait(&mut self, until_boot_ms: u64) {
        let left = until_boot_ms.saturating_sub(self.clock.now().boot_ms);
        match self.inbox.recv_timeout(Duration::from_millis(left)) {
            Ok(command) => self.obey(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
    }

    fn connect(&mut self) {
        match self.line.open() {
            Ok(()) => self.schedule.connected(self.clock.now()),
            Err(error) => self.schedule.connect_failed(self.clock.now(), &chain(&error)),
        }
        self.pass_on();
    }

    fn poll(&mut self, poll: Poll) {
        let Some(index) = self.bus.devices.iter().position(|device| device.index == poll.device) else {
            return;
        };
        self.await_next_ms(poll.device);
        let mut poller = self.pollers.remove(index);
        let mut host = Scheduled { worker: self, poll, lost: None };
        let result = poller.poll(&mut host);
        let lost = host.lost;
        if let Some(complaint) = self.complaints[index].heard(&result) {
            tracing::warn!(error = complaint, "nothing can be read");
        }
        self.pollers.insert(index, poller);
        self.schedule.finished(outcome(&result), self.clock.now());
        if let Some(why) = lost {
            self.line.close();
            self.schedule.link_lost(self.clock.now(), &why);
        }
        self.pass_on();
    }

    /// Waits for the next millisecond where the device's last answer stands in this one: an instant tells two
    /// readings of a series apart, and a device that is polled late may be due again at once.
    fn await_next_ms(&self, device: DeviceIndex) {
        if self.answered_at.get(&device) == Some(&self.clock.now().wall) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Passes on what the schedule yields; waits where the queue is full.
    fn pass_on(&mut self) {
        while let Some(event) = self.schedule.drain() {
            self.send(event);
        }
    }

    fn send(&mut self, event: BusEvent) {
        if !(self.sink)(event) {
            self.stopping = true;
        }
    }

    fn tell_totals(&mut self, last: bool) {
        let boot_ms = self.clock.now().boot_ms;
        let due = boot_ms.saturating_sub(self.told.1) >= METRICS_EVERY_MS;
        if self.totals != self.told.0 && (due || last) {
            self.told = (self.totals, boot_ms);
            self.send(BusEvent::Metrics { bus: self.bus.id.clone(), totals: self.totals });
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
    /// The complaint, where it is a new one. A poll that was not answered says nothing of the old one.
    pub(super) fn heard(&mut self, result: &Result<(), PollError>) -> Option<&str> {
        let now = match result {
            Ok(()) => None,
            Err(PollError::Missed { .. } | PollError::Open(_)) => return None,
            Err(
                error @ (PollError::NotSunSpec { .. } | PollError::NoModel { .. } | PollError::Plan { .. }),
            ) => Some(chain(error)),
        };
        let news = now != self.0;
        self.0 = now;
        self.0.as_deref().filter(|_| news)
    }
}

/// A poll in hand, as the poller sees it.
struct Scheduled<'a> {
    worker: &'a mut Worker,
    poll: Poll,
    lost: Option<String>,
}

impl Host for Scheduled<'_> {
    fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        let begin = mono();
        let result = self.worker.line.exchange(ask);
        self.worker.count(ask, &result, Duration::from_nanos(mono().since_ns(begin)));
        if let Err(ExchangeError::Lost(error)) = &result {
            self.lost = Some(chain(error));
        }
        result
    }

    fn may_retry(&mut self, ask: &Ask<'_>) -> bool {
        let worker = &*self.worker;
        let cost = millis(worker.line.silence_time(ask.request, ask.timeout));
        worker.schedule.may_retry(cost, worker.clock.now()) && !self.is_stopping()
    }

    fn is_probe(&self) -> bool {
        self.poll.probe
    }

    fn is_stopping(&mut self) -> bool {
        let worker = &mut *self.worker;
        while worker.asked.len() < COMMANDS_MAX
            && let Ok(command) = worker.inbox.try_recv()
        {
            worker.stopping |= command == BusCommand::Stop;
            worker.asked.push_back(command);
        }
        worker.stopping
    }

    fn retries(&mut self) {
        self.worker.totals.retries += 1;
    }

    fn answered(&mut self, mut samples: Vec<Sample>) {
        if self.poll.slot.is_none() {
            mark_uncertain(&mut samples);
        }
        let now = self.worker.clock.now();
        self.worker.answered_at.insert(self.poll.device, now.wall);
        self.worker.schedule.answered();
        self.worker.pass_on();
        let (device, acquired) = (self.poll.device, self.poll.acquired(now));
        self.worker.send(BusEvent::Answered { device, acquired, at: now.wall, samples });
    }
}

/// What was read under a clock that nobody vouches for.
fn mark_uncertain(samples: &mut [Sample]) {
    for sample in samples.iter_mut().filter(|sample| sample.quality == Quality::Good) {
        sample.quality = Quality::UncertainClock;
    }
}

/// A single poll without schedule: retries always, keeps the samples.
pub(super) struct Once {
    line: Line,
    samples: Vec<Sample>,
}

impl Once {
    pub(super) fn new(line: Line) -> Self {
        Self { line, samples: Vec::new() }
    }

    /// In ascending order of channel.
    pub(super) fn into_samples(mut self) -> Vec<Sample> {
        self.samples.sort_by_key(|sample| sample.channel);
        self.samples
    }
}

impl Host for Once {
    fn exchange(&mut self, ask: &Ask<'_>) -> Result<Answer, ExchangeError> {
        self.line.exchange(ask)
    }

    fn may_retry(&mut self, _: &Ask<'_>) -> bool {
        true
    }

    fn is_probe(&self) -> bool {
        false
    }

    fn is_stopping(&mut self) -> bool {
        false
    }

    fn retries(&mut self) {}

    fn answered(&mut self, samples: Vec<Sample>) {
        self.samples.extend(samples);
    }
}

fn outcome(result: &Result<(), PollError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Answered,
        Err(PollError::Missed { cause, .. }) => Outcome::Missed(*cause),
        // It answered, and refused or lacked what the channels need.
        Err(PollError::NotSunSpec { .. } | PollError::NoModel { .. } | PollError::Plan { .. }) => {
            Outcome::Missed(Cause::Refused(ExceptionCode(0x02)))
        }
        Err(PollError::Open(_)) => Outcome::Missed(Cause::NotConnected),
    }
}

/// Rounded up, so that what is said to fit does.
fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
