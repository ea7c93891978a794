//! What the oracle knows of devices that remember: each record that was told, with the values that the logger truly has
//! for it, and each question of the collector. It holds the agent to this as it happens: only what was recorded is told,
//! bit for bit; what is said to have been read was told; what is said to be gone is not there. What the end must look like
//! is `rest`'s.

use std::collections::{BTreeMap, BTreeSet};

use gapless_agent::event::BusEvent;
use gapless_common::id::DeviceIndex;
use gapless_common::message::Outcome;
use gapless_common::quality::{Cause, Quality};
use gapless_common::reading::{Acquired, Misses, Sample, Value};
use gapless_common::time::{Slot, Timestamp};

use super::gateway::Gateway;
use super::judge::Findings;
use super::memory::named;
use super::oracle::Issued;

/// A device: gateway and index.
pub type Device = (usize, DeviceIndex);

/// A record that a bus told its agent of.
#[derive(Debug, Clone)]
pub struct Telling {
    /// When, to whom, and what.
    pub issued: Issued,
    /// The same by the names of channels.
    pub by_name: BTreeMap<String, (Option<Value>, Quality)>,
}

/// What the collector asked of a memory.
#[derive(Debug, Clone)]
struct Question {
    device: DeviceIndex,
    at_ms: u64,
    /// Instants of records within it that were held when it came.
    held: BTreeSet<i64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Recall {
    /// What was told of each device, by the instant of the record.
    pub told: BTreeMap<Device, BTreeMap<i64, Vec<Telling>>>,
    /// Per device its channels, and the field of each.
    channels: BTreeMap<Device, Vec<(String, String)>>,
    questions: BTreeMap<(usize, u64), Question>,
    /// Gateways whose clock is not to be trusted.
    odd_clocks: BTreeSet<usize>,
    /// Loggers whose clock somebody has set: gateway and number.
    clock_was_set: BTreeSet<(usize, usize)>,
}

impl Recall {
    /// A process begins, and knows nothing of earlier questions.
    pub fn note_start(&mut self, no: usize, gateway: &Gateway) {
        self.questions.retain(|(of, _), _| *of != no);
        for memory in gateway.memories() {
            self.channels.insert((no, memory.index()), memory.channels());
        }
    }

    /// A gateway's clock is not to be trusted.
    pub fn note_odd_clock(&mut self, no: usize) {
        self.odd_clocks.insert(no);
    }

    /// Somebody sets a logger's clock: what is recorded has no longer one order.
    pub fn note_clock(&mut self, no: usize, logger: usize) {
        self.clock_was_set.insert((no, logger));
    }

    /// Whether the clock of a device's logger was ever set.
    #[must_use]
    pub fn was_clock_set(&self, no: usize, gateway: &Gateway, device: DeviceIndex) -> bool {
        let logger = gateway.bus_of(device).and_then(|bus| bus.checked_sub(gateway.grounds.len()));
        logger.is_some_and(|logger| self.clock_was_set.contains(&(no, logger)))
    }

    /// A bus is asked for what its device remembers.
    pub fn note_question(
        &mut self,
        (no, gateway): (usize, &Gateway),
        command: u64,
        (device, (from, to)): (DeviceIndex, (Timestamp, Timestamp)),
        at_ms: u64,
    ) {
        let Some(memory) = gateway.memory(device) else { return };
        let held = memory.held(at_ms).into_iter().filter(|at| (from.0..to.0).contains(at)).collect();
        self.questions.insert((no, command), Question { device, at_ms, held });
    }

