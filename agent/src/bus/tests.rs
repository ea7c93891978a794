//! The shells over a real pty and a real socket, with a responder whose behaviour the test scripts.

mod lines;
mod polls;
mod responder;
mod stalls;
mod stops;
mod sunspec;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::{ChannelId, DeviceId};
use gapless_common::profile::{ByteOrder, ChannelSpec, Location, RegisterTable, Scale, ValueType};
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::{Acquired, Value};
use gapless_common::time::{Interval, SlotGrid};

use super::*;
use crate::config::{ClockTrust, TcpFraming};
use crate::event::LinkState;
use responder::{Do, End, Port, Script, serial_bus, tcp_bus};

const DEADLINE: Duration = Duration::from_secs(20);
const TIMEOUT_MS: u32 = 300;

fn channel(id: &str, address: u16) -> ChannelSpec {
    ChannelSpec {
        id: ChannelId::new(id).unwrap(),
        table: RegisterTable::HoldingRegister,
        location: Location::Absolute(address),
        value_type: ValueType::U16,
        order: ByteOrder::default(),
        scale: Scale::default(),
        scale_from: None,
        unit: "".into(),
        quantity: "".into(),
        aggregation: Aggregation::Instant,
        label: PeriodLabel::End,
        sentinels: vec![],
        valid: None,
        attributes: BTreeMap::new(),
    }
}

fn device(index: u16, unit: u8, interval_ms: u64, addresses: &[u16]) -> Device {
    Device {
        id: DeviceId::new(&format!("d{unit}")).unwrap(),
        index: DeviceIndex(index),
        unit,
        grid: SlotGrid::every(Interval::from_ms(interval_ms).unwrap()),
        timeout_ms: TIMEOUT_MS,
        retries: 0,
        turnaround_ms: 0,
        max_hole: 4,
        max_registers: 125,
        channels: addresses.iter().map(|address| channel(&format!("r{address}"), *address)).collect(),
        sunspec: None,
        memory: None,
        profile: None,
        attributes: BTreeMap::new(),
        paused: false,
    }
}

fn values(samples: &[Sample]) -> Vec<Result<f64, Quality>> {
    let value = |sample: &Sample| match &sample.value {
        Some(Value::Number(number)) => Ok(*number),
        _ => Err(sample.quality),
    };
    samples.iter().map(value).collect()
}

#[test]
fn one_device_is_read_now() {
    let two = [10, 300];

    let refused = |code| Quality::BadRefused(ExceptionCode(code));
    type Read = Result<Vec<Result<f64, Quality>>, Cause>;
    let rows: [(&str, &[Do], Read); 9] = [
        ("answers", &[Do::Answer], Ok(vec![Ok(10.0), Ok(300.0)])),
        ("silent", &[Do::Silence], Err(Cause::NoAnswer)),
        ("refuses all", &[Do::Exception(4)], Err(Cause::Refused(ExceptionCode(4)))),
        ("refuses one", &[Do::Exception(4), Do::Answer], Ok(vec![Err(refused(4)), Ok(300.0)])),
        ("passes over one", &[Do::Answer, Do::Silence], Ok(vec![Ok(10.0), Err(Quality::BadNoAnswer)])),
        ("another unit", &[Do::WrongUnit], Err(Cause::Corrupt)),
        (
            "late for the first, then well",
            &[Do::Late(450), Do::Answer],
            Ok(vec![Err(Quality::BadNoAnswer), Ok(300.0)]),
        ),
        ("cut short", &[Do::Truncated], Err(Cause::Corrupt)),
        ("hangs up", &[Do::HangUp], Err(Cause::NotConnected)),
    ];
    for (what, actions, expected) in rows {
        for open in [End::serial, End::tcp, End::rtu_over_tcp] {
            let end = open(&Script::new(actions));
            let bus = end.bus(vec![device(0, 7, 1_000, &two)]);
            let read = read_once(&bus, &bus.devices[0]);
            let read = read.map(|samples| values(&samples)).map_err(|error| match error {
                PollError::Missed { cause, .. } => cause,
                other => panic!("{what}: {other}"),
            });
            assert_eq!(read, expected, "{what} on {}", bus.link);
        }
    }
}

#[test]
fn a_retry_makes_up_for_noise() {
    for first in [Do::BadCrc, Do::Silence, Do::Truncated, Do::WrongUnit] {
        let script = Script::new(&[first, Do::Answer]);
        let end = End::serial(&script);
        let bus = end.bus(vec![Device { retries: 1, ..device(0, 7, 1_000, &[10]) }]);
        let samples = read_once(&bus, &bus.devices[0]).unwrap();
        assert_eq!(values(&samples), [Ok(10.0)], "{first:?}");
        assert_eq!(script.seen().len(), 2, "{first:?}");
    }
}

#[test]
fn a_refused_merged_request_is_split_in_the_same_poll() {
    let script = Script::new(&[Do::Exception(2), Do::Exception(2), Do::Answer]);
    let end = End::serial(&script);
    let bus = end.bus(vec![device(0, 7, 1_000, &[10, 13])]);
    let samples = read_once(&bus, &bus.devices[0]).unwrap();
    assert_eq!(values(&samples), [Err(Quality::BadRefused(ExceptionCode(2))), Ok(13.0)]);
    assert_eq!(script.seen(), [(7, 10, 4), (7, 10, 1), (7, 13, 1)]);
}

