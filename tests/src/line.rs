//! A bus thread of the agent on a paced line of the simulators, and what both ends count.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use gapless_agent::bus::{self, BusCommand};
use gapless_agent::clock::Clock;
use gapless_agent::config::{Bus, ClockTrust, Device, Link, Parity, Serial};
use gapless_agent::event::{BusEvent, BusTotals};
use gapless_common::id::{BusId, DeviceId, DeviceIndex};
use gapless_common::profile::ByteOrder;
use gapless_common::time::{Interval, SlotGrid};
use gapless_simulators::modbus::device::generic_channels;
use gapless_simulators::modbus::{DeviceKind, LineConfig, LineStats, PtyLine};

/// Floats of a device; with its evaluation time they make [`REGISTERS`].
const FLOATS: u16 = 18;
/// Registers of a device: one request of 8 characters, an answer of 85.
pub const REGISTERS: u16 = 40;
/// From a request's last character to its answer's first, where that is longer than t3.5.
pub const TURNAROUND_MS: u32 = 5;
/// Events between the bus and the loop.
const EVENTS_MAX: usize = 256;

/// A line and its devices.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Bits per second.
    pub baud: u32,
    /// Parity bit.
    pub parity: Parity,
    /// Devices on the line, with the units 1, 2, …
    pub units: u16,
    /// Of each device.
    pub interval_ms: u64,
    /// Of each device.
    pub timeout_ms: u32,
    /// A unit that never answers.
    pub dead: Option<u8>,
}

impl Setup {
    /// Bits of a character: start, 8 data, parity, 1 stop.
    #[must_use]
    pub const fn character_bits(&self) -> u32 {
        if matches!(self.parity, Parity::None) { 10 } else { 11 }
    }

    /// `9600 8N1`
    #[must_use]
    pub fn name(&self) -> String {
        let parity = if matches!(self.parity, Parity::None) { 'N' } else { 'E' };
        format!("{} 8{parity}1", self.baud)
    }

    /// Least time of one poll: request, turnaround, answer, closing gap (MODBUS over Serial Line V1.02, section
    /// 2.5.1.1: t3.5 is 1.75 ms above 19,200 baud).
    #[must_use]
    pub fn poll_ms_least(&self) -> f64 {
        let character_ms = f64::from(self.character_bits()) * 1_000.0 / f64::from(self.baud);
        let gap_ms = if self.baud > 19_200 { 1.75 } else { 3.5 * character_ms };
        (8.0 + 85.0) * character_ms + gap_ms.max(f64::from(TURNAROUND_MS)) + gap_ms
    }

    fn bus(&self, line: &PtyLine) -> anyhow::Result<Bus> {
        let link = Link::Serial(Serial {
            port: line.path().to_owned(),
            baud: self.baud,
            parity: self.parity,
            stop_bits: 1,
            rs485: false,
            low_latency: true,
        });
        let devices = (0..self.units).map(|index| self.device(index)).collect::<anyhow::Result<_>>()?;
        Ok(Bus { id: BusId::new("line")?, link, devices })
    }

    fn device(&self, index: u16) -> anyhow::Result<Device> {
        Ok(Device {
            id: DeviceId::new(&format!("unit-{}", index + 1))?,
            index: DeviceIndex(index),
            unit: u8::try_from(index + 1)?,
            grid: SlotGrid::every(Interval::from_ms(self.interval_ms)?),
            timeout_ms: self.timeout_ms,
            retries: 1,
            turnaround_ms: 0,
            max_hole: 0,
            max_registers: 125,
            channels: generic_channels(FLOATS, ByteOrder::ABCD),
            sunspec: None,
            memory: None,
            profile: None,
            attributes: std::collections::BTreeMap::new(),
            paused: false,
        })
    }

