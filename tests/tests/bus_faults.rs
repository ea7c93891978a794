//! The agent's bus against devices that misbehave: every slot ends as a reading or as a miss with the right cause,
//! and no stored value is anything but the device's truth at the instant of its own request.
//!
//! The witness is the simulators' answer log. Timing of a good line is `bus`'s business.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail it")]

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use gapless_agent::bus::{self, BusCommand, BusHandle};
use gapless_agent::clock::Clock;
use gapless_agent::config::{Bus, ClockTrust, Device, Link, Parity, Serial, Tcp, TcpFraming};
use gapless_agent::event::{BusEvent, LinkState};
use gapless_common::id::{BusId, DeviceId, DeviceIndex};
use gapless_common::profile::{ByteOrder, ChannelSpec, Location};
use gapless_common::quality::{Cause, ExceptionCode};
use gapless_common::reading::{Acquired, Sample};
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use gapless_simulators::modbus::device::generic_channels;
use gapless_simulators::modbus::{
    Answer, DeviceKind, Fault, FaultKind, Faults, Framing, LineConfig, PtyLine, TcpConfig, TcpServer, Units,
};

const DEADLINE: Duration = Duration::from_secs(20);
const BAUD: u32 = 115_200;
const INTERVAL_MS: u64 = 250;
/// Time enough for a second request after one that timed out.
const LONG_INTERVAL_MS: u64 = 500;
const TIMEOUT_MS: u32 = 100;
/// Floats of a device; with its evaluation time 44 registers.
const FLOATS: u16 = 20;
/// All of a device in one request, or in two of one length, which nothing but their registers tells apart.
const ONE_REQUEST: u16 = 125;
const TWO_REQUESTS: u16 = 22;
/// How many answers a fault strikes: fewer than it takes to set a device aside.
const STRIKES: u32 = 2;

/// What the devices hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Pty,
    Mbap,
    RtuOverTcp,
}

enum End {
    Pty(PtyLine),
    Tcp(TcpServer, TcpFraming),
}

impl End {
    fn start(wire: Wire) -> Self {
        let kind = DeviceKind::Generic { channels: FLOATS, order: ByteOrder::ABCD };
        let units = vec![(1, kind.clone()), (2, kind)];
        let tcp = |framing, ours| {
            let config = TcpConfig { framing, units: units.clone(), ..TcpConfig::default() };
            Self::Tcp(TcpServer::start(&config).unwrap(), ours)
        };
        match wire {
            Wire::Mbap => tcp(Framing::Mbap, TcpFraming::Mbap),
            Wire::RtuOverTcp => tcp(Framing::RtuOverTcp, TcpFraming::Rtu),
            Wire::Pty => {
                let config = LineConfig { baud: BAUD, units, ..LineConfig::default() };
                Self::Pty(PtyLine::start(&config).unwrap())
            }
        }
    }

    fn link(&self) -> Link {
        match self {
            Self::Tcp(server, framing) => {
                let address = server.address();
                Link::Tcp(Tcp { host: address.ip().to_string(), port: address.port(), framing: *framing })
            }
            Self::Pty(line) => Link::Serial(Serial {
                port: line.path().to_owned(),
                baud: BAUD,
                parity: Parity::None,
                stop_bits: 1,
                rs485: false,
                low_latency: true,
            }),
        }
    }

    fn units(&self) -> &Units {
        match self {
            Self::Pty(line) => line.units(),
            Self::Tcp(server, _) => server.units(),
        }
    }

    fn faults(&self) -> &Faults {
        self.units().faults(1).unwrap()
    }

    fn unplug(&self) {
        match self {
            Self::Pty(line) => line.unplug(),
            Self::Tcp(server, _) => server.unplug(),
        }
    }

    fn replug(&self) {
        match self {
            Self::Pty(line) => line.replug().unwrap(),
            Self::Tcp(server, _) => server.replug().unwrap(),
        }
    }
}

fn channels() -> Vec<ChannelSpec> {
    generic_channels(FLOATS, ByteOrder::ABCD)
}

fn device(index: u16, interval_ms: u64, max_registers: u16) -> Device {
    Device {
        id: DeviceId::new(&format!("unit-{}", index + 1)).unwrap(),
        index: DeviceIndex(index),
        unit: u8::try_from(index + 1).unwrap(),
        grid: SlotGrid::every(Interval::from_ms(interval_ms).unwrap()),
        timeout_ms: TIMEOUT_MS,
        retries: 0,
        turnaround_ms: 0,
        max_hole: 0,
        max_registers,
        channels: channels(),
        sunspec: None,
        memory: None,
        profile: None,
        attributes: BTreeMap::new(),
        paused: false,
    }
}

/// A running bus with two devices, and all that it has said.
struct Scene {
    end: End,
    handle: BusHandle,
    events: Receiver<BusEvent>,
    log: Vec<BusEvent>,
}

