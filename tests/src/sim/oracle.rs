//! Who knows the truth of a run: what the devices answered, what the outboxes called durable, what the collector
//! committed, and what went wrong when. It holds everything against that as it happens; what can only be told once
//! things are quiet is `judge`'s.

use std::collections::{BTreeMap, BTreeSet};

use gapless_agent::depot::MEMORY_BUDGET_BYTES;
use gapless_agent::event::BusEvent;
use gapless_common::id::{ChannelIndex, DeviceIndex, Epoch};
use gapless_common::message::Ack;
use gapless_common::quality::{Cause, Quality};
use gapless_common::ranges::RangeSet;
use gapless_common::reading::{Acquired, Misses, Sample, Value};
use gapless_common::time::{SlotGrid, Timestamp};
use gapless_common::wire::{self, Message};

use super::agreed::Paused;
use super::alerted::Alerted;
use super::clock::truth;
use super::gateway::Gateway;
use super::recall::Recall;
use super::tap::{self, Shared};

/// How old an answer may be when it is complete, in ms: its time on the wire, its retries, and what was in its way.
const ANSWER_MS_MAX: i64 = 10_000;
/// One in so many calls has its bounds checked.
const BOUNDS_EVERY: u64 = 32;
/// Most frames on their way.
const WINDOW_MAX: usize = 32;

/// What is wrong, and which invariant says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

/// One device as the oracle knows it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// When it is due.
    pub grid: SlotGrid,
    /// For how long a slot may be open, in ms: neither received nor told as missed.
    pub open_ms: i64,
    /// Which bus it is on.
    pub bus: usize,
    /// Its unit identifier.
    pub unit: u8,
    /// Its channels, in order.
    pub channels: Vec<String>,
}

/// Which answer: gateway, device, block of registers, evaluation time. No two answers share all four.
pub type AnswerKey = (usize, DeviceIndex, u8, i64);

/// An answer that a bus told its agent of.
#[derive(Debug, Clone, PartialEq)]
pub struct Issued {
    /// Its slot, or the boot clock.
    pub acquired: Acquired,
    /// Its time by the gateway's wall clock.
    pub at: Timestamp,
    /// When it was told, in ms of the run.
    pub told_ms: u64,
    /// To which process.
    pub generation: u64,
    /// What it says.
    pub samples: Vec<Sample>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// By its own will.
    Clean,
    /// By SIGKILL.
    Killed,
    /// With the machine.
    PowerCut,
}

/// One life of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Which process.
    pub generation: u64,
    /// When it began, in ms of the run and by its wall clock.
    pub began: (u64, Timestamp),
    /// When and how it ended.
    pub ended: Option<(u64, Timestamp, Stop)>,
    /// It was asked to stop and began to write that down: where the power went in that write, a disk may have kept it.
    pub was_closing: bool,
}

impl Life {
    /// When it ended, where it may be told that it did in one of these ways.
    #[must_use]
    pub fn ended_as(&self, ends: &[Stop]) -> Option<(u64, Timestamp)> {
        let (ended_ms, ended, how) = self.ended?;
        let may_be = ends.contains(&how) || self.was_closing && ends.contains(&Stop::Clean);
        may_be.then_some((ended_ms, ended))
    }
}

/// What happened to one gateway.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Its agent's lives, in order.
    pub lives: Vec<Life>,
    /// What its buses polled in vain, or did not poll, and when each was told, in ms of the run.
    pub missed: Vec<(u64, Misses)>,
    /// Devices that its buses were told to poll no more.
    pub paused: Paused,
    /// Channels of answers that carry no value: device, channel and instant.
    pub valueless: BTreeMap<(DeviceIndex, ChannelIndex, Timestamp), (Acquired, Quality)>,
    /// When its disk failed, and until when, in ms of the run.
    pub disk_faults: Vec<(u64, u64)>,
    /// When its agent kept readings in memory alone, and until when, in ms of the run.
    pub in_memory: Vec<(u64, u64)>,
    /// When its disk made the agent's loop stand still, and until when, in ms of the run, one after the other.
    pub still: Vec<(u64, u64)>,
    /// When a bus waited for room in the queue, and until when, in ms of the run.
    pub blocked: Vec<(usize, u64, u64)>,
    /// When its disk was replaced, in ms of the run.
    pub replaced: Vec<u64>,
    /// When bits flipped on its disk, in ms of the run.
    pub rot: Vec<u64>,
    /// Whether its wall clock was ever wrong or not set.
    pub has_odd_clock: bool,
    /// Whether somebody ever set it to what is not the time.
    pub was_set_wrong: bool,
}