    fn start_line(&self) -> anyhow::Result<PtyLine> {
        let kind = DeviceKind::Generic { channels: FLOATS, order: ByteOrder::ABCD };
        let units = (1..=u8::try_from(self.units)?).map(|unit| (unit, kind.clone())).collect();
        let (baud, bits_per_char) = (self.baud, self.character_bits());
        let config =
            LineConfig { baud, bits_per_char, turnaround_ms: TURNAROUND_MS, units, ..LineConfig::default() };
        let line = PtyLine::start(&config)?;
        if let Some(faults) = self.dead.and_then(|unit| line.faults(unit)) {
            faults.silent();
        }
        Ok(line)
    }

    /// Polls for `span`, then stops.
    ///
    /// # Errors
    /// Where line or thread cannot be started.
    pub fn run(&self, span: Duration) -> anyhow::Result<Outcome> {
        let line = self.start_line()?;
        let clock = Clock::new(ClockTrust::Always);
        let (events, inbox) = sync_channel::<BusEvent>(EVENTS_MAX);
        let handle = bus::spawn(self.bus(&line)?, clock.clone(), clock.now(), events)?;
        let mut log = receive_until(&inbox, Instant::now() + span);
        handle.commands.send(BusCommand::Stop)?;
        log.extend(inbox.iter().map(|event| (Instant::now(), event)));
        handle.join.join().map_err(|_| anyhow::anyhow!("the bus thread panicked"))?;
        Ok(Outcome { log, line: line.stats(), interval_ms: self.interval_ms })
    }
}

fn receive_until(inbox: &Receiver<BusEvent>, end: Instant) -> Vec<(Instant, BusEvent)> {
    let mut log = Vec::new();
    while let Ok(event) = inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
        log.push((Instant::now(), event));
        if Instant::now() >= end {
            break;
        }
    }
    log
}

/// What both ends have seen.
#[derive(Debug)]
pub struct Outcome {
    /// When each event came.
    pub log: Vec<(Instant, BusEvent)>,
    /// The line's counts.
    pub line: LineStats,
    interval_ms: u64,
}

impl Outcome {
    /// When each answer of a device came.
    pub fn answers(&self, device: u16) -> impl Iterator<Item = Instant> + '_ {
        self.log.iter().filter_map(move |(at, event)| match event {
            BusEvent::Answered { device: DeviceIndex(index), .. } if *index == device => Some(*at),
            _ => None,
        })
    }

    /// Mean time between two answers of the first device, in milliseconds; the first cycle, which opens the port
    /// and touches everything for the first time, is left out.
    #[must_use]
    pub fn cycle_ms(&self) -> f64 {
        let answers: Vec<Instant> = self.answers(0).skip(1).collect();
        match (answers.first(), answers.last(), u32::try_from(answers.len().saturating_sub(1))) {
            (Some(first), Some(last), Ok(count)) if count > 0 => {
                last.duration_since(*first).as_secs_f64() * 1_000.0 / f64::from(count)
            }
            _ => f64::NAN,
        }
    }

    /// Slots of a device that were missed, but for those after the stop.
    #[must_use]
    pub fn missed(&self, device: u16) -> u32 {
        let runs = self.log.iter().filter_map(|(_, event)| match event {
            BusEvent::Missed(run) if run.device.0 == device => Some(run),
            _ => None,
        });
        runs.filter(|run| run.cause.slug() != "stopped").map(|run| run.count).sum()
    }

    /// By how much an answer of a device came after its slot's begin at worst, in milliseconds.
    #[must_use]
    pub fn latest_ms(&self, device: u16) -> i64 {
        let late = self.log.iter().filter_map(|(_, event)| match event {
            BusEvent::Answered { device: DeviceIndex(index), at, acquired, .. } if *index == device => {
                let gapless_common::reading::Acquired::InSlot(slot) = acquired else { return None };
                let grid = SlotGrid::every(Interval::from_ms(self.interval_ms).ok()?);
                Some(at.since_ms(grid.at(*slot)))
            }
            _ => None,
        });
        late.max().unwrap_or(0)
    }

    /// The agent's own counts.
    #[must_use]
    pub fn totals(&self) -> BusTotals {
        let totals = self.log.iter().rev().find_map(|(_, event)| match event {
            BusEvent::Metrics { totals, .. } => Some(*totals),
            _ => None,
        });
        totals.unwrap_or_default()
    }
}