impl Scene {
    fn start(wire: Wire, row: &Row) -> Self {
        let end = End::start(wire);
        let devices = [0, 1].map(|index| device(index, row.interval_ms, row.max_registers)).to_vec();
        let bus = Bus { id: BusId::new("b").unwrap(), link: end.link(), devices };
        let clock = Clock::new(ClockTrust::Always);
        let started = clock.now();
        let (events, inbox) = sync_channel(64);
        let handle = bus::spawn(bus, clock, started, events).unwrap();
        Self { end, handle, events: inbox, log: vec![] }
    }

    fn until(&mut self, what: &str, fits: impl Fn(&BusEvent) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            let last = &self.log[self.log.len().saturating_sub(8)..];
            let event = event.unwrap_or_else(|e| panic!("{what} did not come ({e}): {last:?}"));
            let found = fits(&event);
            self.log.push(event);
            if found {
                return;
            }
        }
    }

    fn until_both_answer(&mut self) {
        for index in [0, 1, 0] {
            self.until("an answer", |e| matches!(e, BusEvent::Answered { device, .. } if device.0 == index));
        }
    }

    /// Stops the bus. The end stays, for its log.
    fn stop(mut self) -> (End, Vec<BusEvent>) {
        self.handle.commands.send(BusCommand::Stop).unwrap();
        self.log.extend(self.events.iter());
        self.handle.join.join().unwrap();
        (self.end, self.log)
    }
}

/// One way to misbehave.
struct Row {
    what: &'static str,
    interval_ms: u64,
    max_registers: u16,
    act: fn(&mut Scene),
    /// The cause that slots of unit 1 are missed with, and how many; `None`: as many as it happens to be. Where an answer
    /// is late only a part of a poll fails, and it may be none.
    missed: (Cause, Option<u32>),
}

fn row(what: &'static str, act: fn(&mut Scene), cause: Cause) -> Row {
    Row { what, interval_ms: INTERVAL_MS, max_registers: ONE_REQUEST, act, missed: (cause, Some(STRIKES)) }
}

fn check(wire: Wire, row: &Row) {
    let what = format!("{} on {wire:?}", row.what);
    let mut scene = Scene::start(wire, row);
    scene.until_both_answer();
    (row.act)(&mut scene);
    let cause = row.missed.0;
    if cause != Cause::NoAnswer {
        scene.until(
            &what,
            |event| matches!(event, BusEvent::Missed(run) if run.device.0 == 0 && run.cause == cause),
        );
    }
    scene.until_both_answer();
    let (end, log) = scene.stop();
    let misses = misses(&log, 0);
    let others = misses.keys().find(|slug| ![cause.slug(), "overrun", "stopped"].contains(slug));
    assert_eq!(others, None, "{what}: {misses:?}");
    let count = misses.get(cause.slug()).copied().unwrap_or(0);
    assert!(row.missed.1.is_none_or(|expected| count == expected), "{what}: {misses:?}");
    for index in [0, 1] {
        check_account(&what, &log, index);
        check_truth(&what, &end, &log, index);
    }
}

fn misses(log: &[BusEvent], index: u16) -> BTreeMap<&'static str, u32> {
    let mut counts = BTreeMap::new();
    for event in log {
        match event {
            BusEvent::Missed(run) if run.device.0 == index => {
                *counts.entry(run.cause.slug()).or_default() += run.count;
            }
            _ => {}
        }
    }
    counts
}

/// Every slot from the first to the last named is read or missed, never both.
fn check_account(what: &str, log: &[BusEvent], index: u16) {
    let (mut read, mut missed) = (Vec::new(), Vec::new());
    for event in log {
        match event {
            BusEvent::Answered { device, acquired: Acquired::InSlot(slot), .. } if device.0 == index => {
                read.push(slot.0);
            }
            BusEvent::Missed(run) if run.device.0 == index => {
                missed.extend((0..i64::from(run.count)).map(|n| run.first.0 + n));
            }
            _ => {}
        }
    }
    // A poll of several requests is read in several answers.
    read.dedup();
    let mut all = [read, missed].concat();
    all.sort_unstable();
    let (first, last) = (all[0], all[all.len() - 1]);
    assert!(all.iter().copied().eq(first..=last), "{what}: slots of device {index}: {all:?}");
}

/// Every value is what its device measured when the last request for it was complete.
fn check_truth(what: &str, end: &End, log: &[BusEvent], index: u16) {
    let (specs, answers) = (channels(), end.units().log().answers());
    let unit = u8::try_from(index + 1).unwrap();
    let mut checked = 0;
    for event in log {
        let BusEvent::Answered { device, at, samples, .. } = event else { continue };
        if device.0 != index {
            continue;
        }
        for Sample { channel, value, .. } in samples {
            let Some(value) = value else { continue };
            let spec = &specs[usize::from(channel.0)];
            let asked = last_request(&answers, unit, spec, *at);
            let truth = end.units().device(unit).unwrap().truth(spec.id.as_str(), asked.eval_ms);
            assert_eq!(Some(value), truth.as_ref(), "{what}: {unit}/{} at {at}, asked by {asked:?}", spec.id);
            checked += 1;
        }
    }
    assert!(checked > usize::from(FLOATS), "{what}: {checked} values of unit {unit}");
}