impl History {
    /// For how much of this time the agent's loop stood still, in ms.
    #[must_use]
    pub fn still_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        let within = |&(began, ended): &(u64, u64)| ended.min(to_ms).saturating_sub(began.max(from_ms));
        self.still.iter().map(within).sum()
    }

    /// The instant after which the agent's loop had `own_ms` of its own until `to_ms`; the run's begin where it had less.
    #[must_use]
    pub fn turned_since(&self, to_ms: u64, own_ms: u64) -> u64 {
        let earlier = self.still.iter().rev().filter(|(began, _)| *began < to_ms);
        earlier.fold(to_ms.saturating_sub(own_ms), |at, &(began, ended)| {
            if ended >= at { at.saturating_sub(ended.min(to_ms) - began) } else { at }
        })
    }

    /// When the agent's loop has had `own_ms` of its own after `from_ms`.
    #[must_use]
    pub fn turned(&self, from_ms: u64, own_ms: u64) -> u64 {
        let later = self.still.iter().filter(|(_, ended)| *ended > from_ms);
        later.fold(from_ms.saturating_add(own_ms), |at, &(began, ended)| {
            if began <= at { at.saturating_add(ended - began.max(from_ms)) } else { at }
        })
    }
}

/// The oracle.
#[derive(Debug)]
pub struct Oracle {
    /// Per gateway its devices, in the order that [`DeviceIndex`] counts.
    pub devices: Vec<Vec<Known>>,
    /// When each device that is polled answered last, in ms of the run.
    pub heard_ms: BTreeMap<(usize, DeviceIndex), u64>,
    /// All answers.
    pub issued: BTreeMap<AnswerKey, Issued>,
    /// Per gateway what happened to it.
    pub histories: Vec<History>,
    /// What devices with a memory have to do with it.
    pub recall: Recall,
    /// What people were told of alerts.
    pub alerted: Alerted,
    /// When the database was put back, in ms of the run.
    pub rolled_back: Vec<u64>,
    /// What the database holds: frames committed in it.
    database: BTreeMap<(usize, Epoch), RangeSet>,
    /// What its last backup holds.
    backup: BTreeMap<(usize, Epoch), RangeSet>,
    /// Up to where the watermarks of its acknowledgements were checked.
    checked: BTreeMap<(usize, Epoch), u64>,
    paths: Vec<(String, Shared)>,
    calls: u64,
    findings: Vec<Finding>,
}

impl Oracle {
    /// An oracle of these gateways.
    #[must_use]
    pub fn new(gateways: &[Gateway]) -> Self {
        Self {
            devices: gateways.iter().map(known_devices).collect(),
            heard_ms: BTreeMap::new(),
            issued: BTreeMap::new(),
            histories: vec![History::default(); gateways.len()],
            recall: Recall::default(),
            alerted: Alerted::default(),
            rolled_back: Vec::new(),
            database: BTreeMap::new(),
            backup: BTreeMap::new(),
            checked: BTreeMap::new(),
            paths: gateways.iter().map(|g| (g.path.to_string(), g.log.clone())).collect(),
            calls: 0,
            findings: Vec::new(),
        }
    }

    /// Something is wrong.
    pub fn find(&mut self, invariant: &'static str, what: String) {
        self.findings.push(Finding { invariant, what });
    }

    /// Whether anything is.
    #[must_use]
    pub fn has_found(&self) -> bool {
        !self.findings.is_empty()
    }

