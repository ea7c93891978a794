//! A bus that is to stop: it is noticed whatever is waited for, and whatever else was asked for before.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::line::{Ask, ExchangeError, Line};
use super::super::patience::{Inbox, Patience};
use super::*;
use crate::clock::Mono;
use crate::config::Link;
use crate::modbus::pdu::Request;
use crate::modbus::{Answer, UnitId};

const MS: u64 = 1_000_000;

/// A line on which nothing ever comes, or noise without end, and commands that have been given.
#[derive(Default)]
struct Deaf {
    babbles: bool,
    now: Mono,
    commands: VecDeque<BusCommand>,
}

impl ground::Port for Deaf {
    fn mono(&mut self) -> Mono {
        self.now
    }

    fn sleep_until(&mut self, instant: Mono) {
        self.now = self.now.max(instant);
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        Ok(Opened { prompt: true })
    }

    fn close(&mut self) {}

    fn write_all(&mut self, _: &[u8], _: Mono) -> io::Result<()> {
        Ok(())
    }

    fn readable(&mut self, until: Mono) -> io::Result<bool> {
        self.now = if self.babbles { self.now.plus_ns(MS) } else { self.now.max(until) };
        Ok(self.babbles)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = if self.babbles { buffer.len().min(16) } else { 0 };
        buffer[..count].fill(0x55);
        Ok(count)
    }
}

impl Ground for Deaf {
    fn port(&mut self) -> &mut dyn ground::Port {
        self
    }

    fn now(&self) -> Now {
        Now { boot_ms: self.now.0 / MS, wall: gapless_common::time::Timestamp(0), wall_set: false }
    }

    fn command(&mut self) -> Option<BusCommand> {
        self.commands.pop_front()
    }

    fn emit(&mut self, _: BusEvent) -> bool {
        true
    }
}

/// The requests of one poll, each asked for in vain.
struct Asking {
    ground: Deaf,
    inbox: Inbox,
    line: Line,
}

impl Asking {
    fn new(link: &Link, babbles: bool) -> Self {
        let mut ground = Deaf { babbles, ..Deaf::default() };
        let mut line = Line::new(link);
        line.open(&mut ground).unwrap();
        Self { ground, inbox: Inbox::default(), line }
    }

    /// Asks unit 7, which has a time-out of three seconds, for the register at `address`; says also whether patience was
    /// over, and how long it took.
    fn ask(&mut self, address: u16) -> (Result<Answer, ExchangeError>, bool, Duration) {
        let begin = self.ground.now;
        let request = Request::read(RegisterTable::HoldingRegister, address, 1).unwrap();
        let (unit, timeout, turnaround) = (UnitId(7), Duration::from_secs(3), Duration::ZERO);
        let ask = Ask { unit, request: &request, timeout, turnaround, is_retry: false };
        let mut port = Patience::new(&mut self.ground, &mut self.inbox);
        let (result, is_over) = (self.line.exchange(&mut port, &ask), port.is_over);
        (result, is_over, Duration::from_nanos(self.ground.now.since_ns(begin)))
    }
}

/// Register 300 may not be asked for before a late answer for register 10 can no longer come; on a line that is never
/// silent there is always something to read meanwhile.
#[test]
fn a_stop_is_noticed_while_a_late_answer_is_waited_out() {
    let serial = serial_bus(Path::new("none"), vec![]).link;
    let tcp = tcp_bus(1, TcpFraming::Rtu, vec![]).link;
    for (link, babbles) in [(&serial, false), (&tcp, false), (&serial, true)] {
        let mut asking = Asking::new(link, babbles);
        let (first, is_over, _) = asking.ask(10);
        assert!(first.is_err() && !is_over, "{link}: {first:?}");

        asking.ground.commands.push_back(BusCommand::Stop);
        let (second, is_over, took) = asking.ask(300);
        assert!(matches!(second, Err(ExchangeError::Lost(_))) && is_over, "{link}: {second:?}, {took:?}");
        assert!(took <= STOP_PATIENCE + Duration::from_millis(2), "{link}: {took:?}");

        let (third, _, took) = asking.ask(500);
        assert!(matches!(third, Err(ExchangeError::Lost(_))), "{link}: {third:?}");
        assert!(took <= Duration::from_millis(2), "one patience for all of a poll; {link}: {took:?}");
    }
}

/// The request of another poll waits for the late answer to the first one, for two time-outs.
#[test]
fn a_line_that_is_never_silent_holds_up_no_stop() {
    let end = End::serial(&Script::new(&[Do::Babble]));
    let slow = Device { timeout_ms: 20_000, ..device(0, 7, 3_600_000, &[10]) };
    let mut running = Running::start(end.bus(vec![slow]), ClockTrust::Always);
    let commands = running.handle.as_ref().unwrap().commands.clone();
    running.until("the port", opened);
    commands.send(BusCommand::PollNow(DeviceIndex(0))).unwrap();
    running.until("the failure of a poll", |event| matches!(event, BusEvent::Device { .. }));
    commands.send(BusCommand::PollNow(DeviceIndex(0))).unwrap();
    // Nothing tells that it waits; where it does not yet, there is less to give up.
    std::thread::sleep(Duration::from_millis(300));
    drop(commands);
    let begin = Instant::now();
    running.stop();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

/// A poll that waits in the inbox waits for the end of the one in hand, which may be as slow as its device.
#[test]
fn a_stop_is_seen_behind_any_number_of_polls() {
    let polls = |devices: u16| (0..devices).map(|device| BusCommand::PollNow(DeviceIndex(device)));
    let same = std::iter::repeat_n(BusCommand::PollNow(DeviceIndex(3)), 100);
    for (commands, kept) in [
        (polls(0).collect::<Vec<_>>(), 0),
        (polls(16).collect(), 16),
        (polls(200).collect(), 200),
        (same.collect(), 1),
        (polls(5).chain(polls(5)).collect(), 5),
    ] {
        let (mut ground, mut inbox) = (Deaf::default(), Inbox::default());
        ground.commands.extend(&commands);
        assert!(!inbox.look(&mut ground), "{commands:?}");
        ground.commands.extend(&commands);
        ground.commands.push_back(BusCommand::Stop);
        assert!(inbox.look(&mut ground), "{commands:?}");
        let taken: Vec<BusCommand> = std::iter::from_fn(|| inbox.take(&mut ground)).collect();
        assert_eq!(taken.last(), Some(&BusCommand::Stop), "{commands:?}");
        assert_eq!(taken.len(), kept + 1, "{commands:?}");
    }
}