fn last_request<'a>(answers: &'a [Answer], unit: u8, spec: &ChannelSpec, at: Timestamp) -> &'a Answer {
    let Location::Absolute(address) = spec.location else { panic!("{} has an address", spec.id) };
    let holds = |answer: &&Answer| (answer.start..answer.start + answer.count).contains(&address);
    let mut before = answers.iter().filter(|answer| answer.unit == unit && answer.eval_ms <= at.0);
    before.rfind(holds).unwrap_or_else(|| panic!("nobody asked for {}", spec.id))
}

const REFUSED: Cause = Cause::Refused(ExceptionCode(4));

/// What every wire can do to an answer.
fn spoiled() -> Vec<Row> {
    vec![
        row("a wrong CRC, or protocol", |s| s.end.faults().wrong_crc(STRIKES), Cause::Corrupt),
        row("half an answer", |s| s.end.faults().truncated(STRIKES), Cause::Corrupt),
        row("another unit", |s| s.end.faults().wrong_unit(STRIKES), Cause::Corrupt),
        row("another function", |s| s.end.faults().wrong_function(STRIKES), Cause::Corrupt),
        row("another count", |s| s.end.faults().wrong_count(STRIKES), Cause::Corrupt),
        row("garbage before the answer", |s| s.end.faults().garbage(3, STRIKES), Cause::Corrupt),
        row("a refusal", |s| s.end.faults().exception(4, STRIKES), REFUSED),
        unplugged("unplugged and back", |s| {
            s.end.unplug();
            s.until("the absence", |e| matches!(e, BusEvent::Bus { link: LinkState::Absent(_), .. }));
            let failed = |e: &BusEvent| matches!(e, BusEvent::Bus { link: LinkState::Absent(why), .. } if why.contains("cannot"));
            s.until("an attempt in vain", failed);
            // A slot of each has to fall due meanwhile.
            std::thread::sleep(Duration::from_millis(2 * INTERVAL_MS));
            s.end.replug();
            s.until("the link", |e| matches!(e, BusEvent::Bus { link: LinkState::Open, .. }));
        }),
    ]
}

fn unplugged(what: &'static str, act: fn(&mut Scene)) -> Row {
    Row {
        what,
        interval_ms: INTERVAL_MS,
        max_registers: ONE_REQUEST,
        act,
        missed: (Cause::NotConnected, None),
    }
}

/// The first request of a poll is answered after its time-out, the second slowly: during the settling, and while the
/// answer to the second is awaited, which the late one would fit.
fn late() -> Vec<Row> {
    let late = |what, act| Row {
        what,
        interval_ms: LONG_INTERVAL_MS,
        max_registers: TWO_REQUESTS,
        act,
        missed: (Cause::NoAnswer, None),
    };
    vec![
        late("late by a tenth", |s| late_then_slow(s, TIMEOUT_MS * 11 / 10)),
        late("late by a third", |s| late_then_slow(s, TIMEOUT_MS * 4 / 3)),
        late("late by a half", |s| late_then_slow(s, TIMEOUT_MS * 3 / 2)),
        late("late by three quarters", |s| late_then_slow(s, TIMEOUT_MS * 7 / 4)),
    ]
}

/// Until both have struck: on a busy machine the first may even be taken for in time, which it then is.
fn late_then_slow(scene: &mut Scene, late_ms: u32) {
    // Unit 1 is polled first: its poll is over then.
    scene.until("unit 2", |event| matches!(event, BusEvent::Answered { device, .. } if device.0 == 1));
    let slow_ms = TIMEOUT_MS * 7 / 10;
    let faults = scene.end.faults();
    faults.add(Fault::new(FaultKind::Delay { ms: slow_ms }).after(1).times(1));
    faults.late(late_ms, 1);
    while scene.end.faults().list().iter().any(|fault| fault.remaining > 0) {
        scene.until("the next poll", |event| matches!(event, BusEvent::Answered { .. }));
    }
}

#[test]
fn a_serial_line_stores_nothing_but_the_truth() {
    spoiled().iter().for_each(|row| check(Wire::Pty, row));
}

#[test]
fn modbus_tcp_stores_nothing_but_the_truth() {
    spoiled().iter().for_each(|row| check(Wire::Mbap, row));
    check(
        Wire::Mbap,
        &row("another transaction", |s| s.end.faults().wrong_transaction(STRIKES), Cause::Corrupt),
    );
}

#[test]
fn rtu_over_tcp_stores_nothing_but_the_truth() {
    spoiled().iter().for_each(|row| check(Wire::RtuOverTcp, row));
}

#[test]
fn a_late_answer_is_never_a_reading_of_another_request() {
    for wire in [Wire::Pty, Wire::Mbap, Wire::RtuOverTcp] {
        late().iter().for_each(|row| check(wire, row));
    }
}