    /// What is.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// A bus tells its agent something.
    pub fn note_event(&mut self, no: usize, gateway: &Gateway, event: &BusEvent, now_ms: u64) {
        tracing::trace!(at_ms = now_ms, gateway = no, ?event, "told");
        for (invariant, what) in self.recall.note_event((no, gateway), event, now_ms) {
            self.find(invariant, what);
        }
        match event {
            BusEvent::Answered { device, .. } if gateway.memory(*device).is_some() => {}
            BusEvent::Answered { device, acquired, at, samples } => {
                let issued = Issued {
                    acquired: *acquired,
                    at: *at,
                    told_ms: now_ms,
                    generation: gateway.generation,
                    samples: samples.clone(),
                };
                self.note_answer(no, gateway, *device, &issued);
            }
            BusEvent::Missed(misses) => self.histories[no].missed.push((now_ms, *misses)),
            // Channels and histories are of devices with a memory.
            BusEvent::Through { .. }
            | BusEvent::Channels { .. }
            | BusEvent::HistoryRead { .. }
            | BusEvent::Paused { .. }
            | BusEvent::Device { .. }
            | BusEvent::Complaint { .. }
            | BusEvent::Bus { .. }
            | BusEvent::Metrics { .. } => {}
        }
    }

    /// A bus is asked for what its device remembers.
    pub fn note_question(
        &mut self,
        no: usize,
        gateway: &Gateway,
        (command, device, range): (u64, DeviceIndex, (Timestamp, Timestamp)),
        now_ms: u64,
    ) {
        self.recall.note_question((no, gateway), command, (device, range), now_ms);
    }

    fn note_answer(&mut self, no: usize, gateway: &Gateway, device: DeviceIndex, issued: &Issued) {
        let known = self.devices[no][usize::from(device.0)].clone();
        if self.histories[no].paused.is_unasked(device, issued.told_ms) {
            self.find(
                "asked no more",
                format!("{}: polled at {} ms, though paused", known.name, issued.told_ms),
            );
        }
        for sample in issued.samples.iter().filter(|sample| !sample.quality.has_value()) {
            let key = (device, sample.channel, issued.at);
            self.histories[no].valueless.insert(key, (issued.acquired, sample.quality));
        }
        if let Some(why) = self.misdated(no, gateway, &known, issued) {
            self.find("timestamps", format!("{}: told at {} ms: {why}", known.name, issued.told_ms));
        }
        for (block, evaluated) in evaluations(&known, &issued.samples) {
            self.heard_ms.insert((no, device), issued.told_ms);
            let age_ms = truth(issued.told_ms).0 - evaluated;
            if !(0..=ANSWER_MS_MAX).contains(&age_ms) {
                let what =
                    format!("{}: an answer of {age_ms} ms ago is told at {} ms", known.name, issued.told_ms);
                self.find("integrity", what);
            }
            for (channel, value) in valued(&known, &issued.samples, block) {
                let true_value = gateway.grounds[known.bus].line.truth(known.unit, channel, evaluated);
                if !same(true_value.as_ref(), value) {
                    let what = format!(
                        "{}/{channel} at {evaluated}: told {value:?}, true {true_value:?}",
                        known.name
                    );
                    self.find("integrity", what);
                }
            }
            if let Some(before) = self.issued.insert((no, device, block, evaluated), issued.clone()) {
                let what =
                    format!("{}: one answer is told twice, as {before:?} and as {issued:?}", known.name);
                self.find("integrity", what);
            }
        }
    }

    /// Why the time or the slot of an answer is not its own, by the clock of its gateway.
    fn misdated(&self, no: usize, gateway: &Gateway, known: &Known, issued: &Issued) -> Option<String> {
        let (wall, at) = (gateway.now(issued.told_ms).wall, issued.at);
        // A step of the clock may come between the two looks at it.
        if self.histories[no].has_odd_clock {
            return None;
        }
        if !(0..=ANSWER_MS_MAX).contains(&wall.since_ms(at)) {
            return Some(format!("its time is {at}, and it is {wall}"));
        }
        let Acquired::InSlot(slot) = issued.acquired else { return Some("it has no slot".to_owned()) };
        let (first, end) = (known.grid.at(slot), known.grid.at(slot.plus(1)).plus_ms(ANSWER_MS_MAX));
        (!(first..end).contains(&at)).then(|| format!("its time is {at}, and its slot begins at {first}"))
    }

