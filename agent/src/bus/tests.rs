//! The shells over a real pty and a real socket, with a responder whose behaviour the test scripts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::{BusId, ChannelId, DeviceId};
use gapless_common::profile::{ByteOrder, ChannelSpec, Location, RegisterTable, Scale, ValueType};
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::{Acquired, Value};
use gapless_common::time::{Interval, SlotGrid};
use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::config::{ClockTrust, Link, Parity, Serial, Tcp, TcpFraming};
use crate::event::LinkState;
use crate::modbus::rtu::crc16;

const DEADLINE: Duration = Duration::from_secs(20);
const TIMEOUT_MS: u32 = 300;

/// What a responder does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Do {
    /// Answers with registers that hold their own addresses.
    Answer,
    Silence,
    /// Answers so many milliseconds late.
    Late(u64),
    Exception(u8),
    BadCrc,
    WrongUnit,
    Truncated,
    HangUp,
}

/// One scripted action per request, the last one for ever; and the requests seen, as (unit, start, count).
#[derive(Debug, Clone)]
struct Script {
    todo: Arc<Mutex<Vec<Do>>>,
    seen: Arc<Mutex<Vec<(u8, u16, u16)>>>,
}

impl Script {
    fn new(actions: &[Do]) -> Self {
        let todo: Vec<Do> = actions.iter().rev().copied().collect();
        Self { todo: Arc::new(Mutex::new(todo)), seen: Arc::default() }
    }

    fn next(&self, unit: u8, start: u16, count: u16) -> Do {
        self.seen.lock().unwrap().push((unit, start, count));
        let mut todo = self.todo.lock().unwrap();
        if todo.len() > 1 { todo.pop().unwrap() } else { todo[0] }
    }

    fn seen(&self) -> Vec<(u8, u16, u16)> {
        self.seen.lock().unwrap().clone()
    }
}

fn pdu(function: u8, start: u16, count: u16, action: Do) -> Vec<u8> {
    if let Do::Exception(code) = action {
        return vec![function | 0x80, code];
    }
    let mut pdu = vec![function, u8::try_from(2 * count).unwrap()];
    pdu.extend((start..start + count).flat_map(u16::to_be_bytes));
    pdu
}

fn rtu_answer(request: &[u8], action: Do) -> Vec<u8> {
    let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
    let mut frame = vec![request[0]];
    if action == Do::WrongUnit {
        frame[0] += 1;
    }
    frame.extend(pdu(request[1], word(2), word(4), action));
    frame.extend(crc16(&frame).to_le_bytes());
    match action {
        Do::BadCrc => *frame.last_mut().unwrap() ^= 1,
        Do::Truncated => frame.truncate(4),
        _ => {}
    }
    frame
}

/// The other end of a serial line, on a pty: `path` leads to it as a by-id link does.
struct Port {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
    stop: Arc<Mutex<bool>>,
}

impl Port {
    fn new(path: &Path, script: Script) -> Self {
        let master =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        // Held open and raw, so that bytes neither echo nor hang up before the agent has opened it.
        let slave = File::options().read(true).write(true).open(&name).unwrap();
        let mut termios = rustix::termios::tcgetattr(&slave).unwrap();
        termios.make_raw();
        rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &termios).unwrap();
        let _ = std::fs::remove_file(path);
        std::os::unix::fs::symlink(&name, path).unwrap();
        let stop = Arc::new(Mutex::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve_serial(master, &slave, &script, &stopped));
        Self { path: path.to_owned(), thread: Some(thread), stop }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        self.thread.take().unwrap().join().unwrap();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve_serial(master: OwnedFd, _slave: &File, script: &Script, stop: &Mutex<bool>) {
    let mut port = File::from(master);
    let mut request = Vec::new();
    while !*stop.lock().unwrap() {
        let mut fds = [PollFd::new(&port, PollFlags::IN)];
        let brief = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        if rustix::event::poll(&mut fds, Some(&brief)).unwrap() == 0 {
            continue;
        }
        let mut buffer = [0; 64];
        let count = port.read(&mut buffer).unwrap();
        request.extend(&buffer[..count]);
        if request.len() < 8 {
            continue;
        }
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let action = script.next(request[0], word(2), word(4));
        if let Do::Late(ms) = action {
            std::thread::sleep(Duration::from_millis(ms));
        }
        match action {
            Do::HangUp => return,
            Do::Silence => {}
            action => port.write_all(&rtu_answer(&request, action)).unwrap(),
        }
        request.clear();
    }
}

fn serve_tcp(listener: TcpListener, script: Script) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let script = script.clone();
            std::thread::spawn(move || serve_mbap(stream.unwrap(), &script));
        }
    });
}

