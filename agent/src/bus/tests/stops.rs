//! A bus that is to stop: it is noticed whatever is waited for, and whatever else was asked for before.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::super::line::{Ask, ExchangeError, Line};
use super::super::patience::{Inbox, Patience};
use super::*;
use crate::clock::Mono;
use crate::modbus::UnitId;
use crate::modbus::pdu::Request;

const MS: u64 = 1_000_000;

/// A line on which nothing ever comes, and commands that have been given.
#[derive(Default)]
struct Deaf {
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
        self.now = self.now.max(until);
        Ok(false)
    }

    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
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

/// Register 10 of unit 7 was asked for in vain; register 300 may not be asked for before that answer can no longer come.
#[test]
fn a_stop_is_noticed_while_a_late_answer_is_waited_out() {
    let timeout = Duration::from_secs(3);
    for link in [serial_bus(Path::new("none"), vec![]).link, tcp_bus(1, TcpFraming::Rtu, vec![]).link] {
        let (mut ground, mut inbox, mut line) = (Deaf::default(), Inbox::default(), Line::new(&link));
        line.open(&mut ground).unwrap();
        let mut exchange = |ground: &mut Deaf, address| {
            let request = Request::read(RegisterTable::HoldingRegister, address, 1).unwrap();
            let (unit, turnaround) = (UnitId(7), Duration::ZERO);
            let mut port = Patience::new(ground, &mut inbox);
            let ask = Ask { unit, request: &request, timeout, turnaround, is_retry: false };
            (line.exchange(&mut port, &ask), port.is_over)
        };
        let (first, is_over) = exchange(&mut ground, 10);
        assert!(matches!(first, Err(ExchangeError::TimedOut)) && !is_over, "{link}: {first:?}");

        ground.commands.push_back(BusCommand::Stop);
        let begin = ground.now;
        let (second, is_over) = exchange(&mut ground, 300);
        let took = Duration::from_nanos(ground.now.since_ns(begin));
        assert!(matches!(second, Err(ExchangeError::Lost(_))) && is_over, "{link}: {second:?}, {took:?}");
        assert!(took <= STOP_PATIENCE, "{link}: {took:?}");
    }
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