    /// A process begins.
    pub fn note_start(&mut self, no: usize, gateway: &Gateway, now_ms: u64) {
        self.recall.note_start(no, gateway);
        self.histories[no].paused.note_start(now_ms);
        let began = (now_ms, gateway.now(now_ms).wall);
        self.histories[no].lives.push(Life {
            generation: gateway.generation,
            began,
            ended: None,
            was_closing: false,
        });
    }

    /// A process that was asked to stop writes down that it does.
    pub fn note_closing(&mut self, no: usize) {
        if let Some(life) = self.histories[no].lives.last_mut() {
            life.was_closing = true;
        }
    }

    /// A process ends.
    pub fn note_end(&mut self, no: usize, gateway: &Gateway, how: Stop, now_ms: u64) {
        let wall = gateway.now(now_ms).wall;
        if let Some(life) = self.histories[no].lives.last_mut().filter(|life| life.ended.is_none()) {
            life.ended = Some((now_ms, wall, how));
        }
        self.note_in_memory(no, false, now_ms);
        // Nothing of it waits any longer.
        let history = &mut self.histories[no];
        history.still.iter_mut().for_each(|(_, ended)| *ended = (*ended).min(now_ms));
        history.blocked.iter_mut().for_each(|(_, _, ended)| *ended = (*ended).min(now_ms));
    }

    /// Somebody sets the gateway's clock wrong.
    pub fn note_set_wrong(&mut self, no: usize) {
        self.histories[no].was_set_wrong = true;
        self.note_odd_clock(no);
    }

    /// The gateway's clock is not to be trusted in this run.
    pub fn note_odd_clock(&mut self, no: usize) {
        self.histories[no].has_odd_clock = true;
        self.recall.note_odd_clock(no);
    }

    /// Bits flip on the gateway's disk.
    pub fn note_rot(&mut self, no: usize, now_ms: u64) {
        self.histories[no].rot.push(now_ms);
    }

    /// The gateway has another disk.
    pub fn note_replaced(&mut self, no: usize, now_ms: u64) {
        self.histories[no].replaced.push(now_ms);
    }

    /// The gateway's disk fails.
    pub fn note_disk_fault(&mut self, no: usize, now_ms: u64) {
        self.histories[no].disk_faults.push((now_ms, u64::MAX));
    }

    /// An operation of the gateway's disk fails.
    pub fn note_disk_failed(&mut self, no: usize, now_ms: u64) {
        self.histories[no].disk_faults.push((now_ms, now_ms));
    }

    /// Whether the gateway's agent keeps readings in memory alone.
    pub fn note_in_memory(&mut self, no: usize, is_so: bool, now_ms: u64) {
        let spans = &mut self.histories[no].in_memory;
        match spans.last_mut().filter(|(_, until_ms)| *until_ms == u64::MAX) {
            Some(open) if !is_so => open.1 = now_ms,
            None if is_so => spans.push((now_ms, u64::MAX)),
            _ => {}
        }
    }

    /// The gateway's disk makes the agent's loop stand still.
    pub fn note_still(&mut self, no: usize, span_ms: (u64, u64)) {
        self.histories[no].still.push(span_ms);
    }

    /// A bus of the gateway waits for room in the queue.
    pub fn note_blocked(&mut self, no: usize, bus: usize, now_ms: u64) {
        let blocked = &mut self.histories[no].blocked;
        if !blocked.iter().any(|(of, _, until)| *of == bus && *until == u64::MAX) {
            blocked.push((bus, now_ms, u64::MAX));
        }
    }

    /// It has room.
    pub fn note_unblocked(&mut self, no: usize, bus: usize, now_ms: u64) {
        let blocked = self.histories[no].blocked.iter_mut();
        blocked.filter(|(of, _, until)| *of == bus && *until == u64::MAX).for_each(|span| span.2 = now_ms);
    }