    /// A bus tells its agent something; gives what is wrong with it.
    pub fn note_event(&mut self, at: (usize, &Gateway), event: &BusEvent, now_ms: u64) -> Findings {
        match event {
            BusEvent::Channels { device, channels } => {
                self.channels.insert((at.0, *device), named(channels));
                Vec::new()
            }
            BusEvent::Answered { device, acquired, at: instant, samples } => {
                let issued = Issued {
                    acquired: *acquired,
                    at: *instant,
                    told_ms: now_ms,
                    generation: at.1.generation,
                    samples: samples.clone(),
                };
                self.note_record(at, *device, issued)
            }
            BusEvent::Missed(misses) => self.check_missed(at, misses, now_ms),
            BusEvent::HistoryRead { command, outcome: Outcome::Done | Outcome::NoData } => {
                self.check_read(at, *command, now_ms)
            }
            BusEvent::HistoryRead { command, .. } => {
                self.questions.remove(&(at.0, *command));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn note_record(
        &mut self,
        (no, gateway): (usize, &Gateway),
        index: DeviceIndex,
        issued: Issued,
    ) -> Findings {
        let Some(memory) = gateway.memory(index) else { return Findings::new() };
        let device = (no, index);
        let (mut findings, at) = (Findings::new(), issued.at.0);
        let clocks = (self.was_clock_set(no, gateway, index), self.odd_clocks.contains(&no));
        let mut find =
            |what: String| findings.push(("integrity", format!("{} at {at}: {what}", memory.id())));
        if issued.acquired != Acquired::Recorded(memory.grid().slot_at(issued.at)) {
            find(format!("told as {:?}", issued.acquired));
        }
        if !memory.has_recorded(at) {
            find("told, and never recorded".to_owned());
        }
        let mut by_name = BTreeMap::new();
        for Sample { channel, value, quality } in &issued.samples {
            let Some((name, field)) =
                self.channels.get(&device).and_then(|all| all.get(usize::from(channel.0)))
            else {
                find(format!("a value of channel {}, which it does not have", channel.0));
                continue;
            };
            if let Err(truth) = memory.check(field, (value.as_ref(), *quality), at, clocks) {
                find(format!("{field} is told as {value:?}, {quality:?}, and is {truth}"));
            }
            by_name.insert(name.clone(), (value.clone(), *quality));
        }
        self.told.entry(device).or_default().entry(at).or_default().push(Telling { issued, by_name });
        findings
    }

    /// What a memory is said to have no record of is not in it.
    fn check_missed(&self, (no, gateway): (usize, &Gateway), misses: &Misses, now_ms: u64) -> Findings {
        let Some(memory) = gateway.memory(misses.device) else { return Vec::new() };
        // Where the gateway's clock is ahead a record is late that is still to come.
        let may_be_early = misses.cause == Cause::NotRecorded && self.odd_clocks.contains(&no);
        if !matches!(misses.cause, Cause::Overwritten | Cause::NotRecorded)
            || may_be_early
            || self.was_clock_set(no, gateway, misses.device)
        {
            return Vec::new();
        }
        let slots = misses.first..Slot(misses.first.0.saturating_add(i64::from(misses.count)));
        let (held, grid) = (memory.held(now_ms).into_iter(), memory.grid());
        let there = held.map(Timestamp).find(|at| slots.contains(&grid.slot_at(*at)));
        let what = |at: Timestamp| {
            let slot = grid.slot_at(at).0;
            format!("{}: slot {slot} is said to be {:?}, and its record is held", memory.id(), misses.cause)
        };
        there.map(|at| ("true causes", what(at))).into_iter().collect()
    }

    /// What was read of a memory for the collector was told, as far as it was there all the time.
    fn check_read(&mut self, (no, gateway): (usize, &Gateway), command: u64, now_ms: u64) -> Findings {
        let Some(asked) = self.questions.remove(&(no, command)) else { return Vec::new() };
        let Some(memory) = gateway.memory(asked.device) else { return Vec::new() };
        if self.was_clock_set(no, gateway, asked.device) {
            return Vec::new();
        }
        let told = self.told.get(&(no, asked.device));
        let was_told = |at: i64| {
            let last = told.and_then(|told| told.get(&at)?.last());
            last.is_some_and(|telling| telling.issued.told_ms >= asked.at_ms)
        };
        let held = memory.held(now_ms).into_iter();
        let silent = held.filter(|at| asked.held.contains(at)).find(|at| !was_told(*at));
        let what = |at| {
            format!("{}: command {command} was carried out, and the record of {at} was not told", memory.id())
        };
        silent.map(|at| ("memory", what(at))).into_iter().collect()
    }
}