fn serve_mbap(mut stream: TcpStream, script: &Script) {
    let mut request = [0; 12];
    while stream.read_exact(&mut request).is_ok() {
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let action = script.next(request[6], word(8), word(10));
        let pdu = pdu(request[7], word(8), word(10), action);
        let mut frame = request[..4].to_vec();
        frame.extend(u16::try_from(pdu.len() + 1).unwrap().to_be_bytes());
        frame.push(if action == Do::WrongUnit { request[6] + 1 } else { request[6] });
        frame.extend(pdu);
        match action {
            Do::HangUp => return,
            Do::Silence => {}
            Do::Truncated => stream.write_all(&frame[..9]).unwrap(),
            Do::Late(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                let _ = stream.write_all(&frame);
            }
            _ => stream.write_all(&frame).unwrap(),
        }
    }
}

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
        profile: None,
        attributes: BTreeMap::new(),
        paused: false,
    }
}

fn serial_bus(path: &Path, devices: Vec<Device>) -> Bus {
    let link = Link::Serial(Serial {
        port: path.to_owned(),
        baud: 115_200,
        parity: Parity::None,
        stop_bits: 1,
        rs485: false,
        low_latency: true,
    });
    Bus { id: BusId::new("b").unwrap(), link, devices }
}

fn tcp_bus(port: u16, devices: Vec<Device>) -> Bus {
    let link = Link::Tcp(Tcp { host: "127.0.0.1".to_owned(), port, framing: TcpFraming::Mbap });
    Bus { id: BusId::new("b").unwrap(), link, devices }
}

/// A line with a scripted device at its end.
enum End {
    Serial { port: Port, _dir: tempfile::TempDir },
    Tcp(u16),
}

impl End {
    fn serial(script: &Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::Serial { port: Port::new(&dir.path().join("port"), script.clone()), _dir: dir }
    }

    fn tcp(script: &Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        serve_tcp(listener, script.clone());
        Self::Tcp(port)
    }

    fn bus(&self, devices: Vec<Device>) -> Bus {
        match self {
            Self::Serial { port, .. } => serial_bus(&port.path, devices),
            Self::Tcp(port) => tcp_bus(*port, devices),
        }
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
        for open in [End::serial, End::tcp] {
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
    let mut first = Line::new(&bus.link);
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
        let since = clock.now().wall;
        let (events, inbox) = sync_channel(64);
        let handle = Some(spawn(bus, clock, since, events).unwrap());
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
fn a_refused_connection_is_tried_with_back_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut running = Running::start(tcp_bus(port, vec![device(0, 1, 100, &[10])]), ClockTrust::Always);
    let begin = Instant::now();
    running.until("the first failure", absent);
    running.until("the second failure", absent);
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    check_account(&running.stop());
}

#[test]
fn a_late_answer_never_passes_for_another() {
    // Two requests of one length to one unit; the first is answered after its time-out and the settling.
    let script = Script::new(&[Do::Late(u64::from(TIMEOUT_MS) * 3 / 2), Do::Answer]);
    let end = End::serial(&script);
    let bus = end.bus(vec![device(0, 7, 1_000, &[10, 300])]);
    let samples = read_once(&bus, &bus.devices[0]).unwrap();
    assert_eq!(values(&samples), [Err(Quality::BadNoAnswer), Ok(300.0)]);
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