    /// The gateway's disk works again.
    pub fn note_disk_healed(&mut self, no: usize, now_ms: u64) {
        for fault in self.histories[no].disk_faults.iter_mut().filter(|fault| fault.1 == u64::MAX) {
            fault.1 = now_ms;
        }
    }

    /// The database is copied.
    pub fn note_back_up(&mut self) {
        self.backup = self.database.clone();
    }

    /// The database is what its copy was.
    pub fn note_rollback(&mut self, now_ms: u64) {
        self.database = self.backup.clone();
        self.checked.clear();
        self.rolled_back.push(now_ms);
    }

    /// The database has committed a frame.
    pub fn note_committed(&mut self, no: usize, epoch: Epoch, first: u64, last: u64) {
        self.database.entry((no, epoch)).or_default().insert(first, last);
    }

    /// Whether the database, as it is, holds a record.
    #[must_use]
    pub fn holds(&self, no: usize, (epoch, seq): (Epoch, u64)) -> bool {
        self.database.get(&(no, epoch)).is_some_and(|ranges| ranges.contains(seq))
    }

    /// What the collector sends: it acknowledges only what is committed, or what an outbox named as lost.
    pub fn check_answer(&mut self, topic: &str, payload: &[u8]) {
        let of = |(path, _): &(String, Shared)| topic == format!("gapless/v1/{path}/down/ack");
        let Some(no) = self.paths.iter().position(of) else { return };
        let Ok(Message::Ack(ack)) = wire::decode(payload) else {
            return self.find("acknowledged only what is committed", format!("{topic}: no acknowledgement"));
        };
        if let Some(what) = self.early(no, &ack) {
            self.find("acknowledged only what is committed", what);
        }
    }

    fn early(&mut self, no: usize, ack: &Ack) -> Option<String> {
        let none = RangeSet::new();
        let log = &*tap::lock(&self.paths[no].1);
        for said in &ack.epochs {
            let committed = self.database.get(&(no, said.epoch)).unwrap_or(&none);
            let lost = log.lost.get(&said.epoch).unwrap_or(&none);
            let checked = self.checked.entry((no, said.epoch)).or_default();
            let watermark = (*checked + 1, said.watermark.0);
            let above = said.above.iter().map(|(first, last)| (first.0, last.0));
            for (first, last) in above.chain([watermark]).filter(|(first, last)| first <= last) {
                let kept = log.kept.range((said.epoch, first)..=(said.epoch, last));
                // What a database that was put back had, and the outbox has no more, can only be given up.
                let is_forgotten = |seq| {
                    let ever = log.committed.get(&said.epoch).is_some_and(|ever| ever.contains(seq));
                    !self.rolled_back.is_empty() && ever && log.is_gone(said.epoch, seq)
                };
                let mut early = kept.filter(|((_, seq), kept)| {
                    let is_here = committed.contains(*seq) || lost.contains(*seq) || is_forgotten(*seq);
                    kept.card == log.card && !is_here
                });
                if let Some(((epoch, seq), _)) = early.next() {
                    return Some(format!("{epoch}/{seq} is acknowledged, and no database has it"));
                }
            }
            *checked = (*checked).max(said.watermark.0);
        }
        None
    }

    /// Disk and window stay within their bounds.
    pub fn check_bounds(&mut self, no: usize, gateway: &Gateway) {
        self.calls += 1;
        let Some(process) = gateway.process.as_ref().filter(|_| self.calls.is_multiple_of(BOUNDS_EVERY))
        else {
            return;
        };
        let (depot, uplink) = (process.engine.depot(), process.engine.uplink());
        let is_in_memory = depot.failure().is_some();
        let budget_bytes = if is_in_memory { MEMORY_BUDGET_BYTES } else { gateway.options.budget() };
        let taken_bytes = depot.stats().disk_bytes;
        if taken_bytes > budget_bytes {
            self.find("bounds", format!("gateway {no} takes {taken_bytes} of {budget_bytes} bytes"));
        }
        if uplink.in_flight > WINDOW_MAX {
            self.find("bounds", format!("gateway {no} has {} frames on their way", uplink.in_flight));
        }
    }