#[test]
fn a_port_in_use_and_one_that_is_not_there_are_told_apart() {
    let end = End::serial(&Script::new(&[Do::Answer]));
    let bus = end.bus(vec![device(0, 7, 1_000, &[10])]);
    let mut first = real::port(&bus.link);
    first.open().unwrap();
    let error = read_once(&bus, &bus.devices[0]).unwrap_err();
    assert!(matches!(error, PollError::Open(OpenError::InUse(_))), "{error}");
    let bus = serial_bus(Path::new("/dev/serial/by-id/none"), vec![device(0, 7, 1_000, &[10])]);
    let error = read_once(&bus, &bus.devices[0]).unwrap_err();
    assert!(matches!(error, PollError::Open(OpenError::Open { .. })), "{error}");
}

/// A bus thread and what it has said.
struct Running {
    handle: Option<BusHandle>,
    events: Receiver<BusEvent>,
    seen: Vec<BusEvent>,
}

impl Running {
    fn start(bus: Bus, trust: ClockTrust) -> Self {
        let clock = Clock::new(trust);
        let started = clock.now();
        let (events, inbox) = sync_channel(64);
        let handle = Some(spawn(bus, clock, started, events).unwrap());
        Self { handle, events: inbox, seen: vec![] }
    }

    /// Receives until an event fits.
    fn until(&mut self, what: &str, fits: impl Fn(&BusEvent) -> bool) -> BusEvent {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if fits(&event) {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{what} did not come: {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before {what}: {:?}", self.seen),
            }
        }
    }

    fn stop(mut self) -> Vec<BusEvent> {
        let handle = self.handle.take().unwrap();
        handle.commands.send(BusCommand::Stop).unwrap();
        self.seen.extend(self.events.iter());
        handle.join.join().unwrap();
        self.seen
    }
}

fn answered(event: &BusEvent) -> bool {
    matches!(event, BusEvent::Answered { .. })
}

fn opened(event: &BusEvent) -> bool {
    matches!(event, BusEvent::Bus { link: LinkState::Open, .. })
}

fn absent(event: &BusEvent) -> bool {
    matches!(event, BusEvent::Bus { link: LinkState::Absent(_), .. })
}

/// Every slot from the first to the last named is read or missed, none twice.
fn check_account(events: &[BusEvent]) {
    let mut slots: BTreeMap<i64, u32> = BTreeMap::new();
    for event in events {
        match event {
            BusEvent::Answered { acquired: Acquired::InSlot(slot), .. } => {
                *slots.entry(slot.0).or_default() += 1;
            }
            BusEvent::Missed(run) => {
                (0..i64::from(run.count)).for_each(|n| *slots.entry(run.first.0 + n).or_default() += 1);
            }
            _ => {}
        }
    }
    let (first, last) = (*slots.keys().next().unwrap(), *slots.keys().last().unwrap());
    assert!(slots.keys().copied().eq(first..=last), "holes: {slots:?}");
    assert!(slots.values().all(|count| *count == 1), "twice: {slots:?}");
}

#[test]
fn a_port_that_is_unplugged_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("by-id");
    let port = Port::new(&path, Script::new(&[Do::Answer]));
    let mut running = Running::start(serial_bus(&path, vec![device(0, 7, 100, &[10])]), ClockTrust::Always);
    running.until("an answer", answered);
    drop(port);
    running.until("the absence", absent);
    running.until(
        "a miss",
        |e| matches!(e, BusEvent::Bus { link: LinkState::Absent(why), .. } if why.contains("open")),
    );
    let _port = Port::new(&path, Script::new(&[Do::Answer]));
    running.until("the port", opened);
    running.until("an answer", answered);
    let events = running.stop();
    check_account(&events);
    let causes: Vec<Cause> = events
        .iter()
        .filter_map(|e| match e {
            BusEvent::Missed(run) => Some(run.cause),
            _ => None,
        })
        .collect();
    assert!(causes.contains(&Cause::NotConnected), "{causes:?}");
}

#[test]
fn a_connection_that_its_server_closes_costs_no_slot() {
    let script = Script::new(&[Do::Answer, Do::HangUp, Do::Answer, Do::HangUp, Do::Answer]);
    let mut running =
        Running::start(End::tcp(&script).bus(vec![device(0, 1, 300, &[10])]), ClockTrust::Always);
    for _ in 0..4 {
        running.until("an answer", answered);
    }
    let events = running.stop();
    check_account(&events);
    let missed =
        events.iter().any(|e| matches!(e, BusEvent::Missed(run) if run.cause == Cause::NotConnected));
    assert!(!missed, "{events:?}");
}

#[test]
fn a_server_that_closes_what_is_idle_is_no_absence() {
    let script = Script::new(&[Do::AnswerAndClose]);
    let mut running =
        Running::start(End::tcp(&script).bus(vec![device(0, 1, 100, &[10])]), ClockTrust::Always);
    for _ in 0..4 {
        running.until("an answer", answered);
    }
    let events = running.stop();
    check_account(&events);
    let told = events.iter().filter(|event| matches!(event, BusEvent::Bus { .. })).count();
    assert_eq!(told, 1, "{events:?}");
}

#[test]
fn a_refused_connection_is_tried_with_back_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut running =
        Running::start(tcp_bus(port, TcpFraming::Mbap, vec![device(0, 1, 100, &[10])]), ClockTrust::Always);
    let begin = Instant::now();
    running.until("the first failure", absent);
    running.until("the second failure", absent);
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    check_account(&running.stop());
}

#[test]
fn a_device_is_polled_out_of_turn() {
    let script = Script::new(&[Do::Answer]);
    let end = End::tcp(&script);
    let bus = end.bus(vec![device(0, 1, 3_600_000, &[10])]);
    let mut running = Running::start(bus, ClockTrust::Always);
    running.until("the connection", opened);
    running.handle.as_ref().unwrap().commands.send(BusCommand::PollNow(DeviceIndex(0))).unwrap();
    running.until("an answer", answered);
    let events = running.stop();
    assert!(matches!(events.last(), Some(BusEvent::Metrics { totals, .. }) if totals.answered == 1));
}