    /// What the tap on an outbox saw.
    pub fn take_from_tap(&mut self, log: &Shared) {
        let wrong = std::mem::take(&mut tap::lock(log).wrong);
        self.findings.extend(wrong.into_iter().map(|(invariant, what)| Finding { invariant, what }));
    }

    /// The causes that buses gave for a slot of a device.
    pub fn missed_causes(&self, no: usize, device: DeviceIndex, slot: i64) -> BTreeSet<Cause> {
        self.misses(no, device, slot).map(|(_, cause)| cause).collect()
    }

    /// When a bus named a slot of a device as missed, in ms of the run, and why.
    pub fn misses(&self, no: usize, device: DeviceIndex, slot: i64) -> impl Iterator<Item = (u64, Cause)> {
        let names = move |m: &Misses| {
            m.device == device && (m.first.0..m.first.0.saturating_add(i64::from(m.count))).contains(&slot)
        };
        let all = self.histories[no].missed.iter();
        all.filter(move |(_, misses)| names(misses)).map(|(told_ms, misses)| (*told_ms, misses.cause))
    }
}

fn known_devices(gateway: &Gateway) -> Vec<Known> {
    let buses = gateway.config.buses.iter().enumerate();
    let devices = buses.flat_map(|(bus, of)| of.devices.iter().map(move |device| (bus, device)));
    devices
        .map(|(bus, device)| Known {
            name: device.id.to_string(),
            grid: device.grid,
            open_ms: device.grid.interval.as_ms(),
            bus,
            unit: device.unit,
            channels: device.channels.iter().map(|channel| channel.id.to_string()).collect(),
        })
        .collect()
}

/// The channel of each block that tells its evaluation time.
pub const CLOCKS: [&str; 2] = ["time_a", "time_b"];

/// The block of registers of the made-up meter that a channel belongs to.
#[must_use]
pub fn block_of(channel: &str) -> u8 {
    u8::from(["current", "reactive", "energy_out", CLOCKS[1]].contains(&channel))
}

/// Block and evaluation time of each block that the samples have an evaluation time of.
#[must_use]
pub fn evaluations(known: &Known, samples: &[Sample]) -> Vec<(u8, i64)> {
    let evaluation = |sample: &Sample| {
        let channel = known.channels.get(usize::from(sample.channel.0))?;
        match sample.value {
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 are far below 2^53")]
            Some(Value::Number(ms)) if CLOCKS.contains(&channel.as_str()) => {
                Some((block_of(channel), ms as i64))
            }
            _ => None,
        }
    };
    samples.iter().filter_map(evaluation).collect()
}

fn valued<'a>(
    known: &'a Known,
    samples: &'a [Sample],
    block: u8,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    samples.iter().filter_map(move |sample| {
        let channel = known.channels.get(usize::from(sample.channel.0))?;
        let value = sample.value.as_ref()?;
        (block_of(channel) == block).then_some((channel.as_str(), value))
    })
}

/// Equal to the bit.
#[must_use]
pub fn same(one: Option<&Value>, other: &Value) -> bool {
    match (one, other) {
        (Some(Value::Number(one)), Value::Number(other)) => one.to_bits() == other.to_bits(),
        (one, other) => one == Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (from or to, own time, when it has had it, since when it had it), in ms.
    #[test]
    fn time_in_which_a_loop_stands_still_is_not_its_own() {
        let history = History { still: vec![(100, 200), (250, 300)], ..History::default() };
        let rows = [
            (50, 40, 90, 10),
            (50, 60, 210, 0),
            (150, 10, 210, 90),
            (150, 100, 350, 0),
            (300, 10, 310, 240),
            (300, 60, 360, 90),
            (310, 10, 320, 250),
        ];
        for (at, own, after, before) in rows {
            assert_eq!(history.turned(at, own), after, "{own} from {at} on");
            assert_eq!(history.turned_since(at, own), before, "{own} up to {at}");
        }
        assert_eq!(
            [(0, 90), (150, 260), (0, 900)].map(|(from, to)| history.still_ms(from, to)),
            [0, 60, 150]
        );
    }
}
